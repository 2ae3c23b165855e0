//! The gateway's socket from the outside: bound as systemd does it, and spoken to by hand as an impostor would.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};

pub const MAIN: &str = "refs/heads/main";

fn socket() -> OwnedFd {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).unwrap()
}

/// Binds the socket as `pullagent.socket` does.
pub fn bind(path: &Path) -> OwnedFd {
    let socket = socket();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&socket, 4).unwrap();
    socket
}

/// Connects in the gateway's place.
pub fn impostor(path: &Path) -> OwnedFd {
    let socket = socket();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

/// Sends a frame by hand; an error says that the reconciler hung up.
pub fn say(socket: &OwnedFd, frame: &str, fds: &[OwnedFd]) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(frame.as_bytes())], &mut control, SendFlags::NOSIGNAL)
        .map(drop)
}

pub fn hear(socket: &OwnedFd) -> Option<String> {
    let mut frame = vec![0; 65_536];
    let n = rustix::net::recv(socket, &mut frame[..], RecvFlags::empty()).map_or(0, |(n, _)| n);
    (n > 0).then(|| String::from_utf8_lossy(&frame[..n]).into_owned())
}

pub fn seen(source: &str, tip: &str) -> String {
    format!(r#"{{"seen":{{"source":"{source}","refs":[{{"name":"{MAIN}","oid":"{tip}"}}]}}}}"#)
}
