//! What the integration tests share. Each test binary uses a part of it.
#![allow(dead_code, reason = "no test binary uses all of it")]

pub mod nix;
pub mod processes;
pub mod toplevel;
