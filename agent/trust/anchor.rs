//! Where trust begins: the revision accepted last, and how a tip stands to it. The anchor and everything below it are
//! trusted by hash; nothing here looks at a signature.

use serde::{Deserialize, Serialize};

use super::commit::{self, Link, ObjectFormat};
use super::policy::Merges;
use super::range::{self, Lineage, Range, Read};
use super::refusal::{Code, Fault, Refusal};
use crate::model::Oid;

/// What is known of a revision that was accepted. An introduction is known by its revision only; the rest is
/// then read from the commit itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnchorFacts {
    /// The commit's id.
    pub revision: Oid,
    /// SHA-256 of its signed bytes: recognises it under another id of the same content.
    #[serde(default)]
    pub payload_sha256: Option<String>,
    /// Its root tree.
    #[serde(default)]
    pub tree: Option<Oid>,
    /// Its committer's time, unix seconds.
    #[serde(default)]
    pub committer_time: Option<i64>,
}

impl AnchorFacts {
    /// Returns an anchor of which only the revision is known.
    pub fn introduction(revision: Oid) -> AnchorFacts {
        AnchorFacts { revision, payload_sha256: None, tree: None, committer_time: None }
    }
}

/// Finds the range from `anchor`, which is [`complete`], to `tip`, which must descend from it, or from the same signed
/// content under another id: only the tip that was accepted last can have been shown under a second one, for every
/// other id is inside a signed payload.
pub(super) fn descending(
    read: &mut Read<'_>,
    tip: &Oid,
    anchor: &AnchorFacts,
    merges: Merges,
    refuse: Code,
) -> Result<Range, Refusal> {
    let range = range::between(read, tip, &anchor.revision, anchor.committer_time, merges)?;
    if range.lineage == Lineage::Descends {
        return Ok(range);
    }
    if let Some(same) = same_content(read, &range, anchor)? {
        return range::between(read, tip, &same, anchor.committer_time, merges);
    }
    let base = anchor.revision.short();
    let how = match merges {
        Merges::Every => "does not descend from",
        Merges::Vouch => "does not descend by first parents from",
    };
    let says = match (refuse, range.lineage) {
        (Code::NotOnMain, _) => format!("{how} {base}, the accepted main"),
        (_, Lineage::Older) => format!("is older than {base}, the last accepted revision"),
        (_, Lineage::Apart | Lineage::Descends) => format!("{how} {base}, the last accepted revision"),
    };
    Err(Fault::new(refuse, says).at(tip))
}

/// Fills in what is not known of an anchor from the commit itself, which must be there in any case.
pub(super) fn complete(read: &mut Read<'_>, anchor: &AnchorFacts) -> Result<AnchorFacts, Refusal> {
    let id = &anchor.revision;
    let raw = read(id).map_err(|refusal| match refusal.code {
        Code::MissingObject => {
            Fault::new(Code::AnchorMissing, "is where to start from, but is missing").at(id)
        }
        _ => refusal,
    })?;
    let read_from = facts(id, &raw)?;
    Ok(AnchorFacts {
        revision: id.clone(),
        payload_sha256: anchor.payload_sha256.clone().or(read_from.payload_sha256),
        tree: anchor.tree.clone().or(read_from.tree),
        committer_time: anchor.committer_time.or(read_from.committer_time),
    })
}

/// Reads from a commit what would be known of it if it were accepted.
pub(super) fn facts(id: &Oid, raw: &[u8]) -> Result<AnchorFacts, Refusal> {
    let format = ObjectFormat::of(id);
    let Link { tree, committer_time, .. } = commit::link(raw, format).map_err(|f| f.at(id))?;
    let payload_sha256 = Some(commit::payload_sha256(raw, format));
    Ok(AnchorFacts { revision: id.clone(), payload_sha256, tree: Some(tree), committer_time })
}

fn same_content(read: &mut Read<'_>, range: &Range, anchor: &AnchorFacts) -> Result<Option<Oid>, Refusal> {
    for id in &range.commits {
        let candidate = facts(id, &read(id)?)?;
        if candidate.tree == anchor.tree && candidate.payload_sha256 == anchor.payload_sha256 {
            return Ok(Some(id.clone()));
        }
    }
    Ok(None)
}
