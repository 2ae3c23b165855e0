//! What an operator says about a system on probation: whether it stays.

use serde::{Deserialize, Serialize};

use super::DeploymentId;

/// The word for a deployment that somebody rejected.
pub const REJECTED: &str = "rejected";
/// The word for a deployment that proved healthy and that nobody confirmed in time.
pub const UNCONFIRMED: &str = "unconfirmed";

/// What an operator said about one deployment. The last word before the decision counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// Which deployment.
    pub id: DeploymentId,
    /// Whether it stays.
    pub word: Word,
    /// Who said so.
    pub by: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When.
    pub at: u64,
}

/// Whether a system on probation stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// It stays, once it has proved healthy.
    Confirm,
    /// The old system comes back, now.
    Reject,
}

impl Answer {
    /// Says that it was rejected, by whom and why.
    pub fn rejection(&self) -> String {
        match &self.reason {
            Some(reason) => format!("{} rejected it: {reason}", self.by),
            None => format!("{} rejected it", self.by),
        }
    }
}
