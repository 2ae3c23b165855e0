//! Whether a rollback was the revision's fault: what spoke against the new system, what the old one's same checks say
//! afterwards, and how patient that makes the host.

use serde::{Deserialize, Serialize};

use super::state::{Deployment, Outcome, Setback, State};
use super::verdict::{Class, Failure};
use super::{DeploymentId, Oid, StorePath, Target, UPDATABLE};

/// The word for a rollback after which the old system failed the same checks.
pub const ENVIRONMENT: &str = "environment";
/// The word for a rollback that only checks across the network asked for.
pub const NETWORK: &str = "network-checks";
/// The word for a rollback from a system whose switch was killed, which says nothing about the system.
pub const INTERRUPTED: &str = "interrupted";

/// The hard checks that spoke against a new system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Red {
    /// Their names; none where the old system can't be held to them, for the new one was to repair one of them.
    pub checks: Vec<String>,
    /// Whether each of them depends on another host.
    pub network: bool,
}

/// A rollback whose cause is looked into: the old system's checks are tried once more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recheck {
    /// The deployment that was rolled back.
    pub id: DeploymentId,
    /// Its revision.
    pub revision: Oid,
    /// The system that came back.
    pub old: StorePath,
    /// The checks that were red under the new system.
    pub checks: Vec<String>,
    /// When it was rolled back.
    pub at: u64,
}

/// Why a target is tried again later although the host was rolled back from it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// No remote could be reached from it.
    #[default]
    UpdatePath,
    /// Only checks across the network were red. It is tried once more, then it is bad.
    Network,
    /// The old system fails the same checks.
    Environment,
    /// The switch to it was killed.
    Interrupted,
}

impl Cause {
    /// Returns a stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::UpdatePath => UPDATABLE,
            Cause::Network => NETWORK,
            Cause::Environment => ENVIRONMENT,
            Cause::Interrupted => INTERRUPTED,
        }
    }

    /// Returns the cause that a rollback's code stands for, if that may pass.
    pub(super) fn of(code: &str) -> Cause {
        match code {
            NETWORK => Cause::Network,
            INTERRUPTED => Cause::Interrupted,
            _ => Cause::UpdatePath,
        }
    }
}

impl State {
    /// Tells whether a rollback may have been the network's fault. It may once for each target.
    pub(super) fn may_be_the_network(&self, d: &Deployment, red: Option<&Red>) -> bool {
        let target = d.desired.tip.target();
        let tried = |s: &Setback| s.target == target && s.cause == Cause::Network;
        red.is_some_and(|red| red.network) && !self.setback.as_ref().is_some_and(tried)
    }

    /// Notes that a target is tried again later, and why.
    pub(super) fn set_back(&mut self, target: Target, text: String, cause: Cause, at: u64) {
        let before = self.setback.take().filter(|s| s.target == target).map_or(0, |s| s.count);
        self.setback = Some(Setback { target, count: before.saturating_add(1), text, at, cause });
    }

    /// Takes down what the old system's checks came to. If they fail as well, the target has nothing to answer for.
    pub(super) fn learn_of_old(&mut self, environment: bool, failures: &[String], at: u64) {
        let Some(Recheck { id, revision, at: rolled_back, .. }) = self.recheck.take() else { return };
        if !environment {
            return;
        }
        let target = Target::config(revision);
        self.quarantine.retain(|q| q.target != target || q.at != rolled_back);
        let text = format!(
            "the old system fails the same checks, so it is the environment, not the revision: {}",
            failures.join("; ")
        );
        self.set_back(target, text.clone(), Cause::Environment, at);
        if let Some(Outcome::RolledBack { reason, class, code, .. }) = self.outcome_mut(&id) {
            *reason = format!("{reason}; {text}");
            (*class, *code) = (Class::Transient, Some(ENVIRONMENT.to_owned()));
        }
    }
}

/// Returns what is to be looked into after a rollback: only what was held against the new system, and by its checks.
pub(super) fn owed(
    d: &Deployment,
    old: &StorePath,
    red: Option<&Red>,
    failure: &Failure,
    at: u64,
) -> Option<Recheck> {
    let checks = red.map(|red| red.checks.clone()).unwrap_or_default();
    let blamed = failure.class == Class::Target && failure.code == "health";
    (blamed && !checks.is_empty()).then(|| Recheck {
        id: d.id.clone(),
        revision: d.desired.tip.revision.clone(),
        old: old.clone(),
        checks,
        at,
    })
}
