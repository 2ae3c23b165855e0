//! The stream of events on the control socket: each status that the loop shows, to whoever listens, as server-sent events.
//!
//! A listener that is slow misses what lies between and gets the newest; so nothing piles up here.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Context;
use std::time::Duration;

use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Sleep;

use super::protocol::STATUS_EVENT;
use crate::config::Settings;
use crate::host::clock;
use crate::report::{self, Agent, Snapshot, Status};

/// How many streams there may be at once: half of all connections, so that orders always get through.
pub const STREAMS_MAX: usize = 8;
/// How long one stream may last. Whoever wants more connects again.
pub const STREAM_TIME_MAX: Duration = Duration::from_secs(3600);

/// Whether a connection has become a stream, and may live for longer than a question.
#[derive(Debug, Default)]
pub(super) struct Lease(AtomicBool);

/// When a connection ends, whatever the peer does.
#[derive(Debug)]
pub(super) struct Deadline {
    at: Pin<Box<Sleep>>,
    lease: Arc<Lease>,
}

impl Deadline {
    /// Returns one that is `after` from now, and [`STREAM_TIME_MAX`] after that where `lease` was lengthened.
    pub(super) fn new(after: Duration, lease: Arc<Lease>) -> Deadline {
        Deadline { at: Box::pin(tokio::time::sleep(after)), lease }
    }

    /// Fails once it is over; otherwise the task is woken when that may be so.
    pub(super) fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.at.as_mut().poll(cx).is_ready() {
            if !self.lease.0.swap(false, Ordering::Relaxed) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.at = Box::pin(tokio::time::sleep(STREAM_TIME_MAX));
        }
        Ok(())
    }
}

/// Where one listener stands.
struct Listener {
    shown: watch::Receiver<Arc<Snapshot>>,
    settings: Arc<Settings>,
    told: Option<Status>,
    _room: OwnedSemaphorePermit,
}

/// Answers with the status as it is now, and again whenever it changes, until the agent ends.
pub(super) fn stream(
    shown: watch::Receiver<Arc<Snapshot>>,
    settings: Arc<Settings>,
    lease: &Lease,
    room: OwnedSemaphorePermit,
) -> Response {
    lease.0.store(true, Ordering::Relaxed);
    let listener = Listener { shown, settings, told: None, _room: room };
    let events = stream::unfold(listener, async |mut listener| {
        let status = listener.next().await?;
        // A status has no line feeds in JSON.
        let data = serde_json::to_string(&status).ok()?;
        Some((Ok::<_, Infallible>(Event::default().event(STATUS_EVENT).data(data)), listener))
    });
    Sse::new(events).into_response()
}

impl Listener {
    /// Waits for a status that differs from the one told last in more than the time of writing. `None`: the agent ends.
    async fn next(&mut self) -> Option<Status> {
        loop {
            let snapshot = self.shown.borrow_and_update().clone();
            let status = report::spoken(&snapshot, &self.settings, clock::unix_secs());
            let lasting = Status { agent: Agent::default(), ..status.clone() };
            if snapshot.is_known() && self.told.as_ref() != Some(&lasting) {
                self.told = Some(lasting);
                return Some(status);
            }
            self.shown.changed().await.ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_may_live_for_longer_than_a_question() {
        let short = Duration::from_millis(10);
        let (question, stream) = (Arc::<Lease>::default(), Arc::<Lease>::default());
        stream.0.store(true, Ordering::Relaxed);
        let (mut one, mut other) = (Deadline::new(short, question), Deadline::new(short, stream));
        tokio::time::sleep(2 * short).await;
        let check = |deadline: &mut Deadline| {
            deadline.check(&mut Context::from_waker(std::task::Waker::noop())).map_err(|e| e.kind())
        };
        assert_eq!(check(&mut one), Err(io::ErrorKind::TimedOut));
        assert_eq!([check(&mut other), check(&mut other)], [Ok(()); 2]);
    }
}
