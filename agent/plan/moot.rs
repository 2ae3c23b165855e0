//! Whether what is under way goes on when something else would come first by now. Whoever may name commits, and no more,
//! must not be able to keep a host from ever getting anything done.

use crate::model::{Action, Line};

use super::Facts;

/// Tells whether `under_way` is pointless, or has to wait, now that `next` is what an idle agent would do.
pub fn is_moot(under_way: &Action, next: &Action, facts: &Facts) -> bool {
    match (under_way, next) {
        // Any word ends a wait, so that the host is looked at again.
        (Action::Wait { .. }, _) => true,
        (a, b) if a == b => false,
        // Short, and it answers a question that is asked again otherwise.
        (Action::Relate { .. }, Action::Relate { .. } | Action::Verify(_)) => false,
        // A tip that moves on with each poll would never be looked at to its end. A remote that stalls does not hold up a
        // better one.
        (Action::Verify(old), Action::Verify(new)) => {
            let remote = |name: &str| facts.failures_of(name);
            matches!(new.line, Line::Root(_)) || remote(&new.candidate.remote) < remote(&old.candidate.remote)
        }
        (Action::Verify(old), Action::Relate { revision, .. }) => {
            let failures = facts.failures_of(&old.candidate.remote);
            facts.naming(revision).any(|remote| facts.failures_of(remote) < failures)
        }
        _ => true,
    }
}
