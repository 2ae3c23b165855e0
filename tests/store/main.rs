//! The trusted store against real Git repositories: what is accepted can be read by git and is complete, what is
//! refused leaves no trace, whatever the pack is and whenever the import dies.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test starts programs and looks at the clock")]

mod bytes;
mod crash;
mod export;
mod full;
mod git;
mod growth;
mod host;
mod hostile;
mod imports;
mod rows;
mod submodules;
mod watch;

/// The pieces that unit tests use too call us by this name.
use pullagent as product;
