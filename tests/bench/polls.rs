//! Polls that find nothing new: the real gateway by schedule over TLS, a bare loop over plain HTTP in a process of its own,
//! and `git ls-remote`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;

use super::common::gateway::{NEVER_MS, Process, Reconciler, source};
use super::common::git_server::{GitServer, Setup, wait_until};
use super::common::peer::bind;
use super::common::usage::{Strace, Usage, children_cpu};
use super::table::Row;

/// Polls before counting: connections, caches and buffers have found their size by then.
const WARM_UP: usize = 10;
const POLLS: usize = 60;
/// Under strace, which makes each of them dear.
const TRACED: usize = 20;
/// Between polls, so that each finds everything asleep; the shortest that a gateway keeps.
const INTERVAL: Duration = Duration::from_millis(100);
const GIT_POLLS: usize = 20;
const OTHER_REFS: usize = 100_000;
/// Polls one right after the other, to see how long one takes.
const TIMED: usize = 15;
/// What the bare loop's process is told, and what its test is called.
const PORT: &str = "PULLAGENT_BENCH_PORT";
const LOOP: &str = "bare_loop";

const BYTES_MAX: f64 = 800.0;
const WAKEUPS_MAX: f64 = 5.0;
/// What a poll may cost in processor time, against the bare loop's, which has no TLS.
const CPU_RATIO_MAX: f64 = 3.0;
/// The same where they are asserted, in any build and on a machine that has other things to do.
const WAKEUPS_ASSERTED: f64 = 8.0;
const BYTES_ASSERTED: f64 = 900.0;

/// What one poll costs.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    cpu_micros: f64,
    wakeups: f64,
    bytes: f64,
    syscalls: Option<f64>,
}

/// Counts what process `pid` uses for the next polls that `server` sees; they come by themselves.
fn count(pid: u32, server: &GitServer) -> Cost {
    let wait = |polls: usize| {
        let begin = server.requests().len();
        while server.requests().len() < begin + polls {
            std::thread::sleep(INTERVAL);
        }
    };
    wait(WARM_UP);
    let (before, from) = (Usage::of(pid), server.requests().len());
    wait(POLLS);
    let used = Usage::of(pid).since(before);
    let requests = server.requests().split_off(from);
    let polls = requests.len() as f64;
    assert_eq!(used.written, 0, "a poll that finds nothing writes nothing");
    let syscalls = Strace::attach(pid).map(|strace| {
        let from = server.requests().len();
        wait(TRACED);
        strace.end() as f64 / (server.requests().len() - from) as f64
    });
    Cost {
        cpu_micros: used.cpu_micros / polls,
        wakeups: used.wakeups as f64 / polls,
        bytes: requests.iter().map(|r| r.received + r.sent).sum::<u64>() as f64 / polls,
        syscalls,
    }
}

pub async fn measure(dir: &Path) -> Vec<Row> {
    let server = GitServer::start();
    let repo = server.repo("infra.git");
    let tip = repo.commit("main", &[("a", b"1")]);
    let socket = dir.join("polls.sock");
    let mut remote = source(server.url("infra.git"), Some(&server));
    remote.refs.push("refs/heads/test-web1".to_owned());
    remote.interval_ms = INTERVAL.as_millis().try_into().unwrap();
    let reconciler = Reconciler::new(bind(&socket), vec![remote.clone()]);
    let process = Process::start(&socket, &[]);
    reconciler.sees_tip(&tip).await;

    let (pid, server) = (process.id(), std::sync::Arc::new(server));
    let counted = server.clone();
    let ours = blocking(move || count(pid, &counted)).await;
    let git = git(&server);
    remote.interval_ms = NEVER_MS;
    reconciler.link.watch(vec![remote.clone()]).await;
    let few = round_trip(&reconciler, &tip).await;
    repo.many_refs("refs/pull/", OTHER_REFS, &tip);
    let many = round_trip(&reconciler, &tip).await;
    remote.interval_ms = INTERVAL.as_millis().try_into().unwrap();
    reconciler.link.watch(vec![remote]).await;
    let counted = server.clone();
    let crowd = blocking(move || count(pid, &counted)).await;
    let floor = blocking(floor).await;

    assert!(ours.wakeups <= WAKEUPS_ASSERTED, "{ours:?}");
    assert!((crowd.bytes - ours.bytes).abs() <= 0.02 * ours.bytes, "{ours:?} {crowd:?}");
    assert!(ours.bytes <= BYTES_ASSERTED, "{ours:?}");
    let mut rows = vec![
        Row::new("poll: CPU", "µs", ours.cpu_micros)
            .floor(floor.cpu_micros)
            .git(git.cpu_micros)
            .at_most(CPU_RATIO_MAX * floor.cpu_micros),
        Row::new("poll: wake-ups", "", ours.wakeups).floor(floor.wakeups).at_most(WAKEUPS_MAX),
        Row::new("poll: bytes, up and down", "B", ours.bytes)
            .floor(floor.bytes)
            .git(git.bytes)
            .at_most(BYTES_MAX),
        Row::new("poll: bytes, 100,000 other refs there", "B", crowd.bytes)
            .floor(ours.bytes)
            .at_most(BYTES_MAX),
        Row::new("poll: CPU, 100,000 other refs there", "µs", crowd.cpu_micros).floor(ours.cpu_micros),
        Row::new("poll: round trip, 100,000 other refs", "ms", many).floor(few),
    ];
    if let (Some(ours), Some(floor)) = (ours.syscalls, floor.syscalls) {
        rows.insert(2, Row::new("poll: system calls", "", ours).floor(floor));
    }
    rows
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Returns the median time from the order to poll to the answer's arrival here, in milliseconds.
async fn round_trip(reconciler: &Reconciler, tip: &str) -> f64 {
    let mut took = Vec::new();
    for _ in 0..TIMED {
        // A quiet moment, so that what came before is over.
        tokio::time::sleep(INTERVAL).await;
        reconciler.saw.borrow_mut().clear();
        let began = Instant::now();
        reconciler.link.poll().await.unwrap();
        while reconciler.saw.borrow().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        took.push(began.elapsed().as_secs_f64() * 1000.0);
        reconciler.sees_tip(tip).await;
    }
    took.sort_by(f64::total_cmp);
    took[TIMED / 2]
}

/// The same by git, which begins anew each time.
fn git(server: &GitServer) -> Cost {
    let ask = || {
        let mut git = git_to(server, Path::new("/"));
        let status =
            git.args(["ls-remote", "--quiet", &with_token(server), "refs/heads/main"]).status().unwrap();
        assert!(status.success());
    };
    ask();
    let (cpu, from) = (children_cpu(), server.requests().len());
    (0..GIT_POLLS).for_each(|_| ask());
    let cpu = children_cpu() - cpu;
    // Polls of the gateway, which goes on meanwhile, have no handshake and are the smaller ones.
    let requests = server.requests().split_off(from);
    let handshakes: Vec<u64> =
        requests.iter().filter(|r| r.line.starts_with("GET ")).map(|r| r.connection).collect();
    let bytes: u64 =
        requests.iter().filter(|r| handshakes.contains(&r.connection)).map(|r| r.received + r.sent).sum();
    Cost {
        cpu_micros: cpu.as_secs_f64() * 1e6 / GIT_POLLS as f64,
        bytes: bytes as f64 / GIT_POLLS as f64,
        ..Cost::default()
    }
}

/// Returns git as somebody has it who trusts the server's authority.
pub fn git_to(server: &GitServer, dir: &Path) -> Command {
    let mut git = super::common::git::command(dir);
    git.env("GIT_SSL_CAINFO", server.ca_file()).env("GIT_TERMINAL_PROMPT", "0");
    git.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    git
}

pub fn with_token(server: &GitServer) -> String {
    let account = format!("://{}:{}@", GitServer::USER, GitServer::TOKEN);
    server.url("infra.git").replace("://", &account)
}

/// The bare loop, measured as the gateway is.
fn floor() -> Cost {
    let server = GitServer::start_with(Setup { tls: false, ..Setup::default() });
    server.repo("infra.git").commit("main", &[("a", b"1")]);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", LOOP, "--ignored", "--nocapture"]).env(PORT, server.port().to_string());
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    wait_until("the bare loop", || !server.requests().is_empty());
    let cost = count(child.id(), &server);
    child.kill().unwrap();
    child.wait().unwrap();
    cost
}

/// One poll by the least that can do it, again and again: one connection, no TLS, fixed bytes. Ends by being killed, or
/// with the server.
pub fn bare_loop() {
    let Ok(port) = std::env::var(PORT) else { return };
    let mut socket = TcpStream::connect(("127.0.0.1", port.parse().unwrap())).unwrap();
    let mut answers = BufReader::new(socket.try_clone().unwrap());
    let body = "0014command=ls-refs\n0001001fref-prefix refs/heads/main\n0000";
    let token =
        base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", GitServer::USER, GitServer::TOKEN));
    let request = format!(
        "POST /git/infra.git/git-upload-pack HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n\
         Content-Type: application/x-git-upload-pack-request\r\nGit-Protocol: version=2\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (mut line, mut chunk) = (String::new(), Vec::new());
    loop {
        socket.write_all(request.as_bytes()).unwrap();
        line.clear();
        while line != "\r\n" {
            line.clear();
            assert!(answers.read_line(&mut line).unwrap() > 0);
        }
        // One chunk per write of the CGI program; the last one is empty.
        loop {
            line.clear();
            answers.read_line(&mut line).unwrap();
            let length = usize::from_str_radix(line.trim(), 16).unwrap();
            chunk.resize(length + 2, 0);
            answers.read_exact(&mut chunk).unwrap();
            if length == 0 {
                break;
            }
        }
        std::thread::sleep(INTERVAL);
    }
}
