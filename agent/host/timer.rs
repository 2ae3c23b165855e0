//! A timer of the kernel's: one wake-up however long it waits, and suspend counts. It knows nothing of what is due.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A timer that does not wake the host from suspend, but is due at once where its time has passed meanwhile.
///
/// The timers of the runtime are for short waits: on a long one they wake the thread every now and then, and they stand
/// still while the host is suspended.
#[derive(Debug)]
pub struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    /// Makes a timer. To be called where it can register with a runtime.
    ///
    /// # Errors
    /// If the kernel gives none.
    #[expect(
        deprecated,
        reason = "its replacement is `unsafe`; an `OwnedFd` that stays inside is what both ask for"
    )]
    pub fn new() -> io::Result<Timer> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
        Ok(Timer(AsyncFd::with_interest(timer, Interest::READABLE)?))
    }

    /// Waits for so long. Safe to cancel; one wait at a time.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn wait(&self, delay: Duration) -> io::Result<()> {
        let once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // None at all would turn the timer off.
        let delay = delay.max(Duration::from_nanos(1));
        let value = Timespec::try_from(delay).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        timerfd_settime(
            self.0.get_ref(),
            TimerfdTimerFlags::empty(),
            &Itimerspec { it_interval: once, it_value: value },
        )?;
        loop {
            let mut ready = self.0.readable().await?;
            // How often it was due. Where it was not, what is ready is left from an earlier wait.
            let mut count = [0; 8];
            let read = rustix::io::read(self.0.get_ref(), &mut count);
            ready.clear_ready();
            match read {
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                other => return other.map(drop).map_err(Into::into),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(3600);

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    fn wakeups() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        count.unwrap().trim().parse().unwrap()
    }

    #[test]
    fn it_waits_as_long_as_it_was_told_last() {
        run(async {
            let timer = Timer::new().unwrap();
            for _ in 0..2 {
                let began = tokio::time::Instant::now();
                timer.wait(SHORT).await.unwrap();
                assert!(began.elapsed() >= SHORT);
                timer.wait(Duration::ZERO).await.unwrap();
                tokio::time::timeout(SHORT, timer.wait(LONG)).await.unwrap_err();
            }
            // One that was due while nobody waited is forgotten.
            {
                let mut dropped = pin!(timer.wait(Duration::from_millis(1)));
                let waits = poll_fn(|cx| Poll::Ready(dropped.as_mut().poll(cx).is_pending())).await;
                assert!(waits);
            }
            tokio::time::sleep(SHORT).await;
            tokio::time::timeout(SHORT, timer.wait(LONG)).await.unwrap_err();
        });
    }

    /// The runtime's own timers take several for as long a wait.
    #[test]
    fn a_wait_is_one_wake_up() {
        run(async {
            let timer = Timer::new().unwrap();
            timer.wait(SHORT).await.unwrap();
            let before = wakeups();
            for _ in 0..5 {
                timer.wait(Duration::from_millis(200)).await.unwrap();
            }
            let count = wakeups() - before;
            assert!((5..=7).contains(&count), "{count} wake-ups for 5 waits");
        });
    }
}
