//! The agent's end of the control socket: opens it safely, says who asks, hands orders to the loop, shows the status.

use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::{IncomingStream, Listener};
use axum::{Json, Router};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::events::{self, Deadline, Lease, STREAMS_MAX};
use super::protocol::{self, COMMAND, EVENTS, HISTORY, ORDER_MAX, Order, REASON_MAX, Reply, SCHEMA, STATUS};
use crate::config::Settings;
use crate::host::{clock, files};
use crate::model::{self, Command};
use crate::report::{self, Snapshot, Status};

/// Members of this group may command, if it exists.
pub const ADMIN_GROUP: &str = "pullagent-admin";
/// How many connections are served at once; others wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16;
/// How long one connection may live, from its first byte to its last.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);
/// How long the loop may take to answer an order. It listens while it works.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);
/// How long to wait when the kernel can't accept a connection (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// How much of `passwd` and `group` is read, in bytes.
const ACCOUNTS_MAX: u64 = 1 << 20;

/// An order on its way to the loop, and where the answer goes.
pub type Ordered = (Command, oneshot::Sender<Result<String, String>>);

/// Says why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another agent listens.
    #[error("another agent answers on '{}'", .0.display())]
    Taken(PathBuf),
    /// The operating system refused.
    #[error("failed to {operation} '{}'", path.display())]
    Io {
        /// What was tried, such as "listen on".
        operation: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Opens the control socket of the host at `root`, for root and [`ADMIN_GROUP`] only. The socket of a dead agent
/// is replaced.
///
/// Needs a tokio runtime.
///
/// # Errors
/// Another agent listens there, or the operating system refuses.
pub fn bind(root: &Path) -> Result<UnixListener, BindError> {
    let path = protocol::socket_path(root);
    let wrap = |operation| {
        let path = path.clone();
        move |source| BindError::Io { operation, path, source }
    };
    std::fs::create_dir_all(files::parent(&path)).map_err(wrap("create the directory of"))?;
    match std::os::unix::net::UnixStream::connect(&path) {
        Ok(_) => return Err(BindError::Taken(path)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
        Err(e) => return Err(wrap("look at")(e)),
    }
    // It gets its owner and mode under another name, so that nobody can connect before.
    let fresh = path.with_file_name(format!(".control.{}.sock", std::process::id()));
    match std::fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(wrap("replace")(e)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&fresh).map_err(wrap("listen on"))?;
    restrict(&fresh).map_err(wrap("restrict"))?;
    std::fs::rename(&fresh, &path).map_err(wrap("put in place"))?;
    Ok(listener)
}

fn restrict(socket: &Path) -> io::Result<()> {
    if let Some(group) = account(Path::new("/etc/group"), |name, _| name == ADMIN_GROUP).map(|(_, gid)| gid) {
        chown(socket, None, Some(group))?;
    }
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o660))
}

/// Finds the first account in a file of the layout of `passwd` and `group`: name and number are fields 1 and 3.
fn account(file: &Path, wanted: impl Fn(&str, u32) -> bool) -> Option<(String, u32)> {
    let bytes = files::read_bounded(file, ACCOUNTS_MAX).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let parse = |line: &str| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        wanted(name, number).then(|| (name.to_owned(), number))
    };
    text.lines().find_map(parse)
}

/// Serves the socket until it is dropped.
///
/// # Errors
/// None in practice: a connection that fails is the peer's loss.
pub async fn serve(
    listener: UnixListener,
    orders: mpsc::Sender<Ordered>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    settings: Arc<Settings>,
) -> io::Result<()> {
    let router = Router::new()
        .route(STATUS, get(status))
        .route(HISTORY, get(history))
        .route(EVENTS, get(events))
        .route(COMMAND, post(command))
        .fallback(nothing_here)
        .layer(DefaultBodyLimit::max(ORDER_MAX))
        .with_state(Arc::new(Served {
            orders,
            snapshot,
            settings,
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
        }));
    let guarded = Guarded { listener, room: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
    axum::serve(guarded, router.into_make_service_with_connect_info::<Peer>()).await
}

struct Served {
    orders: mpsc::Sender<Ordered>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    settings: Arc<Settings>,
    streams: Arc<Semaphore>,
}

async fn status(State(served): State<Arc<Served>>) -> Json<Status> {
    let snapshot = served.snapshot.borrow().clone();
    Json(report::spoken(&snapshot, &served.settings, clock::unix_secs()))
}

async fn events(State(served): State<Arc<Served>>, ConnectInfo(peer): ConnectInfo<Peer>) -> Response {
    match served.streams.clone().try_acquire_owned() {
        Ok(room) => events::stream(served.snapshot.clone(), served.settings.clone(), &peer.lease, room),
        Err(_) => refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{STREAMS_MAX} listen already, which is as many as may"),
            Some("end another 'pullagent status --watch', or read the file"),
        ),
    }
}

async fn history(State(served): State<Arc<Served>>) -> Json<report::History> {
    let snapshot = served.snapshot.borrow().clone();
    Json(report::History::of(&snapshot.state, &served.settings.hostname))
}

async fn command(
    State(served): State<Arc<Served>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    order: Result<Json<Order>, JsonRejection>,
) -> Response {
    let order = match order {
        Ok(Json(order)) => order,
        Err(wrong) => return refuse(wrong.status(), wrong.body_text(), None),
    };
    if let Order::Suspend { reason: Some(reason), .. } | Order::Reject { reason: Some(reason), .. } = &order
        && reason.chars().count() > REASON_MAX
    {
        let text = format!("the reason is longer than {REASON_MAX} characters");
        return refuse(StatusCode::BAD_REQUEST, text, Some("say it in a sentence"));
    }
    let by = peer.name();
    if let Some(text) = only_root_may(&order, &served.snapshot.borrow().state).filter(|_| !peer.is_root()) {
        tracing::warn!(%by, ?order, "a user who is not root gave an order that only root may give");
        return refuse(
            StatusCode::FORBIDDEN,
            text.to_owned(),
            Some("run it as root; membership of the admin group is not enough"),
        );
    }
    tracing::debug!(%by, ?order, "an operator gives an order");
    let (reply, answer) = oneshot::channel();
    let is_sync = matches!(order, Order::Sync);
    if served.orders.try_send((order.given_by(by.clone()), reply)).is_err() {
        return refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "the agent is busy or is ending".to_owned(),
            Some("try again"),
        );
    }
    let answer = tokio::time::timeout(ANSWER_TIME_MAX, answer).await;
    // What was done is said by the loop, as an event; a poll is none, nor is an order that came to nothing.
    match &answer {
        Ok(Ok(Ok(_))) if is_sync => tracing::info!("{by} has the remotes asked"),
        Ok(Ok(Err(why))) => tracing::info!("an order of {by} was not carried out: {why}"),
        Ok(Ok(Ok(_)) | Err(_)) | Err(_) => {}
    }
    match answer {
        Ok(Ok(Ok(message))) => Json(Reply { schema: SCHEMA, ok: true, message, hint: None }).into_response(),
        Ok(Ok(Err(message))) => refuse(StatusCode::CONFLICT, message, None),
        Ok(Err(_)) => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, "the agent is ending".to_owned(), Some("try again"))
        }
        Err(_) => {
            let text = format!("the agent has not answered within {} s", ANSWER_TIME_MAX.as_secs());
            refuse(StatusCode::GATEWAY_TIMEOUT, text, Some("see whether it was heard: pullagent status"))
        }
    }
}

/// Says why only root may give this order, if that is so.
fn only_root_may(order: &Order, state: &model::State) -> Option<&'static str> {
    match order {
        Order::Accept { .. } => Some("only root may name the commit to go on from"),
        Order::Resume if state.foreign.is_some() => {
            Some("only root may go on without what a newer pullagent left in the journal")
        }
        _ => None,
    }
}

async fn nothing_here() -> Response {
    refuse(StatusCode::NOT_FOUND, "there is nothing at this path".to_owned(), None)
}

fn refuse(code: StatusCode, message: String, hint: Option<&str>) -> Response {
    let reply = Reply { schema: SCHEMA, ok: false, message, hint: hint.map(str::to_owned) };
    (code, Json(reply)).into_response()
}

/// Who is at the other end, by the kernel's word.
#[derive(Debug, Clone)]
struct Peer {
    uid: Option<u32>,
    lease: Arc<Lease>,
}

impl Peer {
    /// Tells whether this is root, or whoever is root's stand-in: the user that the agent runs as.
    fn is_root(&self) -> bool {
        self.uid.is_some_and(|uid| uid == 0 || uid == rustix::process::geteuid().as_raw())
    }

    fn name(&self) -> String {
        let Some(uid) = self.uid else { return "an unknown user".to_owned() };
        let named = account(Path::new("/etc/passwd"), |_, number| number == uid);
        named.map_or_else(|| format!("uid {uid}"), |(name, _)| name)
    }
}

impl Connected<IncomingStream<'_, Guarded>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Guarded>) -> Peer {
        stream.remote_addr().clone()
    }
}

/// Accepts a bounded number of connections at once, and bounds the life of each.
struct Guarded {
    listener: UnixListener,
    room: Arc<Semaphore>,
}

impl Listener for Guarded {
    type Io = Guest;
    type Addr = Peer;

    async fn accept(&mut self) -> (Guest, Peer) {
        loop {
            // Nobody closes the semaphore; if it were closed, pausing is what is left to do.
            let permit = self.room.clone().acquire_owned().await;
            let accepted = self.listener.accept().await;
            let (Ok(permit), Ok((stream, _))) = (permit, accepted) else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let lease = Arc::new(Lease::default());
            let peer = Peer { uid: stream.peer_cred().ok().map(|c| c.uid()), lease: lease.clone() };
            let deadline = Deadline::new(CONNECTION_TIME_MAX, lease);
            return (Guest { stream, deadline, _permit: permit }, peer);
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer { uid: None, lease: Arc::default() })
    }
}

/// A connection that ends at its deadline, whatever the peer does.
struct Guest {
    stream: UnixStream,
    deadline: Deadline,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.deadline.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.deadline.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.deadline.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_or_number() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("passwd");
        std::fs::write(&file, "root:x:0:0:root:/root:/bin/sh\n\nbroken\nalice:x:1000:100::/home/alice:\n")
            .unwrap();
        assert_eq!(account(&file, |_, uid| uid == 1000), Some(("alice".to_owned(), 1000)));
        assert_eq!(account(&file, |name, _| name == "root"), Some(("root".to_owned(), 0)));
        assert_eq!(account(&file, |name, _| name == "broken"), None);
        assert_eq!(account(&dir.path().join("none"), |_, _| true), None);
    }
}
