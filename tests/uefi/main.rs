//! Goal: a system that takes a reboot is tried by a boot that falls back, on real firmware with real systemd-boot in the
//! versions that differ; and our answer to "what will be booted next?" is what then is. Method: a machine that pullagent
//! keeps and a forge to push to; scripted steps without the agent for what it would not do.
//!
//! All but one good trial only with `PULLAGENT_TEST_UEFI=1`; one boot takes 20 s to 80 s.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step fails the test")]
#![expect(clippy::disallowed_methods, reason = "a test may start programs and read the clock")]

mod agent;
#[path = "../common/mod.rs"]
mod common;
mod cuts;
mod image;
mod kept;
mod nvram;
mod oracle;
mod trial;
mod vm;
