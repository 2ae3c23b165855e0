//! The health phase: the new system must be green in one go for the soak time, within the window, and the host must
//! still be updatable from it (`reach.rs`).

use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use super::reach::Reach;
use super::{CheckResult, GUARD_MARGIN, Steps, millis, probe};
use crate::config::{Check, Settings, Severity};
use crate::gateway::link;
use crate::guard;
use crate::host::{clock, facts};
use crate::model::{
    Arbiter, CheckFacts, Class, Decision, Deployment, Happened, Sighting, Stage, Trial, UPDATABLE,
};

/// How often the host itself is looked at between the checks.
const LOOK: Duration = Duration::from_millis(500);
/// The pause between two tries to reach a remote.
const REACH_INTERVAL: Duration = Duration::from_secs(5);
/// Failures to reach one this early after the switch do not count: what the network needs may still be starting.
const REACH_START_PERIOD: Duration = Duration::from_secs(30);
/// So many failures in a row to reach one mean that the host can't be updated any more. More than for other checks,
/// since a remote that is being restarted must not roll back its hosts.
const REACH_FAILURES_MAX: u32 = 6;

/// What a check looks at.
enum Subject {
    /// What the configuration says.
    Configured(Check),
    /// Whether the host can still be updated. Once that was shown it is not tried again: what becomes of a remote later
    /// is not the new system's doing.
    Updatable,
}

impl Subject {
    async fn attempt(&self, steps: &Steps, reach: &Reach<'_>) -> CheckResult {
        match self {
            Subject::Configured(check) => probe::run(check, steps.manager).await,
            Subject::Updatable => reach.attempt().await,
        }
    }
}

/// A check and how it has fared.
struct Watch {
    name: String,
    subject: Rc<Subject>,
    hard: bool,
    interval_ms: u64,
    start_period_ms: u64,
    failures_max: u32,
    /// When it turned green, milliseconds since boot.
    green_since: Option<u64>,
    failures: u32,
    /// When to try it next; `None`: it is being tried, or needs no other try.
    next_at: Option<u64>,
    tried: bool,
    last: String,
}

impl Watch {
    fn new(name: &str, subject: Subject, trial: &Trial) -> Watch {
        let (hard, interval, start_period, failures_max) = match &subject {
            Subject::Configured(c) => {
                (c.severity == Severity::Hard, c.interval.0, c.start_period.0, c.failure_threshold)
            }
            Subject::Updatable => (true, REACH_INTERVAL, REACH_START_PERIOD, REACH_FAILURES_MAX),
        };
        Watch {
            name: name.to_owned(),
            subject: Rc::new(subject),
            // What was red before the switch can't speak against the new system.
            hard: hard && !trial.red_before.iter().any(|red| red == name),
            interval_ms: millis(interval),
            start_period_ms: millis(start_period),
            failures_max,
            green_since: None,
            failures: 0,
            next_at: Some(0),
            tried: false,
            last: "it was not tried yet".to_owned(),
        }
    }

    /// Takes note of one try.
    fn learn(&mut self, result: CheckResult, began: u64, now: u64) {
        self.tried = true;
        let enough = result.ok && matches!(*self.subject, Subject::Updatable);
        self.next_at = (!enough).then_some(now + self.interval_ms);
        if result.ok {
            self.green_since.get_or_insert(now);
            (self.failures, self.last) = (0, String::new());
            return;
        }
        self.green_since = None;
        self.last = result.text;
        let starting = now.saturating_sub(began) < self.start_period_ms;
        if !result.not_yet && !starting {
            self.failures += 1;
        }
    }

    fn facts(&self) -> CheckFacts {
        CheckFacts {
            name: self.name.clone(),
            hard: self.hard,
            green: self.tried.then_some(self.green_since.is_some()),
            failures: self.failures,
            failures_max: self.failures_max,
            text: self.last.clone(),
        }
    }
}

/// What the phase came to, or may yet.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
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
struct Times {
    began: u64,
    over: u64,
    soak: u64,
}

impl Steps {
    pub(super) async fn check_health(&self, d: &Deployment) -> Happened {
        let Stage::Probation { trial, .. } = &d.stage else {
            return self.decide(d, &roll_back("it has no plan".to_owned(), Class::Target), vec![]);
        };
        let new = match self.configuration_of(&d.toplevel) {
            Ok(new) => new,
            Err(failure) => return self.decide(d, &roll_back(failure.text, Class::Target), vec![]),
        };
        let mut watches = watches(new.as_ref(), trial);
        // From now on the new system's remotes count, even if the agent is the old one.
        self.link.watch(link::sources(new.as_ref().unwrap_or(&self.settings))).await;
        let remotes = new.iter().flat_map(|new| new.remotes.iter().map(|r| r.name.clone())).collect();
        let reach = self.reach(&d.desired.tip.revision, remotes);
        let verdict = self.watch(d, trial, &mut watches, &reach).await;
        self.link.watch(link::sources(&self.settings)).await;
        match verdict {
            Verdict::Healthy => self.decide(d, &Decision::Confirm, soft_failures(&watches)),
            Verdict::Unhealthy { reason, failures, class } => {
                self.decide(d, &roll_back(reason, class), failures)
            }
            Verdict::Superseded => self.decide(d, &Decision::Superseded, vec![]),
            Verdict::Decided(decision) => self.decide(d, &decision, failures(&watches)),
        }
    }

    async fn watch(
        &self,
        d: &Deployment,
        trial: &Trial,
        watches: &mut [Watch],
        reach: &Reach<'_>,
    ) -> Verdict {
        let times = Times {
            began: clock::boottime_ms(),
            over: trial.deadline_boottime_ms.saturating_sub(millis(GUARD_MARGIN)),
            soak: millis(self.settings.activation.soak.0),
        };
        let pause = LOOK.min(Duration::from_millis(times.soak.max(50)));
        // Each on its own: one that takes its time holds up no other.
        let mut tries = FuturesUnordered::new();
        loop {
            let now = clock::boottime_ms();
            for (n, w) in
                watches.iter_mut().enumerate().filter(|(_, w)| w.next_at.is_some_and(|at| at <= now))
            {
                w.next_at = None;
                let subject = w.subject.clone();
                tries.push(async move { (n, subject.attempt(self, reach).await) });
            }
            tokio::select! {
                Some((n, result)) = tries.next() => {
                    watches[n].learn(result, times.began, clock::boottime_ms());
                    let checks = watches.iter().map(Watch::facts).collect();
                    drop(self.tell.try_send(Sighting::Checked { id: d.id.clone(), checks }));
                }
                () = tokio::time::sleep(pause) => {}
            }
            let verdict = self.disturbed(d, trial).or_else(|| judge(watches, times, clock::boottime_ms()));
            if let Some(verdict) = verdict {
                return verdict;
            }
        }
    }

    /// Looks whether the host still runs what is being tried, undecided.
    fn disturbed(&self, d: &Deployment, trial: &Trial) -> Option<Verdict> {
        if let Ok(Some(decision)) = guard::read_decision(&self.guard_dir(&d.id)) {
            return Some(Verdict::Decided(decision));
        }
        let known = [trial.old.clone(), d.toplevel.clone()];
        let facts = facts::observe_knowing(&self.host, &known).ok()?;
        match facts.running {
            Some(running) if running == d.toplevel || facts.etc.as_ref() == Some(&d.toplevel) => None,
            Some(running) if running == trial.old => {
                // An operator went back by hand; there is nothing left to try.
                let reason = "somebody switched back to the old system".to_owned();
                Some(Verdict::Unhealthy { reason, failures: vec![], class: Class::Target })
            }
            Some(_) => Some(Verdict::Superseded),
            None => None,
        }
    }
}

/// Returns the configured checks, and the one that is built in. A system without pullagent is not to be updated.
fn watches(new: Option<&Settings>, trial: &Trial) -> Vec<Watch> {
    let Some(new) = new else { return vec![] };
    let configured =
        |(name, check): (&String, &Check)| Watch::new(name, Subject::Configured(check.clone()), trial);
    let updatable = Watch::new(UPDATABLE, Subject::Updatable, trial);
    new.health.checks.iter().map(configured).chain([updatable]).collect()
}

/// Says what the checks have come to by `now`, if they have.
fn judge(watches: &[Watch], times: Times, now: u64) -> Option<Verdict> {
    let unhealthy = |reason, class| Some(Verdict::Unhealthy { reason, failures: failures(watches), class });
    if let Some(w) = watches.iter().find(|w| w.hard && w.failures >= w.failures_max) {
        let reason = format!("check '{}' failed {} times in a row: {}", w.name, w.failures, w.last);
        return unhealthy(reason, blame(watches, |w| w.failures > 0));
    }
    let green_since = |w: &Watch| if w.hard { w.green_since } else { Some(times.began) };
    let since = watches.iter().map(green_since).try_fold(times.began, |latest, s| s.map(|s| s.max(latest)));
    if since.is_some_and(|since| now.saturating_sub(since) >= times.soak) {
        return Some(Verdict::Healthy);
    }
    if now < times.over {
        return None;
    }
    match watches.iter().find(|w| w.hard && w.green_since.is_none()) {
        Some(w) => unhealthy(
            format!("check '{}' was not green when the time was over: {}", w.name, w.last),
            blame(watches, |w| w.green_since.is_none()),
        ),
        None => unhealthy("the checks were not green for long enough in one go".to_owned(), Class::Target),
    }
}

/// Tells whether the new system is to blame. It is not if nothing but the way to the remotes is `bad`: that may lie with
/// them, or with the network between.
fn blame(watches: &[Watch], bad: impl Fn(&Watch) -> bool) -> Class {
    let only_updatable = watches.iter().filter(|w| w.hard && bad(w)).all(|w| w.name == UPDATABLE);
    if only_updatable { Class::Transient } else { Class::Target }
}

fn failures(watches: &[Watch]) -> Vec<String> {
    watches.iter().filter(|w| w.green_since.is_none()).map(|w| format!("{}: {}", w.name, w.last)).collect()
}

fn soft_failures(watches: &[Watch]) -> Vec<String> {
    let soft = watches.iter().filter(|w| !w.hard && w.green_since.is_none());
    soft.map(|w| format!("{} (soft): {}", w.name, w.last)).collect()
}

fn roll_back(reason: String, class: Class) -> Decision {
    Decision::RollBack { reason, by: Arbiter::Agent, class }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times { began: 0, over: 300_000, soak: 60_000 };

    /// Checks `web` and `updatable` as a table of tries: `+` green, `-` red, `?` not yet, one every five seconds.
    fn run(web: &str, updatable: &str, red_before: &[&str]) -> Vec<Watch> {
        let check = serde_json::from_value(serde_json::json!({ "http": "http://127.0.0.1/" })).unwrap();
        let red_before = red_before.iter().map(|&name| name.to_owned()).collect();
        let path = "/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-old".parse().unwrap();
        let trial = Trial { old: path, boot_id: String::new(), deadline_boottime_ms: 0, red_before };
        let mut watches = vec![
            Watch::new("web", Subject::Configured(check), &trial),
            Watch::new(UPDATABLE, Subject::Updatable, &trial),
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
