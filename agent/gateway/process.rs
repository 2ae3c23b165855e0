//! The gateway as a process of its own: connects to the reconciler, serves it, and connects again when it is gone. It
//! ends by SIGTERM only; its service manager is told how it gets on. It is told everything else by the reconciler, but for where
//! to show metrics and who may send to webhooks, which it reads itself: it has to go on with that when the reconciler is gone.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::webhook::{self, Wakes};
use crate::config::{self, Settings};
use crate::host;
use crate::host::service::{self, NotifyState};
use crate::wire;

/// The pause before it connects again; doubled each time that nobody was there.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// No pause is longer. A connection that lasted as long makes the next pause short again.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What systemd calls the socket for webhooks.
const WEBHOOK_SOCKET: &str = "webhook";

/// What the process is told when it is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Where the reconciler listens.
    pub socket: PathBuf,
    /// The configuration, for what the gateway does without the reconciler; `None`: nothing.
    pub config: Option<PathBuf>,
    /// The host lies below this directory.
    pub root: PathBuf,
}

/// Plays the role until SIGTERM or SIGINT.
pub fn main(started: &Started) -> ExitCode {
    // An error only says that some provider is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(live(started))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("the gateway can't run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads what the gateway does without the reconciler. A configuration that can't be read costs that, and nothing else.
fn settings(config: Option<&Path>) -> Option<Settings> {
    match config.map(config::load)? {
        Ok(loaded) => Some(loaded.settings),
        Err(error) => {
            tracing::warn!("no metrics are shown, and no webhooks are heard: {}", host::chain(&error));
            None
        }
    }
}

/// Takes the socket for webhooks, if there is one.
fn webhook_socket() -> Option<OwnedFd> {
    service::take_socket(WEBHOOK_SOCKET).unwrap_or_else(|error| {
        tracing::warn!("the socket that systemd passes for webhooks can't be taken: {error}");
        None
    })
}

async fn live(started: &Started) -> io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "started");
    service::notify(&[NotifyState::Ready]);
    let settings = settings(started.config.as_deref());
    let (socket, wakes) = (webhook_socket(), Arc::new(Wakes::default()));
    let mut served = pin!(serve(&started.socket, &wakes));
    let mut shown = pin!(async {
        match settings.as_ref().and_then(|settings| settings.exporter.clone()) {
            Some(exporter) => super::exporter::run(exporter, started.root.clone()).await,
            None => std::future::pending().await,
        }
    });
    let mut heard = pin!(async {
        match &settings {
            Some(settings) => webhook::run(settings, socket, wakes.clone()).await,
            None => std::future::pending().await,
        }
    });
    loop {
        tokio::select! {
            never = &mut served => match never {},
            never = &mut shown => match never {},
            never = &mut heard => match never {},
            _ = term.recv() => break,
            _ = int.recv() => break,
            () = service::beat() => {}
        }
    }
    tracing::info!("stopping");
    service::notify(&[NotifyState::Stopping]);
    Ok(())
}

/// Serves one reconciler after the other.
async fn serve(socket: &Path, wakes: &Arc<Wakes>) -> Infallible {
    let mut pause = PAUSE_FIRST;
    let mut said = String::new();
    loop {
        let news = match wire::connect(socket) {
            Ok(channel) => {
                say(&mut said, "serving the reconciler");
                let began = Instant::now();
                let ended = super::run(channel, wakes.clone()).await;
                if began.elapsed() >= PAUSE_MAX {
                    pause = PAUSE_FIRST;
                }
                match ended {
                    Ok(()) => "the reconciler is gone".to_owned(),
                    Err(error) => host::chain(&error),
                }
            }
            Err(error) => format!("nobody listens at '{}': {}", socket.display(), host::chain(&error)),
        };
        say(&mut said, &format!("waiting for the reconciler: {news}"));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Tells log and service manager what is new.
fn say(said: &mut String, text: &str) {
    if said != text {
        tracing::info!("{text}");
        service::notify(&[NotifyState::Status(text)]);
        text.clone_into(said);
    }
}
