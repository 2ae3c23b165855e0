//! Goal: on a real host, under real systemd, pushes are deployed by processes of three privileges, and whatever goes wrong
//! the host ends on a system that works and can be updated. Method: a machine that pullagent keeps, a forge to push to,
//! and a look from inside.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step fails the test")]
#![expect(clippy::disallowed_methods, reason = "a test may start programs and read the clock")]

mod answer;
mod blame;
mod boot;
#[path = "../common/mod.rs"]
mod common;
mod failures;
mod guard;
mod handover;
mod health;
mod host;
mod journal;
mod line;
mod reach;
mod rescue;
mod retention;
mod secrets;
mod sources;
mod switch;

/// Tells whether to run a test that is slow, and whose parts others have. What is left out is said.
fn is_long(test: &str) -> bool {
    let long = std::env::var_os("PULLAGENT_TEST_LONG").is_some_and(|long| long == "1");
    if !long {
        eprintln!("{test} is left out; it runs with PULLAGENT_TEST_LONG=1");
    }
    long
}
