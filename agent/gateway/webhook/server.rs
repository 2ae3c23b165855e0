//! Listens for requests: at a socket that the service manager opened, or, where it passes none, at one of its own. Bounds
//! the connections, and what each may cost.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::{Hooks, Wakes};
use crate::config::Settings;

/// How many connections are served at once; others wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 32;
/// How long one connection may live, from its first byte to its last.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);
/// The longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How many bytes of one connection are held at once.
const BUFFER_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;
/// The pause before it tries again to listen, or to accept where the kernel refuses.
const TRY_AGAIN: Duration = Duration::from_secs(10);

/// Takes requests to the hooks of `settings` until it is dropped, at `socket` if there is one; asks `wakes` for polls.
pub async fn run(settings: &Settings, socket: Option<OwnedFd>, wakes: Arc<Wakes>) -> Infallible {
    if settings.webhooks.hooks.is_empty() {
        return std::future::pending().await;
    }
    let hooks = Arc::new(Hooks::new(settings, wakes));
    hooks.check();
    let listener = listener(settings.webhooks.listen, socket).await;
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = room.clone().acquire_owned().await.expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((stream, peer)) => {
                let hooks = hooks.clone();
                tokio::spawn(async move {
                    serve(hooks, stream, peer.ip()).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!("nobody can send to webhooks: {error}");
                sleep(TRY_AGAIN).await;
            }
        }
    }
}

/// Takes one request of `peer`, answers and closes, all of it in time.
pub async fn serve(hooks: Arc<Hooks>, stream: impl AsyncRead + AsyncWrite + Unpin, peer: IpAddr) {
    let respond = service_fn(async |request| Ok::<_, Infallible>(hooks.respond(peer, request).await));
    let served = http1::Builder::new()
        .keep_alive(false)
        .half_close(true)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), respond);
    // What fails is the sender's loss, who is told so or hangs up.
    let _in_time = timeout(CONNECTION_TIME_MAX, served).await.is_ok();
}

/// Takes the socket that was passed, or listens as soon as that is possible: the address may come up later than this
/// process.
async fn listener(address: SocketAddr, socket: Option<OwnedFd>) -> TcpListener {
    match socket.map(from_fd) {
        Some(Ok(listener)) => {
            tracing::info!("webhooks are heard at the socket that systemd passes");
            return listener;
        }
        Some(Err(error)) => {
            tracing::warn!("the socket that systemd passes for webhooks is of no use: {error}")
        }
        None => {}
    }
    let mut said = String::new();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!("webhooks are heard at http://{address}/hook/");
                return listener;
            }
            Err(error) => {
                let text = error.to_string();
                if said != text {
                    tracing::warn!(
                        "webhooks can't be heard at '{address}' (webhooks.listen), which is tried again; where systemd is to \
                         listen, see: systemctl status pullagent-webhook.socket: {text}"
                    );
                }
                said = text;
            }
        }
        sleep(TRY_AGAIN).await;
    }
}

fn from_fd(socket: OwnedFd) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(socket);
    listener.local_addr()?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
