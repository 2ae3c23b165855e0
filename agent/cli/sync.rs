//! `pullagent sync`: ask the remotes now, and with `--wait` see it through.

use super::exit::{Exit, Fail};
use super::wait::{self, Goal, TIMEOUT};
use super::{Options, order};
use crate::control::protocol::Order;
use crate::host::clock;
use crate::report::{self, Status};

/// Whether to wait for what comes of it.
#[derive(Debug, clap::Args)]
#[command(after_help = "With --wait it exits as 'wait' does.")]
pub struct Args {
    /// Wait until the remotes have answered and all of it is dealt with
    #[arg(long)]
    wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value = TIMEOUT, value_parser = super::duration, requires = "wait")]
    timeout: std::time::Duration,
}

/// Gives the order.
pub fn run(options: &Options, args: &Args) -> Result<Exit, Fail> {
    let before = report::read_status(&options.root).ok();
    let since = clock::unix_secs();
    order(options, &Order::Sync)?;
    if !args.wait {
        return Ok(Exit::Ok);
    }
    let words = before.as_ref().map(last_words).unwrap_or_default();
    wait::until(options, args.timeout, Goal::Settled { asked_at: since, words })
}

/// When each remote answered or failed last: this changes with every poll.
pub fn last_words(status: &Status) -> Vec<(Option<u64>, Option<u64>)> {
    status.remotes.iter().map(|r| (r.checked_at, r.trouble.as_ref().map(|t| t.at))).collect()
}
