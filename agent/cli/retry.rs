//! `pullagent retry`: forget that a revision was bad.

use super::exit::{Exit, Fail};
use super::{Options, order};
use crate::control::protocol::Order;
use crate::model::Oid;
use crate::report::{self, RevisionError};

/// What to try again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The commit, or the first digits of its id [default: everything that failed]
    #[arg(value_name = "REV")]
    revision: Option<String>,
}

/// Gives the order.
pub fn run(options: &Options, args: &Args) -> Result<Exit, Fail> {
    let revision = resolved(options, args.revision.as_deref())?;
    order(options, &Order::Retry { revision })?;
    Ok(Exit::Ok)
}

/// Returns the commit that `text` means, if there is any.
pub(super) fn resolved(options: &Options, text: Option<&str>) -> Result<Option<Oid>, Fail> {
    let Some(text) = text else { return Ok(None) };
    // A full id needs no file to be understood.
    match text.to_ascii_lowercase().parse() {
        Ok(oid) => Ok(Some(oid)),
        Err(_) => resolve(options, text).map(Some),
    }
}

fn resolve(options: &Options, text: &str) -> Result<Oid, Fail> {
    if !report::may_be_revision(text) {
        return Err(RevisionError::Malformed(text.to_owned()).into());
    }
    let status = report::read_status(&options.root)?;
    let history = report::read_history(&options.root)?;
    Ok(report::resolve(text, &status, &history)?)
}
