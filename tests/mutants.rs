//! The planted mistakes of `tests/mutants`: each still fits the sources, and the tests that are to catch it exist. That they do
//! catch it, `tests/mutants/run` finds out, which takes minutes.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]
#![expect(clippy::disallowed_methods, reason = "a test may start programs")]

#[path = "common/sources.rs"]
mod sources;

use std::path::Path;
use std::process::Command;

use sources::{check_test, root};

/// What has to be caught at least.
const MISTAKES: [&str; 5] = [
    "boot-default-moved-too-early",
    "decision-overwritten",
    "guard-not-armed",
    "guard-of-the-new-binary",
    "profile-set-too-early",
];

/// Returns each mistake: its name and its patch.
fn mutants() -> Vec<(String, String)> {
    let files = std::fs::read_dir(root().join("tests/mutants")).unwrap().map(|entry| entry.unwrap().path());
    let patches = files.filter(|path| path.extension().is_some_and(|e| e == "patch"));
    let named = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    patches.map(|path| (named(&path), std::fs::read_to_string(&path).unwrap())).collect()
}

#[test]
fn each_mistake_has_tests_that_are_to_catch_it() {
    let mutants = mutants();
    for name in MISTAKES {
        assert!(mutants.iter().any(|(other, _)| other == name), "nobody plants '{name}'");
    }
    for (name, patch) in mutants {
        let tests: Vec<&str> = patch.lines().filter_map(|line| line.strip_prefix("Caught-By: ")).collect();
        assert!(!tests.is_empty(), "{name} names no test");
        tests.into_iter().for_each(|test| check_test(&name, test));
    }
}

#[test]
fn each_mistake_can_be_planted() {
    for (name, patch) in mutants() {
        let copy = tempfile::tempdir().unwrap();
        let files: Vec<&str> = patch.lines().filter_map(|line| line.strip_prefix("+++ b/")).collect();
        assert!(!files.is_empty(), "{name} changes nothing");
        for file in &files {
            let place = copy.path().join(file);
            std::fs::create_dir_all(place.parent().unwrap()).unwrap();
            std::fs::copy(root().join(file), place).unwrap();
        }
        let mut apply = Command::new("git");
        apply.arg("apply").arg(root().join(format!("tests/mutants/{name}.patch"))).current_dir(copy.path());
        // A repository that the copy lies in by chance has no say.
        apply.env("GIT_CEILING_DIRECTORIES", copy.path().parent().unwrap()).env_remove("GIT_DIR");
        let applied = apply.output().unwrap();
        assert!(applied.status.success(), "{name}: {}", String::from_utf8_lossy(&applied.stderr));
        for file in &files {
            let read = |root: &Path| std::fs::read_to_string(root.join(file)).unwrap();
            assert_ne!(read(copy.path()), read(root()), "{name} leaves {file} as it is");
        }
    }
}
