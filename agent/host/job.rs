//! Owns durable jobs: a program that runs detached from us, in a directory that tells what became of it.
//!
//! ```text
//! <dir>/lock        held by the job's keeper (`record-exit`) as long as the program runs
//! <dir>/log         the end of what the program printed
//! <dir>/stop        asks the keeper to end the program
//! <dir>/exit.json   how it ended: written once, whole
//! <dir>/lost        nobody will ever write `exit.json`: found without a keeper
//! ```
//! Making the directory is the mutex: a job is started once, however often it is tried. The keeper outlives
//! the agent; if the keeper itself is killed, the program dies with it and the job is lost.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::command::{Command, CommandError, Ending, own_binary};
use super::detach::{self, DetachError};
use super::files::{self, FileError, io_error};
use super::text::printable;
use super::{chain, clock};

/// How much of a job's output is kept, in bytes.
pub const LOG_MAX: usize = 256 << 10;
const RECORD_MAX: u64 = 64 << 10;
const STOP_POLL: Duration = Duration::from_millis(200);
const WAIT_POLL_FIRST: Duration = Duration::from_millis(5);
const WAIT_POLL_MAX: Duration = Duration::from_millis(250);

/// Says why a job was not started, or why nothing is known of it.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// It was started before.
    #[error("job '{}' was started already", .0.display())]
    AlreadyStarted(PathBuf),
    /// Its keeper could not be started.
    #[error("failed to start job '{}'", dir.display())]
    Start {
        /// The job's directory.
        dir: PathBuf,
        /// Why not.
        source: DetachError,
    },
    /// One of its files could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its record is not one of ours.
    #[error("the record of job '{}' cannot be understood", dir.display())]
    Record {
        /// The job's directory.
        dir: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
}

/// What to run, and where to keep what becomes of it.
#[derive(Debug, Clone)]
pub struct JobSpec {
    /// The job's directory, an absolute path; it must not exist, its parents are made.
    pub dir: PathBuf,
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// Added to the environment that every child gets.
    pub env: Vec<(OsString, OsString)>,
    /// How long the program may run.
    pub limit: Duration,
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// It was never started.
    Absent,
    /// It runs.
    Running,
    /// It ended.
    Ended(ExitRecord),
    /// It neither runs nor did it leave a record: its keeper was killed, or the machine went down.
    /// It will not come back to life: whoever finds this out seals it.
    Lost,
}

/// How a job ended, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// Version of this record; 1.
    pub schema: u32,
    /// How it ended.
    #[serde(flatten)]
    pub result: JobResult,
    /// When the program was started, in milliseconds since boot.
    pub started_boottime_ms: u64,
    /// When it had ended, in milliseconds since boot.
    pub ended_boottime_ms: u64,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum JobResult {
    /// The program ended by itself.
    ExitCode {
        /// Its exit code.
        code: i32,
    },
    /// A signal ended it.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// It was ended because its time was over.
    Timeout,
    /// It was ended because somebody asked for that ([`request_stop`]).
    Stopped,
    /// It never ran.
    NotStarted {
        /// Why not, for people.
        text: String,
    },
}

/// Starts a job and returns when its keeper has taken charge.
pub async fn start(spec: &JobSpec) -> Result<(), JobError> {
    let dir = &spec.dir;
    let parent = files::parent(dir);
    fs::create_dir_all(parent).map_err(io_error("make directory", parent))?;
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            return Err(JobError::AlreadyStarted(dir.clone()));
        }
        made => made.map_err(io_error("make directory", dir))?,
    }
    files::sync_dir(parent)?;
    let limit = spec.limit.as_millis().to_string();
    let keeper = [own_binary().as_os_str(), "record-exit".as_ref(), "--dir".as_ref(), dir.as_os_str()];
    let options = ["--limit-ms".into(), limit.into(), "--".into()];
    let argv = keeper.into_iter().map(OsString::from).chain(options).chain(spec.argv.iter().cloned());
    let started = detach::detach(argv, spec.env.iter().cloned()).await;
    started.map_err(|source| JobError::Start { dir: dir.clone(), source })
}

/// Tells where the job in `dir` stands.
pub fn state(dir: &Path) -> Result<JobState, JobError> {
    if let Some(record) = read_record(dir)? {
        return Ok(JobState::Ended(record));
    }
    if !dir.try_exists().map_err(io_error("look for", dir))? {
        return Ok(JobState::Absent);
    }
    // A shared lock: it keeps a keeper out, but not somebody else who only asks.
    let lock = open_lock(dir)?;
    if !try_lock(&lock, dir, FlockOperation::NonBlockingLockShared)? {
        return Ok(JobState::Running);
    }
    // It may have ended between the first look and the lock.
    if let Some(record) = read_record(dir)? {
        return Ok(JobState::Ended(record));
    }
    // A keeper that was being started when its starter died may still come: it must not begin any more.
    files::create_once(&dir.join("lost"), b"", RECORD_MAX)?;
    Ok(JobState::Lost)
}

/// Waits until the job in `dir` runs no more, at most `limit`, and tells where it stands then.
pub async fn wait(dir: &Path, limit: Duration) -> Result<JobState, JobError> {
    let until = clock::boottime_ms().saturating_add(limit.as_millis() as u64);
    let mut pause = WAIT_POLL_FIRST;
    loop {
        let now = state(dir)?;
        if now != JobState::Running || clock::boottime_ms() >= until {
            return Ok(now);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(WAIT_POLL_MAX);
    }
}

/// Asks the keeper of the job in `dir` to end the program; [`wait`] tells when it has. Without effect on a
/// job that does not run.
pub fn request_stop(dir: &Path) -> Result<(), JobError> {
    if state(dir)? == JobState::Running {
        files::create_once(&dir.join("stop"), b"", RECORD_MAX)?;
    }
    Ok(())
}

/// Returns the end of what the job in `dir` has printed, made printable; empty if there is nothing.
pub fn log_tail(dir: &Path, bytes_max: usize) -> Result<String, JobError> {
    let log = files::read_if_exists(&dir.join("log"), 2 * LOG_MAX as u64)?.unwrap_or_default();
    Ok(printable(&log[log.len().saturating_sub(bytes_max)..]))
}

/// The arguments of `pullagent record-exit`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordExit {
    /// The job's directory.
    pub dir: PathBuf,
    /// How long the program may run.
    pub limit: Duration,
    /// The program and its arguments.
    pub argv: Vec<OsString>,
}

/// The role of a job's keeper: runs the program in a session of its own and records how it ended.
pub fn record_exit_main(args: &RecordExit) -> ExitCode {
    match take_charge(&args.dir) {
        Ok(lock) => {
            detach::say_ready();
            let kept = keep(args);
            drop(lock);
            if kept.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => {
            detach::say_failed(&e);
            ExitCode::FAILURE
        }
    }
}

fn take_charge(dir: &Path) -> Result<File, JobError> {
    detach::leave().map_err(io_error("leave the session for", dir))?;
    let lock = open_lock(dir)?;
    let free = try_lock(&lock, dir, FlockOperation::NonBlockingLockExclusive)?;
    if !free || dir.join("lost").exists() || dir.join("exit.json").exists() {
        return Err(JobError::AlreadyStarted(dir.to_owned()));
    }
    Ok(lock)
}

fn keep(args: &RecordExit) -> Result<(), JobError> {
    let dir = &args.dir;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(io_error("start a runtime for", dir))?;
    let mut log = Log::create(&dir.join("log"))?;
    let started_boottime_ms = clock::boottime_ms();
    let result = runtime.block_on(run(args, &mut log));
    let ended_boottime_ms = clock::boottime_ms();
    let record = ExitRecord { schema: 1, result, started_boottime_ms, ended_boottime_ms };
    let json = serde_json::to_vec(&record);
    let json = json.map_err(|source| JobError::Record { dir: dir.clone(), source })?;
    Ok(files::write_atomic(&dir.join("exit.json"), &json, files::PRIVATE)?)
}

async fn run(args: &RecordExit, log: &mut Log) -> JobResult {
    let Some((program, rest)) = args.argv.split_first() else {
        return JobResult::NotStarted { text: "no program was named".into() };
    };
    let command = Command::new(program).args(rest).whole_env().dir("/").time_limit(args.limit);
    let ended = command.run_logged(|piece| log.push(piece), stop_requested(&args.dir)).await;
    match ended {
        Ok(Ending::Code(code)) => JobResult::ExitCode { code },
        Ok(Ending::Signal(signal)) => JobResult::Signal { signal },
        Err(CommandError::TimedOut { .. }) => JobResult::Timeout,
        Err(CommandError::Stopped { .. }) => JobResult::Stopped,
        Err(
            e @ (CommandError::NotFound { .. }
            | CommandError::Io { .. }
            | CommandError::Failed { .. }
            | CommandError::TooMuchOutput { .. }),
        ) => JobResult::NotStarted { text: chain(&e) },
    }
}

async fn stop_requested(dir: &Path) {
    let stop = dir.join("stop");
    while !stop.exists() {
        tokio::time::sleep(STOP_POLL).await;
    }
}

fn read_record(dir: &Path) -> Result<Option<ExitRecord>, JobError> {
    let bytes = files::read_if_exists(&dir.join("exit.json"), RECORD_MAX)?;
    let record = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
    record.map_err(|source| JobError::Record { dir: dir.to_owned(), source })
}

fn open_lock(dir: &Path) -> Result<File, JobError> {
    let path = dir.join("lock");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    Ok(open.map_err(io_error("open", &path))?)
}

/// Returns whether the lock was free; then it is held as long as `lock` is open.
fn try_lock(lock: &File, dir: &Path, how: FlockOperation) -> Result<bool, JobError> {
    match flock(lock, how) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(io_error("lock", dir)(e.into()).into()),
    }
}

/// A log file that keeps the end of what it was given, at most [`LOG_MAX`] bytes and a line.
struct Log {
    file: File,
    recent: Vec<u8>,
}

impl Log {
    fn create(path: &Path) -> Result<Log, FileError> {
        let file = File::create(path).map_err(io_error("create", path))?;
        Ok(Log { file, recent: Vec::new() })
    }

    /// Adds `piece`. A log that cannot be written (the disk is full) is no reason to end the program.
    fn push(&mut self, piece: &[u8]) {
        self.write(piece).ok();
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.recent.extend_from_slice(piece);
        if self.recent.len() <= LOG_MAX {
            return self.file.write_all(piece);
        }
        // Half of it goes at a time, so that a chatty program costs no quadratic copying.
        self.recent.drain(..self.recent.len() - LOG_MAX / 2);
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(b"(earlier output was dropped)\n")?;
        self.file.write_all(&self.recent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_frozen() {
        let record = |result| ExitRecord { schema: 1, result, started_boottime_ms: 5, ended_boottime_ms: 9 };
        let table = [
            (JobResult::ExitCode { code: 4 }, r#""result":"exit-code","code":4"#),
            (JobResult::Signal { signal: 9 }, r#""result":"signal","signal":9"#),
            (JobResult::Timeout, r#""result":"timeout""#),
            (JobResult::Stopped, r#""result":"stopped""#),
            (JobResult::NotStarted { text: "no".into() }, r#""result":"not-started","text":"no""#),
        ];
        for (result, json) in table {
            let text = serde_json::to_string(&record(result.clone())).unwrap();
            assert_eq!(text, format!(r#"{{"schema":1,{json},"startedBoottimeMs":5,"endedBoottimeMs":9}}"#));
            assert_eq!(serde_json::from_str::<ExitRecord>(&text).unwrap(), record(result));
        }
    }

    #[test]
    fn a_log_is_bounded_and_keeps_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::create(&path).unwrap();
        log.push(b"first\n");
        assert_eq!(fs::read(&path).unwrap(), b"first\n");
        for n in 0..200_000 {
            log.push(format!("{n}\n").as_bytes());
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() <= LOG_MAX + 40 && text.ends_with("199999\n"), "{}", text.len());
        assert!(text.starts_with("(earlier output was dropped)"));
    }
}
