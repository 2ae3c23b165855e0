//! What may be deployed, and what is known of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Oid;

/// The source that holds the host's configuration; always present in a [`Target`].
pub const CONFIG_SOURCE: &str = "config";

/// One revision per source. Quarantine and memory are keyed by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Target {
    revisions: BTreeMap<String, Oid>,
}

impl Target {
    /// Returns the target whose configuration is `revision` and that follows nothing else.
    pub fn config(revision: Oid) -> Target {
        Target { revisions: BTreeMap::from([(CONFIG_SOURCE.to_owned(), revision)]) }
    }

    /// Returns the revision of the configuration, if the target has one (a journal of a stranger might not).
    pub fn revision(&self) -> Option<&Oid> {
        self.revisions.get(CONFIG_SOURCE)
    }
}

/// What is done with a branch's tip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// Activate, prove healthy, then make permanent: profile and boot entry.
    Switch,
    /// Activate and prove healthy; a reboot goes back.
    Test,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operation::Switch => "switch",
            Operation::Test => "test",
        })
    }
}

/// A tip that a remote named. Nothing of it is believed yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Candidate {
    /// The remote's name in the configuration.
    pub remote: String,
    /// The branch, without `refs/heads/`.
    pub branch: String,
    /// The tip it named.
    pub revision: Oid,
    /// What the configuration wants done with that branch.
    pub operation: Operation,
}

/// The commit that a line of history was last accepted at; only descendants are accepted next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tip {
    /// The commit.
    pub revision: Oid,
    /// Its tree.
    pub tree: Oid,
    /// SHA-256 of the signed payload: recognises the same signed content under another commit id.
    pub payload_sha256: String,
    /// Seconds since 1970, as the signer wrote it.
    pub committer_time: i64,
    /// Who signed it; `None` for an introduction, which root pinned by id.
    pub signer: Option<String>,
    /// First line of the message, made safe to print.
    pub subject: String,
    /// The branch it was seen on.
    pub branch: String,
    /// The remote it came from.
    pub remote: String,
    /// When this host accepted it.
    pub accepted_at: u64,
}

impl Tip {
    /// Returns the target that deploys this commit.
    pub fn target(&self) -> Target {
        Target::config(self.revision.clone())
    }

    /// Returns when the commit was made, unix seconds; `None`: not after 1970, so that nobody can mean it.
    pub fn committed_at(&self) -> Option<u64> {
        u64::try_from(self.committer_time).ok().filter(|at| *at > 0)
    }
}

/// Something that is to run on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Desired {
    /// The verified commit.
    pub tip: Tip,
    /// How.
    pub operation: Operation,
    /// Why now.
    pub why: Why,
}

/// Why a deployment was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Why {
    /// The branch moved.
    NewRevision,
    /// An operator asked to try again, or a failure that was not the target's fault is tried again.
    Retry,
    /// The test branch is gone or was overtaken: back to the confirmed line.
    EndOfTest,
    /// The host ran something else, and `activation.drift` is `enforce`.
    Drift,
    /// What runs takes full effect only by a reboot, which is allowed now.
    Reboot,
}
