//! `pullagent wait`: until a revision runs, or until nothing is left to do. It only reads the published files, so it
//! outlives the agent's own restarts.

use std::time::Duration;

use anyhow::anyhow;

use super::Options;
use super::exit::{Exit, Fail};
use super::output;
use super::sync::last_words;
use crate::host::clock;
use crate::report::{self, Fate, Headline, History, Life, ReadError, RevisionError, Status, Verdict};

/// How long to wait unless told otherwise.
pub const TIMEOUT: &str = "10m";
/// The pause between two looks at the files.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// How long the agent may be gone: a switch may restart it.
const ABSENCE_MS_MAX: u64 = 15_000;
/// After this many seconds a poll in the very second of the question counts as an answer.
const SAME_SECOND_SECS: u64 = 2;

const AFTER_HELP: &str = "\
Exits with 0 if the revision runs or did run, 3 if it was refused or failed, 5 if deployments are suspended, \
6 if no agent runs, 124 if the time was up. Without --rev, as 'status --exit-code' once nothing is under way.

In a pipeline, after the push:  ssh web1 pullagent wait --rev \"$COMMIT\" --timeout 10m";

/// For what, and how long.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The commit, or the first digits of its id; it need not be known yet
    #[arg(long = "rev", value_name = "REV")]
    revision: Option<String>,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value = TIMEOUT, value_parser = super::duration)]
    timeout: Duration,
}

/// What is waited for.
#[derive(Debug)]
pub enum Goal {
    /// This revision runs, confirmed or entered for a test.
    Runs(String),
    /// Nothing is under way and the known tips are dealt with; all remotes have answered since.
    Settled {
        /// When they were asked, unix seconds; 0: whenever.
        asked_at: u64,
        /// When each had answered or failed before that.
        words: Vec<(Option<u64>, Option<u64>)>,
    },
}

/// Waits.
pub fn run(options: &Options, args: &Args) -> Result<Exit, Fail> {
    let goal = match &args.revision {
        Some(text) if !report::may_be_revision(text) => {
            return Err(RevisionError::Malformed(text.clone()).into());
        }
        Some(text) => Goal::Runs(text.clone()),
        None => Goal::Settled { asked_at: 0, words: vec![] },
    };
    until(options, args.timeout, goal)
}

/// Waits for `goal`, at most for `timeout`, and says how it ended.
pub fn until(options: &Options, timeout: Duration, goal: Goal) -> Result<Exit, Fail> {
    let begun = clock::boottime_ms();
    let limit = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let mut seen = begun;
    let mut told = String::new();
    loop {
        let now = clock::boottime_ms();
        let look = look(options)?;
        if let Some(look) = &look {
            seen = now;
            tell_news(options, look, &mut told);
            if let Some(exit) = judge(&goal, look)? {
                show(options, &goal, look)?;
                return Ok(exit);
            }
        } else if now.saturating_sub(seen) > ABSENCE_MS_MAX {
            return Err(absent());
        }
        if now.saturating_sub(begun) >= limit {
            return Err(timed_out(timeout, look.as_ref()));
        }
        std::thread::sleep(LOOK_PAUSE);
    }
}

struct Look {
    status: Status,
    history: History,
}

/// `None`: there is no agent at the moment.
fn look(options: &Options) -> Result<Option<Look>, Fail> {
    let status = match report::read_status(&options.root) {
        Ok(status) => status,
        Err(ReadError::Missing(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let history = report::read_history(&options.root)?;
    let dead = report::life(&status.agent, clock::unix_secs()) == Life::Dead;
    Ok((!dead).then_some(Look { status, history }))
}

/// `None`: not yet.
fn judge(goal: &Goal, look: &Look) -> Result<Option<Exit>, Fail> {
    match goal {
        Goal::Runs(text) => judge_revision(text, look),
        Goal::Settled { asked_at, words } => {
            let answered = *asked_at == 0 || has_answered(&look.status, *asked_at, words);
            let state = look.status.state;
            Ok((answered && !state.is_passing()).then(|| Exit::of_state(state, Life::Running)))
        }
    }
}

fn judge_revision(text: &str, look: &Look) -> Result<Option<Exit>, Fail> {
    let revision = match report::resolve(text, &look.status, &look.history) {
        Ok(revision) => revision,
        Err(RevisionError::Unknown(_)) => return Ok(suspended(&look.status)),
        Err(error) => return Err(error.into()),
    };
    let verdict = report::explain(&revision, &look.status, &look.history, clock::unix_secs()).verdict;
    let deployed = || {
        let last = look.history.entries.iter().rev().find(|e| e.revision == revision);
        last.is_some_and(|e| matches!(e.outcome, Fate::Confirmed | Fate::Tested))
    };
    Ok(match verdict {
        Verdict::Running | Verdict::Testing => Some(Exit::Ok),
        Verdict::Refused | Verdict::Failed | Verdict::TestOver => Some(Exit::Failed),
        // It did run; something newer came since.
        Verdict::Past if deployed() => Some(Exit::Ok),
        Verdict::Waiting if look.status.state == Headline::RebootPending => Some(Exit::Pending),
        Verdict::Past | Verdict::Waiting | Verdict::Unknown => suspended(&look.status),
        Verdict::UnderWay => None,
    })
}

fn suspended(status: &Status) -> Option<Exit> {
    (status.state == Headline::Suspended).then_some(Exit::Suspended)
}

fn has_answered(status: &Status, asked_at: u64, words: &[(Option<u64>, Option<u64>)]) -> bool {
    let late = clock::unix_secs() >= asked_at + SAME_SECOND_SECS;
    let now = last_words(status);
    let fresh = |(n, (answer, failure)): (usize, &(Option<u64>, Option<u64>))| {
        let at = answer.max(failure).unwrap_or(0);
        let changed = words.get(n) != Some(&(*answer, *failure));
        at > asked_at || (at == asked_at && (changed || late))
    };
    !now.is_empty() && now.iter().enumerate().all(fresh)
}

fn tell_news(options: &Options, look: &Look, told: &mut String) {
    if options.json {
        return;
    }
    let style = report::Style { color: false, ..output::style(options) };
    let page = report::page(&look.status, Life::Running, clock::unix_secs(), &style);
    let headline = page.lines().next().unwrap_or_default();
    if headline != told {
        output::tell(options, headline);
        *told = headline.to_owned();
    }
}

fn show(options: &Options, goal: &Goal, look: &Look) -> Result<(), Fail> {
    let Look { status, history } = look;
    if !options.json {
        return Ok(());
    }
    match goal {
        Goal::Runs(text) => match report::resolve(text, status, history) {
            Ok(oid) => output::print_json(&report::explain(&oid, status, history, clock::unix_secs())),
            Err(_) => output::print_json(status),
        },
        Goal::Settled { .. } => output::print_json(status),
    }
}

fn absent() -> Fail {
    Fail::new(
        Exit::Unreachable,
        anyhow!("pullagent is not running"),
        "start it: systemctl start pullagent; what it last knew: pullagent status",
    )
}

fn timed_out(timeout: Duration, look: Option<&Look>) -> Fail {
    let state =
        look.map_or("no agent runs".to_owned(), |l| format!("the state is '{}'", l.status.state.word()));
    Fail::new(
        Exit::TimedOut,
        anyhow!("timed out after {}; {state}", humantime::format_duration(timeout)),
        "see what it is at: pullagent status; why: pullagent explain",
    )
}
