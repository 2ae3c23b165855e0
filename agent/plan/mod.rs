//! What to do next: [`next`] takes what is remembered ([`State`]), what is seen ([`Facts`]) and what is configured
//! ([`Policy`]), and returns one [`Action`]. Nothing here waits, asks or remembers; whoever wonders why a host did
//! something can replay it.

mod alarm;
mod answer;
pub mod backoff;
pub mod calendar;
mod facts;
mod held;
mod keys;
mod main_line;
mod moot;
mod probation;
mod reboot;
mod retention;
mod select;
mod trial;
pub mod window;

pub use alarm::{Alarm, AlarmCode, Standing, alarms, is_stale, standing_of_remote};
pub use answer::{Wish, hear};
pub use facts::{Facts, HintFacts, RemoteFacts, Retry, Trouble};
pub use held::{Held, held, withheld};
pub use keys::{counting, judged_by};
pub use main_line::head;
pub use moot::is_moot;
pub use reboot::{PendingReboot, Permission, Reboots, pending as pending_reboot};
pub use retention::{Retention, removable};
pub use select::{TestStanding, not_before, standing_of_test};
pub use trial::LOST_MAX;

pub use crate::model::BREAKER;
use crate::model::{Action, Event, ROLLBACKS_MAX, State, Suspension};

/// How many resets may end the probation of one target before it counts as the target's fault.
///
/// One may be a power cut; a system that resets its host each time it is activated must not be tried for ever.
pub const RESETS_MAX: u32 = 3;

/// Within so many seconds [`ROLLBACKS_MAX`] rollbacks suspend the host.
const ROLLBACKS_WITHIN_SECS: u64 = 24 * 3600;
/// Why, and what to do about it.
const BREAKER_REASON: &str = "three rollbacks in 24 h; look at 'pullagent history', then 'pullagent resume'";

/// The word for a revision that was only built to look at its `activation.retryNonce`.
const SUSPENDED: &str = "suspended";

/// How many seconds to wait before a host that could not be looked at is looked at again.
const BLIND_SECS: u64 = 5;

/// What the configuration says about decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Names of the remotes, in order of preference.
    pub remotes: Vec<String>,
    /// The branch that is switched to.
    pub main_branch: String,
    /// The branch that is tested.
    pub test_branch: Option<String>,
    /// Names the trust policy: refusals under another one are judged afresh.
    pub trust_digest: String,
    /// Whether a system that somebody else switched to is replaced.
    pub enforce_drift: bool,
    /// The machine that this configuration is for.
    pub expected_machine_id: Option<String>,
    /// Milliseconds that a guard must have left for a switch to begin.
    pub arming_margin_ms: u64,
    /// Whether a system stays on trial although a script of its activation failed.
    pub tolerate_activation_errors: bool,
    /// After how many seconds without an answer a remote is stale.
    pub stale_after_secs: u64,
    /// Whether and when the host may be rebooted.
    pub reboots: Reboots,
    /// Which generations go after a deployment was confirmed.
    pub retention: Retention,
}

/// Decides what to do next.
pub fn next(state: &State, facts: &Facts, policy: &Policy) -> Action {
    if facts.blind.is_some() {
        return Action::Wait { until: Some(facts.now + BLIND_SECS) };
    }
    let Some(host) = &facts.host else {
        return Action::Observe(state.deployment.as_ref().map(|d| d.id.clone()));
    };
    match &state.deployment {
        Some(deployment) => probation::next(deployment, state, facts, host, policy),
        None => select::next(state, facts, host, policy),
    }
}

/// Suspends a host that was rolled back too often since somebody resumed it last: whatever is wrong with it, trying more
/// of it does not help, and each try costs its services a restart.
fn breaker(state: &State, now: u64) -> Option<Event> {
    // A time to come is what a clock left behind that has been set back since; it counts.
    let recent = state.rollbacks.iter().filter(|at| now.saturating_sub(**at) < ROLLBACKS_WITHIN_SECS).count();
    (recent >= ROLLBACKS_MAX).then(|| Event::Suspended {
        suspension: Suspension {
            by: BREAKER.to_owned(),
            reason: Some(BREAKER_REASON.to_owned()),
            until: None,
            at: now,
        },
    })
}

/// Tells whether the suspension in force is one that a new `activation.retryNonce` lifts: then an accepted revision is
/// built to look at it, and nothing is done to the host.
fn may_be_lifted(state: &State, now: u64) -> bool {
    suspended(state, now) && state.suspension.as_ref().is_some_and(|s| s.by == BREAKER)
}

/// Tells whether a suspension is in force.
pub fn suspended(state: &State, now: u64) -> bool {
    state.suspension.as_ref().is_some_and(|s| s.until.is_none_or(|until| now < until))
}
