//! Understands what Nix prints when it fails: pure functions over text, held to captured samples.
//!
//! Sources: Nix 2.8.0 as run; for later versions the messages as printed in NixOS/nix issues 7102 and 13509
//! and in `src/libstore/build/derivation-building-goal.cc`.

use super::{Cause, NixError, Version};
use crate::host::command::{CommandError, Ending};
use crate::model::StorePath;

/// How many lines of an error and of a build's log are kept.
const LINES_MAX: usize = 25;
/// How many characters of one line are kept.
const LINE_MAX: usize = 400;

/// How many store paths are looked for in a message.
const NAMED_MAX: usize = 8;
/// How many characters of the hash stand before the name of a store path.
const HASH_LENGTH: usize = 32;

/// Exit codes of a failed build are 100 plus these bits (`Worker::failingExitStatus`): any, timeout, hash
/// mismatch, check mismatch. Commands that evaluate give them too.
const BUILD_CODES: std::ops::RangeInclusive<i32> = 100..=111;
const TIMEOUT_BIT: i32 = 1;

/// Words that show a failure that may pass. The first that occurs decides.
const PASSING: [(&str, Cause); 25] = [
    ("No space left on device", Cause::NoSpace),
    ("Disk quota exceeded", Cause::NoSpace),
    ("database or disk is full", Cause::NoSpace),
    ("Cannot allocate memory", Cause::Memory),
    ("out of memory", Cause::Memory),
    ("Out of memory", Cause::Memory),
    ("std::bad_alloc", Cause::Memory),
    ("failed due to signal 9", Cause::Killed),
    ("failed due to signal 15", Cause::Killed),
    ("timed out after", Cause::Timeout),
    ("interrupted by the user", Cause::Killed),
    ("error: unable to download", Cause::Network),
    ("from any mirror", Cause::Network),
    ("curl: (", Cause::Network),
    ("Could not resolve host", Cause::Network),
    ("Couldn't resolve host", Cause::Network),
    ("Temporary failure in name resolution", Cause::Network),
    ("Network is unreachable", Cause::Network),
    ("cannot connect to daemon", Cause::Store),
    ("cannot connect to socket", Cause::Store),
    ("cannot open connection to remote store", Cause::Store),
    ("daemon disconnected unexpectedly", Cause::Store),
    ("SQLite database", Cause::Store),
    ("database is busy", Cause::Store),
    ("database is locked", Cause::Store),
];

/// Words of `nix-store --realise` that show a derivation that this host can never build, without a build code.
const NEVER: [&str; 4] = ["is required to build", "Required system:", "hash mismatch in", "failed to build"];

/// Reads the version from `nix-store (Nix) 2.8.0`; Lix says `nix-store (Lix, like Nix) 2.91.1`.
pub(super) fn version(answer: &str) -> Option<Version> {
    let numbers = answer.lines().next()?.split_whitespace().last()?;
    let mut parts = numbers.split('.').map(|part| {
        let digits = part.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().ok()
    });
    Some(Version { major: parts.next()??, minor: parts.next()?? })
}

/// Says what a failed evaluation means. Unless there is a sign of something else, the configuration is wrong.
pub(super) fn eval_failure(error: CommandError) -> NixError {
    let (code, stderr) = match outside(error) {
        Ok(said) => said,
        Err(failure) => return failure,
    };
    // Evaluation may build (import from derivation).
    if BUILD_CODES.contains(&code) {
        return build_failure(code, &stderr);
    }
    let text = error_text(&stderr);
    match passing(&errors_only(&stderr)) {
        Some(cause) => NixError::Transient { cause, text },
        None => NixError::Evaluation { text },
    }
}

/// Says what a failed realisation means. Unless there is a sign of a failed build, it may pass.
pub(super) fn realise_failure(error: CommandError) -> NixError {
    let (code, stderr) = match outside(error) {
        Ok(said) => said,
        Err(failure) => return failure,
    };
    let never = NEVER.iter().any(|words| errors_only(&stderr).contains(words));
    if BUILD_CODES.contains(&code) || failing_drv(&stderr).is_some() || never {
        return build_failure(code, &stderr);
    }
    let cause = passing(&stderr).unwrap_or(Cause::Unknown);
    NixError::Transient { cause, text: error_text(&stderr) }
}

/// Says what a failed question to the store means, if Nix itself said why.
pub(super) fn store_failure(error: &CommandError) -> Option<NixError> {
    match error {
        CommandError::Failed { end: Ending::Code(_), stderr, .. } => Some(NixError::Transient {
            cause: passing(stderr).unwrap_or(Cause::Unknown),
            text: error_text(stderr),
        }),
        CommandError::Failed { .. }
        | CommandError::NotFound { .. }
        | CommandError::TimedOut { .. }
        | CommandError::TooMuchOutput { .. }
        | CommandError::Stopped { .. }
        | CommandError::Io { .. } => None,
    }
}

/// Returns the store paths that `text` names, each once and the last first, no more than [`NAMED_MAX`].
pub(super) fn named_paths(text: &str) -> Vec<StorePath> {
    let mut named = Vec::new();
    for word in text.rsplit(|c: char| c.is_whitespace() || "'\"`:,;()[]«»".contains(c)) {
        named.extend(object_in(word).filter(|path| !named.contains(path)));
        if named.len() == NAMED_MAX {
            break;
        }
    }
    named
}

/// Returns the store path that a file is or lies in; the store may be anywhere.
fn object_in(file: &str) -> Option<StorePath> {
    let mut end = 0;
    file.split_inclusive('/').find(|part| {
        end += part.len();
        part.find('-') == Some(HASH_LENGTH)
    })?;
    file[..end].trim_end_matches('/').parse().ok()
}

/// Sorts out what says nothing about the configuration; leaves exit code and messages.
fn outside(error: CommandError) -> Result<(i32, String), NixError> {
    match error {
        CommandError::Failed { end: Ending::Code(code), stderr, .. } => Ok((code, stderr)),
        CommandError::Failed { end: Ending::Signal(signal), stderr, .. } => {
            let cause = passing(&stderr).unwrap_or(Cause::Killed);
            Err(NixError::Transient { cause, text: format!("signal {signal}") })
        }
        CommandError::TimedOut { limit, .. } => Err(NixError::Transient {
            cause: Cause::Timeout,
            text: format!("stopped after {}", humantime::format_duration(limit)),
        }),
        e @ (CommandError::NotFound { .. }
        | CommandError::TooMuchOutput { .. }
        | CommandError::Stopped { .. }
        | CommandError::Io { .. }) => Err(NixError::Command(e)),
    }
}

fn build_failure(code: i32, stderr: &str) -> NixError {
    let text = error_text(stderr);
    if BUILD_CODES.contains(&code) && (code - 100) & TIMEOUT_BIT != 0 {
        return NixError::Transient { cause: Cause::Timeout, text };
    }
    match passing(stderr) {
        Some(cause) => NixError::Transient { cause, text },
        None => NixError::Build { drv: failing_drv(stderr), text, log: build_log(stderr) },
    }
}

fn passing(text: &str) -> Option<Cause> {
    PASSING.iter().find(|(words, _)| text.contains(words)).map(|(_, cause)| *cause)
}

/// Nix's own error and warning lines with what belongs to them, without what programs printed before.
fn errors_only(stderr: &str) -> String {
    let first = stderr.lines().position(is_error).unwrap_or(0);
    stderr.lines().skip(first).collect::<Vec<_>>().join("\n")
}

fn is_error(line: &str) -> bool {
    line.trim_start().starts_with("error:")
}

/// The last error that Nix printed, with the place it points to; or, without any, the last lines.
fn error_text(stderr: &str) -> String {
    let told = |l: &&str| !l.trim().is_empty() && !is_advice(l) && !is_excerpt(l);
    let lines: Vec<&str> = stderr.lines().filter(told).collect();
    let named = |line: &&str| is_error(line) && line.trim() != "error:";
    let from = lines.iter().rposition(named).unwrap_or(lines.len().saturating_sub(3));
    let text = lines[from..].iter().take(LINES_MAX).map(|line| shorten(line)).collect::<Vec<_>>().join("\n");
    let text = text.trim_start().trim_start_matches("error:").trim().trim_end_matches(':');
    if text.is_empty() { "no reason given".to_owned() } else { text.to_owned() }
}

fn is_advice(line: &str) -> bool {
    line.contains("use '--show-trace'") || line.trim_start().starts_with("For full logs, run")
}

/// A line of the source that Nix shows around an error, as in `    12| foo = bar;` and `      |       ^`.
fn is_excerpt(line: &str) -> bool {
    line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('|')
}

/// The derivation that failed first; those that failed because of it come after.
fn failing_drv(stderr: &str) -> Option<StorePath> {
    const PHRASES: [&str; 6] = [
        "builder for '",
        "Cannot build '",
        "fixed-output derivation '",
        "build of '",
        "is required to build '",
        "output of '",
    ];
    let named = |line: &str| {
        let (_, rest) = PHRASES.iter().find_map(|phrase| line.split_once(phrase))?;
        let path = rest.split(['\'', '^', '!']).next()?;
        path.parse::<StorePath>().ok().filter(|p| p.as_str().ends_with(".drv"))
    };
    stderr.lines().filter(|line| is_error(line)).find_map(named)
}

/// The last lines that the failed build printed: as Nix quotes them, or what stands before its error.
fn build_log(stderr: &str) -> Vec<String> {
    let first = stderr.lines().position(is_error).unwrap_or(usize::MAX);
    let quoted = stderr.lines().skip(first).filter_map(|line| line.trim_start().strip_prefix("> "));
    let mut log: Vec<String> = quoted.map(shorten).collect();
    if log.is_empty() {
        let own = |line: &&str| !line.starts_with("building '") && !line.trim().is_empty();
        log = stderr.lines().take(first).filter(own).map(shorten).collect();
        let start = stderr.lines().take(first).filter(own).position(|l| l.ends_with("be built:"));
        // The announcement: a line, then the derivations, indented.
        if let Some(start) = start {
            let after = start + 1 + log[start + 1..].iter().take_while(|l| l.starts_with("  /")).count();
            log.drain(..after);
        }
    }
    log.split_off(log.len().saturating_sub(LINES_MAX))
}

fn shorten(line: &str) -> String {
    line.trim_end().chars().take(LINE_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(code: i32, stderr: &str) -> CommandError {
        CommandError::Failed { program: "nix".into(), end: Ending::Code(code), stderr: stderr.into() }
    }

    fn drv(error: &NixError) -> &str {
        match error {
            NixError::Build { drv: Some(drv), .. } => drv.as_str().rsplit_once('-').unwrap().1,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn paths_are_found_in_what_nix_says() {
        let object = |c: &str, name: &str| format!("/nix/store/{}-{name}", c.repeat(32));
        let (a, b, c) = (object("a", "source"), object("b", "m4.drv"), object("c", "x"));
        let text = format!(
            "error: syntax error\n at {a}/lib/default.nix:1:1:\n from call site «none» at {a}/x.nix:2\n \
             error: error parsing derivation '{b}': error: expected string 'D'; /tmp/root{c}, /nix/store/short-x {b}:"
        );
        let named: Vec<String> = named_paths(&text).iter().map(StorePath::to_string).collect();
        assert_eq!(named, [b, format!("/tmp/root{c}"), a]);
        let many: String = (b'a'..=b'z').map(|n| object(&char::from(n).to_string(), "x") + " ").collect();
        assert_eq!(named_paths(&many).len(), NAMED_MAX);
        assert_eq!(named_paths("no path; - / -/ é-"), []);
    }

    #[test]
    fn versions() {
        let table = [
            ("nix-store (Nix) 2.8.0\n", Some((2, 8))),
            ("nix-store (Nix) 2.26.3\n", Some((2, 26))),
            ("nix-store (Nix) 2.31pre20250801_abcdef\n", Some((2, 31))),
            ("nix-store (Lix, like Nix) 2.91.1\nSystem type: x86_64-linux", Some((2, 91))),
            ("", None),
            ("nix-store: command not found", None),
        ];
        for (answer, expected) in table {
            assert_eq!(version(answer).map(|v| (v.major, v.minor)), expected, "{answer}");
        }
    }

    #[test]
    fn evaluation_errors_are_told_in_nix_s_words() {
        let table = [
            (
                "error: this host is not supported\n(use '--show-trace' to show detailed location information)\n",
                "this host is not supported",
            ),
            (
                "warning: Git tree is dirty\nerror: assertion 'false' failed\n\n       at /nix/store/x/flake.nix:8:10:\n\n            \
                 7|   x =\n            8|     assert false;\n             |     ^\n            9|     1;\n",
                "assertion 'false' failed\n       at /nix/store/x/flake.nix:8:10",
            ),
            (
                // 2.18 and later print the trace first.
                "error:\n       … while calling the 'head' builtin\n         at «string»:1:1:\n\n       error: list index 0 is out of bounds\n",
                "list index 0 is out of bounds",
            ),
            (
                "error: flake 'path:/x' requires lock file changes but they're not allowed due to '--no-update-lock-file'\n",
                "flake 'path:/x' requires lock file changes but they're not allowed due to '--no-update-lock-file'",
            ),
            ("", "no reason given"),
        ];
        for (stderr, expected) in table {
            match eval_failure(failed(1, stderr)) {
                NixError::Evaluation { text } => assert_eq!(text, expected),
                other => panic!("{stderr}: {other:?}"),
            }
        }
    }

    #[test]
    fn failed_builds_name_the_first_derivation_and_its_log() {
        // Nix 2.8.0, `nix-store --realise`.
        let old = "these 2 derivations will be built:\n  /nix/store/3lmx8yknfcsr8sdki4nprwlgi7jz4v9g-inner.drv\n  \
            /nix/store/nxvd09jmrhavcgml19zjkb3b77p41d69-dep.drv\nbuilding '/nix/store/3lmx8yknfcsr8sdki4nprwlgi7jz4v9g-inner.drv'...\n\
            inner says no\nerror: builder for '/nix/store/3lmx8yknfcsr8sdki4nprwlgi7jz4v9g-inner.drv' failed with exit code 1\n\
            error: 1 dependencies of derivation '/nix/store/nxvd09jmrhavcgml19zjkb3b77p41d69-dep.drv' failed to build\n";
        let failure = realise_failure(failed(100, old));
        assert_eq!(drv(&failure), "inner.drv");
        assert!(matches!(&failure, NixError::Build { log, .. } if log == &["inner says no"]), "{failure:?}");
        // Nix 2.8.0, import from derivation.
        let ifd = "building '/nix/store/gmk78i8jzdgschh6hz1bns2bg1f8yfjs-ifd.drv'...\nerror: builder for \
            '/nix/store/gmk78i8jzdgschh6hz1bns2bg1f8yfjs-ifd.drv' failed with exit code 1;\n       last 1 log lines:\n       > oops\n\
            \x20      For full logs, run 'nix log /nix/store/gmk78i8jzdgschh6hz1bns2bg1f8yfjs-ifd.drv'.\n";
        let failure = eval_failure(failed(100, ifd));
        assert_eq!(drv(&failure), "ifd.drv");
        assert!(matches!(&failure, NixError::Build { log, .. } if log == &["oops"]));
        // From 2.30 on.
        let new = "error: Cannot build '/nix/store/fa20hxbv707ghk5z5f55b5qbc5hx784q-tool.drv'.\n       Reason: builder failed \
            with exit code 1.\n       Output paths:\n         /nix/store/4v2gkcnh9fgn2y8hwqq083s269skpv4q-tool\n       Last 2 log \
            lines:\n       > Running phase: patchPhase\n       > ln: Permission denied\n       For full logs, run:\n         nix log \
            /nix/store/fa20hxbv707ghk5z5f55b5qbc5hx784q-tool.drv\nerror: Cannot build \
            '/nix/store/gwslc43ij17dqh0adshy5gd5g553xgfv-init.drv'.\n       Reason: 1 dependency failed.\n";
        let failure = realise_failure(failed(1, new));
        assert_eq!(drv(&failure), "tool.drv");
        assert!(
            matches!(&failure, NixError::Build { log, .. } if log.last().unwrap() == "ln: Permission denied")
        );
    }

    #[test]
    fn builds_that_can_never_succeed_here() {
        let mismatch = "error: hash mismatch in fixed-output derivation '/nix/store/z31h1mfam596vi52hr3p90w7xkr7104q-hash.drv':\n\
            \x20        specified: sha256-AAAA\n            got:    sha256-c8s4\n";
        assert_eq!(drv(&realise_failure(failed(102, mismatch))), "hash.drv");
        let system = "error: a 'aarch64-linux' with features {} is required to build \
            '/nix/store/6d4saqcwxnb4mlsj62l0knsv1cq67g88-o.drv', but I am a 'x86_64-linux' with features {kvm}\n";
        assert_eq!(drv(&realise_failure(failed(1, system))), "o.drv");
    }

    #[test]
    fn what_may_pass_is_told_apart() {
        let download = "building '/nix/store/d6yjn7vk6afksibr9kv923vc1jximkx5-fod.drv'...\nerror: unable to download \
            'http://127.0.0.1:9/x': Couldn't connect to server (7)\nerror: builder for \
            '/nix/store/d6yjn7vk6afksibr9kv923vc1jximkx5-fod.drv' failed with exit code 1\n";
        let killed = "error: builder for '/nix/store/h6yrfvwmxgc0d480yq9dwk8p3dm1kw9v-k.drv' failed due to signal 9 (Killed)\n";
        let full = "cp: error writing 'x': No space left on device\nerror: builder for \
            '/nix/store/h6yrfvwmxgc0d480yq9dwk8p3dm1kw9v-k.drv' failed with exit code 1\n";
        let late = "error: builder for '/nix/store/h6yrfvwmxgc0d480yq9dwk8p3dm1kw9v-k.drv' timed out after 1 seconds\n";
        let daemon =
            "error: cannot connect to socket at '/nix/var/nix/daemon-socket/socket': Connection refused\n";
        let table = [
            (1, download, Cause::Network),
            (100, killed, Cause::Killed),
            (100, full, Cause::NoSpace),
            (101, late, Cause::Timeout),
            (1, daemon, Cause::Store),
            (1, "error: something new\n", Cause::Unknown),
        ];
        for (code, stderr, expected) in table {
            match realise_failure(failed(code, stderr)) {
                NixError::Transient { cause, .. } => assert_eq!(cause, expected, "{stderr}"),
                other => panic!("{stderr}: {other:?}"),
            }
        }
    }

    #[test]
    fn evaluation_failures_that_may_pass() {
        let resolve = "warning: error: unable to download 'http://nosuch.invalid/x.tgz': Couldn't resolve host name (6); retrying in 294 ms\n\
            error: unable to download 'http://nosuch.invalid/x.tgz': Couldn't resolve host name (6)\n";
        assert!(matches!(
            eval_failure(failed(1, resolve)),
            NixError::Transient { cause: Cause::Network, .. }
        ));
        let limit = std::time::Duration::from_secs(60);
        let late = CommandError::TimedOut { program: "nix".into(), limit, stderr: String::new() };
        assert!(matches!(eval_failure(late), NixError::Transient { cause: Cause::Timeout, .. }));
        let end = Ending::Signal(9);
        let killed = CommandError::Failed { program: "nix".into(), end, stderr: String::new() };
        assert!(matches!(eval_failure(killed), NixError::Transient { cause: Cause::Killed, .. }));
        let missing = CommandError::NotFound { program: "nix".into() };
        assert!(matches!(eval_failure(missing), NixError::Command(_)));
    }
}
