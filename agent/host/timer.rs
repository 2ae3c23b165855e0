//! A timer of the kernel's: one wake-up however long it waits, and suspend counts. It knows nothing of what is due.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
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
    pub fn new() -> io::Result<Timer> {
        Ok(Timer(create(TimerfdClockId::Boottime)?))
    }

    /// Waits for so long. Safe to cancel; one wait at a time.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn wait(&self, delay: Duration) -> io::Result<()> {
        arm(&self.0, TimerfdTimerFlags::empty(), delay)?;
        Ok(due(&self.0).await?)
    }
}

/// A timer that goes by the clock on the wall, wherever that is set to. It does not wake the host from suspend either.
#[derive(Debug)]
pub struct WallTimer(AsyncFd<OwnedFd>);

/// Why a wait by the clock on the wall is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The clock has come to the time.
    Due,
    /// The clock was set, or the host has slept: what is due when may be another matter now.
    ClockSet,
}

impl WallTimer {
    /// Makes a timer. To be called where it can register with a runtime.
    ///
    /// # Errors
    /// If the kernel gives none.
    pub fn new() -> io::Result<WallTimer> {
        Ok(WallTimer(create(TimerfdClockId::Realtime)?))
    }

    /// Waits until the clock shows `time`, since 1970, or is set. Safe to cancel; one wait at a time.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn wait_until(&self, time: Duration) -> io::Result<Woken> {
        // The kernel tells that the clock was set (timerfd_create(2)): no wake-ups in between to look at it.
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        let woken = match arm(&self.0, flags, time) {
            Ok(()) => due(&self.0).await,
            Err(error) => Err(error),
        };
        match woken {
            Ok(()) => Ok(Woken::Due),
            Err(Errno::CANCELED) => Ok(Woken::ClockSet),
            Err(error) => Err(error.into()),
        }
    }
}

#[expect(
    deprecated,
    reason = "its replacement is `unsafe`; an `OwnedFd` that stays inside is what both ask for"
)]
fn create(clock: TimerfdClockId) -> io::Result<AsyncFd<OwnedFd>> {
    let timer = timerfd_create(clock, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    AsyncFd::with_interest(timer, Interest::READABLE)
}

fn arm(timer: &AsyncFd<OwnedFd>, flags: TimerfdTimerFlags, time: Duration) -> Result<(), Errno> {
    let once = Timespec { tv_sec: 0, tv_nsec: 0 };
    // None at all would turn the timer off.
    let time = Timespec::try_from(time.max(Duration::from_nanos(1))).map_err(|_| Errno::INVAL)?;
    timerfd_settime(timer.get_ref(), flags, &Itimerspec { it_interval: once, it_value: time }).map(drop)
}

/// Waits for the timer that was armed last.
async fn due(timer: &AsyncFd<OwnedFd>) -> Result<(), Errno> {
    loop {
        let mut ready = timer.readable().await.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        // How often it was due. Where it was not, what is ready is left from an earlier wait.
        let mut count = [0; 8];
        let read = rustix::io::read(timer.get_ref(), &mut count);
        ready.clear_ready();
        match read {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other.map(drop),
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

    #[test]
    fn a_time_on_the_wall_is_waited_for_and_none_that_has_passed() {
        run(async {
            let timer = WallTimer::new().unwrap();
            let now = || Duration::from_millis(u64::try_from(unix_ms()).unwrap());
            let due = now() + SHORT;
            assert_eq!(timer.wait_until(due).await.unwrap(), Woken::Due);
            assert!(now() >= due);
            assert_eq!(timer.wait_until(due).await.unwrap(), Woken::Due);
            assert_eq!(timer.wait_until(Duration::ZERO).await.unwrap(), Woken::Due);
            tokio::time::timeout(SHORT, timer.wait_until(now() + LONG)).await.unwrap_err();
        });
    }

    fn unix_ms() -> i64 {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        now.tv_sec * 1000 + now.tv_nsec / 1_000_000
    }

    /// Sets the clock to what it shows already, which the kernel takes for a step.
    #[test]
    fn a_clock_that_is_set_ends_the_wait() {
        use rustix::time::{ClockId, clock_gettime, clock_settime};
        let set = || clock_settime(ClockId::Realtime, clock_gettime(ClockId::Realtime));
        if set() == Err(Errno::PERM) {
            // Only root on a real host may.
            return;
        }
        run(async {
            let timer = WallTimer::new().unwrap();
            let far = Duration::from_millis(u64::try_from(unix_ms()).unwrap()) + LONG;
            for _ in 0..2 {
                let mut wait = pin!(timer.wait_until(far));
                let waits = poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx).is_pending())).await;
                assert!(waits);
                set().unwrap();
                let woken = tokio::time::timeout(Duration::from_secs(5), wait).await.unwrap().unwrap();
                assert_eq!(woken, Woken::ClockSet);
            }
            tokio::time::timeout(SHORT, timer.wait_until(far)).await.unwrap_err();
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
