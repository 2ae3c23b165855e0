//! What the configuration says about decisions: made here once, for those who decide and for those who report.

use crate::config::{ActivationErrors, Drift, Settings};
use crate::model::Operation;
use crate::plan::{Policy, Reboots, Retention};

/// Returns what the configuration says about decisions.
pub fn policy(settings: &Settings) -> Policy {
    let branches = settings.branches();
    let of = |op| branches.iter().find(|(_, o)| *o == op).map(|(name, _)| name.clone());
    let switch_timeout = settings.activation.switch_timeout.0.as_millis();
    Policy {
        remotes: settings.remotes.iter().map(|r| r.name.clone()).collect(),
        main_branch: of(Operation::Switch).unwrap_or_default(),
        test_branch: of(Operation::Test),
        trust_digest: settings.trust_digest(),
        enforce_drift: settings.activation.drift == Drift::Enforce,
        expected_machine_id: settings.expected_machine_id.clone(),
        arming_margin_ms: u64::try_from(switch_timeout).unwrap_or(u64::MAX),
        tolerate_activation_errors: settings.activation.activation_errors == ActivationErrors::Tolerate,
        stale_after_secs: settings.trust.stale_after.0.as_secs(),
        reboots: Reboots {
            policy: settings.activation.reboot.policy,
            windows: settings.activation.reboot.window.clone(),
        },
        retention: Retention {
            keep: settings.retention.generations.keep,
            age_max_secs: settings.retention.generations.max_age.map(|age| age.0.as_secs()),
        },
    }
}
