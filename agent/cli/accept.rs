//! `pullagent accept`: root names the commit to go on from, although a rule refuses it. For root alone.

use super::exit::{Exit, Fail};
use super::{Options, order};
use crate::control::protocol::Order;
use crate::model::Oid;

const AFTER_HELP: &str = "\
Whoever runs this vouches for the commit and for its whole history: no signature is asked for, and it need not descend from \
what was accepted before. It is fetched, its files are checked as ever, and it is deployed next; what comes later must \
descend from it, signed as ever. Keys that were revoked once stay revoked.

The ways to need it: the main branch was rewritten and is meant to stay so; the host's memory is lost, or it was installed \
from a tree that was not committed; an older commit is to run. Compare the id with somebody who knows it: this is the one \
order that a Git server could profit from.";

/// Which commit.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The whole id of the commit, 40 or 64 digits
    #[arg(value_name = "COMMIT")]
    revision: String,
}

/// Gives the order.
pub fn run(options: &Options, args: &Args) -> Result<Exit, Fail> {
    let revision: Oid = args.revision.to_ascii_lowercase().parse().map_err(|_| {
        let text: String = args.revision.chars().take(80).collect();
        Fail::usage(
            format!("'{text}' is not a whole commit id"),
            "give all 40 (or 64) digits, as 'git rev-parse' prints them: an abbreviation could come to mean another commit",
        )
    })?;
    order(options, &Order::Accept { revision })?;
    Ok(Exit::Ok)
}
