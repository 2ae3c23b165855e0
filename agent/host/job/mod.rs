//! Owns durable jobs: a program that outlives us, in a directory that tells what became of it.
//!
//! ```text
//! <dir>/unit        the systemd unit that the program runs in, where systemd keeps the job
//! <dir>/lock        otherwise: held by the job's keeper (`record-exit`) as long as the program runs
//! <dir>/log         … and the end of what the program printed; of a unit, the journal has it
//! <dir>/stop        somebody asked for the program to be ended
//! <dir>/exit.json   how it ended: written once, whole
//! <dir>/lost        nobody will ever write `exit.json`: found without unit and keeper
//! ```
//! Making the directory is the mutex: a job is started once, however often it is tried. Unit and keeper outlive
//! the agent; if a keeper is killed itself, the program dies with it and the job is lost.

mod keeper;
mod unit;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::clock;
use super::command::{CommandError, own_binary};
use super::detach::{self, DetachError};
use super::files::{self, FileError, io_error};
use super::systemd::{self, SystemdError, UnitState};
use super::text::printable;

pub use keeper::{RecordExit, record_exit_main};
pub use unit::{MARGIN, UnitSpec, record_unit_main};

/// How much of a job's output is kept, in bytes.
pub const LOG_MAX: usize = 256 << 10;
const RECORD_MAX: u64 = 64 << 10;
const WAIT_POLL_FIRST: Duration = Duration::from_millis(5);
const WAIT_POLL_MAX: Duration = Duration::from_millis(250);
/// How often systemd is asked about a unit that has left no record yet: it is there to be asked for those that were lost.
const UNIT_LOOK: Duration = Duration::from_secs(2);
/// How many lines of a unit's output are read back.
const LOG_LINES: usize = 20;

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
    /// Its unit could not be started, or nothing is known of it.
    #[error(transparent)]
    Unit(#[from] SystemdError),
    /// What it printed could not be read.
    #[error("failed to read what job '{}' printed", dir.display())]
    Log {
        /// The job's directory.
        dir: PathBuf,
        /// Why not.
        source: CommandError,
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
    /// The unit that it is to run in; `None` where no systemd runs the host.
    pub unit: Option<UnitSpec>,
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

/// Starts a job and returns when its program runs, or when its keeper has taken charge.
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
    if let Some(unit) = &spec.unit {
        return unit::start(spec, unit).await;
    }
    let limit = spec.limit.as_millis().to_string();
    let keeper = [own_binary().as_os_str(), "record-exit".as_ref(), "--dir".as_ref(), dir.as_os_str()];
    let options = ["--limit-ms".into(), limit.into(), "--".into()];
    let argv = keeper.into_iter().map(OsString::from).chain(options).chain(spec.argv.iter().cloned());
    let started = detach::detach(argv, spec.env.iter().cloned()).await;
    started.map_err(|source| JobError::Start { dir: dir.clone(), source })
}

/// Tells where the job in `dir` stands.
pub async fn state(dir: &Path) -> Result<JobState, JobError> {
    if let Some(record) = read_record(dir)? {
        return Ok(JobState::Ended(record));
    }
    if !dir.try_exists().map_err(io_error("look for", dir))? {
        return Ok(JobState::Absent);
    }
    if is_kept(dir).await? {
        return Ok(JobState::Running);
    }
    // It may have ended between the two looks.
    if let Some(record) = read_record(dir)? {
        return Ok(JobState::Ended(record));
    }
    // One that was being started when its starter died may still come: it must not begin any more.
    files::create_once(&dir.join("lost"), b"", RECORD_MAX)?;
    Ok(JobState::Lost)
}

/// Tells whether somebody is there who will write the record.
async fn is_kept(dir: &Path) -> Result<bool, JobError> {
    if let Some(file) = unit::read(dir)? {
        return Ok(systemd::state(&file.unit).await? == UnitState::Busy);
    }
    // A shared lock: it keeps a keeper out, but not somebody else who only asks.
    let lock = open_lock(dir)?;
    Ok(!try_lock(&lock, dir, FlockOperation::NonBlockingLockShared)?)
}

/// Waits until the job in `dir` runs no more, at most `limit`, and tells where it stands then.
pub async fn wait(dir: &Path, limit: Duration) -> Result<JobState, JobError> {
    let until = clock::boottime_ms().saturating_add(limit.as_millis() as u64);
    let unit = unit::read(dir)?.map(|file| file.unit);
    let mut pause = WAIT_POLL_FIRST;
    let mut look_at = clock::boottime_ms() + UNIT_LOOK.as_millis() as u64;
    loop {
        let clock = clock::boottime_ms();
        let ended = read_record(dir)?.map(JobState::Ended);
        let due = unit.is_none() || clock >= look_at.min(until);
        let now = match ended {
            Some(ended) => ended,
            None if due => state(dir).await?,
            None => JobState::Running,
        };
        if due {
            look_at = clock + UNIT_LOOK.as_millis() as u64;
        }
        if let (JobState::Ended(_) | JobState::Lost, Some(unit)) = (&now, &unit) {
            // What it came to is told by us; to systemd it is no failure of the host.
            systemd::forget(unit).await;
        }
        if now != JobState::Running || clock >= until {
            return Ok(now);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(WAIT_POLL_MAX);
    }
}

/// Asks for the program of the job in `dir` to be ended; [`wait`] tells when it has. Without effect on a job that
/// does not run.
pub async fn request_stop(dir: &Path) -> Result<(), JobError> {
    if state(dir).await? == JobState::Running {
        let noted = files::create_once(&dir.join("stop"), b"", RECORD_MAX);
        if let Some(file) = unit::read(dir)? {
            // The note says whose wish it was; without it, on a full disk, the unit is stopped all the same.
            return Ok(systemd::stop(&file.unit).await?);
        }
        noted?;
    }
    Ok(())
}

/// Returns the end of what the job in `dir` has printed, made printable; empty if there is nothing.
pub async fn log_tail(dir: &Path, bytes_max: usize) -> Result<String, JobError> {
    let log = match unit::read(dir)? {
        Some(file) => {
            let lines = systemd::last_lines(&file.unit, LOG_LINES).await;
            lines.map_err(|source| JobError::Log { dir: dir.to_owned(), source })?.into_bytes()
        }
        None => files::read_if_exists(&dir.join("log"), 2 * LOG_MAX as u64)?.unwrap_or_default(),
    };
    Ok(printable(&log[log.len().saturating_sub(bytes_max)..]))
}

fn read_record(dir: &Path) -> Result<Option<ExitRecord>, JobError> {
    let bytes = files::read_if_exists(&dir.join("exit.json"), RECORD_MAX)?;
    let record = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
    record.map_err(|source| JobError::Record { dir: dir.to_owned(), source })
}

fn write_record(dir: &Path, record: &ExitRecord) -> Result<(), JobError> {
    let json = serde_json::to_vec(record);
    let json = json.map_err(|source| JobError::Record { dir: dir.to_owned(), source })?;
    Ok(files::write_atomic(&dir.join("exit.json"), &json, files::PRIVATE)?)
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
}
