//! What the gateway costs: polls by schedule that find nothing new, then a large pack, through its socket, against nginx
//! with TLS. One test alone in its process, since it counts what the process uses. The figures are worth reading in a
//! release build; what is asserted holds in any:
//!
//! ```sh
//! cargo test --release --test gateway_cost -- --nocapture
//! ```
#![allow(clippy::disallowed_methods, reason = "tests start servers and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use common::git_server::{GitServer, Setup};
use pullagent::gateway;
use pullagent::model::Https;
use pullagent::wire::{self, Limits, Notice, Request, Source};
use rustix::time::{ClockId, clock_gettime};

const MAIN: &str = "refs/heads/main";
/// Polls before counting: connections, caches and buffers have found their size by then.
const WARM_UP: u32 = 20;
const POLLS: u32 = 120;
/// Time between polls, so that each finds everything asleep; the shortest that a gateway keeps.
const INTERVAL: Duration = Duration::from_millis(100);
/// Time between two readings of a pack.
const PAUSE: Duration = Duration::from_millis(10);
/// A pack that would be seen in memory if it were kept there.
const PACK_BYTES: usize = 32 << 20;
/// The timer, the answer in up to three pieces, and the word to the reconciler.
const WAKEUPS_MAX: f64 = 5.0;
/// What a poller may gain: buffers of the connection (two windows) and of the pipe.
const GAIN_KIB_MAX: u64 = 4096;

/// What this process has used so far, or holds now.
#[derive(Debug, Clone, Copy)]
struct Use {
    cpu_micros: i64,
    /// The part of the thread that polls.
    poller_micros: i64,
    wakeups: u64,
    files: usize,
    threads: usize,
    private_kib: u64,
}

impl Use {
    fn now() -> Use {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let tasks: Vec<_> = fs::read_dir("/proc/self/task").unwrap().map(|t| t.unwrap().path()).collect();
        let status = |task: &std::path::PathBuf| fs::read_to_string(task.join("status")).unwrap_or_default();
        Use {
            cpu_micros: cpu.tv_sec * 1_000_000 + cpu.tv_nsec / 1000,
            poller_micros: tasks.iter().map(|task| poller_micros(task)).sum(),
            wakeups: tasks.iter().map(|t| field(&status(t), "voluntary_ctxt_switches:")).sum(),
            files: fs::read_dir("/proc/self/fd").unwrap().count(),
            threads: tasks.len(),
            private_kib: field(&fs::read_to_string("/proc/self/status").unwrap(), "RssAnon:"),
        }
    }
}

/// Returns the CPU time of `task` if it polls.
fn poller_micros(task: &Path) -> i64 {
    let read = |file| fs::read_to_string(task.join(file)).unwrap_or_default();
    if !read("comm").starts_with("poll ") {
        return 0;
    }
    let nanos: i64 = read("schedstat").split_whitespace().next().unwrap().parse().unwrap();
    nanos / 1000
}

fn field(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
    value.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn idle_polls_are_cheap_and_packs_pass_through() {
    let server = GitServer::start();
    let repo = server.repo("infra.git");
    let mut random = fastrand::Rng::with_seed(3);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(PACK_BYTES).collect();
    let tip = repo.commit("main", &[("noise", &noise)]);
    drop(noise);
    repo.many_refs("refs/pull/", 2000, &tip);
    let source = Source {
        name: "origin".to_owned(),
        url: server.url("infra.git"),
        refs: vec![MAIN.to_owned(), "refs/heads/test-web1".to_owned()],
        interval_ms: INTERVAL.as_millis().try_into().unwrap(),
        username: GitServer::USER.to_owned(),
        token_file: Some(server.token_file()),
        https: Https { ca_file: Some(server.ca_file()), ..Https::default() },
        ssh_key_file: None,
        known_hosts_file: None,
        limits: Limits::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (before, after) = runtime.block_on(async {
        let (ours, theirs) = wire::pair().unwrap();
        let gateway = tokio::spawn(gateway::run(theirs, Default::default()));
        ours.send(&Request::Watch { sources: vec![source] }, None).await.unwrap();
        let mut before = Use::now();
        for n in 0..WARM_UP + POLLS {
            let (notice, _) = ours.recv().await.unwrap().unwrap();
            assert!(matches!(&notice, Notice::Seen { refs, .. } if refs.len() == 1), "{notice:?}");
            if n == WARM_UP - 1 {
                before = Use::now();
            }
        }
        let after = Use::now();
        let want =
            Request::Want { want: 1, source: "origin".to_owned(), oid: tip.parse().unwrap(), haves: vec![] };
        ours.send(&want, None).await.unwrap();
        let pipe = loop {
            match ours.recv().await.unwrap().unwrap() {
                (Notice::Pack { want: 1 }, pipe) => break pipe,
                // The answer to the last poll, if it was the quicker one.
                (other, _) => assert!(matches!(other, Notice::Seen { .. }), "{other:?}"),
            }
        };
        let (bytes, peak_kib) = tokio::task::spawn_blocking(|| drain(pipe.unwrap())).await.unwrap();
        assert!(bytes >= PACK_BYTES, "{bytes}");
        println!("private memory {peak_kib} KiB at most while {bytes} bytes of pack passed");
        assert!(peak_kib < after.private_kib + GAIN_KIB_MAX, "{peak_kib} {after:?}");
        drop(ours);
        gateway.await.unwrap().unwrap();
        (before, after)
    });
    let per_poll = |total: i64| total as f64 / f64::from(POLLS);
    let cpu = per_poll(after.cpu_micros - before.cpu_micros);
    let (floor, floor_wakeups) = floor();
    println!(
        "CPU {cpu:.0} µs a poll, {:.0} µs of it in the poller's thread; a bare loop over plain HTTP: {floor:.0} µs; ratio {:.1}",
        per_poll(after.poller_micros - before.poller_micros),
        cpu / floor,
    );
    let wakeups = per_poll((after.wakeups - before.wakeups).try_into().unwrap());
    println!(
        "{wakeups:.1} wake-ups a poll (the bare loop: {floor_wakeups:.1}), {} threads, {} files",
        after.threads, after.files,
    );
    println!("private memory {} KiB before, {} KiB after", before.private_kib, after.private_kib);
    assert!(wakeups <= WAKEUPS_MAX, "{wakeups:.1} wake-ups a poll, both ends of the wire in one");
    assert_eq!((before.files, before.threads), (after.files, after.threads));
    assert!(after.private_kib < before.private_kib + 512, "{before:?} {after:?}");
}

/// Reads a pack to its end, with pauses, so that it piles up wherever it can. Returns its size and the most private
/// memory seen meanwhile.
fn drain(pipe: OwnedFd) -> (usize, u64) {
    let mut pipe = fs::File::from(pipe);
    let mut buffer = vec![0; 1 << 16];
    let (mut bytes, mut peak_kib) = (0, 0);
    while let n @ 1.. = pipe.read(&mut buffer).unwrap() {
        bytes += n;
        if bytes % 64 == 0 {
            std::thread::sleep(PAUSE);
        }
        peak_kib = peak_kib.max(Use::now().private_kib);
    }
    (bytes, peak_kib)
}

/// Returns CPU time, in microseconds, and wake-ups of one poll by the least that can do it: one connection, no TLS, fixed
/// bytes.
fn floor() -> (f64, f64) {
    let server = GitServer::start_with(Setup { tls: false, ..Setup::default() });
    server.repo("infra.git").commit("main", &[("a", b"1")]);
    let mut socket = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    let mut answers = BufReader::new(socket.try_clone().unwrap());
    let body = "0014command=ls-refs\n0001001fref-prefix refs/heads/main\n0000";
    let token = {
        use base64::Engine as _;
        let pair = format!("{}:{}", GitServer::USER, GitServer::TOKEN);
        base64::engine::general_purpose::STANDARD.encode(pair)
    };
    let request = format!(
        "POST /git/infra.git/git-upload-pack HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n\
         Content-Type: application/x-git-upload-pack-request\r\nGit-Protocol: version=2\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut poll = || {
        socket.write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert!(answers.read_line(&mut line).unwrap() > 0);
        }
        // One chunk per write of the CGI program; the last one is empty.
        loop {
            line.clear();
            answers.read_line(&mut line).unwrap();
            let length = usize::from_str_radix(line.trim(), 16).unwrap();
            let mut chunk = vec![0; length + 2];
            answers.read_exact(&mut chunk).unwrap();
            if length == 0 {
                break;
            }
        }
    };
    poll();
    // Threads of the first part may still be ending.
    let mine = || field(&fs::read_to_string("/proc/thread-self/status").unwrap(), "voluntary_ctxt_switches:");
    let (before, slept) = (Use::now().cpu_micros, mine());
    for _ in 0..POLLS {
        std::thread::sleep(INTERVAL);
        poll();
    }
    let (cpu, wakeups) = (Use::now().cpu_micros - before, mine() - slept);
    (cpu as f64 / f64::from(POLLS), wakeups as f64 / f64::from(POLLS))
}
