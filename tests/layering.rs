//! Holds the house to its plan: which room may name which, what the pure rooms must not touch, who may start
//! processes, how long a file may get. It reads the sources as text; the table at the end plants one violation of
//! each rule and shows that it is caught.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step fails the test")]

use std::path::{Path, PathBuf};

/// The longest a Rust file may get, in lines.
const LINES_MAX: usize = 600;
/// Rooms without effects: no runtime, no clock, no file, no process.
const PURE: [&str; 3] = ["model", "plan", "trust"];
/// What a pure room must not name, as words or paths.
const EFFECTS: [&str; 6] = ["tokio", "async", "await", "SystemTime", "Instant", "rustix"];
const EFFECTS_OF_STD: [&str; 6] = ["fs", "process", "env", "net", "thread", "os"];
/// The only file that starts processes.
const SPAWNER: &str = "host/command.rs";
/// Rooms that may name less than everything above them.
const NARROW: [(&str, &[&str]); 3] =
    [("config", &["model", "trust"]), ("wire", &["model"]), ("guard", &["host", "model"])];
/// Rooms that must not name each other although both stand in the list.
const STRANGERS: [(&str, &str); 1] = [("steps", "reconcile")];
/// Folders of one person's machine; no file of the project may name them.
const MACHINE_FOLDERS: [&str; 3] =
    [concat!("/wo", "rk/"), concat!("/tmp/", "wt/"), concat!("/root/", ".cargo")];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Returns all files below `dir`, without build products and hidden names.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name == "target" || (name.starts_with('.') && name != ".ci") {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "rs")
}

/// Returns the sources below `agent/`, as path from there and text.
fn sources() -> Vec<(String, String)> {
    let agent = root().join("agent");
    let name = |p: &Path| p.strip_prefix(&agent).unwrap().to_string_lossy().into_owned();
    files(&agent).iter().filter(|p| is_rust(p)).map(|p| (name(p), read(p))).collect()
}

/// Returns the rooms in the order in which `agent/lib.rs` lists them.
fn rooms(lib: &str) -> Vec<String> {
    let name = |line: &str| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned());
    lib.lines().filter_map(name).collect()
}

/// Blanks comments, strings and characters, so that what is left is code.
fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = match c {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |n| n + 2),
            'r' if !ends_in_word(&out) => raw_string(rest),
            '"' => quoted(rest, '"'),
            '\'' => character(rest),
            _ => 0,
        };
        let taken = if skip == 0 { c.len_utf8() } else { skip };
        out.push_str(if skip == 0 { &rest[..taken] } else { " " });
        rest = &rest[taken..];
    }
    out
}

fn ends_in_word(text: &str) -> bool {
    text.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// The length of the quoted text at the start, with its quotes and escapes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (n, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return n + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The length of `r"…"` or `r#"…"#` at the start; 0 where there is none.
fn raw_string(text: &str) -> usize {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    if !text[1 + hashes..].starts_with('"') {
        return 0;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = hashes + 2;
    text[body..].find(&end).map_or(text.len(), |n| body + n + end.len())
}

/// The length of the character at the start; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.chars().skip(1);
    match (chars.next(), chars.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted(text, '\''),
        _ => 0,
    }
}

/// Removes the items that are compiled for tests only.
fn without_tests(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(start) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..start]);
        let item = &rest[start..];
        let open = item.find('{').unwrap_or(item.len());
        let semicolon = item.find(';').map_or(item.len(), |n| n + 1);
        let end = if semicolon < open { semicolon } else { open + block(&item[open..]) };
        rest = &item[end..];
    }
    out + rest
}

/// The length of the `{…}` at the start.
fn block(code: &str) -> usize {
    let mut depth = 0;
    for (n, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return n + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// Returns what follows `start::` everywhere in the code: the next name, or each name of a `{…}` list.
fn named_after<'a>(code: &'a str, start: &str) -> Vec<&'a str> {
    let prefix = format!("{start}::");
    let starts = code.match_indices(&prefix).map(|(n, _)| n);
    let whole = starts.filter(|n| !ends_in_word(&code[..*n]) && !code[..*n].ends_with("::"));
    whole.flat_map(|n| names(&code[n + prefix.len()..])).collect()
}

/// Returns the name at the start, or each name of the `{…}` list at the start.
fn names(code: &str) -> Vec<&str> {
    let code = code.trim_start();
    if code.starts_with('{') { list(&code[..block(code)]) } else { vec![word(code)] }
}

/// Says whether the code names the type that starts a process, of the standard library or of tokio.
fn spawns(code: &str) -> bool {
    let after = |(n, start): (usize, &str)| names(&code[n + start.len()..]);
    code.match_indices("process::").flat_map(after).any(|name| name == "Command")
}

/// Returns the first name of each entry of `{a, b::c, d::{e, f}}`.
fn list(group: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let (mut depth, mut fresh) = (0, true);
    for (n, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => fresh = true,
            c if c.is_whitespace() => {}
            _ if fresh && depth == 1 => {
                names.push(word(&group[n..]));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

fn word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

fn has_word(code: &str, wanted: &str) -> bool {
    let whole = |n: usize| !ends_in_word(&code[..n]) && word(&code[n..]) == wanted;
    code.match_indices(wanted).any(|(n, _)| whole(n))
}

/// Returns the room of a file: its first folder, or its name.
fn room_of(file: &str) -> &str {
    file.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

/// Returns what a file does that its room must not do.
fn violations(rooms: &[String], file: &str, text: &str) -> Vec<String> {
    if file.ends_with("/tests.rs") || file.contains("/tests/") {
        return Vec::new();
    }
    let code = without_tests(&code(text));
    let mut found = imports(rooms, file, &code);
    if PURE.contains(&room_of(file)) {
        found.extend(effects(&code));
    }
    if file != SPAWNER && spawns(&code) {
        found.push("starts a process".to_owned());
    }
    let git = code.match_indices("gix").any(|(n, _)| !ends_in_word(&code[..n]));
    if git && room_of(file) != "repo" {
        found.push("names gitoxide".to_owned());
    }
    found
}

fn imports(rooms: &[String], file: &str, code: &str) -> Vec<String> {
    let room = room_of(file);
    let mut found = Vec::new();
    if code.contains("super::super") {
        found.push("climbs with super::super; name the room through crate::".to_owned());
    }
    let mut named = named_after(code, "crate");
    named.extend(named_after(code, "pullagent"));
    named.retain(|n| *n != room && rooms.iter().any(|r| r == n));
    let place = |name: &str| rooms.iter().position(|r| r == name);
    for other in named {
        let narrow = NARROW.iter().find(|(r, _)| *r == room).map(|(_, only)| *only);
        let above = match place(room) {
            Some(here) => place(other) < Some(here),
            None => room == "lib" || other == "cli",
        };
        if !above || narrow.is_some_and(|only| !only.contains(&other)) || STRANGERS.contains(&(room, other)) {
            found.push(format!("names the room '{other}'"));
        }
    }
    found
}

fn effects(code: &str) -> Vec<String> {
    let words = EFFECTS.iter().filter(|w| has_word(code, w)).map(|w| (*w).to_owned());
    let paths = named_after(code, "std").into_iter().filter(|n| EFFECTS_OF_STD.contains(n));
    words.chain(paths.map(|p| format!("std::{p}"))).map(|what| format!("is pure but names {what}")).collect()
}

#[test]
fn every_room_keeps_to_its_place() {
    let rooms = rooms(&read(&root().join("agent/lib.rs")));
    let sources = sources();
    assert!(rooms.len() > 10 && sources.len() > rooms.len(), "{rooms:?}");
    let complaints: Vec<String> = sources
        .iter()
        .flat_map(|(file, text)| {
            violations(&rooms, file, text).into_iter().map(move |v| format!("agent/{file} {v}"))
        })
        .collect();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn the_map_lists_the_rooms_in_their_order() {
    let lib = read(&root().join("agent/lib.rs"));
    let row = |line: &str| Some(line.strip_prefix("//! | [`")?.split('`').next()?.to_owned());
    let listed: Vec<String> = lib.lines().filter_map(row).collect();
    assert_eq!(listed, rooms(&lib));
}

#[test]
fn files_are_short_and_say_what_they_own() {
    let mut rust = files(&root().join("agent"));
    rust.extend(files(&root().join("tests")));
    rust.retain(|p| is_rust(p));
    let mut complaints = Vec::new();
    for path in rust {
        let text = read(&path);
        let lines = text.lines().count();
        if lines > LINES_MAX {
            complaints.push(format!("{} has {lines} lines, {LINES_MAX} are allowed", path.display()));
        }
        if !text.starts_with("//!") {
            complaints.push(format!("{} does not open with what it owns", path.display()));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn no_file_names_one_persons_machine() {
    for path in files(root()) {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for folder in MACHINE_FOLDERS {
            assert!(!text.contains(folder), "{} names '{folder}'", path.display());
        }
    }
}

/// One planted violation of each rule, and beside it what looks like one and is none.
#[test]
fn planted_violations_are_caught() {
    let rooms = rooms(&read(&root().join("agent/lib.rs")));
    let table: &[(&str, &str, &[&str])] = &[
        ("plan/mod.rs", "use crate::model::State;", &[]),
        ("model/state.rs", "use crate::plan::next;", &["names the room 'plan'"]),
        ("model/state.rs", "use crate::{model::id, host::{nix, clock}};", &["names the room 'host'"]),
        ("model/state.rs", "use pullagent::host;", &["names the room 'host'"]),
        ("host/nix.rs", "fn f() { crate::guard::fire() }", &["names the room 'guard'"]),
        (
            "host/nix.rs",
            "use super::super::guard;",
            &["climbs with super::super; name the room through crate::"],
        ),
        ("guard.rs", "use crate::{host::nix, model::Oid};", &[]),
        ("guard.rs", "use crate::journal::Journal;", &["names the room 'journal'"]),
        ("steps/mod.rs", "use crate::reconcile::run;", &["names the room 'reconcile'"]),
        ("reconcile.rs", "use crate::steps::perform;", &["names the room 'steps'"]),
        ("main.rs", "use pullagent::cli;", &[]),
        ("main.rs", "use pullagent::daemon;", &["names the room 'daemon'"]),
        ("lib.rs", "pub use crate::cli::run;", &[]),
        ("host/nix.rs", "// crate::guard\n/* crate::guard */ let s = \"crate::guard\";", &[]),
        ("host/nix.rs", "let s = r#\"a \" crate::guard\"#; let c = '\"'; crate::model::f()", &[]),
        ("host/nix.rs", "fn f<'a>(c: char) { c == '\"'; crate::guard::g() }", &["names the room 'guard'"]),
        ("host/nix.rs", "let s = \"\\\"\"; crate::guard::g()", &["names the room 'guard'"]),
        ("model/id.rs", "#[cfg(test)]\nmod tests { use crate::host::x; fn f() { if a { b } } }", &[]),
        ("model/id.rs", "#[cfg(test)]\nmod tests;\nuse crate::host::x;", &["names the room 'host'"]),
        ("model/id.rs", "#[cfg(test)] use crate::{host, cli};", &[]),
        ("trust/mod.rs", "use std::fs::File;", &["is pure but names std::fs"]),
        ("trust/mod.rs", "use std::{fmt, process::exit};", &["is pure but names std::process"]),
        ("plan/mod.rs", "async fn f() {}", &["is pure but names async"]),
        ("plan/mod.rs", "let t = tokio::time::sleep(x);", &["is pure but names tokio"]),
        ("model/mod.rs", "use std::time::Instant;", &["is pure but names Instant"]),
        ("model/mod.rs", "struct InstantOfBoot; let asynchronous = 1;", &[]),
        ("host/command.rs", "std::process::Command::new(program)", &[]),
        ("host/nix.rs", "Command::new(\"nix\"); let code = std::process::ExitCode::SUCCESS;", &[]),
        ("host/nix.rs", "use std::process::{Stdio, Command as C};", &["starts a process"]),
        ("cli/run.rs", "use tokio::process::Command;", &["starts a process"]),
        ("repo/store.rs", "use gix::ObjectId;", &[]),
        ("trust/range.rs", "use gix_hash::ObjectId;", &["names gitoxide"]),
    ];
    for (file, text, expected) in table {
        assert_eq!(violations(&rooms, file, text), *expected, "{file}: {text}");
    }
}
