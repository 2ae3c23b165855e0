//! Whether a deployment takes a reboot, whether that may be done now, and what to tell people about it.

use jiff::tz::TimeZone;

use super::window::{self, Standing};
use super::{Facts, Policy};
use crate::model::{
    AwaitedReboot, Awaiting, Deployment, Desired, HostFacts, Operation, RebootNeed, RebootPolicy, State,
    StorePath, Why, Window,
};

/// What the configuration says about reboots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reboots {
    /// Whether the agent may reboot the host.
    pub policy: RebootPolicy,
    /// When, if only then.
    pub windows: Vec<Window>,
}

/// Whether the host may be rebooted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Now.
    Now,
    /// Not now, but from this second on; `None`: it can't be told when.
    Later(Option<u64>),
    /// Not by the agent.
    Never,
}

/// A reboot that would change what the host runs, and that has not been done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingReboot {
    /// What would be booted.
    pub toplevel: StorePath,
    /// What would change by that, in words.
    pub reasons: Vec<String>,
    /// Why it was not done, in words.
    pub why: String,
    /// When the agent does it, if that is known.
    pub at: Option<u64>,
    /// Whether the system does not even run, because it can't be switched to.
    pub blocked: bool,
}

impl Reboots {
    /// Tells whether the host may be rebooted now.
    pub fn permission(&self, now: u64, zone: Option<&TimeZone>) -> Permission {
        match self.policy {
            RebootPolicy::Never => Permission::Never,
            RebootPolicy::Immediate => Permission::Now,
            RebootPolicy::Window => {
                match window::standing(&self.windows, now, zone.unwrap_or(&TimeZone::UTC)) {
                    Standing::Open => Permission::Now,
                    Standing::Closed { opens } => Permission::Later(opens),
                }
            }
        }
    }

    /// Says why a reboot is not done, as the policy has it.
    pub(super) fn reason(&self, permission: Permission) -> String {
        let windows: Vec<String> = self.windows.iter().map(Window::to_string).collect();
        match permission {
            Permission::Never => "policy never".to_owned(),
            Permission::Later(_) => format!("policy window; it opens at {}", windows.join(", ")),
            Permission::Now => format!("policy {}; it comes next", self.policy),
        }
    }
}

/// How a prepared deployment goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// It is switched to, and whatever takes a reboot waits for one.
    Live,
    /// It is booted once, and permanent when it has proved healthy.
    Trial,
    /// It waits for a reboot.
    Wait(AwaitedReboot),
}

/// Decides how a prepared deployment goes on.
pub(super) fn route(
    d: &Deployment,
    need: Option<&RebootNeed>,
    permission: Permission,
    policy: &Policy,
) -> Route {
    let Some(need) = need else { return Route::Live };
    let booted = d.desired.operation == Operation::Switch;
    if booted && permission == Permission::Now && need.no_trial.is_none() {
        return Route::Trial;
    }
    if need.forbids_switch.is_empty() && d.desired.why != Why::Reboot {
        return Route::Live;
    }
    let why = match &need.no_trial {
        _ if !booted => "a test is never booted into".to_owned(),
        Some(obstacle) if permission != Permission::Never => {
            format!("it can't be tried safely by a boot that falls back: {obstacle}")
        }
        Some(_) | None => policy.reboots.reason(permission),
    };
    let given_up = need.no_trial.is_some() && permission != Permission::Never;
    Route::Wait(AwaitedReboot { need: need.clone(), why, given_up })
}

/// Tells whether what is desired waits for a reboot, so that there is no use in trying it.
pub(super) fn waits(desired: &Desired, state: &State, host: &HostFacts, permission: Permission) -> bool {
    let Some(awaiting) = state.awaiting.as_ref().filter(|a| a.target == desired.tip.target()) else {
        return false;
    };
    let elsewhere = awaiting.from.is_some() && host.running != awaiting.from;
    let allowed = permission == Permission::Now && !awaiting.reboot.given_up;
    !elsewhere && !allowed
}

/// Tells whether what runs for good is to be booted, too.
pub(super) fn is_due(host: &HostFacts, permission: Permission) -> bool {
    let permanent = host.running.is_some() && host.running == host.profile && !host.is_torn();
    permanent && !host.reboot_reasons.is_empty() && permission == Permission::Now
}

/// Tells whether the host may be rebooted now.
pub(super) fn permission(facts: &Facts, policy: &Policy) -> Permission {
    let zone = facts.host.as_ref().and_then(|host| host.zone.as_ref());
    policy.reboots.permission(facts.now, zone)
}

/// Returns when a window opens that something waits for.
pub(super) fn next_window(state: &State, facts: &Facts, policy: &Policy) -> Option<u64> {
    pending(state, facts, policy)?.at
}

/// Returns the reboot that has not been done, if there is one.
pub fn pending(state: &State, facts: &Facts, policy: &Policy) -> Option<PendingReboot> {
    let host = facts.host.as_ref()?;
    let permission = permission(facts, policy);
    let main = state.main.as_ref().map(|tip| tip.target());
    let awaiting = state.awaiting.as_ref().filter(|a| Some(&a.target) == main.as_ref());
    let opens = match permission {
        Permission::Later(opens) => opens,
        Permission::Now | Permission::Never => None,
    };
    match awaiting {
        Some(Awaiting { toplevel, reboot, .. }) if host.booted.as_ref() != Some(toplevel) => {
            Some(PendingReboot {
                toplevel: toplevel.clone(),
                reasons: reboot.need.reasons.clone(),
                why: if reboot.given_up { reboot.why.clone() } else { policy.reboots.reason(permission) },
                at: opens.filter(|_| !reboot.given_up),
                blocked: host.running.as_ref() != Some(toplevel),
            })
        }
        Some(_) | None if host.reboot_reasons.is_empty() => None,
        Some(_) | None => Some(PendingReboot {
            toplevel: host.profile.clone()?,
            reasons: host.reboot_reasons.clone(),
            why: policy.reboots.reason(permission),
            at: opens,
            blocked: false,
        }),
    }
}
