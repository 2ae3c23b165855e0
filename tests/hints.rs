//! Hints that something was pushed, through the whole gateway: the rules that keep them harmless, one test each, with
//! scripted services, a real nginx with nchan, and the documented streams of ntfy and Mercure.
#![allow(clippy::disallowed_methods, reason = "tests start servers and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "hints/hostile.rs"]
mod hostile;
#[path = "hints/programs.rs"]
mod programs;
#[path = "hints/real.rs"]
mod real;
#[path = "hints/rules.rs"]
mod rules;
#[path = "hints/stage.rs"]
mod stage;
