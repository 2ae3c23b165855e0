//! Trial boots: how a system that takes a reboot is tried without ever being what the host boots by default.
//!
//! ```text
//! step        what is done in it, in this order                          what a cut of the power leaves
//! Prepared    trial profile := NEW; OLD's boot entries written (OLD is   OLD boots; the profile, an entry and a guard
//!             their default); the boot guard installed; all of it read   that has nothing to guard are cleared away by
//!             back, next boot foretold as OLD         ── Staged ──▶      the abandoning that follows
//! Staged      one-shot entry := NEW, read back; reboot requested         before the one-shot: OLD boots, "no trace"
//!             (phase `rebooting`)                     ═══ boot ═══       after it: NEW boots, as was wanted
//!  booted NEW the boot guard runs, started by systemd itself; NEW's      OLD boots: the loader has used the one-shot up
//!             agent adds a timer                      ── TrialBooted ─▶
//! BootTrial   health, with the deadline counted from the boot            OLD boots: a reset, tried again
//!             (phase `boot-trial`)                    ── Decided ──▶
//! Confirming  profile, boot default := NEW; guard and trial profile go   either boots; NEW was healthy
//! RollingBack the pinned OLD binary reboots: the default is OLD          OLD boots
//!  booted OLD decided against by the guard: the new system's fault. It left a trace and nobody decided: a reset, which is
//!             the new system's fault the second time. No trace, or the one-shot still set: the loader's or the
//!             firmware's; once more, then it waits for somebody
//! ```
//! The guard decides at its deadline, whoever is alive; nobody but NEW's own agent decides for NEW.

use super::reboot::{self, Permission};
use super::{Facts, Policy};
use crate::model::{
    Action, AwaitedReboot, Deployment, Event, Failure, HostFacts, LOADER, RebootNeed, State, Trial,
};

/// How often the loader may lose a trial before it is given up, and the host be reset in one before the new system is blamed.
pub const LOST_MAX: u32 = 2;

/// The trial is set up and the host was not rebooted yet.
pub(super) fn begin(d: &Deployment, trial: &Trial, state: &State, facts: &Facts, policy: &Policy) -> Action {
    match reboot::permission(facts, policy) {
        Permission::Now if state.foreign.is_none() => Action::Reboot(d.clone()),
        permission => {
            let why = policy.reboots.reason(permission);
            Action::AwaitReboot(d.clone(), awaited(trial, why, false))
        }
    }
}

/// The host was booted since the trial was set up, or since it began.
pub(super) fn after_boot(
    d: &Deployment,
    trial: &Trial,
    entered: bool,
    state: &State,
    facts: &Facts,
    host: &HostFacts,
) -> Option<Action> {
    if let Some(decision) = facts.guard.decision.clone() {
        let red = facts.guard.red.clone();
        return Some(Action::Record(Event::Decided { id: d.id.clone(), decision, failures: vec![], red }));
    }
    if host.booted.as_ref() == Some(&d.toplevel) {
        return Some(Action::EnterTrial(d.clone()));
    }
    // That it ran says its journal, or the guard's mark; a reset after that is one like any other.
    (!entered && !facts.guard.trial_seen).then(|| fell_back(d, trial, state, facts))
}

/// The old system was booted instead of the new one, which has left no trace.
fn fell_back(d: &Deployment, trial: &Trial, state: &State, facts: &Facts) -> Action {
    let what = match facts.guard.one_shot_left {
        true => {
            "the firmware or the boot loader has not taken the one-shot entry of the new system, which is still set"
        }
        false => {
            "the host did not come up with the new system, which has left no trace: its kernel does not start, or the \
             firmware has lost the one-shot entry"
        }
    };
    let before = state.lost_trials.as_ref().filter(|l| l.target == d.desired.tip.target());
    if before.map_or(0, |lost| lost.count) + 1 >= LOST_MAX {
        return Action::AwaitReboot(d.clone(), awaited(trial, format!("{what}, {LOST_MAX} times"), true));
    }
    Action::Abandon(d.clone(), Failure::transient(LOADER, what.to_owned()))
}

fn awaited(trial: &Trial, why: String, given_up: bool) -> AwaitedReboot {
    let need = trial.reboot.as_deref().cloned().unwrap_or_else(RebootNeed::default);
    AwaitedReboot { need, why, given_up }
}
