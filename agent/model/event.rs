//! What happened ([`Event`], past tense), what was seen ([`Sighting`]), and what an operator wants ([`Command`]).
//!
//! Only what must survive a crash is an [`Event`] and reaches the journal; what the next look at the
//! world shows anyway is a [`Sighting`] and does not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    AdoptedTrust, Answer, CheckFacts, Class, Decision, DeploymentId, Desired, GuardFacts, HintWord,
    HostFacts, Kin, Nonce, Oid, OldProtocol, Red, StorePath, Tip, TrustSettings,
};
use super::{AwaitedReboot, Failure, RebootNeed, Refusal, Suspension};

/// What an action came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one is made for each step, and moved twice")]
pub enum Happened {
    /// It must survive: to the journal, then into the state.
    Event(Event),
    /// It need not survive.
    Saw(Sighting),
}

/// Something that must survive a crash. The journal holds these and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Event {
    /// A tip of the main line was verified; it is the new anchor.
    MainAccepted {
        /// The new anchor.
        tip: Tip,
    },
    /// A test tip was verified.
    TestAccepted {
        /// The tip.
        tip: Tip,
        /// The main tip it stands on.
        main: Oid,
    },
    /// A tip was refused, and the verdict can't change while tip and policy stay the same.
    Refused {
        /// What was refused.
        refusal: Refusal,
    },
    /// A target cannot be built.
    BuildFailed {
        /// What was to be built.
        desired: Desired,
        /// Why not.
        failure: Failure,
        /// When.
        at: u64,
    },
    /// A system was built: a deployment begins.
    Built {
        /// Its name from now on.
        id: DeploymentId,
        /// What and why.
        desired: Desired,
        /// The derivation, where there is one.
        drv: Option<String>,
        /// The system.
        toplevel: StorePath,
        /// The trust settings of its configuration, if it has any that can be used.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trust: Option<TrustSettings>,
        /// The keys that its configuration revokes; they count even where its other trust settings can't be used.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        revoked: Vec<String>,
        /// Its `activation.retryNonce`, if it has a configuration that can be read.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nonce: Option<Nonce>,
        /// When.
        at: u64,
    },
    /// Everything that a rollback needs is in place.
    Prepared {
        /// Which deployment.
        id: DeploymentId,
        /// The system to come back to.
        old: StorePath,
        /// The boot this probation belongs to.
        boot_id: String,
        /// When the long timer fires.
        deadline_boottime_ms: u64,
        /// Hard checks that were red before the switch; they count as soft this time.
        red_before: Vec<String>,
        /// What of the new system takes a reboot; `None`: nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reboot: Option<RebootNeed>,
    },
    /// The long guard timer runs; from here on the switch may have begun.
    Armed {
        /// Which deployment.
        id: DeploymentId,
    },
    /// The switch ended, or was never started for a reason that facts show.
    Switched {
        /// Which deployment.
        id: DeploymentId,
        /// What the host says afterwards.
        ended: SwitchEnd,
    },
    /// All is set up for one boot of the new system, which the old one stays the default of.
    Staged {
        /// Which deployment.
        id: DeploymentId,
        /// What names the new system's entry to the boot loader.
        entry: String,
    },
    /// The new system was booted for its trial, and a guard watches.
    TrialBooted {
        /// Which deployment.
        id: DeploymentId,
        /// This boot.
        boot_id: String,
        /// When the guard reboots into the old system.
        deadline_boottime_ms: u64,
    },
    /// A switch that stopped half-way is run once more: it goes on where it stopped.
    SwitchRepeated {
        /// Which deployment.
        id: DeploymentId,
    },
    /// The shorter timer runs; the health phase began.
    SoakStarted {
        /// Which deployment.
        id: DeploymentId,
        /// When the shorter timer fires.
        deadline_boottime_ms: u64,
    },
    /// The new system proved healthy, and somebody has to confirm it.
    HealthProven {
        /// Which deployment.
        id: DeploymentId,
        /// Until when an answer is waited for.
        until_boottime_ms: u64,
        /// When the timer that bounds this wait fires.
        deadline_boottime_ms: u64,
        /// Soft checks that failed, with their last words.
        failures: Vec<String>,
    },
    /// An operator spoke about the deployment under way.
    Answered {
        /// What was said.
        answer: Answer,
    },
    /// The decision is on disk. It may be the guard's.
    Decided {
        /// Which deployment.
        id: DeploymentId,
        /// The decision that stands.
        decision: Decision,
        /// Checks that failed, with their last words.
        failures: Vec<String>,
        /// The hard ones among them, if the agent decided.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        red: Option<Red>,
    },
    /// The new system is permanent (`switch`), or entered (`test`).
    Confirmed {
        /// Which deployment.
        id: DeploymentId,
        /// The profile's generation; `None` for a test.
        generation: Option<u64>,
        /// When.
        at: u64,
    },
    /// It is known which generations are to go; `numbers` may be empty.
    GenerationsChosen {
        /// Which deployment was confirmed.
        id: DeploymentId,
        /// Their numbers.
        numbers: Vec<u64>,
    },
    /// They went, and so did their boot entries.
    GenerationsRemoved {
        /// Which deployment was confirmed.
        id: DeploymentId,
        /// Their numbers.
        numbers: Vec<u64>,
        /// When.
        at: u64,
    },
    /// The host runs the old system again.
    RolledBack {
        /// Which deployment.
        id: DeploymentId,
        /// How that came about, for people.
        how: String,
        /// When.
        at: u64,
    },
    /// The old system's checks were tried once more after a rollback.
    OldChecked {
        /// Which deployment was rolled back.
        id: DeploymentId,
        /// Whether all that was red under the new system is red under the old one, too.
        environment: bool,
        /// What was red, with its last words.
        failures: Vec<String>,
        /// When.
        at: u64,
    },
    /// The old system could not be brought back; somebody has to look.
    RollbackFailed {
        /// Which deployment.
        id: DeploymentId,
        /// What went wrong.
        text: String,
        /// When.
        at: u64,
    },
    /// Somebody else switched the host during the probation; it was left as they wanted it.
    Superseded {
        /// Which deployment.
        id: DeploymentId,
        /// What runs instead.
        running: Option<StorePath>,
        /// When.
        at: u64,
    },
    /// The deployment was called off before it touched the host, or a reset ended it.
    Abandoned {
        /// Which deployment.
        id: DeploymentId,
        /// Why.
        failure: Failure,
        /// When.
        at: u64,
    },
    /// The deployment waits for a reboot that the agent does not do. The host runs what it ran before; the target is as good
    /// as ever.
    RebootAwaited {
        /// Which deployment.
        id: DeploymentId,
        /// Why the reboot is needed, and why it is not done.
        reboot: AwaitedReboot,
        /// When.
        at: u64,
    },
    /// The accepted revision runs and is permanent without a deployment of ours: root installed it.
    Adopted {
        /// The system.
        toplevel: StorePath,
        /// Its generation in the `system` profile.
        generation: Option<u64>,
        /// When this was seen.
        at: u64,
    },
    /// The trust settings of the running, permanent system count from now on.
    TrustAdopted {
        /// The settings, and the revision that they come from.
        trust: AdoptedTrust,
    },
    /// Root named the next anchor.
    RootAccepted {
        /// The commit.
        revision: Oid,
        /// Who.
        by: String,
        /// When.
        at: u64,
    },
    /// A test system no longer runs, and this was not our doing (a reboot, an operator).
    TestLost {
        /// When.
        at: u64,
    },
    /// An operator suspended deployments, or too many rollbacks did.
    Suspended {
        /// The suspension.
        suspension: Suspension,
    },
    /// An operator lifted the suspension.
    Resumed {
        /// Who.
        by: String,
        /// When.
        at: u64,
    },
    /// An operator wants a target tried again.
    RetryRequested {
        /// Which revision; `None` for all that is remembered as bad.
        revision: Option<Oid>,
        /// Who.
        by: String,
        /// When.
        at: u64,
    },
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
            Event::SwitchRepeated { .. } => "switch-repeated",
            Event::Staged { .. } => "staged",
            Event::TrialBooted { .. } => "trial-booted",
            Event::SoakStarted { .. } => "soak-started",
            Event::HealthProven { .. } => "health-proven",
            Event::Answered { .. } => "answered",
            Event::Decided { .. } => "decided",
            Event::Confirmed { .. } => "confirmed",
            Event::GenerationsChosen { .. } => "generations-chosen",
            Event::GenerationsRemoved { .. } => "generations-removed",
            Event::RolledBack { .. } => "rolled-back",
            Event::OldChecked { .. } => "old-checked",
            Event::RollbackFailed { .. } => "rollback-failed",
            Event::Superseded { .. } => "superseded",
            Event::Abandoned { .. } => "abandoned",
            Event::RebootAwaited { .. } => "reboot-awaited",
            Event::Adopted { .. } => "adopted",
            Event::TrustAdopted { .. } => "trust-adopted",
            Event::RootAccepted { .. } => "root-accepted",
            Event::TestLost { .. } => "test-lost",
            Event::Suspended { .. } => "suspended",
            Event::Resumed { .. } => "resumed",
            Event::RetryRequested { .. } => "retry-requested",
        }
    }

    /// Tells whether an older version that does not know this event must stop and act on the phase alone.
    ///
    /// Only an event that merely informs may be carried through unread.
    pub fn must_understand(&self) -> bool {
        !matches!(
            self,
            Event::BuildFailed { .. }
                | Event::Refused { .. }
                | Event::OldChecked { .. }
                | Event::GenerationsChosen { .. }
                | Event::GenerationsRemoved { .. }
                | Event::Adopted { .. }
                | Event::TrustAdopted { .. }
                | Event::TestLost { .. }
        )
    }
}

/// How a switch ended, judged by facts and not by its exit code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum SwitchEnd {
    /// The host runs the new system. `exit` may still be non-zero.
    Complete {
        /// The exit code of `switch-to-configuration test`, where it is known.
        exit: Option<i32>,
        /// What the switch said, if that was not 0.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        text: String,
    },
    /// The host runs the old system, and nothing is left over.
    Unchanged {
        /// What the switch said, and whether it is the target's own fault.
        failure: Failure,
    },
    /// Half-way between.
    Torn {
        /// What the switch said.
        text: String,
        /// Whether it ended by itself, so that it may go on where it stopped if it is run once more.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        resumable: bool,
        /// Whether the target is to blame. Versions that did not write it blamed the target.
        #[serde(default, skip_serializing_if = "Class::is_target")]
        class: Class,
    },
}

/// What need not survive: the next look shows it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sighting {
    /// What the host says. Ends [`super::Action::Observe`].
    Host {
        /// The wall clock, unix seconds.
        now: u64,
        /// Facts of the host.
        host: Box<HostFacts>,
        /// Facts of the guard of the deployment on probation.
        guard: GuardFacts,
        /// The revision that root pinned: the running system's, or the configured introduction.
        introduction: Option<Oid>,
        /// The trust settings in the running system, if it has any that can be used.
        trust: Option<TrustSettings>,
    },
    /// The host could not be looked at. Ends [`super::Action::Observe`], too: nothing is guessed.
    Blind {
        /// The wall clock, unix seconds.
        now: u64,
        /// What could not be read, and why.
        text: String,
    },
    /// A remote named its tips.
    Heads {
        /// The remote.
        remote: String,
        /// Branch to tip; exact names of the configuration only.
        heads: BTreeMap<String, Oid>,
        /// What the answer cost if the server speaks an old version of Git's protocol.
        old: Option<OldProtocol>,
        /// When.
        at: u64,
    },
    /// A remote could not be asked.
    Unreachable {
        /// The remote.
        remote: String,
        /// Stable word for the kind of failure.
        class: String,
        /// What it said.
        text: String,
        /// When.
        at: u64,
    },
    /// A source of hints was heard, found or lost.
    Hint {
        /// The hint.
        name: String,
        /// How it fares.
        word: HintWord,
        /// When.
        at: u64,
    },
    /// How one commit stands to another. Ends [`super::Action::Relate`].
    Related {
        /// The one.
        revision: Oid,
        /// The other.
        to: Oid,
        /// What the first is to the second.
        kin: Kin,
    },
    /// An action failed in a way that may pass by itself.
    Failed {
        /// Which target, or which tip.
        revision: Oid,
        /// Who was asked for it, where it was not accepted yet.
        remote: Option<String>,
        /// Why.
        failure: Failure,
        /// When.
        at: u64,
    },
    /// The health checks of a deployment were tried.
    Checked {
        /// Which deployment.
        id: DeploymentId,
        /// How they fare.
        checks: Vec<CheckFacts>,
    },
    /// A wait ended.
    Woke,
}

/// What an operator asked for on the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Command {
    /// Ask the remotes now.
    Sync,
    /// Stop deploying.
    Suspend {
        /// Why, for people.
        reason: Option<String>,
        /// Until when; `None`: until resumed.
        until: Option<u64>,
        /// Who asks.
        by: String,
    },
    /// Deploy again.
    Resume {
        /// Who asks.
        by: String,
    },
    /// Make one commit the next anchor. Only root may.
    Accept {
        /// Which.
        revision: Oid,
        /// Who asks.
        by: String,
    },
    /// Say that the system on probation stays, once it is healthy.
    Confirm {
        /// Which; `None`: whatever is on probation.
        revision: Option<Oid>,
        /// Who asks.
        by: String,
    },
    /// Have the old system back.
    Reject {
        /// Which; `None`: whatever is under way.
        revision: Option<Oid>,
        /// Why, for people.
        reason: Option<String>,
        /// Who asks.
        by: String,
    },
    /// Forget that a target was bad.
    Retry {
        /// Which; `None`: all.
        revision: Option<Oid>,
        /// Who asks.
        by: String,
    },
}
