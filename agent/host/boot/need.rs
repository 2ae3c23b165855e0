//! Owns the question whether a system needs a reboot to take effect, and why. Changes nothing.
//!
//! What was booted is compared with a candidate: by their bootspec (NixOS RFC 125) where both have one, else by what
//! older systems have: the links `kernel` and `initrd`, and `kernel-params`. Besides, `kernel-modules` (modules of other
//! packages change without the kernel), and what NixOS itself says a switch cannot change: `init-interface-version`,
//! `switch-inhibitors` (both refuse a switch from what runs now) and `reboot-triggers` (against what was booted).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::host::files::{self, FileError, io_error};
use crate::model::RebootNeed;

/// How long each file read here may be, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// How many kernel parameters, or keys of a file, are named in one reason; the rest is counted.
const NAMED_MAX: usize = 8;

/// Says which file of a system cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NeedError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It is not what it should be.
    #[error("failed to parse '{}'", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
}

/// What of a bootspec is used (`org.nixos.bootspec.v1`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bootspec {
    /// The kernel's file.
    pub kernel: PathBuf,
    /// The initrd's file, if there is one.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// The command line, without `init=`.
    pub kernel_params: Vec<String>,
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "org.nixos.bootspec.v1")]
    v1: Bootspec,
}

/// The three systems of the question, each by the directory that it is, or a link to that.
#[derive(Debug, Clone, Copy)]
pub struct Systems<'a> {
    /// What the machine was booted with: `/run/booted-system`.
    pub booted: &'a Path,
    /// What runs now: `/run/current-system`.
    pub running: &'a Path,
    /// What would be activated.
    pub candidate: &'a Path,
}

/// Returns what of `candidate` takes a reboot, in words for people; `None` if nothing does.
///
/// # Errors
/// A file that would say so can't be read or understood.
pub fn need(systems: Systems<'_>) -> Result<Option<RebootNeed>, NeedError> {
    let need = compare(systems)?;
    Ok((!need.reasons.is_empty()).then_some(need))
}

/// Returns why `candidate` needs a reboot to take effect, in words for people; empty if it doesn't.
///
/// # Errors
/// A file that would say so can't be read or understood.
pub fn reasons(systems: Systems<'_>) -> Result<Vec<String>, NeedError> {
    compare(systems).map(|need| need.reasons)
}

fn compare(systems: Systems<'_>) -> Result<RebootNeed, NeedError> {
    let Systems { booted, running, candidate } = systems;
    let mut reasons = match (bootspec(booted)?, bootspec(candidate)?) {
        (Some(old), Some(new)) => of_bootspecs(&old, &new),
        _ => of_links(booted, candidate)?,
    };
    reasons.extend(changed_file("kernel modules", booted, candidate, "kernel-modules")?);
    let forbids_switch = forbids_switch(running, candidate)?;
    reasons.extend(forbids_switch.iter().cloned());
    let triggers = changed_keys(booted, candidate, "reboot-triggers", Missing::IsChange)?;
    reasons.extend(named("triggers of a reboot", triggers));
    Ok(RebootNeed { reasons, forbids_switch, no_trial: None })
}

/// What NixOS refuses to switch over.
fn forbids_switch(running: &Path, candidate: &Path) -> Result<Vec<String>, NeedError> {
    let inhibitors = changed_keys(running, candidate, "switch-inhibitors", Missing::IsNoChange)?;
    let inhibitors = named("inhibitors of a switch", inhibitors);
    Ok(interface(running, candidate)?.into_iter().chain(inhibitors).collect())
}

/// Reads the bootspec of a system; `None` if it has none, as those of before NixOS 23.05.
///
/// # Errors
/// It can't be read, or isn't one.
pub fn bootspec(toplevel: &Path) -> Result<Option<Bootspec>, NeedError> {
    let path = toplevel.join("boot.json");
    Ok(read_json::<Document>(&path)?.map(|document| document.v1))
}

fn of_bootspecs(old: &Bootspec, new: &Bootspec) -> Vec<String> {
    let none = PathBuf::new();
    let initrd = |spec: &Bootspec| spec.initrd.clone().unwrap_or_else(|| none.clone());
    let mut reasons = Vec::new();
    reasons.extend(changed("kernel", &old.kernel, &new.kernel));
    reasons.extend(changed("initrd", &initrd(old), &initrd(new)));
    reasons.extend(parameters(&old.kernel_params, &new.kernel_params));
    reasons
}

fn of_links(booted: &Path, candidate: &Path) -> Result<Vec<String>, NeedError> {
    let mut reasons = Vec::new();
    reasons.extend(changed_file("kernel", booted, candidate, "kernel")?);
    reasons.extend(changed_file("initrd", booted, candidate, "initrd")?);
    let words = |toplevel: &Path| -> Result<Vec<String>, NeedError> {
        let text = text(&toplevel.join("kernel-params"))?.unwrap_or_default();
        Ok(text.split_whitespace().map(str::to_owned).collect())
    };
    reasons.extend(parameters(&words(booted)?, &words(candidate)?));
    Ok(reasons)
}

fn changed_file(what: &str, old: &Path, new: &Path, name: &str) -> Result<Option<String>, NeedError> {
    let (old, new) = (target(&old.join(name))?, target(&new.join(name))?);
    Ok(changed(what, &old, &new))
}

/// Follows a link of a system to what it stands for; an empty path if there is none.
fn target(link: &Path) -> Result<PathBuf, FileError> {
    match fs::canonicalize(link) {
        Ok(path) => Ok(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => match fs::read_link(link) {
            // What it points to is gone, and still is what was booted.
            Ok(path) => Ok(path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(PathBuf::new()),
            Err(e) => Err(io_error("read link", link)(e)),
        },
        Err(e) => Err(io_error("follow link", link)(e)),
    }
}

/// Names what changed by the names of the store objects, which have the version in them.
fn changed(what: &str, old: &Path, new: &Path) -> Option<String> {
    if old == new {
        return None;
    }
    Some(match (label(old), label(new)) {
        (old, new) if old == new => format!("{what} rebuilt ({new})"),
        (old, new) => format!("{what} {old} → {new}"),
    })
}

/// Returns `linux-6.6.1` of `/nix/store/<hash>-linux-6.6.1/bzImage`.
fn label(path: &Path) -> String {
    if path.as_os_str().is_empty() {
        return "none".to_owned();
    }
    let store = crate::model::StorePath::containing(path);
    let name = store.as_ref().and_then(|path| path.as_path().file_name()?.to_str()?.split_once('-'));
    name.map_or_else(|| path.display().to_string(), |(_, name)| name.to_owned())
}

/// Names the parameters that came and went; their order alone is a change too, because the last one counts.
fn parameters(old: &[String], new: &[String]) -> Option<String> {
    if old == new {
        return None;
    }
    let missing = |from: &[String], of: &[String], sign: char| {
        let mut rest = of.to_vec();
        let mut without = from.to_vec();
        without.retain(|word| match rest.iter().position(|other| other == word) {
            Some(at) => {
                rest.swap_remove(at);
                false
            }
            None => true,
        });
        without.into_iter().map(move |word| format!("{sign}{word}")).collect::<Vec<_>>()
    };
    let changes = [missing(new, old, '+'), missing(old, new, '-')].concat();
    if changes.is_empty() {
        return Some("kernel parameters: in another order".to_owned());
    }
    named("kernel parameters", changes)
}

fn named(what: &str, mut names: Vec<String>) -> Option<String> {
    if names.is_empty() {
        return None;
    }
    let more = names.len().saturating_sub(NAMED_MAX);
    names.truncate(NAMED_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("{what}: {}{more}", names.join(" ")))
}

/// A switch between different versions is refused with exit code 100.
fn interface(running: &Path, candidate: &Path) -> Result<Option<String>, NeedError> {
    let of = |toplevel: &Path| text(&toplevel.join("init-interface-version"));
    let (old, new) = (of(running)?.unwrap_or_default(), of(candidate)?.unwrap_or_default());
    Ok((old != new).then(|| format!("init interface {} → {}", or_none(&old), or_none(&new))))
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

/// What a key means that only one of two files has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    IsChange,
    IsNoChange,
}

/// Returns the keys by which two JSON objects differ; none if one of the files is not there: that system is of a NixOS
/// that knows no such file.
fn changed_keys(old: &Path, new: &Path, name: &str, missing: Missing) -> Result<Vec<String>, NeedError> {
    let of = |toplevel: &Path| read_json::<BTreeMap<String, Value>>(&toplevel.join(name));
    let (Some(old), Some(new)) = (of(old)?, of(new)?) else { return Ok(Vec::new()) };
    let differs = |key: &&String| match (old.get(*key), new.get(*key)) {
        (Some(old), Some(new)) => old != new,
        _ => missing == Missing::IsChange,
    };
    let added = new.keys().filter(|key| !old.contains_key(*key));
    Ok(old.keys().chain(added).filter(differs).cloned().collect())
}

fn text(path: &Path) -> Result<Option<String>, FileError> {
    let bytes = files::read_if_exists(path, FILE_MAX)?;
    Ok(bytes.map(|bytes| String::from_utf8_lossy(bytes.trim_ascii()).into_owned()))
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, NeedError> {
    let Some(bytes) = files::read_if_exists(path, FILE_MAX)? else { return Ok(None) };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(source) => Err(NeedError::Parse { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn store(letter: char, name: &str) -> String {
        format!("/nix/store/{}-{name}", letter.to_string().repeat(32))
    }

    /// Two systems in a directory: `old`, which was booted and runs, and `new`.
    struct Pair {
        dir: tempfile::TempDir,
    }

    impl Pair {
        fn new() -> Pair {
            let pair = Pair { dir: tempfile::tempdir().unwrap() };
            for side in ["old", "new"] {
                fs::create_dir(pair.dir.path().join(side)).unwrap();
                pair.put(side, "init-interface-version", "1");
                pair.put(side, "boot.json", &spec("linux-6.6.1", "initrd-linux-6.6.1", &["loglevel=4"]));
                pair.link(side, "kernel-modules", &store('m', "linux-6.6.1-modules"));
            }
            pair
        }

        fn put(&self, side: &str, name: &str, text: &str) {
            fs::write(self.dir.path().join(side).join(name), text).unwrap();
        }

        fn link(&self, side: &str, name: &str, target: &str) {
            let link = self.dir.path().join(side).join(name);
            drop(fs::remove_file(&link));
            symlink(target, link).unwrap();
        }

        fn reasons(&self) -> Result<Vec<String>, NeedError> {
            let (old, new) = (self.dir.path().join("old"), self.dir.path().join("new"));
            reasons(Systems { booted: &old, running: &old, candidate: &new })
        }
    }

    fn spec(kernel: &str, initrd: &str, params: &[&str]) -> String {
        serde_json::json!({ "org.nixos.bootspec.v1": {
            "kernel": store('k', kernel) + "/bzImage", "initrd": store('i', initrd) + "/initrd",
            "kernelParams": params, "label": "NixOS", "init": "/x/init", "system": "x86_64-linux", "toplevel": "/x",
        }, "org.nixos.specialisation.v1": {} })
        .to_string()
    }

    #[test]
    fn equal_systems_need_nothing() {
        let pair = Pair::new();
        assert_eq!(pair.reasons().unwrap(), Vec::<String>::new());
        let labelled =
            spec("linux-6.6.1", "initrd-linux-6.6.1", &["loglevel=4"]).replace("NixOS", "another label");
        pair.put("new", "boot.json", &labelled);
        assert_eq!(pair.reasons().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn each_change_is_named() {
        let check = |name: &str, text: &str, expected: &[&str]| {
            let pair = Pair::new();
            pair.put("old", "reboot-triggers", r#"{"firmware":"a"}"#);
            pair.put("old", "switch-inhibitors", r#"{"dbus":"broker","gone":"x"}"#);
            pair.put("new", name, text);
            assert_eq!(pair.reasons().unwrap(), expected, "{name}: {text}");
        };
        let same = "initrd-linux-6.6.1";
        check(
            "boot.json",
            &spec("linux-6.6.2", same, &["loglevel=4"]),
            &["kernel linux-6.6.1 → linux-6.6.2"],
        );
        check("boot.json", &spec("linux-6.6.1", "i", &["loglevel=4"]), &["initrd initrd-linux-6.6.1 → i"]);
        check(
            "boot.json",
            &spec("linux-6.6.1", same, &["panic=30", "quiet"]),
            &["kernel parameters: +panic=30 +quiet -loglevel=4"],
        );
        let rebuilt = spec("linux-6.6.1", same, &["loglevel=4"]).replace(&"k".repeat(32), &"l".repeat(32));
        check("boot.json", &rebuilt, &["kernel rebuilt (linux-6.6.1)"]);
        check("init-interface-version", "systemd-2\n", &["init interface 1 → systemd-2"]);
        check("switch-inhibitors", r#"{"dbus":"dbus","new":"y"}"#, &["inhibitors of a switch: dbus"]);
        check("reboot-triggers", r#"{"microcode":"b"}"#, &["triggers of a reboot: firmware microcode"]);
    }

    #[test]
    fn what_cannot_be_switched_over_is_told_apart() {
        let need = |pair: &Pair| {
            let (old, new) = (pair.dir.path().join("old"), pair.dir.path().join("new"));
            need(Systems { booted: &old, running: &old, candidate: &new }).unwrap()
        };
        let pair = Pair::new();
        assert_eq!(need(&pair), None);
        pair.put("new", "boot.json", &spec("linux-6.6.2", "initrd-linux-6.6.1", &["loglevel=4"]));
        assert_eq!(need(&pair).unwrap().forbids_switch, Vec::<String>::new());
        pair.put("old", "switch-inhibitors", r#"{"dbus":"broker"}"#);
        pair.put("new", "switch-inhibitors", r#"{"dbus":"dbus"}"#);
        pair.put("new", "init-interface-version", "systemd-2\n");
        let found = need(&pair).unwrap();
        assert_eq!(found.forbids_switch, ["init interface 1 → systemd-2", "inhibitors of a switch: dbus"]);
        assert_eq!(found.reasons.len(), 3);
    }

    #[test]
    fn modules_and_the_order_of_parameters_count() {
        let pair = Pair::new();
        pair.link("new", "kernel-modules", &store('n', "linux-6.6.1-modules"));
        assert_eq!(pair.reasons().unwrap(), ["kernel modules rebuilt (linux-6.6.1-modules)"]);
        let pair = Pair::new();
        let many: Vec<String> = (0..12).map(|n| format!("p{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        pair.put("new", "boot.json", &spec("linux-6.6.1", "initrd-linux-6.6.1", &many));
        assert!(pair.reasons().unwrap()[0].ends_with("+p7 and 5 more"), "{:?}", pair.reasons());
        let turned: Vec<&str> = many.iter().rev().copied().collect();
        pair.put("old", "boot.json", &spec("linux-6.6.1", "initrd-linux-6.6.1", &turned));
        assert_eq!(pair.reasons().unwrap(), ["kernel parameters: in another order"]);
    }

    #[test]
    fn systems_without_a_bootspec_are_compared_by_their_links() {
        let pair = Pair::new();
        fs::remove_file(pair.dir.path().join("old/boot.json")).unwrap();
        for side in ["old", "new"] {
            pair.link(side, "kernel", &(store('k', "linux-6.6.1") + "/bzImage"));
            pair.link(side, "initrd", &(store('i', "initrd") + "/initrd"));
            pair.put(side, "kernel-params", "loglevel=4\n");
        }
        assert_eq!(pair.reasons().unwrap(), Vec::<String>::new());
        pair.link("new", "kernel", &(store('k', "linux-6.6.2") + "/bzImage"));
        pair.put("new", "kernel-params", "loglevel=4 quiet");
        fs::remove_file(pair.dir.path().join("new/initrd")).unwrap();
        let expected =
            ["kernel linux-6.6.1 → linux-6.6.2", "initrd initrd → none", "kernel parameters: +quiet"];
        assert_eq!(pair.reasons().unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_names_the_file() {
        for (name, text) in [
            ("boot.json", "{}"),
            ("boot.json", "not json"),
            ("boot.json", r#"{"org.nixos.bootspec.v1":{"kernel":"/k"}}"#),
            ("switch-inhibitors", "[1]"),
            ("reboot-triggers", ""),
            ("init-interface-version", &"x".repeat(2 << 20)),
        ] {
            let pair = Pair::new();
            pair.put("old", "switch-inhibitors", "{}");
            pair.put("old", "reboot-triggers", "{}");
            pair.put("new", name, text);
            let error = pair.reasons().unwrap_err().to_string();
            assert!(error.contains(&format!("new/{name}")), "{error}");
        }
    }
}
