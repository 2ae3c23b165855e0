//! How soon a push is asked for once a service says so: from the moment the hint is sent until the Git server has the
//! request for its branches, against the least that could do: a thread that waits on one socket and writes to another.
//! And what a flood of hints leaves in the gateway's memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::common::gateway::{NEVER_MS, Process, Reconciler, source};
use super::common::git_server::wait_until;
use super::common::hint_server::{self, HintServer, send, stream};
use super::common::peer::bind;
use super::common::scripted::{self, Ask};
use super::common::usage::Holding;
use super::table::Row;
use pullagent::model::Https;
use pullagent::wire::{self, Address, Hint, Way};

/// Each source of hints may have one poll at once; with so many of them no push has to wait for its turn.
const PUSHES: usize = wire::HINTS_MAX;
/// Pushes so far apart that each finds everything asleep.
const APART: Duration = Duration::from_millis(300);
/// After the poll for the connection the next one has to wait.
const BUDGET: Duration = Duration::from_millis(5500);
/// From a push to its poll, in milliseconds.
const LATENCY_MS_MAX: f64 = 50.0;
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

/// Pushes on each stream in turn, and returns in milliseconds how long it took until the Git server was asked, sorted.
fn pushes(streams: &Mutex<Vec<TcpStream>>, asked: &Receiver<Instant>) -> Vec<f64> {
    let streams: Vec<TcpStream> = streams.lock().unwrap().iter().map(|s| s.try_clone().unwrap()).collect();
    let took = streams.into_iter().map(|mut stream| {
        std::thread::sleep(APART);
        let pushed = Instant::now();
        assert!(send(&mut stream, "data: x\n\n"));
        (asked.recv_timeout(Duration::from_secs(60)).unwrap() - pushed).as_secs_f64() * 1000.0
    });
    let mut took: Vec<f64> = took.collect();
    took.sort_by(f64::total_cmp);
    took
}

/// The same with two sockets and nothing else.
fn floor() -> Vec<f64> {
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
    wait_until("the streams", || streams.lock().unwrap().len() == PUSHES);
    pushes(&streams, &asked)
}

pub async fn measure(dir: &Path) -> Vec<Row> {
    let floor = floor();
    let (url, asked) = remote();
    let (server, streams) = service();
    let hint = |n: usize| Hint {
        name: format!("push-{n}"),
        way: Way::Sse(Address { url: server.url(), token_file: None, https: Https::default() }),
        polls: [("origin".to_owned(), NEVER_MS)].into(),
        filter: None,
        splay_ms: 0,
        idle_ms: 90_000,
    };
    let socket = dir.join("hints.sock");
    let hints = (0..PUSHES).map(hint).collect();
    let _reconciler = Reconciler::listening(bind(&socket), vec![source(url, None)], hints);
    let process = Process::start(&socket, &[]);
    let pid = process.id();
    let measure = move || {
        wait_until("the streams", || streams.lock().unwrap().len() == PUSHES);
        std::thread::sleep(BUDGET);
        while asked.try_recv().is_ok() {}
        let took = pushes(&streams, &asked);
        let before = Holding::of(pid).anonymous_kib;
        let mut flooded = streams.lock().unwrap()[0].try_clone().unwrap();
        let text = "data: x\n\n".repeat(1000);
        // Ends when the gateway has enough of it.
        while hint_server::send(&mut flooded, &text) {}
        (took, before, Holding::of(pid).anonymous_kib)
    };
    let (ours, before, after) = tokio::task::spawn_blocking(measure).await.unwrap();
    assert!(after < before + GAIN_KIB_MAX, "{before} KiB before a flood of hints, {after} KiB after");
    let (median, last) = (PUSHES / 2, PUSHES - 1);
    vec![
        Row::new("hint: push to poll, median", "ms", ours[median])
            .floor(floor[median])
            .at_most(LATENCY_MS_MAX),
        Row::new("hint: push to poll, longest", "ms", ours[last]).floor(floor[last]).at_most(LATENCY_MS_MAX),
        Row::new("hint: memory that a flood leaves", "KiB", after as f64 - before as f64)
            .at_most(GAIN_KIB_MAX as f64),
    ]
}
