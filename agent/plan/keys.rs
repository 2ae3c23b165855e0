//! Whose signatures count: those of the trust settings that were adopted last, never those that a rollback brought back.

use crate::model::{Event, HostFacts, Keys, Line, State};

use super::{Facts, Policy};
use crate::model::AdoptedTrust;

/// Returns what signatures are held against now.
///
/// The running system's own settings count only until something was adopted: it may be an older one that came back by a
/// rollback, or a test. What was ever revoked counts in any case.
pub fn counting(state: &State) -> Keys {
    let settings = state.trust.as_ref().map(|trust| trust.settings.clone());
    Keys { settings, revoked: state.revoked.iter().cloned().collect() }
}

/// Names what a tip is judged by: the trust settings that count, and the accepted tip of its line.
pub fn judged_by(policy: &Policy, keys: &Keys, line: &Line) -> String {
    let anchor = match line {
        Line::Introduction(revision) => revision,
        Line::Root(revision) => return format!("root@{revision}"),
        Line::Installed { revision, .. } => return format!("installed@{revision}"),
        Line::Main(tip) => &tip.revision,
        Line::Test { main, .. } => &main.revision,
    };
    let digest = match &keys.settings {
        None if keys.revoked.is_empty() => policy.trust_digest.clone(),
        settings => {
            let section = settings.as_ref().map(|s| s.section().to_string()).unwrap_or_default();
            let text = format!("{section}\n{}", keys.revoked.join("\n"));
            format!("{}-{:08x}", policy.trust_digest, crc32c::crc32c(text.as_bytes()))
        }
    };
    format!("{digest}@{anchor}")
}

/// Takes the running system's trust settings over where root installed it: at the first start, and whenever root switched
/// by hand to what is the accepted revision now. What the agent deploys itself is adopted as it is built.
pub(super) fn adoption(state: &State, facts: &Facts, host: &HostFacts) -> Option<Event> {
    let settings = facts.trust.clone()?;
    let permanent = host.running.is_some() && host.profile == host.running && !host.is_torn();
    if !permanent || state.entered.is_some() {
        return None;
    }
    let main = state.main.as_ref().map(|m| &m.revision);
    let runs_main = main.is_some() && host.running_revision.as_ref() == main;
    let due = match &state.trust {
        None => true,
        Some(adopted) => runs_main && adopted.revision.as_ref() != main,
    };
    let trust = AdoptedTrust { revision: host.running_revision.clone(), settings, at: facts.now };
    due.then_some(Event::TrustAdopted { trust })
}
