//! Owns how records reach the host's journal: each as one datagram of its [native
//! protocol](https://systemd.io/JOURNAL_NATIVE_PROTOCOL/), with fields that `journalctl` can match. It knows neither what a
//! record is about nor who is to see it.
//!
//! Logging must never stop whoever logs: a send that would block goes to standard error instead, where the journal listens,
//! too; and what fits nowhere is counted, and the count told as soon as there is room. (`tracing-journald` blocks while the
//! journal hangs, and drops what it can't send without a word.)

use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::SendFlags;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Where the journal takes datagrams.
pub const SOCKET: &str = "/run/systemd/journal/socket";
/// What the journal calls us, whichever of our processes it is.
const IDENTIFIER: &str = "pullagent";
/// What the names of our own fields begin with.
const PREFIX: &str = "PULLAGENT_";
/// Fields that say in a form for programs what the sentence says for people; others are appended to the sentence.
const SAID: [&str; 8] =
    ["event", "deployment", "revision", "generation", "branch", "signer", "code", "remote"];
/// The longest value that is sent, in bytes; what is longer is cut. A datagram of the usual size (212,992 bytes) has room for it.
const VALUE_MAX: usize = 48 << 10;
/// How many bytes may wait until standard error takes them.
const WAITING_MAX: usize = 64 << 10;

/// Tells whether standard error leads to the journal: `stream` is what `$JOURNAL_STREAM` says (systemd.exec(5)). A program
/// that was started by a service with its errors piped elsewhere has that variable, too.
pub fn is_stderr(stream: Option<&str>) -> bool {
    let Some((device, inode)) = stream.and_then(|stream| stream.split_once(':')) else { return false };
    let found = rustix::fs::fstat(io::stderr());
    found.is_ok_and(|found| device.parse() == Ok(found.st_dev) && inode.parse() == Ok(found.st_ino))
}

/// Tells whether a field only repeats, for programs, what the sentence says.
pub fn is_said(field: &str) -> bool {
    SAID.contains(&field)
}

/// The way to the journal, and the one that is left when it is closed.
#[derive(Debug)]
pub struct Journal {
    socket: Option<UnixDatagram>,
    path: PathBuf,
    stderr: OwnedFd,
    waiting: Mutex<Waiting>,
    message_id: fn(&str) -> Option<&'static str>,
}

/// What standard error has not taken yet.
#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lost: u64,
}

impl Journal {
    /// Opens the way to the journal that listens at `path`, with `stderr` to fall back on. `message_id` names the kind of
    /// record (`MESSAGE_ID=`) by the event that it is about.
    ///
    /// A journal that does not listen is no error: it may come back.
    pub fn open(path: PathBuf, stderr: OwnedFd, message_id: fn(&str) -> Option<&'static str>) -> Journal {
        let socket = UnixDatagram::unbound().ok().filter(|socket| socket.set_nonblocking(true).is_ok());
        Journal { socket, path, stderr, waiting: Mutex::default(), message_id }
    }

    fn send(&self, record: &Record) {
        let id = record.field("event").and_then(self.message_id);
        let sent = self.socket.as_ref().map(|socket| socket.send_to(&record.datagram(id), &self.path));
        if !matches!(sent, Some(Ok(_))) {
            self.send_line(&record.line());
        }
    }

    /// Writes a line to standard error, as much as it takes at once; the rest goes before the next one.
    fn send_line(&self, line: &[u8]) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.add(line);
        while !waiting.bytes.is_empty() {
            match self.write(&waiting.bytes) {
                Ok(0) | Err(_) => return,
                Ok(count) => drop(waiting.bytes.drain(..count)),
            }
            waiting.confess();
        }
    }

    fn write(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(self.stderr.as_fd(), bytes, flags) {
            Err(Errno::NOTSOCK) => rustix::io::write(&self.stderr, bytes),
            sent => sent,
        }
    }
}

impl Waiting {
    fn add(&mut self, line: &[u8]) {
        if self.bytes.len() + line.len() > WAITING_MAX {
            self.lost += 1;
        } else {
            self.bytes.extend_from_slice(line);
        }
    }

    /// Says how much was lost, once there is room again.
    fn confess(&mut self) {
        if self.lost > 0 && self.bytes.is_empty() {
            let lost = std::mem::take(&mut self.lost);
            let line = format!("<4>{lost} records were lost here: the journal took nothing\n");
            self.bytes.extend_from_slice(line.as_bytes());
        }
    }
}

/// What is to be said, with its fields.
#[derive(Debug)]
struct Record {
    priority: u8,
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Record {
    fn new(level: &Level) -> Record {
        // syslog(3)
        let priority = match *level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        Record { priority, message: String::new(), fields: Vec::new() }
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_str())
    }

    /// The sentence, and what no sentence says.
    fn message(&self) -> String {
        let unsaid = self.fields.iter().filter(|(name, _)| !is_said(name));
        unsaid.fold(self.message.clone(), |text, (name, value)| format!("{text} {name}={value}"))
    }

    fn datagram(&self, message_id: Option<&str>) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, "PRIORITY", &self.priority.to_string());
        put(&mut bytes, "SYSLOG_IDENTIFIER", IDENTIFIER);
        put(&mut bytes, "MESSAGE", &self.message());
        if let Some(id) = message_id {
            put(&mut bytes, "MESSAGE_ID", id);
        }
        for (name, value) in &self.fields {
            put(&mut bytes, &field_name(name), value);
        }
        bytes
    }

    /// One line, as sd-daemon(3) has it: the priority, then the text.
    fn line(&self) -> Vec<u8> {
        let text = self.message().replace('\n', " ");
        format!("<{}>{}\n", self.priority, cut(&text)).into_bytes()
    }
}

/// Makes a name that the journal takes: capitals, digits and underscores.
fn field_name(name: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    PREFIX.chars().chain(name.chars().map(letter)).collect()
}

/// Adds a field: `NAME=value` in one line, or the name in a line, then length and value where that has several lines.
fn put(bytes: &mut Vec<u8>, name: &str, value: &str) {
    let value = cut(value);
    bytes.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        bytes.push(b'\n');
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        bytes.push(b'=');
    }
    bytes.extend_from_slice(value.as_bytes());
    bytes.push(b'\n');
}

fn cut(value: &str) -> &str {
    &value[..value.floor_char_boundary(VALUE_MAX)]
}

impl Visit for Record {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, value.to_owned());
    }
}

impl Record {
    fn keep(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            name => self.fields.push((name, value)),
        }
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut record = Record::new(event.metadata().level());
        event.record(&mut record);
        self.send(&record);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn id_of(event: &str) -> Option<&'static str> {
        (event == "built").then_some("0123")
    }

    /// Returns a journal that listens at `path`, if anybody does, and what its standard error leads to.
    fn journal(path: &Path) -> (Journal, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Journal::open(path.to_owned(), ours.into(), id_of), theirs)
    }

    /// Logs by way of `journal`.
    fn log(journal: Journal, what: impl FnOnce()) {
        tracing::subscriber::with_default(tracing_subscriber::registry().with(journal), what);
    }

    fn read(from: &mut UnixStream) -> String {
        let mut bytes = Vec::new();
        // It ends with "would block" where the writer still lives.
        from.read_to_end(&mut bytes).ok();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_record_is_one_datagram_with_its_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        let (to_journal, mut stderr) = journal(&path);
        log(to_journal, || {
            let none: Option<&str> = None;
            tracing::warn!(event = "built", generation = 7_u64, signer = none, pid = 12, "two\nlines");
        });
        let mut bytes = [0; 1000];
        let count = listener.recv(&mut bytes).unwrap();
        let expected = "PRIORITY=4\nSYSLOG_IDENTIFIER=pullagent\nMESSAGE\n\u{10}\0\0\0\0\0\0\0two\nlines pid=12\n\
                        MESSAGE_ID=0123\nPULLAGENT_EVENT=built\nPULLAGENT_GENERATION=7\nPULLAGENT_PID=12\n";
        assert_eq!(String::from_utf8_lossy(&bytes[..count]), expected);
        assert_eq!(read(&mut stderr), "", "it is said once");
    }

    #[test]
    fn without_a_journal_the_sentence_goes_to_standard_error_with_its_priority() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let (to_journal, mut stderr) = journal(&path);
        log(to_journal, || {
            tracing::error!(event = "x", "no journal\nhere");
            // It comes back, and is used.
            let listener = UnixDatagram::bind(&path).unwrap();
            tracing::info!("now there is one");
            assert!(listener.recv(&mut [0; 1000]).unwrap() > 0);
            drop(listener);
            tracing::debug!("and it is gone");
        });
        assert_eq!(read(&mut stderr), "<3>no journal here\n<7>and it is gone\n");
    }

    /// A journal that hangs: nobody reads datagrams, nobody reads standard error. Then somebody does.
    #[test]
    fn a_journal_that_hangs_holds_nobody_up_and_what_was_lost_is_told() {
        const SAID: u64 = 20_000;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixDatagram::bind(&path).unwrap();
        let (to_journal, mut stderr) = journal(&path);
        let mut read_here = String::new();
        let mut in_queue = 0;
        log(to_journal, || {
            for n in 0..SAID {
                tracing::info!("sentence {n} of many, and it has some length to it, as sentences have");
            }
            read_here.push_str(&read(&mut stderr));
            listener.set_nonblocking(true).unwrap();
            while listener.recv(&mut [0; 1000]).is_ok() {
                in_queue += 1;
            }
            drop(listener);
            // The first one drains what waited, the second would be said alone.
            for _ in 0..2 {
                tracing::info!("the end");
                read_here.push_str(&read(&mut stderr));
            }
        });
        let lines: Vec<&str> = read_here.lines().collect();
        let lost = lines.iter().find_map(|line| line.strip_prefix("<4>")?.split_once(" records")).unwrap().0;
        let whole = lines.iter().filter(|line| line.starts_with("<6>sentence ") && line.ends_with("have"));
        assert_eq!(in_queue + whole.count() as u64 + lost.parse::<u64>().unwrap(), SAID);
        assert_eq!(lines.iter().filter(|line| **line == "<6>the end").count(), 2, "{}", lines.len());
    }

    #[test]
    fn values_are_bounded_and_names_are_such_as_the_journal_takes() {
        let (mut record, long) = (Record::new(&Level::INFO), "é".repeat(VALUE_MAX));
        record.message = long.clone();
        record.fields = vec![("signer", long)];
        assert!(record.datagram(None).len() < 2 * VALUE_MAX + 200 && record.line().len() <= VALUE_MAX + 4);
        assert_eq!(field_name("error.kind"), "PULLAGENT_ERROR_KIND");
    }

    #[test]
    fn standard_error_is_the_journal_only_where_it_is_the_named_stream() {
        let found = rustix::fs::fstat(io::stderr()).unwrap();
        assert!(is_stderr(Some(&format!("{}:{}", found.st_dev, found.st_ino))));
        for other in [None, Some(""), Some("1:1"), Some("x:y"), Some("12")] {
            assert!(!is_stderr(other), "{other:?}");
        }
    }
}
