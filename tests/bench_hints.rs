//! How soon a push is asked for once a service says so: from the moment the hint is sent until the Git server has the
//! request for its branches, as a ratio to the least that could do: a thread that waits on one socket and writes to
//! another. And what a flood of hints leaves in memory. The figures are worth reading in a release build:
//!
//! ```sh
//! cargo test --release --test bench_hints -- --nocapture
//! ```
#![allow(clippy::disallowed_methods, reason = "tests start servers and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::hint_server::{self, HintServer, send, stream};
use common::scripted::{self, Ask};
use pullagent::gateway;
use pullagent::model::Https;
use pullagent::wire::{self, Address, Hint, Limits, Notice, Request, Source, Way};

/// Each source of hints may have one poll at once; with so many of them no push has to wait for its turn.
const PUSHES: usize = wire::HINTS_MAX;
/// Pushes so far apart that each finds everything asleep.
const APART: Duration = Duration::from_millis(300);
/// After the poll for the connection the next one has to wait.
const BUDGET: Duration = Duration::from_millis(5500);
const NEVER_MS: u64 = 3_600_000;
/// What a flood of hints may leave: the buffers of one connection.
const GAIN_KIB_MAX: u64 = 4096;

/// A Git server without branches that says when it is asked for them.
fn remote() -> (String, Receiver<Instant>) {
    let (asked, times) = channel();
    let asked = Mutex::new(asked);
    let url = scripted::serve(move |ask, to| {
        if ask == Ask::Refs {
            let _told = asked.lock().unwrap().send(Instant::now()).is_ok();
        }
        let body = if ask == Ask::Handshake { scripted::capabilities() } else { scripted::FLUSH.to_vec() };
        scripted::whole(ask, to, &body);
        true
    });
    (url, times)
}

/// A service whose streams the test writes to.
fn service() -> (HintServer, Arc<Mutex<Vec<TcpStream>>>) {
    let streams: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let kept = streams.clone();
    let server = HintServer::serve(move |_, to| {
        stream(to);
        to.set_nodelay(true).unwrap();
        kept.lock().unwrap().push(to.try_clone().unwrap());
        // Ends with the client.
        hint_server::then_end(to.read(&mut [0]).is_ok())
    });
    (server, streams)
}

fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort();
    spans[spans.len() / 2]
}

/// Pushes on each stream in turn, and returns how long it took until the Git server was asked.
fn pushes(streams: &Mutex<Vec<TcpStream>>, asked: &Receiver<Instant>) -> Vec<Duration> {
    let streams: Vec<TcpStream> = streams.lock().unwrap().iter().map(|s| s.try_clone().unwrap()).collect();
    let took = streams.into_iter().map(|mut stream| {
        std::thread::sleep(APART);
        let pushed = Instant::now();
        assert!(send(&mut stream, "data: x\n\n"));
        asked.recv_timeout(Duration::from_secs(60)).unwrap() - pushed
    });
    took.collect()
}

/// The same with two sockets and nothing else.
fn floor() -> Duration {
    let (url, asked) = remote();
    let (server, streams) = service();
    let host = |url: &str| url.trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let git = TcpStream::connect(host(&url)).unwrap();
    git.set_nodelay(true).unwrap();
    let body = "0014command=ls-refs\n0000";
    let poll = format!("POST /x HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for _ in 0..PUSHES {
        let mut hints = TcpStream::connect(host(&server.url())).unwrap();
        hints.write_all(b"GET /topic HTTP/1.1\r\n\r\n").unwrap();
        let (mut git, poll) = (git.try_clone().unwrap(), poll.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            let mut text = String::new();
            while !text.contains("data: ") {
                let n = hints.read(&mut buffer).unwrap();
                text.push_str(std::str::from_utf8(&buffer[..n]).unwrap());
            }
            git.write_all(poll.as_bytes()).unwrap();
        });
    }
    common::git_server::wait_until("the streams", || streams.lock().unwrap().len() == PUSHES);
    median(pushes(&streams, &asked))
}

fn private_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_hint_is_acted_upon_at_once_and_a_flood_leaves_nothing() {
    let floor = floor();
    let (url, asked) = remote();
    let (server, streams) = service();
    let source = Source {
        name: "origin".to_owned(),
        url,
        refs: vec!["refs/heads/main".to_owned()],
        interval_ms: NEVER_MS,
        username: "pullagent".to_owned(),
        token_file: None,
        https: Https::default(),
        ssh_key_file: None,
        known_hosts_file: None,
        limits: Limits::default(),
    };
    let hint = |n: usize| Hint {
        name: format!("push-{n}"),
        way: Way::Sse(Address { url: server.url(), token_file: None, https: Https::default() }),
        polls: [("origin".to_owned(), NEVER_MS)].into(),
        filter: None,
        splay_ms: 0,
        idle_ms: 90_000,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (ours, theirs) = wire::pair().unwrap();
        let gateway = tokio::spawn(gateway::run(theirs, Arc::default()));
        ours.send(&Request::Watch { sources: vec![source] }, None).await.unwrap();
        ours.send(&Request::Listen { hints: (0..PUSHES).map(hint).collect() }, None).await.unwrap();
        let (done, mut finished) = tokio::sync::oneshot::channel();
        let measure = std::thread::spawn(move || {
            common::git_server::wait_until("the streams", || streams.lock().unwrap().len() == PUSHES);
            std::thread::sleep(BUDGET);
            while asked.try_recv().is_ok() {}
            let took = pushes(&streams, &asked);
            let before = private_kib();
            let mut flooded = streams.lock().unwrap()[0].try_clone().unwrap();
            let text = "data: x\n\n".repeat(1000);
            let mut sent = 0;
            while hint_server::send(&mut flooded, &text) {
                sent += text.len();
            }
            done.send(()).unwrap();
            (took, sent, before, private_kib())
        });
        loop {
            tokio::select! {
                heard = ours.recv() => assert!(!matches!(heard.unwrap().unwrap().0, Notice::Pack { .. })),
                _ = &mut finished => break,
            }
        }
        let (took, sent, before, after) = measure.join().unwrap();
        let longest = *took.iter().max().unwrap();
        let median = median(took);
        println!(
            "push → asked: median {median:?}, longest {longest:?}; two bare sockets: median {floor:?}; ratio {:.1}",
            median.as_secs_f64() / floor.as_secs_f64()
        );
        println!("a flood of {sent} bytes: private memory {before} KiB before, {after} KiB after");
        assert!(after < before + GAIN_KIB_MAX, "{before} KiB before, {after} KiB after");
        drop(ours);
        gateway.await.unwrap().unwrap();
    });
}
