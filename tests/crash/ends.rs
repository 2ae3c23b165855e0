//! How a deployment ends in the world in memory: rolled back, or called off.

use pullagent::model::{
    AwaitedReboot, Class, Deployment, Event, Failure, GuardResult, Happened, Stage, Step,
};

use super::world::{Bug, World, roll_back};

impl World {
    pub(super) async fn roll_back(&self, d: Deployment) -> Happened {
        self.point().await;
        self.inner.borrow_mut().fire(d.id.as_str());
        self.point().await;
        self.clear_trial(&d).await;
        let (id, at) = (d.id.clone(), self.now());
        let result = self.inner.borrow().guards.get(d.id.as_str()).and_then(|g| g.result.clone());
        let (now, at) = (at, if self.bug(Bug::TimeOfRollbackLost) { 0 } else { at });
        self.inner.borrow_mut().note_rollback(&d, result.as_ref(), now);
        if self.bug(Bug::LostQuarantine) {
            let failure = Failure { class: Class::Transient, code: "lost".to_owned(), text: String::new() };
            return Happened::Event(Event::Abandoned { id, failure, at });
        }
        Happened::Event(match result {
            Some(GuardResult::RolledBack) | Some(GuardResult::NothingToDo) => {
                Event::RolledBack { id, how: String::new(), at }
            }
            Some(GuardResult::Superseded) => {
                Event::Superseded { id, running: Some(self.inner.borrow().running.clone()), at }
            }
            Some(GuardResult::Failed { text }) => Event::RollbackFailed { id, text, at },
            None => Event::RollbackFailed { id, text: "no result".to_owned(), at },
        })
    }

    pub(super) async fn await_reboot(&self, d: Deployment, reboot: AwaitedReboot) -> Happened {
        self.point().await;
        self.clear_trial(&d).await;
        if !self.is_boot(&d) {
            let decision = roll_back("it waits for a reboot", Class::Target);
            self.inner.borrow_mut().decide(d.id.as_str(), decision);
        }
        self.point().await;
        Happened::Event(Event::RebootAwaited { id: d.id, reboot, at: self.now() })
    }

    pub(super) async fn abandon(&self, d: Deployment, failure: Failure) -> Happened {
        self.point().await;
        self.clear_trial(&d).await;
        if !self.is_boot(&d) {
            let decision = roll_back(&failure.text, Class::Target);
            self.inner.borrow_mut().decide(d.id.as_str(), decision);
        }
        self.point().await;
        if let Stage::Probation { step: Step::Confirming, .. } = &d.stage {
            // A reset in the middle of a confirmation leaves the profile new and the host on the system that was permanent.
            let mut w = self.inner.borrow_mut();
            if w.booted != d.toplevel && w.profile == d.toplevel {
                (w.profile, w.boot_default) = (w.booted.clone(), w.booted.clone());
            }
        }
        self.point().await;
        Happened::Event(Event::Abandoned { id: d.id, failure, at: self.now() })
    }
}
