//! Owns who keeps what we start: systemd, as units with limits and sandboxes of their own, or, on a host that systemd does
//! not run (the demo, quick tests), we ourselves, as children.
//!
//! A program that runs to its end as a unit has a small role of our own binary around it, `run-bounded`, which bounds its
//! output and time exactly as for a child and writes one line into a file that systemd opened. So nothing is piped through
//! systemd, and callers see no difference.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::command::{Command, CommandError, Ending, Output, own_program};
use super::job::{self, ExitRecord, JobError, JobResult, JobSpec, JobState, MARGIN, UnitSpec};
use super::units::{self, Kind};
use super::{chain, clock, files, systemd};

/// Where the results of programs that run as units are put, each in a directory of its own.
const RUNS: &str = "/run/pullagent/units";
/// How long the line may be beyond what the program may say.
const SAID_SLACK: u64 = 64 << 10;
/// Home and caches of sandboxed units: empty at each start, and gone at its end (`PrivateTmp=`).
const EMPTY_HOME: [(&str, &str); 3] =
    [("HOME", "/tmp"), ("TMPDIR", "/tmp"), ("XDG_CACHE_HOME", "/tmp/cache")];

/// Who keeps what we start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manager {
    /// The host's systemd.
    Systemd,
    /// Nobody but us.
    Alone,
}

impl Manager {
    /// Returns who keeps things on the host at `root`.
    pub fn of(root: &Path) -> Manager {
        if systemd::runs(root) { Manager::Systemd } else { Manager::Alone }
    }

    /// Returns the unit of a job; `None` where no systemd runs the host.
    pub fn unit(self, kind: Kind, name: &str) -> Option<UnitSpec> {
        match self {
            Manager::Systemd => Some(unit(kind, &format!("{}-{name}", kind.word()))),
            Manager::Alone => None,
        }
    }

    /// Runs a program to its end and returns what it printed, as [`Command::run`] does.
    pub async fn run(self, kind: Kind, command: Command) -> Result<Output, CommandError> {
        match self {
            Manager::Systemd => run_as_unit(kind, command, false).await,
            Manager::Alone => command.run().await,
        }
    }

    /// Runs a program to its end for what it does, as [`Command::run_for_effect`] does.
    pub async fn run_for_effect(self, kind: Kind, command: Command) -> Result<(), CommandError> {
        match self {
            Manager::Systemd => run_as_unit(kind, command, true).await.map(drop),
            Manager::Alone => command.run_for_effect().await,
        }
    }

    /// Ends what an earlier run of ours has left running although nobody waits for it any more. What has to run to its end
    /// keeps its directory: its record goes there, or its unit would count as failed.
    pub async fn sweep(self) {
        if self == Manager::Alone {
            return;
        }
        systemd::stop_leftovers().await;
        for entry in std::fs::read_dir(RUNS).into_iter().flatten().flatten() {
            let ended = job::state(&entry.path()).await.is_ok_and(|state| state != JobState::Running);
            if ended {
                drop(std::fs::remove_dir_all(entry.path()));
            }
        }
    }
}

fn unit(kind: Kind, name: &str) -> UnitSpec {
    UnitSpec {
        name: format!("{}{name}.service", units::PREFIX),
        kind,
        properties: Vec::new(),
        then: Vec::new(),
    }
}

/// Ends the unit and removes its directory, also when nobody waits for it any more.
struct Run {
    unit: String,
    dir: PathBuf,
    ended: bool,
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.ended {
            systemd::stop_in_background(&self.unit);
        }
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

async fn run_as_unit(kind: Kind, command: Command, effect: bool) -> Result<Output, CommandError> {
    static RUN: AtomicU32 = AtomicU32::new(0);
    let number = RUN.fetch_add(1, Ordering::Relaxed);
    // Names must not come back while systemd may still know a unit of an earlier run of ours.
    let name = format!("{}-{}-{number}", kind.word(), clock::boottime_ms());
    let mut unit = unit(kind, &name);
    let mut run = Run { unit: unit.name.clone(), dir: Path::new(RUNS).join(&name), ended: false };
    let (program, limit) = (command.name(), command.time_limit);
    let said_max = command.stdout_max.max(command.stderr_tail) as u64 * 2 + SAID_SLACK;
    let cannot = |source| CommandError::Io { operation: "run as a unit", program: program.clone(), source };
    // Not "truncate:", which would be done again for the program that records the end.
    let mut output = OsString::from("StandardOutput=append:");
    output.push(run.dir.join("said"));
    unit.properties.push(output);
    // What nobody waits for any more must not be left as a failed unit of the host. The result is not asked of systemd.
    unit.properties.push("CollectMode=inactive-or-failed".into());
    unit.properties.extend(limits(&command));
    let own = own_program().map_err(|e| cannot(std::io::Error::other(chain(&e))))?;
    let spec = JobSpec {
        dir: run.dir.clone(),
        argv: bounded_argv(own, &command, effect),
        env: environment(kind, command),
        limit: limit + MARGIN,
        unit: Some(unit),
    };
    let failed = |e: JobError| cannot(std::io::Error::other(chain(&e)));
    job::start(&spec).await.map_err(failed)?;
    let state = job::wait(&spec.dir, limit + 2 * MARGIN).await.map_err(failed)?;
    run.ended = state != JobState::Running;
    let said = files::read_if_exists(&spec.dir.join("said"), said_max).ok().flatten().unwrap_or_default();
    match serde_json::from_slice::<Said>(&said) {
        Ok(said) => said.into_result(program, limit),
        Err(_) => Err(without_word(&state, program.clone(), limit)),
    }
}

/// The kernel's limits, as systemd keeps them.
fn limits(command: &Command) -> Vec<OsString> {
    let limits = command.limits;
    let named = [
        ("MemoryMax", limits.address_space),
        ("LimitCPU", limits.cpu_secs),
        ("LimitFSIZE", limits.file_size),
    ];
    let mut all: Vec<OsString> =
        named.iter().filter_map(|(name, limit)| Some(format!("{name}={}", (*limit)?).into())).collect();
    if limits.address_space.is_some() {
        all.push("MemorySwapMax=0".into());
    }
    all
}

fn environment(kind: Kind, command: Command) -> Vec<(OsString, OsString)> {
    let mut env = command.env;
    if matches!(kind, Kind::Build | Kind::Probe) {
        env.remove(std::ffi::OsStr::new("USER"));
        env.extend(EMPTY_HOME.map(|(name, value)| (name.into(), value.into())));
    }
    env.into_iter().collect()
}

fn bounded_argv(own: PathBuf, command: &Command, effect: bool) -> Vec<OsString> {
    let number = |n: u128| OsString::from(n.to_string());
    let mut argv: Vec<OsString> = vec![own.into(), "run-bounded".into()];
    argv.extend(["--time-ms".into(), number(command.time_limit.as_millis())]);
    argv.extend(["--stdout-max".into(), number(command.stdout_max as u128)]);
    argv.extend(["--stderr-tail".into(), number(command.stderr_tail as u128)]);
    argv.extend(["--effect".into(), number(effect.into())]);
    argv.extend(["--".into(), command.program.clone()]);
    argv.extend(command.args.iter().cloned());
    argv
}

/// What became of a program that left no word of its own.
fn without_word(state: &JobState, program: String, limit: Duration) -> CommandError {
    let failed = |end| CommandError::Failed { program: program.clone(), end, stderr: String::new() };
    let io = |text: &str| CommandError::Io {
        operation: "run as a unit",
        program: program.clone(),
        source: std::io::Error::other(text.to_owned()),
    };
    match state {
        JobState::Ended(ExitRecord { result, .. }) => match result {
            JobResult::ExitCode { .. } => io("it left no result"),
            JobResult::Signal { signal } => failed(Ending::Signal(*signal)),
            JobResult::Timeout => CommandError::TimedOut { program, limit, stderr: String::new() },
            JobResult::Stopped => CommandError::Stopped { program },
            JobResult::NotStarted { text } => io(text),
        },
        JobState::Running => CommandError::TimedOut { program, limit, stderr: String::new() },
        JobState::Absent | JobState::Lost => io("its unit is gone and left no record"),
    }
}

/// The line that `run-bounded` writes: a result of [`Command::run`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
enum Said {
    Done { stdout: String, stderr: String },
    NotFound { program: String },
    TimedOut { stderr: String },
    Code { code: i32, stderr: String },
    Signal { signal: i32, stderr: String },
    TooMuchOutput { limit: usize },
    Trouble { text: String },
}

impl Said {
    fn of(result: Result<Output, CommandError>) -> Said {
        match result {
            Ok(Output { stdout, stderr }) => Said::Done { stdout: STANDARD.encode(stdout), stderr },
            Err(CommandError::NotFound { program }) => Said::NotFound { program },
            Err(CommandError::TimedOut { stderr, .. }) => Said::TimedOut { stderr },
            Err(CommandError::Failed { end: Ending::Code(code), stderr, .. }) => Said::Code { code, stderr },
            Err(CommandError::Failed { end: Ending::Signal(signal), stderr, .. }) => {
                Said::Signal { signal, stderr }
            }
            Err(CommandError::TooMuchOutput { limit, .. }) => Said::TooMuchOutput { limit },
            Err(e @ (CommandError::Stopped { .. } | CommandError::Io { .. })) => {
                Said::Trouble { text: chain(&e) }
            }
        }
    }

    fn into_result(self, program: String, limit: Duration) -> Result<Output, CommandError> {
        let trouble = |program, text| CommandError::Io {
            operation: "run as a unit",
            program,
            source: std::io::Error::other(text),
        };
        Err(match self {
            Said::Done { stdout, stderr } => match STANDARD.decode(stdout) {
                Ok(stdout) => return Ok(Output { stdout, stderr }),
                Err(e) => trouble(program, e.to_string()),
            },
            Said::NotFound { program } => CommandError::NotFound { program },
            Said::TimedOut { stderr } => CommandError::TimedOut { program, limit, stderr },
            Said::Code { code, stderr } => CommandError::Failed { program, end: Ending::Code(code), stderr },
            Said::Signal { signal, stderr } => {
                CommandError::Failed { program, end: Ending::Signal(signal), stderr }
            }
            Said::TooMuchOutput { limit } => CommandError::TooMuchOutput { program, limit },
            Said::Trouble { text } => trouble(program, text),
        })
    }
}

/// The arguments of `pullagent run-bounded`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunBounded {
    /// How long the program may run.
    pub time: Duration,
    /// How many bytes of standard output it may print.
    pub stdout_max: usize,
    /// How many bytes from the end of standard error are kept.
    pub stderr_tail: usize,
    /// Whether it is run for what it does, so that what it prints does not matter.
    pub effect: bool,
    /// The program and its arguments.
    pub argv: Vec<OsString>,
}

/// The role around a program that runs as a unit: runs it, and prints one line about its end.
pub fn run_bounded_main(args: &RunBounded) -> ExitCode {
    let said = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run_bounded(args)),
        Err(e) => Said::Trouble { text: e.to_string() },
    };
    match serde_json::to_string(&said) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

async fn run_bounded(args: &RunBounded) -> Said {
    let Some((program, rest)) = args.argv.split_first() else {
        return Said::Trouble { text: "no program was named".into() };
    };
    let command = Command::new(program).args(rest).whole_env().time_limit(args.time);
    let command = command.stdout_max(args.stdout_max).stderr_tail(args.stderr_tail);
    Said::of(match args.effect {
        true => command.run_for_effect().await.map(|()| Output { stdout: Vec::new(), stderr: String::new() }),
        false => command.run().await,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever a program comes to, the caller sees the same as of a child.
    #[test]
    fn a_result_survives_the_way_through_the_file() {
        let program = || "nix".to_owned();
        let limit = Duration::from_secs(3);
        let stderr = || "why".to_owned();
        let results = [
            Ok(Output { stdout: vec![0, 255, 10], stderr: stderr() }),
            Err(CommandError::NotFound { program: program() }),
            Err(CommandError::TimedOut { program: program(), limit, stderr: stderr() }),
            Err(CommandError::Failed { program: program(), end: Ending::Code(75), stderr: stderr() }),
            Err(CommandError::Failed { program: program(), end: Ending::Signal(9), stderr: stderr() }),
            Err(CommandError::TooMuchOutput { program: program(), limit: 7 }),
        ];
        for result in results {
            let expected = format!("{result:?}");
            let line = serde_json::to_string(&Said::of(result)).unwrap();
            let back = serde_json::from_str::<Said>(&line).unwrap().into_result(program(), limit);
            assert_eq!(format!("{back:?}"), expected);
        }
    }

    #[test]
    fn a_directory_that_plays_a_host_is_kept_by_us() {
        assert_eq!(Manager::of(Path::new("/tmp/host")), Manager::Alone);
        assert_eq!(Manager::Alone.unit(Kind::Switch, "7-aaaaaaa"), None);
        let unit = Manager::Systemd.unit(Kind::Switch, "7-aaaaaaa").unwrap();
        assert_eq!(unit.name, "pullagent-switch-7-aaaaaaa.service");
    }
}
