//! Random trees, held against `git fsck --strict`: what is accepted has nothing that git complains of, and what is refused
//! is either complained of or one of the few things that are stricter here on purpose.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;
use pullagent::model::Oid;
use pullagent::trust::tree::{NO_SUBMODULES, check_tree};
use pullagent::trust::{Code, ObjectFormat};

use super::forge::Forge;
use super::random::{self, Cases};

/// How many trees are made for one run of git.
const BATCH: usize = 400;

/// What git says of files that it reads itself in a work tree, of which there is none here: links and directories that have
/// their names.
const HARMLESS: [&str; 5] =
    ["gitattributesSymlink", "gitignoreSymlink", "mailmapSymlink", "gitattributesBlob", "gitmodulesBlob"];

#[derive(Debug, Clone)]
struct Entry {
    mode: &'static str,
    name: Vec<u8>,
}

fn entry() -> impl Strategy<Value = Entry> {
    let usual = select(vec!["100644", "100755", "120000", "40000"]);
    let odd = select(vec!["160000", "040000", "0100644", "100664", "100666", "140000", "40755", "0"]);
    let names = vec![
        "a",
        "a.b",
        "a0",
        "b",
        "a-b",
        "ab",
        "host.nix",
        ".gitmodules",
        ".GITMODULES",
        "gitmod~1",
        "GI7EBA~2",
        "gi7d29~1",
        ".gitattributes",
        ".gitignore",
        ".mailmap",
        ".git",
        ".GIT",
        "git~1",
        "git~2",
        ".git.",
        ".git :x",
        ".g\u{200c}it",
        "\u{206a}.gitmodules",
        ".",
        "..",
        "...",
        "CON",
        "a\\b",
        ".gi\u{feff}t",
        ".git\u{200b}",
        "git~10",
        ".gitmodules ",
        "gitmodules",
        "gitmod~5",
        ".gitmodules::$DATA",
    ];
    let name = prop_oneof![
        12 => select(names).prop_map(|n| n.as_bytes().to_vec()),
        3 => prop::collection::vec(any::<u8>().prop_filter("a name ends at NUL", |b| *b != 0), 0..6),
        1 => (250..260_usize).prop_map(|n| vec![b'n'; n]),
    ];
    (prop_oneof![12 => usual, 1 => odd], name).prop_map(|(mode, name)| Entry { mode, name })
}

/// A tree of a few entries, mostly in git's order.
fn tree() -> impl Strategy<Value = Vec<Entry>> {
    (prop::collection::vec(entry(), 1..5), prop::bool::weighted(0.85)).prop_map(|(mut entries, sorted)| {
        if sorted {
            let slash = |e: &Entry| if e.mode == "40000" { b"/".as_slice() } else { b"" };
            entries.sort_by_key(|e| [&e.name, slash(e)].concat());
        }
        entries
    })
}

/// Stores all trees and returns their ids.
fn store(forge: &Forge, trees: &[Vec<u8>]) -> Vec<Oid> {
    let mut list = String::new();
    for (n, raw) in trees.iter().enumerate() {
        std::fs::write(forge.path(&format!("tree-{n}")), raw).unwrap();
        list += &format!("tree-{n}\n");
    }
    let args = ["hash-object", "-t", "tree", "-w", "--stdin-paths", "--literally"];
    let output = forge.run("git", &args, &[], list.as_bytes());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|id| id.parse().unwrap()).collect()
}

/// Returns git's complaints of each tree, by the name of the complaint.
fn complaints(forge: &Forge) -> BTreeMap<Oid, BTreeSet<String>> {
    let output = forge.run("git", &["fsck", "--strict", "--no-dangling", "--no-progress"], &[], b"");
    let text = [output.stdout, output.stderr].concat();
    let mut found: BTreeMap<Oid, BTreeSet<String>> = BTreeMap::new();
    for line in String::from_utf8_lossy(&text).lines() {
        let prefixes = ["error in tree ", "warning in tree "];
        let Some(about) = prefixes.iter().find_map(|p| line.strip_prefix(p)) else { continue };
        let mut words = about.split(": ");
        let (Some(id), Some(what)) = (words.next(), words.next()) else { panic!("git fsck says '{line}'") };
        found.entry(id.parse().unwrap()).or_default().insert(what.to_owned());
    }
    found
}

/// Tells whether a refusal is stricter than git on purpose.
fn is_stricter(code: Code, entries: &[Entry]) -> bool {
    let long = entries.iter().any(|e| e.name.len() > 255);
    // Any short name that NTFS might make of `.gitmodules`; git knows the likely ones.
    let short = entries.iter().any(|e| e.mode == "120000" && e.name.contains(&b'~'));
    code == Code::Submodule || (code == Code::BadPath && (long || short))
}

#[test]
fn trees_are_judged_as_git_fsck_judges_them() {
    let (trees, mut counts) = (prop::collection::vec(tree(), BATCH), BTreeMap::<String, usize>::new());
    let counted = std::sync::Mutex::new(&mut counts);
    random::check("trees", Cases { short: 2, long: 100 }, trees, |trees| {
        let forge = Forge::new();
        let blob = forge.id("main:host.nix");
        let dir = forge.id("main^{tree}");
        let raw = |entries: &Vec<Entry>| {
            let mut raw = Vec::new();
            for entry in entries {
                raw.extend_from_slice(&[entry.mode.as_bytes(), b" ", &entry.name, b"\0"].concat());
                let id = if entry.mode.ends_with("40000") || entry.mode == "40755" { &dir } else { &blob };
                let digits = id.as_str().as_bytes().chunks(2);
                raw.extend(digits.map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()));
            }
            raw
        };
        let raws: Vec<_> = trees.iter().map(raw).collect();
        let ids = store(&forge, &raws);
        let complaints = complaints(&forge);
        for ((entries, raw), id) in trees.iter().zip(&raws).zip(&ids) {
            let mut said = complaints.get(id).cloned().unwrap_or_default();
            said.retain(|what| !HARMLESS.contains(&what.as_str()));
            let verdict =
                check_tree(raw, ObjectFormat::Sha1, b"", NO_SUBMODULES).map_err(|refusal| refusal.code);
            let word = match &verdict {
                Ok(_) => {
                    assert!(said.is_empty(), "accepted, and git says {said:?}: {entries:?}");
                    "accepted".to_owned()
                }
                Err(code) if said.is_empty() => {
                    assert!(is_stricter(*code, entries), "{code}, and git has nothing to say: {entries:?}");
                    format!("{code}, stricter than git")
                }
                Err(code) => code.to_string(),
            };
            *counted.lock().unwrap().entry(word).or_default() += 1;
        }
    });
    println!("trees: {counts:?}");
    for word in ["accepted", "bad-path", "bad-tree", "bad-mode", "submodule, stricter than git"] {
        assert!(counts.contains_key(word), "'{word}' never came up: {counts:?}");
    }
}

/// Shows that the complaints are really read: a tree of each kind, and git's word for it.
#[test]
fn git_complains_as_expected() {
    let forge = Forge::new();
    let id = forge.id("main:host.nix");
    let raw = |mode: &str, name: &str| {
        let digits = (0..20).map(|n| u8::from_str_radix(&id.as_str()[2 * n..2 * n + 2], 16).unwrap());
        format!("{mode} {name}\0").into_bytes().into_iter().chain(digits).collect::<Vec<u8>>()
    };
    let cases =
        [("100644", ".git", "hasDotgit"), ("100644", "..", "hasDotdot"), ("100666", "a", "badFilemode")];
    let ids = store(&forge, &cases.map(|(mode, name, _)| raw(mode, name)));
    let said = complaints(&forge);
    for ((_, _, what), id) in cases.iter().zip(&ids) {
        assert!(said[id].contains(*what), "{said:?}");
    }
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    assert!(!tree().new_tree(&mut runner).unwrap().current().is_empty());
}
