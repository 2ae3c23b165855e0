//! What the history in memory says: how commits stand to each other, which tips are refused, and whose keys a system
//! brings along.

use pullagent::model::{Happened, Kin, Line, Oid, Sighting, TrustSettings, Verification};

use super::world::{Behaviour, Bug, Inner, World, system};

/// A key that some commits revoke and others are signed with.
const THIEF: &str = "ssh-ed25519 THIEF";

impl Inner {
    /// Returns the trust settings in the system that `revision` builds. Whoever comes after a revocation keeps it.
    pub(super) fn trust_in(&self, revision: &Oid) -> TrustSettings {
        let revokes = |id: &Oid| self.commits.get(id).is_some_and(|c| c.behaviour == Behaviour::Revoking);
        let revoked: &[&str] = if self.line(revision).any(revokes) { &[THIEF] } else { &[] };
        TrustSettings::new(serde_json::json!({ "revokedKeys": revoked }))
    }

    /// Returns `revision` and its ancestors, as far as they are known.
    fn line<'a>(&'a self, revision: &'a Oid) -> impl Iterator<Item = &'a Oid> {
        std::iter::successors(Some(revision), |id| self.commits.get(*id).map(|c| &c.parent))
    }
}

impl World {
    /// Root installs what `revision` builds, by hand and for good.
    pub fn install(&self, revision: &Oid) {
        let w = &mut *self.inner.borrow_mut();
        let system = system(revision);
        (w.running, w.etc) = (system.clone(), system.clone());
        (w.profile, w.boot_default) = (system.clone(), system.clone());
        w.may_be_permanent.insert(system);
        w.generation += 1;
    }

    pub(super) async fn relate(&self, revision: Oid, to: Oid) -> Happened {
        self.point().await;
        let kin = {
            let w = self.inner.borrow();
            if w.line(&to).skip(1).any(|id| *id == revision) {
                Kin::Older
            } else if w.line(&revision).skip(1).any(|id| *id == to) {
                Kin::Newer
            } else {
                Kin::Apart
            }
        };
        Happened::Saw(Sighting::Related { revision, to, kin })
    }

    /// Why a tip is refused; `None`: it is not.
    pub(super) fn judge(&self, v: &Verification) -> Option<&'static str> {
        let (anchor, otherwise) = match &v.line {
            // Root vouches for the commit itself.
            Line::Root(_) | Line::Installed { .. } => return None,
            Line::Introduction(oid) => (oid.clone(), "not-fast-forward"),
            Line::Main(tip) => (tip.revision.clone(), "not-fast-forward"),
            Line::Test { main, .. } => (main.revision.clone(), "not-on-main"),
        };
        let w = self.inner.borrow();
        let mut revoked = v.keys.revoked.iter().any(|key| key == THIEF);
        if self.bug(Bug::OldKeysBack) {
            revoked =
                w.commits.iter().any(|(id, c)| c.behaviour == Behaviour::Revoking && system(id) == w.running);
        }
        for id in w.line(&v.candidate.revision) {
            match w.commits.get(id).map(|c| c.behaviour) {
                _ if *id == anchor => return None,
                Some(Behaviour::Unsigned) => return Some("unsigned"),
                Some(Behaviour::ByThief) if revoked => return Some("revoked-key"),
                Some(_) => {}
                None => return Some(otherwise),
            }
        }
        Some(otherwise)
    }
}
