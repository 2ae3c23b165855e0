//! Tree objects: what is accepted reads the same to gitoxide, passes its path rules, and has one way to be written.

use std::collections::HashSet;

use gix::bstr::ByteSlice as _;
use gix::objs::TreeRefIter;
use gix::validate::path::component;
use pullagent::trust::ObjectFormat;
use pullagent::trust::tree::{Entry, Kind, Submodules, check_tree, join};

use super::{Dice, fit_for_people};

const MODES: [&str; 12] = [
    "100644", "100755", "120000", "40000", "160000", "040000", "100664", "100666", "140000", "", "0",
    "1006444",
];
const NAMES: [&str; 18] = [
    ".git",
    ".GIT",
    "git~1",
    ".gitmodules",
    "GITMOD~1",
    "gi7eba~1",
    ".",
    "..",
    "a",
    "a.b",
    "a/b",
    ".git ",
    ".git:x",
    ".g\u{200c}it",
    "\u{feff}.gitmodules",
    "host.nix",
    "b",
    "CON",
];

/// The first byte chooses hash function, directory, and whether the rest is the object or makes one.
pub fn check(data: &[u8]) -> bool {
    let mut dice = Dice(data);
    let choice = dice.byte();
    let (format, kind) = match choice & 1 {
        0 => (ObjectFormat::Sha1, gix::hash::Kind::Sha1),
        _ => (ObjectFormat::Sha256, gix::hash::Kind::Sha256),
    };
    let dir = match choice >> 1 & 3 {
        0 => Vec::new(),
        1 => b"modules/web".to_vec(),
        2 => vec!["d"; dice.below(70)].join("/").into_bytes(),
        _ => vec![b'd'; 3 * 1024 - dice.below(256)],
    };
    let raw = if choice & 8 == 0 { dice.0.to_vec() } else { made(&mut dice, format) };
    let allowed = |name: &str| String::from_utf8(join(&dir, name.as_bytes())).unwrap();
    let submodules: Submodules = NAMES[..NAMES.len() / 2].iter().map(|name| allowed(name)).collect();
    let entries = match check_tree(&raw, format, &dir, &submodules) {
        Ok(entries) => entries,
        Err(refusal) => {
            fit_for_people(&refusal.text, 1200);
            return false;
        }
    };
    assert_eq!(written(&entries), raw, "two ways to write one tree");
    let read: Vec<_> = TreeRefIter::from_bytes(&raw, kind).map(|entry| entry.unwrap()).collect();
    assert_eq!(read.len(), entries.len());
    for (ours, theirs) in entries.iter().zip(&read) {
        assert_eq!((ours.name.as_bstr(), ours.id.to_string()), (theirs.filename, theirs.oid.to_string()));
        assert_eq!(ours.kind == Kind::Directory, theirs.mode.is_tree());
        assert_eq!(ours.kind == Kind::Symlink, theirs.mode.is_link());
        assert_eq!(ours.kind == Kind::Submodule, theirs.mode.is_commit());
        assert_eq!(ours.kind == Kind::Executable, theirs.mode.is_executable());
        let rules = component::Options { protect_windows: false, protect_hfs: true, protect_ntfs: true };
        let mode = theirs.mode.is_link().then_some(component::Mode::Symlink);
        gix::validate::path::component(theirs.filename, mode, rules).unwrap();
        assert!(
            !ours.name.contains(&b'/') && ours.name.len() <= 255 && dir.len() + ours.name.len() < 3 * 1024
        );
    }
    assert!(read.is_sorted_by(|a, b| a < b), "not in git's order");
    assert_eq!(entries.iter().map(|e| e.name).collect::<HashSet<_>>().len(), entries.len(), "a name twice");
    true
}

fn written(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut raw = Vec::new();
    for entry in entries {
        let mode = match entry.kind {
            Kind::Directory => "40000",
            Kind::File => "100644",
            Kind::Executable => "100755",
            Kind::Symlink => "120000",
            Kind::Submodule => "160000",
        };
        put(&mut raw, mode, entry.name);
        let hex = entry.id.as_str();
        raw.extend((0..hex.len()).step_by(2).map(|n| u8::from_str_radix(&hex[n..n + 2], 16).unwrap()));
    }
    raw
}

fn put(raw: &mut Vec<u8>, mode: &str, name: &[u8]) {
    raw.extend_from_slice(mode.as_bytes());
    raw.push(b' ');
    raw.extend_from_slice(name);
    raw.push(0);
}

/// A tree of up to 16 entries with modes and names that matter, mostly sorted.
fn made(dice: &mut Dice<'_>, format: ObjectFormat) -> Vec<u8> {
    let mut entries: Vec<(&str, Vec<u8>)> = Vec::new();
    while !dice.is_over() && entries.len() < 16 {
        let mode = if dice.odd() { dice.pick(&MODES) } else { dice.pick(&MODES[..4]) };
        let mut name = if dice.odd() { dice.short().to_vec() } else { dice.pick(&NAMES).as_bytes().to_vec() };
        if dice.odd() {
            name.extend_from_slice(dice.short());
        }
        entries.push((mode, name));
    }
    if !dice.odd() {
        entries.sort_by_key(|(mode, name)| [&name[..], if *mode == "40000" { b"/" } else { b"" }].concat());
    }
    let mut raw = Vec::new();
    for (mode, name) in entries {
        put(&mut raw, mode, &name);
        raw.extend(vec![0xab; format.raw_len()]);
    }
    raw
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut plain = vec![0];
    for (mode, name) in [("100644", "a.b"), ("40000", "a"), ("100755", "b"), ("120000", "c")] {
        put(&mut plain, mode, name.as_bytes());
        plain.extend([0xcd; 20]);
    }
    let mut wide = vec![1];
    put(&mut wide, "100644", b"host.nix");
    wide.extend([0xcd; 32]);
    let mut seeds =
        vec![plain, wide, vec![0], vec![8, 0, 0, 0, 8, 0, 0, 3, 0, 15, 0], vec![8, 0, 2, 0, 3, 0]];
    seeds.push(vec![12, 10, 0, 0, 0, 15, 0]);
    seeds.push(vec![6, 250]);
    seeds
}
