//! How often: what a source of hints may cost in polls, and how long to leave it alone when it fails. It is told the time
//! and the dice, and knows neither a connection nor a remote.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::plan::backoff::part;

/// Two polls for the hints of one source are at least so far apart.
const GAP: Duration = Duration::from_secs(5);
/// So many polls may come of the hints of one source within [`PERIOD`].
const POLLS_MAX: usize = 10;
/// See [`POLLS_MAX`].
const PERIOD: Duration = Duration::from_secs(60);
/// So many bytes a source may send within [`PERIOD`]; more cost more than they can be worth.
const BYTES_MAX: usize = 1 << 20;

/// The first connection after a failure comes within this time; each further one within twice the last.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// Pauses are spread over at most this.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Doubling stops here; the maximum is reached long before.
const DOUBLINGS_MAX: u32 = 16;
/// What a server asks to be left alone for counts within these.
const ASKED_MIN: Duration = Duration::from_secs(1);
const ASKED_MAX: Duration = Duration::from_secs(300);
/// What lived so long was no failure.
const LIVED: Duration = Duration::from_secs(60);

/// Bounds how many polls hints can cause.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// When polls were made, the last ones only.
    made: VecDeque<Instant>,
}

impl Budget {
    /// Returns when the next poll may be made, which is `now` at the earliest.
    pub(super) fn next(&self, now: Instant) -> Instant {
        let gap = self.made.back().map(|last| *last + GAP);
        let full =
            (self.made.len() >= POLLS_MAX).then(|| self.made.front().map(|first| *first + PERIOD)).flatten();
        [gap, full].into_iter().flatten().fold(now, Instant::max)
    }

    /// Takes note of a poll that was made.
    pub(super) fn spend(&mut self, now: Instant) {
        self.made.push_back(now);
        if self.made.len() > POLLS_MAX {
            self.made.pop_front();
        }
    }
}

/// Bounds how much is read of one connection.
#[derive(Debug)]
pub(super) struct Meter {
    began: Instant,
    bytes: usize,
}

impl Meter {
    pub(super) fn new(now: Instant) -> Meter {
        Meter { began: now, bytes: 0 }
    }

    /// Counts bytes that came. Returns whether they are still within bounds.
    pub(super) fn count(&mut self, bytes: usize, now: Instant) -> bool {
        if now.duration_since(self.began) >= PERIOD {
            *self = Meter::new(now);
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.bytes <= BYTES_MAX
    }
}

/// How long to wait before the next connection.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    /// What the server asked for, in this answer only.
    once: Option<Duration>,
    /// What the server asked for, until it asks for something else.
    always: Option<Duration>,
}

impl Backoff {
    /// Takes note of a connection that ended after `lived`. One that broke a bound never counts as a success.
    pub(super) fn ended(&mut self, lived: Duration, broke_a_bound: bool) {
        let failed = broke_a_bound || lived < LIVED;
        self.failures = if failed { self.failures.saturating_add(1) } else { 1 };
    }

    /// Takes note of an answer that was as it should be.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Keeps what the server asked for before the next connection only.
    pub(super) fn ask_once(&mut self, asked: Option<Duration>) {
        self.once = asked.map(clamped);
    }

    /// Keeps what the server asked for before each connection.
    pub(super) fn ask_always(&mut self, asked: Option<Duration>) {
        self.always = asked.map(clamped).or(self.always);
    }

    /// Returns how long to wait; `random` is uniform over all `u64`. Full jitter spreads a fleet whose server comes back.
    pub(super) fn pause(&mut self, random: u64) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(DOUBLINGS_MAX);
        let spread = PAUSE_FIRST.saturating_mul(1 << doublings).min(PAUSE_MAX);
        let asked = self.once.take().max(self.always).unwrap_or_default();
        asked + part(spread, random)
    }
}

fn clamped(asked: Duration) -> Duration {
    asked.clamp(ASKED_MIN, ASKED_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Rule 8: one poll in 5 s, ten in a minute, however many hints there are.
    #[test]
    fn a_flood_of_hints_gets_its_bounded_share_of_polls() {
        let (began, mut budget) = (Instant::now(), Budget::default());
        let mut polls = Vec::new();
        for tenth in 0..6000 {
            let now = began + tenth * SECOND / 10;
            if budget.next(now) <= now {
                budget.spend(now);
                polls.push(tenth / 10);
            }
        }
        assert_eq!(polls[..12], [0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 60, 65]);
        assert_eq!(polls.len(), 100, "ten a minute");
        assert_eq!(budget.next(began + 700 * SECOND), began + 700 * SECOND);
    }

    /// Rule 2: full jitter from 0.25 s to 60 s; what the server asks for is taken for 1 s to 300 s.
    #[test]
    fn pauses_double_up_to_their_bound_and_keep_what_the_server_asks_for() {
        let mut backoff = Backoff::default();
        let longest = |backoff: &mut Backoff| {
            backoff.ended(SECOND, false);
            backoff.pause(u64::MAX).as_millis()
        };
        let pauses: Vec<u128> = (0..12).map(|_| longest(&mut backoff)).collect();
        assert_eq!(pauses[..4], [249, 499, 999, 1999]);
        assert_eq!(pauses[9..], [59_999; 3]);
        assert_eq!(backoff.pause(0), Duration::ZERO);
        backoff.ended(LIVED, false);
        assert_eq!(backoff.pause(u64::MAX).as_millis(), 249, "it lived for a minute");
        backoff.ended(LIVED, false);
        backoff.ended(LIVED, true);
        assert_eq!(backoff.pause(u64::MAX).as_millis(), 499, "what breaks a bound is no success");
        backoff.ask_once(Some(Duration::ZERO));
        assert_eq!(backoff.pause(0), SECOND);
        assert_eq!(backoff.pause(0), Duration::ZERO, "once");
        backoff.ask_always(Some(1_000_000 * SECOND));
        backoff.ask_always(None);
        assert_eq!((backoff.pause(0), backoff.pause(0)), (300 * SECOND, 300 * SECOND));
        backoff.ask_always(Some(7 * SECOND));
        backoff.ask_once(Some(2 * SECOND));
        assert_eq!(backoff.pause(0), 7 * SECOND, "the longer of two");
    }

    #[test]
    fn a_flood_of_bytes_is_noticed() {
        let began = Instant::now();
        let mut meter = Meter::new(began);
        assert!(meter.count(BYTES_MAX, began));
        assert!(!meter.count(1, began));
        assert!(meter.count(BYTES_MAX, began + PERIOD), "so much a minute is taken for ever");
    }

    proptest! {
        #[test]
        fn hints_at_any_time_stay_within_the_budget(gaps in prop::collection::vec(0u64..20_000, 1..200)) {
            let (mut now, mut budget, mut made) = (Instant::now(), Budget::default(), Vec::new());
            for gap in gaps {
                now += Duration::from_millis(gap);
                let at = budget.next(now);
                budget.spend(at);
                made.push(at);
                now = at;
            }
            for pair in made.windows(2) {
                prop_assert!(pair[1] - pair[0] >= GAP);
            }
            for eleven in made.windows(POLLS_MAX + 1) {
                prop_assert!(eleven[POLLS_MAX] - eleven[0] >= PERIOD);
            }
        }
    }
}
