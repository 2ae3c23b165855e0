//! Goal: whatever a Git server sends, a host loses time and nothing else. After each hostile answer the accepted revision is
//! what it was, no quarantine, no process and no verdict is left, memory and disk stayed within bounds (`stage.rs` has
//! them), and the same server, honest again, makes the host accept its next commit at once.
//! Method: the real agent with gateway and import children, a real repository, and a server in front of it that is asked
//! over real HTTP and lies by script. `PULLAGENT_TEST_LONG=1` makes bombs and floods larger.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test starts programs and looks at the clock")]

mod agent;
#[allow(dead_code, reason = "another test takes the rest")]
#[path = "../store/bytes.rs"]
mod bytes;
#[path = "../common/mod.rs"]
mod common;
mod damage;
mod deploys;
#[allow(dead_code, reason = "another test takes the rest")]
#[path = "../store/git.rs"]
mod git;
mod http;
mod objects;
mod packs;
mod rows;
mod server;
mod stage;
mod streams;

/// The pieces that unit tests use too call us by this name.
use pullagent as product;
