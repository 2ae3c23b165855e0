//! How the checks of a health phase fare, and what that comes to. It looks at nothing itself.

use std::time::Duration;

use crate::config::{Check, Severity};
use crate::model::{CheckFacts, Class, Decision, Trial, UPDATABLE};
use crate::steps::{CheckResult, millis};

/// How a check is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// Whether a failure rolls back.
    pub hard: bool,
    /// The pause between two tries.
    pub interval: Duration,
    /// Failures this early do not count.
    pub start_period: Duration,
    /// How many successes in a row make it green.
    pub successes_min: u32,
    /// How many failures in a row mean unhealthy.
    pub failures_max: u32,
    /// Whether one success is enough for good: what becomes of a remote later is not the new system's doing.
    pub once: bool,
}

impl Terms {
    /// Returns what the configuration says of a check.
    pub fn of(check: &Check) -> Terms {
        Terms {
            hard: check.severity == Severity::Hard,
            interval: check.interval.0,
            start_period: check.start_period.0,
            successes_min: check.success_threshold,
            failures_max: check.failure_threshold,
            once: false,
        }
    }
}

/// A check and how it has fared.
#[derive(Debug)]
pub(super) struct Watch {
    pub name: String,
    terms: Terms,
    /// When it turned green, milliseconds since boot.
    green_since: Option<u64>,
    successes: u32,
    failures: u32,
    /// When to try it next; `None`: it is being tried, or needs no other try.
    pub next_at: Option<u64>,
    tried: bool,
    last: String,
}

impl Watch {
    pub fn new(name: &str, terms: Terms, trial: &Trial) -> Watch {
        // What was red before the switch can't speak against the new system.
        let hard = terms.hard && !trial.red_before.iter().any(|red| red == name);
        Watch::on_its_own(name, Terms { hard, ..terms })
    }

    /// The same outside of a probation.
    pub fn on_its_own(name: &str, terms: Terms) -> Watch {
        Watch {
            name: name.to_owned(),
            terms,
            green_since: None,
            successes: 0,
            failures: 0,
            next_at: Some(0),
            tried: false,
            last: "it was not tried yet".to_owned(),
        }
    }

    /// Tells whether it is to be tried.
    pub fn is_due(&self, now: u64) -> bool {
        self.next_at.is_some_and(|at| at <= now)
    }

    /// Takes note of one try.
    pub fn learn(&mut self, result: CheckResult, began: u64, now: u64) {
        self.tried = true;
        let enough = result.ok && self.terms.once;
        self.next_at = (!enough).then_some(now + millis(self.terms.interval));
        if result.ok {
            self.successes += 1;
            if self.successes >= self.terms.successes_min {
                self.green_since.get_or_insert(now);
            }
            (self.failures, self.last) = (0, String::new());
            return;
        }
        (self.green_since, self.successes) = (None, 0);
        self.last = result.text;
        let starting = now.saturating_sub(began) < millis(self.terms.start_period);
        if !result.not_yet && !starting {
            self.failures += 1;
        }
    }

    /// Tells whether it fails now, as far as that counts.
    pub fn is_red(&self) -> bool {
        self.failures > 0
    }

    /// Tells whether it is green now.
    pub fn is_green(&self) -> bool {
        self.green_since.is_some()
    }

    /// Tells whether it failed too often.
    pub fn is_given_up(&self) -> bool {
        self.failures >= self.terms.failures_max
    }

    /// Tells whether its failure rolls back.
    pub fn is_hard(&self) -> bool {
        self.terms.hard
    }

    pub fn facts(&self) -> CheckFacts {
        CheckFacts {
            name: self.name.clone(),
            hard: self.terms.hard,
            green: self.tried.then_some(self.green_since.is_some()),
            failures: self.failures,
            failures_max: self.terms.failures_max,
            text: self.last.clone(),
        }
    }
}

/// What the phase came to, or may yet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Healthy,
    Unhealthy {
        reason: String,
        failures: Vec<String>,
        class: Class,
    },
    Superseded,
    /// Somebody, the guard most likely, decided already.
    Decided(Decision),
}

/// The times of a phase, in milliseconds; moments count from boot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub began: u64,
    pub over: u64,
    pub soak: u64,
}

/// Says what the checks have come to by `now`, if they have.
pub(super) fn judge(watches: &[Watch], times: Times, now: u64) -> Option<Verdict> {
    let unhealthy = |reason, class| Some(Verdict::Unhealthy { reason, failures: failures(watches), class });
    if let Some(verdict) = given_up(watches) {
        return Some(verdict);
    }
    let green_since = |w: &Watch| if w.terms.hard { w.green_since } else { Some(times.began) };
    let since = watches.iter().map(green_since).try_fold(times.began, |latest, s| s.map(|s| s.max(latest)));
    if since.is_some_and(|since| now.saturating_sub(since) >= times.soak) {
        return Some(Verdict::Healthy);
    }
    if now < times.over {
        return None;
    }
    match watches.iter().find(|w| w.terms.hard && w.green_since.is_none()) {
        Some(w) => unhealthy(
            format!("check '{}' was not green when the time was over: {}", w.name, w.last),
            blame(watches, |w| w.green_since.is_none()),
        ),
        None => unhealthy("the checks were not green for long enough in one go".to_owned(), Class::Target),
    }
}

/// Says what the checks of a system that proved healthy have come to by `now`, while somebody's word is waited for.
pub(super) fn judge_waiting(watches: &[Watch], until: u64, now: u64) -> Option<Verdict> {
    let late = || {
        let reason = "it proved healthy, and nobody confirmed it in time".to_owned();
        Verdict::Unhealthy { reason, failures: vec![], class: Class::Target }
    };
    given_up(watches).or_else(|| (now >= until).then(late))
}

/// Returns the verdict if a check failed too often.
fn given_up(watches: &[Watch]) -> Option<Verdict> {
    let w = watches.iter().find(|w| w.is_hard() && w.is_given_up())?;
    let reason = format!("check '{}' failed {} times in a row: {}", w.name, w.failures, w.last);
    let class = blame(watches, Watch::is_red);
    Some(Verdict::Unhealthy { reason, failures: failures(watches), class })
}

/// Tells whether the new system is to blame. It is not if nothing but the way to the remotes is `bad`: that may lie with
/// them, or with the network between.
fn blame(watches: &[Watch], bad: impl Fn(&Watch) -> bool) -> Class {
    let only_updatable = watches.iter().filter(|w| w.terms.hard && bad(w)).all(|w| w.name == UPDATABLE);
    if only_updatable { Class::Transient } else { Class::Target }
}

pub(super) fn failures(watches: &[Watch]) -> Vec<String> {
    watches.iter().filter(|w| w.green_since.is_none()).map(|w| format!("{}: {}", w.name, w.last)).collect()
}

pub(super) fn soft_failures(watches: &[Watch]) -> Vec<String> {
    let soft = watches.iter().filter(|w| !w.terms.hard && w.green_since.is_none());
    soft.map(|w| format!("{} (soft): {}", w.name, w.last)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { began: 0, over: 300_000, soak: 60_000 };

    /// Checks `web` and `updatable` as a table of tries: `+` green, `-` red, `?` not yet, one every five seconds.
    fn run(web: &str, updatable: &str, red_before: &[&str]) -> Vec<Watch> {
        let check: Check =
            serde_json::from_value(serde_json::json!({ "http": "http://127.0.0.1/" })).unwrap();
        let red_before = red_before.iter().map(|&name| name.to_owned()).collect();
        let path = "/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-old".parse().unwrap();
        let trial = Trial {
            old: path,
            boot_id: String::new(),
            deadline_boottime_ms: 0,
            red_before,
            reboot: None,
            switch_repeats: 0,
        };
        let mut watches = vec![
            Watch::new("web", Terms::of(&check), &trial),
            Watch::new(UPDATABLE, super::super::UPDATABLE_TERMS, &trial),
        ];
        for (w, tries) in watches.iter_mut().zip([web, updatable]) {
            for (n, sign) in tries.chars().enumerate() {
                let result = CheckResult {
                    ok: sign == '+',
                    not_yet: sign == '?',
                    broken: false,
                    text: "no".to_owned(),
                };
                w.learn(result, TIMES.began, n as u64 * 5_000);
            }
        }
        watches
    }

    #[test]
    fn the_verdict_and_who_is_to_blame() {
        use Class::{Target, Transient};
        // What `web` and `updatable` said, after how many seconds, the class of the rollback.
        let table = [
            ("-----------", "+", 50, Some(Target)),
            ("+", "------------", 60, Some(Transient)),
            ("+", "-----------", 60, None),
            // Both: then it is more than the way to the remotes.
            ("---------", "------------", 60, Some(Target)),
            ("?", "------------", 60, Some(Transient)),
            ("?", "-", 300, Some(Target)),
            ("+", "-", 300, Some(Transient)),
            ("-", "+", 300, Some(Target)),
        ];
        for (web, updatable, secs, expected) in table {
            let class = match judge(&run(web, updatable, &[]), TIMES, secs * 1000) {
                Some(Verdict::Unhealthy { class, .. }) => Some(class),
                None => None,
                Some(other) => unreachable!("{web} {updatable}: {other:?}"),
            };
            assert_eq!(class, expected, "{web} {updatable} {secs}");
        }
    }

    #[test]
    fn a_way_that_was_closed_before_is_only_reported() {
        let watches = run("+", "------------", &[UPDATABLE]);
        assert_eq!(judge(&watches, TIMES, 60_000), Some(Verdict::Healthy));
        assert_eq!(soft_failures(&watches), ["updatable (soft): no"]);
    }

    #[test]
    fn the_soak_time_begins_when_the_last_check_turned_green() {
        let watches = run("+", "---+", &[]);
        assert_eq!(judge(&watches, TIMES, 74_999), None);
        assert_eq!(judge(&watches, TIMES, 75_000), Some(Verdict::Healthy));
        // One proof is enough: it is not tried again.
        assert_eq!((watches[0].next_at, watches[1].next_at), (Some(5_000), None));
    }
}
