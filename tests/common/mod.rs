//! What several tests share: real programs, started and ended by the test that needs them.
#![allow(dead_code, unused_imports, reason = "each test takes the part it needs")]

pub mod client;
pub mod git;
pub mod git_server;
pub mod hint_server;
pub mod machine;
pub mod nchan;
pub mod nix;
pub mod peer;
pub mod processes;
pub mod proxy;
pub mod scripted;
pub mod sshd;
pub mod toplevel;
