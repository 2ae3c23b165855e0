//! The reconciler's end of the wire: it asks, keeps track of what it asked, and hands on what it is told. Nothing it
//! is told is believed; every answer is bounded by the wire and by a time limit.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::model::{Oid, Sighting};
use crate::wire::{self, Class, Notice, ReconcilerEnd, Request, Source};

/// How long the gateway may take to begin with a pack, beyond the limits it keeps itself.
const PACK_BEGINS_MAX: Duration = Duration::from_secs(180);
/// What a branch is called on the wire.
const HEADS: &str = "refs/heads/";

/// A fetch that did not come about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct FetchError {
    /// Stable word for the kind of failure.
    pub class: &'static str,
    /// What happened.
    pub text: String,
}

/// The reconciler's end of the wire.
#[derive(Debug)]
pub struct Link {
    channel: ReconcilerEnd,
    next: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, oneshot::Sender<Result<OwnedFd, FetchError>>>>,
    /// Why the pack under way broke off, as the gateway sees it.
    broke: RefCell<BTreeMap<u64, FetchError>>,
}

/// A pack that is on its way.
#[derive(Debug)]
pub struct Incoming {
    /// The read end of a pipe. Its end proves nothing.
    pub pack: OwnedFd,
    /// Asks [`Link::why_broken`] afterwards.
    pub number: u64,
}

impl Link {
    /// Returns the reconciler's side of `channel`.
    pub fn new(channel: ReconcilerEnd) -> Link {
        Link { channel, next: Cell::new(1), waiting: RefCell::default(), broke: RefCell::default() }
    }

    /// Says what to watch.
    ///
    /// # Errors
    /// The gateway is gone.
    pub async fn watch(&self, sources: Vec<Source>) -> Result<(), wire::Error> {
        self.channel.send(&Request::Watch { sources }, None).await
    }

    /// Has all sources polled now.
    ///
    /// # Errors
    /// The gateway is gone.
    pub async fn poll(&self) -> Result<(), wire::Error> {
        self.channel.send(&Request::Poll { source: None }, None).await
    }

    /// Fetches `oid` and what it needs beyond `haves`.
    ///
    /// # Errors
    /// The gateway is gone, the remote refuses, or nothing comes in time.
    pub async fn want(&self, source: &str, oid: &Oid, haves: Vec<Oid>) -> Result<Incoming, FetchError> {
        let number = self.next.replace(self.next.get() + 1);
        let (send, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(number, send);
        let _forget = Forget { link: self, number };
        let request = Request::Want { want: number, source: source.to_owned(), oid: oid.clone(), haves };
        self.channel.send(&request, None).await.map_err(|e| gone(&e.to_string()))?;
        match tokio::time::timeout(PACK_BEGINS_MAX, answer).await {
            Ok(Ok(pack)) => Ok(Incoming { pack: pack?, number }),
            Ok(Err(_)) => Err(gone("it closed the connection")),
            Err(_) => {
                Err(FetchError { class: "timeout", text: "the gateway did not answer in time".to_owned() })
            }
        }
    }

    /// Returns the gateway's reason for breaking off a pack, if it gave one.
    pub fn why_broken(&self, number: u64) -> Option<FetchError> {
        self.broke.borrow_mut().remove(&number)
    }

    /// Listens until the gateway is gone, and passes on what was seen.
    ///
    /// # Errors
    /// The gateway broke the protocol.
    pub async fn listen(
        &self,
        clock: impl Fn() -> u64,
        see: impl AsyncFn(Sighting),
    ) -> Result<(), wire::Error> {
        while let Some((notice, fd)) = self.channel.recv().await? {
            match notice {
                Notice::Seen { source, refs } => {
                    let branch = |name: &str| name.strip_prefix(HEADS).map(str::to_owned);
                    let heads = refs.into_iter().filter_map(|r| Some((branch(&r.name)?, r.oid))).collect();
                    see(Sighting::Heads { remote: source, heads, at: clock() }).await;
                }
                Notice::Pack { want } => {
                    if let (Some(waiting), Some(fd)) = (self.waiting.borrow_mut().remove(&want), fd) {
                        // Whoever asked may have given up; dropping the pipe's end stops the transfer.
                        drop(waiting.send(Ok(fd)));
                    }
                }
                Notice::Failed { source, want: None, class, text } => {
                    let class = class.as_str().to_owned();
                    see(Sighting::Unreachable { remote: source, class, text, at: clock() }).await;
                }
                Notice::Failed { want: Some(want), class, text, .. } => self.fail(want, class, text),
            }
        }
        Ok(())
    }

    fn fail(&self, want: u64, class: Class, text: String) {
        let error = FetchError { class: class.as_str(), text };
        match self.waiting.borrow_mut().remove(&want) {
            Some(waiting) => drop(waiting.send(Err(error))),
            None => {
                // Only the newest matters, and a hostile gateway must not fill the memory.
                let mut broke = self.broke.borrow_mut();
                broke.clear();
                broke.insert(want, error);
            }
        }
    }
}

/// Forgets a request that was dropped.
struct Forget<'a> {
    link: &'a Link,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.link.waiting.borrow_mut().remove(&self.number);
    }
}

fn gone(why: &str) -> FetchError {
    FetchError { class: "local", text: format!("the gateway is gone: {why}") }
}
