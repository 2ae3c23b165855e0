//! The words of `pullagent verify`: one line per commit, or JSON of a layout that scripts can rely on.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{Judgement, Question};
use crate::model::{Oid, Operation};
use crate::repo::local::TreeSeen;
use crate::trust::{Code, CommitLine, Refusal, Role, SignedBy};

/// What `--json` prints.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Judged<'a> {
    schema: u32,
    host: &'a str,
    branch: &'a str,
    operation: Operation,
    from: &'a Oid,
    tip: &'a Oid,
    /// Whether the host would accept the tip.
    accepted: bool,
    /// Why not.
    refusal: Option<Why<'a>>,
    /// How many lines are not accepted.
    refused: usize,
    /// How many older commits have no line.
    left_off: u32,
    /// `whole`, `without-some-files`, or `null` where the files were not looked at.
    tree: Option<&'static str>,
    /// Newest first.
    lines: Vec<Line<'a>>,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    revision: &'a Oid,
    subject: &'a str,
    accepted: bool,
    #[serde(flatten)]
    verdict: Verdict<'a>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Verdict<'a> {
    Signed { signer: &'a str, roles: &'a BTreeSet<Role> },
    Refused(Why<'a>),
}

#[derive(Debug, Serialize)]
struct Why<'a> {
    code: Code,
    commit: &'a Option<Oid>,
    text: &'a str,
    advice: &'static str,
    /// What the host would deploy first; what it says then may let the rest follow.
    #[serde(rename = "steppingStone")]
    stepping_stone: &'a Option<Oid>,
}

/// Returns what `--json` prints.
pub fn json<'a>(question: &'a Question, judgement: &'a Judgement) -> Judged<'a> {
    let Question { host, branch, operation, from, tip } = question;
    Judged {
        schema: 1,
        host,
        branch,
        operation: *operation,
        from,
        tip,
        accepted: judgement.refusal.is_none(),
        refusal: judgement.refusal.as_ref().map(why),
        refused: judgement.refused(),
        left_off: judgement.left_off,
        tree: judgement.tree.map(|seen| match seen {
            TreeSeen::Whole => "whole",
            TreeSeen::WithoutSomeFiles => "without-some-files",
        }),
        lines: judgement.lines.iter().map(line).collect(),
    }
}

fn line(CommitLine { revision, subject, verdict }: &CommitLine) -> Line<'_> {
    let accepted = verdict.is_ok();
    let verdict = match verdict {
        Ok(SignedBy { signer, roles }) => Verdict::Signed { signer, roles },
        Err(refusal) => Verdict::Refused(why(refusal)),
    };
    Line { revision, subject, accepted, verdict }
}

fn why(refusal: &Refusal) -> Why<'_> {
    let Refusal { code, commit, text, stepping_stone } = refusal;
    Why { code: *code, commit, text, advice: code.advice(), stepping_stone }
}

/// Returns what is printed otherwise.
pub fn text(question: &Question, judgement: &Judgement) -> String {
    let mut text: String = judgement.lines.iter().map(sentence).collect();
    if judgement.left_off > 0 {
        text.push_str(&format!("  … and {} older commits, judged too\n", judgement.left_off));
    }
    text.push_str(&summary(question, judgement));
    if let Some(stone) = judgement.refusal.as_ref().and_then(|refusal| refusal.stepping_stone.as_ref()) {
        let stone = stone.short();
        text.push_str(&format!(
            "  the host would deploy {stone} first, and judge the rest by what that says\n"
        ));
    }
    text
}

fn sentence(CommitLine { revision, subject, verdict }: &CommitLine) -> String {
    let short = revision.short();
    match verdict {
        Ok(SignedBy { signer, roles }) => {
            let roles: Vec<&str> = roles.iter().map(role_name).collect();
            format!("✔ {short}  signed by {signer} ({})  \"{subject}\"\n", roles.join(", "))
        }
        Err(refusal) => {
            let (code, advice) = (refusal.code, refusal.code.advice());
            format!("✖ {short}  {code}  \"{subject}\": {refusal}; next: {advice}\n")
        }
    }
}

fn role_name(role: &Role) -> &'static str {
    match role {
        Role::Deployer => "deployer",
        Role::Contributor => "contributor",
    }
}

fn summary(question: &Question, judgement: &Judgement) -> String {
    let (from, tip) = (question.from.short(), question.tip.short());
    let place = format!("{} on {}", question.branch, question.host);
    let count = judgement.lines.len() + judgement.left_off as usize;
    let commits = if count == 1 { "commit" } else { "commits" };
    let files = match judgement.tree {
        Some(TreeSeen::Whole) => "",
        Some(TreeSeen::WithoutSomeFiles) => "; the sizes of files that this partial clone lacks don't count",
        None => "; this partial clone has no files to look at",
    };
    match &judgement.refusal {
        None if count == 0 => format!("✔ {tip} is the very commit to start from: nothing to judge\n"),
        None => format!("✔ {tip} is good for {place}: {count} {commits} since {from}{files}\n"),
        Some(_) if judgement.refused() > 0 => {
            let refused = judgement.refused();
            format!("✖ {tip} would be refused for {place}: {refused} of {count} {commits} since {from}\n")
        }
        Some(refusal) => {
            let (code, advice) = (refusal.code, refusal.code.advice());
            format!("✖ {tip} would be refused for {place}: {code}: {refusal}; next: {advice}\n")
        }
    }
}
