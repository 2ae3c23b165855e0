//! How long to wait: before a remote is polled again, and before a target is tried again that the host was rolled back
//! from. Pure arithmetic over how often it failed, and a random number where a fleet must not march in step.

use std::time::Duration;

use crate::model::Cause;

/// Polls are spread by this many percent of the interval, either way, so that a fleet does not march in step.
const SPREAD_PERCENT: u32 = 10;
/// No two polls by schedule are closer together than this.
const DELAY_MIN: Duration = Duration::from_millis(100);
/// The first retry after a passing failure comes within this time; each further one within twice the last.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Retries after passing failures are at most this far apart, or one interval if that is longer.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Failures that only a person can mend add at most this much to the interval.
const STANDING_MAX: Duration = Duration::from_secs(15 * 60);
/// Doubling stops here; every maximum above is reached long before.
const DOUBLINGS_MAX: u32 = 16;

/// Seconds before a target is tried again after the first rollback for a reason that may pass.
const ROLLBACK_FIRST_SECS: u64 = 10 * 60;
/// Seconds before the one other try after a rollback that only checks across the network asked for.
const NETWORK_SECS: u64 = 30 * 60;
/// No target waits longer than so many seconds for such a reason.
const ROLLBACK_MAX_SECS: u64 = 6 * 3600;

/// Seconds before a target is tried again whose switch was killed.
const INTERRUPTED_FIRST_SECS: u64 = 60;

/// Doubled each time, up to 6 h. No jitter: the remote that could not be reached is one of many things such a try needs.
fn after_rollback_secs(first: u64, count: u32) -> u64 {
    let doublings = count.saturating_sub(1).min(DOUBLINGS_MAX);
    (first << doublings).min(ROLLBACK_MAX_SECS)
}

/// Returns how many seconds to wait before a target is tried again, after the `count`-th rollback for this cause.
pub fn after_setback_secs(cause: Cause, count: u32) -> u64 {
    match cause {
        Cause::UpdatePath | Cause::Environment => after_rollback_secs(ROLLBACK_FIRST_SECS, count),
        Cause::Interrupted => after_rollback_secs(INTERRUPTED_FIRST_SECS, count),
        Cause::Network => NETWORK_SECS,
    }
}

/// How the last poll of a remote ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// It was answered.
    Answered,
    /// It failed in a way that may mend itself (network, server), for the `count`th time in a row.
    Passing {
        /// Failures in a row, from 1.
        count: u32,
    },
    /// It failed in a way that stays until somebody acts (credentials, certificate, address), `count` times in a row.
    /// Asking more often than the interval would only get the host locked out.
    Standing {
        /// Failures in a row, from 1.
        count: u32,
    },
}

/// Returns how long to wait before the next poll; `random` is uniform over all `u64`.
///
/// Passing failures use exponential backoff with full jitter (any time between none and the bound), which
/// spreads a fleet best when its server comes back.
pub fn next_poll(interval: Duration, last: Last, random: u64) -> Duration {
    let delay = match last {
        Last::Answered => {
            let spread = interval * SPREAD_PERCENT / 100;
            interval - spread + part(2 * spread, random)
        }
        Last::Passing { count } => part(doubled(RETRY_FIRST, count).min(RETRY_MAX.max(interval)), random),
        Last::Standing { count } => interval + part(doubled(interval, count).min(STANDING_MAX), random),
    };
    delay.max(DELAY_MIN)
}

/// Returns `first` doubled for every failure after the first.
fn doubled(first: Duration, count: u32) -> Duration {
    first.saturating_mul(1 << count.saturating_sub(1).min(DOUBLINGS_MAX))
}

/// Returns the part of `whole` that `random` is of all `u64`, in whole milliseconds.
pub fn part(whole: Duration, random: u64) -> Duration {
    let millis = (whole.as_millis().min(u128::from(u64::MAX)) * u128::from(random)) >> 64;
    Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HALF: u64 = 1 << 63;
    const MINUTE: Duration = Duration::from_secs(60);

    fn check(interval: Duration, last: Last, random: u64, millis: u64) {
        assert_eq!(
            next_poll(interval, last, random),
            Duration::from_millis(millis),
            "{interval:?} {last:?} {random}"
        );
    }

    #[test]
    fn delays_follow_the_table() {
        check(MINUTE, Last::Answered, 0, 54_000);
        check(MINUTE, Last::Answered, HALF, 60_000);
        check(MINUTE, Last::Answered, u64::MAX, 65_999);
        check(MINUTE, Last::Passing { count: 1 }, 0, 100);
        check(MINUTE, Last::Passing { count: 1 }, HALF, 500);
        check(MINUTE, Last::Passing { count: 4 }, HALF, 4_000);
        check(MINUTE, Last::Passing { count: 7 }, HALF, 30_000);
        check(MINUTE, Last::Passing { count: u32::MAX }, HALF, 30_000);
        check(10 * MINUTE, Last::Passing { count: 40 }, HALF, 300_000);
        check(MINUTE, Last::Standing { count: 1 }, 0, 60_000);
        check(MINUTE, Last::Standing { count: 2 }, HALF, 120_000);
        check(MINUTE, Last::Standing { count: 99 }, HALF, 60_000 + 450_000);
        check(Duration::ZERO, Last::Answered, 0, 100);
    }

    #[test]
    fn a_target_waits_longer_and_longer() {
        let minutes = |cause| [1, 2, 3, 5, 6, 7, u32::MAX].map(|count| after_setback_secs(cause, count) / 60);
        assert_eq!(minutes(Cause::UpdatePath), [10, 20, 40, 160, 320, 360, 360]);
        assert_eq!(minutes(Cause::Interrupted), [1, 2, 4, 16, 32, 64, 360]);
    }

    proptest! {
        #[test]
        fn no_delay_leaves_its_bounds(secs in 0u64..1_000_000, count: u32, random: u64) {
            let interval = Duration::from_secs(secs);
            let answered = next_poll(interval, Last::Answered, random);
            prop_assert!(answered >= DELAY_MIN && answered <= interval * 11 / 10 + DELAY_MIN);
            let passing = next_poll(interval, Last::Passing { count }, random);
            prop_assert!(passing >= DELAY_MIN && passing <= RETRY_MAX.max(interval));
            let standing = next_poll(interval, Last::Standing { count }, random);
            prop_assert!(standing >= interval && standing <= interval + STANDING_MAX);
        }
    }
}
