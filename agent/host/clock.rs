//! Owns the clocks: the only file that reads one.

use jiff::tz::TimeZone;
use rustix::time::{ClockId, clock_gettime};

use crate::model::CalendarZone;

/// Returns seconds since 1970 by the wall clock, which may step; 0 before 1970.
pub fn unix_secs() -> u64 {
    u64::try_from(clock_gettime(ClockId::Realtime).tv_sec).unwrap_or(0)
}

/// Returns milliseconds since boot, suspend included (`CLOCK_BOOTTIME`).
///
/// It never steps. It is comparable between processes, but only within one boot.
pub fn boottime_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let secs = u64::try_from(now.tv_sec).unwrap_or(0);
    secs * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Returns milliseconds of `CLOCK_MONOTONIC`, in which systemd counts its timers: since boot, without suspend.
pub fn monotonic_ms() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let secs = u64::try_from(now.tv_sec).unwrap_or(0);
    secs * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Returns the time zone of the host's clock, as `/etc/localtime` has it now; UTC without one.
pub fn zone() -> TimeZone {
    TimeZone::try_system().unwrap_or(TimeZone::UTC)
}

/// Returns the time zone that a calendar goes by; `None`: the host does not know one of that name.
pub fn zone_of(zone: &CalendarZone) -> Option<TimeZone> {
    match zone {
        CalendarZone::Host => Some(self::zone()),
        CalendarZone::Utc => Some(TimeZone::UTC),
        CalendarZone::Named(name) => TimeZone::get(name).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_plausible_and_boottime_does_not_go_back() {
        assert!(unix_secs() > 1_700_000_000);
        let first = boottime_ms();
        assert!(first > 0 && boottime_ms() >= first);
    }
}
