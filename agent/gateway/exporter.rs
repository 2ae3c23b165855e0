//! Shows metrics: to Prometheus over HTTP, and in a file for node_exporter. It reads what the agent published, and lives in
//! the process that may reach the network, so that it goes on while the agent is dead or hangs, and says so. Whatever fails
//! here is logged and tried again; it never keeps the host from being updated.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::config::Exporter;
use crate::host::{self, clock, files};
use crate::report::metrics::Seen;

/// How many connections are served at once; others wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8;
/// How long one connection may live, from its first byte to its last.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);
/// The longest head of a request, in bytes.
const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// The pause before it tries again to listen, or to accept where the kernel refuses.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// How often the file is written.
const TEXTFILE_EVERY: Duration = Duration::from_secs(30);
/// Where the metrics are.
const PATH: &str = "/metrics";
/// What they are (prometheus.io/docs/instrumenting/exposition_formats).
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Shows the metrics of the host at `root` where `exporter` says, until it is dropped.
pub async fn run(exporter: Exporter, root: PathBuf) -> Infallible {
    let Exporter { listen, textfile } = exporter;
    let listen = async {
        match listen {
            Some(address) => serve(address, &root).await,
            None => std::future::pending().await,
        }
    };
    let write = async {
        match textfile {
            Some(file) => keep(&file, &root).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        never = listen => match never {},
        never = write => match never {},
    }
}

async fn serve(address: SocketAddr, root: &Path) -> Infallible {
    let listener = bind(address).await;
    tracing::info!("metrics are at http://{address}{PATH}");
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = room.clone().acquire_owned().await.expect("nobody closes the semaphore");
        match listener.accept().await {
            Ok((stream, _)) => {
                let root = root.to_owned();
                tokio::spawn(async move {
                    // Who asks too slowly gets no answer; Prometheus asks again.
                    let _in_time = timeout(CONNECTION_TIME_MAX, answer(stream, &root)).await.is_ok();
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!("nobody can ask for metrics: {error}");
                sleep(TRY_AGAIN).await;
            }
        }
    }
}

/// Listens as soon as that is possible: the address may come up later than this process.
async fn bind(address: SocketAddr) -> TcpListener {
    let mut said = String::new();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => say(
                &mut said,
                format!(
                    "metrics can't be shown at '{address}' (exporter.listen), which is tried again: {error}"
                ),
            ),
        }
        sleep(TRY_AGAIN).await;
    }
}

/// Serves one request, and closes.
async fn answer(mut stream: TcpStream, root: &Path) -> io::Result<()> {
    let head = read_head(&mut stream).await?;
    let (status, kind, body) = respond(&head, root);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// Reads up to the empty line, or as much as is allowed.
async fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(1024);
    while head.len() < REQUEST_BYTES_MAX && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(head)
}

fn respond(head: &[u8], root: &Path) -> (&'static str, &'static str, String) {
    if head.len() >= REQUEST_BYTES_MAX {
        return ("431 Request Header Fields Too Large", PLAIN, "too long a request\n".to_owned());
    }
    let line = String::from_utf8_lossy(head.split(|b| *b == b'\r').next().unwrap_or_default()).into_owned();
    let mut words = line.split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    if !version.is_some_and(|v| v.starts_with("HTTP/1.")) {
        return ("400 Bad Request", PLAIN, "this is not HTTP/1\n".to_owned());
    }
    let path = target.and_then(|t| t.split('?').next());
    match (method, path) {
        (Some("GET"), Some(PATH)) => ("200 OK", TEXT_FORMAT, Seen::at(root, clock::unix_secs()).page()),
        (Some("GET"), _) => ("404 Not Found", PLAIN, format!("the metrics are at {PATH}\n")),
        _ => ("405 Method Not Allowed", PLAIN, "only GET\n".to_owned()),
    }
}

/// Keeps the file up to date, and takes it away in the end: what nobody writes any more is not to be read as if it were
/// new.
async fn keep(file: &Path, root: &Path) -> Infallible {
    let mut said = String::new();
    let _taken_away = Removed(file);
    loop {
        let page = Seen::at(root, clock::unix_secs()).page();
        match files::write_atomic(file, page.as_bytes(), files::PUBLIC) {
            Ok(()) => say(&mut said, String::new()),
            Err(error) => say(
                &mut said,
                format!(
                    "metrics can't be written (exporter.textfile), which is tried again; its directory must exist and let \
                 this user write: {}",
                    host::chain(&error)
                ),
            ),
        }
        sleep(TEXTFILE_EVERY).await;
    }
}

/// A file that goes with this.
struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        // It may never have been written; one that stays says itself how old it is.
        std::fs::remove_file(self.0).ok();
    }
}

/// Warns of what is new.
fn say(said: &mut String, text: String) {
    if !text.is_empty() && *said != text {
        tracing::warn!("{text}");
    }
    *said = text;
}
