//! What the agent remembers. The table that changes it stands in `transition.rs`.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::event::SwitchEnd;
use super::verdict::{Class, Failure, Quarantined, Refusal, Suspension};
use super::{
    AdoptedTrust, Answer, AwaitedReboot, Cause, DeploymentId, Desired, Oid, Operation, RebootNeed, Recheck,
    Red, StorePath, Target, Tidying, Tip, Vouched, Why,
};

/// How many refused tips are remembered.
pub const REFUSED_MAX: usize = 64;
/// How many bad targets are remembered.
pub const QUARANTINE_MAX: usize = 64;
/// How many ended deployments are remembered.
pub const HISTORY_MAX: usize = 128;
/// How many of these may be tips that were refused.
pub const REFUSALS_IN_HISTORY_MAX: usize = 32;

/// So many rollbacks within a day suspend the host.
pub const ROLLBACKS_MAX: usize = 3;

/// How often a switch that stopped half-way is run once more.
pub const SWITCH_REPEATS_MAX: u32 = 1;

/// Everything that survives a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    /// The accepted tip of the main line: the anchor. Only its descendants are accepted next.
    pub main: Option<Tip>,
    /// What root named as the next anchor, until that has run its course.
    pub vouched: Option<Vouched>,
    /// The trust settings that count; `None`: nothing was adopted yet, and those of the running system do.
    pub trust: Option<AdoptedTrust>,
    /// Every key that adopted settings revoked at any time, oldest first; no more than [`super::REVOKED_BYTES_MAX`].
    pub revoked: VecDeque<String>,
    /// The test line.
    pub test: Option<TestLine>,
    /// The test system that runs. It may be an older one than the test line's: that one may have come to nothing.
    pub entered: Option<Entered>,
    /// What was last made permanent.
    pub settled: Option<Settled>,
    /// The deployment under way.
    pub deployment: Option<Deployment>,
    /// What an operator said about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Answer>,
    /// Tips that were refused for good.
    pub refused: VecDeque<Refusal>,
    /// Targets that are not tried again by themselves.
    pub quarantine: VecDeque<Quarantined>,
    /// How often a reset of the host ended the probation of one target.
    pub resets: Option<Resets>,
    /// How often the boot loader lost the trial boot of one target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_trials: Option<Resets>,
    /// The target that the host was rolled back from for a reason that may pass.
    pub setback: Option<Setback>,
    /// The rollback whose cause is still to be looked into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recheck: Option<Recheck>,
    /// Generations that may have to go after the deployment that was confirmed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tidying: Option<Tidying>,
    /// When the host was rolled back since it was resumed last, newest last; no more than [`ROLLBACKS_MAX`].
    pub rollbacks: VecDeque<u64>,
    /// The system that waits for a reboot, since the deployment that ended last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub awaiting: Option<Awaiting>,
    /// The `activation.retryNonce` that was seen last in an accepted revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_nonce: Option<String>,
    /// The revision that was built last while the host was suspended after too many rollbacks, which is not built again
    /// before that ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peeked: Option<Oid>,
    /// Deployments are stopped.
    pub suspension: Option<Suspension>,
    /// Ended deployments, newest last.
    pub history: VecDeque<Ended>,
    /// How many deployments this host has begun; numbers them.
    pub deployments_begun: u64,
    /// A newer version wrote something that this one does not understand.
    pub foreign: Option<Foreign>,
    /// What later versions remember besides, carried through for them: a rollback may hand them back their journal.
    #[serde(flatten)]
    pub later: serde_json::Map<String, serde_json::Value>,
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
    /// It runs, see [`State::entered`].
    Entered,
    /// It ran or was tried, and does not come back by itself.
    Over {
        /// Why, for people.
        why: String,
    },
}

/// A test system that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entered {
    /// The commit.
    pub tip: Tip,
    /// The system it built.
    pub toplevel: StorePath,
    /// Since when.
    pub at: u64,
}

/// What is permanent: deployed by us, or found so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settled {
    /// The commit.
    pub tip: Tip,
    /// The system it built.
    pub toplevel: StorePath,
    /// Its generation in the `system` profile.
    pub generation: Option<u64>,
    /// Which deployment did it; `None`: root installed it.
    pub id: Option<DeploymentId>,
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
#[expect(clippy::large_enum_variant, reason = "a state has no more than one")]
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
    /// What of the new system takes a reboot; `None`: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reboot: Option<Box<RebootNeed>>,
    /// How often the switch was run once more after it had stopped half-way; at most [`SWITCH_REPEATS_MAX`].
    #[serde(default, skip_serializing_if = "is_zero")]
    pub switch_repeats: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
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
    /// The new system is to be booted once, by this entry; the reboot may have been requested.
    Staged {
        /// What names the entry to the boot loader.
        entry: String,
    },
    /// The new system was booted for a trial; its health is being proven.
    BootTrial,
    /// Health is being proven.
    Soaking,
    /// It proved healthy, and somebody has to confirm it.
    Proven {
        /// Until when an answer is waited for.
        until_boottime_ms: u64,
    },
    /// Decided: the new system stays.
    Confirming,
    /// Decided: the old system comes back.
    RollingBack {
        /// Why.
        reason: String,
        /// Which checks failed.
        failures: Vec<String>,
        /// Whether the target is to blame.
        #[serde(default, skip_serializing_if = "Class::is_target")]
        class: Class,
        /// A stable word for the cause, where it is another than a check: [`super::REJECTED`], [`super::UNCONFIRMED`],
        /// [`super::INTERRUPTED`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
        /// The hard checks that spoke against it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        red: Option<Red>,
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

/// How often the host was rolled back from one target although nothing is wrong with it, as far as is known. It is
/// tried again, later and later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setback {
    /// The target.
    pub target: Target,
    /// How often.
    pub count: u32,
    /// Why, the last time.
    pub text: String,
    /// When, the last time.
    pub at: u64,
    /// What it is put down to.
    #[serde(default)]
    pub cause: Cause,
}

/// A target that waits for a reboot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Awaiting {
    /// The target.
    pub target: Target,
    /// The system it built.
    pub toplevel: StorePath,
    /// What ran, when it came to this. From another system it may be switched to.
    pub from: Option<StorePath>,
    /// Why the reboot is needed, and why it is not done.
    pub reboot: AwaitedReboot,
    /// Since when.
    pub at: u64,
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
        /// The generations that went after it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        removed: Vec<u64>,
    },
    /// Entered for a test.
    Tested,
    /// The old system came back.
    RolledBack {
        /// Why.
        reason: String,
        /// Which checks failed.
        failures: Vec<String>,
        /// Whether the target is to blame.
        #[serde(default, skip_serializing_if = "Class::is_target")]
        class: Class,
        /// A stable word for the cause, where it is another than a check.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
    },
    /// The old system could not be brought back.
    RollbackFailed {
        /// Why it was to be rolled back.
        reason: String,
        /// What went wrong then.
        text: String,
        /// Whether the target is to blame.
        #[serde(default, skip_serializing_if = "Class::is_target")]
        class: Class,
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
    /// It waits for a reboot that the agent does not do.
    RebootAwaited {
        /// Why the reboot is needed, and why it is not done.
        reboot: AwaitedReboot,
    },
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
    /// A reboot into a trial entry is under way.
    Rebooting,
    /// A trial entry has booted.
    BootTrial,
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
                Step::Staged { .. } => Phase::Rebooting,
                Step::BootTrial => Phase::BootTrial,
                Step::Soaking | Step::Proven { .. } => Phase::Soaking,
                Step::Confirming => Phase::Confirming,
                Step::RollingBack { .. } => Phase::RollingBack,
            },
        }
    }

    /// Tells whether `revision` is what was made permanent last.
    pub fn is_settled(&self, revision: &Oid) -> bool {
        self.settled.as_ref().is_some_and(|s| s.tip.revision == *revision)
    }

    /// Returns how a deployment ended, to say more of it.
    pub(super) fn outcome_mut(&mut self, id: &DeploymentId) -> Option<&mut Outcome> {
        self.history.iter_mut().rfind(|e| e.id.as_ref() == Some(id)).map(|e| &mut e.outcome)
    }

    /// Returns the quarantine entry that stands in the way of `target`, or of the system it built.
    pub fn quarantined(&self, target: &Target, toplevel: Option<&StorePath>) -> Option<&Quarantined> {
        let same =
            |q: &&Quarantined| q.target == *target || (toplevel.is_some() && q.toplevel.as_ref() == toplevel);
        self.quarantine.iter().rev().find(same)
    }
}
