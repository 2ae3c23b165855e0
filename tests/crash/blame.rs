//! Commits whose checks are red through no fault of theirs, or so it may be: under the old system, too, or only across the
//! network.

use pullagent::model::{Class, Decision, Deployment, Event, Happened, Nonce, Oid, Recheck, Red};

use super::world::{Behaviour, Bug, Inner, World, roll_back};

/// How often a check is red under both systems.
const STORM_TRIES: u32 = 2;
/// The pause before a target is tried again that may have met a bad network.
const NETWORK_PAUSE_SECS: u64 = 1800;
/// The pause after the first rollback that the environment is to blame for.
const STORM_PAUSE_SECS: u64 = 600;

impl World {
    /// Tells whether a check is red, and notes which.
    pub(super) fn is_red(&self, d: &Deployment, behaviour: Behaviour) -> bool {
        let lost = self.bug(Bug::RedLost);
        let network = behaviour != Behaviour::Storm && !self.bug(Bug::NetworkBlamed);
        let w = &mut *self.inner.borrow_mut();
        let tries = w.red.get(&d.desired.tip.revision).map_or(0, |(count, _)| *count);
        let red = match behaviour {
            Behaviour::Storm => tries < STORM_TRIES,
            Behaviour::Faraway => tries == 0,
            _ => true,
        };
        if red
            && !lost
            && let Some(guard) = w.guards.get_mut(d.id.as_str())
        {
            guard.red = Some(Red { checks: vec!["web".to_owned()], network });
        }
        red
    }

    pub(super) fn unreachable(&self) -> Decision {
        let blamed = self.bug(Bug::TargetBlamed);
        roll_back("no remote answers", if blamed { Class::Target } else { Class::Transient })
    }

    pub(super) fn unreached(&self, oid: &Oid) -> u32 {
        self.inner.borrow().unreached.get(oid).map_or(0, |(count, _)| *count)
    }

    /// Tells whether a commit lifts a suspension, so that nobody has to.
    pub fn is_lifting(&self, revision: &Oid) -> bool {
        self.inner.borrow().commits.get(revision).is_some_and(|c| c.behaviour == Behaviour::Lifting)
    }

    /// Returns the nonce of a commit. One that lifts the suspension is as good as somebody who resumes the host.
    pub(super) fn nonce(&self, behaviour: Behaviour) -> Nonce {
        let lifts = behaviour == Behaviour::Lifting && !self.bug(Bug::NonceLost);
        if lifts {
            self.inner.borrow_mut().rolled_back.clear();
        }
        Nonce { running: String::new(), built: if lifts { "again".to_owned() } else { String::new() } }
    }

    pub(super) async fn check_old(&self, recheck: Recheck) -> Happened {
        self.point().await;
        self.pass(10_000);
        self.point().await;
        let at = self.now();
        let w = &mut *self.inner.borrow_mut();
        let environment = w.commits.get(&recheck.revision).is_some_and(|c| c.behaviour == Behaviour::Storm);
        if environment && let Some((count, until)) = w.red.get_mut(&recheck.revision) {
            *until = at + (STORM_PAUSE_SECS << (*count - 1));
        }
        let failures = vec!["web: no".to_owned()];
        Happened::Event(Event::OldChecked { id: recheck.id, environment, failures, at })
    }
}

impl Inner {
    /// Takes down a rollback for a red check, of which the agent is about to be told.
    pub(super) fn note_red(&mut self, d: &Deployment, revision: &Oid, now: u64) {
        let Some(red) = self.guards.get(d.id.as_str()).and_then(|g| g.red.clone()) else { return };
        let (count, until) = self.red.entry(revision.clone()).or_default();
        *count += 1;
        if red.network {
            *until = now + NETWORK_PAUSE_SECS;
        }
    }
}
