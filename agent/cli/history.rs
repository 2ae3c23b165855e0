//! `pullagent history`: from the file that the agent publishes.

use super::Options;
use super::exit::{Exit, Fail};
use super::output;
use crate::report::{self, History};

/// How many entries are shown unless asked for more.
const SHOWN: usize = 20;

/// How much to list.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many entries, newest first
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = SHOWN)]
    lines: usize,
}

/// Prints the newest entries.
pub fn run(options: &Options, args: &Args) -> Result<Exit, Fail> {
    let History { schema, host, entries } = report::read_history(&options.root)?;
    let older = entries.len().saturating_sub(args.lines);
    let history = History { schema, host, entries: entries.into_iter().skip(older).collect() };
    if options.json {
        output::print_json(&history)?;
    } else {
        output::print(&report::history_text(&history, args.lines, &output::style(options)))?;
        if older > 0 {
            output::tell(
                options,
                &format!("({older} older; all: pullagent history -n {})", older + args.lines),
            );
        }
    }
    Ok(Exit::Ok)
}
