//! `pullagent resume`: deploy again.

use super::exit::{Exit, Fail};
use super::{Options, order};
use crate::control::protocol::Order;

/// Gives the order.
pub fn run(options: &Options) -> Result<Exit, Fail> {
    order(options, &Order::Resume)?;
    Ok(Exit::Ok)
}
