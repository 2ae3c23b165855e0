//! `pullagent verify`: judge the commits of a local repository as this host would, without agent or network.

use std::path::PathBuf;

use anyhow::anyhow;
use serde::Serialize;

use super::Options;
use super::exit::{Exit, Fail};
use super::output;
use crate::config::Settings;
use crate::host::clock;
use crate::model::{Oid, Operation};
use crate::repo::local::{LocalError, LocalRepository, open_for_verify};
use crate::report;
use crate::trust::{self, AnchorFacts, Code, CommitLine, Context, RangeReport, Refusal};

const AFTER_HELP: &str = "\
Examples:
  pullagent verify                             on the host: main, from what the host accepted last
  pullagent verify --config web1.json A..HEAD  anywhere: by that host's configuration, from commit A

Exits with 0 if the host would accept the commits, 3 if not. Their files are not looked at; the host does that too.";

/// What to judge.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The repository
    #[arg(long, value_name = "DIR", default_value = ".")]
    repo: PathBuf,
    /// The branch whose tip to judge [default: the one that this host switches to]
    #[arg(long, value_name = "NAME", conflicts_with = "range")]
    branch: Option<String>,
    /// A tip, or FROM..TIP where FROM is trusted [default for FROM: what this host accepted last]. Each is a branch,
    /// HEAD, a full reference name or a whole commit id
    #[arg(value_name = "RANGE|TIP")]
    range: Option<String>,
}

#[derive(Debug, Serialize)]
struct Judged<'a> {
    schema: u32,
    from: &'a Oid,
    tip: &'a Oid,
    #[serde(flatten)]
    report: &'a RangeReport,
}

/// Prints a verdict on every commit.
pub fn run(options: &Options, args: &Args) -> Result<Exit, Fail> {
    let settings = options.settings()?;
    let policy = settings.policy()?;
    let repository = open_for_verify(&args.repo).map_err(unreadable)?;
    let (from, tip) = range(options, args, &settings, &repository)?;
    let anchor = AnchorFacts::introduction(from.clone());
    let mut read = |oid: &Oid| repository.commit(oid).map_err(|e| missing(&e, oid));
    let branch = args.branch.clone().unwrap_or_else(|| main_branch(&settings));
    let context = Context { host: &settings.hostname, branch: &branch, now: clock::unix_secs() };
    let judged = trust::verify_range_report(&mut read, &tip, &anchor, &policy, &context);
    let report = judged.map_err(|refusal| {
        let text = format!("{}: {refusal}", refusal.code);
        Fail::new(Exit::Failed, anyhow!(text), refusal.code.advice())
    })?;
    if options.json {
        output::print_json(&Judged { schema: 1, from: &from, tip: &tip, report: &report })?;
    } else {
        output::print(&text(&report, &from, &tip))?;
    }
    Ok(if report.refused == 0 { Exit::Ok } else { Exit::Failed })
}

fn range(
    options: &Options,
    args: &Args,
    settings: &Settings,
    repo: &LocalRepository,
) -> Result<(Oid, Oid), Fail> {
    let (from, tip) = match args.range.as_deref().map(|r| r.split_once("..").ok_or(r)) {
        Some(Ok((from, tip))) => (Some(from), tip.to_owned()),
        Some(Err(tip)) => (None, tip.to_owned()),
        None => (None, args.branch.clone().unwrap_or_else(|| main_branch(settings))),
    };
    let tip = if tip.is_empty() { "HEAD".to_owned() } else { tip };
    let resolve = |name: &str| repo.resolve(name).map_err(unreadable);
    let from = match from {
        Some(from) => resolve(from)?,
        None => anchor(options, settings)?,
    };
    Ok((from, resolve(&tip)?))
}

fn main_branch(settings: &Settings) -> String {
    let main = settings.branches().into_iter().find(|(_, operation)| *operation == Operation::Switch);
    main.map_or_else(|| "HEAD".to_owned(), |(name, _)| name)
}

/// What this host accepted last, else what root pinned.
fn anchor(options: &Options, settings: &Settings) -> Result<Oid, Fail> {
    let accepted = report::read_status(&options.root).ok().and_then(|s| s.accepted).map(|c| c.revision);
    accepted.or_else(|| settings.trust.introduction.clone()).ok_or_else(|| {
        Fail::usage(
            "there is nothing to start from: this host has accepted no revision",
            "name a commit that you trust: pullagent verify FROM..TIP",
        )
    })
}

fn unreadable(error: LocalError) -> Fail {
    let hint = "name a branch or a whole commit id, and the repository with --repo";
    match error {
        LocalError::NoSuchRevision { .. } => Fail::new(Exit::Usage, error, hint),
        LocalError::Open { .. } => {
            Fail { hint: Some(hint.to_owned()), ..Fail::from(anyhow::Error::from(error)) }
        }
        LocalError::Missing(_) | LocalError::NotACommit(..) | LocalError::Read { .. } => {
            Fail::from(anyhow::Error::from(error).context("failed to read the repository"))
        }
    }
}

fn missing(error: &LocalError, oid: &Oid) -> Refusal {
    let code = match error {
        LocalError::NotACommit(..) => Code::NotACommit,
        LocalError::Read { .. } => Code::HashMismatch,
        LocalError::Missing(_) | LocalError::Open { .. } | LocalError::NoSuchRevision { .. } => {
            Code::MissingObject
        }
    };
    Refusal::new(code, Some(oid), error.to_string())
}

fn text(report: &RangeReport, from: &Oid, tip: &Oid) -> String {
    let mut text = String::new();
    for CommitLine { revision, subject, verdict } in &report.lines {
        match verdict {
            Ok(signed) => {
                let signer = &signed.signer;
                text.push_str(&format!("✔ {}  signed by {signer}  \"{subject}\"\n", revision.short()))
            }
            Err(refusal) => {
                text.push_str(&format!("✖ {}  {}  \"{subject}\"\n", revision.short(), refusal.code));
                text.push_str(&format!("           {refusal}\n           next: {}\n", refusal.code.advice()));
            }
        }
    }
    if report.left_off > 0 {
        text.push_str(&format!("  … and {} older commits, judged too\n", report.left_off));
    }
    let count = report.lines.len() + report.left_off as usize;
    let commits = if count == 1 { "commit" } else { "commits" };
    text.push_str(&match (count, report.refused) {
        (0, _) => format!("✔ {} is the very commit to start from: nothing to judge\n", tip.short()),
        (_, 0) => format!("✔ {} is good: {count} {commits} since {}\n", tip.short(), from.short()),
        (_, bad) => {
            format!("✖ {} would be refused: {bad} of {count} {commits} since {}\n", tip.short(), from.short())
        }
    });
    text
}
