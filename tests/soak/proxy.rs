//! What stands between a host and a remote, and fails in every way that a network and a server can.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy, copy_bidirectional};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{AbortHandle, JoinSet, spawn_local};

/// How long the port may still be in use by connections that were cut.
const BINDS_WITHIN: Duration = Duration::from_secs(5);
/// Connections that may wait to be taken.
const BACKLOG: u32 = 64;

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it is passed on.
    None,
    /// Nobody listens.
    Refused,
    /// It is taken, and nothing ever comes.
    Stall,
    /// The answer ends after so many bytes, whatever is in it.
    Cut(u64),
    /// The server has failed; over TLS, something that is no TLS.
    Error,
}

/// Listens on a port of its own in place of a server.
pub struct Proxy {
    address: SocketAddr,
    server: SocketAddr,
    serving: RefCell<Option<AbortHandle>>,
}

impl Proxy {
    pub async fn before(port: u16) -> Proxy {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let address = TcpListener::bind(any).await.unwrap().local_addr().unwrap();
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let proxy = Proxy { address, server, serving: RefCell::default() };
        proxy.set(Fault::None).await;
        proxy
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Ends all connections, and treats those to come by `fault`.
    pub async fn set(&self, fault: Fault) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
        }
        if fault == Fault::Refused {
            // What was aborted still has to let go of the port.
            tokio::task::yield_now().await;
            return;
        }
        let listener = bind(self.address).await;
        let server = self.server;
        let serving = spawn_local(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    Ok((client, _)) = listener.accept() => {
                        connections.spawn_local(serve(client, server, fault));
                    }
                    Some(_ended) = connections.join_next() => {}
                }
            }
        });
        self.serving.replace(Some(serving.abort_handle()));
    }
}

async fn bind(address: SocketAddr) -> TcpListener {
    let deadline = tokio::time::Instant::now() + BINDS_WITHIN;
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return listener,
            Err(e) => assert!(tokio::time::Instant::now() < deadline, "{address}: {e}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A connection that breaks is what this is about.
async fn serve(mut client: TcpStream, server: SocketAddr, fault: Fault) {
    let _ended = match fault {
        Fault::None => pass(&mut client, server).await.is_ok(),
        Fault::Cut(bytes) => cut(client, server, bytes).await.is_ok(),
        Fault::Error => fail(&mut client).await.is_ok(),
        Fault::Stall | Fault::Refused => copy(&mut client, &mut tokio::io::sink()).await.is_ok(),
    };
}

async fn pass(client: &mut TcpStream, server: SocketAddr) -> std::io::Result<()> {
    copy_bidirectional(client, &mut TcpStream::connect(server).await?).await.map(drop)
}

async fn cut(client: TcpStream, server: SocketAddr, bytes: u64) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (from_server, mut to_server) = TcpStream::connect(server).await?.into_split();
    let mut answer = from_server.take(bytes);
    tokio::select! {
        asked = copy(&mut from_client, &mut to_server) => asked.map(drop),
        answered = copy(&mut answer, &mut to_client) => answered.map(drop),
    }
}

async fn fail(client: &mut TcpStream) -> std::io::Result<()> {
    client.read_buf(&mut Vec::with_capacity(4096)).await?;
    client
        .write_all(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .await
}
