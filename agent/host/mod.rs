//! The machine outside: one file per program or facility, without policy.
//!
//! Nothing in here decides anything. It runs a program, reads a file or a clock, and says exactly what
//! came of it; what that means is for those who asked.

pub mod boot;
pub mod child;
pub mod clock;
pub mod command;
pub mod detach;
pub mod facts;
pub mod files;
mod group;
pub mod job;
pub mod journalctl;
pub mod journald;
pub mod manager;
pub mod nix;
pub mod notice;
pub mod profile;
pub mod secrets;
pub mod service;
pub mod switch;
pub mod switch_lock;
pub mod system;
pub mod systemd;
pub mod text;
pub mod timer;
pub mod unit_states;
pub mod units;

/// Returns an error with its whole chain as one line, for a record that is written where no edge prints it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(e) = source {
        text.push_str(&format!(": {e}"));
        source = e.source();
    }
    text.replace('\n', " ")
}
