//! Goal: whatever ends the agent, the switch, both, or the whole host, at whatever point of a deployment, the host comes to
//! rest on the old system or on a confirmed new one, says so, and deploys the next push. Method: machines with real
//! systemd; a fault strikes right after a record of the journal or in the middle of a step; then nobody interferes.
//!
//! Each edge is struck once, by a fault that a seed chooses; the seed is printed, `PULLAGENT_FAULT_SEED` repeats a run.
//! `PULLAGENT_FAULT_MATRIX=full` strikes each edge with each fault, `PULLAGENT_FAULT_ONLY=words` only the cases whose name
//! has all these words in it.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step fails the test")]
#![expect(clippy::disallowed_methods, reason = "a test may start programs and read the clock")]

#[path = "../common/mod.rs"]
mod common;
mod edges;
#[allow(dead_code, reason = "tests/live takes the rest")]
#[path = "../live/host.rs"]
mod host;
mod matrix;
mod rest;
mod strike;
