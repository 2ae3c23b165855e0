//! What it costs to take in many signed commits at once, as a ratio to the least that could do: a walk that reads and hashes
//! the same commits in the same store, in the same run. 100 commits; 10,000 with `PULLAGENT_TEST_LONG=1`. The ratios are worth
//! reading in a release build; that the cost per commit does not rise with their number, and that memory stays within its
//! bound, is asserted in any.
#![allow(clippy::disallowed_methods, reason = "tests start programs and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[allow(dead_code, reason = "another test takes the rest")]
#[path = "store/bytes.rs"]
mod bytes;
#[allow(dead_code, reason = "another test takes the rest")]
#[path = "store/git.rs"]
mod git;
#[allow(dead_code, reason = "another test takes the rest")]
#[path = "store/host.rs"]
mod host;
#[allow(dead_code, reason = "another test takes the rest")]
#[path = "trust/sshsig.rs"]
mod sshsig;
#[allow(dead_code, reason = "another test takes the rest")]
#[path = "store/watch.rs"]
mod watch;

use std::path::Path;
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use pullagent as product;
use pullagent::model::Oid;
use pullagent::repo::import::Verdict;
use pullagent::trust::AnchorFacts;
use rustix::time::{ClockId, clock_gettime};

use git::{FIRST_COMMIT, Repo};
use host::Host;
use sshsig::{Key, PLAIN, Sshsig, with_header};
use watch::Watch;

const COMMITS_QUICK: usize = 100;
const COMMITS_LONG: usize = 10_000;
/// What may be resident in the child that verifies: the program itself, and a few hundred bytes for each commit.
const PEAK_BYTES: u64 = 64 << 20;
/// How much more one of many commits may cost than one of a quarter as many.
const RISE_MAX: f64 = 2.5;
/// Processor time below this says nothing: the kernel counts that of children in hundredths of a second.
const CPU_MIN: Duration = Duration::from_millis(300);

/// What something took.
#[derive(Debug, Clone, Copy)]
struct Cost {
    cpu: Duration,
    wall: Duration,
}

impl Cost {
    /// Measures what this process and the children that end meanwhile use.
    fn of<T>(work: impl FnOnce() -> T) -> (T, Cost) {
        let (cpu, wall) = (cpu_used(), Instant::now());
        let done = work();
        (done, Cost { cpu: cpu_used() - cpu, wall: wall.elapsed() })
    }

    fn say(self, what: &str, commits: usize, floor: Cost) {
        let each = self.cpu.as_secs_f64() * 1e6 / commits as f64;
        println!(
            "{what}: {each:.1} µs of CPU a commit, {:.0} commits/s of CPU, {:.0} commits/s, {:.1} times the plain walk",
            commits as f64 / self.cpu.as_secs_f64(),
            commits as f64 / self.wall.as_secs_f64(),
            self.cpu.as_secs_f64() / floor.cpu.as_secs_f64(),
        );
    }
}

/// The processor time of this process and of its children that have ended, those that they waited for included.
fn cpu_used() -> Duration {
    let own = clock_gettime(ClockId::ProcessCPUTime);
    let own = Duration::new(own.tv_sec.unsigned_abs(), u32::try_from(own.tv_nsec).unwrap());
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The fields are counted from behind the name, which may hold anything; cutime and cstime are the 16th and 17th.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[13..15].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    own + Duration::from_millis(10 * ticks)
}

/// Commits on top of `first`, each signed by Alice as `git commit -S` does, in one pack.
fn signed_history(first: &Oid, tree: &str, count: usize) -> (Vec<Oid>, Vec<u8>) {
    let secret = ssh_key::PrivateKey::from_openssh(git::private_key()).unwrap();
    let seed = secret.key_data().ed25519().unwrap().private.to_bytes();
    let alice = Key { secret: SigningKey::from_bytes(&seed), algorithm: PLAIN };
    let (mut ids, mut entries) = (vec![first.clone()], Vec::new());
    for n in 1..=count {
        let parent = &ids[n - 1];
        let who = format!("Alice <alice@example.org> {} +0000", FIRST_COMMIT + 60 * (n as u64 + 1));
        let payload = format!("tree {tree}\nparent {parent}\nauthor {who}\ncommitter {who}\n\nchange {n}\n");
        let armor = Sshsig::default().sign(&alice, payload.as_bytes());
        let raw = with_header(payload.as_bytes(), "gpgsig", &armor);
        ids.push(id_of(&raw));
        entries.extend([bytes::entry_header(1, raw.len() as u64), bytes::stored(&raw)].concat());
    }
    (ids, bytes::pack(u32::try_from(count).unwrap(), &entries))
}

fn id_of(raw: &[u8]) -> Oid {
    let id = gix::objs::compute_hash(gix::hash::Kind::Sha1, gix::objs::Kind::Commit, raw).unwrap();
    id.to_string().parse().unwrap()
}

/// Reads and hashes every commit from `tip` down to `anchor`, and nothing else; returns how many there are.
fn plain_walk(git_dir: &Path, tip: &Oid, anchor: &Oid) -> usize {
    let repository = gix::open(git_dir).unwrap();
    let (mut at, mut count) = (tip.clone(), 0);
    while at != *anchor {
        let id = gix::ObjectId::from_hex(at.as_str().as_bytes()).unwrap();
        let object = repository.find_object(id).unwrap();
        assert_eq!(id_of(&object.data), at);
        let parent =
            gix::objs::CommitRefIter::from_bytes(&object.data, gix::hash::Kind::Sha1).parent_ids().next();
        at = parent.unwrap().to_string().parse().unwrap();
        count += 1;
    }
    count
}

/// Verifies everything above `anchor` anew, from the store alone.
fn verify(host: &mut Host, anchor: &AnchorFacts, tip: &Oid) -> u32 {
    host.main = anchor.clone();
    match host.import(tip, None) {
        Ok(Verdict::Accepted(accepted)) => accepted.commits,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_new_commit_costs_does_not_rise_with_their_number() {
    let long = std::env::var_os("PULLAGENT_TEST_LONG").is_some_and(|long| long == "1");
    let commits = if long { COMMITS_LONG } else { COMMITS_QUICK };
    let mut repo = Repo::new();
    let first = repo.change("flake.nix", "{ }\n");
    let mut host = Host::new(&first);
    host.follow(&repo);
    let begin = host.main.clone();
    let (ids, pack) = signed_history(&first, &repo.git(&["rev-parse", "HEAD^{tree}"]), commits);
    let tip = ids.last().unwrap();

    let ((), taken_in) = Cost::of(|| host.accept(tip, Some(&pack)));
    let git_dir = host.store().git_dir().to_owned();
    let (walked, walk) = Cost::of(|| plain_walk(&git_dir, tip, &first));
    assert_eq!(walked, commits);
    let (verified, all) = Cost::of(|| verify(&mut host, &begin, tip));
    assert_eq!(verified as usize, commits);
    let watch = Watch::memory(host.state());
    let later = AnchorFacts::introduction(ids[commits - commits / 4].clone());
    let quarter = commits / 4;
    let (_, some) = Cost::of(|| verify(&mut host, &later, tip));
    verify(&mut host, &begin, tip);
    let peak = watch.peak_bytes();

    println!("{commits} signed commits, {} KiB of pack", pack.len() >> 10);
    walk.say("a plain walk", commits, walk);
    all.say("verified", commits, walk);
    taken_in.say("taken in from a pack, verified", commits, walk);
    println!("peak {} MiB in the child that verifies", peak >> 20);
    assert!(peak > 0 && peak < PEAK_BYTES, "{peak} bytes");
    if some.cpu >= CPU_MIN {
        let each = |cost: Cost, n: usize| cost.cpu.as_secs_f64() / n as f64;
        let rise = each(all, commits) / each(some, quarter);
        println!("one of {commits} costs {rise:.2} times one of {quarter}");
        assert!(rise < RISE_MAX, "the cost of each commit rises with their number: {rise}");
    }
}
