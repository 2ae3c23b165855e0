//! `pullagent confirm` and `pullagent reject`: say whether the system that is being tried stays.

use super::exit::{Exit, Fail};
use super::{Options, order, retry};
use crate::control::protocol::Order;

/// What to keep.
#[derive(Debug, clap::Args)]
pub struct Confirm {
    /// The commit, or the first digits of its id: another one is never confirmed [default: what is being tried]
    #[arg(value_name = "REV")]
    revision: Option<String>,
}

/// What to go back from, and why.
#[derive(Debug, clap::Args)]
pub struct Reject {
    /// The commit, or the first digits of its id: another one is never rejected [default: what is being tried]
    #[arg(value_name = "REV")]
    revision: Option<String>,
    /// Why; it is shown to everybody who asks
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Gives the order to keep it.
pub fn confirm(options: &Options, args: &Confirm) -> Result<Exit, Fail> {
    let revision = retry::resolved(options, args.revision.as_deref())?;
    order(options, &Order::Confirm { revision })?;
    Ok(Exit::Ok)
}

/// Gives the order to go back.
pub fn reject(options: &Options, args: &Reject) -> Result<Exit, Fail> {
    let revision = retry::resolved(options, args.revision.as_deref())?;
    order(options, &Order::Reject { revision, reason: args.reason.clone() })?;
    Ok(Exit::Ok)
}
