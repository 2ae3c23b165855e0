//! `pullagent log`: what happened to a deployment. The agent remembers which there were and how they ended; the host's
//! journal has what it said meanwhile, and what the switch, the guard and the units that failed had to say.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;

use super::Options;
use super::exit::{Exit, Fail};
use super::output;
use crate::host;
use crate::host::clock;
use crate::host::command::CommandError;
use crate::host::journalctl::{self, Found, Query, Record};
use crate::host::units::RECONCILER;
use crate::report::{self, Chapter, History, Line, ReadError, Status};

/// How many deployments are shown at most.
const LAST_MAX: i64 = 20;
/// How many sentences of the agent are shown of one deployment.
const SENTENCES_MAX: usize = 500;
/// How many sentences are shown where no deployment is known.
const SENTENCES_ALONE: usize = 50;
/// How many lines of the switch and the guard are shown of one deployment.
const OUTPUT_MAX: usize = 2000;
/// How many units that failed are asked for their last words, and for how many lines each.
const FAILED_MAX: usize = 8;
const WORDS_MAX: usize = 40;
/// How long after its end something may still be said about a deployment, in seconds.
const AFTERMATH_SECS: u64 = 5;
/// The least important thing that systemd says about a unit and that is shown; syslog(3): a warning.
const PRIORITY_MAX: u8 = 4;
/// What systemd says of a unit that has failed: SD_MESSAGE_UNIT_FAILURE_RESULT, of `sd-messages.h`.
const UNIT_FAILED: [&str; 2] = ["_PID=1", "MESSAGE_ID=d9b373ed55a64feb8242e02dbe79a49c"];
/// What the units of the switch and the guard say, whichever deployment they belong to.
const OF_SWITCHES: [&str; 5] = [
    "SYSLOG_IDENTIFIER=pullagent-switch",
    "+",
    "SYSLOG_IDENTIFIER=pullagent-guard",
    "+",
    "_SYSTEMD_UNIT=pullagent-boot-guard.service",
];

const AFTER_HELP: &str = "\
Times are those of this host. A line says who spoke: pullagent, the switch, the guard, or a unit that failed; '!' marks a \
warning, '✖' an error.

Whoever may not read the host's journal (root and the group systemd-journal may) is shown what pullagent remembers, and told so.";

/// Of what.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// What was done with this commit, given by the first digits of its id [default: the newest deployment]
    #[arg(long, visible_alias = "rev", value_name = "REV", conflicts_with = "last")]
    revision: Option<String>,
    /// The last N deployments, oldest first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=LAST_MAX))]
    last: Option<u8>,
    /// Go on with whatever happens, until Ctrl-C; with --json, one line for each line
    #[arg(short, long)]
    follow: bool,
}

/// What was found out, and what was not.
struct Book {
    host: String,
    chapters: Vec<Chapter>,
    missing: Vec<String>,
}

/// Prints it.
pub fn run(options: &Options, args: &Args) -> Result<Exit, Fail> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("failed to start the runtime")?;
    runtime.block_on(async {
        tokio::select! {
            done = tell(options, args) => done,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
        }
    })
}

async fn tell(options: &Options, args: &Args) -> Result<Exit, Fail> {
    let begun = clock::unix_secs();
    let mut book = contents(options, args)?;
    for chapter in &mut book.chapters {
        if let Err(error) = fill(&options.root, chapter, &mut book.missing).await {
            book.missing.push(format!("the journal can't be read: {}", host::chain(&error)));
            break;
        }
    }
    let is_read = print(options, args, &book)?;
    for missing in book.missing.iter().collect::<BTreeSet<_>>() {
        output::tell(options, missing);
    }
    if args.follow && is_read {
        follow(options, begun).await?;
    }
    Ok(Exit::Ok)
}

/// Finds out what is to be told of.
fn contents(options: &Options, args: &Args) -> Result<Book, Fail> {
    let known =
        report::read_status(&options.root).and_then(|s| Ok((s, report::read_history(&options.root)?)));
    let (status, history) = match known {
        Ok(known) => known,
        Err(ReadError::Missing(_)) if args.revision.is_none() => {
            let missing =
                "pullagent has not run since this host was started; the journal has what it said before";
            let (host, chapters) = (String::new(), vec![Chapter::default()]);
            return Ok(Book { host, chapters, missing: vec![missing.to_owned()] });
        }
        Err(error) => return Err(error.into()),
    };
    let chapters = match &args.revision {
        Some(text) => of_revision(text, &status, &history)?,
        None => newest(usize::from(args.last.unwrap_or(1)), &status, &history),
    };
    Ok(Book { host: status.host, chapters, missing: vec![] })
}

fn of_revision(text: &str, status: &Status, history: &History) -> Result<Vec<Chapter>, Fail> {
    let revision = report::resolve(text, status, history)?;
    let mut chapters = all(status, history);
    chapters.retain(|chapter| chapter.revision.as_ref() == Some(&revision));
    if chapters.is_empty() {
        chapters.push(Chapter::of_revision(revision));
    }
    Ok(chapters)
}

fn newest(count: usize, status: &Status, history: &History) -> Vec<Chapter> {
    let mut chapters = all(status, history);
    chapters.drain(..chapters.len().saturating_sub(count));
    if chapters.is_empty() {
        chapters.push(Chapter::default());
    }
    chapters
}

/// All there are, oldest first: what ended, and what is under way.
fn all(status: &Status, history: &History) -> Vec<Chapter> {
    let mut chapters: Vec<Chapter> = history.entries.iter().map(Chapter::of_entry).collect();
    let acted = status.doing.as_ref().and_then(|act| act.revision.clone());
    match (&status.deployment, acted) {
        (Some(deployment), _) => chapters.push(Chapter::of_deployment(deployment)),
        (None, Some(revision)) if chapters.last().and_then(|c| c.revision.as_ref()) != Some(&revision) => {
            chapters.push(Chapter::of_revision(revision));
        }
        (None, _) => {}
    }
    for n in 1..chapters.len() {
        let (before, this) = chapters.split_at_mut(n);
        let same = before.iter().rfind(|chapter| chapter.revision == this[0].revision);
        this[0].after = same.and_then(|chapter| chapter.at);
    }
    chapters
}

/// Adds what the journal has.
async fn fill(root: &Path, chapter: &mut Chapter, missing: &mut Vec<String>) -> Result<(), CommandError> {
    let mut records = Vec::new();
    let mut keep = |found: Found| {
        if found.is_partial {
            let hint = "this user may not read the host's journal, so most is missing: run it as root, or as a member of \
                        the group systemd-journal";
            missing.push(hint.to_owned());
        }
        records.extend(found.records);
    };
    keep(journalctl::read(root, &sentences(chapter)).await?);
    if let (Some(id), Some(began)) = (&chapter.id, chapter.began) {
        let until = chapter.at.map(|at| at + AFTERMATH_SECS);
        let query = |matches, lines| Query { matches, since: Some(began), until, lines };
        let mut said = journalctl::read(root, &query(of_switches(), OUTPUT_MAX)).await?;
        said.records.retain(|record| belongs_to(record, id.as_str()));
        let failed = failed_units(&said.records);
        keep(said);
        for unit in failed {
            let words = query(vec![format!("_SYSTEMD_UNIT={unit}")], WORDS_MAX);
            keep(journalctl::read(root, &words).await?);
        }
    }
    records.sort_by_key(|record| record.at_us);
    chapter.lines = records.into_iter().map(Line::from).collect();
    Ok(())
}

/// What the agent has said about it. Fields that begin with an underscore are the journal's own word.
fn sentences(chapter: &Chapter) -> Query {
    let by_agent = format!("_SYSTEMD_UNIT={RECONCILER}");
    let revision = chapter.revision.as_ref().map(|revision| format!("PULLAGENT_REVISION={revision}"));
    let Some(revision) = revision else {
        return Query { matches: vec![by_agent], lines: SENTENCES_ALONE, ..Query::default() };
    };
    let mut matches = vec![by_agent.clone(), revision];
    if let Some(id) = &chapter.id {
        matches.extend(["+".to_owned(), by_agent, format!("PULLAGENT_DEPLOYMENT={id}")]);
    }
    let until = chapter.at.map(|at| at + AFTERMATH_SECS);
    Query { matches, until, lines: SENTENCES_MAX, since: chapter.after }
}

fn of_switches() -> Vec<String> {
    OF_SWITCHES.into_iter().chain(["+"]).chain(UNIT_FAILED).map(str::to_owned).collect()
}

/// Whether a line of the switch or the guard is of this deployment, or systemd says that a unit of the host failed.
fn belongs_to(record: &Record, id: &str) -> bool {
    let unit = record.about.as_ref().unwrap_or(&record.unit);
    let own = [format!("pullagent-switch-{id}"), format!("pullagent-guard-{id}-")];
    let is_own = own.iter().any(|own| unit.starts_with(own)) || unit == "pullagent-boot-guard.service";
    match record.about {
        Some(_) => record.priority <= PRIORITY_MAX && (is_own || !unit.starts_with("pullagent-")),
        None => is_own,
    }
}

/// Returns the units of the host that systemd calls failed, in the order in which they did.
fn failed_units(records: &[Record]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let units = records.iter().filter_map(|record| record.about.clone());
    let fresh = units.filter(|unit| !unit.starts_with("pullagent") && seen.insert(unit.clone()));
    fresh.take(FAILED_MAX).collect()
}

/// Returns whether anybody reads it.
fn print(options: &Options, args: &Args, book: &Book) -> Result<bool, Fail> {
    if options.json && args.follow {
        let lines = book.chapters.iter().flat_map(|chapter| &chapter.lines);
        let text: Result<Vec<String>, Fail> = lines.map(json_line).collect();
        return output::print_on(&text?.concat());
    }
    if options.json {
        let Book { host, chapters, missing } = book;
        let document =
            serde_json::json!({ "schema": 1, "host": host, "deployments": chapters, "missing": missing });
        output::print_json(&document)?;
        return Ok(true);
    }
    let style = output::style(options);
    let pages: Vec<String> = book.chapters.iter().map(|chapter| chapter.page(&style)).collect();
    output::print_on(&pages.join("\n"))
}

fn json_line(line: &Line) -> Result<String, Fail> {
    let text = serde_json::to_string(line).context("failed to render JSON")?;
    Ok(text + "\n")
}

/// Prints what happens from now on.
async fn follow(options: &Options, since: u64) -> Result<(), Fail> {
    let by_agent = format!("_SYSTEMD_UNIT={RECONCILER}");
    let matches: Vec<&str> =
        [by_agent.as_str(), "+"].into_iter().chain(OF_SWITCHES).chain(["+"]).chain(UNIT_FAILED).collect();
    let style = output::style(options);
    let (mut failed, mut stopped) = (None, false);
    let followed = journalctl::follow(&options.root, &matches, since, |record| {
        let line = Line::from(record);
        let text = if options.json { json_line(&line) } else { Ok(line.alone(&style)) };
        let is_read = text.and_then(|text| output::print_on(&text)).unwrap_or_else(|fail| {
            failed = Some(fail);
            false
        });
        stopped |= !is_read;
        is_read
    });
    followed.await.context("failed to follow the journal")?;
    if !stopped {
        output::tell(options, "the journal is followed no longer, after a day; call it again to go on");
    }
    failed.map_or(Ok(()), Err)
}
