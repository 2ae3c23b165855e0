//! The files that everybody may read: `<root>/run/pullagent/status.json` and `history.json`. They outlive the
//! agent, so that what it last knew can be read while it is dead or hung.

use std::path::{Path, PathBuf};

use super::{Agent, History, Snapshot, Status, Tally};
use crate::config::Settings;
use crate::host::files::{self, FileError};

/// The version of the layout of both files.
pub const SCHEMA: u32 = 1;
/// The largest file that is read, in bytes. The lists in it are bounded; a usual one has a few thousand.
const FILE_MAX: u64 = 4 << 20;
/// How many poll intervals may pass without a word before the agent is called silent.
const SILENT_INTERVALS: u64 = 3;
/// Seconds that a busy host may be late in addition.
const SILENT_GRACE_SECS: u64 = 120;
/// Seconds after a moment of the calendar within which a healthy agent has asked, and the answer has come or not.
const CALENDAR_LATE_SECS: u64 = 1800;
/// Seconds that may come on top of the interval while a remote does not answer ([`crate::plan::backoff`]).
const BACKOFF_SECS_MAX: u64 = 900;

/// Says why the files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The directory could not be made.
    #[error("failed to create directory '{}'", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("failed to publish the status")]
    Write(#[from] FileError),
    /// A value could not be put into words; it names no file because none was touched.
    #[error("failed to render the status")]
    Render(#[from] serde_json::Error),
}

/// Says why a file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is none: no agent has run since the host was started.
    #[error("there is no '{}'", .0.display())]
    Missing(PathBuf),
    /// It can't be read.
    #[error("failed to read the agent's word")]
    File(#[from] FileError),
    /// It is not of a layout that this version knows.
    #[error("failed to understand '{}'", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
}

/// Returns the directory of the files and of the control socket.
pub fn run_dir(root: &Path) -> PathBuf {
    root.join("run/pullagent")
}

/// Returns the path of the status.
pub fn status_path(root: &Path) -> PathBuf {
    run_dir(root).join("status.json")
}

/// Returns the path of the history.
pub fn history_path(root: &Path) -> PathBuf {
    run_dir(root).join("history.json")
}

/// Writes the files, and knows what is in them.
#[derive(Debug)]
pub struct Publisher {
    root: PathBuf,
    agent: Agent,
    tally: Tally,
    status: Option<Status>,
    history: Option<History>,
}

impl Publisher {
    /// Makes the directory. Nothing is written yet.
    ///
    /// # Errors
    /// The directory can't be made.
    pub fn open(root: &Path) -> Result<Publisher, PublishError> {
        let path = run_dir(root);
        std::fs::create_dir_all(&path).map_err(|source| PublishError::Directory { path, source })?;
        let tally = Tally::after(read_status(root).ok().as_ref());
        let agent = Agent::this_process();
        Ok(Publisher { root: root.to_owned(), agent, tally, status: None, history: None })
    }

    /// Returns what counts for these files.
    pub fn tally(&self) -> Tally {
        self.tally.clone()
    }

    /// Writes what has changed. A status that differs in nothing but the time of writing is not written.
    ///
    /// # Errors
    /// A file can't be written. The next call tries again.
    pub fn publish(
        &mut self,
        snapshot: &Snapshot,
        settings: &Settings,
        now: u64,
    ) -> Result<(), PublishError> {
        let history = History::of(&snapshot.state, &settings.hostname);
        if self.history.as_ref() != Some(&history) {
            write(&history_path(&self.root), &history)?;
            self.history = Some(history);
        }
        let mut status = Status::from_snapshot(snapshot, settings);
        status.counters = self.tally.read(snapshot, &status);
        if self.status.as_ref() != Some(&status) {
            let agent = self.agent.speaking(&status, now);
            write(&status_path(&self.root), &Status { agent, ..status.clone() })?;
            self.status = Some(status);
        }
        Ok(())
    }
}

/// Returns the status as this process says it at the time `now`, without what is counted.
pub fn spoken(snapshot: &Snapshot, settings: &Settings, now: u64) -> Status {
    let status = Status::from_snapshot(snapshot, settings);
    Status { agent: Agent::this_process().speaking(&status, now), ..status }
}

impl Agent {
    fn speaking(&self, status: &Status, now: u64) -> Agent {
        Agent { written_at: now, due_at: due_at(status, now), ..self.clone() }
    }
}

/// Until when a healthy agent has written again: each poll changes at least the time of the last one.
fn due_at(status: &Status, now: u64) -> Option<u64> {
    let evenly = status.remotes.iter().filter(|r| r.calendar.is_none()).map(|r| r.interval).max();
    let troubled = status.remotes.iter().any(|r| r.trouble.is_some());
    let due = match evenly {
        Some(interval) => {
            let pause = if troubled { interval.saturating_add(BACKOFF_SECS_MAX) } else { interval };
            let silence = pause.saturating_mul(SILENT_INTERVALS).saturating_add(SILENT_GRACE_SECS);
            now.saturating_add(silence)
        }
        // All go by the calendar: the next of its moments counts.
        None => {
            let next = status.remotes.iter().filter_map(|r| r.next_poll_at).min()?;
            next.max(now).saturating_add(CALENDAR_LATE_SECS)
        }
    };
    status.trouble.is_none().then_some(due)
}

fn write(path: &Path, value: &impl serde::Serialize) -> Result<(), PublishError> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(files::write_atomic(path, &bytes, files::PUBLIC)?)
}

/// Reads the status that the agent wrote last.
///
/// # Errors
/// There is none, or it can't be read or understood.
pub fn read_status(root: &Path) -> Result<Status, ReadError> {
    read(status_path(root))
}

/// Reads the history that the agent wrote last.
///
/// # Errors
/// There is none, or it can't be read or understood.
pub fn read_history(root: &Path) -> Result<History, ReadError> {
    read(history_path(root))
}

fn read<T: serde::de::DeserializeOwned>(path: PathBuf) -> Result<T, ReadError> {
    match files::read_if_exists(&path, FILE_MAX)? {
        None => Err(ReadError::Missing(path)),
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|source| ReadError::Parse { path, source }),
    }
}
