//! `pullagent status`: from the file that the agent publishes, whether it lives or not.

use std::io::IsTerminal;
use std::time::Duration;

use serde::Serialize;

use super::Options;
use super::exit::{Exit, Fail};
use super::output;
use crate::host::clock;
use crate::report::{self, Life, Status};

/// The pause between two looks of `--watch`.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// Moves the cursor home and clears the screen below it.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";

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
    /// Say it again whenever it changes, until Ctrl-C
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
        return watch(options, args);
    }
    let status = report::read_status(&options.root)?;
    let life = show(options, args, &status)?;
    Ok(if args.exit_code { Exit::of_state(status.state, life) } else { Exit::Ok })
}

fn show(options: &Options, args: &Args, status: &Status) -> Result<Life, Fail> {
    let now = clock::unix_secs();
    let life = report::life(&status.agent, now);
    if options.json {
        output::print_json(&Told { status, life })?;
    } else {
        output::print(&text(options, args, status, life, now))?;
    }
    Ok(life)
}

fn text(options: &Options, args: &Args, status: &Status, life: Life, now: u64) -> String {
    let style = output::style(options);
    if args.oneline {
        report::oneline(status, life, now, &style)
    } else {
        report::page(status, life, now, &style)
    }
}

/// On a terminal the page is redrawn every second, for its times pass; elsewhere every change is printed once.
fn watch(options: &Options, args: &Args) -> Result<Exit, Fail> {
    let redraw = std::io::stdout().is_terminal() && !options.json && !args.oneline;
    let mut shown = None;
    loop {
        let status = report::read_status(&options.root)?;
        let now = Some((lasting(&status), report::life(&status.agent, clock::unix_secs())));
        if redraw {
            output::print(CLEAR)?;
        }
        if redraw || now != shown {
            show(options, args, &status)?;
        }
        shown = now;
        std::thread::sleep(WATCH_PAUSE);
    }
}

/// A status without what every poll changes, which is no news.
fn lasting(status: &Status) -> Status {
    let mut lasting = Status { agent: report::Agent::default(), ..status.clone() };
    for remote in &mut lasting.remotes {
        remote.checked_at = None;
        if let Some(trouble) = &mut remote.trouble {
            (trouble.tries, trouble.at) = (0, 0);
        }
    }
    lasting
}
