//! All that names gitoxide: remotes and packs on the side that has the network; quarantine, trusted store, import and
//! export on the side that has none. It decides nothing about trust. Other rooms see ids, bytes and paths only.

pub mod net;

mod words;

mod talk;

mod pipe;

mod tls;

pub mod web;

mod h1;

mod dial;

mod http;

mod ssh;

mod v2;

mod old;

pub mod remote;

mod limits;

mod failure;

mod files;

mod objects;

mod pack;

mod closure;

mod tree;

mod quarantine;

pub mod store;

pub mod import;

mod child;

mod repack;

pub mod submodules;

pub mod export;

pub mod lineage;

pub mod local;

pub use failure::{Failure, FailureClass};
pub use limits::Limits;

#[cfg(test)]
mod tests;
