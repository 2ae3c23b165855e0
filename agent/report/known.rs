//! Which revision an abbreviation means, among those that the files know.

use std::collections::BTreeSet;

use super::{History, Status};
use crate::model::Oid;

/// The fewest digits that an abbreviation may have.
const PREFIX_MIN: usize = 4;

/// Says why a text does not name one revision.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevisionError {
    /// Not hexadecimal, or too few or too many digits.
    #[error("'{0}' is not a revision ({PREFIX_MIN} to 64 hexadecimal digits)")]
    Malformed(String),
    /// No revision that this host has heard of begins like this.
    #[error("this host has not heard of a revision '{0}'")]
    Unknown(String),
    /// Several do.
    #[error("'{text}' is ambiguous: {}", list(.found))]
    Ambiguous {
        /// The abbreviation.
        text: String,
        /// What it may mean.
        found: Vec<Oid>,
    },
}

/// Tells whether `text` may be a revision, known or not.
pub fn may_be_revision(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit()) && (PREFIX_MIN..=64).contains(&text.len())
}

/// Returns the revision that `text` means. A full id means itself, heard of or not.
///
/// # Errors
/// `text` is no abbreviation, or names no known revision, or several.
pub fn resolve(text: &str, status: &Status, history: &History) -> Result<Oid, RevisionError> {
    let lower = text.to_ascii_lowercase();
    if let Ok(oid) = lower.parse() {
        return Ok(oid);
    }
    if !may_be_revision(&lower) {
        return Err(RevisionError::Malformed(text.chars().take(80).collect()));
    }
    let mut found: Vec<Oid> =
        known(status, history).into_iter().filter(|o| o.as_str().starts_with(&lower)).cloned().collect();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (None, _) => Err(RevisionError::Unknown(lower)),
        (Some(last), false) => {
            found.push(last);
            Err(RevisionError::Ambiguous { text: lower, found })
        }
    }
}

fn known<'a>(status: &'a Status, history: &'a History) -> BTreeSet<&'a Oid> {
    let systems = [&status.running, &status.boot, &status.booted];
    let mut all: BTreeSet<&Oid> = systems.into_iter().flatten().filter_map(|s| s.revision.as_ref()).collect();
    all.extend(status.remotes.iter().flat_map(|r| r.heads.values()));
    all.extend(status.accepted.iter().map(|c| &c.revision));
    all.extend(status.test.iter().map(|t| &t.commit.revision));
    all.extend(status.deployment.iter().map(|d| &d.commit.revision));
    all.extend(status.doing.iter().filter_map(|d| d.revision.as_ref()));
    all.extend(status.pending.iter().map(|p| &p.revision));
    all.extend(status.set_aside.iter().flat_map(|b| b.commit.iter().chain([&b.revision])));
    all.extend(status.retries.iter().map(|r| &r.revision));
    all.extend(history.entries.iter().map(|e| &e.revision));
    all
}

fn list(found: &[Oid]) -> String {
    let names: Vec<&str> = found.iter().map(Oid::as_str).collect();
    names.join(", ")
}
