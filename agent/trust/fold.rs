//! The verdict over a range: every new commit is signed by a listed key, and the tip may be deployed. Commits
//! are judged parents first, so that rules which follow the history (rotation, thresholds) have their place.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::anchor::{AnchorFacts, complete, descending, facts};
use super::commit;
use super::judge::{Context, Judged, Line, SignedBy, TipRules, judge};
use super::policy::Policy;
use super::range::{Range, Read};
use super::refusal::{Code, Fault, Refusal};
use super::stone::{self, Stone};
use crate::model::Oid;

/// How many lines of verified commits an [`Accepted`] carries.
pub const LINES_MAX: usize = 100;

/// How many lines a [`RangeReport`] carries.
pub const REPORT_LINES_MAX: usize = 10_000;

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
    let anchor = complete(read, anchor)?;
    let range = descending(read, tip, &anchor, policy.merges(), Code::NotFastForward)?;
    not_a_double(&range, tip, &anchor)?;
    let rules = TipRules::new(policy, context, Line::Main, &anchor);
    fold(read, tip, &range, &rules).map_err(|refusal| match stone::find(read, &range, tip, &rules) {
        Some(Stone::At(stone)) => Refusal { stepping_stone: Some(stone), ..refusal },
        // The same tip may bring something acceptable later, so the verdict must not last.
        Some(Stone::NotYet(later)) if refusal.code.is_final() => {
            Refusal { text: format!("{}; and below it, {}", refusal.text, later.text), ..later }
        }
        Some(Stone::NotYet(_)) | None => refusal,
    })
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
    let main = complete(read, main)?;
    let range = descending(read, tip, &main, policy.merges(), Code::NotOnMain)?;
    not_a_double(&range, tip, &main)?;
    let rules = TipRules::new(policy, context, Line::Test, &main);
    let accepted = fold(read, tip, &range, &rules)?;
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

/// Judges every commit between `anchor` and `tip`, as [`verify_main`] does, without stopping at the first that
/// is refused. `Err` if the range itself cannot be had: an object is missing, or the tip does not descend.
pub fn verify_range_report(
    read: &mut dyn FnMut(&Oid) -> Result<Vec<u8>, Refusal>,
    tip: &Oid,
    anchor: &AnchorFacts,
    policy: &Policy,
    context: &Context<'_>,
) -> Result<RangeReport, Refusal> {
    report(read, tip, anchor, policy, context, Line::Main)
}

/// The same for a tip of the test branch on top of the accepted `main`, as [`verify_test`] judges it.
pub fn verify_test_report(
    read: &mut dyn FnMut(&Oid) -> Result<Vec<u8>, Refusal>,
    tip: &Oid,
    main: &AnchorFacts,
    policy: &Policy,
    context: &Context<'_>,
) -> Result<RangeReport, Refusal> {
    report(read, tip, main, policy, context, Line::Test)
}

fn report(
    read: &mut Read<'_>,
    tip: &Oid,
    anchor: &AnchorFacts,
    policy: &Policy,
    context: &Context<'_>,
    line: Line,
) -> Result<RangeReport, Refusal> {
    let anchor = complete(read, anchor)?;
    let refuse = match line {
        Line::Main => Code::NotFastForward,
        Line::Test => Code::NotOnMain,
    };
    let range = descending(read, tip, &anchor, policy.merges(), refuse)?;
    not_a_double(&range, tip, &anchor)?;
    let rules = TipRules::new(policy, context, line, &anchor);
    let mut report = RangeReport { lines: Vec::new(), left_off: 0, refused: 0 };
    for id in range.commits.iter().rev() {
        let raw = read(id)?;
        let verdict = judge(id, &raw, policy).and_then(|judged| {
            if id == tip {
                rules.check(&judged)?;
            }
            Ok(judged.signed_by())
        });
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

fn line(judged: &Judged<'_>) -> VerifiedCommit {
    let (revision, subject) = (judged.commit.id.clone(), judged.commit.subject.clone());
    VerifiedCommit { revision, signer: judged.signer.name.clone(), subject }
}

/// Judges the range, parents first, and its tip.
fn fold(read: &mut Read<'_>, tip: &Oid, range: &Range, rules: &TipRules<'_>) -> Result<Accepted, Refusal> {
    let mut lines = VecDeque::new();
    let mut last = None;
    for id in &range.commits {
        let judged = judge(id, &read(id)?, rules.policy)?;
        lines.push_front(line(&judged));
        lines.truncate(LINES_MAX);
        last = Some(judged);
    }
    let Some(judged) = last else {
        return unmoved(tip, &read(tip)?);
    };
    rules.check(&judged)?;
    let (commit, signer) = (judged.commit, judged.signer);
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

/// Refuses the anchor's own content under another id. Such a commit may stand below a tip, since somebody may have built on
/// it in good faith; but anybody can make as many as they like, with whatever in the place of the signature, and each would
/// be another revision to deploy.
fn not_a_double(range: &Range, tip: &Oid, anchor: &AnchorFacts) -> Result<(), Refusal> {
    if !range.commits.is_empty() || *tip == anchor.revision {
        return Ok(());
    }
    let says = format!("is {}, the accepted revision, under another id", anchor.revision.short());
    Err(Fault::new(Code::SameContent, says).at(tip))
}

/// The tip is the anchor: it is trusted by hash.
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
