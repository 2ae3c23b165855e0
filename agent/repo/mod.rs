//! All that names gitoxide: remotes and packs on the network's side; quarantine, trusted store, import and export on
//! the side that has no network. Other rooms see only [`crate::model::Oid`]s, bytes and paths.

mod limits;
mod failure;
mod files;
mod objects;
mod pack;
mod closure;
mod tree;

pub mod store;
mod quarantine;
pub mod import;
mod child;
mod repack;
pub mod export;
pub mod local;

pub use failure::{Failure, FailureClass};
pub use limits::Limits;
