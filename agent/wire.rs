//! The messages between reconciler and gateway: one JSON frame per packet of one Unix socket, at most one file
//! descriptor beside it. A leaf: it knows neither Git nor the network nor what a message leads to, and it takes
//! whoever is at the other end for hostile: every length, count, name and id is checked before anyone sees it.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::PathBuf;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

pub use crate::model::RemoteFailure as Class;
use crate::model::{Calendar, HintWord, Https, Oid, OldProtocol};

/// The longest frame, in bytes; it fits the socket's default send buffer.
pub const FRAME_BYTES_MAX: usize = 64 * 1024;
/// The most sources one `Watch` may name.
pub const SOURCES_MAX: usize = 48;
/// The most of them that may be polled.
pub const POLLED_MAX: usize = 16;
/// The most refs a source may ask for, and the most a `Seen` may list.
pub const REFS_MAX: usize = 64;
/// The most commits a `Want` may say it has.
pub const HAVES_MAX: usize = 64;
/// The longest name of a source, ref or user, in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// The longest URL or path, in bytes.
pub const URL_BYTES_MAX: usize = 2048;
/// The longest explanation in a `Failed`, in bytes.
pub const TEXT_BYTES_MAX: usize = 200;

/// What the reconciler asks of the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// Watch exactly these sources from now on. One that is unchanged keeps its connection.
    Watch {
        /// The sources; their names differ.
        sources: Vec<Source>,
    },
    /// Listen to exactly these hints from now on. Before the first, a gateway listens to none.
    Listen {
        /// The hints; their names differ.
        hints: Vec<Hint>,
    },
    /// Poll now.
    Poll {
        /// The name of one source; `None` means all.
        source: Option<String>,
    },
    /// Fetch one object and what it needs.
    Want {
        /// The reconciler's number for this request; the answers repeat it.
        want: u64,
        /// The name of the source to fetch from.
        source: String,
        /// The object wanted.
        oid: Oid,
        /// What the reconciler has already, so that the pack can be thin.
        haves: Vec<Oid>,
    },
    /// Show that the source can still be reached: drop what is kept of it, read credentials and authorities afresh, look
    /// its name up afresh, ask for its refs, then fetch one object. The answers are those to a `Want` of this number.
    Probe {
        /// The reconciler's number for this request; the answers repeat it as `want`.
        nonce: u64,
        /// The name of the source to fetch from.
        source: String,
        /// The object to fetch.
        oid: Oid,
        /// What the reconciler has already, so that the pack is small.
        haves: Vec<Oid>,
    },
}

/// What the gateway tells the reconciler. None of it is to be believed without proof.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Notice {
    /// A poll was answered; sent also when nothing changed.
    Seen {
        /// The name of the source.
        source: String,
        /// Those of the refs asked for that the remote has.
        refs: Vec<Ref>,
        /// What the answer cost if the server speaks an old version of Git's protocol.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        old: Option<OldProtocol>,
    },
    /// The server sends a pack. The frame carries the read end of a pipe; closing it cancels the transfer.
    /// The end of the pipe proves nothing, only the pack's own trailer does.
    Pack {
        /// The number of the request.
        want: u64,
    },
    /// How a source of hints fares: sent when that changes, and when a hint leads to a poll.
    Hint {
        /// The name of the hint.
        name: String,
        /// How it fares.
        word: HintWord,
    },
    /// A poll or a fetch failed. For a fetch it is sent before the pipe ends.
    Failed {
        /// The name of the source.
        source: String,
        /// The number of the failed request; `None` for a poll.
        want: Option<u64>,
        /// What kind of failure.
        class: Class,
        /// One sentence for people, at most [`TEXT_BYTES_MAX`] bytes.
        text: String,
    },
}

/// One remote to watch. Credentials are paths only: the gateway reads them itself and sends them to this URL alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Source {
    /// The name by which both ends know it.
    pub name: String,
    /// `https://…`, `http://` on loopback, `file://…` or an absolute path, without user or password;
    /// `ssh://user@host/path` or `user@host:path`.
    pub url: String,
    /// Full ref names, compared exactly. A source without any is never polled, only fetched from.
    pub refs: Vec<String>,
    /// Time between polls, in milliseconds. Counts for nothing beside a calendar.
    pub interval_ms: u64,
    /// The moments at which it is polled instead, if it is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calendar: Option<Calendar>,
    /// The user name that goes with the token.
    pub username: String,
    /// The file that holds the token; read afresh for every request.
    pub token_file: Option<PathBuf>,
    /// How an HTTPS server is reached and believed.
    pub https: Https,
    /// The file that holds the private key for an SSH remote.
    pub ssh_key_file: Option<PathBuf>,
    /// The file of host keys that are accepted of an SSH remote.
    pub known_hosts_file: Option<PathBuf>,
    /// What the remote may cost.
    pub limits: Limits,
}

/// What one remote may cost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// The most refs one answer may list.
    pub refs: usize,
    /// The largest answer to a poll, in bytes.
    pub poll_bytes: u64,
    /// The largest pack, in bytes.
    pub pack_bytes: u64,
    /// How long a remote (or the reader of a pack) may be silent, in milliseconds.
    pub idle_ms: u64,
    /// How long a poll may take in all, in milliseconds.
    pub poll_ms: u64,
    /// How long a pack may take in all, in milliseconds.
    pub pack_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            refs: 1000,
            poll_bytes: 1 << 20,
            pack_bytes: 4 << 30,
            idle_ms: 30_000,
            poll_ms: 60_000,
            pack_ms: 3_600_000,
        }
    }
}

/// A ref of a remote and where it points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ref {
    /// The full name, such as `refs/heads/main`.
    pub name: String,
    /// The object it points to.
    pub oid: Oid,
}

/// Says why a frame was not sent or not accepted, or why the socket does not serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be made or used.
    #[error("failed to {0} the gateway socket")]
    Socket(&'static str, #[source] std::io::Error),
    /// The other end is closed.
    #[error("the other end of the gateway socket is closed")]
    Closed,
    /// The descriptor is not a sequenced-packet socket, which alone keeps frames apart.
    #[error("file descriptor {0} is not a sequenced-packet socket")]
    NotSeqpacket(i32),
    /// The descriptor is not a socket that others can connect to.
    #[error("file descriptor {0} is not a listening socket")]
    NotListening(i32),
    /// A frame is longer than [`FRAME_BYTES_MAX`].
    #[error("a frame is longer than {FRAME_BYTES_MAX} bytes")]
    Oversized,
    /// A frame is not one of the known messages.
    #[error("a frame is no known message: {0}")]
    Malformed(String),
    /// A message breaks one of the bounds of this module.
    #[error("a frame holds {0}")]
    Unacceptable(&'static str),
    /// A descriptor came with a message that has none, or the other way round, or there was more than one.
    #[error("a frame carries {0} file descriptors where {1} belongs to it")]
    Descriptors(usize, usize),
}

/// Cuts and flattens `raw` into an explanation that fits a [`Notice::Failed`].
pub fn text(raw: &str) -> String {
    const MORE: &str = "…";
    let flat: String = raw.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if flat.len() <= TEXT_BYTES_MAX {
        return flat;
    }
    let cut = flat.floor_char_boundary(TEXT_BYTES_MAX - MORE.len());
    format!("{}{MORE}", &flat[..cut])
}

/// A message that one of the two ends may send.
pub trait Frame: Serialize + DeserializeOwned {
    /// Returns how many file descriptors belong to this message: none or one.
    fn descriptors(&self) -> usize;
    /// Returns what about this message breaks the bounds.
    fn offence(&self) -> Option<&'static str>;
}

impl Frame for Request {
    fn descriptors(&self) -> usize {
        0
    }

    fn offence(&self) -> Option<&'static str> {
        match self {
            Request::Watch { sources } if too_many(sources) => Some("too many sources"),
            Request::Watch { sources } => sources.iter().find_map(Source::offence),
            Request::Listen { hints } if hints.len() > HINTS_MAX => Some("too many hints"),
            Request::Listen { hints } => hints.iter().find_map(Hint::offence),
            Request::Poll { source } => source.as_deref().and_then(name_offence),
            Request::Want { haves, .. } | Request::Probe { haves, .. } if haves.len() > HAVES_MAX => {
                Some("too many haves")
            }
            Request::Want { source, .. } | Request::Probe { source, .. } => name_offence(source),
        }
    }
}

impl Frame for Notice {
    fn descriptors(&self) -> usize {
        match self {
            Notice::Pack { .. } => 1,
            Notice::Seen { .. } | Notice::Hint { .. } | Notice::Failed { .. } => 0,
        }
    }

    fn offence(&self) -> Option<&'static str> {
        match self {
            Notice::Seen { refs, .. } if refs.len() > REFS_MAX => Some("too many refs"),
            Notice::Seen { source, refs, .. } => {
                name_offence(source).or_else(|| refs.iter().find_map(|r| ref_offence(&r.name)))
            }
            Notice::Pack { .. } => None,
            Notice::Hint { name, word } => text_offence(&word.text).or_else(|| name_offence(name)),
            Notice::Failed { source, text, .. } => text_offence(text).or_else(|| name_offence(source)),
        }
    }
}

fn too_many(sources: &[Source]) -> bool {
    let polled = sources.iter().filter(|source| !source.refs.is_empty()).count();
    sources.len() > SOURCES_MAX || polled > POLLED_MAX
}

impl Source {
    fn offence(&self) -> Option<&'static str> {
        let paths = [&self.token_file, &self.ssh_key_file, &self.known_hosts_file];
        if self.refs.len() > REFS_MAX {
            Some("too many refs")
        } else if self.url.len() > URL_BYTES_MAX || self.url.contains(char::is_control) {
            Some("no usable url")
        } else if paths.iter().any(|p| p.as_ref().is_some_and(|p| p.as_os_str().len() > URL_BYTES_MAX)) {
            Some("too long a path")
        } else {
            https_offence(&self.https)
                .or_else(|| name_offence(&self.name))
                .or_else(|| name_offence(&self.username))
                .or_else(|| self.refs.iter().find_map(|r| ref_offence(r)))
        }
    }
}

fn https_offence(https: &Https) -> Option<&'static str> {
    if https.files().iter().flatten().any(|path| path.as_os_str().len() > URL_BYTES_MAX) {
        return Some("too long a path");
    }
    let proxy = https.proxy.as_ref();
    proxy
        .is_some_and(|p| p.len() > URL_BYTES_MAX || p.contains(char::is_control))
        .then_some("no usable proxy")
}

fn text_offence(text: &str) -> Option<&'static str> {
    if text.len() > TEXT_BYTES_MAX {
        Some("too long a text")
    } else {
        text.contains(char::is_control).then_some("control characters")
    }
}

fn name_offence(name: &str) -> Option<&'static str> {
    let good = !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(char::is_control);
    (!good).then_some("no usable name")
}

/// A full ref name without anything that could mean more to a shell, a path or the protocol.
fn ref_offence(name: &str) -> Option<&'static str> {
    let legal = |c: char| !c.is_control() && !c.is_whitespace() && !"~^:?*[\\".contains(c);
    let good = name.starts_with("refs/") && name.len() <= NAME_BYTES_MAX && !name.contains("..");
    (!good || !name.chars().all(legal)).then_some("no usable ref name")
}

/// One end of the socket: sends `Out`, receives `In`.
///
/// After any error the end is to be dropped; the other end then sees the channel closed.
#[derive(Debug)]
pub struct Channel<Out, In> {
    /// Tokio has no type for sequenced packets; this one is only told when the socket is ready.
    socket: UnixDatagram,
    frames: PhantomData<fn(Out) -> In>,
}

/// The reconciler's end.
pub type ReconcilerEnd = Channel<Request, Notice>;
/// The gateway's end.
pub type GatewayEnd = Channel<Notice, Request>;

/// Returns two connected ends, for both roles in one process or for a child that inherits one.
///
/// # Errors
/// Without a Tokio runtime or without free file descriptors.
pub fn pair() -> Result<(ReconcilerEnd, GatewayEnd), Error> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (one, other) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|e| Error::Socket("create", e.into()))?;
    Ok((Channel::from_fd(one)?, Channel::from_fd(other)?))
}

impl<Out: Frame, In: Frame> Channel<Out, In> {
    /// Takes over a connected socket, such as one passed by the service manager.
    ///
    /// # Errors
    /// If it is no sequenced-packet socket, or outside a Tokio runtime with I/O.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, Error> {
        let socket = |what| move |e: rustix::io::Errno| Error::Socket(what, e.into());
        let kind = rustix::net::sockopt::socket_type(&fd).map_err(socket("inspect"))?;
        if kind != SocketType::SEQPACKET {
            return Err(Error::NotSeqpacket(fd.as_raw_fd()));
        }
        rustix::io::ioctl_fionbio(&fd, true).map_err(socket("prepare"))?;
        let socket =
            UnixDatagram::from_std(StdDatagram::from(fd)).map_err(|e| Error::Socket("register", e))?;
        Ok(Channel { socket, frames: PhantomData })
    }

    /// Gives the socket back.
    ///
    /// # Errors
    /// If it cannot be taken out of the event loop.
    pub fn into_fd(self) -> Result<OwnedFd, Error> {
        self.socket.into_std().map(Into::into).map_err(|e| Error::Socket("give back", e))
    }

    /// Sends one message, waiting while the other end has not read the earlier ones. Safe to cancel.
    ///
    /// # Errors
    /// If the message breaks the bounds (nothing is sent then), or the other end is closed.
    pub async fn send(&self, message: &Out, fd: Option<OwnedFd>) -> Result<(), Error> {
        check(message, fd.iter().count())?;
        let frame = serde_json::to_vec(message).map_err(|e| Error::Malformed(text(&e.to_string())))?;
        if frame.len() > FRAME_BYTES_MAX {
            return Err(Error::Oversized);
        }
        let fds: Vec<BorrowedFd<'_>> = fd.iter().map(AsFd::as_fd).collect();
        self.socket
            .async_io(Interest::WRITABLE, || send_frame(self.socket.as_fd(), &frame, &fds))
            .await
            .map_err(|e| match e.kind() {
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Error::Closed,
                _ => Error::Socket("send to", e),
            })
    }

    /// Receives one message, and its descriptor if it has one; `None` when the other end is closed. Safe to cancel.
    ///
    /// # Errors
    /// If what came is not an acceptable message.
    pub async fn recv(&self) -> Result<Option<(In, Option<OwnedFd>)>, Error> {
        let arrived = self.socket.async_io(Interest::READABLE, || recv_frame(self.socket.as_fd())).await;
        let Arrived { frame, mut fds, cut } = match arrived {
            Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(None),
            other => other.map_err(|e| Error::Socket("receive from", e))?,
        };
        if cut || frame.len() > FRAME_BYTES_MAX {
            return Err(Error::Oversized);
        }
        if frame.is_empty() {
            return Ok(None);
        }
        let message: In =
            serde_json::from_slice(&frame).map_err(|e| Error::Malformed(text(&e.to_string())))?;
        check(&message, fds.len())?;
        Ok(Some((message, fds.pop())))
    }
}

fn check(message: &impl Frame, fds: usize) -> Result<(), Error> {
    if let Some(what) = message.offence() {
        return Err(Error::Unacceptable(what));
    }
    if fds != message.descriptors() {
        return Err(Error::Descriptors(fds, message.descriptors()));
    }
    Ok(())
}

/// One packet as it came, before anything in it is believed.
struct Arrived {
    frame: Vec<u8>,
    fds: Vec<OwnedFd>,
    /// The packet or its descriptors did not fit.
    cut: bool,
}

fn send_frame(socket: BorrowedFd<'_>, frame: &[u8], fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(std::io::Error::other("more than one file descriptor"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(frame)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn recv_frame(socket: BorrowedFd<'_>) -> std::io::Result<Arrived> {
    // One byte more than allowed shows a frame that is too long; the kernel cuts what goes beyond.
    let mut frame = vec![0; FRAME_BYTES_MAX + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut frame)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    // Padding lets the kernel install more than one descriptor: all are taken, so that all get closed.
    let rights = |m| match m {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    };
    let fds = control.drain().filter_map(rights).flatten().collect();
    frame.truncate(got.bytes);
    Ok(Arrived { frame, fds, cut: got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) })
}

mod hint;
mod meeting;

pub use hint::{Address, COMMAND_BYTES_MAX, HINTS_MAX, Hint, Way};
pub use meeting::{Listener, connect};

#[cfg(test)]
mod tests;
