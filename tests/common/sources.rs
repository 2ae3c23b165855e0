//! The project's own sources, read as text: which files there are, and which tests are in them.
#![allow(
    dead_code,
    clippy::panic,
    clippy::unwrap_used,
    reason = "each test takes the part it needs, and fails by it"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Returns the project's directory.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the names of the test functions in a source.
pub fn tests_in(text: &str) -> BTreeSet<&str> {
    let (mut found, mut marked) = (BTreeSet::new(), false);
    for line in text.lines().map(str::trim) {
        let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if let Some(name) = name.and_then(|rest| rest.split('(').next()).filter(|_| marked) {
            found.insert(name);
        }
        let marks = line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        marked = marks || (marked && line.starts_with("#["));
    }
    found
}

/// Fails unless there is the test that `named` says by its file and name; `by` says who names it.
pub fn check_test(by: &str, named: &str) {
    let (file, test) = named.split_once(' ').unwrap();
    let text = std::fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{by}: {file}: {e}"));
    assert!(tests_in(&text).contains(test), "{by}: there is no test '{named}'");
}

/// Returns all sources below a directory.
pub fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| if path.is_dir() { below(&path) } else { vec![path] };
    entries.flat_map(below).filter(|path| path.extension().is_some_and(|e| e == "rs")).collect()
}
