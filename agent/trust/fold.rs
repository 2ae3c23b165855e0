//! The verdict over a range: every new commit is signed by a listed key, and the tip may be deployed. Commits
//! are judged parents first, so that rules which follow the history (rotation, thresholds) have their place.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::commit::{self, Commit, Link, ObjectFormat};
use super::policy::{Policy, Role, Signer};
use super::range::{self, Lineage, Range, Read};
use super::refusal::{Code, Fault, Refusal};
use super::sshsig;
use crate::model::Oid;

/// How many lines of verified commits an [`Accepted`] carries.
pub const LINES_MAX: usize = 100;

/// How many lines a [`RangeReport`] carries.
pub const REPORT_LINES_MAX: usize = 10_000;

/// How far a tip of main may be ahead of the host's clock, in seconds.
pub const FUTURE_SECS_MAX: u64 = 24 * 60 * 60;

/// How far a tip of a test branch may be ahead, in seconds. Its date must rise with every move, so a date far
/// ahead would lock the branch.
pub const TEST_FUTURE_SECS_MAX: u64 = 10 * 60;

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

/// A revision that may be deployed, as far as its history goes. Its tree is not looked at here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// The tip.
    pub revision: Oid,
    /// Its root tree.
    pub tree: Oid,
    /// SHA-256 of its signed bytes.
    pub payload_sha256: String,
    /// Its committer's time, unix seconds.
    pub committer_time: i64,
    /// Who signed the tip; `None` if the tip is the anchor itself, whose signature is not checked.
    pub signer: Option<String>,
    /// The first line of its message, escaped, at most 200 characters.
    pub subject: String,
    /// How many commits were verified.
    pub commits: u32,
    /// The verified commits, newest first, at most [`LINES_MAX`].
    pub lines: Vec<VerifiedCommit>,
    /// What to store as the next anchor.
    pub anchor: AnchorFacts,
}

/// One commit with a good signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedCommit {
    /// Its id.
    pub revision: Oid,
    /// Who signed it.
    pub signer: String,
    /// The first line of its message, escaped, at most 200 characters.
    pub subject: String,
}

/// Where and when a tip is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context<'a> {
    /// The host's name, as its configuration says it.
    pub host: &'a str,
    /// The branch that is followed, below `refs/heads/`.
    pub branch: &'a str,
    /// The host's clock, unix seconds, without a floor: where one is needed it is taken from the anchor's signed date.
    pub now: u64,
}

/// Decides whether `tip` may follow `anchor` on the main branch.
///
/// `read` returns the raw bytes of a commit by id; it has re-hashed them, made sure that they are a commit, and
/// refuses with `missing-object`, `hash-mismatch` or `not-a-commit` itself.
pub fn verify_main(
    read: &mut dyn FnMut(&Oid) -> Result<Vec<u8>, Refusal>,
    tip: &Oid,
    anchor: &AnchorFacts,
    policy: &Policy,
    context: &Context<'_>,
) -> Result<Accepted, Refusal> {
    let range = descending(read, tip, anchor, Code::NotFastForward)?;
    let accepted = fold(read, tip, &range, policy)?;
    if accepted.commits > 0 {
        not_future(&accepted, context.now, FUTURE_SECS_MAX)?;
    }
    Ok(accepted)
}

/// Decides whether `tip` may be tried on top of the accepted `main`. It may have been rewritten since
/// `previous`, the test tip accepted last and its committer's time in unix seconds, but its date must have
/// risen; neither anchor nor policy are moved by it.
///
/// `read` is as in [`verify_main`].
pub fn verify_test(
    read: &mut dyn FnMut(&Oid) -> Result<Vec<u8>, Refusal>,
    tip: &Oid,
    main: &AnchorFacts,
    previous: Option<(&Oid, i64)>,
    policy: &Policy,
    context: &Context<'_>,
) -> Result<Accepted, Refusal> {
    let range = descending(read, tip, main, Code::NotOnMain)?;
    let accepted = fold(read, tip, &range, policy)?;
    not_future(&accepted, context.now, TEST_FUTURE_SECS_MAX)?;
    match previous {
        Some((shown, time)) if shown != tip && accepted.committer_time <= time => {
            let says = format!("is not newer than {}, which the test branch showed before", shown.short());
            Err(Fault::new(Code::TestRollback, says).at(tip))
        }
        Some(_) | None => Ok(accepted),
    }
}

/// What `pullagent verify` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RangeReport {
    /// One line for each new commit, newest first, at most [`REPORT_LINES_MAX`].
    pub lines: Vec<CommitLine>,
    /// How many older commits got no line; they were judged all the same.
    pub left_off: u32,
    /// How many commits are refused.
    pub refused: u32,
}

/// One commit and its own verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CommitLine {
    /// Its id.
    pub revision: Oid,
    /// The first line of its message, escaped, at most 200 characters.
    pub subject: String,
    /// Who signed it, or why it is refused. The tip's verdict includes what holds for a tip only.
    pub verdict: Result<SignedBy, Refusal>,
}

/// Whose good signature a commit carries, and what that is worth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedBy {
    /// The signer's name.
    pub signer: String,
    /// The signer's roles.
    pub roles: BTreeSet<Role>,
}

/// Judges every commit between `anchor` and `tip`, as [`verify_main`] does, without stopping at the first that
/// is refused. `Err` if the range itself cannot be had: an object is missing, or the tip does not descend.
pub fn verify_range_report(
    read: &mut dyn FnMut(&Oid) -> Result<Vec<u8>, Refusal>,
    tip: &Oid,
    anchor: &AnchorFacts,
    policy: &Policy,
    context: &Context<'_>,
) -> Result<RangeReport, Refusal> {
    let range = descending(read, tip, anchor, Code::NotFastForward)?;
    let mut report = RangeReport { lines: Vec::new(), left_off: 0, refused: 0 };
    for id in range.commits.iter().rev() {
        let raw = read(id)?;
        let verdict = judge(id, &raw, policy)
            .and_then(|judged| if id == tip { judged.as_tip(context.now) } else { Ok(judged.signed_by()) });
        report.refused += u32::from(verdict.is_err());
        if report.lines.len() < REPORT_LINES_MAX {
            report.lines.push(CommitLine {
                revision: id.clone(),
                subject: commit::subject_of(&raw),
                verdict,
            });
        } else {
            report.left_off += 1;
        }
    }
    Ok(report)
}

/// Finds the range from `anchor` to `tip`, which must descend from it, or from the same signed content under
/// another id: only the tip that was accepted last can have been shown under a second one, for every other id
/// is inside a signed payload.
fn descending(read: &mut Read<'_>, tip: &Oid, anchor: &AnchorFacts, refuse: Code) -> Result<Range, Refusal> {
    let known = complete(read, anchor)?;
    let range = range::between(read, tip, &anchor.revision, known.committer_time)?;
    if range.lineage == Lineage::Descends {
        return Ok(range);
    }
    if let Some(same) = same_content(read, &range, &known)? {
        return range::between(read, tip, &same, known.committer_time);
    }
    let base = anchor.revision.short();
    let says = match (refuse, range.lineage) {
        (Code::NotOnMain, _) => format!("does not descend from {base}, the accepted main"),
        (_, Lineage::Older) => format!("is older than {base}, the last accepted revision"),
        (_, Lineage::Apart | Lineage::Descends) => {
            format!("does not descend from {base}, the last accepted revision")
        }
    };
    Err(Fault::new(refuse, says).at(tip))
}

/// Fills in what is not known of an anchor from the commit itself, which must be there in any case.
fn complete(read: &mut Read<'_>, anchor: &AnchorFacts) -> Result<AnchorFacts, Refusal> {
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

fn facts(id: &Oid, raw: &[u8]) -> Result<AnchorFacts, Refusal> {
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

/// A commit with a good signature by a listed key.
struct Judged<'p> {
    commit: Commit,
    signer: &'p Signer,
}

impl Judged<'_> {
    fn signed_by(&self) -> SignedBy {
        SignedBy { signer: self.signer.name.clone(), roles: self.signer.roles.clone() }
    }

    /// Returns who signed this commit if it may be deployed.
    fn as_tip(&self, now: u64) -> Result<SignedBy, Refusal> {
        let id = &self.commit.id;
        deployable(self.signer).map_err(|f| f.at(id))?;
        ahead(self.commit.committer_time, now, FUTURE_SECS_MAX).map_err(|f| f.at(id))?;
        Ok(self.signed_by())
    }

    fn line(&self) -> VerifiedCommit {
        let (revision, subject) = (self.commit.id.clone(), self.commit.subject.clone());
        VerifiedCommit { revision, signer: self.signer.name.clone(), subject }
    }
}

/// Judges one new commit by itself.
fn judge<'p>(id: &Oid, raw: &[u8], policy: &'p Policy) -> Result<Judged<'p>, Refusal> {
    let judged = || {
        let format = ObjectFormat::of(id);
        if commit::link(raw, format)?.parents.is_empty() {
            return Err(Fault::new(Code::ForeignRoot, "begins a history of its own"));
        }
        let split = commit::split_raw(raw, format)?;
        let signer = sshsig::verify_raw(&split.payload, &split.armor, policy)?.signer;
        Ok(Judged { commit: Commit::from_split(id, split)?, signer })
    };
    judged().map_err(|fault: Fault| fault.at(id))
}

/// Judges the range, parents first, and its tip.
fn fold(read: &mut Read<'_>, tip: &Oid, range: &Range, policy: &Policy) -> Result<Accepted, Refusal> {
    let mut lines = VecDeque::new();
    let mut last = None;
    for id in &range.commits {
        let judged = judge(id, &read(id)?, policy)?;
        lines.push_front(judged.line());
        lines.truncate(LINES_MAX);
        last = Some(judged);
    }
    let Some(Judged { commit, signer }) = last else {
        return unmoved(tip, &read(tip)?);
    };
    deployable(signer).map_err(|f| f.at(&commit.id))?;
    let anchor = AnchorFacts {
        revision: commit.id.clone(),
        payload_sha256: Some(commit.payload_sha256.clone()),
        tree: Some(commit.tree.clone()),
        committer_time: Some(commit.committer_time),
    };
    Ok(Accepted {
        revision: commit.id,
        tree: commit.tree,
        payload_sha256: commit.payload_sha256,
        committer_time: commit.committer_time,
        signer: Some(signer.name.clone()),
        subject: commit.subject,
        commits: u32::try_from(range.commits.len()).unwrap_or(u32::MAX),
        lines: lines.into(),
        anchor,
    })
}

/// The tip is the anchor, or the same signed content: it is trusted by hash.
fn unmoved(tip: &Oid, raw: &[u8]) -> Result<Accepted, Refusal> {
    let anchor = facts(tip, raw)?;
    let unreadable = || Fault::new(Code::BadHeader, "has a committer line without a readable time").at(tip);
    let (Some(tree), Some(payload_sha256), Some(committer_time)) =
        (anchor.tree.clone(), anchor.payload_sha256.clone(), anchor.committer_time)
    else {
        return Err(unreadable());
    };
    Ok(Accepted {
        revision: tip.clone(),
        tree,
        payload_sha256,
        committer_time,
        signer: None,
        subject: commit::subject_of(raw),
        commits: 0,
        lines: Vec::new(),
        anchor,
    })
}

fn deployable(signer: &Signer) -> Result<(), Fault> {
    if signer.may_deploy() {
        return Ok(());
    }
    let says = format!("is signed by '{}', who may contribute but not deploy", signer.name);
    Err(Fault::new(Code::Unauthorised, says))
}

fn not_future(accepted: &Accepted, now: u64, limit: u64) -> Result<(), Refusal> {
    ahead(accepted.committer_time, now, limit).map_err(|f| f.at(&accepted.revision))
}

/// Refuses a date that is more than `limit` seconds ahead of `now`.
fn ahead(committer_time: i64, now: u64, limit: u64) -> Result<(), Fault> {
    let ahead = u64::try_from(committer_time).unwrap_or(0).saturating_sub(now);
    if ahead <= limit {
        return Ok(());
    }
    let says = format!("is dated {} hours ahead of this host's clock", ahead.div_ceil(60 * 60));
    Err(Fault::new(Code::FutureCommit, says))
}
