//! Replays the fuzzers' inputs on stable: the seeds, and the corpus and the regressions in `tests/fuzz/corpus`. What a
//! fuzzer once found stays found. `tests/fuzz/run` starts the fuzzers themselves; `UPDATE_FIXTURES=1` writes the seeds
//! into the corpus, where they begin.
#![expect(clippy::disallowed_methods, reason = "tests read their environment and start the import child")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a finding is a panic")]

#[path = "fuzz/bodies/mod.rs"]
mod bodies;

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target)
}

/// Replays all there is for one target. Some of it must be accepted and some refused: a body that always says no would
/// never be wrong.
fn replay(target: &str, seeds: Vec<Vec<u8>>, check: impl Fn(&[u8]) -> bool) {
    let dir = corpus(target);
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::create_dir_all(&dir).unwrap();
        for (n, seed) in seeds.iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{n:02}")), seed).unwrap();
        }
    }
    let stored = bodies::files_below(&dir);
    let inputs = stored.iter().map(|path| std::fs::read(path).unwrap());
    let mut accepted = 0;
    let mut refused = 0;
    for input in inputs.chain(seeds) {
        if check(&input) {
            accepted += 1;
        } else {
            refused += 1;
        }
    }
    println!("replayed {target}: {accepted} accepted, {refused} refused");
    assert!(accepted > 0 && refused > 0, "{target}: {accepted} accepted, {refused} refused");
}

#[test]
fn commits() {
    replay("commit", bodies::commit::seeds(), bodies::commit::check);
}

#[test]
fn signatures() {
    replay("sshsig", bodies::sshsig::seeds(), bodies::sshsig::check);
}

#[test]
fn keys() {
    replay("key", bodies::key::seeds(), bodies::key::check);
}

#[test]
fn trees() {
    replay("tree", bodies::tree::seeds(), bodies::tree::check);
}

#[test]
fn histories() {
    replay("range", bodies::range::seeds(), bodies::range::check);
}

#[test]
fn frames() {
    replay("wire", bodies::wire::seeds(), bodies::wire::check);
}

#[test]
fn hints() {
    replay("sse", bodies::sse::seeds(), bodies::sse::check);
}

#[test]
fn orders() {
    replay("control", bodies::control::seeds(), bodies::control::check);
}

#[test]
fn webhooks() {
    replay("webhook", bodies::webhook::seeds(), bodies::webhook::check);
}

#[test]
fn journals() {
    replay("journal", bodies::journal::seeds(), bodies::journal::check);
}

#[test]
fn configurations() {
    replay("config", bodies::files::config_seeds(), bodies::files::config);
}

#[test]
fn statuses() {
    replay("status", vec![b"\0{".to_vec()], bodies::files::status);
}

#[test]
fn guards() {
    replay("guard", bodies::files::guard_seeds(), bodies::files::guard);
}

#[test]
fn servers() {
    replay("remote", bodies::remote::seeds(), bodies::remote::check);
}

#[test]
fn packs() {
    replay("pack", bodies::pack::seeds(), |data| bodies::pack::check(data, &import_child));
}

/// The import child as the agent starts it, but for its supervisor.
fn import_child(job: &Path, pack: &[u8]) -> Vec<u8> {
    let mut stdin: File = tempfile::tempfile().unwrap();
    stdin.write_all(pack).unwrap();
    stdin.rewind().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_pullagent"));
    let output = child.arg("import").arg(job).stdin(stdin).stderr(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "the import child ended with {}", output.status);
    output.stdout
}
