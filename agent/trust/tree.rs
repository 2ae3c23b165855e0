//! The rules for a tree that is exported and built: four modes, and submodules where they are allowed; Git's own order, no
//! two entries of one name, no name that some file system reads as `.git`. It sees one raw tree at a time and knows no store; the walk, the
//! re-hashing and the writing are the caller's.

use std::collections::{BTreeSet, HashSet};

use super::commit::{ObjectFormat, hex};
use super::escape;
use super::refusal::{Code, Refusal};
use crate::model::Oid;

/// The longest name of one entry, in bytes (Linux `NAME_MAX`).
pub const NAME_BYTES_MAX: usize = 255;

/// The longest path from the root of the tree, in bytes: Linux' `PATH_MAX` of 4096, less room for where the tree lies.
pub const PATH_BYTES_MAX: usize = 3 * 1024;

/// How deep directories may be nested; the root's own entries are at depth 1.
pub const DEPTH_MAX: usize = 64;

/// How many trees and blobs one export may have. A whole nixpkgs has about 90,000.
pub const OBJECTS_MAX: u32 = 500_000;

/// How many bytes of trees and blobs one export may have.
pub const BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// At which paths, from the root of the tree, there may be a submodule.
pub type Submodules = BTreeSet<String>;

/// Allows no submodule anywhere.
pub const NO_SUBMODULES: &Submodules = &Submodules::new();

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory, mode 40000.
    Directory,
    /// A plain file, mode 100644.
    File,
    /// An executable file, mode 100755.
    Executable,
    /// A symbolic link, mode 120000; where it points is not looked at, it is never followed.
    Symlink,
    /// A commit of another repository, mode 160000.
    Submodule,
}

/// One entry of a tree, within the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its name, any bytes but `/` and NUL.
    pub name: &'a [u8],
    /// The tree, blob or commit it names.
    pub id: Oid,
}

/// Parses one raw tree and checks all that can be seen in it. `dir` is its path from the root, empty for the
/// root itself; it is used for the limits, for `submodules`, and in messages. Refusals name the path and leave the commit
/// open.
pub fn check_tree<'a>(
    raw: &'a [u8],
    format: ObjectFormat,
    dir: &[u8],
    submodules: &Submodules,
) -> Result<Vec<Entry<'a>>, Refusal> {
    check_depth(dir)?;
    let mut rest = raw;
    let mut entries: Vec<Entry<'a>> = Vec::new();
    let mut names = HashSet::new();
    while !rest.is_empty() {
        let entry = parse(&mut rest, format).ok_or_else(|| cut(dir))?;
        let entry = check_entry(entry.0, entry.1, entry.2, dir, submodules)?;
        if !names.insert(entry.name) {
            return Err(refuse(Code::BadTree, dir, entry.name, "is there twice"));
        }
        if entries.last().is_some_and(|last| sort_key(last).ge(sort_key(&entry))) {
            return Err(refuse(Code::BadTree, dir, entry.name, "is out of order"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// Checks one entry by itself: `mode` as written in the tree (ASCII octal), and `name`, below `dir`.
pub fn check_entry<'a>(
    mode: &[u8],
    name: &'a [u8],
    id: Oid,
    dir: &[u8],
    submodules: &Submodules,
) -> Result<Entry<'a>, Refusal> {
    let kind = match mode {
        b"40000" => Kind::Directory,
        b"100644" => Kind::File,
        b"100755" => Kind::Executable,
        b"120000" => Kind::Symlink,
        b"160000" if is_allowed(submodules, dir, name) => Kind::Submodule,
        b"160000" => return Err(unexpected_submodule(dir, name)),
        _ => {
            let says = format!("has the mode '{}'", escape::line(mode));
            return Err(refuse(Code::BadMode, dir, name, &says));
        }
    };
    if let Some(says) = bad_name(name, kind) {
        return Err(refuse(Code::BadPath, dir, name, says));
    }
    if dir.len() + 1 + name.len() > PATH_BYTES_MAX {
        return Err(refuse(Code::BadPath, dir, name, "has a path that is too long"));
    }
    Ok(Entry { kind, name, id })
}

/// Says why `name` may not be that of a directory in a tree; `None`: it may.
pub fn directory_name_offence(name: &str) -> Option<&'static str> {
    bad_name(name.as_bytes(), Kind::Directory)
}

/// Returns the path of `name` in `dir`, from the root.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if dir.is_empty() { b"" } else { b"/" };
    [dir, slash, name].concat()
}

fn is_allowed(submodules: &Submodules, dir: &[u8], name: &[u8]) -> bool {
    str::from_utf8(&join(dir, name)).is_ok_and(|path| submodules.contains(path))
}

fn unexpected_submodule(dir: &[u8], name: &[u8]) -> Refusal {
    let path = escape::line(&join(dir, name));
    let text = format!(
        "the path '{path}' is a submodule, and the configuration that runs on this host has no \
         'source.submodules.\"{path}\"'"
    );
    Refusal::new(Code::Submodule, None, text)
}

fn check_depth(dir: &[u8]) -> Result<(), Refusal> {
    let depth = if dir.is_empty() { 1 } else { 2 + dir.iter().filter(|b| **b == b'/').count() };
    if depth <= DEPTH_MAX {
        return Ok(());
    }
    let text = format!("directories are nested more than {DEPTH_MAX} deep at '{}'", escape::line(dir));
    Err(Refusal::new(Code::TreeTooLarge, None, text))
}

/// Counts what an export will write, so that it stays within [`OBJECTS_MAX`] and [`BYTES_MAX`]. An object that
/// occurs twice counts twice: it is written twice.
#[derive(Debug, Clone)]
pub struct Budget {
    objects: u32,
    bytes: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Budget::new()
    }
}

impl Budget {
    /// Returns the whole budget.
    pub fn new() -> Budget {
        Budget { objects: OBJECTS_MAX, bytes: BYTES_MAX }
    }

    /// Takes one object of `bytes` bytes from it, or refuses with `tree-too-large`.
    pub fn spend(&mut self, bytes: u64) -> Result<(), Refusal> {
        let left = self.objects.checked_sub(1).zip(self.bytes.checked_sub(bytes));
        let (objects, bytes) = left.ok_or_else(|| {
            let text = format!("the tree has more than {OBJECTS_MAX} objects or {BYTES_MAX} bytes");
            Refusal::new(Code::TreeTooLarge, None, text)
        })?;
        *self = Budget { objects, bytes };
        Ok(())
    }
}

/// Takes mode, name and id from the front of a raw tree: `<mode> <name>\0<raw id>`.
fn parse<'a>(rest: &mut &'a [u8], format: ObjectFormat) -> Option<(&'a [u8], &'a [u8], Oid)> {
    let nul = rest.iter().position(|b| *b == 0)?;
    let space = rest[..nul].iter().position(|b| *b == b' ')?;
    let (mode, name) = (&rest[..space], &rest[space + 1..nul]);
    let (id, after) = rest[nul + 1..].split_at_checked(format.raw_len())?;
    *rest = after;
    Some((mode, name, hex(id).parse().ok()?))
}

/// Git sorts a directory as if its name ended in a slash.
fn sort_key<'e>(entry: &'e Entry<'_>) -> impl Iterator<Item = u8> + 'e {
    let slash = (entry.kind == Kind::Directory).then_some(b'/');
    entry.name.iter().copied().chain(slash)
}

/// Says why a name is not safe everywhere. The rules are those of git's `verify_path` with `core.protectHFS`
/// and `core.protectNTFS`; names that only Windows forbids (`CON`, `a:b`) are fine.
fn bad_name(name: &[u8], kind: Kind) -> Option<&'static str> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
        return Some("is not a file name");
    }
    if name.len() > NAME_BYTES_MAX {
        return Some("has a name that is too long");
    }
    if reads_as(name, &[".git"], &[".git", "git~1"]) {
        return Some("could be read as '.git'");
    }
    if kind == Kind::Symlink && (reads_as(name, &[".gitmodules"], &[".gitmodules"]) || short_gitmodules(name))
    {
        return Some("is a symbolic link that could be read as '.gitmodules'");
    }
    None
}

/// Tells whether HFS+ reads `name` as one of `hfs`, or NTFS as one of `ntfs`. HFS+ ignores case and invisible
/// characters; NTFS ignores case, dots and spaces at the end, and what follows a colon.
fn reads_as(name: &[u8], hfs: &[&str], ntfs: &[&str]) -> bool {
    let visible: String = String::from_utf8_lossy(name).chars().filter(|c| !ignored_by_hfs(*c)).collect();
    let on_ntfs = |other: &&str| {
        let (head, tail) = name.split_at_checked(other.len()).unwrap_or((b"", b""));
        let ended = tail.iter().find(|b| !matches!(b, b' ' | b'.')).is_none_or(|b| *b == b':');
        head.eq_ignore_ascii_case(other.as_bytes()) && ended
    };
    hfs.iter().any(|other| visible.eq_ignore_ascii_case(other)) || ntfs.iter().any(on_ntfs)
}

/// git: utf8.c, `next_hfs_char`.
fn ignored_by_hfs(c: char) -> bool {
    matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}')
}

/// Tells whether a name may be the short (8.3) form of `.gitmodules` on NTFS: `GITMOD~1` to `~4`, or a prefix
/// of its hash `gi7eba` with a number. A little stricter than git in what may follow, which costs nothing.
fn short_gitmodules(name: &[u8]) -> bool {
    let Some(tilde) = name.iter().position(|b| *b == b'~') else { return false };
    let stem = name[..tilde].to_ascii_lowercase();
    let numbered = name.get(tilde + 1).is_some_and(u8::is_ascii_digit);
    numbered && (stem == b"gitmod" || b"gi7eba".starts_with(&stem))
}

fn cut(dir: &[u8]) -> Refusal {
    let text = format!("the directory '{}' is cut short or damaged", escape::line(dir));
    Refusal::new(Code::BadTree, None, text)
}

fn refuse(code: Code, dir: &[u8], name: &[u8], says: &str) -> Refusal {
    let path = escape::line(&join(dir, name));
    Refusal::new(code, None, format!("the path '{path}' {says}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut raw = Vec::new();
        for (mode, name) in entries {
            raw.extend_from_slice(mode.as_bytes());
            raw.push(b' ');
            raw.extend_from_slice(name);
            raw.push(0);
            raw.extend_from_slice(&[0xab; 20]);
        }
        raw
    }

    fn code(entries: &[(&str, &[u8])]) -> Option<Code> {
        check_tree(&tree(entries), ObjectFormat::Sha1, b"dir", NO_SUBMODULES).err().map(|r| r.code)
    }

    #[test]
    fn an_honest_tree_is_read() {
        let raw = tree(&[
            ("100644", b".gitattributes"),
            ("100644", b"a.b"),
            ("40000", b"a"),
            ("100755", b"a0"),
            ("120000", b"z"),
        ]);
        let entries = check_tree(&raw, ObjectFormat::Sha1, b"", NO_SUBMODULES).unwrap();
        let kinds: Vec<_> = entries.iter().map(|e| e.kind).collect();
        assert_eq!(kinds, [Kind::File, Kind::File, Kind::Directory, Kind::Executable, Kind::Symlink]);
        assert_eq!(entries[1].name, b"a.b");
        assert_eq!(entries[0].id.as_str(), "ab".repeat(20));
        assert_eq!(check_tree(b"", ObjectFormat::Sha1, b"", NO_SUBMODULES).unwrap(), []);
    }

    #[test]
    fn other_modes_are_refused() {
        let check = |mode: &str, expected| assert_eq!(code(&[(mode, b"a")]), expected, "{mode}");
        check("100644", None);
        check("160000", Some(Code::Submodule));
        for mode in ["100666", "100664", "140000", "040000", "0100644", "10644", "", "+40000", "100644\t"] {
            check(mode, Some(Code::BadMode));
        }
    }

    #[test]
    fn submodules_are_allowed_at_their_paths_only_and_named_as_all_else() {
        let allowed = Submodules::from(["dir/lib", "dir/.git", "other"].map(str::to_owned));
        let at = |dir: &str, name: &str| {
            let raw = tree(&[("160000", name.as_bytes())]);
            let entries = check_tree(&raw, ObjectFormat::Sha1, dir.as_bytes(), &allowed);
            entries.map(|entries| entries[0].kind).map_err(|refusal| (refusal.code, refusal.text))
        };
        assert_eq!(at("dir", "lib"), Ok(Kind::Submodule));
        assert_eq!(at("", "other"), Ok(Kind::Submodule));
        assert_eq!(at("dir", ".git").unwrap_err().0, Code::BadPath);
        for (dir, name) in [("", "lib"), ("dir", "other"), ("dir/lib", "lib"), ("", "dir"), ("", "dir/lib")] {
            let (code, text) = at(dir, name).unwrap_err();
            let path = String::from_utf8(join(dir.as_bytes(), name.as_bytes())).unwrap();
            if path != "dir/lib" {
                assert!(
                    code == Code::Submodule && text.contains(&format!("submodules.\"{path}\"")),
                    "{text}"
                );
            } else {
                assert_eq!(code, Code::BadPath, "a name with a slash in it");
            }
        }
    }

    #[test]
    fn order_and_uniqueness_are_gits() {
        let file = |n: &'static str| ("100644", n.as_bytes());
        let dir = |n: &'static str| ("40000", n.as_bytes());
        assert_eq!(code(&[file("a"), file("b")]), None);
        assert_eq!(code(&[file("a.b"), dir("a")]), None);
        assert_eq!(code(&[dir("a"), file("a.b")]), Some(Code::BadTree));
        assert_eq!(code(&[file("b"), file("a")]), Some(Code::BadTree));
        assert_eq!(code(&[file("a"), file("a")]), Some(Code::BadTree));
        assert_eq!(code(&[("120000", b"a"), file("a.b"), dir("a")]), Some(Code::BadTree));
        assert_eq!(code(&[file("A"), file("a")]), None);
        // A submodule stands where a file of its name would.
        let allowed = Submodules::from(["dir/a".to_owned()]);
        let with = |entries: &[(&str, &[u8])]| {
            check_tree(&tree(entries), ObjectFormat::Sha1, b"dir", &allowed).err().map(|r| r.code)
        };
        assert_eq!(with(&[("160000", b"a"), file("a.b")]), None);
        assert_eq!(with(&[file("a.b"), ("160000", b"a")]), Some(Code::BadTree));
        assert_eq!(with(&[("160000", b"a"), file("a.b"), dir("a")]), Some(Code::BadTree));
    }

    #[test]
    fn names_that_mean_something_else_are_refused() {
        let refused = [
            &b""[..],
            b".",
            b"..",
            b"a/b",
            b"/",
            b".git",
            b".GIT",
            b".gIt. ",
            b".git:x",
            b"git~1",
            b"GIT~1...",
            ".g\u{200c}it".as_bytes(),
            "\u{feff}.GIT".as_bytes(),
        ];
        for name in refused {
            assert_eq!(code(&[("100644", name)]), Some(Code::BadPath), "{name:?}");
        }
        let long = [b'n'; NAME_BYTES_MAX + 1];
        assert_eq!(code(&[("40000", &long)]), Some(Code::BadPath));
        assert_eq!(code(&[("40000", &long[1..])]), None);
        for name in [&b".gitignore"[..], b".gitx", b"git~2", b"git", b"CON", b"a:b", b"a\\b", b"\xff", b"..a"]
        {
            assert_eq!(code(&[("100644", name)]), None, "{name:?}");
        }
    }

    #[test]
    fn gitmodules_may_be_a_file_but_no_link() {
        let names =
            [&b".gitmodules"[..], b".GITMODULES", b".gitmodules .", b"gitmod~1", b"GI7EBA~9", b"gi~1"];
        for name in names {
            assert_eq!(code(&[("100644", name)]), None, "{name:?}");
            assert_eq!(code(&[("120000", name)]), Some(Code::BadPath), "{name:?}");
        }
        for name in [&b"gitmodules"[..], b"git~2", b"a~1", b".gitmodules-x"] {
            assert_eq!(code(&[("120000", name)]), None, "{name:?}");
        }
    }

    #[test]
    fn a_cut_tree_never_panics_and_is_refused() {
        let raw = tree(&[("100644", b"a"), ("100644", b"b")]);
        for end in 1..raw.len() {
            let whole_entries = end % (raw.len() / 2) == 0;
            let result = check_tree(&raw[..end], ObjectFormat::Sha1, b"", NO_SUBMODULES);
            assert_eq!(result.is_ok(), whole_entries, "{end}");
        }
        assert!(check_tree(&raw, ObjectFormat::Sha256, b"", NO_SUBMODULES).is_err());
    }

    #[test]
    fn depth_length_and_sum_have_limits() {
        let nested = |n: usize| vec!["d"; n].join("/");
        let raw = tree(&[("100644", b"f")]);
        let at = |dir: &str| check_tree(&raw, ObjectFormat::Sha1, dir.as_bytes(), NO_SUBMODULES);
        assert!(at(&nested(DEPTH_MAX - 1)).is_ok());
        assert_eq!(at(&nested(DEPTH_MAX)).unwrap_err().code, Code::TreeTooLarge);
        assert_eq!(at(&"d".repeat(PATH_BYTES_MAX)).unwrap_err().code, Code::BadPath);

        let mut budget = Budget::new();
        assert!(budget.spend(BYTES_MAX).is_ok());
        assert_eq!(budget.spend(1).unwrap_err().code, Code::TreeTooLarge);
        assert!(budget.spend(0).is_ok());
        let mut budget = Budget::new();
        assert!((0..OBJECTS_MAX).all(|_| budget.spend(0).is_ok()));
        assert!(budget.spend(0).is_err());
    }
}
