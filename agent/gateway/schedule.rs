//! When the next poll of one remote is due: at even intervals or by the calendar, and after a failure by its backoff. What
//! is decided about that is decided in `plan`; here it meets the clocks.

use std::time::Duration;

use tokio::time::Instant;

use crate::host::clock;
use crate::host::timer::{WallTimer, Woken};
use crate::model::Calendar;
use crate::plan::backoff::{self, Last};
use crate::plan::calendar;
use crate::repo::net::Net;
use crate::wire::Source;

/// What a remote that is polled by the calendar takes for its interval where it refuses the host: a calendar may be as
/// dense as it likes, and would get the host locked out.
const REFUSED_INTERVAL: Duration = Duration::from_secs(60);

/// Where the kernel gives no timer for the clock on the wall, it is looked at so often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What decides when the next poll is due.
#[derive(Debug)]
pub(super) struct Schedule {
    rule: Rule,
    /// When the last poll began, and ended, by the clock on the wall.
    began: u64,
    ended: u64,
    polled: Instant,
    last: Last,
    random: u64,
}

#[derive(Debug)]
enum Rule {
    Every(Duration),
    Calendar(Calendar),
}

/// When a poll is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    At(Instant),
    /// When the clock on the wall shows this time, since 1970.
    Wall(Duration),
    Never,
}

impl Schedule {
    /// Takes down a poll that began at `began`, unix seconds, and has ended now.
    pub(super) fn after_poll(source: &Source, began: u64, last: Last) -> Schedule {
        let every = || Rule::Every(Duration::from_millis(source.interval_ms));
        Schedule {
            rule: source.calendar.clone().map_or_else(every, Rule::Calendar),
            began,
            ended: clock::unix_secs(),
            polled: Instant::now(),
            last,
            random: fastrand::u64(..),
        }
    }

    /// Returns when the next poll is due by schedule, with `calm` as the interval while hints are connected. A remote that
    /// does not answer is asked as often as without them, and a calendar knows nothing of them.
    pub(super) fn due(&self, calm: Option<Duration>) -> Due {
        match &self.rule {
            Rule::Every(interval) => {
                let calm = calm.filter(|_| self.last == Last::Answered);
                let interval = calm.map_or(*interval, |calm| calm.max(*interval));
                Due::At(self.polled + backoff::next_poll(interval, self.last, self.random))
            }
            Rule::Calendar(calendar) => self.due_by(calendar),
        }
    }

    fn due_by(&self, calendar: &Calendar) -> Due {
        let now = clock::unix_secs();
        let after = match self.last {
            Last::Passing { .. } => {
                return Due::At(self.polled + backoff::next_poll(Duration::ZERO, self.last, self.random));
            }
            // What fell due while the poll was under way, or while the host slept, is due now. A clock that was set back
            // meanwhile shows an earlier time at the end.
            Last::Answered => self.began.min(self.ended),
            Last::Standing { .. } => {
                let pause = backoff::next_poll(REFUSED_INTERVAL, self.last, self.random);
                self.ended + pause.as_secs()
            }
        };
        // A clock that was set back may come to an earlier moment before it is as late as it was.
        let after = if now < self.ended { now } else { after };
        // An unknown zone is refused by `config check`; whoever named it here means a clock on a wall.
        let zone = clock::zone_of(&calendar.zone).unwrap_or_else(clock::zone);
        let poll = calendar::next_poll(calendar, after, &zone, self.random);
        poll.map_or(Due::Never, |poll| Due::Wall(Duration::from_secs(poll.moment) + poll.splay))
    }
}

impl Due {
    /// Waits on the loop of `net` until it is due; [`Woken::ClockSet`]: to be asked for again. Safe to cancel.
    pub(super) async fn wait(self, net: &Net, wall: Option<&WallTimer>) -> Woken {
        match self {
            Due::At(due) => {
                net.sleep_until(due).await;
                Woken::Due
            }
            Due::Wall(time) => {
                if let Some(wall) = wall
                    && let Ok(woken) = wall.wait_until(time).await
                {
                    return woken;
                }
                net.sleep_until(Instant::now() + LOOK_AGAIN).await;
                if clock::unix_secs() > time.as_secs() { Woken::Due } else { Woken::ClockSet }
            }
            Due::Never => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANDOM: u64 = 1 << 63;

    /// A poll of a remote with `calendar` that took from 9 s to 2 s before now.
    fn schedule(calendar: &str, last: Last) -> Schedule {
        let now = clock::unix_secs();
        Schedule {
            rule: Rule::Calendar(calendar.parse().unwrap()),
            began: now - 9,
            ended: now - 2,
            polled: Instant::now(),
            last,
            random: RANDOM,
        }
    }

    fn wall(due: Due) -> u64 {
        match due {
            Due::Wall(time) => time.as_secs(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_moment_that_passed_during_the_poll_is_due_at_once() {
        let schedule = schedule("*:*:* UTC", Last::Answered);
        assert_eq!(wall(schedule.due(None)), schedule.began + 1);
    }

    #[test]
    fn hints_change_nothing_about_a_calendar() {
        let schedule = schedule("hourly UTC", Last::Answered);
        let due = schedule.due(None);
        assert_eq!(schedule.due(Some(Duration::from_secs(1))), due);
        let hour = (schedule.began / 3600 + 1) * 3600;
        assert!((hour..hour + 60).contains(&wall(due)), "{due:?}");
    }

    #[test]
    fn a_clock_that_was_set_back_is_followed() {
        let mut schedule = schedule("*:*:* UTC", Last::Answered);
        let now = clock::unix_secs();
        (schedule.began, schedule.ended) = (now + 86_400, now + 86_400);
        assert!(wall(schedule.due(None)) <= now + 2, "not a day later");
        schedule.ended = now;
        assert!(wall(schedule.due(None)) <= now + 2, "nor where it was set back during the poll");
    }

    #[test]
    fn failures_are_retried_as_at_even_intervals_and_a_refusal_waits() {
        let passing = schedule("yearly", Last::Passing { count: 1 });
        let Due::At(at) = passing.due(None) else { panic!("{passing:?}") };
        assert!(at <= passing.polled + Duration::from_secs(1));
        let refused = schedule("*:*:* UTC", Last::Standing { count: 1 });
        let pause = wall(refused.due(None)) - refused.ended;
        assert!((60..=122).contains(&pause), "{pause} s");
        let never = schedule("2020-01-01", Last::Answered);
        assert_eq!(never.due(None), Due::Never);
    }
}
