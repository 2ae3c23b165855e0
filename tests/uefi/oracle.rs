//! Our reading of boot entries against that of systemd's own `bootctl`, on random partitions: the same entries, in the
//! same order, and the same default.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use pullagent::host::boot::efivars::Variables;
use pullagent::host::boot::order::compare_versions;
use pullagent::host::boot::partitions::Partitions;
use pullagent::host::boot::predict::{Loader, NextBoot};
use pullagent::host::boot::version::{Rules, Version};
use serde_json::Value;

use crate::image::Parts;
use crate::vm::wanted;

const CASES: u32 = 100;

/// The names of files without their counters, the counters, and what is in the files.
type Files = BTreeMap<String, (String, String)>;

/// `bootctl` passes over names with other characters than these; the loader doesn't.
fn files() -> impl Strategy<Value = Files> {
    let name = "(nixos-generation-[0-9]{1,2}|nixos-trial-generation-[1-3]|[a-c]{1,2}[0-9._-]{0,3})";
    let counter = prop_oneof![3 => Just(String::new()), 1 => "\\+[0-3](-[0-2])?"];
    let files = proptest::collection::btree_map(name, (counter, content()), 0..8);
    // Where names are equal as versions, the order is that of the directory.
    files.prop_filter("names that tell entries apart", |files| {
        let names: Vec<&String> = files.keys().collect();
        let equal = |a: &str, b: &str| compare_versions(a, b) == Ordering::Equal;
        (1..names.len()).all(|n| names[..n].iter().all(|name| !equal(name, names[n])))
    })
}

fn content() -> impl Strategy<Value = String> {
    let line = |key: &'static str, value: &'static str| {
        proptest::option::of(value.prop_map(move |value: String| format!("{key} {value}\n")))
    };
    let lines = (
        line("sort-key", "(nixos|lanza|a)"),
        line("machine-id", "(0123|4567)"),
        line("version", "(Generation [0-9]{1,2} NixOS|[0-9]{1,2}[.~^-]?[0-9a]?)"),
    );
    lines.prop_map(|(key, machine, version)| {
        let rest = [key, machine, version].into_iter().flatten().collect::<String>();
        format!("title x\nlinux /EFI/k\noptions a=b\n{rest}")
    })
}

fn default() -> impl Strategy<Value = String> {
    let patterns = [
        "nixos-*",
        "nixos-generation-1.conf",
        "NixOS-generation-[1-3].conf",
        "?.conf",
        "*",
        "gone",
        "nixos-*1*",
    ];
    select(patterns.to_vec()).prop_map(str::to_owned)
}

#[test]
fn entries_and_default_are_those_of_bootctl() {
    if !wanted() {
        return;
    }
    let parts = Parts::get();
    let dir = tempfile::tempdir().unwrap();
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let result = runner.run(&(files(), default()), |(files, default)| {
        let esp = dir.path().join("esp");
        write(&esp, &files, &default);
        let (order, chosen) = ours(&esp);
        let (expected, default) = bootctl(&parts, &esp);
        prop_assert_eq!(order, expected);
        prop_assert_eq!(chosen, default);
        Ok(())
    });
    result.unwrap();
}

fn write(esp: &Path, files: &Files, default: &str) {
    drop(fs::remove_dir_all(esp));
    fs::create_dir_all(esp.join("loader/entries")).unwrap();
    fs::create_dir_all(esp.join("EFI")).unwrap();
    fs::write(esp.join("EFI/k"), "").unwrap();
    fs::write(esp.join("loader/loader.conf"), format!("default {default}\n")).unwrap();
    for (name, (counter, content)) in files {
        fs::write(esp.join(format!("loader/entries/{name}{counter}.conf")), content).unwrap();
    }
}

/// What we make of it: the files in the menu's order, and the one that is booted.
fn ours(esp: &Path) -> (Vec<String>, Option<String>) {
    let partitions = Partitions { esp: esp.to_owned(), extended: None };
    let loader = Loader {
        version: Version { major: 258, minor: 9 },
        variables: Variables::default(),
        conf: partitions.conf().unwrap(),
        entries: partitions.entries().unwrap(),
    };
    let rules = Rules { strips_counter: true, folds_stripped: true, sysfail: true, preferred: false };
    let order = loader.menu(rules).into_iter().map(|entry| entry.file.clone()).collect();
    match loader.next_boot() {
        NextBoot::Entry(choice) => (order, Some(choice.file)),
        NextBoot::Unknown(reason) => {
            assert_eq!(order, Vec::<String>::new(), "{reason}");
            (order, None)
        }
    }
}

/// What `bootctl` makes of it. It only looks at the root of a file system, so the directory is made one.
fn bootctl(parts: &Parts, esp: &Path) -> (Vec<String>, Option<String>) {
    let bootctl = parts.bootctl();
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount --bind \"$0\" \"$0\" && exec \"$@\""]).arg(esp);
    command.arg(bootctl.get_program()).args(bootctl.get_args());
    command.arg(format!("--esp-path={}", esp.display())).args(["list", "--json=short", "--no-pager"]);
    let output = command.env("SYSTEMD_RELAX_ESP_CHECKS", "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let entries: Vec<Value> = match output.stdout.trim_ascii() {
        [] => Vec::new(),
        text => serde_json::from_slice(text).unwrap(),
    };
    let file = |entry: &Value| entry["path"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let default = entries.iter().find(|entry| entry["isDefault"] == true).map(file);
    (entries.iter().map(file).collect(), default)
}
