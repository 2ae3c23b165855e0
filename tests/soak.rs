//! Goal: after thousands of pushes to two remotes that fail at random, an agent and its gateway hold what they held in the
//! beginning, their store is no larger than its bounds, and what they verified last is what was pushed last. Method: the
//! real program as two processes for a host of the demo's world; real Git servers, each behind something that refuses,
//! stalls, cuts answers short, or fails; and whoever serves branches sometimes lies about them. No revision can be
//! evaluated, so that each is fetched, verified and built in vain, and the next may come.
//!
//! 60 pushes; 2,000 with `PULLAGENT_TEST_LONG=1`, or `PULLAGENT_TEST_PUSHES` of them. `PULLAGENT_TEST_SEED` has the same
//! faults happen again.
#![allow(clippy::disallowed_methods, reason = "tests start programs and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "soak/proxy.rs"]
mod proxy;

use std::path::Path;
use std::time::{Duration, Instant};

use common::apart::Apart;
use common::git::Repo;
use common::git_server::{GitServer, Setup};
use common::pushes::{Pusher, borrow, point};
use common::usage::Holding;
use proxy::{Fault, Proxy};
use pullagent::cli::demo::{Tempo, World};
use pullagent::model::Oid;
use pullagent::repo::store::Store;
use serde_json::{Value, json};

const PUSHES_QUICK: usize = 60;
const PUSHES_LONG: usize = 2000;
/// So often everything works for a while, and the agent has to catch up.
const CHECK_EVERY: usize = 20;
const CATCHES_UP_WITHIN: Duration = Duration::from_secs(60);
/// A push waits for the one before up to this long.
const PAUSE_MAX: Duration = Duration::from_millis(400);
const TEMPO: Tempo =
    Tempo { interval: Duration::from_secs(1), soak: Duration::from_secs(1), window: Duration::from_secs(30) };
/// Nothing is silent for longer.
const IDLE: &str = "3s";

/// What the agent's memory may gain from when it has settled to the end: rings of bounded length that fill.
const AGENT_GAIN_KIB_MAX: u64 = 4096;
const GATEWAY_GAIN_KIB_MAX: u64 = 2048;
/// What each may hold at any time. The gateway: one connection for each remote, its socket, its runtimes.
const AGENT_FILES_MAX: usize = 32;
const GATEWAY_FILES_MAX: usize = 32;
/// Beside the loop, threads that work on files for a moment.
const AGENT_THREADS_MAX: usize = 16;
/// The main thread, one for each remote, one for hints, one to look up names.
const GATEWAY_THREADS_MAX: usize = 8;
/// Packs before they are put into one although there is more to do, and the one that is on its way.
const PACKS_MAX: usize = Store::PACKS_URGENT + 1;
/// So many packs are there in the beginning.
const CROWD: usize = PACKS_MAX + 1;
/// The store against the same history as `git gc` leaves it: ours makes no new deltas, and keeps an index for each pack.
const STORE_RATIO_MAX: f64 = 4.0;
/// The journal, the status, and what else is written of the state.
const REST_BYTES_MAX: u64 = 4 << 20;

/// What was seen at one point.
#[derive(Debug, Clone, Copy)]
struct Point {
    agent: Holding,
    gateway: Holding,
    packs: usize,
    store_bytes: u64,
    rest_bytes: u64,
}

impl Point {
    fn of(apart: &Apart) -> Point {
        let state = apart.state_directory();
        let files = files(&state);
        let store = Store::open(&state).unwrap().unwrap();
        let in_store = |path: &Path| path.starts_with(store.git_dir());
        let bytes = |wanted: bool| files.iter().filter(|f| in_store(&f.0) == wanted).map(|f| f.1).sum();
        Point {
            agent: Holding::of(apart.agent.id()),
            gateway: Holding::of(apart.gateway.id()),
            packs: files.iter().filter(|f| f.0.extension().is_some_and(|e| e == "pack")).count(),
            store_bytes: bytes(true),
            rest_bytes: bytes(false),
        }
    }

    fn say(&self, pushes: usize) {
        let Point { agent: a, gateway: g, packs, store_bytes, rest_bytes } = self;
        let each = |h: &Holding| {
            format!(
                "{} KiB PSS, {} anonymous, {} files, {} threads",
                h.pss_kib, h.anonymous_kib, h.files, h.threads
            )
        };
        println!(
            "{pushes:>5} pushes: agent {}; gateway {}; {packs} packs, {} KiB; journal and rest {} KiB",
            each(a),
            each(g),
            store_bytes >> 10,
            rest_bytes >> 10
        );
    }

    fn check(&self) {
        let Point { agent, gateway, packs, rest_bytes, .. } = self;
        assert!(agent.files <= AGENT_FILES_MAX && agent.threads <= AGENT_THREADS_MAX, "{agent:?}");
        assert!(gateway.files <= GATEWAY_FILES_MAX && gateway.threads <= GATEWAY_THREADS_MAX, "{gateway:?}");
        assert!(*packs <= PACKS_MAX, "{packs} packs");
        assert!(*rest_bytes <= REST_BYTES_MAX, "{rest_bytes} bytes beside the store");
    }
}

/// A remote, and what stands before it.
struct Remote {
    server: GitServer,
    repo: Repo,
    proxy: Proxy,
    faults: usize,
}

impl Remote {
    async fn new(tls: bool) -> Remote {
        let server = GitServer::start_with(Setup { tls, ..Setup::default() });
        let repo = server.repo("infra.git");
        let proxy = Proxy::before(server.port()).await;
        Remote { server, repo, proxy, faults: 0 }
    }

    fn settings(&self, name: &str) -> Value {
        let port = format!(":{}/", self.server.port());
        json!({
            "name": name,
            "url": self.server.url("infra.git").replace(&port, &format!(":{}/", self.proxy.port())),
            "interval": "1s",
            "username": GitServer::USER,
            "tokenFile": self.server.token_file(),
            "caFile": self.server.ca_file(),
        })
    }

    async fn set(&mut self, fault: Fault) {
        self.faults += usize::from(fault != Fault::None);
        self.proxy.set(fault).await;
    }
}

fn fault(random: &mut fastrand::Rng) -> Fault {
    match random.u8(..10) {
        0 => Fault::Refused,
        1 => Fault::Stall,
        // In the handshake, in the refs, or in the pack.
        2 | 3 => Fault::Cut(random.u64(..6000)),
        4 => Fault::Error,
        _ => Fault::None,
    }
}

fn files(dir: &Path) -> Vec<(std::path::PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.metadata() {
            Ok(data) if data.is_dir() => found.extend(files(&path)),
            Ok(data) => found.push((path, data.len())),
            // Gone meanwhile.
            Err(_) => {}
        }
    }
    found
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// How many pushes there are to be.
fn pushes() -> usize {
    let long = std::env::var_os("PULLAGENT_TEST_LONG").is_some_and(|long| long == "1");
    let default = if long { PUSHES_LONG } else { PUSHES_QUICK };
    number("PULLAGENT_TEST_PUSHES").map_or(default, |n| usize::try_from(n).unwrap())
}

fn accepted(apart: &Apart) -> Option<Oid> {
    apart.status().accepted.map(|commit| commit.revision)
}

/// Waits until `tip` is what was verified last; asks for polls meanwhile.
async fn catch_up(apart: &Apart, tip: &Oid) {
    let deadline = Instant::now() + CATCHES_UP_WITHIN;
    while accepted(apart).as_ref() != Some(tip) {
        assert!(Instant::now() < deadline, "{tip} was not verified: {:?}\n{}", apart.status(), apart.log());
        apart.sync().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits for a while, or until `tip` was verified. Returns whether it was.
async fn wait(apart: &Apart, tip: &Oid, pause: Duration) -> bool {
    let deadline = Instant::now() + pause;
    loop {
        if accepted(apart).as_ref() == Some(tip) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What the server of the world has becomes what both remotes have; the first commit cannot be built upon.
async fn begin(remotes: &[Remote; 2]) -> (Apart, Pusher) {
    let edit = |world: &World, settings: &mut Value| {
        let first = &world.first.0;
        for remote in remotes {
            borrow(&remote.repo.path, &world_repository(world));
            point(&remote.repo.path, "main", first);
        }
        crowd(world);
        settings["remotes"] = json!([remotes[0].settings("a"), remotes[1].settings("b")]);
        settings["fetch"]["idleTimeout"] = json!(IDLE);
    };
    let apart = Apart::begin("soak", TEMPO, CATCHES_UP_WITHIN, edit).await;
    let mut pusher = Pusher::new(&remotes[0].repo.path, &apart.private_key());
    pusher.set("flake.nix", "throw \"no system\"\n");
    borrow(&remotes[1].repo.path, &remotes[0].repo.path);
    (apart, pusher)
}

/// Leaves the host a store with more packs than there should be: any three objects are a pack once more. The first push is
/// to find them, and to put them into one.
fn crowd(world: &World) {
    let store = Store::open(&world.host.root.join("var/lib/pullagent")).unwrap().unwrap();
    let git = |args: &[&str], input: &str| common::git::git(store.git_dir(), args, input.as_bytes());
    let ids = git(&["cat-file", "--batch-all-objects", "--batch-check=%(objectname)"], "");
    let ids: Vec<&str> = ids.lines().collect();
    let all = 1_u32 << ids.len().min(16);
    let some = (0..all).filter(|set| set.count_ones() == 3).map(|set| {
        let chosen = ids.iter().enumerate().filter(|(n, _)| set >> n & 1 == 1);
        chosen.map(|(_, id)| format!("{id}\n")).collect::<String>()
    });
    let pack = ["-c", "pack.writeReverseIndex=false", "pack-objects", "-q", "objects/pack/pack"];
    let packs: Vec<String> = some.take(CROWD).map(|three| git(&pack, &three)).collect();
    assert_eq!(packs.len(), CROWD, "the first commit has too few objects");
}

fn world_repository(world: &World) -> std::path::PathBuf {
    world.remote.ca_file.with_file_name("repositories").join("infra.git")
}

#[test]
fn what_an_agent_holds_does_not_grow_with_pushes_and_failures() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, soak());
}

async fn soak() {
    let (pushes, seed) = (pushes(), number("PULLAGENT_TEST_SEED").unwrap_or_else(|| fastrand::u64(..)));
    println!("soak: {pushes} pushes, seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut remotes = [Remote::new(true).await, Remote::new(false).await];
    let (apart, mut pusher) = begin(&remotes).await;
    let began = Instant::now();
    let (mut points, mut at_once, mut lies) = (Vec::new(), 0, 0);
    for n in 1..=pushes {
        for remote in &mut remotes {
            remote.set(fault(&mut random)).await;
        }
        let before = pusher.tip.clone();
        let tip = pusher.push();
        // The second server may be behind, or say what nobody signed.
        let said = match random.u8(..10) {
            0 => before,
            1 => pusher.unsigned(),
            _ => tip.clone(),
        };
        lies += usize::from(said != tip);
        point(&remotes[1].repo.path, "main", &said);
        apart.sync().await;
        let pause = PAUSE_MAX.mul_f64(random.f64());
        at_once += usize::from(wait(&apart, &tip, pause).await);
        if n % CHECK_EVERY == 0 || n == pushes {
            for remote in &mut remotes {
                remote.set(Fault::None).await;
                point(&remote.repo.path, "main", &tip);
            }
            catch_up(&apart, &tip).await;
            let here = Point::of(&apart);
            if n % (pushes / 10).max(CHECK_EVERY) == 0 || n == pushes {
                here.say(n);
            }
            here.check();
            points.push(here);
        }
    }
    let verified: u64 = apart.status().counters.phases["verify"].buckets.iter().sum();
    let faults = remotes[0].faults + remotes[1].faults;
    println!(
        "soak: {pushes} pushes in {:.0?}, {verified} fetched to be verified, {at_once} of them before the next, {faults} faults, {lies} wrong tips",
        began.elapsed()
    );
    settled(&points);
    against_git(&apart, &pusher.tip, points.last().unwrap());
    println!("soak: the last push was verified: {}", pusher.tip);
}

/// The first tenth is for buffers and caches to find their size.
fn settled(points: &[Point]) {
    let (early, last) = (points[points.len() / 10], points[points.len() - 1]);
    let gain = |of: fn(&Point) -> Holding| of(&last).anonymous_kib.saturating_sub(of(&early).anonymous_kib);
    let (agent, gateway) = (gain(|p| p.agent), gain(|p| p.gateway));
    println!("soak: memory gained since the first tenth: agent {agent} KiB, gateway {gateway} KiB");
    assert!(agent <= AGENT_GAIN_KIB_MAX, "{agent} KiB");
    assert!(gateway <= GATEWAY_GAIN_KIB_MAX, "{gateway} KiB");
}

/// Compares the store with what git makes of the same history, and lets git look for damage in it.
fn against_git(apart: &Apart, tip: &Oid, last: &Point) {
    let store = Store::open(&apart.state_directory()).unwrap().unwrap();
    let ours = store.git_dir();
    let copy = tempfile::tempdir().unwrap();
    common::git::git(copy.path(), &["init", "-q", "--bare", "."], b"");
    let fetch = ["fetch", "-q", ours.to_str().unwrap(), &format!("{}:refs/heads/main", last_ref(ours, tip))];
    common::git::git(copy.path(), &fetch, b"");
    common::git::git(copy.path(), &["gc", "-q", "--prune=now"], b"");
    let theirs: u64 = files(&copy.path().join("objects")).iter().map(|f| f.1).sum();
    let ratio = last.store_bytes as f64 / theirs as f64;
    println!(
        "soak: the store has {} KiB, git gc makes that {} KiB: ratio {ratio:.1}",
        last.store_bytes >> 10,
        theirs >> 10
    );
    assert!(ratio <= STORE_RATIO_MAX, "{ratio:.1}");
}

/// Returns the name of the store's own reference for the tip, which proves that it is there.
fn last_ref(git_dir: &Path, tip: &Oid) -> String {
    let refs = common::git::git(git_dir, &["for-each-ref", "--format=%(objectname) %(refname)"], b"");
    let line = refs.lines().find(|line| line.starts_with(tip.as_str())).unwrap_or_else(|| panic!("{refs}"));
    line.split_once(' ').unwrap().1.to_owned()
}
