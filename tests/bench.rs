//! What the agent costs, in one table: ours, the least that could do the same in the same run, what git takes where it can
//! do it, and what is aimed at. `tests/bench/run` is the command; figures of an optimised build are the ones to read. What
//! is asserted holds in any: bytes, counts, and memory, but no time.
//!
//! A small repository and few polls; 20,000 commits, 50,000 files and 3,000 polls with `PULLAGENT_TEST_LONG=1`. Only some of
//! its parts with `PULLAGENT_BENCH=polls,memory`: of `polls`, `hints`, `fetches`, `growth`, `memory`.
#![allow(clippy::disallowed_methods, reason = "tests start servers and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod bench {
    pub mod fetches;
    pub mod growth;
    pub mod hints;
    pub mod memory;
    pub mod polls;
    pub mod table;
    pub mod taker;

    use super::common;
}
mod common;

use std::time::Duration;

use bench::{fetches, growth, hints, memory, polls, table};

const LIMIT: Duration = Duration::from_secs(3600);

/// Returns what is to be measured.
fn parts() -> Vec<String> {
    let chosen = std::env::var("PULLAGENT_BENCH").ok();
    let parts = chosen.as_deref().unwrap_or("polls,hints,fetches,growth,memory");
    parts.split(',').map(str::to_owned).collect()
}

/// One test, so that each part finds the machine for itself.
#[test]
fn what_it_costs() {
    let long = std::env::var_os("PULLAGENT_TEST_LONG").is_some_and(|long| long == "1");
    common::gateway::run(LIMIT, async |dir| {
        let mut rows = Vec::new();
        for part in parts() {
            rows.extend(match part.as_str() {
                "polls" => polls::measure(&dir).await,
                "hints" => hints::measure(&dir).await,
                "fetches" => fetches::measure(&dir, long).await,
                "growth" => growth::measure(&dir, long).await,
                "memory" => memory::measure(long).await,
                other => panic!("there is no part '{other}'"),
            });
        }
        table::print(&rows);
    });
}

/// Not a test of its own: the process that the floor of polling is measured with.
#[test]
#[ignore = "polls for ever; the benchmark starts it"]
fn bare_loop() {
    polls::bare_loop();
}
