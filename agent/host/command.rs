//! Owns how programs are started: the only file that spawns a process or reads our environment.
//!
//! Every program gets a cleared environment, no standard input unless given, its own process group, a time
//! limit, and bounds on what it may print. It is started by way of our own binary (`child.rs`), which sees to
//! it that the whole group dies with us; so nothing here needs `unsafe`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fs::Access;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use super::child::supervised;
use super::files::{FileError, io_error};
use super::group::Group;
use super::text::{Tail, last_line};

pub use super::child::Limits;

/// Time limit of a program that was given none.
pub const TIME_LIMIT: Duration = Duration::from_secs(60);
/// How many bytes of standard output a program may print if it was given no other bound.
pub const STDOUT_MAX: usize = 1 << 20;
/// How many bytes from the end of standard error are kept.
pub const STDERR_TAIL: usize = 16 << 10;
/// How long to wait for the last output of a program that has ended; only a stray process that left the
/// group and kept the pipe open makes us wait for it.
const DRAIN_TIME: Duration = Duration::from_secs(1);
const CHUNK: usize = 8 << 10;

/// What a program may see of our environment. Anything named `NIX_…` besides: Nix is configured that way.
const PASSED_ON: [&str; 18] = [
    "PATH",
    "HOME",
    "USER",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "LOCALE_ARCHIVE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "all_proxy",
    "no_proxy",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// Says why a program did not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// There is no such program that we may execute.
    #[error("program '{program}' was not found")]
    NotFound {
        /// Its name or path.
        program: String,
    },
    /// It ran longer than it was allowed to and was ended with all its children.
    #[error("'{program}' did not end within {}", humantime::format_duration(*limit))]
    TimedOut {
        /// Its name or path.
        program: String,
        /// How long it was allowed to run.
        limit: Duration,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// It said itself that it failed, or a signal ended it.
    #[error("'{program}' {end}{}", last_line(stderr))]
    Failed {
        /// Its name or path.
        program: String,
        /// Exit code or signal.
        end: Ending,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
    /// It printed more than it was allowed to and was ended with all its children.
    #[error("'{program}' printed more than {limit} bytes")]
    TooMuchOutput {
        /// Its name or path.
        program: String,
        /// How many bytes it was allowed to print.
        limit: usize,
    },
    /// It was asked to stop before it ended, and was ended with all its children.
    #[error("'{program}' was stopped")]
    Stopped {
        /// Its name or path.
        program: String,
    },
    /// The operating system refused.
    #[error("failed to {operation} '{program}'")]
    Io {
        /// What was tried, such as "start".
        operation: &'static str,
        /// Name or path of the program.
        program: String,
        /// Why not.
        source: io::Error,
    },
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It ended by itself with this code.
    Code(i32),
    /// This signal ended it. (SIGTERM shows as code 143, as shells have it.)
    Signal(i32),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ending::Code(code) => write!(f, "failed with exit code {code}"),
            Ending::Signal(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Ending {
        match (status.code(), status.signal()) {
            (Some(code), _) => Ending::Code(code),
            (None, signal) => Ending::Signal(signal.unwrap_or(0)),
        }
    }
}

/// What a program that succeeded has printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// All of standard output.
    pub stdout: Vec<u8>,
    /// The end of standard error, made printable.
    pub stderr: String,
}

/// Which of a child's two outputs a piece came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Stdout,
    Stderr,
}

/// Why a child is ended before its time.
enum Halt {
    TooMuch,
    Io(io::Error),
}

/// A program to run, and the bounds it runs in.
#[derive(Debug)]
pub struct Command {
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
    pub(super) env: BTreeMap<OsString, OsString>,
    dir: Option<PathBuf>,
    stdin: Option<File>,
    pub(super) time_limit: Duration,
    pub(super) stdout_max: usize,
    pub(super) stderr_tail: usize,
    pub(super) limits: Limits,
}

impl Command {
    /// Prepares to run `program`, a path or a name to be looked up in `PATH`.
    pub fn new(program: impl Into<OsString>) -> Command {
        Command {
            program: program.into(),
            args: Vec::new(),
            env: inherited_env(),
            dir: None,
            stdin: None,
            time_limit: TIME_LIMIT,
            stdout_max: STDOUT_MAX,
            stderr_tail: STDERR_TAIL,
            limits: Limits::default(),
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Command {
        self.args.push(arg.into());
        self
    }

    /// Adds several arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Command {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the environment, which otherwise holds only what every child may see.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Command {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets several variables of the environment.
    pub fn envs(mut self, vars: impl IntoIterator<Item = (OsString, OsString)>) -> Command {
        self.env.extend(vars);
        self
    }

    /// Passes our whole environment on; for a process whose own was cleared by a [`Command`] before.
    pub fn whole_env(mut self) -> Command {
        self.env.extend(std::env::vars_os());
        self
    }

    /// Leaves nothing of the environment but the way to programs and the language of messages.
    pub fn bare_env(mut self) -> Command {
        self.env.retain(|name, _| name == "PATH" || name == "LC_ALL");
        self
    }

    /// Runs the program in `dir`.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Command {
        self.dir = Some(dir.into());
        self
    }

    /// Gives the program `file` as standard input, which is `/dev/null` otherwise.
    pub fn stdin(mut self, file: impl Into<File>) -> Command {
        self.stdin = Some(file.into());
        self
    }

    /// Sets how long the program may run; [`TIME_LIMIT`] otherwise. Time in suspend does not count.
    pub fn time_limit(mut self, limit: Duration) -> Command {
        self.time_limit = limit;
        self
    }

    /// Sets how many bytes the program may print; [`STDOUT_MAX`] otherwise.
    pub fn stdout_max(mut self, bytes: usize) -> Command {
        self.stdout_max = bytes;
        self
    }

    /// Sets how many bytes from the end of standard error are kept; [`STDERR_TAIL`] otherwise.
    pub fn stderr_tail(mut self, bytes: usize) -> Command {
        self.stderr_tail = bytes;
        self
    }

    /// Sets what the kernel enforces.
    pub fn limits(mut self, limits: Limits) -> Command {
        self.limits = limits;
        self
    }

    /// Runs the program to its end and returns what it printed; exit code 0 is the only success.
    ///
    /// Dropping the future ends the program and its whole process group.
    pub async fn run(self) -> Result<Output, CommandError> {
        let (stdout_max, tail_max) = (self.stdout_max, self.stderr_tail);
        let (mut stdout, mut tail) = (Vec::new(), Tail::new(tail_max));
        let mut keep = |from: Stream, piece: &[u8]| match from {
            Stream::Stdout if stdout.len() + piece.len() > stdout_max => Err(Halt::TooMuch),
            Stream::Stdout => {
                stdout.extend_from_slice(piece);
                Ok(())
            }
            Stream::Stderr => {
                tail.push(piece);
                Ok(())
            }
        };
        let program = self.name();
        let ended = self.drive(&mut keep, std::future::pending()).await;
        let stderr = tail.into_text();
        match ended {
            Ok(Ending::Code(0)) => Ok(Output { stdout, stderr }),
            Ok(end) => Err(CommandError::Failed { program, end, stderr }),
            Err(CommandError::TimedOut { program, limit, .. }) => {
                Err(CommandError::TimedOut { program, limit, stderr })
            }
            Err(e) => Err(e),
        }
    }

    /// Runs the program to its end for what it does, not for what it prints: of both outputs together only
    /// the end is kept, for the error, and no amount of output ends the program.
    pub async fn run_for_effect(self) -> Result<(), CommandError> {
        let (program, tail_max) = (self.name(), self.stderr_tail);
        let mut tail = Tail::new(tail_max);
        let keep = |piece: &[u8]| tail.push(piece);
        let ended = self.run_logged(keep, std::future::pending()).await;
        let stderr = tail.into_text();
        match ended {
            Ok(Ending::Code(0)) => Ok(()),
            Ok(end) => Err(CommandError::Failed { program, end, stderr }),
            Err(CommandError::TimedOut { program, limit, .. }) => {
                Err(CommandError::TimedOut { program, limit, stderr })
            }
            Err(e) => Err(e),
        }
    }

    /// Runs the program to its end, hands all it prints on both outputs to `log` as it comes, and returns how
    /// it ended, whether well or not. It is ended early as soon as `stop` is ready.
    pub async fn run_logged(
        self,
        mut log: impl FnMut(&[u8]),
        stop: impl Future<Output = ()>,
    ) -> Result<Ending, CommandError> {
        let mut keep = |_, piece: &[u8]| {
            log(piece);
            Ok(())
        };
        self.drive(&mut keep, stop).await
    }

    /// Runs the program to its end for what it says meanwhile, and hands each piece of its standard output to `hear` as it
    /// comes. It is ended early, as having printed too much, as soon as `hear` returns `false`.
    ///
    /// Dropping the future ends the program and its whole process group.
    pub async fn run_heard(self, mut hear: impl FnMut(&[u8]) -> bool) -> Result<(), CommandError> {
        let (program, mut tail) = (self.name(), Tail::new(self.stderr_tail));
        let mut keep = |from: Stream, piece: &[u8]| match from {
            Stream::Stdout if hear(piece) => Ok(()),
            Stream::Stdout => Err(Halt::TooMuch),
            Stream::Stderr => {
                tail.push(piece);
                Ok(())
            }
        };
        match self.drive(&mut keep, std::future::pending()).await? {
            Ending::Code(0) => Ok(()),
            end => Err(CommandError::Failed { program, end, stderr: tail.into_text() }),
        }
    }

    /// Starts the program with a pipe at each of its standard streams, in a process group of its own, for a
    /// conversation that the caller bounds and ends. It reads the end of its input when we die.
    #[expect(clippy::disallowed_methods, reason = "this file owns spawning")]
    pub fn converse(self) -> io::Result<std::process::Child> {
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.args).env_clear().envs(&self.env).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }

    /// Starts a server that writes both its outputs to `log`, in a process group of its own. It is killed when
    /// the value is dropped.
    #[expect(clippy::disallowed_methods, reason = "this file owns spawning")]
    pub fn serve(self, log: File) -> io::Result<tokio::process::Child> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.args).env_clear().envs(&self.env).process_group(0).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()
    }

    /// Starts the program and does not wait for it; for a call that is short by itself. Needs a tokio runtime,
    /// which collects the dead.
    #[expect(clippy::disallowed_methods, reason = "this file owns spawning")]
    pub fn start_and_forget(self) -> io::Result<()> {
        let mut command = tokio::process::Command::new(&self.program);
        command.args(&self.args).env_clear().envs(&self.env).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().map(drop)
    }

    async fn drive(
        self,
        keep: &mut impl FnMut(Stream, &[u8]) -> Result<(), Halt>,
        stop: impl Future<Output = ()>,
    ) -> Result<Ending, CommandError> {
        let (program, time_limit, stdout_max) = (self.name(), self.time_limit, self.stdout_max);
        let mut child = self.spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let mut group = Group::new(child).map_err(|e| cannot("watch", &program, e))?;
        let ended = tokio::select! {
            ended = timeout(time_limit, follow(&mut group, stdout, stderr, keep)) => ended,
            () = stop => {
                group.end().await;
                return Err(CommandError::Stopped { program });
            }
        };
        match ended {
            Ok(Ok(status)) => return Ok(status.into()),
            Ok(Err(_)) | Err(_) => group.end().await,
        }
        Err(match ended {
            Ok(Err(Halt::TooMuch)) => CommandError::TooMuchOutput { program, limit: stdout_max },
            Ok(Err(Halt::Io(source))) => cannot("follow", &program, source),
            Ok(Ok(_)) | Err(_) => {
                CommandError::TimedOut { program, limit: time_limit, stderr: String::new() }
            }
        })
    }

    pub(super) fn name(&self) -> String {
        self.program.to_string_lossy().into_owned()
    }

    /// Starts the program's supervisor in a new process group; it starts the program.
    #[expect(clippy::disallowed_methods, reason = "this file owns spawning")]
    fn spawn(self) -> Result<tokio::process::Child, CommandError> {
        let program = self.resolve()?;
        let mut starter = tokio::process::Command::new(own_binary());
        starter.arg0("pullagent").args(supervised(self.limits)).arg(&program).args(&self.args);
        starter.env_clear().envs(&self.env).process_group(0);
        if let Some(dir) = &self.dir {
            starter.current_dir(dir);
        }
        starter.stdin(self.stdin.map_or_else(Stdio::null, Stdio::from));
        starter.stdout(Stdio::piped()).stderr(Stdio::piped());
        starter.spawn().map_err(|e| cannot("start", &program.to_string_lossy(), e))
    }

    /// Finds the program before anything is started, so that "not found" is told apart from its own failures.
    fn resolve(&self) -> Result<PathBuf, CommandError> {
        let runs = |path: &PathBuf| path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok();
        let name = Path::new(&self.program);
        let found = if self.program.as_encoded_bytes().contains(&b'/') {
            let base = self.dir.as_deref().unwrap_or(Path::new(""));
            Some(base.join(name)).filter(runs)
        } else {
            let path = self.env.get(OsStr::new("PATH"));
            path.and_then(|path| std::env::split_paths(path).map(|dir| dir.join(name)).find(runs))
        };
        found.ok_or_else(|| CommandError::NotFound { program: self.name() })
    }
}

/// Reads both outputs until the program has ended, kills what it has left behind, and returns its status.
async fn follow(
    group: &mut Group,
    stdout: Option<impl AsyncRead + Unpin>,
    stderr: Option<impl AsyncRead + Unpin>,
    keep: &mut impl FnMut(Stream, &[u8]) -> Result<(), Halt>,
) -> Result<ExitStatus, Halt> {
    let reading = pump(stdout, stderr, keep);
    tokio::pin!(reading);
    let read_all = tokio::select! {
        exited = group.exited() => { exited.map_err(Halt::Io)?; false }
        read = &mut reading => { read?; true }
    };
    if !read_all {
        group.sweep();
        // What was printed before the end is still in the pipes.
        if let Ok(read) = timeout(DRAIN_TIME, &mut reading).await {
            read?;
        }
    }
    group.exited().await.map_err(Halt::Io)?;
    group.finish().await.map_err(Halt::Io)
}

/// Hands on what comes from either output until both are closed.
async fn pump(
    mut stdout: Option<impl AsyncRead + Unpin>,
    mut stderr: Option<impl AsyncRead + Unpin>,
    keep: &mut impl FnMut(Stream, &[u8]) -> Result<(), Halt>,
) -> Result<(), Halt> {
    let (mut out, mut err) = (vec![0; CHUNK], vec![0; CHUNK]);
    while stdout.is_some() || stderr.is_some() {
        let (from, read) = tokio::select! {
            read = read_some(&mut stdout, &mut out) => (Stream::Stdout, read),
            read = read_some(&mut stderr, &mut err) => (Stream::Stderr, read),
        };
        let count = read.map_err(Halt::Io)?;
        match from {
            Stream::Stdout if count == 0 => stdout = None,
            Stream::Stderr if count == 0 => stderr = None,
            Stream::Stdout => keep(from, &out[..count])?,
            Stream::Stderr => keep(from, &err[..count])?,
        }
    }
    Ok(())
}

/// Reads a piece; never ready for an output that is closed.
async fn read_some(from: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> io::Result<usize> {
    match from {
        Some(stream) => stream.read(buffer).await,
        None => std::future::pending().await,
    }
}

/// Becomes the program in `argv`; returns only if that fails.
#[expect(clippy::disallowed_methods, reason = "this file owns spawning")]
pub(super) fn become_program(argv: &[OsString]) -> io::Error {
    match argv.split_first() {
        Some((program, args)) => std::process::Command::new(program).args(args).exec(),
        None => io::ErrorKind::InvalidInput.into(),
    }
}

/// Starts `argv` in our own process group, with our own environment, input and outputs.
#[expect(clippy::disallowed_methods, reason = "this file owns spawning")]
pub(super) fn spawn_beside_us(argv: &[OsString]) -> io::Result<tokio::process::Child> {
    let (program, rest) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    tokio::process::Command::new(program).arg0("pullagent").args(rest).spawn()
}

/// Starts a process that is not bound to our life, with our environment and its standard output piped to us.
///
/// `detach.rs` uses it in a short-lived process whose environment was cleared by a [`Command`] already.
#[expect(clippy::disallowed_methods, reason = "this file owns spawning")]
pub(super) fn spawn_orphan(argv: &[OsString]) -> io::Result<std::process::Child> {
    let (program, rest) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut orphan = std::process::Command::new(program);
    orphan.args(rest).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
}

static OWN_BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Makes `path` the binary that plays our hidden roles; for tests, whose own binary knows none of them.
///
/// Only the first call counts.
pub fn use_binary(path: impl Into<PathBuf>) {
    OWN_BINARY.get_or_init(|| path.into());
}

/// Returns a path that starts our own binary. `/proc/self/exe` does so even after its file was replaced or
/// deleted, so that parent and child are always of one version.
pub fn own_binary() -> &'static Path {
    OWN_BINARY.get().map_or(Path::new("/proc/self/exe"), PathBuf::as_path)
}

/// Returns the file of our own binary, for programs that are started by others.
pub fn own_program() -> Result<PathBuf, FileError> {
    let path = own_binary();
    path.canonicalize().map_err(io_error("find the program file of", path))
}

/// Returns the variable `name` of our own environment; for roles that are told something that way.
pub fn variable(name: &str) -> Option<String> {
    std::env::vars_os().find(|(found, _)| found == name)?.1.into_string().ok()
}

/// Returns the variable `name` of our own environment if children may see it.
pub fn inherited(name: &str) -> Option<OsString> {
    inherited_env().remove(OsStr::new(name))
}

fn inherited_env() -> BTreeMap<OsString, OsString> {
    let seen = |name: &OsStr| {
        name.as_encoded_bytes().starts_with(b"NIX_") || PASSED_ON.iter().any(|passed| name == *passed)
    };
    let mut env: BTreeMap<_, _> = std::env::vars_os().filter(|(name, _)| seen(name)).collect();
    // Messages are parsed and shown in one language, whoever started us.
    env.insert("LC_ALL".into(), "C".into());
    env
}

fn cannot(operation: &'static str, program: &str, source: io::Error) -> CommandError {
    CommandError::Io { operation, program: program.to_owned(), source }
}
