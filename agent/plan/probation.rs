//! The next step of a deployment under way. Whatever happened to agent or host, the same few rules apply.

use crate::model::{
    Action, Arbiter, Class, Decision, Deployment, Event, Failure, HostFacts, NEEDS_REBOOT, Operation, Stage,
    State, Step, SwitchEnd, Trial, Why,
};

use super::reboot::{self, Route};
use super::{Facts, Policy, RESETS_MAX, SUSPENDED, answer, may_be_lifted, suspended, trial};
use crate::model::{AwaitedReboot, RebootNeed, SWITCH_REPEATS_MAX, StorePath};

/// `switch-to-configuration` says this when a script of the activation failed and all else was done (nixpkgs:
/// switch-to-configuration-ng/src/main.rs).
const ACTIVATION_FAILED: i32 = 2;

/// Decides the next step of `d`.
pub(super) fn next(
    d: &Deployment,
    state: &State,
    facts: &Facts,
    host: &HostFacts,
    policy: &Policy,
) -> Action {
    let step = next_step(d, state, facts, host, policy);
    let failed = facts.retries.get(&d.desired.tip.revision).filter(|retry| retry.is_early(facts.now));
    match (failed, &step) {
        // A step that failed for a passing reason is not repeated at once.
        (Some(retry), step) if may_wait(step) => Action::Wait { until: Some(retry.not_before) },
        (Some(_) | None, _) => step,
    }
}

/// Tells whether a step may be put off after a failure. A rollback never waits: it ends by an event each time, so it is
/// not repeated without end.
fn may_wait(step: &Action) -> bool {
    !matches!(step, Action::RollBack(_) | Action::Record(_) | Action::Wait { .. })
}

fn next_step(d: &Deployment, state: &State, facts: &Facts, host: &HostFacts, policy: &Policy) -> Action {
    match &d.stage {
        Stage::Built => begin(d, state, facts, host),
        Stage::Probation { trial, step } if trial.boot_id != host.boot_id => {
            after_reset(d, trial, step, state, facts, host)
        }
        Stage::Probation { trial, step } => go_on(d, trial, step, state, facts, host, policy),
    }
}

/// The host is untouched.
fn begin(d: &Deployment, state: &State, facts: &Facts, host: &HostFacts) -> Action {
    if let Some(foreign) = &state.foreign {
        let text = format!("the journal was written by a newer pullagent (event '{}')", foreign.event);
        return Action::Abandon(d.clone(), Failure::transient("foreign", text));
    }
    if let Some(bad) = state.quarantined(&d.desired.tip.target(), Some(&d.toplevel)) {
        let text = format!("it builds the same system as one that was bad before: {}", bad.failure.text);
        return Action::Abandon(
            d.clone(),
            Failure { class: Class::Target, code: bad.failure.code.clone(), text },
        );
    }
    if let Some(failure) = answer::called_off(state, d) {
        return Action::Abandon(d.clone(), failure);
    }
    if may_be_lifted(state, facts.now) {
        let text =
            "the host is suspended after too many rollbacks, and its retryNonce is that of before".to_owned();
        return Action::Abandon(d.clone(), Failure::transient(SUSPENDED, text));
    }
    if suspended(state, facts.now) {
        return Action::Wait { until: state.suspension.as_ref().and_then(|s| s.until) };
    }
    let runs = host.running.as_ref() == Some(&d.toplevel) && !host.is_torn();
    let permanent = host.profile.as_ref() == Some(&d.toplevel);
    match d.desired.operation {
        Operation::Switch if runs && permanent && is_done(d, host) => {
            confirmed(d, host.generation, facts.now)
        }
        Operation::Test if runs => confirmed(d, None, facts.now),
        Operation::Switch | Operation::Test => Action::Prepare(d.clone()),
    }
}

/// Tells whether a system that runs for good is all that was wanted.
fn is_done(d: &Deployment, host: &HostFacts) -> bool {
    d.desired.why != Why::Reboot || host.reboot_reasons.is_empty()
}

fn confirmed(d: &Deployment, generation: Option<u64>, at: u64) -> Action {
    Action::Record(Event::Confirmed { id: d.id.clone(), generation, at })
}

/// The host was reset during the probation. Until a deployment is confirmed, the old system is the one that boots.
fn after_reset(
    d: &Deployment,
    trial: &Trial,
    step: &Step,
    state: &State,
    facts: &Facts,
    host: &HostFacts,
) -> Action {
    if let Step::Staged { .. } | Step::BootTrial = step {
        let entered = matches!(step, Step::BootTrial);
        if let Some(action) = trial::after_boot(d, trial, entered, state, facts, host) {
            return action;
        }
    }
    match step {
        // The new system was healthy, and it booted: finish.
        Step::Confirming if host.running.as_ref() == Some(&d.toplevel) => Action::Confirm(d.clone()),
        // Decided; the reset did it, and the guard says so.
        Step::RollingBack { .. } => Action::RollBack(d.clone()),
        Step::Confirming
        | Step::Prepared
        | Step::Armed
        | Step::Activated { .. }
        | Step::Staged { .. }
        | Step::BootTrial
        | Step::Soaking
        | Step::Proven { .. } => {
            let (limit, when) = match step {
                Step::Staged { .. } | Step::BootTrial => (trial::LOST_MAX, "tried by a boot"),
                _ => (RESETS_MAX, "on probation"),
            };
            let target = d.desired.tip.target();
            let before = state.resets.as_ref().filter(|r| r.target == target).map_or(0, |r| r.count);
            let (class, times) = match before + 1 {
                count if count >= limit => (Class::Target, format!(" {count} times")),
                _ => (Class::Transient, String::new()),
            };
            let text = format!("the host was reset{times} while this system was {when}");
            Action::Abandon(d.clone(), Failure { class, code: "reset".to_owned(), text })
        }
    }
}

fn go_on(
    d: &Deployment,
    trial: &Trial,
    step: &Step,
    state: &State,
    facts: &Facts,
    host: &HostFacts,
    policy: &Policy,
) -> Action {
    // A switch that changed nothing needs no decision, even if a guard took one.
    let undecided = match step {
        Step::Activated { ended: SwitchEnd::Unchanged { .. } } => false,
        Step::Armed
        | Step::Activated { .. }
        | Step::Soaking
        | Step::Proven { .. }
        | Step::Staged { .. }
        | Step::BootTrial => true,
        Step::Prepared | Step::Confirming | Step::RollingBack { .. } => false,
    };
    if undecided && let Some(decision) = facts.guard.decision.clone() {
        let red = facts.guard.red.clone();
        return Action::Record(Event::Decided { id: d.id.clone(), decision, failures: vec![], red });
    }
    if undecided && let Some(decision) = forced_decision(d, trial, step, state, host) {
        return Action::Decide(d.clone(), decision);
    }
    match step {
        Step::Prepared => {
            let left = trial.deadline_boottime_ms.saturating_sub(host.boottime_ms);
            let late = left < policy.arming_margin_ms || facts.guard.decision.is_some();
            // What would be rolled back to must be what the operator runs now.
            let moved = match d.desired.why {
                Why::Reboot => host.booted.as_ref() != Some(&trial.old),
                Why::NewRevision | Why::Retry | Why::EndOfTest | Why::Drift => {
                    host.running.as_ref() != Some(&trial.old)
                }
            };
            if let Some(failure) = answer::called_off(state, d) {
                Action::Abandon(d.clone(), failure)
            } else if late || moved || state.foreign.is_some() {
                let text = "the preparations are out of date".to_owned();
                Action::Abandon(d.clone(), Failure::transient("expired", text))
            } else {
                match reboot::route(d, trial.reboot.as_deref(), reboot::permission(facts, policy), policy) {
                    Route::Live => Action::Arm(d.clone()),
                    Route::Trial => Action::Stage(d.clone()),
                    Route::Wait(awaited) => Action::AwaitReboot(d.clone(), awaited),
                }
            }
        }
        Step::Armed => Action::Switch(d.clone()),
        Step::Activated { ended } => after_switch(d, trial, ended, host, policy),
        Step::Staged { .. } => trial::begin(d, trial, state, facts, policy),
        Step::Soaking | Step::BootTrial => Action::CheckHealth(d.clone()),
        Step::Proven { .. } if answer::is_confirmed(state, d) => Action::Decide(d.clone(), Decision::Confirm),
        Step::Proven { .. } => Action::AwaitAnswer(d.clone()),
        Step::Confirming => Action::Confirm(d.clone()),
        Step::RollingBack { .. } => Action::RollBack(d.clone()),
    }
}

/// What the switch came to decides what is next. A switch that stopped half-way has left lists of what it had still to
/// do, and one that is run once more works them off.
fn after_switch(
    d: &Deployment,
    trial: &Trial,
    ended: &SwitchEnd,
    host: &HostFacts,
    policy: &Policy,
) -> Action {
    let roll_back =
        |reason, class| Action::Decide(d.clone(), Decision::RollBack { reason, by: Arbiter::Agent, class });
    match ended {
        SwitchEnd::Complete { exit: Some(ACTIVATION_FAILED), text } if !policy.tolerate_activation_errors => {
            let reason = format!(
                "a script of the activation failed (activation.activationErrors = \"tolerate\" would permit it): {text}"
            );
            roll_back(reason, Class::Target)
        }
        SwitchEnd::Complete { .. } => Action::Shorten(d.clone()),
        SwitchEnd::Unchanged { .. } if runs_third(d, trial, host) => {
            Action::Decide(d.clone(), Decision::Superseded)
        }
        SwitchEnd::Unchanged { failure } if failure.code == NEEDS_REBOOT => {
            let need = RebootNeed { reasons: vec![failure.text.clone()], ..RebootNeed::default() };
            let why = "the new system says so, and nothing that was looked at before explains it".to_owned();
            Action::AwaitReboot(d.clone(), AwaitedReboot { need, why, given_up: true })
        }
        SwitchEnd::Unchanged { failure } => Action::Abandon(d.clone(), failure.clone()),
        SwitchEnd::Torn { resumable: true, .. } if may_repeat(trial, host, policy) => {
            Action::Record(Event::SwitchRepeated { id: d.id.clone() })
        }
        SwitchEnd::Torn { text, class, .. } => {
            let again = if trial.switch_repeats > 0 { ", also when it was run once more" } else { "" };
            roll_back(format!("the switch stopped half-way{again}: {text}"), *class)
        }
    }
}

/// Another run has to come to its end before the guard's deadline.
fn may_repeat(trial: &Trial, host: &HostFacts, policy: &Policy) -> bool {
    let left = trial.deadline_boottime_ms.saturating_sub(host.boottime_ms);
    trial.switch_repeats < SWITCH_REPEATS_MAX && left >= policy.arming_margin_ms
}

/// Tells whether the host runs, completely, a system that is neither of the two: somebody else switched.
fn runs_third(d: &Deployment, trial: &Trial, host: &HostFacts) -> bool {
    let third = |r: &StorePath| *r != d.toplevel && *r != trial.old;
    !host.is_torn() && host.running.as_ref().is_some_and(third)
}

/// A decision that is forced on us: by another switch, by a newer version's record, or by somebody's word.
fn forced_decision(
    d: &Deployment,
    trial: &Trial,
    step: &Step,
    state: &State,
    host: &HostFacts,
) -> Option<Decision> {
    if let Some(foreign) = &state.foreign {
        let reason = format!("a newer pullagent left event '{}', which this one can't read", foreign.event);
        return Some(Decision::RollBack { reason, by: Arbiter::Agent, class: Class::Target });
    }
    let switched = matches!(
        step,
        Step::Activated { ended: SwitchEnd::Complete { .. } }
            | Step::Soaking
            | Step::Proven { .. }
            | Step::BootTrial
    );
    if switched && runs_third(d, trial, host) {
        return Some(Decision::Superseded);
    }
    answer::rejected(state, d)
}
