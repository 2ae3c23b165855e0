//! What becomes permanent, and what goes for it: generations and their boot entries, in memory.

use pullagent::model::{Deployment, Event, Happened, Operation, Tidying};

use super::world::{Bug, World};

impl World {
    pub(super) async fn confirm(&self, d: Deployment) -> Happened {
        self.point().await;
        let permanent = d.desired.operation == Operation::Switch || self.bug(Bug::TestMadePermanent);
        if permanent {
            {
                let mut w = self.inner.borrow_mut();
                if w.profile != d.toplevel {
                    w.generation += 1;
                    let new = w.generation;
                    for all in &mut w.generations {
                        all.insert(new);
                    }
                }
                w.profile = d.toplevel.clone();
            }
            self.point().await;
            {
                let mut w = self.inner.borrow_mut();
                (w.boot_guard, w.trial_profile, w.one_shot) = (None, None, None);
            }
            self.point().await;
            if !self.bug(Bug::ConfirmForgetsBootEntry) {
                self.inner.borrow_mut().boot_default = d.toplevel.clone();
            }
            self.point().await;
        }
        if self.bug(Bug::AnnouncedBeforeJournaled)
            && let Some(announce) = &*self.announce_early.borrow()
        {
            announce();
        }
        self.point().await;
        let generation = permanent.then(|| self.inner.borrow().generation);
        Happened::Event(Event::Confirmed { id: d.id, generation, at: self.now() })
    }

    pub(super) async fn choose_generations(&self, tidying: Tidying) -> Happened {
        self.point().await;
        let w = self.inner.borrow();
        // The current one stays, and the one before it.
        let numbers = w.generations[0].iter().rev().skip(2).copied().collect();
        Happened::Event(Event::GenerationsChosen { id: tidying.id, numbers })
    }

    pub(super) async fn remove_generations(&self, tidying: Tidying) -> Happened {
        let numbers = tidying.numbers.unwrap();
        for number in &numbers {
            self.point().await;
            self.inner.borrow_mut().generations[0].remove(number);
        }
        self.point().await;
        if !self.bug(Bug::EntriesForgotten) {
            let [generations, entries] = &mut self.inner.borrow_mut().generations;
            *entries = generations.clone();
        }
        self.point().await;
        Happened::Event(Event::GenerationsRemoved { id: tidying.id, numbers, at: self.now() })
    }
}
