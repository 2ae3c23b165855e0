//! The health phase: the new system must be green in one go for the soak time, within the window, and the host must
//! still be updatable from it (`reach.rs`).

mod again;
mod answer;
mod scripts;
mod units;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

use self::units::Units;
use self::watch::{Terms, Times, Verdict, Watch, failures, judge, soft_failures};
use super::reach::Reach;
use super::{CheckResult, GUARD_MARGIN, Steps, millis, probe};
use crate::config::{Baseline, Check, Settings, UnitFailures};
use crate::gateway::link;
use crate::guard::{self, GuardPlan};
use crate::host::manager::Manager;
use crate::host::{self, clock, facts};
use crate::model::{
    Arbiter, Class, Decision, Deployment, DeploymentId, Happened, Sighting, Stage, Trial, UNITS, UPDATABLE,
};

/// How often the host itself is looked at between the checks.
const LOOK: Duration = Duration::from_millis(500);
/// The same where the soak time is shorter than that.
const LOOK_MIN: Duration = Duration::from_millis(50);
/// How the built-in check that the host can still be updated is taken. It has more patience than others, since a remote that
/// is being restarted must not roll back its hosts, and since what the network needs may still be starting.
const UPDATABLE_TERMS: Terms = Terms {
    hard: true,
    interval: Duration::from_secs(5),
    start_period: Duration::from_secs(30),
    successes_min: 1,
    failures_max: 6,
    once: true,
};
/// How the built-in check of the units is taken.
const UNITS_TERMS: Terms = Terms {
    hard: true,
    interval: Duration::from_secs(3),
    start_period: Duration::from_secs(10),
    successes_min: 1,
    failures_max: 3,
    once: false,
};
/// How often a check is tried before the switch, if it is red at first, and how many of these tries say that it is red.
const BASELINE_TRIES: usize = 3;
const BASELINE_RED: usize = 2;
/// The pause between two of them.
const BASELINE_PAUSE: Duration = Duration::from_secs(1);

/// What a check looks at.
#[derive(Debug)]
enum Subject {
    /// What the configuration says.
    Configured(Check),
    /// The units of the host.
    Units(Units),
    /// Whether the host can still be updated.
    Updatable,
}

impl Subject {
    async fn attempt(&self, steps: &Steps, reach: &Reach<'_>) -> CheckResult {
        match self {
            Subject::Configured(check) => probe::run(check, steps.manager).await,
            Subject::Units(units) => units.attempt().await,
            Subject::Updatable => reach.attempt().await,
        }
    }
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
        let (subjects, mut watches): (Vec<_>, Vec<_>) =
            self.watches(new.as_ref(), d, trial).into_iter().unzip();
        // From now on the new system's remotes count, even if the agent is the old one.
        self.link.watch(link::sources(new.as_ref().unwrap_or(&self.settings))).await;
        let remotes = new.iter().flat_map(|new| new.remotes.iter().map(|r| r.name.clone())).collect();
        let reach = self.reach(&d.desired.tip.revision, remotes);
        let times = Times {
            began: clock::boottime_ms(),
            over: self.health_over(d, trial),
            soak: millis(self.settings.activation.soak.0),
        };
        let judge = |watches: &[Watch], now| self.disturbed(d, trial).or_else(|| judge(watches, times, now));
        let verdict = self.watch(&d.id, &subjects, &mut watches, &reach, judge).await;
        self.link.watch(link::sources(&self.settings)).await;
        match verdict {
            Verdict::Healthy => match self.answer_within(d) {
                Some(within) => self.ask(d, within, soft_failures(&watches)).await,
                None => self.decide(d, &Decision::Confirm, soft_failures(&watches)),
            },
            Verdict::Unhealthy { reason, failures, class } => {
                let red = Some(again::red(&subjects, &watches));
                self.decide_knowing(d, &roll_back(reason, class), failures, red)
            }
            Verdict::Superseded => self.decide(d, &Decision::Superseded, vec![]),
            Verdict::Decided(decision) => self.decide(d, &decision, failures(&watches)),
        }
    }

    /// Returns when the health phase is over, in milliseconds since boot. Its timer waits longer where somebody has to
    /// answer afterwards.
    fn health_over(&self, d: &Deployment, trial: &Trial) -> u64 {
        let after = self.answer_within(d).unwrap_or_default() + GUARD_MARGIN;
        trial.deadline_boottime_ms.saturating_sub(millis(after))
    }

    /// Tries what both systems check, as the old one has it, before the switch, and returns what is red already: it can't
    /// speak against the new system. (What a check of the new system finds before its time says nothing.) What the new
    /// system is to repair is not tried.
    pub(super) async fn red_before(&self, new: &Settings) -> Vec<String> {
        let must_be_green = |c: &Check| c.baseline == Baseline::Require;
        // The new system's scripts are not there yet; those of the same name count for them.
        let excusable = |name: &String| {
            name.contains('/') || new.health.checks.get(name).is_some_and(|c| !must_be_green(c))
        };
        let old = checks(&self.settings).into_iter().filter(|(name, _)| excusable(name));
        let tries = old.map(async |(name, check)| self.is_red(&check).await.then_some(name));
        futures_util::future::join_all(tries).await.into_iter().flatten().collect()
    }

    async fn is_red(&self, check: &Check) -> bool {
        let mut red = 0;
        for attempt in 0..BASELINE_TRIES {
            let result = probe::run(check, self.manager).await;
            // A probe that can't do its work says nothing about the old system, so it excuses nothing.
            red += usize::from(!result.ok && !result.not_yet && !result.broken);
            if red == 0 || red == BASELINE_RED {
                break;
            }
            if attempt + 1 < BASELINE_TRIES {
                tokio::time::sleep(BASELINE_PAUSE).await;
            }
        }
        red >= BASELINE_RED
    }

    /// Returns the checks of the new system, those that only the old one has, and those that are built in. A system without
    /// pullagent is not to be updated.
    fn watches(&self, new: Option<&Settings>, d: &Deployment, trial: &Trial) -> Vec<(Subject, Watch)> {
        let Some(new) = new else { return vec![] };
        let plan = guard::read_plan(&self.guard_dir(&d.id));
        let plan = plan.inspect_err(|error| {
            tracing::warn!("the checks of the old system can't be read: {}", host::chain(error));
        });
        let mut watches: Vec<_> = checks(new)
            .into_iter()
            .map(|(name, check)| {
                let terms = Terms::of(&check);
                (Subject::Configured(check), Watch::new(&name, terms, trial))
            })
            .collect();
        if let Ok(plan) = plan {
            let names: BTreeSet<String> = watches.iter().map(|(_, w)| w.name.clone()).collect();
            watches.extend(dropped(&plan, &names).map(|(name, check)| {
                let terms = Terms { hard: false, ..Terms::of(&check) };
                (Subject::Configured(check), Watch::new(&name, terms, trial))
            }));
            if self.manager == Manager::Systemd && new.health.unit_failures != UnitFailures::Ignore {
                let terms = Terms { hard: new.health.unit_failures == UnitFailures::Hard, ..UNITS_TERMS };
                let units = Units::new(&new.health, &plan, &d.toplevel);
                watches.push((Subject::Units(units), Watch::new(UNITS, terms, trial)));
            }
        }
        watches.push((Subject::Updatable, Watch::new(UPDATABLE, UPDATABLE_TERMS, trial)));
        watches
    }

    /// Tries checks again and again until `judge` has a verdict; it is asked at least as often as [`LOOK`] says.
    async fn watch<T>(
        &self,
        id: &DeploymentId,
        subjects: &[Subject],
        watches: &mut [Watch],
        reach: &Reach<'_>,
        judge: impl Fn(&[Watch], u64) -> Option<T>,
    ) -> T {
        let began = clock::boottime_ms();
        let pause = LOOK.min(self.settings.activation.soak.0.max(LOOK_MIN));
        // Each on its own: one that takes its time holds up no other.
        let mut tries = FuturesUnordered::new();
        loop {
            let now = clock::boottime_ms();
            for (n, w) in watches.iter_mut().enumerate().filter(|(_, w)| w.is_due(now)) {
                w.next_at = None;
                tries.push(async move { (n, subjects[n].attempt(self, reach).await) });
            }
            tokio::select! {
                Some((n, result)) = tries.next() => {
                    watches[n].learn(result, began, clock::boottime_ms());
                    let checks = watches.iter().map(Watch::facts).collect();
                    drop(self.tell.try_send(Sighting::Checked { id: id.clone(), checks }));
                }
                () = tokio::time::sleep(pause) => {}
            }
            if let Some(verdict) = judge(watches, clock::boottime_ms()) {
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

/// Returns what a configuration checks: by name, and by the programs in its folders.
fn checks(settings: &Settings) -> Vec<(String, Check)> {
    let named = settings.health.checks.iter().map(|(name, check)| (name.clone(), check.clone()));
    let scripts = settings.health.script_directories.iter().flat_map(|dir| scripts::checks_in(dir));
    named.chain(scripts).collect()
}

/// Returns the checks of the old system that the new one has no more. They are only reported: whoever takes a service away
/// takes its check away, too.
fn dropped(plan: &GuardPlan, kept: &BTreeSet<String>) -> impl Iterator<Item = (String, Check)> {
    let old = serde_json::from_value::<BTreeMap<String, Check>>(plan.old_checks.clone()).unwrap_or_default();
    old.into_iter().filter(|(name, _)| !kept.contains(name))
}

fn roll_back(reason: String, class: Class) -> Decision {
    Decision::RollBack { reason, by: Arbiter::Agent, class }
}
