//! The part that talks to the network and decides nothing: it polls remotes, says what it saw, and passes packs on
//! unread. It has no repository, opens no file besides credentials and what everybody may read, and shows metrics made of
//! that; so whoever takes it over can delay and misreport, and no more. On a host with systemd it is a process of its own (`process.rs`), else a task in the agent's.

pub mod link;

pub mod process;

pub mod exporter;

mod watch;

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use crate::wire::{self, Class, GatewayEnd, Notice, Request, Source};
use watch::{Outgoing, Poller, Want};

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
}

/// Serves the reconciler at the other end of `channel` until that end is closed.
///
/// # Errors
/// If the reconciler breaks the protocol, or no thread can be started.
pub async fn run(channel: GatewayEnd) -> Result<(), Error> {
    let (out, outgoing) = mpsc::channel(OUTGOING_MAX);
    let mut gateway = Gateway { pollers: BTreeMap::new(), ended: Vec::new(), out };
    let result = tokio::select! {
        heard = listen(&channel, &mut gateway) => heard,
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

async fn listen(channel: &GatewayEnd, gateway: &mut Gateway) -> Result<(), Error> {
    while let Some((request, _)) = channel.recv().await? {
        match request {
            Request::Watch { sources } => gateway.watch(sources)?,
            Request::Poll { source } => gateway.poll(source.as_deref()),
            Request::Want { want, source, oid, haves } => {
                gateway.fetch(source, Want { want, oid, haves, afresh: false }).await;
            }
            Request::Probe { nonce, source, oid, haves } => {
                gateway.fetch(source, Want { want: nonce, oid, haves, afresh: true }).await;
            }
        }
    }
    Ok(())
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
    out: mpsc::Sender<Outgoing>,
}

impl Gateway {
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
        Ok(())
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

    /// Calls every poller off and waits for its thread, which ends within milliseconds.
    async fn close(self) {
        let Gateway { pollers, ended, out } = self;
        drop(out);
        let all: Vec<Poller> = ended.into_iter().chain(pollers.into_values()).collect();
        all.iter().for_each(Poller::stop);
        let joined = tokio::task::spawn_blocking(move || all.into_iter().for_each(Poller::join));
        // It could only fail by a panic, which the panic hook has reported.
        let _joined = joined.await.is_ok();
    }
}
