//! What the loop may do: [`Action`], imperative.

use super::{
    AwaitedReboot, Candidate, Decision, Deployment, DeploymentId, Desired, Event, Failure, Keys, Oid,
    Recheck, Tidying, Tip,
};

/// The next thing to do. Each is safe to repeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the host what it runs, and the guard of this deployment what it did.
    Observe(Option<DeploymentId>),
    /// Do nothing until something happens, or until this wall-clock second.
    Wait {
        /// `None`: only a wake ends the wait.
        until: Option<u64>,
    },
    /// Find out how one commit stands to another in the history that was fetched.
    Relate {
        /// The one.
        revision: Oid,
        /// The other: the accepted tip.
        to: Oid,
    },
    /// Fetch a tip if it is not stored yet, and verify it against the accepted history.
    Verify(Verification),
    /// Evaluate and realise a verified commit, as the deployment of this name.
    Build(DeploymentId, Desired),
    /// Ready everything a rollback needs: roots, space, pre-switch check, baseline, plan, pinned binary.
    Prepare(Deployment),
    /// Start the long guard timer.
    Arm(Deployment),
    /// Start the switch, or re-attach to it, and see it end.
    Switch(Deployment),
    /// Install the new system's boot entry beside the default one, and the guard of its trial boot.
    Stage(Deployment),
    /// Make that entry the one of the next boot only, and reboot.
    Reboot(Deployment),
    /// Take over in the new system after its trial boot: see to its guard.
    EnterTrial(Deployment),
    /// Start the shorter guard timer that bounds the health phase.
    Shorten(Deployment),
    /// Probe until healthy for the soak time, or unhealthy, or the window is over.
    CheckHealth(Deployment),
    /// Probe on until somebody answers, a check fails, or the time to answer is over.
    AwaitAnswer(Deployment),
    /// Try the old system's checks once more after a rollback, to learn whose fault it was.
    CheckOld(Recheck),
    /// Choose which generations go after a deployment was confirmed.
    ChooseGenerations(Tidying),
    /// Remove those that were chosen, and their boot entries.
    RemoveGenerations(Tidying),
    /// Write the one decision, unless the guard was first.
    Decide(Deployment, Decision),
    /// Make the new system permanent: profile and boot entry.
    Confirm(Deployment),
    /// Let the guard roll back, and see it end.
    RollBack(Deployment),
    /// Call a deployment off that did not touch the host, or that a reset undid: disarm its guard.
    Abandon(Deployment, Failure),
    /// End a deployment that did not touch the host, because it takes a reboot that is not allowed now or not safe: disarm
    /// its guard.
    AwaitReboot(Deployment, AwaitedReboot),
    /// Journal what the facts show.
    Record(Event),
}

impl Action {
    /// Tells whether the action may be dropped half-way when something newer makes it moot. Dropping kills its children.
    pub fn may_be_dropped(&self) -> bool {
        match self {
            Action::Wait { .. }
            | Action::Relate { .. }
            | Action::Verify(_)
            | Action::Build(..)
            | Action::CheckHealth(_)
            | Action::AwaitAnswer(_)
            | Action::CheckOld(_) => true,
            Action::Observe(_)
            | Action::Record(_)
            | Action::Prepare(_)
            | Action::ChooseGenerations(_)
            | Action::RemoveGenerations(_)
            | Action::Arm(_)
            | Action::Switch(_)
            | Action::Shorten(_)
            | Action::Decide(..)
            | Action::Confirm(_)
            | Action::RollBack(_)
            | Action::Stage(_)
            | Action::Reboot(_)
            | Action::EnterTrial(_)
            | Action::AwaitReboot(..)
            | Action::Abandon(..) => false,
        }
    }
}

/// A tip to be verified, and what to hold it against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// The tip.
    pub candidate: Candidate,
    /// The line it has to continue.
    pub line: Line,
    /// Names policy and accepted tip; a refusal holds as long as it stays the same.
    pub judged_by: String,
    /// Whose signatures count.
    pub keys: Keys,
}

/// Which history a tip has to continue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The first contact: the tip must descend from the introduction, which root pinned by id.
    Introduction(Oid),
    /// Root named this very commit as the next anchor, whatever it descends from.
    Root(Oid),
    /// Root installed this very commit by hand; it becomes the anchor if it descends from the accepted tip.
    Installed {
        /// What the running system was built from.
        revision: Oid,
        /// The accepted tip.
        main: Tip,
    },
    /// Fast-forward from the accepted tip.
    Main(Tip),
    /// On top of the accepted main line; it may have been rewritten since `previous`.
    Test {
        /// The accepted main line.
        main: Tip,
        /// The test tip accepted before this one.
        previous: Option<Tip>,
    },
}
