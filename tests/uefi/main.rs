//! Goal: what a trial of a new kernel relies on is so, on real firmware with real systemd-boot in the versions that
//! differ: an entry that is booted once, what brings a machine back whose trial fails, and our answer to "what will be
//! booted next?", which must be what then is. Method: scripted steps from outside, without the agent.
//!
//! All of it only with `PULLAGENT_TEST_UEFI=1`; one boot takes 20 s to 80 s.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step fails the test")]
#![expect(clippy::disallowed_methods, reason = "a test may start programs and read the clock")]

#[path = "../common/mod.rs"]
mod common;
mod image;
mod nvram;
mod oracle;
mod trial;
mod vm;
