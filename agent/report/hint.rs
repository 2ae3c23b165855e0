//! Who says that something was pushed, and whether that can be heard: for `status --json` and for people.

use serde::{Deserialize, Serialize};

use super::Snapshot;
use super::style::{ago, safe, span};
use crate::config::Settings;
use crate::model::HintCounts;

/// One source of hints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HintStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Whether hints can be heard now; its remotes are polled less often while they can.
    pub connected: bool,
    /// Since when that is so; `null`: nobody has tried yet.
    pub since: Option<u64>,
    /// Why it is not connected, if that is known.
    pub trouble: Option<String>,
    /// When one of its hints led to a poll; `null`: not since the agent started.
    pub heard_at: Option<u64>,
    /// What came of its events since the gateway started.
    pub events: HintCounts,
}

/// Says how the configured sources fare, in the order of the configuration.
pub(super) fn of(snapshot: &Snapshot, settings: &Settings) -> Vec<HintStatus> {
    let status = |hint: &crate::config::Hint| {
        let facts = snapshot.facts.hints.get(&hint.name);
        let word = facts.map(|f| f.word.clone()).unwrap_or_default();
        HintStatus {
            name: hint.name.clone(),
            connected: word.connected,
            since: facts.map(|f| f.since),
            trouble: Some(word.text).filter(|text| !text.is_empty()),
            heard_at: facts.and_then(|f| f.heard_at),
            events: word.counts,
        }
    };
    settings.hints.iter().map(status).collect()
}

impl HintStatus {
    /// Says it in one line.
    pub(super) fn line(&self, now: u64) -> String {
        let name = safe(&self.name);
        let Some(since) = self.since else { return format!("not connected yet ({name})") };
        let since = span(now.saturating_sub(since));
        if !self.connected {
            let why = self.trouble.as_deref().map(|why| format!(": {}", safe(why))).unwrap_or_default();
            return format!("not connected ({name}) for {since}, remotes are polled as without{why}");
        }
        let last =
            self.heard_at.map_or("none came yet".to_owned(), |at| format!("last one {}", ago(now, at)));
        format!("connected ({name}) for {since}  {last}")
    }
}
