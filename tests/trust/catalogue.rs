//! The attack catalogue, row by row: which tests hold it, and which rows wait for a policy that does not exist yet. A row's
//! tests are those whose names begin with its number (`s01_…`), in whatever test binary they have their place.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Every row: its number and what is attacked.
const ROWS: [(&str, &str); 93] = [
    ("S01", "control ed25519"),
    ("S02", "control sk-ed25519"),
    ("S03", "tampered byte"),
    ("S04", "unsigned"),
    ("S05", "unlisted key"),
    ("S06", "two gpgsig, good first"),
    ("S07", "two gpgsig, good second"),
    ("S08", "extra gpgsig-sha256"),
    ("S09", "gpgsig-evil header"),
    ("S10", "gpgsig before author"),
    ("S11", "text after END"),
    ("S12", "40-column armor"),
    ("S13", "blank line inside armor"),
    ("S14", "CRLF armor"),
    ("S15", "base64 trailing bits"),
    ("S16", "SSHSIG version 0 / 2"),
    ("S17", "reserved not empty"),
    ("S18", "namespace file"),
    ("S19", "namespace empty, git\\0x"),
    ("S20", "hash name sha1 / relabelled sha256"),
    ("S21", "hash sha256, genuine"),
    ("S22", "bytes after the blob"),
    ("S23", "ed25519 S + L"),
    ("S24", "small-order key"),
    ("S25", "sk without touch"),
    ("S26", "sk without PIN"),
    ("S27", "sk flags or counter altered"),
    ("S28", "ECDSA (r, n-s)"),
    ("S29", "RSA, and ssh-rsa relabel"),
    ("S30", "certificate"),
    ("S31", "key type differs from signature type"),
    ("S32", "OpenPGP or X.509 block"),
    ("S33", "signature only in the message; empty gpgsig"),
    ("O01", "second tree or author line, signed"),
    ("O02", "unknown signed header"),
    ("O03", "NUL in message or header, signed"),
    ("O04", "encoding header"),
    ("O05", "mergetag"),
    ("O06", "huge message, 2 MB"),
    ("O07", "5,000 parents"),
    ("O08", "tag object at refs/heads/main"),
    ("O09", "tree/blob at refs/heads/main"),
    ("O10", "SHA-1 collision"),
    ("O11", "altered object on disk"),
    ("O12", "object format mismatch"),
    ("R01", "tag named main"),
    ("R02", "only a tag main"),
    ("R03", "HEAD symref moved; main is a symref"),
    ("R04", "server offers refs/replace/*, refs/pullagent/*"),
    ("R05", "local refs/replace"),
    ("R06", "grafts / shallow file in the store"),
    ("R07", "shallow server"),
    ("R08", "incomplete pack, then honest server"),
    ("R09", "alternates on server or from HTTP"),
    ("R10", "rollback"),
    ("R11", "force-push"),
    ("R12", "ID variant of the anchor, then honest child"),
    ("R13", "signed WIP branch as main"),
    ("R14", "test commit as main; main commit as test"),
    ("R15", "test-web1 tip on test-web2"),
    ("R16", "older test tip again"),
    ("R17", "test branch from a fork of main"),
    ("R18", "other repo, same key"),
    ("R19", "endless or huge pack, slow drip"),
    ("R20", "freeze; two remotes disagree"),
    ("P01", "removed key appends"),
    ("P02", "removed key's old-base fork, honest merge"),
    ("P03", "unsigned under signed tip"),
    ("P04", "non-editor edits policy"),
    ("P05", "merge restores old policy"),
    ("P06", "same version, other content"),
    ("P07", "policy deleted; symlink; unknown field; k > n; no editor; > 64 KiB"),
    ("P08", "k=2: one signer; same signer twice; contributor endorses"),
    ("P09", "k=2: sock puppet added and used in one range"),
    ("P10", "expired key, back-dated tip"),
    ("P11", "expired key inside, valid tip above"),
    ("P12", "revoked key inside"),
    ("P13", "clock at 1970 or rolled back"),
    ("P14", "forms of an allowed-signers file"),
    ("P15", "revocation source missing"),
    ("P16", "state deleted; no baked rev"),
    ("P17", "rollback, then commit by the key revoked meanwhile"),
    ("P18", "state not root-owned, group-writable, symlink"),
    ("P19", "clock jumps to 2099 once"),
    ("P20", "tip dated in the future"),
    ("P21", "test branch changes signers; state lost on a test generation"),
    ("T01", "names that leave the tree or mean .git"),
    ("T02", "duplicate, unsorted, symlink a + directory a"),
    ("T03", "modes 100666, 140000; gitlink 160000"),
    ("T04", "absolute or ../ symlink"),
    ("T05", "filter, ident, eol, export-subst, export-ignore, encoding; LFS pointer"),
    ("T06", "hooks or config in the tree"),
    ("T07", "case pairs"),
];

/// Rows about a policy file in the repository, or about thresholds: there is neither yet.
const NOT_APPLICABLE_YET: [&str; 8] = ["P01", "P02", "P04", "P05", "P06", "P07", "P08", "P09"];

/// Returns all files of Rust below `dir`.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| match path.is_dir() {
        true => sources(&path),
        false => vec![path],
    };
    entries.flat_map(below).filter(|path| path.extension().is_some_and(|e| e == "rs")).collect()
}

/// Returns the names of the test functions in a source text.
fn tests(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut marked = false;
    for line in text.lines().map(str::trim) {
        let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        match name.and_then(|rest| rest.split('(').next()) {
            Some(name) if marked => found.push(name),
            Some(_) | None => {}
        }
        marked = line.starts_with("#[test]")
            || line.starts_with("#[tokio::test")
            || (marked && line.starts_with("#["));
    }
    found
}

/// Returns the row that a test's name begins with.
fn row(test: &str) -> Option<String> {
    let (number, rest) = test.split_at_checked(3)?;
    let is_row = number.starts_with(['s', 'o', 'r', 'p', 't'])
        && number[1..].bytes().all(|b| b.is_ascii_digit())
        && rest.starts_with('_');
    is_row.then(|| number.to_ascii_uppercase())
}

#[test]
fn every_row_has_a_test_or_waits_for_its_policy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in [sources(&root.join("tests")), sources(&root.join("agent"))].concat() {
        let text = std::fs::read_to_string(&path).unwrap();
        let file = path.strip_prefix(root).unwrap().display();
        for test in tests(&text) {
            if let Some(row) = row(test) {
                held.entry(row).or_default().push(format!("{test} ({file})"));
            }
        }
    }
    let unknown: Vec<_> = held.keys().filter(|row| !ROWS.iter().any(|(id, _)| id == row)).collect();
    assert!(unknown.is_empty(), "tests of rows that do not exist: {unknown:?}");
    let mut missing = Vec::new();
    for (id, name) in ROWS {
        match (held.get(id), NOT_APPLICABLE_YET.contains(&id)) {
            (Some(tests), false) => println!("{id} {name}: {}", tests.join(", ")),
            (None, true) => println!("{id} {name}: not applicable yet (managed or threshold policy)"),
            (Some(tests), true) => panic!("{id} is not applicable yet, and is tested: {tests:?}"),
            (None, false) => missing.push(id),
        }
    }
    let tests: usize = held.values().map(Vec::len).sum();
    println!("attack catalogue: {} of {} rows held by {tests} tests", held.len(), ROWS.len());
    assert!(missing.is_empty(), "rows without a test: {missing:?}");
}

#[test]
fn rows_are_listed_once_and_in_order() {
    let mut sorted = ROWS.map(|(id, _)| ("SORPT".find(&id[..1]), id));
    sorted.sort_unstable();
    assert_eq!(sorted.map(|(_, id)| id), ROWS.map(|(id, _)| id));
    assert!(ROWS.windows(2).all(|pair| pair[0].0 != pair[1].0));
}
