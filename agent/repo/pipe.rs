//! Pipes, read and written within the bounds of a [`Net`], and the local `git-upload-pack` behind two of them.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, ChildStderr};
use std::rc::Rc;
use std::sync::Arc;

use gix_transport::Protocol;
use gix_transport::client::git::{ConnectMode, blocking_io::Connection};
use rustix::process::{Pid, Signal};
use tokio::net::unix::pipe::{Receiver, Sender};

use super::net::{Class, Failure, Net};
use crate::host::command::Command;

/// How much of what a child wrote to its standard error is looked at, in bytes.
const STDERR_BYTES_MAX: usize = 4096;
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

/// Gitoxide's transport over the pipes of a local `git-upload-pack`.
pub(super) type Local = Connection<BufReader<Output>, BufWriter<Writer>>;

/// Starts `git-upload-pack` for the repository at `path`. It serves one poll or one pack, then it is to be dropped.
///
/// # Errors
/// If there is no such directory or no such program.
pub(super) fn upload_pack(path: &Path, net: &Rc<Net>) -> Result<Local, Failure> {
    let place = std::fs::canonicalize(path).map_err(|e| {
        let class = if e.kind() == io::ErrorKind::NotFound { Class::NotFound } else { Class::Local };
        Failure::new(class, format!("there is no usable directory: {e}"))
    })?;
    let failed = |e: io::Error| Failure::new(Class::Local, format!("git-upload-pack cannot be run: {e}"));
    let mut child = UploadPack(spawn_upload_pack(&place).map_err(failed)?);
    let pipes = (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take());
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        return Err(failed(io::Error::other("no pipes")));
    };
    // A request goes out as a whole: a child that refuses its first line is gone before a second one is written, and
    // its reason would be lost to a broken pipe.
    let stdin = BufWriter::with_capacity(BUFFER_BYTES, Writer::new(stdin.into(), net).map_err(failed)?);
    let stdout = Reader::new(stdout.into(), net).map_err(failed)?;
    let output = Output { stdout, stderr, _child: child };
    let output = BufReader::with_capacity(BUFFER_BYTES, output);
    let path = place.to_string_lossy().into_owned();
    Ok(Connection::new(output, stdin, Protocol::V2, path, None::<(&str, _)>, ConnectMode::Process, false))
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

/// The child; ends with this value.
struct UploadPack(Child);

impl Drop for UploadPack {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself, which is as good; the wait below returns in either case.
            let _gone = rustix::process::kill_process_group(group, Signal::KILL).is_err();
        }
        let _reaped = self.0.wait().is_ok();
    }
}

/// What the child writes. Its end always comes too early: a session is over when we close it.
pub(super) struct Output {
    stdout: Reader,
    stderr: ChildStderr,
    _child: UploadPack,
}

impl Read for Output {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.stdout.read(buf) {
            Ok(0) if !buf.is_empty() => {
                let words = self.last_words();
                Err(self.stdout.net.fail(words))
            }
            other => other,
        }
    }
}

impl Output {
    /// Says why the child ended, in its own words.
    fn last_words(&mut self) -> Failure {
        let mut words = vec![0; STDERR_BYTES_MAX];
        let unblocked = rustix::io::ioctl_fionbio(&self.stderr, true);
        let n = unblocked.map_err(io::Error::from).and_then(|()| self.stderr.read(&mut words)).unwrap_or(0);
        let words = String::from_utf8_lossy(&words[..n]);
        let class = if words.contains("not appear to be a git repository") {
            Class::NotFound
        } else {
            Class::Refused
        };
        Failure::new(class, format!("git-upload-pack ended early: {}", words.trim()))
    }
}
