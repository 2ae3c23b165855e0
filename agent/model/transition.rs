//! The one table of transitions: which event may meet which state, and what it makes of it. Replay runs the same table.

use std::collections::VecDeque;

use super::event::{Event, SwitchEnd};
use super::state::{
    Awaiting, Deployment, Ended, Entered, HISTORY_MAX, Outcome, Phase, QUARANTINE_MAX, ROLLBACKS_MAX, Resets,
    SWITCH_REPEATS_MAX, Settled, Stage, State, Step, TestProgress, Trial,
};
use super::verdict::{Class, Failure, Quarantined};
use super::{
    AdoptedTrust, Answer, AwaitedReboot, Cause, Decision, DeploymentId, Desired, INTERRUPTED, LOADER,
    NETWORK, Oid, Operation, REJECTED, Red, Tidying, UNCONFIRMED, Vouched, Why, Word, recheck,
};

/// An event that the state it met does not allow: a bug, or a journal that was put together by hand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event '{event}' does not fit phase '{phase:?}' (deployment {deployment:?})")]
pub struct IllegalTransition {
    /// The event's name.
    pub event: &'static str,
    /// The phase it met.
    pub phase: Phase,
    /// The deployment under way.
    pub deployment: Option<DeploymentId>,
}

impl State {
    /// Applies one event. The only code that changes a `State`; replay calls the same.
    ///
    /// # Errors
    /// The event does not fit; the state is unchanged.
    pub fn apply(&mut self, event: &Event) -> Result<(), IllegalTransition> {
        match event {
            Event::MainAccepted { .. }
            | Event::TestAccepted { .. }
            | Event::Refused { .. }
            | Event::BuildFailed { .. }
            | Event::Built { .. }
            | Event::Adopted { .. }
            | Event::TrustAdopted { .. }
            | Event::TestLost { .. }
            | Event::OldChecked { .. }
            | Event::GenerationsChosen { .. }
            | Event::GenerationsRemoved { .. } => self.apply_idle(event),
            Event::Prepared { id, .. }
            | Event::Armed { id }
            | Event::Switched { id, .. }
            | Event::Staged { id, .. }
            | Event::TrialBooted { id, .. }
            | Event::SwitchRepeated { id }
            | Event::SoakStarted { id, .. }
            | Event::HealthProven { id, .. }
            | Event::Decided { id, .. } => self.apply_step(id, event),
            Event::Confirmed { id, .. }
            | Event::RolledBack { id, .. }
            | Event::RollbackFailed { id, .. }
            | Event::Superseded { id, .. }
            | Event::RebootAwaited { id, .. }
            | Event::Abandoned { id, .. } => self.apply_end(id, event),
            Event::RootAccepted { revision, by, at } => {
                let (revision, by) = (revision.clone(), by.clone());
                self.vouched = Some(Vouched { revision, by, at: *at, anchored: false });
                Ok(())
            }
            Event::Answered { answer } => self.apply_answer(answer, event),
            Event::Suspended { suspension } => {
                self.suspension = Some(suspension.clone());
                Ok(())
            }
            Event::Resumed { .. } => {
                self.suspension = None;
                self.foreign = None;
                self.peeked = None;
                self.rollbacks.clear();
                Ok(())
            }
            Event::RetryRequested { revision, .. } => {
                self.forgive(revision.as_ref());
                Ok(())
            }
        }
    }

    fn illegal(&self, event: &Event) -> IllegalTransition {
        let deployment = self.deployment.as_ref().map(|d| d.id.clone());
        IllegalTransition { event: event.name(), phase: self.phase(), deployment }
    }

    /// Events that only an idle agent meets.
    fn apply_idle(&mut self, event: &Event) -> Result<(), IllegalTransition> {
        if self.deployment.is_some() {
            return Err(self.illegal(event));
        }
        match event {
            Event::MainAccepted { tip } => self.accept_main(tip),
            Event::TestAccepted { tip, main } => {
                self.pardon(tip);
                self.accept_test(tip, main);
            }
            Event::Refused { refusal } => self.refuse(refusal),
            Event::BuildFailed { desired, failure, at } => self.fail_build(desired, failure, *at),
            Event::Built { id, desired, drv, toplevel, trust, revoked, nonce, at } => {
                self.deployments_begun += 1;
                let (revision, at) = (Some(desired.tip.revision.clone()), *at);
                // The accepted tip is the newest there is. A test, or the way back to an older system, adopts nothing.
                let newest = desired.operation == Operation::Switch
                    && self.main.as_ref().is_some_and(|m| m.revision == desired.tip.revision);
                if let Some(nonce) = nonce.as_ref().filter(|_| newest) {
                    self.learn_nonce(nonce);
                }
                self.peeked = self.suspension.as_ref().and(revision.clone());
                if newest {
                    self.revoke(revoked.clone());
                }
                if let Some(settings) = trust.clone().filter(|_| newest) {
                    self.adopt_trust(AdoptedTrust { revision, settings, at });
                }
                self.deployment = Some(Deployment {
                    id: id.clone(),
                    desired: desired.clone(),
                    drv: drv.clone(),
                    toplevel: toplevel.clone(),
                    at,
                    stage: Stage::Built,
                });
            }
            Event::Adopted { toplevel, generation, at } => {
                let Some(tip) = self.main.clone() else { return Err(self.illegal(event)) };
                self.end_vouching(&tip.revision);
                self.awaiting = None;
                let known = |s: &&Settled| s.tip.revision == tip.revision && s.toplevel == *toplevel;
                if self.settled.as_ref().filter(known).is_none() {
                    let (toplevel, generation) = (toplevel.clone(), *generation);
                    self.settled = Some(Settled { tip, toplevel, generation, id: None, at: *at });
                }
            }
            Event::TrustAdopted { trust } => self.adopt_trust(trust.clone()),
            Event::TestLost { at } => self.lose_test(*at),
            Event::OldChecked { id, environment, failures, at } => {
                if self.recheck.as_ref().is_none_or(|r| r.id != *id) {
                    return Err(self.illegal(event));
                }
                self.learn_of_old(*environment, failures, *at);
            }
            Event::GenerationsChosen { numbers, .. } => self.choose_generations(numbers),
            Event::GenerationsRemoved { numbers, .. } => self.forget_generations(numbers),
            _ => return Err(self.illegal(event)),
        }
        Ok(())
    }

    /// Events that take a deployment one step further.
    fn apply_step(&mut self, id: &DeploymentId, event: &Event) -> Result<(), IllegalTransition> {
        let illegal = self.illegal(event);
        let answer = self.answer.clone();
        let Some(d) = self.deployment.as_mut().filter(|d| d.id == *id) else { return Err(illegal) };
        let next = match (&d.stage, event) {
            (
                Stage::Built,
                Event::Prepared { old, boot_id, deadline_boottime_ms, red_before, reboot, .. },
            ) => Stage::Probation {
                trial: Trial {
                    old: old.clone(),
                    boot_id: boot_id.clone(),
                    deadline_boottime_ms: *deadline_boottime_ms,
                    red_before: red_before.clone(),
                    reboot: reboot.clone().map(Box::new),
                    switch_repeats: 0,
                },
                step: Step::Prepared,
            },
            (Stage::Probation { trial, step }, event) => {
                let mut trial = trial.clone();
                let step = match (step, event) {
                    (Step::Prepared, Event::Armed { .. }) => Step::Armed,
                    (Step::Armed, Event::Switched { ended, .. }) => Step::Activated { ended: ended.clone() },
                    (Step::Activated { ended: SwitchEnd::Torn { .. } }, Event::SwitchRepeated { .. })
                        if trial.switch_repeats < SWITCH_REPEATS_MAX =>
                    {
                        trial.switch_repeats += 1;
                        Step::Armed
                    }
                    (Step::Activated { .. }, Event::SoakStarted { deadline_boottime_ms, .. }) => {
                        trial.deadline_boottime_ms = *deadline_boottime_ms;
                        Step::Soaking
                    }
                    (Step::Prepared, Event::Staged { entry, .. }) => Step::Staged { entry: entry.clone() },
                    (
                        Step::Staged { .. } | Step::BootTrial,
                        Event::TrialBooted { boot_id, deadline_boottime_ms, .. },
                    ) => {
                        trial.boot_id = boot_id.clone();
                        trial.deadline_boottime_ms = *deadline_boottime_ms;
                        Step::BootTrial
                    }
                    (
                        Step::Soaking | Step::BootTrial,
                        Event::HealthProven { until_boottime_ms, deadline_boottime_ms, .. },
                    ) => {
                        trial.deadline_boottime_ms = *deadline_boottime_ms;
                        Step::Proven { until_boottime_ms: *until_boottime_ms }
                    }
                    // The guard may decide at any moment from its arming on.
                    (
                        Step::Armed
                        | Step::Activated { .. }
                        | Step::Soaking
                        | Step::Proven { .. }
                        | Step::Staged { .. }
                        | Step::BootTrial,
                        Event::Decided { decision, failures, red, .. },
                    ) => {
                        match decision {
                            Decision::Confirm => Step::Confirming,
                            Decision::RollBack { reason, by: _, class } => Step::RollingBack {
                                reason: reason.clone(),
                                failures: failures.clone(),
                                class: *class,
                                code: cause(answer.as_ref(), step, *class, failures),
                                red: red.clone(),
                            },
                            // The end follows as its own event, which the guard's directory gives rise to.
                            Decision::Superseded => Step::RollingBack {
                                reason: "superseded by another switch".to_owned(),
                                failures: vec![],
                                class: Class::Target,
                                code: None,
                                red: None,
                            },
                        }
                    }
                    _ => return Err(illegal),
                };
                Stage::Probation { trial, step }
            }
            _ => return Err(illegal),
        };
        d.stage = next;
        Ok(())
    }

    /// Takes down what an operator said. What is decided already can't be changed by it.
    fn apply_answer(&mut self, answer: &Answer, event: &Event) -> Result<(), IllegalTransition> {
        let d = self.deployment.as_ref().filter(|d| d.id == answer.id);
        match d.map(|d| &d.stage) {
            None | Some(Stage::Probation { step: Step::Confirming | Step::RollingBack { .. }, .. }) => {
                Err(self.illegal(event))
            }
            Some(Stage::Built | Stage::Probation { .. }) => {
                self.answer = Some(answer.clone());
                Ok(())
            }
        }
    }

    /// Events that end a deployment.
    fn apply_end(&mut self, id: &DeploymentId, event: &Event) -> Result<(), IllegalTransition> {
        let illegal = self.illegal(event);
        let Some(d) = self.deployment.clone().filter(|d| d.id == *id) else { return Err(illegal) };
        let step = match &d.stage {
            Stage::Built => None,
            Stage::Probation { step, .. } => Some(step.clone()),
        };
        match (event, step) {
            // Without a probation only where the system runs already and nothing has to be tried.
            (Event::Confirmed { generation, at, .. }, None | Some(Step::Confirming)) => {
                self.confirm(&d, *generation, *at);
            }
            (
                Event::RolledBack { at, .. },
                Some(Step::RollingBack { reason, failures, class, code, red }),
            ) => {
                let verdict = failure(class, code.as_deref(), &reason);
                let (class, code) = self.come_back(&d, verdict, code, red.as_ref(), *at);
                self.end(&d, Outcome::RolledBack { reason, failures, class, code }, *at);
            }
            (Event::RollbackFailed { text, at, .. }, Some(Step::RollingBack { reason, class, code, .. })) => {
                self.roll_back(&d, failure(class, code.as_deref(), &reason), true, *at);
                self.end(&d, Outcome::RollbackFailed { reason, text: text.clone(), class }, *at);
            }
            (Event::Superseded { at, .. }, Some(_)) => {
                let failure = Failure {
                    class: Class::Target,
                    code: "superseded".to_owned(),
                    text: "somebody else switched the host during the probation".to_owned(),
                };
                self.set_aside(&d, failure, *at);
                self.end(&d, Outcome::Superseded, *at);
            }
            // Before anything was changed, or after a switch that changed nothing.
            (
                Event::RebootAwaited { reboot, at, .. },
                Some(Step::Prepared | Step::Staged { .. } | Step::Activated { .. }),
            ) => {
                self.await_reboot(&d, reboot, *at);
            }
            // A decision that is taken is carried out, never called off; only a reset can undo it.
            (Event::Abandoned { failure, at, .. }, step)
                if !matches!(step, Some(Step::Confirming)) || failure.code == "reset" =>
            {
                self.abandon(&d, failure, *at);
            }
            _ => return Err(illegal),
        }
        Ok(())
    }

    fn fail_build(&mut self, desired: &Desired, failure: &Failure, at: u64) {
        let q = Quarantined { target: desired.tip.target(), toplevel: None, failure: failure.clone(), at };
        push_bounded(&mut self.quarantine, q, QUARANTINE_MAX);
        self.end_test_if(desired, &failure.text);
        let ended = ended(desired, Outcome::BuildFailed { failure: failure.clone() }, at);
        push_bounded(&mut self.history, ended, HISTORY_MAX);
    }

    fn confirm(&mut self, d: &Deployment, generation: Option<u64>, at: u64) {
        self.resets = None;
        self.lost_trials = None;
        let target = d.desired.tip.target();
        self.setback = self.setback.take().filter(|s| s.target != target);
        match d.desired.operation {
            Operation::Test => {
                if let Some(test) = &mut self.test {
                    test.progress = TestProgress::Entered;
                }
                let (tip, toplevel) = (d.desired.tip.clone(), d.toplevel.clone());
                self.entered = Some(Entered { tip, toplevel, at });
                self.end(d, Outcome::Tested, at);
            }
            Operation::Switch => {
                if let Some(test) = &mut self.test
                    && test.progress == TestProgress::Entered
                {
                    test.progress =
                        TestProgress::Over { why: "the host went back to its main line".to_owned() };
                }
                self.entered = None;
                self.end_vouching(&d.desired.tip.revision);
                self.settled = Some(Settled {
                    tip: d.desired.tip.clone(),
                    toplevel: d.toplevel.clone(),
                    generation,
                    id: Some(d.id.clone()),
                    at,
                });
                self.tidying = Tidying::after(d);
                self.end(d, Outcome::Confirmed { generation, removed: vec![] }, at);
            }
        }
    }

    fn abandon(&mut self, d: &Deployment, failure: &Failure, at: u64) {
        if failure.code == "reset" {
            let target = d.desired.tip.target();
            let before = self.resets.take().filter(|r| r.target == target).map_or(0, |r| r.count);
            self.resets = Some(Resets { target, count: before + 1 });
            self.end_test_if(&d.desired, &failure.text);
        }
        if failure.code == LOADER {
            let target = d.desired.tip.target();
            let before = self.lost_trials.take().filter(|l| l.target == target).map_or(0, |l| l.count);
            self.lost_trials = Some(Resets { target, count: before + 1 });
        }
        if ["reset", "boot", LOADER].contains(&failure.code.as_str()) {
            self.unsettle(d);
        }
        match failure.class {
            Class::Target => self.set_aside(d, failure.clone(), at),
            Class::Transient => {}
        }
        self.end(d, Outcome::Abandoned { failure: failure.clone() }, at);
    }

    fn await_reboot(&mut self, d: &Deployment, reboot: &AwaitedReboot, at: u64) {
        self.end_test_if(&d.desired, "it takes a reboot, which ends a test");
        let from = match &d.stage {
            // It runs already, and only waits for the boot.
            _ if d.desired.why == Why::Reboot => Some(d.toplevel.clone()),
            Stage::Probation { trial, .. } => Some(trial.old.clone()),
            Stage::Built => None,
        };
        self.end(d, Outcome::RebootAwaited { reboot: reboot.clone() }, at);
        self.awaiting = Some(Awaiting {
            target: d.desired.tip.target(),
            toplevel: d.toplevel.clone(),
            from,
            reboot: reboot.clone(),
            at,
        });
    }

    /// What was switched to and then did not survive its boot is not what is permanent any more.
    fn unsettle(&mut self, d: &Deployment) {
        if d.desired.why == Why::Reboot {
            self.settled = self.settled.take().filter(|s| s.toplevel != d.toplevel);
        }
    }

    fn lose_test(&mut self, at: u64) {
        let Some(Entered { tip, toplevel, .. }) = self.entered.take() else { return };
        let desired = Desired { tip, operation: Operation::Test, why: Why::NewRevision };
        self.end_test_if(&desired, "the test system no longer runs");
        let ended = Ended { toplevel: Some(toplevel), ..ended(&desired, Outcome::TestLost, at) };
        push_bounded(&mut self.history, ended, HISTORY_MAX);
    }

    /// The old system is back: judges the target, as far as that is known yet, and returns the verdict for the history.
    fn come_back(
        &mut self,
        d: &Deployment,
        verdict: Failure,
        code: Option<String>,
        red: Option<&Red>,
        at: u64,
    ) -> (Class, Option<String>) {
        if let Stage::Probation { trial, .. } = &d.stage {
            self.recheck = recheck::owed(d, &trial.old, red, &verdict, at);
        }
        // The way back to the confirmed line is never given up: it is tried again later.
        let may_be_given_up = d.desired.why != Why::EndOfTest;
        if verdict.class == Class::Target && may_be_given_up && self.may_be_the_network(d, red) {
            self.roll_back(d, Failure::transient(NETWORK, verdict.text), true, at);
            return (Class::Transient, Some(NETWORK.to_owned()));
        }
        let class = verdict.class;
        self.roll_back(d, verdict, may_be_given_up, at);
        (class, code)
    }

    /// Counts a rollback and holds it against the target, if it is to blame and may be given up.
    fn roll_back(&mut self, d: &Deployment, failure: Failure, may_be_given_up: bool, at: u64) {
        push_bounded(&mut self.rollbacks, at, ROLLBACKS_MAX);
        self.unsettle(d);
        match failure.class {
            Class::Target if may_be_given_up => self.set_aside(d, failure, at),
            Class::Target => {}
            Class::Transient => {
                // A test is entered at most once, whatever ended it.
                self.end_test_if(&d.desired, &failure.text);
                self.set_back(d.desired.tip.target(), failure.text, Cause::of(&failure.code), at);
            }
        }
    }

    /// Puts a target in quarantine, and ends its test.
    fn set_aside(&mut self, d: &Deployment, failure: Failure, at: u64) {
        self.end_test_if(&d.desired, &failure.text);
        let q =
            Quarantined { target: d.desired.tip.target(), toplevel: Some(d.toplevel.clone()), failure, at };
        push_bounded(&mut self.quarantine, q, QUARANTINE_MAX);
    }

    fn end_test_if(&mut self, desired: &Desired, why: &str) {
        if let Some(test) = &mut self.test
            && test.tip.revision == desired.tip.revision
        {
            test.progress = TestProgress::Over { why: why.to_owned() };
        }
    }

    fn end(&mut self, d: &Deployment, outcome: Outcome, at: u64) {
        self.deployment = None;
        self.awaiting = None;
        self.answer = None;
        // What a newer version noted of this deployment ends with it.
        self.foreign = self.foreign.take().filter(|f| f.phase == Phase::Idle);
        let ended = Ended {
            id: Some(d.id.clone()),
            toplevel: Some(d.toplevel.clone()),
            began: d.at,
            ..ended(&d.desired, outcome, at)
        };
        // One that is called off again and again must not push everything else out of the history.
        if self.history.back().is_some_and(|last| is_repeated(last, &ended)) {
            self.history.pop_back();
        }
        push_bounded(&mut self.history, ended, HISTORY_MAX);
    }

    /// Forgets that a revision, or everything, was bad. What built the same system goes with it, or it would stand in
    /// the way all the same.
    pub(super) fn forgive(&mut self, revision: Option<&Oid>) {
        let hit = |other: Option<&Oid>| revision.is_none() || other == revision;
        self.refused.retain(|r| !hit(Some(&r.revision)));
        let (forgiven, bad): (Vec<_>, Vec<_>) =
            self.quarantine.drain(..).partition(|q| hit(q.target.revision()));
        let built =
            |q: &Quarantined| q.toplevel.is_some() && forgiven.iter().any(|f| f.toplevel == q.toplevel);
        self.quarantine = bad.into_iter().filter(|q| !built(q)).collect();
        self.resets = None;
        self.lost_trials = None;
        self.awaiting = self.awaiting.take().filter(|a| !hit(a.target.revision()));
        self.recheck = self.recheck.take().filter(|r| !hit(Some(&r.revision)));
        self.setback = self.setback.take().filter(|s| !hit(s.target.revision()));
        if let Some(test) = &mut self.test
            && hit(Some(&test.tip.revision))
            && matches!(test.progress, TestProgress::Over { .. })
        {
            test.progress = TestProgress::Accepted;
        }
    }
}

/// Names the cause of a rollback that was decided in `step`, where it is another than a check.
fn cause(answer: Option<&Answer>, step: &Step, class: Class, failures: &[String]) -> Option<String> {
    let word = match (answer.map(|a| a.word), step) {
        (Some(Word::Reject), _) => REJECTED,
        (_, Step::Proven { .. }) if failures.is_empty() => UNCONFIRMED,
        (_, Step::Activated { .. }) if class == Class::Transient => INTERRUPTED,
        _ => return None,
    };
    Some(word.to_owned())
}

fn failure(class: Class, code: Option<&str>, text: &str) -> Failure {
    Failure { class, code: code.unwrap_or("health").to_owned(), text: text.to_owned() }
}

/// Tells whether the same revision was called off twice for the same passing reason.
fn is_repeated(last: &Ended, ended: &Ended) -> bool {
    let passing = |e: &Ended| match &e.outcome {
        Outcome::Abandoned { failure } if failure.class == Class::Transient => Some(failure.code.clone()),
        Outcome::RebootAwaited { .. } => Some("reboot-awaited".to_owned()),
        _ => None,
    };
    last.revision == ended.revision && passing(last).is_some() && passing(last) == passing(ended)
}

fn ended(desired: &Desired, outcome: Outcome, at: u64) -> Ended {
    Ended {
        id: None,
        revision: desired.tip.revision.clone(),
        subject: desired.tip.subject.clone(),
        signer: desired.tip.signer.clone(),
        branch: desired.tip.branch.clone(),
        operation: desired.operation,
        why: desired.why,
        toplevel: None,
        outcome,
        began: at,
        at,
    }
}

pub(super) fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, max: usize) {
    while queue.len() >= max {
        queue.pop_front();
    }
    queue.push_back(item);
}
