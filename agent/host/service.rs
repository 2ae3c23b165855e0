//! Our own service manager: what it is told, and what it passes to us. Without one, all of this does nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

pub use sd_notify::NotifyState;

/// So many times within its time a watchdog is told that all is well.
const BEATS_PER_WATCHDOG: u32 = 3;

/// Tells the service manager, where there is one.
pub fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager can't be told");
    }
}

/// Tells the watchdog that the loop that calls this turns, then waits until it is to be told again; for ever if there is
/// no watchdog.
pub async fn beat() {
    match sd_notify::watchdog_enabled() {
        Some(within) => {
            notify(&[NotifyState::Watchdog]);
            tokio::time::sleep((within / BEATS_PER_WATCHDOG).max(Duration::from_millis(1))).await;
        }
        None => std::future::pending().await,
    }
}

/// Takes the socket that the service manager passes under `name`; `None` if it passes none. To be called once.
///
/// # Errors
/// If what it passes is not what it says.
pub fn take_socket(name: &str) -> io::Result<Option<OwnedFd>> {
    // Looks whether they are open, and keeps them from our children.
    sd_notify::listen_fds()?.for_each(drop);
    let passed = sd_listen_fds::get().map_err(io::Error::other)?;
    let ours = passed.into_iter().find(|(passed, _)| passed.as_deref() == Some(name));
    Ok(ours.map(|(_, fd)| fd.into_std()))
}
