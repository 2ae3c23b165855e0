//! The generations of the `system` profile, and which of them are to go after a deployment was confirmed.

use serde::{Deserialize, Serialize};

use super::state::{Deployment, Outcome, Stage, State};
use super::{DeploymentId, Oid, StorePath};

/// The word for old generations that could not be removed.
pub const RETENTION: &str = "retention";

/// One generation of the profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// The system that its link names, and that system's specialisations; none where the link can't be read.
    pub systems: Vec<StorePath>,
    /// When the link was made, unix seconds.
    pub since: u64,
}

/// Generations that may have to go, now that a deployment was confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tidying {
    /// The deployment that was confirmed.
    pub id: DeploymentId,
    /// Its revision.
    pub revision: Oid,
    /// The system that it made permanent.
    pub toplevel: StorePath,
    /// The system that it replaced, which stays.
    pub old: StorePath,
    /// What is to go; `None`: nobody has looked yet.
    pub numbers: Option<Vec<u64>>,
}

impl Tidying {
    /// Returns what a confirmed deployment gives rise to; nothing if it found its system running already.
    pub(super) fn after(d: &Deployment) -> Option<Tidying> {
        let Stage::Probation { trial, .. } = &d.stage else { return None };
        Some(Tidying {
            id: d.id.clone(),
            revision: d.desired.tip.revision.clone(),
            toplevel: d.toplevel.clone(),
            old: trial.old.clone(),
            numbers: None,
        })
    }
}

impl State {
    /// Notes which generations are to go, before any goes.
    pub(super) fn choose_generations(&mut self, numbers: &[u64]) {
        let chosen = Some(numbers.to_vec()).filter(|numbers| !numbers.is_empty());
        self.tidying = self.tidying.take().filter(|_| chosen.is_some());
        if let Some(tidying) = &mut self.tidying {
            tidying.numbers = chosen;
        }
    }

    /// Notes which went, also in the history.
    pub(super) fn forget_generations(&mut self, numbers: &[u64]) {
        let Some(tidying) = self.tidying.take() else { return };
        if let Some(Outcome::Confirmed { removed, .. }) = self.outcome_mut(&tidying.id) {
            *removed = numbers.to_vec();
        }
    }
}
