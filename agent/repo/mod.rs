//! All that names gitoxide: remotes and packs on the network's side; quarantine, trusted store, import and export on
//! the side that has no network. Other rooms see only [`crate::model::Oid`]s, bytes and paths.

mod closure;
mod failure;
mod files;
mod limits;
mod objects;
mod pack;
mod quarantine;

pub mod export;
pub mod import;
pub mod local;
pub mod store;

pub use limits::Limits;
