//! Pipes, read and written within the bounds of a [`Net`]; talking with a child over its three; and the child for a
//! local repository, `git-upload-pack`.

use std::io::{self, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::{Receiver, Sender};

use super::net::{Class, Failure, Net};
use super::talk::Piped;
use crate::host::command::Command;

/// How much of what a child wrote to its standard error is looked at, in bytes.
const STDERR_BYTES_MAX: u64 = 64 * 1024;
/// How long a child may take to say why it ended, after the end of its output.
const LAST_WORDS_WITHIN: Duration = Duration::from_secs(2);
/// What to do where the gateway's user can't read a repository. Short: of a failure, 200 bytes are shown.
const UNREADABLE: &str = "'pullagent-gateway' may not read all of it: give it the right; /home and /root its unit hides: \
                          use /srv, or BindReadOnlyPaths= (see the manual)";
/// One packet line and its length fit.
const BUFFER_BYTES: usize = 65_520;

/// The end of a pipe to read from.
pub(super) struct Reader {
    pipe: Receiver,
    net: Rc<Net>,
}

impl Reader {
    pub(super) fn new(fd: OwnedFd, net: &Rc<Net>) -> io::Result<Reader> {
        Ok(Reader { pipe: net.enter(|| Receiver::from_owned_fd(fd))?, net: net.clone() })
    }
}

impl Read for Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = loop {
            match self.pipe.try_read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.net.wait(self.pipe.readable()).map_err(|e| self.net.fail(e))??;
                }
                other => break other?,
            }
        };
        self.net.count(n).map_err(|e| self.net.fail(e))?;
        Ok(n)
    }
}

/// The end of a pipe to write to.
pub(super) struct Writer {
    pipe: Arc<Sender>,
    net: Rc<Net>,
}

impl Writer {
    pub(super) fn new(fd: OwnedFd, net: &Rc<Net>) -> io::Result<Writer> {
        Ok(Writer { pipe: Arc::new(net.enter(|| Sender::from_owned_fd(fd))?), net: net.clone() })
    }

    /// Makes the exchange under way end as soon as nobody reads from this pipe any more.
    pub(super) fn end_with_reader(&self) {
        self.net.end_with_reader(&self.pipe);
    }
}

impl Write for Writer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        loop {
            match self.pipe.try_write(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.net.wait(self.pipe.writable()).map_err(|e| self.net.fail(e))??;
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a reason of what a child wrote to its standard error before it ended.
pub(super) type Explain = fn(&str) -> Failure;

/// Returns a talk with `child`, which ends it when dropped.
///
/// # Errors
/// If its pipes cannot be waited for.
pub(super) fn talk(child: Child, net: &Rc<Net>, explain: Explain) -> io::Result<Piped> {
    let mut child = Talker(child);
    let pipes = (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take());
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        return Err(io::Error::other("no pipes"));
    };
    let input = Input(Writer::new(stdin.into(), net)?);
    let stderr = net.enter(|| Receiver::from_owned_fd(stderr.into()))?;
    let output = Output { stdout: Reader::new(stdout.into(), net)?, stderr, explain, _child: child };
    Ok(Piped::new(BufReader::with_capacity(BUFFER_BYTES, output), input))
}

/// Starts `git-upload-pack` for the repository at `path`. It serves one poll or one pack, then it is to be dropped.
///
/// # Errors
/// If there is no such directory or no such program.
pub(super) fn upload_pack(path: &Path, net: &Rc<Net>) -> Result<Piped, Failure> {
    let place = std::fs::canonicalize(path).and_then(readable).map_err(|e| unusable(&e))?;
    spawn_upload_pack(&place)
        .and_then(|child| talk(child, net, explain))
        .map_err(|e| Failure::new(Class::Local, format!("git-upload-pack cannot be run: {e}")))
}

/// Returns `place` if a repository in it can be read, with or without a work tree: Git says of one that can't that there is
/// none.
fn readable(place: PathBuf) -> io::Result<PathBuf> {
    for part in [".", "HEAD", "objects", ".git/HEAD", ".git/objects"] {
        match std::fs::File::open(place.join(part)) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Err(e),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(place)
}

/// Says why there is no repository at a path. The gateway's unit hides what is below `/home`, `/root` and `/tmp`.
fn unusable(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound => Failure::new(
            Class::NotFound,
            "the gateway finds no such directory; if there is one, its unit hides it (/tmp): use /srv",
        ),
        io::ErrorKind::PermissionDenied => Failure::new(Class::Refused, UNREADABLE),
        _ => Failure::new(Class::Local, format!("there is no usable directory: {error}")),
    }
}

fn spawn_upload_pack(repository: &Path) -> io::Result<Child> {
    Command::new("git-upload-pack")
        .arg(repository)
        .env("GIT_PROTOCOL", "version=2")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        // The operator named this repository; it may belong to somebody else than the user we run as.
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .converse()
}

fn explain(words: &str) -> Failure {
    if words.contains("Permission denied") {
        return Failure::new(Class::Refused, UNREADABLE);
    }
    let class =
        if words.contains("not appear to be a git repository") { Class::NotFound } else { Class::Refused };
    Failure::new(class, format!("git-upload-pack ended early: {}", words.trim()))
}

/// The child; ends with this value.
struct Talker(Child);

impl Drop for Talker {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself, which is as good; the wait below returns in either case.
            let _gone = rustix::process::kill_process_group(group, Signal::KILL).is_err();
        }
        let _reaped = self.0.wait().is_ok();
    }
}

/// What the child reads.
pub(super) struct Input(Writer);

impl Write for Input {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self.0.write(buf) {
            // A child that is gone says why on its other pipes, to the read that follows.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(buf.len()),
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What the child writes. Its end always comes too early: a session is over when we close it.
pub(super) struct Output {
    stdout: Reader,
    stderr: Receiver,
    explain: Explain,
    _child: Talker,
}

impl Read for Output {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.stdout.read(buf) {
            Ok(0) if !buf.is_empty() => {
                let failure = self.last_words();
                Err(self.stdout.net.fail(failure))
            }
            other => other,
        }
    }
}

impl Output {
    /// Says why the child ended, in its own words. It may close its output a moment before it speaks.
    fn last_words(&mut self) -> Failure {
        let mut words = Vec::new();
        let mut stderr = (&mut self.stderr).take(STDERR_BYTES_MAX);
        let read = async { tokio::time::timeout(LAST_WORDS_WITHIN, stderr.read_to_end(&mut words)).await };
        // What did not come in time or cannot be read is missing from the words, no more.
        match self.stdout.net.wait(read) {
            Ok(_) => (self.explain)(&String::from_utf8_lossy(&words)),
            Err(failure) => failure,
        }
    }
}
