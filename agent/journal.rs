//! The only persistent state: one record a line, appended and synced; replayed at start through [`State::apply`].
//!
//! Who holds a [`Journal`] holds its lock, and is the only one that may act. A torn last line is dropped; damage
//! anywhere else is an error, and the caller then changes nothing on the host. A journal is born with a record in it,
//! so that one that lost all of them is not taken for a new one. Once the file has grown past
//! [`COMPACT_BYTES`], a snapshot of the state takes its place by an atomic rename.
//!
//! The frame of a record (`v`, `seq`, `bootId`, `phase`, `event`, `mustUnderstand`) never changes, because a
//! rollback runs an older agent on a newer journal: an event that is unknown here is carried through if it only
//! informs, and otherwise marks the state as [`Foreign`], whose phase alone is acted on.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::model::{Event, Foreign, IllegalTransition, Phase, State};

/// The version of the frame.
pub const VERSION: u32 = 1;
/// Above this size a snapshot takes the place of the records.
pub const COMPACT_BYTES: u64 = 1 << 20;
/// No journal is larger; one that is was not written by this program.
pub const FILE_MAX: u64 = 64 << 20;
/// How many unknown events are carried through a compaction.
const CARRIED_MAX: usize = 256;
/// How many bytes must fit beside a journal that could not be written to before it is used again.
const ROOM_BYTES: usize = 64 << 10;
/// How often a lock that somebody else has is tried, and how long the pauses are: two seconds in all.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);
const FILE: &str = "journal";
const SNAPSHOT: &str = "snapshot";

/// Why the journal can't be used. The host then stays as it is.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another agent has it.
    #[error("the journal '{0}' is locked: another pullagent runs")]
    Locked(PathBuf),
    /// The file system said no.
    #[error("failed to {what} journal '{path}'")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Somebody else than the agent's user could have written there.
    #[error("'{path}' {what}")]
    Untrusted {
        /// The directory, or a file in it.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A record in the middle is damaged, so nothing after it can be believed.
    #[error("record {line} of journal '{path}' is damaged: {text}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        text: String,
    },
    /// A record does not follow from those before.
    #[error("record {line} of journal '{path}' does not follow from those before it")]
    Illegal {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Which transition.
        source: IllegalTransition,
    },
    /// An event was offered that the state does not allow; nothing was written.
    #[error("refused to journal an event that does not fit")]
    Refused(#[from] IllegalTransition),
    /// A failed append left the file in doubt; it has to be opened anew.
    #[error("journal '{0}' can't be written to after an earlier failure; restart pullagent")]
    Poisoned(PathBuf),
}

/// The frozen frame of a record.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Frame {
    v: u32,
    seq: u64,
    boot_id: String,
    /// Unknown phases of later versions are read as they are.
    phase: Value,
    must_understand: bool,
    event: Value,
}

/// What a snapshot record holds in the place of an event.
#[derive(Debug, Serialize, Deserialize)]
struct Snapshot {
    state: State,
    carried: Vec<Value>,
}

/// The open, locked journal together with the state that it adds up to.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    /// Holds the lock; never replaced, unlike the journal file itself.
    _lock: File,
    file: File,
    seq: u64,
    bytes: u64,
    boot_id: String,
    state: State,
    carried: Vec<Value>,
    poisoned: bool,
    new: bool,
}

/// What a journal adds up to.
#[derive(Debug, Default)]
struct Replay {
    state: State,
    carried: Vec<Value>,
    seq: u64,
    /// Length of the part that is whole.
    whole: u64,
    /// Length of what follows it.
    torn: u64,
}

impl Journal {
    /// Opens and locks the journal in `dir`, drops a torn last line, and replays it.
    ///
    /// # Errors
    /// Another agent has it, the disk fails, or it is damaged.
    pub fn open(dir: &Path, boot_id: &str) -> Result<Journal, JournalError> {
        let path = dir.join(FILE);
        let io = |what| {
            let path = path.clone();
            move |source| JournalError::Io { what, path, source }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(io("create the folder of"))?;
        ownership::check(dir)?;
        let lock = lock(dir)?;
        let new = !path.try_exists().map_err(io("look for"))?;
        if new {
            create(&path, boot_id)?;
        }
        let replay = replay(&path, &read(&path)?)?;
        if replay.torn > 0 {
            tracing::warn!(bytes = replay.torn, path = %path.display(), "dropped a torn record at the journal's end");
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let mut file = options.open(&path).map_err(io("open"))?;
        // A torn tail goes before anything is appended, or the next record would be glued to it.
        file.set_len(replay.whole).map_err(io("cut the torn tail of"))?;
        file.seek(SeekFrom::End(0)).map_err(io("seek in"))?;
        file.sync_all().map_err(io("sync"))?;
        sync_dir(dir).map_err(io("sync the folder of"))?;
        Ok(Journal {
            path,
            _lock: lock,
            file,
            seq: replay.seq,
            bytes: replay.whole,
            boot_id: boot_id.to_owned(),
            state: replay.state,
            carried: replay.carried,
            poisoned: false,
            new,
        })
    }

    /// Opens the journal again after a failure, once it can be read and there is room to write.
    ///
    /// # Errors
    /// As [`Journal::open`], or the disk is still full.
    pub fn reopen(dir: &Path, boot_id: &str) -> Result<Journal, JournalError> {
        let journal = Journal::open(dir, boot_id)?;
        let trial = journal.path.with_extension("room");
        let written = write_synced(&trial, &[0; ROOM_BYTES]).map(drop);
        let removed = std::fs::remove_file(&trial);
        written.and(removed).map_err(|e| journal.io("make room for", e))?;
        Ok(journal)
    }

    /// Returns the boot that its records are written in.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Tells whether there was no journal before: a first start, or somebody removed it.
    pub fn is_new(&self) -> bool {
        self.new
    }

    /// Returns what all records add up to.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Appends an event durably, then applies it. When this returns, the event has happened.
    ///
    /// # Errors
    /// The event does not fit (nothing was written), or it could not be made durable (nothing may be done on its
    /// strength, and the journal accepts no more).
    pub fn append(&mut self, event: &Event) -> Result<(), JournalError> {
        if self.poisoned {
            return Err(JournalError::Poisoned(self.path.clone()));
        }
        let mut next = self.state.clone();
        next.apply(event)?;
        let line = serde_json::to_value(event)
            .map_err(std::io::Error::from)
            .and_then(|value| record(&next, event.must_understand(), value, self.seq + 1, &self.boot_id))
            .map_err(|e| self.io("encode a record of", e))?;
        self.write(&line)?;
        self.state = next;
        if self.bytes > COMPACT_BYTES {
            self.compact()?;
        }
        Ok(())
    }

    /// Replaces all records by one that holds their sum.
    fn compact(&mut self) -> Result<(), JournalError> {
        let line = snapshot(&self.state, &self.carried, self.seq + 1, &self.boot_id)
            .map_err(|e| self.io("encode a snapshot of", e))?;
        let temp = self.path.with_extension("new");
        let written = write_synced(&temp, line.as_bytes());
        let file = match written {
            Ok(file) => file,
            // The records are all still there: a full disk must not stop what they say.
            Err(error) => {
                tracing::warn!(%error, path = %temp.display(), "journal not compacted");
                return Ok(());
            }
        };
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        if let Err(e) = std::fs::rename(&temp, &self.path).and_then(|()| sync_dir(dir)) {
            // Old or new file: both add up to the same, but which one this handle writes to is in doubt.
            self.poisoned = true;
            return Err(self.io("compact", e));
        }
        self.file = file;
        self.bytes = line.len() as u64;
        self.seq += 1;
        Ok(())
    }

    fn write(&mut self, line: &str) -> Result<(), JournalError> {
        let done = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(e) = done {
            self.poisoned = true;
            // Take the half-written line back if the disk allows; if not, the next open drops it.
            if self.file.set_len(self.bytes).and_then(|()| self.file.sync_data()).is_ok()
                && self.file.seek(SeekFrom::End(0)).is_ok()
            {
                self.poisoned = false;
            }
            return Err(self.io("append to", e));
        }
        self.seq += 1;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn io(&self, what: &'static str, source: std::io::Error) -> JournalError {
        JournalError::Io { what, path: self.path.clone(), source }
    }
}

/// Makes a journal whose one record says that nothing has happened yet; it appears whole.
fn create(path: &Path, boot_id: &str) -> Result<(), JournalError> {
    let temp = path.with_extension("new");
    let made = snapshot(&State::default(), &[], 1, boot_id)
        .and_then(|line| write_synced(&temp, line.as_bytes()))
        .and_then(|_| std::fs::rename(&temp, path));
    made.map_err(|source| JournalError::Io { what: "create", path: path.to_owned(), source })
}

/// Returns the line that holds the sum of all records before it.
fn snapshot(state: &State, carried: &[Value], seq: u64, boot_id: &str) -> std::io::Result<String> {
    let snapshot = Snapshot { state: state.clone(), carried: carried.to_owned() };
    let mut value = serde_json::to_value(&snapshot)?;
    value["event"] = SNAPSHOT.into();
    record(state, true, value, seq, boot_id)
}

/// Returns the line of a record with the state after it.
fn record(
    after: &State,
    must_understand: bool,
    event: Value,
    seq: u64,
    boot_id: &str,
) -> std::io::Result<String> {
    let (phase, boot_id) = (serde_json::to_value(after.phase())?, boot_id.to_owned());
    let frame = Frame { v: VERSION, seq, boot_id, phase, must_understand, event };
    Ok(seal(&serde_json::to_string(&frame)?))
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
}

/// Returns the line of a record: checksum, space, JSON, line feed.
fn seal(json: &str) -> String {
    format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes()))
}

/// Returns the JSON of a line, if its checksum is right.
fn unseal(line: &[u8]) -> Result<&[u8], String> {
    let (sum, json) = line.split_at_checked(8).ok_or("it is too short")?;
    let json = json.strip_prefix(b" ").ok_or("there is no space after the checksum")?;
    let sum = std::str::from_utf8(sum).ok().and_then(|s| u32::from_str_radix(s, 16).ok());
    if sum == Some(crc32c::crc32c(json)) { Ok(json) } else { Err("the checksum is wrong".to_owned()) }
}

fn replay(path: &Path, bytes: &[u8]) -> Result<Replay, JournalError> {
    let mut sum = Replay::default();
    let mut rest = bytes;
    let mut line_no = 0;
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        line_no += 1;
        let (line, after) = (&rest[..end], &rest[end + 1..]);
        let damaged = |text: String| JournalError::Damaged { path: path.to_owned(), line: line_no, text };
        let frame =
            unseal(line).and_then(|json| serde_json::from_slice::<Frame>(json).map_err(|e| e.to_string()));
        let frame = match frame {
            Ok(frame) => frame,
            // A power cut may leave blocks of zeros or half a line at the very end, even with a line feed in it.
            Err(_) if after.is_empty() => break,
            Err(text) => return Err(damaged(text)),
        };
        if sum.seq != 0 && frame.seq != sum.seq + 1 {
            return Err(damaged(format!("its number is {}, {} was to follow", frame.seq, sum.seq + 1)));
        }
        fold(&mut sum, frame).map_err(|e| match e {
            Unfit::Damaged(text) => damaged(text),
            Unfit::Illegal(source) => JournalError::Illegal { path: path.to_owned(), line: line_no, source },
        })?;
        rest = after;
        sum.whole = (bytes.len() - rest.len()) as u64;
    }
    if sum.whole == 0 {
        let text = "there is no whole record, so nothing is known of what happened here".to_owned();
        return Err(JournalError::Damaged { path: path.to_owned(), line: 1, text });
    }
    sum.torn = bytes.len() as u64 - sum.whole;
    Ok(sum)
}

enum Unfit {
    Damaged(String),
    Illegal(IllegalTransition),
}

/// Adds one record up.
fn fold(sum: &mut Replay, frame: Frame) -> Result<(), Unfit> {
    sum.seq = frame.seq;
    let name = frame.event.get("event").and_then(Value::as_str).unwrap_or_default().to_owned();
    if name == SNAPSHOT && frame.v == VERSION {
        match serde_json::from_value::<Snapshot>(frame.event.clone()) {
            Ok(snapshot) => (sum.state, sum.carried) = (snapshot.state, snapshot.carried),
            Err(e) => return Err(Unfit::Damaged(format!("the snapshot can't be read: {e}"))),
        }
        return Ok(());
    }
    match serde_json::from_value::<Event>(frame.event.clone()) {
        Ok(event) if frame.v == VERSION => match sum.state.apply(&event) {
            // After an event that was not understood, later ones need not fit what is known.
            Err(_) if sum.state.foreign.is_some() => mark_phase(sum, &frame.phase),
            other => other.map_err(Unfit::Illegal)?,
        },
        _ if !frame.must_understand => {
            if sum.carried.len() < CARRIED_MAX {
                sum.carried.push(frame.event);
            }
        }
        _ => {
            sum.state.foreign = Some(Foreign { event: name, phase: Phase::Idle, seq: frame.seq });
            mark_phase(sum, &frame.phase);
        }
    }
    Ok(())
}

/// Notes the phase that a newer version was in. A word that is unknown here counts as idle: nothing is done.
fn mark_phase(sum: &mut Replay, phase: &Value) {
    if let Some(foreign) = &mut sum.state.foreign {
        foreign.phase = serde_json::from_value(phase.clone()).unwrap_or(Phase::Idle);
    }
}

/// Takes the lock, or says who has it. A child that a dying agent was just starting holds its lock for a moment
/// longer, so a lock that is taken is tried for a while.
fn lock(dir: &Path) -> Result<File, JournalError> {
    let path = dir.join("lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file =
        file.map_err(|source| JournalError::Io { what: "open the lock of", path: path.clone(), source })?;
    for _ in 0..LOCK_TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(std::fs::TryLockError::Error(source)) => {
                return Err(JournalError::Io { what: "lock", path, source });
            }
        }
    }
    Err(JournalError::Locked(path))
}

fn read(path: &Path) -> Result<Vec<u8>, JournalError> {
    let io = |source| JournalError::Io { what: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(io)?.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io(std::io::Error::other(format!("it is larger than {FILE_MAX} bytes"))));
    }
    Ok(bytes)
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

mod ownership;

#[cfg(test)]
mod tests;
