//! The reconciler's end of the wire: it asks, keeps track of what it asked, and hands on what it is told, over one
//! gateway after the other. Nothing it is told is believed; whatever a gateway does or leaves undone is bounded in size,
//! number and time, so that a hostile one can delay and no more.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::config::{self, Settings};
use crate::host;
use crate::model::{HintCounts, HintWord, Oid, Sighting};
use crate::wire::{self, Class, Hint, Listener, Notice, ReconcilerEnd, Ref, Request, Source};

/// How long the gateway may take to begin with a pack, beyond the limits it keeps itself.
const PACK_BEGINS_MAX: Duration = Duration::from_secs(180);
/// How long the gateway may take to read what it is asked.
const READS_WITHIN: Duration = Duration::from_secs(5);
/// So many notices a second are taken from a gateway; while it sends more, it has to wait. An honest one sends a few a
/// minute, and no more than one a second for each source that it polls.
const NOTICES_PER_SEC: u32 = wire::POLLED_MAX as u32;
/// So many notices may come at once after a quiet time.
const NOTICES_BURST: u32 = 64;
/// How many reasons for broken packs are kept until somebody asks.
const BROKEN_MAX: usize = wire::SOURCES_MAX;
/// The shortest time between two gateways that connect.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// For so long a gateway may be gone before the remotes are called unreachable: it is restarted with each deployment.
const GONE_MAX: Duration = Duration::from_secs(5);
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
    /// Whether it was for want of a gateway, so that nothing is known of the remote.
    pub gone: bool,
}

/// The reconciler's end of the wire.
#[derive(Debug)]
pub struct Link {
    /// The gateway that serves at the moment.
    line: RefCell<Option<Rc<ReconcilerEnd>>>,
    /// How many gateways there were.
    met: watch::Sender<u64>,
    sources: RefCell<Vec<Source>>,
    hints: Vec<Hint>,
    next: Cell<u64>,
    /// The first request that went to this gateway.
    first: Cell<u64>,
    waiting: RefCell<BTreeMap<u64, oneshot::Sender<Result<OwnedFd, FetchError>>>>,
    /// Why packs under way broke off, as the gateway sees it.
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

/// Returns what a gateway has to watch by `settings`: the remotes, and to fetch from only, what submodules come from.
pub fn sources(settings: &Settings) -> Vec<Source> {
    const {
        let all = wire::POLLED_MAX + config::SUBMODULES_MAX;
        assert!(all <= wire::SOURCES_MAX, "a gateway may be told of all that may be configured");
    }
    let refs: Vec<String> =
        settings.branches().into_iter().map(|(name, _)| format!("{HEADS}{name}")).collect();
    let source = |r: &config::Remote, refs: &[String]| Source {
        name: r.name.clone(),
        url: r.url.clone(),
        refs: refs.to_vec(),
        interval_ms: r.interval.every().map_or(0, |span| millis(span.0)),
        calendar: r.interval.calendar().cloned(),
        username: r.username.clone(),
        token_file: r.token_file.clone(),
        https: r.https(),
        ssh_key_file: r.ssh_key_file.clone(),
        known_hosts_file: r.known_hosts_file.clone(),
        limits: limits(&settings.fetch),
    };
    let submodules = settings.source.submodules.iter().map(|(path, s)| s.as_remote(path));
    let fetched_from = submodules.map(|remote| source(&remote, &[]));
    settings.remotes.iter().map(|remote| source(remote, &refs)).chain(fetched_from).collect()
}

/// Returns which hints a gateway has to listen to by `settings`.
pub fn hints(settings: &Settings) -> Vec<Hint> {
    const { assert!(config::HINTS_MAX <= wire::HINTS_MAX, "a frame holds all hints that may be configured") };
    settings.hints.iter().map(|hint| wire_hint(hint, &settings.remotes)).collect()
}

fn wire_hint(hint: &config::Hint, remotes: &[config::Remote]) -> Hint {
    let address = || wire::Address {
        url: hint.url.clone().unwrap_or_default(),
        token_file: hint.token_file.clone(),
        https: hint.https(),
    };
    Hint {
        name: hint.name.clone(),
        way: match hint.kind {
            config::HintKind::Sse => wire::Way::Sse(address()),
            config::HintKind::LongPoll => wire::Way::LongPoll(address()),
            config::HintKind::Exec => wire::Way::Exec { command: hint.command.clone() },
        },
        polls: remotes
            .iter()
            .filter(|r| hint.is_for(r))
            .map(|r| (r.name.clone(), r.hinted_interval().map_or(0, millis)))
            .collect(),
        filter: hint.filter.clone(),
        splay_ms: millis(hint.splay.0),
        idle_ms: millis(hint.idle_timeout.0),
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// The import refuses what is larger, so it need not come in the first place.
fn limits(fetch: &config::Fetch) -> wire::Limits {
    wire::Limits {
        pack_bytes: fetch.pack_bytes_max,
        idle_ms: millis(fetch.idle_timeout.0),
        poll_ms: millis(fetch.poll_timeout.0),
        pack_ms: millis(fetch.timeout.0),
        ..wire::Limits::default()
    }
}

impl Link {
    /// Returns a link that has `sources` watched and `hints` listened to by whatever gateway there is. There is none yet.
    pub fn new(sources: Vec<Source>, hints: Vec<Hint>) -> Link {
        Link {
            line: RefCell::default(),
            met: watch::Sender::new(0),
            sources: RefCell::new(sources),
            hints,
            next: Cell::new(1),
            first: Cell::new(1),
            waiting: RefCell::default(),
            broke: RefCell::default(),
        }
    }

    /// Makes `channel` the gateway from now on. What an earlier one was asked has failed.
    pub async fn attach(&self, channel: ReconcilerEnd) {
        self.lose();
        let line = Rc::new(channel);
        let sources = self.sources.borrow().clone();
        // It learns what to watch before anybody can ask it for anything.
        let mut first = vec![Request::Watch { sources: sources.clone() }];
        if !self.hints.is_empty() {
            first.push(Request::Listen { hints: self.hints.clone() });
        }
        for request in first {
            if let Err(error) = tell(&line, &request).await {
                tracing::warn!("{error}");
            }
        }
        self.line.replace(Some(line));
        self.met.send_modify(|n| *n += 1);
        let newer = self.sources.borrow().clone();
        if newer != sources
            && let Err(error) = self.tell(&Request::Watch { sources: newer }).await
        {
            tracing::warn!("{error}");
        }
    }

    /// Says what to watch from now on, also to gateways to come.
    pub async fn watch(&self, sources: Vec<Source>) {
        if *self.sources.borrow() == sources {
            return;
        }
        self.sources.replace(sources.clone());
        if let Err(error) = self.tell(&Request::Watch { sources }).await {
            tracing::debug!("{error}; the next one is told what to watch");
        }
    }

    /// Has all sources polled now.
    ///
    /// # Errors
    /// There is no gateway, or it does not listen.
    pub async fn poll(&self) -> Result<(), FetchError> {
        self.tell(&Request::Poll { source: None }).await
    }

    /// Fetches `oid` and what it needs beyond `haves`.
    ///
    /// # Errors
    /// The gateway is gone, the remote refuses, or nothing comes in time.
    pub async fn want(&self, source: &str, oid: &Oid, haves: Vec<Oid>) -> Result<Incoming, FetchError> {
        let (source, oid) = (source.to_owned(), oid.clone());
        self.ask(|want| Request::Want { want, source, oid, haves }).await
    }

    /// Has the gateway reach `source` from scratch and fetch `oid` with what it needs beyond `haves`.
    ///
    /// # Errors
    /// As [`Link::want`].
    pub async fn probe(&self, source: &str, oid: &Oid, haves: Vec<Oid>) -> Result<Incoming, FetchError> {
        let (source, oid) = (source.to_owned(), oid.clone());
        self.ask(|nonce| Request::Probe { nonce, source, oid, haves }).await
    }

    /// Returns the reason for breaking off a pack, if there is one that is nearer than the pack itself.
    pub fn why_broken(&self, number: u64) -> Option<FetchError> {
        let said = self.broke.borrow_mut().remove(&number);
        said.or_else(|| (number < self.first.get()).then(|| gone("it closed the connection")))
    }

    /// Returns how many gateways there were so far.
    pub fn met(&self) -> u64 {
        *self.met.borrow()
    }

    /// Waits until there were more than `before`.
    pub async fn met_another(&self, before: u64) {
        // It can only fail when the sender is gone, and `self` holds it.
        let _seen = self.met.subscribe().wait_for(|met| *met > before).await.is_ok();
    }

    /// Serves gateways that connect to `door`, one at a time: the newest takes the place of the one before. Passes on
    /// what was seen.
    pub async fn admit(
        &self,
        door: &Listener,
        clock: impl Fn() -> u64,
        see: impl AsyncFn(Sighting),
    ) -> Infallible {
        let last = Cell::new(None);
        let mut why = "it has not connected yet".to_owned();
        loop {
            let line = self.line.borrow().clone();
            let newcomer = match line {
                Some(line) => tokio::select! {
                    newcomer = accept(door, &last) => newcomer,
                    ended = self.listen(&line, &clock, &see) => {
                        why = ended.err().map_or_else(|| "it closed the connection".to_owned(), |e| host::chain(&e));
                        tracing::info!("the gateway is gone: {why}");
                        self.lose();
                        continue;
                    }
                },
                None => match timeout(GONE_MAX, accept(door, &last)).await {
                    Ok(newcomer) => newcomer,
                    Err(_) => {
                        self.call_unreachable(&why, &clock, &see).await;
                        self.call_deaf(&why, &clock, &see).await;
                        accept(door, &last).await
                    }
                },
            };
            tracing::info!("a gateway has connected");
            self.attach(newcomer).await;
        }
    }

    /// Listens to the gateway that is attached until it is gone, and passes on what was seen.
    ///
    /// # Errors
    /// There is none, or it broke the protocol.
    pub async fn follow(
        &self,
        clock: impl Fn() -> u64,
        see: impl AsyncFn(Sighting),
    ) -> Result<(), wire::Error> {
        let line = self.line.borrow().clone().ok_or(wire::Error::Closed)?;
        self.listen(&line, &clock, &see).await
    }

    async fn ask(&self, request: impl FnOnce(u64) -> Request) -> Result<Incoming, FetchError> {
        let number = self.next.replace(self.next.get() + 1);
        let (send, answer) = oneshot::channel();
        self.waiting.borrow_mut().insert(number, send);
        let _forget = Forget { link: self, number };
        self.tell(&request(number)).await?;
        match timeout(PACK_BEGINS_MAX, answer).await {
            Ok(Ok(pack)) => Ok(Incoming { pack: pack?, number }),
            Ok(Err(_)) => Err(gone("it closed the connection")),
            Err(_) => {
                let text = "the gateway did not answer in time".to_owned();
                Err(FetchError { class: "timeout", text, gone: false })
            }
        }
    }

    async fn tell(&self, request: &Request) -> Result<(), FetchError> {
        let line = self.line.borrow().clone().ok_or_else(|| gone("none is connected"))?;
        tell(&line, request).await
    }

    async fn listen(
        &self,
        line: &ReconcilerEnd,
        clock: &impl Fn() -> u64,
        see: &impl AsyncFn(Sighting),
    ) -> Result<(), wire::Error> {
        let mut pace = Pace::new();
        while let Some((notice, fd)) = line.recv().await? {
            match notice {
                Notice::Seen { source, refs, old } => {
                    if let Some(heads) = self.heads(&source, refs) {
                        see(Sighting::Heads { remote: source, heads, old, at: clock() }).await;
                    }
                }
                Notice::Hint { name, word } => {
                    if self.hints.iter().any(|hint| hint.name == name) {
                        see(Sighting::Hint { name, word, at: clock() }).await;
                    }
                }
                Notice::Pack { want } => {
                    if let (Some(waiting), Some(fd)) = (self.waiting.borrow_mut().remove(&want), fd) {
                        // Whoever asked may have given up; dropping the pipe's end stops the transfer.
                        drop(waiting.send(Ok(fd)));
                    }
                }
                Notice::Failed { source, want: None, class, text } => {
                    if self.watches(&source) {
                        let class = class.as_str().to_owned();
                        see(Sighting::Unreachable { remote: source, class, text, at: clock() }).await;
                    }
                }
                Notice::Failed { want: Some(want), class, text, .. } => self.fail(want, class, text),
            }
            pace.keep().await;
        }
        Ok(())
    }

    /// Tells whether `source` is polled.
    fn watches(&self, source: &str) -> bool {
        self.sources.borrow().iter().any(|s| s.name == source && !s.refs.is_empty())
    }

    /// Returns the branches among `refs` that were asked of `source`; `None` if that is not polled (any more).
    fn heads(&self, source: &str, refs: Vec<Ref>) -> Option<BTreeMap<String, Oid>> {
        let sources = self.sources.borrow();
        let asked = &sources.iter().find(|s| s.name == source && !s.refs.is_empty())?.refs;
        let branch = |name: &str| name.strip_prefix(HEADS).map(str::to_owned);
        let wanted = refs.into_iter().filter(|r| asked.contains(&r.name));
        Some(wanted.filter_map(|r| Some((branch(&r.name)?, r.oid))).collect())
    }

    fn fail(&self, want: u64, class: Class, text: String) {
        let error = FetchError { class: class.as_str(), text, gone: false };
        if let Some(waiting) = self.waiting.borrow_mut().remove(&want) {
            return drop(waiting.send(Err(error)));
        }
        // A hostile gateway must not fill the memory.
        let mut broke = self.broke.borrow_mut();
        while broke.len() >= BROKEN_MAX {
            broke.pop_first();
        }
        if (self.first.get()..self.next.get()).contains(&want) {
            broke.insert(want, error);
        }
    }

    /// Gives up the gateway: whoever waits for it learns that it is gone.
    fn lose(&self) {
        self.line.replace(None);
        self.first.set(self.next.get());
        self.waiting.borrow_mut().clear();
        self.broke.borrow_mut().clear();
    }

    /// Without a gateway nobody listens to hints.
    async fn call_deaf(&self, why: &str, clock: &impl Fn() -> u64, see: &impl AsyncFn(Sighting)) {
        let text = wire::text(&gone(why).text);
        let word = HintWord { connected: false, text, counts: HintCounts::default() };
        for hint in &self.hints {
            see(Sighting::Hint { name: hint.name.clone(), word: word.clone(), at: clock() }).await;
        }
    }

    async fn call_unreachable(&self, why: &str, clock: &impl Fn() -> u64, see: &impl AsyncFn(Sighting)) {
        let FetchError { class, text, .. } = gone(why);
        let names: Vec<String> =
            self.sources.borrow().iter().filter(|s| !s.refs.is_empty()).map(|s| s.name.clone()).collect();
        for remote in names {
            let (class, text) = (class.to_owned(), text.clone());
            see(Sighting::Unreachable { remote, class, text, at: clock() }).await;
        }
    }
}

/// Waits for a gateway that connects, and never returns two within [`ACCEPT_PAUSE`].
async fn accept(door: &Listener, last: &Cell<Option<Instant>>) -> ReconcilerEnd {
    loop {
        if let Some(last) = last.get() {
            sleep_until(last + ACCEPT_PAUSE).await;
        }
        let accepted = door.accept().await;
        last.set(Some(Instant::now()));
        match accepted {
            Ok(channel) => return channel,
            Err(error) => tracing::warn!("no gateway can connect: {}", host::chain(&error)),
        }
    }
}

/// Bounds how many notices are taken in a time.
struct Pace {
    /// When the next notice would be due if they came evenly.
    due: Instant,
}

impl Pace {
    fn new() -> Pace {
        Pace { due: Instant::now() }
    }

    /// Waits as long as the last notice came too early.
    async fn keep(&mut self) {
        let gap = Duration::from_secs(1) / NOTICES_PER_SEC;
        let now = Instant::now();
        self.due = self.due.max(now) + gap;
        let early = (self.due - now).saturating_sub(gap * NOTICES_BURST);
        if !early.is_zero() {
            sleep(early).await;
        }
    }
}

/// Sends a request to a gateway, which has to read it in time.
async fn tell(line: &ReconcilerEnd, request: &Request) -> Result<(), FetchError> {
    match timeout(READS_WITHIN, line.send(request, None)).await {
        Ok(sent) => sent.map_err(|e| gone(&host::chain(&e))),
        Err(_) => Err(gone("it does not read what it is asked")),
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
    FetchError { class: "local", text: format!("the gateway is gone: {why}"), gone: true }
}
