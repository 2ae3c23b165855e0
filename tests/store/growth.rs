//! What thousands of small fetches leave behind and cost: packs, bytes, memory and time stay bounded. 120 fetches; 2,000
//! with `PULLAGENT_TEST_LONG=1`. `--nocapture` shows the figures.

use std::process::Command;
use std::time::{Duration, Instant};

use pullagent::repo::store::Store;

use crate::git::Repo;
use crate::host::Host;
use crate::watch::Watch;

/// How often the figures are taken.
const STEP: usize = 20;

/// One look at the store, after so many fetches.
struct Look {
    packs: usize,
    bytes: u64,
    /// The quickest fetch since the look before: what lies in between is the machine's noise.
    quickest: Duration,
    peak_bytes: u64,
}

#[test]
fn growth_is_bounded_over_many_fetches() {
    let long = std::env::var_os("PULLAGENT_TEST_LONG").is_some_and(|long| long == "1");
    let fetches = if long { 2_000 } else { 120 };
    let mut repo = Repo::new();
    for n in 0..50 {
        repo.write(&format!("hosts/web{n}/default.nix"), format!("{{ n = {n}; }}\n").repeat(40));
    }
    let first = repo.commit("begin");
    let mut host = Host::new(&first);
    host.follow(&repo);
    let begun = bytes(&host);

    let mut looks: Vec<Look> = Vec::new();
    for chunk in 0..fetches / STEP {
        let memory = Watch::memory(host.state());
        let (mut quickest, mut packs) = (Duration::MAX, 0);
        for n in 0..STEP {
            let at = chunk * STEP + n;
            let path = format!("hosts/web{}/default.nix", at % 50);
            let tip = repo.change(&path, format!("{{ n = {at}; }}\n").repeat(40));
            let pack = repo.pack(&tip, &[&host.main.revision]);
            let began = Instant::now();
            host.accept(&tip, Some(&pack));
            quickest = quickest.min(began.elapsed());
            packs = packs.max(host.packs());
            // As the agent does, before each deployment.
            host.repack().unwrap();
        }
        looks.push(Look { packs, bytes: bytes(&host), quickest, peak_bytes: memory.peak_bytes() });
    }
    host.fsck();
    host.store().verify_packs().unwrap();

    let ours = bytes(&host);
    let gc = collected(&host);
    let (early, late) = (&looks[1], &looks[looks.len() - 2]);
    let per_fetch = (ours - begun) / fetches as u64;
    println!(
        "{fetches} fetches: {} packs, {ours} bytes, {per_fetch} a fetch; {gc} after git gc",
        host.packs()
    );
    for (n, look) in looks.iter().enumerate().filter(|(n, _)| n % (looks.len() / 5).max(1) == 0) {
        println!(
            "after {}: {} packs, {} bytes, quickest fetch {:?}, import child {} KiB",
            (n + 1) * STEP,
            look.packs,
            look.bytes,
            look.quickest,
            look.peak_bytes >> 10
        );
    }
    assert!(looks.iter().all(|look| look.packs <= Store::PACKS_MAX + 1), "packs are put into one");
    // A signed commit, two or three small trees and a file, of which most come as a whole.
    assert!(per_fetch < 4096, "{per_fetch} bytes a fetch");
    assert!(late.quickest < 3 * early.quickest + Duration::from_millis(200), "{:?}", late.quickest);
    // What is mapped counts too, so the store itself is in it.
    assert!(late.peak_bytes < early.peak_bytes + ours + (16 << 20), "{} bytes", late.peak_bytes);
}

fn bytes(host: &Host) -> u64 {
    host.files().iter().map(|(_, bytes)| bytes).sum()
}

/// What `git gc` makes of a copy of the store, in bytes.
fn collected(host: &Host) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.git");
    let mut cp = Command::new("cp");
    assert!(cp.arg("-a").arg(host.store().git_dir()).arg(&copy).status().unwrap().success());
    let mut gc = Command::new("git");
    gc.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", dir.path()).arg("--git-dir").arg(&copy);
    assert!(gc.args(["gc", "-q", "--prune=now"]).status().unwrap().success());
    let packs = std::fs::read_dir(copy.join("objects/pack")).unwrap();
    packs.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}
