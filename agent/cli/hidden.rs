//! Owns the arguments of the roles that our binary plays for itself. They are written by us and read by us
//! (`guard`'s also by other versions of us), so they are parsed strictly and explained to nobody.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::run;
use crate::gateway::process;
use crate::guard::{self, GuardArgs};
use crate::host::child::{self, ExecChild, Limits, Supervise};
use crate::host::manager::{self, RunBounded};
use crate::host::{detach, job};
use crate::repo::import;

/// Plays the hidden role that `argv` (without the program's name) asks for; `None` if it asks for none.
pub fn dispatch(argv: &[OsString]) -> Option<ExitCode> {
    let (verb, rest) = argv.split_first()?;
    let played = match verb.to_str()? {
        "supervise" => bounded(rest)
            .map(|(parent, limits, argv)| child::supervise_main(&Supervise { parent, limits, argv })),
        "exec-child" => bounded(rest)
            .map(|(parent, limits, argv)| child::exec_child_main(&ExecChild { parent, limits, argv })),
        "detach" => after_dashes(rest).map(detach::detach_main),
        "record-exit" => match rest {
            [dir, path] if dir == "--dir" => Some(job::record_unit_main(Path::new(path))),
            _ => record_exit(rest).map(|args| job::record_exit_main(&args)),
        },
        "run-bounded" => run_bounded(rest).map(|args| manager::run_bounded_main(&args)),
        crate::steps::PROBE_VERB => one(rest).and_then(OsStr::to_str).map(crate::steps::probe_main),
        "guard" => guard_args(rest).map(|args| guard::main(&args)),
        import::VERB => one_path(rest).map(import::run_child),
        "gateway" => gateway_args(rest).map(|started| {
            run::start_logging("info");
            process::main(&started)
        }),
        _ => return None,
    };
    Some(played.unwrap_or_else(|| {
        eprintln!("pullagent: '{}' is for pullagent's own use", verb.to_string_lossy());
        ExitCode::from(2)
    }))
}

fn bounded(args: &[OsString]) -> Option<(u32, Limits, Vec<OsString>)> {
    let mut args = Args(args);
    let parent = args.value("--parent")?.to_str()?.parse().ok()?;
    let limits = Limits {
        address_space: args.number("--limit-as")?,
        cpu_secs: args.number("--limit-cpu")?,
        file_size: args.number("--limit-fsize")?,
    };
    Some((parent, limits, after_dashes(args.0)?.to_vec()))
}

fn record_exit(args: &[OsString]) -> Option<job::RecordExit> {
    let mut args = Args(args);
    let dir = PathBuf::from(args.value("--dir")?);
    let limit = Duration::from_millis(args.number("--limit-ms")??);
    Some(job::RecordExit { dir, limit, argv: after_dashes(args.0)?.to_vec() })
}

fn run_bounded(args: &[OsString]) -> Option<RunBounded> {
    let mut args = Args(args);
    let time = Duration::from_millis(args.number("--time-ms")??);
    let stdout_max = usize::try_from(args.number("--stdout-max")??).ok()?;
    let stderr_tail = usize::try_from(args.number("--stderr-tail")??).ok()?;
    let effect = args.number("--effect")?? != 0;
    Some(RunBounded { time, stdout_max, stderr_tail, effect, argv: after_dashes(args.0)?.to_vec() })
}

fn guard_args(args: &[OsString]) -> Option<GuardArgs> {
    let mut args = Args(args);
    let role = args.0.first()?.to_str()?.to_owned();
    let dir = PathBuf::from(args.value(&role)?);
    let parsed = match role.as_str() {
        "--selftest" => GuardArgs::Selftest { dir },
        "--fire" => GuardArgs::Fire { dir },
        "--boot" => GuardArgs::Boot { dir },
        "--install-boot" => GuardArgs::InstallBoot { dir },
        "--remove-boot" => GuardArgs::RemoveBoot { dir },
        "--shorten" => GuardArgs::Shorten { dir },
        "--wait" => GuardArgs::Wait { dir, until_boottime_ms: args.number("--until")?? },
        _ => return None,
    };
    args.0.is_empty().then_some(parsed)
}

/// Takes the socket at which the reconciler listens, and where the configuration and the host lie.
fn gateway_args(args: &[OsString]) -> Option<process::Started> {
    let mut args = Args(args);
    let socket = PathBuf::from(args.value("--socket")?);
    let config = args.value("--config").map(PathBuf::from);
    let root = args.value("--root").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    let whole = [Some(&socket), config.as_ref(), Some(&root)].into_iter().flatten().all(|p| p.is_absolute());
    (args.0.is_empty() && whole).then_some(process::Started { socket, config, root })
}

/// Takes the one argument that is a path.
fn one_path(args: &[OsString]) -> Option<&Path> {
    match args {
        [path] => Some(Path::new(path)),
        _ => None,
    }
}

/// Takes the one argument of a role that has just one.
fn one(args: &[OsString]) -> Option<&OsStr> {
    match args {
        [only] => Some(only),
        _ => None,
    }
}

/// Takes what follows `--`, at least one word.
fn after_dashes(args: &[OsString]) -> Option<&[OsString]> {
    let (dashes, rest) = args.split_first()?;
    (dashes == "--" && !rest.is_empty()).then_some(rest)
}

/// Options in the one order in which we write them.
struct Args<'a>(&'a [OsString]);

impl<'a> Args<'a> {
    /// Takes the value of option `name`, if that comes next.
    fn value(&mut self, name: &str) -> Option<&'a OsStr> {
        match self.0 {
            [option, value, rest @ ..] if option == name => {
                self.0 = rest;
                Some(value)
            }
            _ => None,
        }
    }

    /// Takes the number after option `name`: `None` if it is no number, `Some(None)` if the option is absent.
    fn number(&mut self, name: &str) -> Option<Option<u64>> {
        match self.value(name) {
            Some(value) => Some(Some(value.to_str()?.parse().ok()?)),
            None => Some(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn only_hidden_roles_are_taken() {
        assert!(dispatch(&words("status")).is_none());
        assert!(dispatch(&[]).is_none());
    }

    #[test]
    fn a_program_s_bounds_come_in_order() {
        let parsed = bounded(&words("--parent 7 --limit-as 5 --limit-fsize 6 -- /bin/sh -c x")).unwrap();
        let limits = Limits { address_space: Some(5), cpu_secs: None, file_size: Some(6) };
        assert_eq!(parsed, (7, limits, words("/bin/sh -c x")));
        for bad in ["", "--parent x -- a", "--parent 7 --", "--parent 7 a", "--parent 7 --limit-as x -- a"] {
            assert_eq!(bounded(&words(bad)), None, "{bad}");
        }
    }

    #[test]
    fn record_exit_needs_all_of_it() {
        let parsed = record_exit(&words("--dir /d --limit-ms 1500 -- a b")).unwrap();
        assert_eq!((parsed.limit.as_millis(), parsed.argv.len()), (1500, 2));
        for bad in ["--dir /d -- a", "--limit-ms 1 -- a", "--dir /d --limit-ms 1"] {
            assert_eq!(record_exit(&words(bad)), None, "{bad}");
        }
    }

    #[test]
    fn the_gateway_is_told_one_socket() {
        let parse = |line| gateway_args(&words(line));
        let told = |config: Option<&str>, root: &str| {
            Some(process::Started {
                socket: "/run/s".into(),
                config: config.map(PathBuf::from),
                root: root.into(),
            })
        };
        assert_eq!(parse("--socket /run/s"), told(None, "/"), "what units of earlier versions say");
        assert_eq!(parse("--socket /run/s --config /etc/c"), told(Some("/etc/c"), "/"));
        assert_eq!(parse("--socket /run/s --config /etc/c --root /r"), told(Some("/etc/c"), "/r"));
        for bad in ["", "--socket", "--socket relative", "--socket /a /b", "/a", "--socket /a --config c"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn run_bounded_needs_all_of_it() {
        let line = "--time-ms 1500 --stdout-max 10 --stderr-tail 20 --effect 1 -- a b";
        let parsed = run_bounded(&words(line)).unwrap();
        assert_eq!((parsed.time.as_millis(), parsed.stdout_max, parsed.stderr_tail), (1500, 10, 20));
        assert!(parsed.effect && parsed.argv == words("a b"));
        for bad in ["", "-- a", "--time-ms 1 --stdout-max 1 --stderr-tail 1 --effect 0 --"] {
            assert_eq!(run_bounded(&words(bad)), None, "{bad}");
        }
    }

    /// These are an ABI: an older binary reads them from a newer one, and the other way round.
    #[test]
    fn the_guard_s_arguments_are_frozen() {
        let dir = || PathBuf::from("/d");
        let table = [
            ("--selftest /d", GuardArgs::Selftest { dir: dir() }),
            ("--fire /d", GuardArgs::Fire { dir: dir() }),
            ("--boot /d", GuardArgs::Boot { dir: dir() }),
            ("--install-boot /d", GuardArgs::InstallBoot { dir: dir() }),
            ("--remove-boot /d", GuardArgs::RemoveBoot { dir: dir() }),
            ("--shorten /d", GuardArgs::Shorten { dir: dir() }),
            ("--wait /d --until 90", GuardArgs::Wait { dir: dir(), until_boottime_ms: 90 }),
        ];
        for (line, expected) in table {
            assert_eq!(guard_args(&words(line)), Some(expected.clone()));
            let written: Vec<OsString> = expected.to_argv();
            assert_eq!(written, words(&format!("guard {line}")));
        }
        for bad in ["", "--fire", "--fire /d x", "--wait /d", "--wait /d --until x", "--undo /d"] {
            assert_eq!(guard_args(&words(bad)), None, "{bad}");
        }
    }
}
