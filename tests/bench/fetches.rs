//! The first fetch of a large repository, and each one after that: through the gateway and the import child, which hashes
//! and checks everything, against `git clone` and `git fetch`, which do less.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::common::gateway::{Process, Reconciler, source};
use super::common::git::{Repo, command};
use super::common::git_server::GitServer;
use super::common::peer::bind;
use super::common::pushes::{Key, Pusher};
use super::common::usage::{Holding, Most, Peak, Usage, children_cpu};
use super::polls::{git_to, with_token};
use super::table::Row;
use super::taker::Taker;
use pullagent::model::Oid;

/// Commits and files.
const QUICK: (usize, usize) = (1000, 2500);
const LONG: (usize, usize) = (20_000, 50_000);
const FILES_PER_DIRECTORY: usize = 100;
/// Signed commits on top, above what the host was installed with.
const SIGNED: usize = 10;
const FETCHES: usize = 5;
/// When the history begins, unix seconds.
const BEGIN: usize = 1_700_000_000;
/// What an import may hold in memory beyond the packs that it maps.
const IMPORT_KIB_MAX: f64 = 65_536.0;

/// What one fetch took.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    wall: Duration,
    cpu: Duration,
    bytes: u64,
    most: Most,
}

fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by_key(|cost| cost.wall);
    costs[costs.len() / 2]
}

/// Writes a history of small files, two of them changed by each commit, by `git fast-import`.
fn history(repo: &Repo, commits: usize, files: usize) {
    let mut import =
        command(&repo.path).args(["fast-import", "--quiet"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = std::io::BufWriter::new(import.stdin.take().unwrap());
    let path = |n: usize| format!("d{}/f{n}.nix", n / FILES_PER_DIRECTORY);
    let text = |n: usize, commit: usize| -> String {
        (0..20)
            .map(|line| format!("option.{n}.{line} = {};\n", if line == 7 { commit } else { n * line }))
            .collect()
    };
    for commit in 0..commits {
        let who = format!("Alice <alice@example.org> {} +0000", BEGIN + commit);
        write!(input, "commit refs/heads/main\ncommitter {who}\ndata 1\nx\n").unwrap();
        let changed =
            if commit == 0 { (0..files).collect() } else { vec![commit % files, commit * 7919 % files] };
        for n in changed {
            let text = text(n, commit);
            write!(input, "M 100644 inline {}\ndata {}\n{text}\n", path(n), text.len()).unwrap();
        }
    }
    drop(input);
    assert!(import.wait().unwrap().success());
}

/// What is measured.
struct Stage {
    server: GitServer,
    reconciler: Reconciler,
    gateway: Process,
    taker: Taker,
}

impl Stage {
    async fn fetch(&mut self, tip: &Oid, haves: Vec<Oid>) -> Cost {
        let (used, cpu, from) = (Usage::of(self.gateway.id()), children_cpu(), self.server.requests().len());
        let (peak, began) = (Peak::of_imports(std::process::id()), Instant::now());
        let incoming = self.reconciler.link.want("origin", tip, haves).await.unwrap();
        self.taker.take(tip, incoming.pack).await;
        let wall = began.elapsed();
        let gateway = Usage::of(self.gateway.id()).since(used).cpu_micros;
        Cost {
            wall,
            cpu: children_cpu() - cpu + Duration::from_secs_f64(gateway / 1e6),
            bytes: bytes(&self.server, from),
            most: peak.end(),
        }
    }
}

fn bytes(server: &GitServer, from: usize) -> u64 {
    // nginx logs a request when it is over, which may be a moment after the client has all of it.
    std::thread::sleep(Duration::from_millis(50));
    server.requests()[from..].iter().map(|r| r.received + r.sent).sum()
}

/// Runs git to its end.
fn by_git(server: &GitServer, git: &mut Command) -> Cost {
    let (cpu, from, began) = (children_cpu(), server.requests().len(), Instant::now());
    let child: Child = git.spawn().unwrap();
    let peak = Peak::below(child.id(), |_| true);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{git:?}");
    let wall = began.elapsed();
    Cost { wall, cpu: children_cpu() - cpu, bytes: bytes(server, from), most: peak.end() }
}

pub async fn measure(dir: &Path, long: bool) -> Vec<Row> {
    let (commits, files) = if long { LONG } else { QUICK };
    let server = GitServer::start();
    let repo = server.repo("infra.git");
    history(&repo, commits, files);
    let first: Oid = repo.git(&["rev-parse", "main"]).parse().unwrap();
    let mut pusher = Pusher::with_key(&repo.path, Key::plain(7));
    (0..SIGNED).for_each(|_| drop(pusher.push()));
    repo.git(&["repack", "-q", "-a", "-d"]);

    let socket = dir.join("fetches.sock");
    let reconciler = Reconciler::new(bind(&socket), vec![source(server.url("infra.git"), Some(&server))]);
    let gateway = Process::start(&socket, &[]);
    reconciler.sees_tip(pusher.tip.as_str()).await;
    let taker = Taker::new(&dir.join("fetches"), &first, &Key::plain(7));
    let mut stage = Stage { server, reconciler, gateway, taker };

    let ours = stage.fetch(&pusher.tip.clone(), vec![]).await;
    let gateway = Holding::of(stage.gateway.id());
    let clone = |name: &str, more: &[&str]| {
        let mut git = git_to(&stage.server, dir);
        by_git(
            &stage.server,
            git.args(["clone", "--quiet", "--bare"]).args(more).args([&with_token(&stage.server), name]),
        )
    };
    let whole = clone("whole.git", &[]);
    let shallow = clone("shallow.git", &["--depth", "1"]);

    let (mut later, mut git_later) = (Vec::new(), Vec::new());
    for _ in 0..FETCHES {
        let before = pusher.tip.clone();
        let tip = pusher.push();
        later.push(stage.fetch(&tip, vec![before]).await);
        let mut git = git_to(&stage.server, &dir.join("whole.git"));
        let fetch = ["fetch", "--quiet", &with_token(&stage.server), "main:main"];
        git_later.push(by_git(&stage.server, git.args(fetch)));
    }
    let (later, git_later) = (median(later), median(git_later));
    assert!(ours.most.anonymous_kib > 0, "no import child was seen");
    assert!((ours.most.anonymous_kib as f64) < IMPORT_KIB_MAX, "{ours:?}");
    let seconds = |cost: &Cost| (cost.wall.as_secs_f64(), cost.cpu.as_secs_f64());
    let (first, of) = ("first fetch", format!("{commits} commits, {files} files"));
    let ((wall, cpu), (git_wall, git_cpu)) = (seconds(&ours), seconds(&whole));
    let (shallow_wall, shallow_cpu) = seconds(&shallow);
    let row = |what: &str, unit, ours: f64, floor: f64, git: f64| {
        Row::new(format!("{first}: {what}"), unit, ours).floor(floor).git(git)
    };
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (next, ms) =
        ("one push more", |cost: &Cost| (cost.wall.as_secs_f64() * 1e3, cost.cpu.as_secs_f64() * 1e3));
    let ((wall_ms, cpu_ms), (git_ms, git_cpu_ms)) = (ms(&later), ms(&git_later));
    println!("first fetch: {of}; the floor is git's shallow clone of one commit, which verifies nothing");
    vec![
        row("time", "s", wall, shallow_wall, git_wall),
        row("CPU, gateway and import", "s", cpu, shallow_cpu, git_cpu),
        row("bytes", "MiB", mib(ours.bytes), mib(shallow.bytes), mib(whole.bytes)),
        row(
            "import's peak, pack mapped",
            "KiB",
            ours.most.rss_kib as f64,
            shallow.most.rss_kib as f64,
            whole.most.rss_kib as f64,
        ),
        Row::new(format!("{first}: import's peak, without"), "KiB", ours.most.anonymous_kib as f64)
            .git(whole.most.anonymous_kib as f64)
            .at_most(IMPORT_KIB_MAX),
        Row::new(format!("{first}: gateway after it, RSS"), "KiB", gateway.rss_kib as f64),
        Row::new(format!("{next}: time"), "ms", wall_ms).git(git_ms),
        Row::new(format!("{next}: CPU, gateway and import"), "ms", cpu_ms).git(git_cpu_ms),
        Row::new(format!("{next}: bytes"), "B", later.bytes as f64).git(git_later.bytes as f64),
        Row::new(format!("{next}: import's peak"), "KiB", later.most.rss_kib as f64)
            .git(git_later.most.rss_kib as f64),
    ]
}
