//! `pullagent status`: from the file that the agent publishes, whether it lives or not.

use anyhow::Context;
use serde::Serialize;

use super::Options;
use super::exit::{Exit, Fail};
use super::{output, watch};
use crate::host::clock;
use crate::report::{self, Life, Status};

const AFTER_HELP: &str = "\
With --exit-code: 0 up to date or testing; 1 no remote answers, or held; 3 refused, not built, rolled back, called \
off, or running what pullagent did not deploy; 4 something is under way; 5 suspended; 6 the agent is dead or silent.";

/// How to say it.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Say it in one line
    #[arg(long, conflicts_with = "json")]
    oneline: bool,
    /// Say it again whenever it changes, until Ctrl-C; with --json, one line for each change
    #[arg(long, conflicts_with = "exit_code")]
    watch: bool,
    /// Exit with a code that says how the host is, instead of 0
    #[arg(long)]
    exit_code: bool,
}

/// A status, and what became of its writer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    #[serde(flatten)]
    status: &'a Status,
    /// `running`, `silent` or `dead`.
    life: Life,
}

/// Prints the status once, or until Ctrl-C.
pub fn run(options: &Options, args: &Args) -> Result<Exit, Fail> {
    if args.watch {
        return watch::run(options, args);
    }
    let status = report::read_status(&options.root)?;
    let now = clock::unix_secs();
    let life = report::life(&status.agent, now);
    if options.json {
        output::print_json(&Told { status: &status, life })?;
    } else {
        output::print(&text(options, args, &status, life, now))?;
    }
    Ok(if args.exit_code { Exit::of_state(status.state, life) } else { Exit::Ok })
}

/// Returns the status as `--watch` prints it: as JSON in one line, or as text.
pub(super) fn render(
    options: &Options,
    args: &Args,
    status: &Status,
    life: Life,
    now: u64,
) -> Result<String, Fail> {
    if !options.json {
        return Ok(text(options, args, status, life, now));
    }
    let json = serde_json::to_string(&Told { status, life }).context("failed to render JSON")?;
    Ok(json + "\n")
}

fn text(options: &Options, args: &Args, status: &Status, life: Life, now: u64) -> String {
    let style = output::style(options);
    if args.oneline {
        report::oneline(status, life, now, &style)
    } else {
        report::page(status, life, now, &style)
    }
}

impl Args {
    pub(super) fn oneline(&self) -> bool {
        self.oneline
    }
}
