//! All that names gitoxide: remotes and packs on the network's side; quarantine, trusted store, import and export on
//! the side that has no network. Other rooms see only [`crate::model::Oid`]s, bytes and paths. It decides nothing
//! about trust.

pub mod http;
pub mod net;
pub mod pipe;
pub mod remote;

mod closure;
mod failure;
mod files;
mod limits;
mod objects;
mod pack;
mod quarantine;
mod tree;

pub mod export;
pub mod import;
pub mod local;
pub mod store;

pub use failure::{Failure, FailureClass};
pub use limits::Limits;
