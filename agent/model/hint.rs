//! What is said of a source of hints that something was pushed. None of it decides what is deployed, only when remotes
//! are asked.

use serde::{Deserialize, Serialize};

/// How a source of hints fares, in the gateway's words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HintWord {
    /// Whether hints can be heard now; remotes are polled less often while they can.
    pub connected: bool,
    /// Why not; empty while it is connected, or has not been tried yet.
    pub text: String,
    /// What came of its events.
    pub counts: HintCounts,
}

/// What came of the events of one source of hints, since the gateway began to listen to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HintCounts {
    /// Led to a poll.
    pub accepted: u64,
    /// Came while such a poll was still to come.
    pub coalesced: u64,
    /// Were no hints: of another kind, or without what the filter asks for.
    pub ignored: u64,
    /// Broke a bound, after which the connection was dropped.
    pub too_long: u64,
}
