//! How a deployment ends: the one decision, then permanence, or the way back.

use std::time::Duration;

use super::{BOOT_MAX, GUARD_MARGIN, Steps, failed_step, millis};
use crate::guard::{self, Fired, GuardError};
use crate::host::{self, clock, facts, switch};
use crate::model::{
    Arbiter, AwaitedReboot, Class, Decision, Deployment, Event, Failure, GuardResult, Happened, Operation,
    Red, Stage, Step,
};

impl Steps {
    /// Writes the decision unless somebody was first, and reports the one that stands.
    pub(super) fn decide(&self, d: &Deployment, decision: &Decision, failures: Vec<String>) -> Happened {
        self.decide_knowing(d, decision, failures, None)
    }

    /// Does so, and reports which hard checks are red.
    pub(super) fn decide_knowing(
        &self,
        d: &Deployment,
        decision: &Decision,
        failures: Vec<String>,
        red: Option<Red>,
    ) -> Happened {
        let dir = self.guard_dir(&d.id);
        if let Some(error) = red.as_ref().and_then(|red| guard::note_red(&dir, red).err()) {
            tracing::warn!("the checks that failed can't be noted: {}", host::chain(&error));
        }
        match guard::decide(&dir, decision) {
            Ok(decision) => Happened::Event(Event::Decided { id: d.id.clone(), decision, failures, red }),
            Err(error) => failed_step(d, "guard", &error),
        }
    }

    /// Makes the new system permanent. Every part is safe to repeat; a failure never rolls back, since what runs is
    /// healthy.
    pub(super) async fn confirm(&self, d: &Deployment) -> Happened {
        if d.desired.operation == Operation::Test {
            return Happened::Event(Event::Confirmed {
                id: d.id.clone(),
                generation: None,
                at: clock::unix_secs(),
            });
        }
        if let Err(error) = self.nix.set_profile(&self.host.profile(), &d.toplevel).await {
            return failed_step(d, "profile", &error);
        }
        // First, or the new system would have two entries.
        if let Err(error) = self.clear_trial(d, None).await {
            return failed_step(d, "bootloader", &*error);
        }
        if let Err(error) = switch::boot(&d.toplevel, self.manager, BOOT_MAX).await {
            return failed_step(d, "bootloader", &error);
        }
        if let Err(error) = self.check_default(d).await {
            return failed_step(d, "bootloader", &*error);
        }
        match facts::observe(&self.host) {
            Ok(facts) if facts.profile.as_ref() == Some(&d.toplevel) => {
                let (id, generation) = (d.id.clone(), facts.generation);
                Happened::Event(Event::Confirmed { id, generation, at: clock::unix_secs() })
            }
            Ok(_) => failed_step(
                d,
                "profile",
                &std::io::Error::other("the profile does not say what it was set to"),
            ),
            Err(error) => failed_step(d, "host", &error),
        }
    }

    /// Has the guard's pinned binary roll back, and sees it end.
    pub(super) async fn roll_back(&self, d: &Deployment) -> Happened {
        let (id, at) = (d.id.clone(), clock::unix_secs());
        let fired = self.fire(d).await;
        let how = |how: &str| Event::RolledBack { id: id.clone(), how: how.to_owned(), at };
        let event = match fired {
            Ok(Fired::Ended(GuardResult::RolledBack)) => how("the guard switched back"),
            Ok(Fired::Ended(GuardResult::NothingToDo)) => how(match self.is_another_boot(d) {
                true => "a reboot brought the old system back",
                false => "the old system ran already",
            }),
            Ok(Fired::Ended(GuardResult::Superseded) | Fired::Stands(Decision::Superseded)) => {
                let running = facts::observe(&self.host).ok().and_then(|f| f.running);
                Event::Superseded { id: id.clone(), running, at }
            }
            Ok(Fired::Ended(GuardResult::Failed { text })) => {
                Event::RollbackFailed { id: id.clone(), text, at }
            }
            Ok(Fired::Stands(decision)) => {
                let text = format!("the guard keeps to another decision: {decision:?}");
                Event::RollbackFailed { id: id.clone(), text, at }
            }
            Err(error) => Event::RollbackFailed { id: id.clone(), text: host::chain(&error), at },
        };
        if let Err(error) = self.end_trial(d).await {
            tracing::warn!(deployment = d.id.as_str(), "a trial's traces are left: {}", host::chain(&*error));
        }
        Happened::Event(event)
    }

    /// Where no process of ours gets through, the guard's timers still may, and until they had their turn nothing has failed.
    async fn fire(&self, d: &Deployment) -> Result<Fired, GuardError> {
        let dir = self.guard_dir(&d.id);
        let error = match guard::fire_now(&dir, self.manager, self.roll_back_max()).await {
            Err(error) => error,
            fired => return fired,
        };
        let Stage::Probation { trial, .. } = &d.stage else { return Err(error) };
        if self.is_another_boot(d) || trial.deadline_boottime_ms <= clock::boottime_ms() {
            return Err(error);
        }
        tracing::warn!(
            deployment = d.id.as_str(),
            "the rollback is left to the guard's timer: {}",
            host::chain(&error)
        );
        let until = trial.deadline_boottime_ms.saturating_add(millis(self.roll_back_max()));
        guard::await_timers(&dir, until).await?.ok_or(error)
    }

    fn is_another_boot(&self, d: &Deployment) -> bool {
        let Stage::Probation { trial, .. } = &d.stage else { return false };
        facts::observe(&self.host).is_ok_and(|facts| facts.boot_id != trial.boot_id)
    }

    /// Calls off what did not change the host, or what a reset undid, and disarms its guard.
    pub(super) async fn abandon(&self, d: &Deployment, failure: Failure) -> Happened {
        let decision = match failure.code.as_str() {
            // Somebody else is at work, and what they do is not to be undone.
            "locked" => Decision::Superseded,
            _ => against(&failure.text),
        };
        if let Err(error) = self.disarm(d, &decision).await {
            return failed_step(d, "guard", &error);
        }
        if let Err(error) = self.end_trial(d).await {
            return failed_step(d, "bootloader", &*error);
        }
        if let Err(error) = self.restore_profile(d).await {
            return failed_step(d, "profile", &*error);
        }
        Happened::Event(Event::Abandoned { id: d.id.clone(), failure, at: clock::unix_secs() })
    }

    /// Ends a deployment that waits for a reboot, and disarms its guard.
    pub(super) async fn await_reboot(&self, d: &Deployment, reboot: AwaitedReboot) -> Happened {
        if let Err(error) = self.end_trial(d).await {
            return failed_step(d, "bootloader", &*error);
        }
        match self.disarm(d, &against("it waits for a reboot")).await {
            Ok(()) => {
                Happened::Event(Event::RebootAwaited { id: d.id.clone(), reboot, at: clock::unix_secs() })
            }
            Err(error) => failed_step(d, "guard", &error),
        }
    }

    /// Decides against a deployment that has nothing to be rolled back. That leaves the result that ends its timers.
    async fn disarm(&self, d: &Deployment, decision: &Decision) -> Result<(), guard::GuardError> {
        let dir = self.guard_dir(&d.id);
        // A trial boot has no timer outside of its own boot, and its unit is gone by now. A decision would only be taken for one
        // about the new system.
        if !dir.join("plan.json").exists() || guard::boot_deadline(&dir)?.is_some() {
            return Ok(());
        }
        guard::decide(&dir, decision)?;
        if let Err(error) = guard::fire_now(&dir, self.manager, self.roll_back_max()).await {
            tracing::warn!(
                deployment = d.id.as_str(),
                "the guard can't be disarmed: {}",
                host::chain(&error)
            );
        }
        Ok(())
    }

    /// A reset in the middle of a confirmation leaves the profile new and the host on the system that was permanent before:
    /// that one is made permanent again, since a probation may only begin with the system that boots.
    ///
    /// It is the booted system, not the old one of this deployment, which may be a test that must never be permanent.
    async fn restore_profile(&self, d: &Deployment) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Stage::Probation { step: Step::Confirming, .. } = &d.stage else { return Ok(()) };
        let facts = facts::observe(&self.host)?;
        let Some(booted) = facts.booted.filter(|booted| *booted != d.toplevel) else { return Ok(()) };
        if facts.profile.as_ref() == Some(&d.toplevel) {
            self.nix.set_profile(&self.host.profile(), &booted).await?;
            switch::boot(&booted, self.manager, BOOT_MAX).await?;
        }
        Ok(())
    }

    pub(super) fn roll_back_max(&self) -> Duration {
        guard::rollback_max(self.settings.activation.switch_timeout.0, self.may_reboot()) + GUARD_MARGIN
    }
}

fn against(why: &str) -> Decision {
    Decision::RollBack { reason: why.to_owned(), by: Arbiter::Agent, class: Class::Target }
}
