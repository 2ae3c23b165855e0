//! The thread that listens to whoever says that something was pushed: one connection for each source of hints, made again
//! whenever it ends. It says when to poll and how the sources fare; it sees no remote and believes nothing it hears.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::bell::{Bell, Word};
use super::pace::Backoff;
use super::{long_poll, program, stream};
use crate::repo::net::Stop;
use crate::wire::{Hint, Way};

/// Words that may wait for the gateway; while they do, hints are still heard and counted.
const WORDS_MAX: usize = 16;

/// Why nobody listens to a source any more, for now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct End {
    pub(super) text: String,
    /// Whether the other side did what nobody does who means well.
    pub(super) broke_a_bound: bool,
    /// How long the server asks to be left alone, this time.
    pub(super) retry_after: Option<Duration>,
    /// How long it asks to be left alone each time.
    pub(super) retry: Option<Duration>,
}

impl End {
    pub(super) fn failed(text: impl Into<String>) -> End {
        End { text: text.into(), ..End::default() }
    }

    pub(super) fn bound(text: impl Into<String>) -> End {
        End { broke_a_bound: true, ..End::failed(text) }
    }
}

/// The handle of the thread.
#[derive(Debug)]
pub(super) struct Ears {
    hints: Vec<Hint>,
    words: mpsc::Receiver<Word>,
    /// The hints that are connected.
    connected: BTreeSet<String>,
    stop: Stop,
    thread: JoinHandle<()>,
}

impl Ears {
    /// Starts to listen.
    pub(super) fn start(hints: Vec<Hint>) -> io::Result<Ears> {
        let (send, words) = mpsc::channel(WORDS_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let stop = Stop::default();
        let thread = {
            let (hints, stop) = (hints.clone(), stop.clone());
            std::thread::Builder::new()
                .name("hints".to_owned())
                .spawn(move || run(runtime, &hints, &stop, &send))?
        };
        Ok(Ears { hints, words, connected: BTreeSet::new(), stop, thread })
    }

    pub(super) fn listens_to(&self, hints: &[Hint]) -> bool {
        self.hints == hints
    }

    /// Waits for the next word. Safe to cancel.
    pub(super) async fn hear(&mut self) -> Word {
        match self.words.recv().await {
            Some(word) => word,
            // The thread has panicked, which the panic hook has reported; polls go on as without hints.
            None => std::future::pending().await,
        }
    }

    /// Takes note of how a hint fares, and returns the sources to poll if it says so.
    pub(super) fn heed(&mut self, word: &Word) -> Vec<String> {
        if word.word.connected {
            self.connected.insert(word.name.clone());
        } else {
            self.connected.remove(&word.name);
        }
        let hint = self.hints.iter().find(|hint| word.poll && hint.name == word.name);
        hint.map(|hint| hint.polls.keys().cloned().collect()).unwrap_or_default()
    }

    /// Returns how often the sources are to be polled that a hint is connected for.
    pub(super) fn calm(&self) -> BTreeMap<&str, Duration> {
        let mut calm = BTreeMap::new();
        let connected = self.hints.iter().filter(|hint| self.connected.contains(&hint.name));
        for (source, interval_ms) in connected.flat_map(|hint| &hint.polls) {
            let interval = Duration::from_millis(*interval_ms);
            let least = calm.entry(source.as_str()).or_insert(interval);
            *least = interval.min(*least);
        }
        calm
    }

    pub(super) fn stop(&self) {
        self.stop.stop();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    pub(super) fn join(self) {
        let _ended = self.thread.join().is_ok();
    }
}

fn run(runtime: Runtime, hints: &[Hint], stop: &Stop, words: &mpsc::Sender<Word>) {
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = stop.stopped() => {}
            _ = join_all(hints.iter().map(|hint| listen(hint, words))) => {}
        }
    });
    // A name lookup that hangs in the C library cannot be called off; do not wait for it.
    runtime.shutdown_background();
}

/// Listens to one source until nobody hears what it says.
async fn listen(hint: &Hint, words: &mpsc::Sender<Word>) {
    let bell = Bell::new(hint.name.clone(), hint.filter.clone(), Duration::from_millis(hint.splay_ms));
    tokio::select! {
        never = connect(hint, &bell) => match never {},
        () = bell.tell(words) => {}
    }
}

async fn connect(hint: &Hint, bell: &Bell) -> Infallible {
    let mut backoff = Backoff::default();
    let mut last_id = Vec::new();
    let idle = Duration::from_millis(hint.idle_ms);
    loop {
        let began = Instant::now();
        let end = match &hint.way {
            Way::Sse(address) => stream::follow(address, idle, &mut last_id, bell).await,
            Way::LongPoll(address) => long_poll::follow(address, idle, bell).await,
            Way::Exec { command } => program::follow(command, bell).await,
        };
        if end.broke_a_bound {
            bell.too_long();
        }
        bell.lost(&end.text);
        backoff.ended(began.elapsed(), end.broke_a_bound);
        backoff.ask_once(end.retry_after);
        backoff.ask_always(end.retry);
        sleep(backoff.pause(fastrand::u64(..))).await;
    }
}
