//! Owns what one entry of a boot menu is, and reads it: a text file of the Boot Loader Specification (type 1), or what
//! [`uki`](super::uki) found in a unified kernel image (type 2). Pure: names and bytes in, entries out.

use std::path::{Component, Path, PathBuf};

use super::lines;
use crate::model::StorePath;

/// The end of the names of type 1 entries.
pub const TYPE1_SUFFIX: &str = ".conf";
/// The end of the names of type 2 entries.
pub const TYPE2_SUFFIX: &str = ".efi";

/// How often an entry was tried, as its file's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    /// How many tries are left; with none the entry counts as bad.
    pub left: u32,
    /// How many were made.
    pub done: u32,
}

/// One entry that the loader offers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// The name of its file as it is now, with its counter.
    pub file: String,
    /// The counter in the name, if it has one.
    pub tries: Option<Tries>,
    /// What entries are sorted by first.
    pub sort_key: Option<String>,
    /// The machine that the entry is for.
    pub machine_id: Option<String>,
    /// The version; the newest comes first.
    pub version: Option<String>,
    /// The kernel's command line.
    pub options: String,
    /// The files that it boots, from the root of its partition: the program first, then what is loaded with it.
    pub files: Vec<PathBuf>,
    /// Why the loader may see it otherwise than we do.
    pub doubt: Option<&'static str>,
}

impl Entry {
    /// Returns the system that the entry boots: the last `init=` on its command line, without `/init` at its end.
    pub fn toplevel(&self) -> Option<StorePath> {
        let init = self.options.split_ascii_whitespace().rev().find_map(|word| word.strip_prefix("init="))?;
        init.strip_suffix("/init")?.parse().ok()
    }

    /// Returns the file's name without its counter.
    pub fn name_without_tries(&self) -> String {
        let suffix = if ends_with(&self.file, TYPE2_SUFFIX) { TYPE2_SUFFIX } else { TYPE1_SUFFIX };
        match tries(&self.file, suffix) {
            Some((stem, _)) => format!("{stem}{suffix}"),
            None => self.file.clone(),
        }
    }

    /// Says whether there is a counter and no try is left.
    pub fn is_bad(&self) -> bool {
        self.tries.is_some_and(|tries| tries.left == 0)
    }
}

/// Says whether the loader looks at a file of this name for an entry (systemd: `valid_type1_filename` and
/// `config_load_type2_entries` in src/boot/boot.c).
pub fn is_entry_name(file: &str, suffix: &str) -> bool {
    !file.starts_with('.') && ends_with(file, suffix) && !starts_with(file, "auto-")
}

/// Reads the file `file` of `loader/entries`; `None` if it describes no entry for this machine.
///
/// Follows `boot_entry_add_type1` (systemd: src/boot/boot.c), but for what depends on the loader's version: that is a
/// [`doubt`](Entry::doubt).
pub fn parse_type1(file: &str, text: &str) -> Option<Entry> {
    let tries = tries(file, TYPE1_SUFFIX).map(|(_, tries)| tries);
    let mut entry = Entry { file: file.to_owned(), tries, ..Entry::default() };
    let (mut program, mut kinds) = (None, Vec::new());
    for (key, value) in lines::pairs(text, &[' ', '\t']) {
        match key {
            "sort-key" => entry.sort_key = Some(value.to_owned()),
            "machine-id" => entry.machine_id = Some(value.to_owned()),
            "version" => entry.version = Some(value.to_owned()),
            "linux" | "efi" | "uki" => {
                program = Some(below_root(value));
                kinds.push(key);
            }
            "uki-url" => kinds.push(key),
            "architecture" if !value.eq_ignore_ascii_case(architecture()) => return None,
            "initrd" => entry.files.push(below_root(value)),
            "options" if entry.options.is_empty() => entry.options = value.to_owned(),
            "options" => entry.options = format!("{} {value}", entry.options),
            "profile" => entry.doubt = Some("chooses a profile of an image"),
            _ => {}
        }
    }
    kinds.dedup();
    entry.doubt = match kinds.as_slice() {
        [] => return None,
        ["linux"] => entry.doubt,
        ["efi"] => Some("starts a program that is no kernel, as far as it says"),
        ["uki" | "uki-url"] => Some("is of a kind that only newer loaders know"),
        _ => Some("names programs of several kinds"),
    };
    entry.files.splice(0..0, program);
    Some(entry)
}

/// Takes the counter off a name: `stem+LEFT-DONE.conf`, where `-DONE` may be missing (systemd:
/// `boot_entry_parse_tries` in src/boot/boot.c). Returns the stem and the counter.
pub fn tries<'a>(file: &'a str, suffix: &str) -> Option<(&'a str, Tries)> {
    let (stem, counter) = file.rsplit_once('+')?;
    let at = counter.len().checked_sub(suffix.len())?;
    let (counter, end) = (counter.get(..at)?, counter.get(at..)?);
    let (left, done) = counter.split_once('-').unwrap_or((counter, "0"));
    end.eq_ignore_ascii_case(suffix).then_some(())?;
    Some((stem, Tries { left: number(left)?, done: number(done)? }))
}

/// A number as it stands in a name: digits only, and at most what a C `int` holds.
fn number(digits: &str) -> Option<u32> {
    let number: u32 = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
    (number <= i32::MAX.unsigned_abs()).then_some(number)
}

/// Firmware's paths may be written either way; what climbs out of the root names nothing that is there.
fn below_root(path: &str) -> PathBuf {
    let path = path.replace('\\', "/");
    let parts = Path::new(&path).components();
    if parts.clone().any(|part| part == Component::ParentDir) {
        return PathBuf::from("..");
    }
    parts.filter(|part| matches!(part, Component::Normal(_))).collect()
}

/// The loader's name for the machine that it was built for (systemd: `EFI_MACHINE_TYPE_NAME`).
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "x64",
        "x86" => "ia32",
        "aarch64" => "aa64",
        "arm" => "arm",
        other => other,
    }
}

fn ends_with(text: &str, suffix: &str) -> bool {
    let at = text.len().checked_sub(suffix.len());
    at.and_then(|at| text.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPLEVEL: &str = "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-nixos-system-web1-26.05";

    /// As nixpkgs' systemd-boot-builder writes it.
    fn nixos(extra: &str) -> String {
        format!(
            "title NixOS\nsort-key nixos\nversion Generation 7 NixOS 26.05 (Linux 6.12.1), built on 2026-11-21\n\
             linux /EFI/nixos/abc-linux-6.12.1-bzImage.efi\ninitrd /EFI/nixos/def-initrd-linux-6.12.1-initrd.efi\n\
             options init={TOPLEVEL}/init loglevel=4\nmachine-id 0123456789abcdef0123456789abcdef\n{extra}"
        )
    }

    #[test]
    fn an_entry_of_nixos_is_read() {
        let entry = parse_type1("nixos-generation-7.conf", &nixos("")).unwrap();
        assert_eq!(entry.toplevel().unwrap().as_str(), TOPLEVEL);
        assert_eq!((entry.sort_key.as_deref(), entry.tries), (Some("nixos"), None));
        assert_eq!(entry.files[0], Path::new("EFI/nixos/abc-linux-6.12.1-bzImage.efi"));
        assert_eq!((entry.files.len(), entry.doubt), (2, None));
    }

    #[test]
    fn the_last_init_counts() {
        let other = TOPLEVEL.replace("aaaa", "bbbb");
        let entry = parse_type1("a.conf", &nixos(&format!("options init={other}/init"))).unwrap();
        assert_eq!(entry.toplevel().unwrap().as_str(), other);
        for odd in ["options init=/bin/sh", "options init=", "options init=/nix/store/x/init"] {
            assert_eq!(parse_type1("a.conf", &nixos(odd)).unwrap().toplevel(), None, "{odd}");
        }
    }

    #[test]
    fn what_is_no_entry_is_none() {
        assert_eq!(parse_type1("a.conf", "title a\noptions b"), None);
        assert_eq!(parse_type1("a.conf", "linux /a\narchitecture pdp11"), None);
        let here = format!("linux /a\narchitecture {}", architecture().to_uppercase());
        assert!(parse_type1("a.conf", &here).is_some());
        for (file, expected) in
            [("a.conf", true), ("A.CONF", true), (".a.conf", false), ("Auto-a.conf", false), ("a.con", false)]
        {
            assert_eq!(is_entry_name(file, TYPE1_SUFFIX), expected, "{file}");
        }
    }

    #[test]
    fn what_loaders_may_see_differently_is_doubted() {
        for text in ["linux /a\nefi /b", "efi /a", "uki /a", "uki-url http://a", "linux /a\nprofile 1"] {
            assert!(parse_type1("a.conf", text).unwrap().doubt.is_some(), "{text}");
        }
        assert_eq!(parse_type1("a.conf", "linux /a\nlinux \\b").unwrap().files, [Path::new("b")]);
        assert_eq!(parse_type1("a.conf", "linux /a/../../b").unwrap().files, [Path::new("..")]);
    }

    #[test]
    fn counters_are_taken_off_names() {
        let table = [
            ("a+3.conf", Some(("a", 3, 0))),
            ("a+3-1.CONF", Some(("a", 3, 1))),
            ("a+b+0-12.conf", Some(("a+b", 0, 12))),
            ("+1.conf", Some(("", 1, 0))),
            ("a.conf", None),
            ("a+.conf", None),
            ("a+3-.conf", None),
            ("a+-3.conf", None),
            ("a++3.conf", Some(("a+", 3, 0))),
            ("a+3-1-2.conf", None),
            ("a+3.conf.conf", None),
            ("a+2147483647.conf", Some(("a", 2_147_483_647, 0))),
            ("a+2147483648.conf", None),
            ("a+99999999999999999999.conf", None),
        ];
        for (file, expected) in table {
            let found = tries(file, TYPE1_SUFFIX).map(|(stem, tries)| (stem, tries.left, tries.done));
            assert_eq!(found, expected, "{file}");
        }
        let entry = parse_type1("a+3-1.conf", "linux /a").unwrap();
        assert_eq!((entry.name_without_tries().as_str(), entry.is_bad()), ("a.conf", false));
        assert!(parse_type1("a+0-3.conf", "linux /a").unwrap().is_bad());
    }
}
