//! `pullagent explain`: why a revision runs on this host, or does not.

use anyhow::anyhow;

use super::Options;
use super::exit::{Exit, Fail};
use super::output;
use crate::host::clock;
use crate::model::Oid;
use crate::report::{self, Explanation, Life, Status};

/// What to explain.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The commit, or the first digits of its id [default: the newest that the remotes name]
    #[arg(value_name = "REV")]
    revision: Option<String>,
}

/// Prints the explanation.
pub fn run(options: &Options, args: &Args) -> Result<Exit, Fail> {
    let status = report::read_status(&options.root)?;
    let history = report::read_history(&options.root)?;
    let revision = match &args.revision {
        Some(text) => report::resolve(text, &status, &history)?,
        None => newest(&status).ok_or_else(nothing_known)?,
    };
    let now = clock::unix_secs();
    let explanation = report::explain(&revision, &status, &history, now);
    if options.json {
        output::print_json(&explanation)?;
    } else {
        output::print(&text(&explanation))?;
        if report::life(&status.agent, now) == Life::Dead {
            output::tell(options, "note: pullagent is not running; this is what it knew last");
        }
    }
    Ok(Exit::Ok)
}

/// What somebody who just pushed asks about.
fn newest(status: &Status) -> Option<Oid> {
    let under_way = status.deployment.as_ref().map(|d| &d.commit.revision);
    let acted = status.doing.as_ref().and_then(|d| d.revision.as_ref());
    let pending = status.pending.first().map(|p| &p.revision);
    let bad = status.problem.as_ref().map(|b| &b.revision);
    let running = status.running.as_ref().and_then(|r| r.revision.as_ref());
    under_way.or(acted).or(bad).or(pending).or(running).cloned()
}

fn nothing_known() -> Fail {
    Fail::new(
        Exit::Error,
        anyhow!("this host knows of no revision yet"),
        "name one, or ask the remotes now: pullagent sync",
    )
}

fn text(e: &Explanation) -> String {
    let mut text: String = e.text.iter().map(|line| format!("{line}\n")).collect();
    if let Some(advice) = &e.advice {
        text.push_str(&format!("next: {advice}\n"));
    }
    text
}
