//! The health phase: the new system must be green in one go for the soak time, within the window.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{GUARD_MARGIN, Steps, millis, probe};
use crate::config::{Check, Severity};
use crate::guard;
use crate::host::manager::Manager;
use crate::host::{clock, facts};
use crate::model::{Arbiter, CheckFacts, Decision, Deployment, Happened, Sighting, Stage, Trial};

/// How often the host itself is looked at between the checks.
const LOOK: Duration = Duration::from_millis(500);

/// A check and how it has fared.
struct Watch {
    name: String,
    check: Check,
    hard: bool,
    /// When it turned green, milliseconds since boot.
    green_since: Option<u64>,
    failures: u32,
    next_at: u64,
    tried: bool,
    last: String,
}

impl Watch {
    fn facts(&self) -> CheckFacts {
        CheckFacts {
            name: self.name.clone(),
            hard: self.hard,
            green: self.tried.then_some(self.green_since.is_some()),
            failures: self.failures,
            failures_max: self.check.failure_threshold,
            text: self.last.clone(),
        }
    }
}

/// What the phase came to, or may yet.
enum Verdict {
    Healthy,
    Unhealthy {
        reason: String,
        failures: Vec<String>,
    },
    Superseded,
    /// Somebody, the guard most likely, decided already.
    Decided(Decision),
}

impl Steps {
    pub(super) async fn check_health(&self, d: &Deployment) -> Happened {
        let Stage::Probation { trial, .. } = &d.stage else {
            return self.decide(d, &roll_back("it has no plan".to_owned()), vec![]);
        };
        let checks = match self.configuration_of(&d.toplevel) {
            Ok(settings) => settings.map(|s| s.health.checks).unwrap_or_default(),
            Err(failure) => return self.decide(d, &roll_back(failure.text), vec![]),
        };
        let mut watches = watches(checks, trial);
        match self.watch(d, trial, &mut watches).await {
            Verdict::Healthy => self.decide(d, &Decision::Confirm, soft_failures(&watches)),
            Verdict::Unhealthy { reason, failures } => self.decide(d, &roll_back(reason), failures),
            Verdict::Superseded => self.decide(d, &Decision::Superseded, vec![]),
            Verdict::Decided(decision) => self.decide(d, &decision, failures(&watches)),
        }
    }

    async fn watch(&self, d: &Deployment, trial: &Trial, watches: &mut [Watch]) -> Verdict {
        let began = clock::boottime_ms();
        let over = trial.deadline_boottime_ms.saturating_sub(millis(GUARD_MARGIN));
        let soak = millis(self.settings.activation.soak.0);
        loop {
            if probe_due(watches, began, self.manager).await {
                let checks = watches.iter().map(Watch::facts).collect();
                drop(self.tell.try_send(Sighting::Checked { id: d.id.clone(), checks }));
            }
            if let Some(verdict) = self.disturbed(d, trial) {
                return verdict;
            }
            let now = clock::boottime_ms();
            if let Some(w) = watches.iter().find(|w| w.hard && w.failures >= w.check.failure_threshold) {
                let reason = format!("check '{}' failed {} times in a row: {}", w.name, w.failures, w.last);
                return Verdict::Unhealthy { reason, failures: failures(watches) };
            }
            let green_since = |w: &Watch| if w.hard { w.green_since } else { Some(began) };
            let since = watches.iter().map(green_since).try_fold(began, |latest, s| s.map(|s| s.max(latest)));
            if since.is_some_and(|since| now.saturating_sub(since) >= soak) {
                return Verdict::Healthy;
            }
            if now >= over {
                let reason = match watches.iter().find(|w| w.hard && w.green_since.is_none()) {
                    Some(w) => format!("check '{}' was not green when the time was over: {}", w.name, w.last),
                    None => "the checks were not green for long enough in one go".to_owned(),
                };
                return Verdict::Unhealthy { reason, failures: failures(watches) };
            }
            tokio::time::sleep(LOOK.min(Duration::from_millis(soak.max(50)))).await;
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
                Some(Verdict::Unhealthy { reason, failures: vec![] })
            }
            Some(_) => Some(Verdict::Superseded),
            None => None,
        }
    }
}

fn watches(checks: BTreeMap<String, Check>, trial: &Trial) -> Vec<Watch> {
    let watch = |(name, check): (String, Check)| Watch {
        hard: check.severity == Severity::Hard && !trial.red_before.contains(&name),
        name,
        check,
        green_since: None,
        failures: 0,
        next_at: 0,
        tried: false,
        last: "it was not tried yet".to_owned(),
    };
    checks.into_iter().map(watch).collect()
}

/// Tries all checks whose time has come, at once; tells whether there were any.
async fn probe_due(watches: &mut [Watch], began: u64, manager: Manager) -> bool {
    let now = clock::boottime_ms();
    let due = watches.iter_mut().filter(|w| w.next_at <= now).map(async |w| {
        let result = probe::run(&w.check, manager).await;
        let now = clock::boottime_ms();
        w.tried = true;
        w.next_at = now + millis(w.check.interval.0);
        if result.ok {
            w.green_since.get_or_insert(now);
            (w.failures, w.last) = (0, String::new());
            return;
        }
        w.green_since = None;
        w.last = result.text;
        let starting = now.saturating_sub(began) < millis(w.check.start_period.0);
        if !result.not_yet && !starting {
            w.failures += 1;
        }
    });
    !futures_util::future::join_all(due).await.is_empty()
}

fn failures(watches: &[Watch]) -> Vec<String> {
    watches.iter().filter(|w| w.green_since.is_none()).map(|w| format!("{}: {}", w.name, w.last)).collect()
}

fn soft_failures(watches: &[Watch]) -> Vec<String> {
    let soft = watches.iter().filter(|w| !w.hard && w.green_since.is_none());
    soft.map(|w| format!("{} (soft): {}", w.name, w.last)).collect()
}

fn roll_back(reason: String) -> Decision {
    Decision::RollBack { reason, by: Arbiter::Agent }
}
