//! `pullagent verify`: judge the commits of a local repository as a host would, without agent or network. What it says is
//! worded in `print.rs`; what a host says is decided in [`crate::trust`], not here.

mod print;

use std::path::PathBuf;

use anyhow::anyhow;

use super::Options;
use super::exit::{Exit, Fail};
use super::output;
use crate::config::{self, Settings};
use crate::host::clock;
use crate::model::{Oid, Operation};
use crate::repo::local::{LocalError, LocalRepository, TreeFault, TreeSeen, open_for_verify};
use crate::report;
use crate::trust::tree::Submodules;
use crate::trust::{self, AnchorFacts, Code, CommitLine, Context, Policy, Refusal};

const AFTER_HELP: &str = "\
Examples:
  pullagent verify                             on the host: main, from what the host accepted last
  pullagent verify --config web1.json A..HEAD  anywhere: by that host's configuration, from commit A
  pullagent verify --config web1.json --as-host web2 --branch test-web2 main..HEAD
                                               whether HEAD could be pushed to test-web2

A host's configuration, from its flake:
  nix eval --json .#nixosConfigurations.web1.config.services.pullagent.settings > web1.json

Exits with 0 if the host would accept the tip, 3 if not. What a host remembers, such as the dates of a test branch, is \
not looked at. In a hook of a Git server it also sees what is being pushed.";

/// What to judge.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The repository, or a directory in it
    #[arg(long, value_name = "DIR", default_value = ".")]
    repo: PathBuf,
    /// Judge as this host would, by the same signers [default: the host of the configuration]
    #[arg(long, value_name = "HOST")]
    as_host: Option<String>,
    /// The branch that the tip is, or would be pushed to [default: the tip's name if the host follows that, else the
    /// branch that the host switches to]
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// A tip, or FROM..TIP where FROM is trusted [default for FROM: what this host accepted last]. Each is a branch,
    /// HEAD, a full reference name or a whole commit id; `~2` behind it goes back two commits
    #[arg(value_name = "RANGE|TIP")]
    range: Option<String>,
    /// Object directories of a push that hooks are looking at
    #[arg(long, hide = true, env = "GIT_OBJECT_DIRECTORY")]
    objects: Option<PathBuf>,
    /// Where those borrow from
    #[arg(long, hide = true, env = "GIT_ALTERNATE_OBJECT_DIRECTORIES")]
    alternates: Option<std::ffi::OsString>,
}

/// A tip, and where it is judged.
#[derive(Debug)]
struct Question {
    host: String,
    branch: String,
    operation: Operation,
    from: Oid,
    tip: Oid,
}

/// What a host would say, commit by commit.
#[derive(Debug)]
struct Judgement {
    /// Newest first.
    lines: Vec<CommitLine>,
    left_off: u32,
    /// Why the tip would be refused.
    refusal: Option<Refusal>,
    /// What was seen of the tip's files; `None` if they were not looked at.
    tree: Option<TreeSeen>,
}

/// Prints a verdict on every commit.
pub fn run(options: &Options, args: &Args) -> Result<Exit, Fail> {
    let settings = as_host(options.settings()?, args.as_host.as_deref())?;
    let policy = settings.policy()?;
    let repository = open_for_verify(&args.repo, &beside(args)).map_err(unreadable)?;
    let question = question(options, args, &settings, &repository)?;
    if args.as_host.is_none() {
        warn_of_other_keys(options, &settings);
    }
    let judgement = judge(&repository, &policy, &settings.source.submodule_paths(), &question)?;
    if options.json {
        output::print_json(&print::json(&question, &judgement))?;
    } else {
        output::print(&print::text(&question, &judgement))?;
    }
    Ok(if judgement.refusal.is_none() { Exit::Ok } else { Exit::Failed })
}

/// Git names the object directories to the hooks of a push. It quotes those with a colon in their name; they are left
/// out, and what they hold counts as missing.
fn beside(args: &Args) -> Vec<PathBuf> {
    let alternates = args.alternates.iter().flat_map(std::env::split_paths);
    let usable = |path: &PathBuf| !path.as_os_str().is_empty() && path.is_dir();
    args.objects.iter().cloned().chain(alternates).filter(usable).collect()
}

/// Returns the settings as those of another host, which is assumed to trust the same signers.
fn as_host(settings: Settings, host: Option<&str>) -> Result<Settings, Fail> {
    let Some(host) = host else { return Ok(settings) };
    let renamed = Settings { hostname: host.to_owned(), ..settings };
    let bytes = serde_json::to_vec(&renamed).map_err(|e| Fail::from(anyhow::Error::from(e)))?;
    let checked = config::parse(&bytes);
    Ok(checked.map_err(|e| Fail::new(Exit::Usage, e, "name a host as its configuration does"))?.settings)
}

fn question(
    options: &Options,
    args: &Args,
    settings: &Settings,
    repo: &LocalRepository,
) -> Result<Question, Fail> {
    let (from, tip) = match args.range.as_deref().map(|r| r.split_once("..").ok_or(r)) {
        Some(Ok((from, tip))) => (Some(from), Some(tip).filter(|tip| !tip.is_empty())),
        Some(Err(tip)) => (None, Some(tip)),
        None => (None, None),
    };
    let tip = tip.or(if from.is_some() { Some("HEAD") } else { args.branch.as_deref() });
    let (branch, operation) = followed(settings, args.branch.as_deref(), tip)?;
    let resolve = |name: &str| repo.resolve(name).map_err(|e| unresolved(e, repo));
    let from = match from {
        Some(from) => resolve(from)?,
        None => anchor(options, args, settings)?,
    };
    let tip = resolve(tip.unwrap_or(&branch))?;
    Ok(Question { host: settings.hostname.clone(), branch, operation, from, tip })
}

/// Returns the branch by whose rules to judge.
fn followed(
    settings: &Settings,
    asked: Option<&str>,
    tip: Option<&str>,
) -> Result<(String, Operation), Fail> {
    let branches = settings.branches();
    let named = |name: &str| branches.iter().find(|(branch, _)| branch == name).cloned();
    if let Some(asked) = asked {
        let all: Vec<String> = branches.iter().map(|(branch, _)| format!("'{branch}'")).collect();
        return named(asked).ok_or_else(|| {
            let text = format!("host '{}' does not follow a branch '{asked}'", settings.hostname);
            Fail::usage(text, format!("it follows {}; another host is named with --as-host", all.join(", ")))
        });
    }
    let plain = |tip: &str| tip.strip_prefix("refs/heads/").unwrap_or(tip).to_owned();
    let main = || branches.iter().find(|(_, operation)| *operation == Operation::Switch).cloned();
    let found = tip.and_then(|tip| named(&plain(tip))).or_else(main).or_else(|| branches.first().cloned());
    found.ok_or_else(|| Fail::usage("the configuration follows no branch", "give 'branches' at least one"))
}

/// What this host accepted last, else what root pinned.
fn anchor(options: &Options, args: &Args, settings: &Settings) -> Result<Oid, Fail> {
    let status = report::read_status(&options.root).ok();
    let ours = status.filter(|s| args.as_host.is_none() || s.host == settings.hostname);
    let accepted = ours.and_then(|s| s.accepted).map(|c| c.revision);
    accepted.or_else(|| settings.trust.introduction.clone()).ok_or_else(|| {
        Fail::usage(
            "there is nothing to start from: this host has accepted no revision",
            "name a commit that you trust: pullagent verify FROM..TIP",
        )
    })
}

/// Says so where the host itself judges by other keys than those of the configuration that is read here.
fn warn_of_other_keys(options: &Options, settings: &Settings) {
    let status = report::read_status(&options.root).ok().filter(|s| s.host == settings.hostname);
    if let Some(trust) = status.map(|s| s.trust).filter(|trust| trust.differs) {
        let adopted = trust.revision.as_ref().map_or("another revision", Oid::short);
        output::tell(
            options,
            &format!(
                "this host judges by the trust settings of {adopted}, not by those of the system that runs; to judge like it: \
             pullagent verify --config FILE, with that revision's"
            ),
        );
    }
}

/// Asks what a host would ask, in its order: history and signatures, then the files of the tip.
fn judge(
    repo: &LocalRepository,
    policy: &Policy,
    submodules: &Submodules,
    question: &Question,
) -> Result<Judgement, Fail> {
    let Question { host, branch, operation, from, tip } = question;
    let context = Context { host, branch, now: clock::unix_secs() };
    let anchor = AnchorFacts::introduction(from.clone());
    let mut read = |oid: &Oid| repo.commit(oid).map_err(|e| missing(&e, oid));
    let verdict = match operation {
        Operation::Switch => trust::verify_main(&mut read, tip, &anchor, policy, &context),
        Operation::Test => trust::verify_test(&mut read, tip, &anchor, None, policy, &context),
    };
    if let Err(refusal) = &verdict {
        incomplete(refusal, repo, question)?;
    }
    let report = match operation {
        Operation::Switch => trust::verify_range_report(&mut read, tip, &anchor, policy, &context),
        Operation::Test => trust::verify_test_report(&mut read, tip, &anchor, policy, &context),
    };
    let (lines, left_off) = report.map_or((Vec::new(), 0), |report| (report.lines, report.left_off));
    let mut judgement = Judgement { lines, left_off, refusal: None, tree: None };
    match verdict {
        Ok(accepted) => match repo.check_tree(&accepted.tree, submodules) {
            Ok(seen) => judgement.tree = Some(seen),
            Err(TreeFault::Refused(refusal)) => {
                judgement.refuse(Refusal { commit: Some(tip.clone()), ..refusal });
            }
            // A clone without trees can't be looked into; that is said, and is no verdict.
            Err(TreeFault::Unread(LocalError::Missing(_))) if repo.is_partial() => {}
            Err(TreeFault::Unread(e)) => return Err(unreadable(e)),
        },
        Err(refusal) => judgement.refuse(refusal),
    }
    Ok(judgement)
}

impl Judgement {
    fn refuse(&mut self, refusal: Refusal) {
        let at = |line: &&mut CommitLine| Some(&line.revision) == refusal.commit.as_ref();
        if let Some(line) = self.lines.iter_mut().find(at) {
            line.verdict = Err(refusal.clone());
        }
        self.refusal = Some(refusal);
    }

    /// How many commits are refused. A range that is refused whole has no line that is.
    fn refused(&self) -> usize {
        self.lines.iter().filter(|line| line.verdict.is_err()).count()
    }
}

/// A verdict needs the whole range. Where this clone lacks some of it, that is no refusal but something to repair.
fn incomplete(refusal: &Refusal, repo: &LocalRepository, question: &Question) -> Result<(), Fail> {
    if !matches!(refusal.code, Code::MissingObject | Code::AnchorMissing) {
        return Ok(());
    }
    let (from, tip) = (question.from.short(), question.tip.short());
    let text = format!("this clone does not have all commits from {from} to {tip}: {refusal}");
    Err(Fail::new(Exit::Error, anyhow!(text), rest_hint(repo)))
}

fn rest_hint(repo: &LocalRepository) -> &'static str {
    if repo.is_shallow() {
        "it is a shallow clone; fetch the rest: git fetch --unshallow (in CI: fetch-depth: 0 for actions/checkout, \
         GIT_DEPTH: 0 for GitLab)"
    } else {
        "fetch them, for example: git fetch origin"
    }
}

fn unresolved(error: LocalError, repo: &LocalRepository) -> Fail {
    let shallow = repo.is_shallow();
    let fail = unreadable(error);
    if shallow { Fail { hint: Some(rest_hint(repo).to_owned()), ..fail } } else { fail }
}

fn unreadable(error: LocalError) -> Fail {
    let hint = "name a branch or a whole commit id, and the repository with --repo";
    match error {
        LocalError::NoSuchRevision { .. } => Fail::new(Exit::Usage, error, hint),
        LocalError::Open { .. } => Fail::new(Exit::Error, error, hint),
        LocalError::Missing(_)
        | LocalError::WrongKind(..)
        | LocalError::Objects { .. }
        | LocalError::Read { .. } => {
            let error = anyhow::Error::from(error).context("failed to read the repository");
            Fail::new(Exit::Error, error, "look for damage: git fsck")
        }
    }
}

fn missing(error: &LocalError, oid: &Oid) -> Refusal {
    let code = match error {
        LocalError::WrongKind(..) => Code::NotACommit,
        LocalError::Read { .. } => Code::HashMismatch,
        LocalError::Missing(_)
        | LocalError::Open { .. }
        | LocalError::Objects { .. }
        | LocalError::NoSuchRevision { .. } => Code::MissingObject,
    };
    Refusal::new(code, Some(oid), error.to_string())
}
