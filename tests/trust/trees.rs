//! The `T` rows: raw trees as git stores them, and gitoxide as the oracle for names.

use proptest::prelude::*;
use pullagent::model::Oid;
use pullagent::trust::tree::{Kind, NAME_BYTES_MAX, NO_SUBMODULES, Submodules, check_entry, check_tree};
use pullagent::trust::{Code, ObjectFormat};

use super::forge::Forge;

/// Stores a tree with these entries (mode, name, id) as git object and checks what git gives back.
fn check(forge: &Forge, entries: &[(&str, &str, &Oid)]) -> Result<usize, Code> {
    let mut raw = Vec::new();
    for (mode, name, id) in entries {
        raw.extend_from_slice(format!("{mode} {name}\0").as_bytes());
        let digits = id.as_str().as_bytes().chunks(2);
        raw.extend(digits.map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()));
    }
    let id = forge.store("tree", &raw);
    let stored = forge.object("tree", &id).unwrap();
    check_tree(&stored, ObjectFormat::Sha1, b"", NO_SUBMODULES).map(|e| e.len()).map_err(|r| r.code)
}

#[test]
fn a_tree_made_by_git_is_read_as_git_lists_it() {
    let forge = Forge::new();
    for name in ["a.b", "a0", "ü/ö", ".gitattributes", "CON"] {
        let path = forge.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    }
    std::os::unix::fs::symlink("../../etc/passwd", forge.path("link")).unwrap();
    forge.git(&["add", "."]);
    forge.git(&["update-index", "--chmod=+x", "a0"]);
    forge.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{},a", forge.introduction)]);
    let id: Oid = forge.git(&["write-tree"]).parse().unwrap();
    let raw = forge.object("tree", &id).unwrap();
    let ours: Vec<_> = check_tree(&raw, ObjectFormat::Sha1, b"", &Submodules::from(["a".to_owned()]))
        .unwrap()
        .into_iter()
        .map(|e| {
            let mode = match e.kind {
                Kind::Directory => "040000 tree",
                Kind::File => "100644 blob",
                Kind::Executable => "100755 blob",
                Kind::Symlink => "120000 blob",
                Kind::Submodule => "160000 commit",
            };
            format!("{mode} {}\t{}", e.id, std::str::from_utf8(e.name).unwrap())
        })
        .collect();
    let gits = forge.git(&["-c", "core.quotePath=off", "ls-tree", "-z", id.as_str()]);
    assert_eq!(ours, gits.trim_end_matches('\0').split('\0').collect::<Vec<_>>());
    assert!(ours.len() > 6);
}

#[test]
fn t01_names() {
    let forge = Forge::new();
    let blob = forge.store("blob", b"x");
    for name in ["..", ".", "", "a/b", ".git", ".GIT", "git~1", ".g\u{200c}it"] {
        assert_eq!(check(&forge, &[("100644", name, &blob)]), Err(Code::BadPath), "{name}");
    }
    assert_eq!(check(&forge, &[("120000", ".gitmodules", &blob)]), Err(Code::BadPath));
    assert_eq!(check(&forge, &[("100644", ".gitmodules", &blob)]), Ok(1));
}

#[test]
fn t02_order() {
    let forge = Forge::new();
    let blob = forge.store("blob", b"x");
    let dir = forge.id("main^{tree}");
    assert_eq!(check(&forge, &[("100644", "a", &blob), ("100644", "a", &blob)]), Err(Code::BadTree));
    assert_eq!(check(&forge, &[("100644", "b", &blob), ("100644", "a", &blob)]), Err(Code::BadTree));
    assert_eq!(check(&forge, &[("120000", "a", &blob), ("40000", "a", &dir)]), Err(Code::BadTree));
}

#[test]
fn t03_modes() {
    let forge = Forge::new();
    let blob = forge.store("blob", b"x");
    assert_eq!(check(&forge, &[("100666", "a", &blob)]), Err(Code::BadMode));
    assert_eq!(check(&forge, &[("140000", "a", &blob)]), Err(Code::BadMode));
    assert_eq!(check(&forge, &[("160000", "a", &forge.introduction)]), Err(Code::Submodule));
}

#[test]
fn t07_case_pairs_are_fine() {
    let forge = Forge::new();
    let blob = forge.store("blob", b"x");
    assert_eq!(check(&forge, &[("100644", "A", &blob), ("100644", "a", &blob)]), Ok(2));
}

/// Says whether gitoxide accepts a name, with the protections of HFS+ and NTFS.
fn gix_accepts(name: &[u8], symlink: bool) -> bool {
    use gix::validate::path::component;
    let options = component::Options { protect_windows: false, protect_hfs: true, protect_ntfs: true };
    let mode = symlink.then_some(component::Mode::Symlink);
    gix::validate::path::component(name.into(), mode, options).is_ok()
}

/// Names near the forbidden ones, and any bytes.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        ".", "git", "GIT", "g", "i", "t", "~1", "~", "1", "4", "9", "modules", "gitmod", "MOD", "gi7eba",
        "gi7e", " ", ":", "x", "\u{200c}", "\u{feff}", "\u{206f}", "\u{200b}", "/", "..",
    ]);
    let near = prop::collection::vec(piece, 0..7).prop_map(|p| p.concat().into_bytes());
    let any = prop::collection::vec(1_u8.., 0..12);
    prop_oneof![4 => near, 1 => any]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn names_accepted_here_are_accepted_by_gitoxide(name in name(), symlink: bool) {
        let mode: &[u8] = if symlink { b"120000" } else { b"100644" };
        let id = "ab".repeat(20).parse().unwrap();
        let ours = check_entry(mode, &name, id, b"", NO_SUBMODULES).is_ok();
        let gix = gix_accepts(&name, symlink) && name.len() <= NAME_BYTES_MAX;
        prop_assert!(!ours || gix, "{:?}", String::from_utf8_lossy(&name));
        // For links we are a little stricter around short names; for all else there is no difference.
        prop_assert!(ours == gix || symlink, "{:?}", String::from_utf8_lossy(&name));
    }

    #[test]
    fn any_bytes_are_a_tree_or_a_refusal(raw in prop::collection::vec(any::<u8>(), 0..200)) {
        let parsed = check_tree(&raw, ObjectFormat::Sha1, b"", NO_SUBMODULES);
        prop_assert!(raw.is_empty() || parsed.is_err() || parsed.is_ok_and(|e| !e.is_empty()));
    }
}
