//! The health checks in one line: how they fare while they are tried, and how they fared.

use super::Status;
use super::style::safe;
use crate::model::{CheckFacts, Ended, Outcome};
use crate::report::Snapshot;

/// Returns the checks of the deployment under way, or of the one that ended last, if that one runs.
pub(super) fn of(snapshot: &Snapshot) -> Vec<CheckFacts> {
    let Some((id, checks)) = &snapshot.facts.checks else { return vec![] };
    let under_way = snapshot.state.deployment.as_ref().map(|d| &d.id);
    let running = snapshot.facts.host.as_ref().and_then(|h| h.running.as_ref());
    let stayed = |e: &&Ended| {
        matches!(e.outcome, Outcome::Confirmed { .. } | Outcome::Tested) && e.toplevel.as_ref() == running
    };
    let ended = snapshot.state.history.back().filter(stayed).and_then(|e| e.id.as_ref());
    if under_way.or(ended) == Some(id) { checks.clone() } else { vec![] }
}

/// Says how the checks of the deployment under way fare.
pub(super) fn faring(status: &Status, configured: &[String]) -> String {
    if !status.health.is_empty() {
        return status.health.iter().map(fares).collect::<Vec<_>>().join(" · ");
    }
    match configured.is_empty() {
        true => "not looked at yet".to_owned(),
        false => configured.iter().map(|c| safe(c)).collect::<Vec<_>>().join(" · "),
    }
}

/// Says how the checks of what runs fared; `None` where nothing is known.
pub(super) fn fared(status: &Status) -> Option<String> {
    let all = status.health.len();
    let red: Vec<String> = status.health.iter().filter(|c| c.green != Some(true)).map(fares).collect();
    match (all, red.is_empty()) {
        (0, _) => None,
        (_, true) => Some(format!("{all}/{all} checks passed")),
        (_, false) => Some(format!("{}/{all} checks passed · {}", all - red.len(), red.join(" · "))),
    }
}

fn fares(check: &CheckFacts) -> String {
    let name = safe(&check.name);
    let soft = if check.hard { "" } else { " (only reported)" };
    match check.green {
        Some(true) => format!("✔ {name}"),
        None => format!("⏵ {name}"),
        Some(false) if check.hard && check.failures > 0 => {
            format!("✖ {name} ({}/{} failures): {}", check.failures, check.failures_max, safe(&check.text))
        }
        Some(false) => format!("✖ {name}{soft}: {}", safe(&check.text)),
    }
}
