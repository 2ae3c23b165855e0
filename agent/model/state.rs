//! What the agent remembers, and the one table that changes it. Replaying the journal runs the same table.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::event::{Class, Event, Failure, Quarantined, Refusal, Suspension, SwitchEnd};
use super::{Decision, DeploymentId, Desired, Oid, Operation, StorePath, Target, Tip, Why};

/// How many refused tips are remembered.
pub const REFUSED_MAX: usize = 64;
/// How many bad targets are remembered.
pub const QUARANTINE_MAX: usize = 64;
/// How many ended deployments are remembered.
pub const HISTORY_MAX: usize = 128;

/// Everything that survives a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// The accepted tip of the main line: the anchor. Only its descendants are accepted next.
    pub main: Option<Tip>,
    /// The test line.
    pub test: Option<TestLine>,
    /// What was last made permanent.
    pub settled: Option<Settled>,
    /// The deployment under way.
    pub deployment: Option<Deployment>,
    /// Tips that were refused for good.
    pub refused: VecDeque<Refusal>,
    /// Targets that are not tried again by themselves.
    pub quarantine: VecDeque<Quarantined>,
    /// How often a reset of the host ended the probation of one target.
    pub resets: Option<Resets>,
    /// Deployments are stopped.
    pub suspension: Option<Suspension>,
    /// Ended deployments, newest last.
    pub history: VecDeque<Ended>,
    /// How many deployments this host has begun; numbers them.
    pub deployments_begun: u64,
    /// A newer version wrote something that this one does not understand.
    pub foreign: Option<Foreign>,
}

/// The test tip that was accepted last, and how far it got. It is entered at most once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TestLine {
    /// The tip.
    pub tip: Tip,
    /// The main tip that it was verified to stand on.
    pub main: Oid,
    /// How far it got.
    pub progress: TestProgress,
}

/// How far a test tip got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "progress", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum TestProgress {
    /// Verified, not entered yet.
    Accepted,
    /// It runs.
    Entered {
        /// The system.
        toplevel: StorePath,
        /// Since when.
        at: u64,
    },
    /// It ran or was tried, and does not come back by itself.
    Over {
        /// Why, for people.
        why: String,
    },
}

/// A deployment that was made permanent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settled {
    /// The commit.
    pub tip: Tip,
    /// The system it built.
    pub toplevel: StorePath,
    /// Its generation in the `system` profile.
    pub generation: Option<u64>,
    /// Which deployment did it.
    pub id: DeploymentId,
    /// When.
    pub at: u64,
}

/// A deployment under way: from the finished build to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deployment {
    /// Its name.
    pub id: DeploymentId,
    /// What and why.
    pub desired: Desired,
    /// The derivation, where there is one.
    pub drv: Option<String>,
    /// The system to activate.
    pub toplevel: StorePath,
    /// When it was built.
    pub at: u64,
    /// How far it got.
    pub stage: Stage,
}

/// How far a deployment got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Stage {
    /// Built; the host is untouched.
    Built,
    /// The host is, or may soon be, on probation.
    Probation {
        /// What a rollback needs.
        trial: Trial,
        /// How far the probation got.
        step: Step,
    },
}

/// What a rollback needs to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    /// The system to come back to.
    pub old: StorePath,
    /// The boot that the probation belongs to. Another boot means that a reset ended it.
    pub boot_id: String,
    /// When the guard fires unless somebody decided before.
    pub deadline_boottime_ms: u64,
    /// Hard checks that were red before the switch.
    pub red_before: Vec<String>,
}

/// How far a probation got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Step {
    /// The plan is written, the old binary pinned.
    Prepared,
    /// The guard runs; the switch may have begun.
    Armed,
    /// The switch ended.
    Activated {
        /// How.
        ended: SwitchEnd,
    },
    /// Health is being proven.
    Soaking,
    /// Decided: the new system stays.
    Confirming,
    /// Decided: the old system comes back.
    RollingBack {
        /// Why.
        reason: String,
        /// Which checks failed.
        failures: Vec<String>,
    },
}

/// How often a reset ended the probation of one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resets {
    /// The target.
    pub target: Target,
    /// How often.
    pub count: u32,
}

/// A record of a newer version, which it marked as one that must be understood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Foreign {
    /// The event's name.
    pub event: String,
    /// The phase that the newer version was in after it.
    pub phase: Phase,
    /// The record's number.
    pub seq: u64,
}

/// A deployment that came to its end, or a tip that never became one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// Its name; `None` where nothing was built.
    pub id: Option<DeploymentId>,
    /// The commit.
    pub revision: Oid,
    /// First line of its message; empty where it was refused.
    pub subject: String,
    /// Who signed it.
    pub signer: Option<String>,
    /// The branch.
    pub branch: String,
    /// What was to be done.
    pub operation: Operation,
    /// Why it was begun.
    pub why: Why,
    /// The system, if it was built.
    pub toplevel: Option<StorePath>,
    /// How it ended.
    pub outcome: Outcome,
    /// When it began.
    pub began: u64,
    /// When it ended.
    pub at: u64,
}

/// How a deployment ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Outcome {
    /// Made permanent.
    Confirmed {
        /// The generation.
        generation: Option<u64>,
    },
    /// Entered for a test.
    Tested,
    /// The old system came back.
    RolledBack {
        /// Why.
        reason: String,
        /// Which checks failed.
        failures: Vec<String>,
    },
    /// The old system could not be brought back.
    RollbackFailed {
        /// Why it was to be rolled back.
        reason: String,
        /// What went wrong then.
        text: String,
    },
    /// Somebody else switched the host meanwhile.
    Superseded,
    /// Signature or history were not acceptable.
    Refused {
        /// Stable code.
        code: String,
        /// In words.
        text: String,
    },
    /// It could not be built.
    BuildFailed {
        /// Why.
        failure: Failure,
    },
    /// Called off before it touched the host, or undone by a reset.
    Abandoned {
        /// Why.
        failure: Failure,
    },
    /// The test system stopped running through no act of this agent.
    TestLost,
}

/// Where a deployment stands, in words that never change: what an older version acts on when it can't read the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Nothing under way.
    Idle,
    /// Built; the host is untouched.
    Built,
    /// A plan and a pinned binary exist; the host is untouched.
    Prepared,
    /// The guard runs; the switch may have begun.
    Armed,
    /// The switch ended.
    Activated,
    /// Health is being proven.
    Soaking,
    /// The new system stays; profile and boot entry may or may not say so yet.
    Confirming,
    /// The old system comes back.
    RollingBack,
    /// A reboot into a trial entry is under way. Reserved: no version writes it yet.
    Rebooting,
    /// A trial entry has booted. Reserved: no version writes it yet.
    BootTrial,
}

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
    /// Returns the phase, which every journal record carries.
    pub fn phase(&self) -> Phase {
        match self.deployment.as_ref().map(|d| &d.stage) {
            None => Phase::Idle,
            Some(Stage::Built) => Phase::Built,
            Some(Stage::Probation { step, .. }) => match step {
                Step::Prepared => Phase::Prepared,
                Step::Armed => Phase::Armed,
                Step::Activated { .. } => Phase::Activated,
                Step::Soaking => Phase::Soaking,
                Step::Confirming => Phase::Confirming,
                Step::RollingBack { .. } => Phase::RollingBack,
            },
        }
    }

    /// Returns the quarantine entry that stands in the way of `target`, or of the system it built.
    pub fn quarantined(&self, target: &Target, toplevel: Option<&StorePath>) -> Option<&Quarantined> {
        let same =
            |q: &&Quarantined| q.target == *target || (toplevel.is_some() && q.toplevel.as_ref() == toplevel);
        self.quarantine.iter().rev().find(same)
    }

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
            | Event::TestLost { .. } => self.apply_idle(event),
            Event::Prepared { id, .. }
            | Event::Armed { id }
            | Event::Switched { id, .. }
            | Event::SoakStarted { id, .. }
            | Event::Decided { id, .. } => self.apply_step(id, event),
            Event::Confirmed { id, .. }
            | Event::RolledBack { id, .. }
            | Event::RollbackFailed { id, .. }
            | Event::Superseded { id, .. }
            | Event::Abandoned { id, .. } => self.apply_end(id, event),
            Event::Suspended { suspension } => {
                self.suspension = Some(suspension.clone());
                Ok(())
            }
            Event::Resumed { .. } => {
                self.suspension = None;
                self.foreign = None;
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
            Event::MainAccepted { tip } => self.main = Some(tip.clone()),
            Event::TestAccepted { tip, main } => self.accept_test(tip, main),
            Event::Refused { refusal } => self.refuse(refusal),
            Event::BuildFailed { desired, failure, at } => self.fail_build(desired, failure, *at),
            Event::Built { id, desired, drv, toplevel, at } => {
                self.deployments_begun += 1;
                self.deployment = Some(Deployment {
                    id: id.clone(),
                    desired: desired.clone(),
                    drv: drv.clone(),
                    toplevel: toplevel.clone(),
                    at: *at,
                    stage: Stage::Built,
                });
            }
            Event::TestLost { at } => self.lose_test(*at),
            _ => return Err(self.illegal(event)),
        }
        Ok(())
    }

    /// Events that take a deployment one step further.
    fn apply_step(&mut self, id: &DeploymentId, event: &Event) -> Result<(), IllegalTransition> {
        let illegal = self.illegal(event);
        let Some(d) = self.deployment.as_mut().filter(|d| d.id == *id) else { return Err(illegal) };
        let next = match (&d.stage, event) {
            (Stage::Built, Event::Prepared { old, boot_id, deadline_boottime_ms, red_before, .. }) => {
                Stage::Probation {
                    trial: Trial {
                        old: old.clone(),
                        boot_id: boot_id.clone(),
                        deadline_boottime_ms: *deadline_boottime_ms,
                        red_before: red_before.clone(),
                    },
                    step: Step::Prepared,
                }
            }
            (Stage::Probation { trial, step }, event) => {
                let mut trial = trial.clone();
                let step = match (step, event) {
                    (Step::Prepared, Event::Armed { .. }) => Step::Armed,
                    (Step::Armed, Event::Switched { ended, .. }) => Step::Activated { ended: ended.clone() },
                    (Step::Activated { .. }, Event::SoakStarted { deadline_boottime_ms, .. }) => {
                        trial.deadline_boottime_ms = *deadline_boottime_ms;
                        Step::Soaking
                    }
                    // The guard may decide at any moment from its arming on.
                    (
                        Step::Armed | Step::Activated { .. } | Step::Soaking,
                        Event::Decided { decision, failures, .. },
                    ) => {
                        match decision {
                            Decision::Confirm => Step::Confirming,
                            Decision::RollBack { reason, .. } => {
                                Step::RollingBack { reason: reason.clone(), failures: failures.clone() }
                            }
                            // The end follows as its own event, which the guard's directory gives rise to.
                            Decision::Superseded => Step::RollingBack {
                                reason: "superseded by another switch".to_owned(),
                                failures: vec![],
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

    /// Events that end a deployment.
    fn apply_end(&mut self, id: &DeploymentId, event: &Event) -> Result<(), IllegalTransition> {
        let illegal = self.illegal(event);
        let Some(d) = self.deployment.clone().filter(|d| d.id == *id) else { return Err(illegal) };
        let step = match &d.stage {
            Stage::Built => None,
            Stage::Probation { step, .. } => Some(step.clone()),
        };
        match (event, step) {
            (Event::Confirmed { generation, at, .. }, Some(Step::Confirming)) => {
                self.confirm(&d, *generation, *at)
            }
            (Event::RolledBack { at, .. }, Some(Step::RollingBack { reason, failures })) => {
                let failure =
                    Failure { class: Class::Target, code: "health".to_owned(), text: reason.clone() };
                self.set_aside(&d, failure, *at);
                self.end(&d, Outcome::RolledBack { reason, failures }, *at);
            }
            (Event::RollbackFailed { text, at, .. }, Some(Step::RollingBack { reason, .. })) => {
                let failure =
                    Failure { class: Class::Target, code: "health".to_owned(), text: reason.clone() };
                self.set_aside(&d, failure, *at);
                self.end(&d, Outcome::RollbackFailed { reason, text: text.clone() }, *at);
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

    fn accept_test(&mut self, tip: &Tip, main: &Oid) {
        let same = self.test.as_ref().filter(|t| t.tip.revision == tip.revision);
        let progress = same.map_or(TestProgress::Accepted, |t| t.progress.clone());
        self.test = Some(TestLine { tip: tip.clone(), main: main.clone(), progress });
    }

    fn refuse(&mut self, refusal: &Refusal) {
        let known = self.refused.iter().any(|r| r.revision == refusal.revision && r.code == refusal.code);
        self.refused.retain(|r| r.revision != refusal.revision || r.branch != refusal.branch);
        push_bounded(&mut self.refused, refusal.clone(), REFUSED_MAX);
        if known {
            return;
        }
        let ended = Ended {
            id: None,
            revision: refusal.revision.clone(),
            subject: String::new(),
            signer: None,
            branch: refusal.branch.clone(),
            operation: refusal.operation,
            why: Why::NewRevision,
            toplevel: None,
            outcome: Outcome::Refused { code: refusal.code.clone(), text: refusal.text.clone() },
            began: refusal.at,
            at: refusal.at,
        };
        push_bounded(&mut self.history, ended, HISTORY_MAX);
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
        match d.desired.operation {
            Operation::Test => {
                if let Some(test) = &mut self.test {
                    test.progress = TestProgress::Entered { toplevel: d.toplevel.clone(), at };
                }
                self.end(d, Outcome::Tested, at);
            }
            Operation::Switch => {
                if let Some(test) = &mut self.test
                    && matches!(test.progress, TestProgress::Entered { .. })
                {
                    test.progress =
                        TestProgress::Over { why: "the host went back to its main line".to_owned() };
                }
                self.settled = Some(Settled {
                    tip: d.desired.tip.clone(),
                    toplevel: d.toplevel.clone(),
                    generation,
                    id: d.id.clone(),
                    at,
                });
                self.end(d, Outcome::Confirmed { generation }, at);
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
        match failure.class {
            Class::Target => self.set_aside(d, failure.clone(), at),
            Class::Transient => {}
        }
        self.end(d, Outcome::Abandoned { failure: failure.clone() }, at);
    }

    fn lose_test(&mut self, at: u64) {
        let Some(test) = &mut self.test else { return };
        let toplevel = match &test.progress {
            TestProgress::Entered { toplevel, .. } => Some(toplevel.clone()),
            TestProgress::Accepted | TestProgress::Over { .. } => None,
        };
        test.progress = TestProgress::Over { why: "the test system no longer runs".to_owned() };
        let desired = Desired { tip: test.tip.clone(), operation: Operation::Test, why: Why::NewRevision };
        let ended = Ended { toplevel, ..ended(&desired, Outcome::TestLost, at) };
        push_bounded(&mut self.history, ended, HISTORY_MAX);
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
        // What a newer version noted of this deployment ends with it.
        self.foreign = self.foreign.take().filter(|f| f.phase == Phase::Idle);
        let ended = Ended {
            id: Some(d.id.clone()),
            toplevel: Some(d.toplevel.clone()),
            began: d.at,
            ..ended(&d.desired, outcome, at)
        };
        push_bounded(&mut self.history, ended, HISTORY_MAX);
    }

    /// Forgets that a revision, or everything, was bad.
    fn forgive(&mut self, revision: Option<&Oid>) {
        let hit = |other: Option<&Oid>| revision.is_none() || other == revision;
        self.refused.retain(|r| !hit(Some(&r.revision)));
        self.quarantine.retain(|q| !hit(q.target.revision()));
        self.resets = None;
        if let Some(test) = &mut self.test
            && hit(Some(&test.tip.revision))
            && matches!(test.progress, TestProgress::Over { .. })
        {
            test.progress = TestProgress::Accepted;
        }
    }
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

fn push_bounded<T>(queue: &mut VecDeque<T>, item: T, max: usize) {
    while queue.len() >= max {
        queue.pop_front();
    }
    queue.push_back(item);
}

impl Event {
    /// Returns the event's name as the journal spells it.
    pub fn name(&self) -> &'static str {
        match self {
            Event::MainAccepted { .. } => "main-accepted",
            Event::TestAccepted { .. } => "test-accepted",
            Event::Refused { .. } => "refused",
            Event::BuildFailed { .. } => "build-failed",
            Event::Built { .. } => "built",
            Event::Prepared { .. } => "prepared",
            Event::Armed { .. } => "armed",
            Event::Switched { .. } => "switched",
            Event::SoakStarted { .. } => "soak-started",
            Event::Decided { .. } => "decided",
            Event::Confirmed { .. } => "confirmed",
            Event::RolledBack { .. } => "rolled-back",
            Event::RollbackFailed { .. } => "rollback-failed",
            Event::Superseded { .. } => "superseded",
            Event::Abandoned { .. } => "abandoned",
            Event::TestLost { .. } => "test-lost",
            Event::Suspended { .. } => "suspended",
            Event::Resumed { .. } => "resumed",
            Event::RetryRequested { .. } => "retry-requested",
        }
    }
}
