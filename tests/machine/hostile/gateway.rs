//! A hostile program at the gateway's socket: it can say whatever fits into a packet, true or not, in the real words of
//! the wire or in none, and hand over whatever it likes to.

use std::io::{self, IoSlice, PipeReader, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use pullagent::model::Oid;
use pullagent::wire::{Notice, Ref, Request};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketType,
};

/// How long the reconciler may take to do something that it surely will.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a packet may wait for the reconciler to read others; it reads no more than it can bear.
const PATIENCE: Duration = Duration::from_secs(2);

/// The hostile program, connected.
#[derive(Debug)]
pub struct Hostile {
    socket: UnixDatagram,
}

impl Hostile {
    /// Connects, without waiting for anything.
    pub fn knock(path: &Path) -> io::Result<Hostile> {
        let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        let socket = UnixDatagram::from(socket);
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(Hostile { socket })
    }

    /// Connects and waits to be told what to watch: from then on the reconciler listens.
    pub fn connect(path: &Path) -> Hostile {
        let hostile = Hostile::knock(path).unwrap();
        assert!(matches!(hostile.asked(LIMIT), Some(Request::Watch { .. })), "it is taken for the gateway");
        hostile
    }

    /// Returns the next thing that the reconciler asks for; nothing if it asks for nothing in time.
    pub fn asked(&self, within: Duration) -> Option<Request> {
        self.socket.set_read_timeout(Some(within)).unwrap();
        let mut packet = vec![0; 128 * 1024];
        match self.socket.recv(&mut packet) {
            Ok(0) | Err(_) => None,
            Ok(length) => Some(serde_json::from_slice(&packet[..length]).unwrap()),
        }
    }

    /// Waits until the reconciler wants an object; returns the number of its request.
    pub fn wanted(&self, object: &str) -> u64 {
        let begun = Instant::now();
        while begun.elapsed() < LIMIT {
            match self.asked(LIMIT) {
                Some(Request::Want { want, oid, .. }) if oid.to_string() == object => return want,
                Some(_) => {}
                None => break,
            }
        }
        panic!("the reconciler does not want {object}");
    }

    /// Says something; an error if the reconciler does not listen any more.
    pub fn say(&self, packet: &[u8]) -> io::Result<()> {
        self.hand_over(packet, &[])
    }

    /// Says something and hands over files.
    pub fn hand_over(&self, packet: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(files.is_empty() || control.push(SendAncillaryMessage::ScmRights(files)));
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Says a word of the wire.
    pub fn tell(&self, notice: &Notice) -> io::Result<()> {
        self.say(&serde_json::to_vec(notice).unwrap())
    }

    /// Claims that a branch of the remote is at some commit.
    pub fn claim(&self, branch: &str, commit: &str) {
        let refs = vec![Ref { name: format!("refs/heads/{branch}"), oid: commit.parse::<Oid>().unwrap() }];
        self.tell(&Notice::Seen { source: "origin".into(), refs, old: None }).unwrap();
    }

    /// Answers a request with what is read from `pack`.
    pub fn answer(&self, want: u64, pack: impl AsFd) {
        let notice = serde_json::to_vec(&Notice::Pack { want }).unwrap();
        self.hand_over(&notice, &[pack.as_fd()]).unwrap();
    }

    /// Waits until the reconciler has hung up.
    pub fn is_cut_off(&self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < LIMIT {
            self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
            match self.socket.recv(&mut vec![0; 128 * 1024]) {
                Ok(0) => return true,
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return true,
                Ok(_) | Err(_) => {}
            }
        }
        false
    }
}

/// Returns a pipe that brings these bytes and ends.
pub fn bytes(content: Vec<u8>) -> PipeReader {
    let (read, mut write) = io::pipe().unwrap();
    std::thread::spawn(move || drop(write.write_all(&content)));
    read
}

/// Returns a pipe that brings these bytes and then nothing, and what keeps it open.
pub fn stalled(content: &[u8]) -> (PipeReader, OwnedFd) {
    let (read, mut write) = io::pipe().unwrap();
    write.write_all(content).unwrap();
    (read, write.into())
}
