//! What waits for a reboot, as status shows it.

use super::Snapshot;
use super::status::RebootStatus;
use crate::config::Settings;
use crate::plan;

/// Returns the reboot that has not been done, if there is one.
pub(super) fn of(snapshot: &Snapshot, settings: &Settings) -> Option<RebootStatus> {
    let pending = plan::pending_reboot(&snapshot.state, &snapshot.facts, &super::policy(settings))?;
    Some(RebootStatus {
        toplevel: pending.toplevel,
        reasons: pending.reasons,
        policy: settings.activation.reboot.policy,
        why: pending.why,
        not_before: pending.at,
        blocked: pending.blocked,
    })
}
