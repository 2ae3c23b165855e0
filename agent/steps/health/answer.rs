//! The wait for somebody's word, where a system that proved healthy has to be confirmed by hand. The checks go on
//! meanwhile, and no answer is an answer: the old system comes back.

use std::time::Duration;

use super::watch::{Verdict, Watch, failures, judge_waiting};
use super::{GUARD_MARGIN, Steps, Subject, millis};
use crate::config::Settings;
use crate::gateway::link;
use crate::guard;
use crate::host::{self, clock, facts};
use crate::model::{Class, Decision, Deployment, Event, Happened, Operation, Stage, Step};

impl Steps {
    /// Returns how long an answer is waited for; `None`: none is asked for. The old system and the new one may ask for it,
    /// so that no commit can do away with the question by itself.
    pub(in crate::steps) fn answer_within(&self, d: &Deployment) -> Option<Duration> {
        if self.is_permanent(d) {
            return None;
        }
        let new = self.configuration_of(&d.toplevel).ok().flatten();
        let new = new.as_ref().and_then(|new| new.activation.answer_within());
        let plan = guard::read_plan(&self.guard_dir(&d.id)).ok();
        let old = plan.and_then(|plan| plan.answer_within_ms).map(Duration::from_millis);
        new.max(old)
    }

    /// The same before there is a plan.
    pub(in crate::steps) fn answer_within_planned(&self, new: Option<&Settings>) -> Option<Duration> {
        let new = new.and_then(|new| new.activation.answer_within());
        new.max(self.settings.activation.answer_within())
    }

    /// Whoever goes back to what was confirmed before need not ask again.
    fn is_permanent(&self, d: &Deployment) -> bool {
        let profile = facts::observe(&self.host).ok().and_then(|f| f.profile);
        d.desired.operation == Operation::Switch && profile.as_ref() == Some(&d.toplevel)
    }

    /// Adds a timer that bounds the wait, and begins it. The timer of the health phase ends it as well, though later.
    pub(super) async fn ask(&self, d: &Deployment, within: Duration, soft: Vec<String>) -> Happened {
        let dir = self.guard_dir(&d.id);
        let margin = millis(GUARD_MARGIN);
        let planned = guard::read_plan(&dir).map_or(u64::MAX, |plan| plan.deadline_boottime_ms);
        let deadline = (clock::boottime_ms() + millis(within) + margin).min(armed_until(d)).min(planned);
        if let Err(error) = guard::arm(&dir, self.manager, deadline).await {
            tracing::warn!("the wait for an answer has no timer of its own: {}", host::chain(&error));
        }
        Happened::Event(Event::HealthProven {
            id: d.id.clone(),
            until_boottime_ms: deadline.saturating_sub(margin),
            deadline_boottime_ms: deadline,
            failures: soft,
        })
    }

    /// Probes on until the time to answer is over. An answer ends this from outside.
    pub(in crate::steps) async fn await_answer(&self, d: &Deployment) -> Happened {
        let Stage::Probation { trial, step: Step::Proven { until_boottime_ms } } = &d.stage else {
            let reason = "it was not found healthy".to_owned();
            return self.decide(d, &super::roll_back(reason, Class::Target), vec![]);
        };
        let until = *until_boottime_ms;
        let new = match self.configuration_of(&d.toplevel) {
            Ok(new) => new,
            Err(failure) => return self.decide(d, &super::roll_back(failure.text, Class::Target), vec![]),
        };
        // That the host can still be updated was proved once, and once is enough.
        let proved = |(subject, _): &(Subject, Watch)| !matches!(subject, Subject::Updatable);
        let (subjects, mut watches): (Vec<_>, Vec<_>) =
            self.watches(new.as_ref(), d, trial).into_iter().filter(proved).unzip();
        let reach = self.reach(&d.desired.tip.revision, vec![]);
        let judge =
            |watches: &[Watch], now| self.disturbed(d, trial).or_else(|| judge_waiting(watches, until, now));
        match self.watch(&d.id, &subjects, &mut watches, &reach, judge).await {
            Verdict::Healthy => self.decide(d, &Decision::Confirm, vec![]),
            Verdict::Unhealthy { reason, failures, class } => {
                let red = Some(super::again::red(&subjects, &watches)).filter(|_| !failures.is_empty());
                self.decide_knowing(d, &super::roll_back(reason, class), failures, red)
            }
            Verdict::Superseded => self.decide(d, &Decision::Superseded, vec![]),
            Verdict::Decided(decision) => self.decide(d, &decision, failures(&watches)),
        }
    }

    /// Takes a decision that was forced from outside. A health phase that was dropped for it has left the new system's
    /// remotes in force.
    pub(in crate::steps) async fn decide_from_outside(
        &self,
        d: &Deployment,
        decision: &Decision,
    ) -> Happened {
        self.link.watch(link::sources(&self.settings)).await;
        self.decide(d, decision, vec![])
    }
}

/// Returns when the timer of the health phase fires.
fn armed_until(d: &Deployment) -> u64 {
    match &d.stage {
        Stage::Probation { trial, .. } => trial.deadline_boottime_ms,
        Stage::Built => u64::MAX,
    }
}
