//! How the two ends meet where they are two processes: the reconciler listens, the gateway connects. Who may connect is a
//! matter of the socket's owner and mode; this file knows no path and removes no socket.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::Path;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use super::{Channel, Error, GatewayEnd, ReconcilerEnd};

/// Neither end may block its thread or reach a child.
const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// The socket that a gateway connects to.
#[derive(Debug)]
pub struct Listener {
    /// As in a [`Channel`], this one is only told when somebody knocks.
    socket: UnixDatagram,
}

impl Listener {
    /// Takes over a listening socket, such as one passed by the service manager.
    ///
    /// # Errors
    /// If it is no sequenced-packet socket or does not listen, or outside a Tokio runtime with I/O.
    pub fn from_fd(fd: OwnedFd) -> Result<Listener, Error> {
        let inspect = |e: rustix::io::Errno| Error::Socket("inspect", e.into());
        if sockopt::socket_type(&fd).map_err(inspect)? != SocketType::SEQPACKET {
            return Err(Error::NotSeqpacket(fd.as_raw_fd()));
        }
        if !sockopt::socket_acceptconn(&fd).map_err(inspect)? {
            return Err(Error::NotListening(fd.as_raw_fd()));
        }
        rustix::io::ioctl_fionbio(&fd, true).map_err(|e| Error::Socket("prepare", e.into()))?;
        let socket =
            UnixDatagram::from_std(StdDatagram::from(fd)).map_err(|e| Error::Socket("register", e))?;
        Ok(Listener { socket })
    }

    /// Waits for the next gateway. Safe to cancel.
    ///
    /// # Errors
    /// If the kernel refuses, for want of file descriptors most likely.
    pub async fn accept(&self) -> Result<ReconcilerEnd, Error> {
        let accept = || Ok(rustix::net::accept_with(self.socket.as_fd(), FLAGS)?);
        let accepted = self.socket.async_io(Interest::READABLE, accept).await;
        Channel::from_fd(accepted.map_err(|e| Error::Socket("accept at", e))?)
    }
}

/// Connects to the reconciler that listens at `path`.
///
/// # Errors
/// If nobody listens there, or too many wait already.
pub fn connect(path: &Path) -> Result<GatewayEnd, Error> {
    let failed = |e: rustix::io::Errno| Error::Socket("connect to", e.into());
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, FLAGS, None)
        .map_err(|e| Error::Socket("create", e.into()))?;
    rustix::net::connect(&socket, &address).map_err(failed)?;
    Channel::from_fd(socket)
}
