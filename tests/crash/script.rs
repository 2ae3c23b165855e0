//! What a run is made of: commits and how they behave, the systems they build, cuts, faults, planted bugs.

use pullagent::model::{Action, Deployment, Oid, RebootPolicy, StorePath};
use pullagent::plan::{Policy, Reboots, Retention};

/// How a commit behaves once it is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    Good,
    Unsigned,
    /// Can't be built, ever.
    Unbuildable,
    /// The build fails twice for reasons that pass.
    Flaky,
    Unhealthy,
    /// The switch stops half-way.
    Torn,
    /// So does it, but goes on and gets through if it is run once more.
    TornOnce,
    /// The switch to it is killed half-way, twice.
    Killed,
    /// The switch says no before it changes anything, for good.
    Refusing,
    /// Activating it resets the host, each time.
    Resetting,
    /// An operator switches to a third system while it is on probation.
    OperatorSwitches,
    /// The switch never ends by itself.
    Hanging,
    /// The health phase outlasts the guard, as on a host that was asleep.
    Sluggish,
    /// The remote can't be reached from it, until it was tried twice.
    Offline,
    /// The remote can't be reached from it, ever.
    CutOff,
    /// It is healthy, and somebody has to confirm it, who does.
    Confirmed,
    /// The same, but it is rejected.
    Rejected,
    /// The same, but nobody answers.
    Unanswered,
    /// It is rejected while its health is being proven.
    RejectedUnasked,
    /// Good, and its configuration lifts the suspension after too many rollbacks.
    Lifting,
    /// A check is red under it and under the old system, until it was tried twice.
    Storm,
    /// A check across the network is red when it is tried first.
    Faraway,
    /// The same, but each time.
    Unplugged,
    /// Unhealthy, and its configuration revokes the thief's key.
    Revoking,
    /// It has another kernel, and the rest can be switched to.
    NewKernel,
    /// It can only be booted: another kernel, and another init.
    Inhibited,
    /// It has another kernel, which panics before anything else runs.
    Panics,
    /// It has another kernel; its system comes up, and goes down before its agent can say a word.
    Falls,
    /// It has another kernel, and hangs when it is booted.
    Hangs,
    /// It has another kernel; booted, it is unhealthy.
    SickKernel,
    /// Its entry for one boot is lost by the firmware, each time.
    LosesEntry,
    /// Signed with the thief's key.
    ByThief,
}

impl Behaviour {
    /// Whether its kernel is not that of the others.
    pub fn has_own_kernel(self) -> bool {
        use Behaviour::{Falls, Hangs, Inhibited, LosesEntry, NewKernel, Panics, SickKernel};
        matches!(self, NewKernel | Inhibited | Panics | Falls | Hangs | SickKernel | LosesEntry)
    }
}

#[derive(Debug, Clone)]
pub struct Commit {
    pub behaviour: Behaviour,
    pub parent: Oid,
}

/// What ends the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// `kill -9`; it is started again at once.
    Kill,
    /// `kill -9`; it stays dead for longer than any guard waits.
    LongKill,
    /// The host loses power and boots again.
    Power,
}

/// A kind of action that fails for a while, for a reason that passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The variant of [`Action`].
    pub action: &'static str,
    /// How often it fails.
    pub times: u32,
    /// Whether it fails after its work is done.
    pub done: bool,
}

/// A mistake that the sweep must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    RollsBackToWrongPath,
    AnnouncedBeforeJournaled,
    LostQuarantine,
    GuardNotArmed,
    ProfileSetTooEarly,
    BootDefaultMovedTooEarly,
    DecisionOverwritten,
    ConfirmForgetsBootEntry,
    RestartedSwitchForgotten,
    TestMadePermanent,
    /// A rollback because of the remote is held against the target.
    TargetBlamed,
    /// The same, but only where the decision is read from disk, after a cut.
    ClassLeftOut,
    /// A system that somebody has to confirm is confirmed by itself.
    NobodyAsked,
    /// What was red is forgotten in a crash.
    RedLost,
    /// Generations go, and their boot entries stay.
    EntriesForgotten,
    /// A new nonce is not seen.
    NonceLost,
    /// A red check across the network is the target's fault at once.
    NetworkBlamed,
    /// The keys that count are those of whatever runs.
    OldKeysBack,
    /// A trial boot has no guard.
    BootGuardLeftOut,
    /// A trial boot's system is what boots by default.
    TrialMadeDefault,
    /// A rollback forgets when it happened, so that nothing waits after it.
    TimeOfRollbackLost,
}

pub fn oid(n: u32) -> Oid {
    format!("{n:040x}").parse().unwrap()
}

pub fn system(oid: &Oid) -> StorePath {
    // A store path's hash has no e, o, t or u.
    let hash: String = oid.as_str()[8..].replace('e', "z");
    format!("/nix/store/{hash}-nixos-system-web1").parse().unwrap()
}

pub fn third_system() -> StorePath {
    "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-operators-own".parse().unwrap()
}

/// Names the actions that can fail, and what they are about.
pub(super) fn name_and_revision(action: &Action) -> Option<(&'static str, Oid)> {
    let of = |name, d: &Deployment| Some((name, d.desired.tip.revision.clone()));
    match action {
        // A rollback that fails ends the deployment with an event of its own.
        Action::CheckOld(_)
        | Action::Observe(_)
        | Action::Wait { .. }
        | Action::Record(_)
        | Action::Relate { .. }
        | Action::RollBack(_) => None,
        Action::Verify(v) => Some(("Verify", v.candidate.revision.clone())),
        Action::Build(_, desired) => Some(("Build", desired.tip.revision.clone())),
        Action::Prepare(d) => of("Prepare", d),
        Action::Arm(d) => of("Arm", d),
        Action::Switch(d) => of("Switch", d),
        Action::Shorten(d) => of("Shorten", d),
        Action::CheckHealth(d) => of("CheckHealth", d),
        Action::AwaitAnswer(d) => of("AwaitAnswer", d),
        Action::Decide(d, _) => of("Decide", d),
        Action::Confirm(d) => of("Confirm", d),
        Action::Abandon(d, _) => of("Abandon", d),
        Action::Stage(d) => of("Stage", d),
        Action::Reboot(d) => of("Reboot", d),
        Action::EnterTrial(d) => of("EnterTrial", d),
        Action::AwaitReboot(d, _) => of("AwaitReboot", d),
        Action::ChooseGenerations(t) => Some(("ChooseGenerations", t.revision.clone())),
        Action::RemoveGenerations(t) => Some(("RemoveGenerations", t.revision.clone())),
    }
}

/// What the configuration says about decisions.
pub fn policy(reboots: RebootPolicy) -> Policy {
    Policy {
        remotes: vec!["origin".to_owned()],
        main_branch: "main".to_owned(),
        test_branch: Some("test-web1".to_owned()),
        trust_digest: "policy-1".to_owned(),
        enforce_drift: false,
        expected_machine_id: None,
        arming_margin_ms: 1_000_000,
        tolerate_activation_errors: false,
        stale_after_secs: 24 * 3600,
        reboots: Reboots { policy: reboots, windows: vec!["02:00-05:00".parse().unwrap()] },
        retention: Retention { keep: Some(1), age_max_secs: None },
    }
}
