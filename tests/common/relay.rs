//! A relay between clients and a server on loopback, which stops passing on what the server says when it is told to. It
//! takes connections all the same, as a network does that loses packets.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// How much is passed on at a time, in bytes.
const PIECE: usize = 4096;

/// The relay; it ends with the process.
#[derive(Debug, Clone)]
pub struct Relay {
    port: u16,
    left: Arc<Left>,
}

/// How many bytes of the server's may still pass; `None`: all.
#[derive(Debug, Default)]
struct Left {
    bytes: Mutex<Option<usize>>,
    changed: Condvar,
}

impl Relay {
    /// Starts a relay to a port.
    pub fn start(to: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay { port: listener.local_addr().unwrap().port(), left: Arc::default() };
        let left = relay.left.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let (from_client, from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || pass(from_client, server, None));
                let left = left.clone();
                std::thread::spawn(move || pass(from_server, client, Some(&left)));
            }
        });
        relay
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on, so many bytes of the server's pass, and then none.
    pub fn stall_after(&self, bytes: usize) {
        *self.left.bytes.lock().unwrap() = Some(bytes);
    }

    /// All passes again.
    pub fn heal(&self) {
        *self.left.bytes.lock().unwrap() = None;
        self.left.changed.notify_all();
    }

    /// Tells whether nothing passes any more.
    pub fn is_stalled(&self) -> bool {
        *self.left.bytes.lock().unwrap() == Some(0)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, left: Option<&Left>) {
    let mut piece = [0; PIECE];
    while let Ok(read @ 1..) = from.read(&mut piece) {
        let mut rest = &piece[..read];
        while !rest.is_empty() {
            let granted = left.map_or(rest.len(), |left| left.take(rest.len()));
            if to.write_all(&rest[..granted]).is_err() {
                break;
            }
            rest = &rest[granted..];
        }
    }
    let _closed = to.shutdown(Shutdown::Both).is_ok();
}

impl Left {
    /// Waits until something may pass, and returns how much.
    fn take(&self, wanted: usize) -> usize {
        let bytes = self.bytes.lock().unwrap();
        let mut bytes = self.changed.wait_while(bytes, |bytes| *bytes == Some(0)).unwrap();
        let granted = bytes.map_or(wanted, |bytes| bytes.min(wanted));
        *bytes = bytes.map(|bytes| bytes - granted);
        granted
    }
}
