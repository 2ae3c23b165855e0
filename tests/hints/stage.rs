//! A gateway that watches one remote, which counts how often it is asked, and listens to one source of hints.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pullagent::gateway;
use pullagent::model::{HintWord, Https};
use pullagent::wire::{self, Address, Hint, Limits, Notice, ReconcilerEnd, Request, Source, Way};

use crate::common::scripted::{self, Ask};

pub const SECOND: Duration = Duration::from_secs(1);
/// Longer than any test: no poll by schedule comes in between.
pub const NEVER: Duration = Duration::from_secs(3600);
/// Longer than anything here takes, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Git server without branches.
#[derive(Debug, Clone)]
pub struct Remote {
    url: String,
    polls: Arc<AtomicUsize>,
}

impl Remote {
    pub fn start() -> Remote {
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = polls.clone();
        let url = scripted::serve(move |ask, to| {
            let body = match ask {
                Ask::Handshake => scripted::capabilities(),
                Ask::Refs | Ask::Pack => {
                    counted.fetch_add(1, Ordering::SeqCst);
                    scripted::FLUSH.to_vec()
                }
            };
            scripted::whole(ask, to, &body);
            true
        });
        Remote { url, polls }
    }

    /// Returns how often it was asked for its branches.
    pub fn polls(&self) -> usize {
        self.polls.load(Ordering::SeqCst)
    }
}

/// What a test starts with; the hint polls at once.
#[derive(Debug, Clone)]
pub struct Stage {
    pub remote: Remote,
    pub interval: Duration,
    pub calm: Duration,
    pub hint: Hint,
}

impl Stage {
    pub fn of(way: Way) -> Stage {
        let hint = Hint {
            name: "push".to_owned(),
            way,
            polls: [("origin".to_owned(), 0)].into(),
            filter: None,
            splay_ms: 0,
            idle_ms: 90_000,
        };
        Stage { remote: Remote::start(), interval: NEVER, calm: NEVER, hint }
    }

    pub fn sse(url: String) -> Stage {
        Stage::of(Way::Sse(Address { url, token_file: None, https: Https::default() }))
    }

    pub fn long_poll(url: String) -> Stage {
        Stage::of(Way::LongPoll(Address { url, token_file: None, https: Https::default() }))
    }

    /// Runs `test` beside a gateway, then sees that the gateway ends well and at once.
    pub fn run<T>(mut self, test: impl AsyncFnOnce(&mut Agent) -> T) -> T {
        let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap();
        self.hint.polls.values_mut().for_each(|calm| *calm = millis(self.calm));
        let source = Source {
            name: "origin".to_owned(),
            url: self.remote.url.clone(),
            refs: vec!["refs/heads/main".to_owned()],
            interval_ms: millis(self.interval),
            username: "pullagent".to_owned(),
            token_file: None,
            https: Https::default(),
            ssh_key_file: None,
            known_hosts_file: None,
            limits: Limits::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (ours, theirs) = wire::pair().unwrap();
            let gateway = tokio::spawn(gateway::run(theirs, Arc::default()));
            ours.send(&Request::Watch { sources: vec![source] }, None).await.unwrap();
            let mut agent =
                Agent { end: ours, remote: self.remote.clone(), word: HintWord::default(), seen: 0 };
            // Otherwise nobody could tell the first poll from one for a hint.
            agent.until(|agent| agent.seen == 1).await;
            agent.end.send(&Request::Listen { hints: vec![self.hint.clone()] }, None).await.unwrap();
            let result = test(&mut agent).await;
            drop(agent);
            let closed = Instant::now();
            gateway.await.unwrap().unwrap();
            assert!(closed.elapsed() < 5 * SECOND, "{:?}", closed.elapsed());
            result
        })
    }
}

/// What the reconciler hears.
pub struct Agent {
    end: ReconcilerEnd,
    remote: Remote,
    /// How the hint fares, by its last word.
    pub word: HintWord,
    /// How many polls were answered.
    pub seen: usize,
}

impl Agent {
    async fn hear(&mut self) {
        match self.end.recv().await.unwrap().unwrap().0 {
            Notice::Hint { name, word } => {
                assert_eq!(name, "push");
                self.word = word;
            }
            Notice::Seen { refs, .. } => {
                assert!(refs.is_empty());
                self.seen += 1;
            }
            other => panic!("{other:?}"),
        }
    }

    /// Listens until `done`.
    pub async fn until(&mut self, done: impl Fn(&Agent) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !done(self) {
                self.hear().await;
            }
        });
        assert!(waited.await.is_ok(), "waited in vain: {:?}, {} polls", self.word, self.seen);
    }

    /// Listens for `span`, and returns how many polls were answered meanwhile.
    pub async fn listen(&mut self, span: Duration) -> usize {
        let before = self.seen;
        let _over = tokio::time::timeout(span, async {
            loop {
                self.hear().await;
            }
        })
        .await
        .is_err();
        self.seen - before
    }

    pub async fn until_connected(&mut self) {
        self.until(|agent| agent.word.connected).await;
    }

    /// Listens until the hint is not connected, for a reason with `words` in it.
    pub async fn until_lost(&mut self, words: &str) {
        self.until(|agent| !agent.word.connected && agent.word.text.contains(words)).await;
    }

    pub async fn until_polls(&mut self, polls: usize) {
        self.until(|agent| agent.seen >= polls).await;
        assert_eq!((self.seen, self.remote.polls()), (polls, polls));
    }
}

/// Returns an address at which nobody may ever ask, and what shows whether somebody did.
pub fn forbidden() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    (format!("http://{}/evil", listener.local_addr().unwrap()), listener)
}

/// Fails if somebody connected.
pub fn assert_untouched(listener: &TcpListener) {
    assert!(listener.accept().is_err(), "somebody connected");
}

/// Writes a token file into `dir`.
pub fn token_file(dir: &tempfile::TempDir) -> PathBuf {
    let path = dir.path().join("token");
    std::fs::write(&path, "t0ken\n").unwrap();
    path
}
