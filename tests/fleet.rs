//! Goal: one push wakes a whole fleet, and the fleet does not fall upon the Git server. Method: a real nginx with nchan;
//! hosts are connections of this process that read events with the agent's decoder and spread their polls with its dice;
//! among them a few real gateways, which show that the others behave as they do.
//!
//! 500 hosts over 5 s; 10,000 over 60 s with `PULLAGENT_TEST_LONG=1`, or `PULLAGENT_TEST_HOSTS` of them.
#![allow(clippy::disallowed_methods, reason = "tests start programs and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::gateway::{NEVER_MS, Process, Reconciler, run, source};
use common::git_server::wait_until;
use common::nchan::{Nchan, Room};
use common::peer::bind;
use common::scripted::{self, Ask};
use futures_util::future::join_all;
use pullagent::gateway::sse::Decoder;
use pullagent::model::Https;
use pullagent::plan::backoff::part;
use pullagent::wire::{Address, Hint, Way};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

const LIMIT: Duration = Duration::from_secs(600);
const SECOND: Duration = Duration::from_secs(1);
/// Real gateways among the hosts.
const GATEWAYS: usize = 3;
/// Hosts that connect, or poll, at once: as many as nginx' and our own backlog take.
const AT_ONCE: usize = 100;
/// Files that are open besides the hosts' connections.
const FILES: usize = 1000;
/// The poll for a connection is paid for after so long: a gateway makes no two within 5 s.
const BUDGET: Duration = Duration::from_secs(6);
/// The server's busiest second against the even spread: chance, and a machine that is late.
const PEAK_RATIO_MAX: f64 = 2.0;
/// Polls in the busiest second that chance alone explains, however few hosts there are.
const PEAK_SLACK: f64 = 30.0;

const TIP: &str = "1111111111111111111111111111111111111111";

/// Returns the number of hosts and the time over which they spread.
fn fleet() -> (usize, Duration) {
    let long = std::env::var_os("PULLAGENT_TEST_LONG").is_some_and(|long| long == "1");
    let (hosts, splay) = if long { (10_000, 60 * SECOND) } else { (500, 5 * SECOND) };
    (std::env::var("PULLAGENT_TEST_HOSTS").map_or(hosts, |n| n.parse().unwrap()), splay)
}

/// Returns how many connections nginx is to have room for: where a sixteenth of them is left, it closes some that are idle.
fn room(hosts: usize) -> usize {
    hosts + hosts / 8 + 100
}

/// Makes room for so many connections in this process and those that it starts.
fn raise_file_limit(hosts: usize) {
    let wanted = (room(hosts) + FILES) as u64;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let maximum = limit.maximum.map(|maximum| maximum.max(wanted));
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
        assert!(
            raised.is_ok(),
            "{hosts} hosts need {wanted} open files; raise the limit, or set PULLAGENT_TEST_HOSTS"
        );
    }
}

/// A Git server with one branch that says when it was asked for it.
fn git_server() -> (String, Receiver<Instant>) {
    let (asked, times) = channel();
    let asked = Mutex::new(asked);
    let url = scripted::serve(move |ask, to| {
        let body = match ask {
            Ask::Refs => {
                let _told = asked.lock().unwrap().send(Instant::now()).is_ok();
                [scripted::line(format!("{TIP} refs/heads/main\n")), scripted::FLUSH.to_vec()].concat()
            }
            Ask::Handshake | Ask::Pack => scripted::capabilities(),
        };
        scripted::whole(ask, to, &body);
        true
    });
    (url, times)
}

fn address(url: &str) -> String {
    url.trim_start_matches("http://").split('/').next().unwrap().to_owned()
}

/// One host: a stream that is open, and what has come of it.
struct Host {
    stream: TcpStream,
    decoder: Decoder,
}

impl Host {
    async fn connect(address: &str) -> Host {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Without chunks, so that what comes is the events and nothing else.
        let request = "GET /sse HTTP/1.0\r\nHost: fleet\r\nAccept: text/event-stream\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let (head, begun) = loop {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "no answer");
            let text = std::str::from_utf8(&answer).unwrap();
            if let Some((head, begun)) = text.split_once("\r\n\r\n") {
                break (head, begun);
            }
        };
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
        let mut decoder = Decoder::default();
        decoder.feed(begun.as_bytes(), |event| panic!("too early: {event:?}")).unwrap();
        Host { stream, decoder }
    }

    /// Waits for the hint, and then for its turn; returns when it was woken, as soon as its poll is due.
    async fn wake(&mut self, splay: Duration) -> Instant {
        let (mut buffer, mut hints) = ([0; 1024], 0);
        while hints == 0 {
            let n = self.stream.read(&mut buffer).await.unwrap();
            assert!(n > 0, "the stream has ended");
            self.decoder.feed(&buffer[..n], |event| hints += u32::from(event.is_message())).unwrap();
        }
        let woken = Instant::now();
        tokio::time::sleep(part(splay, fastrand::u64(..))).await;
        woken
    }
}

/// Polls as a gateway does, on a connection of its own, and checks the answer.
async fn poll(address: &str) {
    let body = "0014command=ls-refs\n0001001fref-prefix refs/heads/main\n0000";
    let head =
        format!("POST /infra.git/git-upload-pack HTTP/1.1\r\nHost: x\r\nContent-Length: {}", body.len());
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(scripted::FLUSH) {
        assert!(stream.read_buf(&mut answer).await.unwrap() > 0, "no answer");
    }
    assert!(String::from_utf8(answer).unwrap().contains(TIP));
}

/// The real program, with a Git server that nobody else polls.
struct Real {
    _process: Process,
    _reconciler: Reconciler,
    asked: Receiver<Instant>,
}

impl Real {
    fn start(dir: &std::path::Path, number: usize, hints: &str, splay: Duration) -> Real {
        let (url, asked) = git_server();
        let hint = Hint {
            name: "push".to_owned(),
            way: Way::Sse(Address { url: hints.to_owned(), token_file: None, https: Https::default() }),
            polls: [("origin".to_owned(), NEVER_MS)].into(),
            filter: None,
            splay_ms: splay.as_millis().try_into().unwrap(),
            idle_ms: 90_000,
        };
        let socket = dir.join(format!("gateway-{number}.sock"));
        let reconciler = Reconciler::listening(bind(&socket), vec![source(url, None)], vec![hint]);
        Real { _process: Process::start(&socket, &[]), _reconciler: reconciler, asked }
    }
}

/// Polls in each second from `began` on.
fn by_second(times: &[Instant], began: Instant) -> Vec<usize> {
    let mut counts = Vec::new();
    for time in times {
        let second = usize::try_from((*time - began).as_secs()).unwrap();
        counts.resize(counts.len().max(second + 1), 0);
        counts[second] += 1;
    }
    counts
}

#[test]
fn one_push_wakes_every_host_and_they_take_turns() {
    run(LIMIT, async |dir| {
        let (hosts, splay) = fleet();
        raise_file_limit(hosts);
        let nchan = Arc::new(Nchan::with(Room { connections: room(hosts), ping_secs: 30 }));
        let (url, asked) = git_server();
        let (git, hints) = (Rc::new(address(&url)), Rc::new(address(&nchan.url("sse"))));
        let began = Instant::now();
        let gateways: Vec<Real> =
            (0..GATEWAYS).map(|n| Real::start(&dir, n, &nchan.url("sse"), splay)).collect();
        let turns = Rc::new(Semaphore::new(AT_ONCE));
        let connected = join_all((0..hosts).map(|_| async {
            let _turn = turns.acquire().await.unwrap();
            Host::connect(&hints).await
        }))
        .await;
        println!("fleet: {hosts} hosts connected in {:.1?}, {GATEWAYS} real gateways", began.elapsed());
        // Each gateway has asked for the branch at its start, and because it has joined.
        tokio::time::sleep(splay + BUDGET).await;
        gateways.iter().for_each(|gateway| while gateway.asked.try_recv().is_ok() {});

        let woken: Vec<_> = connected
            .into_iter()
            .map(|mut host| {
                let (turns, git) = (turns.clone(), git.clone());
                tokio::task::spawn_local(async move {
                    let woken = host.wake(splay).await;
                    let _turn = turns.acquire().await.unwrap();
                    poll(&git).await;
                    woken
                })
            })
            .collect();
        let pushed = Instant::now();
        tokio::task::spawn_blocking(move || nchan.publish("push")).await.unwrap();
        let woken: Vec<Duration> =
            join_all(woken).await.into_iter().map(|woken| woken.unwrap() - pushed).collect();
        let polls: Vec<Instant> = asked.try_iter().collect();
        say(&woken, &polls, pushed, splay);
        assert_eq!((woken.len(), polls.len()), (hosts, hosts), "each host polls once");
        let busiest = *by_second(&polls, pushed).iter().max().unwrap() as f64;
        let even = hosts as f64 / splay.as_secs_f64();
        assert!(busiest <= PEAK_RATIO_MAX * even + PEAK_SLACK, "{busiest} polls in a second, {even} evenly");
        for gateway in gateways {
            let asked = &gateway.asked;
            let mut at = None;
            wait_until("a real gateway's poll", || {
                at = at.or_else(|| asked.try_recv().ok());
                at.is_some()
            });
            println!("fleet: a real gateway polled after {:.1?}", at.unwrap() - pushed);
            assert!(asked.try_recv().is_err(), "one push, one poll");
        }
    });
}

fn say(woken: &[Duration], polls: &[Instant], pushed: Instant, splay: Duration) {
    let mut after: Vec<f64> = polls.iter().map(|at| (*at - pushed).as_secs_f64()).collect();
    after.sort_by(f64::total_cmp);
    let at = |part: usize| after[(after.len() - 1) * part / 4];
    let counts = by_second(polls, pushed);
    let even = polls.len() as f64 / splay.as_secs_f64();
    let busiest = *counts.iter().max().unwrap();
    println!(
        "fleet: {} of {} hosts woken, the last {:.1?} after the push",
        woken.len(),
        woken.len(),
        woken.iter().max().unwrap()
    );
    println!(
        "fleet: polls over {:?}: first {:.2} s, quarters {:.2}, {:.2}, {:.2} s, last {:.2} s",
        splay,
        at(0),
        at(1),
        at(2),
        at(3),
        at(4)
    );
    println!(
        "fleet: busiest second {busiest} polls, evenly {even:.0}: ratio {:.2}; by second {counts:?}",
        busiest as f64 / even
    );
}
