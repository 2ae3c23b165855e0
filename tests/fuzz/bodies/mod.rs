//! What the fuzz targets run: one function for each parser of bytes that somebody else wrote. Each takes any bytes, fails
//! by panicking, and returns whether they were accepted, so that a replay can tell that both ways are reached. The
//! fuzzers of this folder and the replay in `tests/fuzz.rs` share them; neither libFuzzer nor nightly is named here.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a finding is a panic")]
#![allow(dead_code, missing_docs, reason = "each harness uses its part")]

pub mod commit;
pub mod control;
#[path = "../../trust/dice.rs"]
pub mod dice;
pub mod files;
pub mod journal;
pub mod key;
pub mod pack;
pub mod range;
pub mod remote;
#[path = "../../common/scripted.rs"]
pub mod scripted;
#[path = "../../trust/sshsig.rs"]
pub mod sign;
pub mod sse;
pub mod sshsig;
pub mod tree;
pub mod webhook;
pub mod wire;

use std::path::{Path, PathBuf};

use pullagent::config::{self, Settings};
use pullagent::trust::Policy;

pub use dice::Dice;

/// A configuration with alice (two keys) as deployer, bob as contributor, and one revoked key of alice's.
pub fn settings() -> Settings {
    let line = |key: sign::Key| key.line();
    let json = serde_json::json!({
        "schema": 1,
        "hostname": "web1",
        "remotes": [{ "name": "origin", "url": "https://git.example.org/infra.git" }],
        "trust": {
            "signers": {
                "alice": {
                    "keys": [line(sign::Key::plain(1)), line(sign::Key::sk(2)), line(sign::Key::plain(5))],
                    "roles": ["deployer"],
                },
                "bob": { "keys": [line(sign::Key::plain(3))], "roles": ["contributor"] },
            },
            "revokedKeys": [line(sign::Key::plain(5))],
        },
    });
    config::parse(json.to_string().as_bytes()).unwrap().settings
}

pub fn policy() -> Policy {
    settings().policy().unwrap()
}

/// An empty directory for one run, in memory where the machine offers that.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let below = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(below).unwrap()
}

/// Fails unless `text` is fit for a log line of at most `max` bytes.
pub fn fit_for_people(text: &str, max: usize) {
    assert!(!text.contains(char::is_control), "control characters in {text:?}");
    assert!(text.len() <= max, "{} bytes: {text}", text.len());
}

/// Lists the files below `dir`, sorted.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut found: Vec<PathBuf> =
        entries.map(|entry| entry.unwrap().path()).filter(|p| p.is_file()).collect();
    found.sort();
    found
}
