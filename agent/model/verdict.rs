//! What is held against a target or a tip, and against the host itself.

use serde::{Deserialize, Serialize};

use super::{Oid, Operation, StorePath, Target};

/// The word for a submodule whose repository lacks the commit that a verified tree names.
pub const SUBMODULE_MISSING: &str = "submodule-missing";

/// Why something failed, and what that means for the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// What the plan does about it.
    pub class: Class,
    /// A stable word: `eval`, `build`, `health`, `activation`, `network`, `space`, `timeout`, `reset`,
    /// `needs-reboot`, `locked`, `dbus`, …
    pub code: String,
    /// What happened, for people.
    pub text: String,
}

impl Failure {
    /// Returns one that may pass by itself.
    pub fn transient(code: &str, text: String) -> Failure {
        Failure { class: Class::Transient, code: code.to_owned(), text }
    }
}

/// Answers the plan's question: again, never again, or stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// May pass by itself: try again, later and later.
    Transient,
    /// The target's own fault: quarantine it.
    #[default]
    Target,
}

impl Class {
    /// Tells whether the target is to blame.
    pub fn is_target(&self) -> bool {
        matches!(self, Class::Target)
    }
}

/// A tip that was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The tip.
    pub revision: Oid,
    /// Its branch.
    pub branch: String,
    /// The remote that named it.
    pub remote: String,
    /// What would have been done with it.
    pub operation: Operation,
    /// The commit that the verdict is about; often one below the tip.
    pub commit: Option<Oid>,
    /// The stable code, such as `unsigned`.
    pub code: String,
    /// The verdict in words.
    pub text: String,
    /// What the admin can do.
    pub advice: String,
    /// What it was held against (policy and accepted tip): under another, the tip is judged afresh.
    pub judged_by: String,
    /// When.
    pub at: u64,
}

/// Deployments are stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Suspension {
    /// Who stopped them.
    pub by: String,
    /// Why, for people.
    pub reason: Option<String>,
    /// Until when; `None`: until resumed.
    pub until: Option<u64>,
    /// Since when.
    pub at: u64,
}

/// A target that is not tried again by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quarantined {
    /// The target.
    pub target: Target,
    /// The system it built, if it got that far: the same system under another commit is bad, too.
    pub toplevel: Option<StorePath>,
    /// Why.
    pub failure: Failure,
    /// When.
    pub at: u64,
}
