//! The part that talks to the network and decides nothing: it polls remotes, says what it saw, and passes packs on
//! unread. It has no repository, opens no file besides credentials and what everybody may read, and shows metrics made of
//! that, and takes webhooks, which are good for a poll; so whoever takes it over can delay and misreport, and no more. On a
//! host with systemd it is a process of its own (`process.rs`), else a task in the agent's.

pub mod link;

pub mod process;

pub mod exporter;

pub mod sse;

pub mod webhook;

mod watch;

mod route;

mod schedule;

mod hint;

mod bell;

mod pace;

mod service;

mod stream;

mod long_poll;

mod program;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::wire::{self, Class, GatewayEnd, Hint, Notice, Request, Source};
use bell::Word;
use hint::Ears;
use watch::{Outgoing, Poller, Want};
use webhook::Wakes;

/// Notices that may wait for the reconciler; when it does not listen, the pollers wait too.
const OUTGOING_MAX: usize = 16;

/// Says why the gateway ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The reconciler's messages are not acceptable, or the socket failed.
    #[error("failed to talk to the reconciler")]
    Channel(#[from] wire::Error),
    /// A poller could not be started.
    #[error("failed to start polling '{0}'")]
    Start(String, #[source] std::io::Error),
    /// The thread that listens to hints could not be started.
    #[error("failed to start listening to hints")]
    Listen(#[source] std::io::Error),
}

/// Serves the reconciler at the other end of `channel` until that end is closed, and polls what `wakes` asks for.
///
/// # Errors
/// If the reconciler breaks the protocol, or no thread can be started.
pub async fn run(channel: GatewayEnd, wakes: Arc<Wakes>) -> Result<(), Error> {
    let (out, outgoing) = mpsc::channel(OUTGOING_MAX);
    let mut gateway =
        Gateway { pollers: BTreeMap::new(), ended: Vec::new(), ears: None, deaf: Vec::new(), out };
    let result = tokio::select! {
        heard = listen(&channel, &mut gateway, &wakes) => heard,
        spoken = speak(&channel, outgoing) => spoken,
    };
    drop(channel);
    gateway.close().await;
    match result {
        // It may close while we speak as well as while we listen.
        Err(Error::Channel(wire::Error::Closed)) => Ok(()),
        other => other,
    }
}

async fn listen(channel: &GatewayEnd, gateway: &mut Gateway, wakes: &Wakes) -> Result<(), Error> {
    loop {
        tokio::select! {
            asked = channel.recv() => match asked? {
                Some((request, _)) => gateway.obey(request).await?,
                None => return Ok(()),
            },
            word = hear(&mut gateway.ears) => gateway.heed(word).await,
            remotes = wakes.next() => gateway.hint(&remotes),
        }
    }
}

/// Waits for the next word of the hints. Safe to cancel.
async fn hear(ears: &mut Option<Ears>) -> Word {
    match ears {
        Some(ears) => ears.hear().await,
        None => std::future::pending().await,
    }
}

async fn speak(channel: &GatewayEnd, mut outgoing: mpsc::Receiver<Outgoing>) -> Result<(), Error> {
    while let Some(Outgoing { notice, pipe, close_after }) = outgoing.recv().await {
        channel.send(&notice, pipe).await?;
        drop(close_after);
    }
    Ok(())
}

struct Gateway {
    pollers: BTreeMap<String, Poller>,
    /// Called off, not yet waited for.
    ended: Vec<Poller>,
    /// The thread that listens to hints, if there are any.
    ears: Option<Ears>,
    /// Called off, not yet waited for.
    deaf: Vec<Ears>,
    out: mpsc::Sender<Outgoing>,
}

impl Gateway {
    async fn obey(&mut self, request: Request) -> Result<(), Error> {
        match request {
            Request::Watch { sources } => self.watch(sources)?,
            Request::Listen { hints } => self.listen(hints)?,
            Request::Poll { source } => self.poll(source.as_deref()),
            Request::Want { want, source, oid, haves } => {
                self.fetch(source, Want { want, oid, haves, afresh: false }).await;
            }
            Request::Probe { nonce, source, oid, haves } => {
                self.fetch(source, Want { want: nonce, oid, haves, afresh: true }).await;
            }
        }
        Ok(())
    }

    /// Makes `sources` the ones that are watched. Unchanged ones keep their connection and schedule.
    fn watch(&mut self, sources: Vec<Source>) -> Result<(), Error> {
        let mut before = std::mem::take(&mut self.pollers);
        for source in sources {
            let name = source.name.clone();
            let poller = match before.remove(&name) {
                Some(kept) if kept.watches(&source) => kept,
                other => {
                    self.ended.extend(other);
                    let started = Poller::start(source, self.out.clone());
                    started.map_err(|e| Error::Start(name.clone(), e))?
                }
            };
            self.ended.extend(self.pollers.insert(name, poller));
        }
        self.ended.extend(before.into_values());
        self.ended.iter().for_each(Poller::stop);
        self.ended.retain(|poller| !poller.has_ended());
        self.calm();
        Ok(())
    }

    /// Makes `hints` the ones that are listened to.
    fn listen(&mut self, hints: Vec<Hint>) -> Result<(), Error> {
        if self.ears.as_ref().is_some_and(|ears| ears.listens_to(&hints)) {
            return Ok(());
        }
        self.deaf.extend(self.ears.take());
        self.deaf.iter().for_each(Ears::stop);
        self.deaf.retain(|ears| !ears.has_ended());
        if !hints.is_empty() {
            self.ears = Some(Ears::start(hints).map_err(Error::Listen)?);
        }
        self.calm();
        Ok(())
    }

    /// Does what a hint is good for, which is to poll, and says how it fares.
    async fn heed(&mut self, word: Word) {
        let polls = self.ears.as_mut().map(|ears| ears.heed(&word)).unwrap_or_default();
        self.hint(&polls);
        self.calm();
        let Word { name, word, poll: _ } = word;
        // The receiver lives as long as this future is polled.
        let _sent = self.out.send(Notice::Hint { name, word }.into()).await.is_ok();
    }

    fn hint<'a>(&self, sources: impl IntoIterator<Item = &'a String>) {
        sources.into_iter().filter_map(|source| self.pollers.get(source)).for_each(Poller::hint);
    }

    /// Has sources polled less often while a hint is connected that is for them.
    fn calm(&self) {
        let calm = self.ears.as_ref().map(Ears::calm).unwrap_or_default();
        self.pollers.iter().for_each(|(name, poller)| poller.calm(calm.get(name.as_str()).copied()));
    }

    fn poll(&self, source: Option<&str>) {
        let chosen = |name: &str| source.is_none_or(|wanted| wanted == name);
        for (_, poller) in self.pollers.iter().filter(|(name, _)| chosen(name)) {
            poller.poll();
        }
    }

    async fn fetch(&self, source: String, fetch: Want) {
        let want = fetch.want;
        let refused = match self.pollers.get(&source) {
            None => "no such source is watched",
            Some(poller) if poller.fetch(fetch) => return,
            Some(_) => "too many fetches wait for this source",
        };
        let (class, text) = (Class::Local, refused.to_owned());
        let notice = Notice::Failed { source, want: Some(want), class, text };
        // The receiver lives as long as this future is polled.
        let _sent = self.out.send(notice.into()).await.is_ok();
    }

    /// Calls every thread off and waits for it, which ends within milliseconds.
    async fn close(self) {
        let Gateway { pollers, ended, ears, deaf, out } = self;
        drop(out);
        let all: Vec<Poller> = ended.into_iter().chain(pollers.into_values()).collect();
        let deaf: Vec<Ears> = deaf.into_iter().chain(ears).collect();
        all.iter().for_each(Poller::stop);
        deaf.iter().for_each(Ears::stop);
        let joined = tokio::task::spawn_blocking(move || {
            all.into_iter().for_each(Poller::join);
            deaf.into_iter().for_each(Ears::join);
        });
        // It could only fail by a panic, which the panic hook has reported.
        let _joined = joined.await.is_ok();
    }
}
