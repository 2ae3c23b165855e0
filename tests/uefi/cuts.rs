//! The power is cut at any instant between a push that takes a reboot and its confirmation. The machine comes up with the
//! old system or the new one, and ends with what was pushed; at worst it takes another push.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::agent::{deploys, is_in_sync};
use crate::kept::{Kept, Look};

/// Another kernel is being copied, or entries are being written.
const ENTRIES_CHANGE: &str =
    "until compgen -G '/boot/EFI/nixos/*.tmp' || compgen -G '/boot/loader/entries/*.tmp'; do sleep 0.1; done";

/// Says whether the agent does no more about a revision unless somebody else does something.
fn has_settled(look: &Look, revision: &str) -> bool {
    let aside = look.status["setAside"].as_array().unwrap().iter().any(|bad| bad["revision"] == revision);
    let waits = look.of(revision).last().is_some_and(|entry| entry["outcome"] == "reboot-awaited");
    is_in_sync(look, revision) || aside || waits
}

/// Cuts the power in one round, and returns what has become of the push.
fn cut(kept: &Kept, round: u64, random: &mut fastrand::Rng, trial: Duration) -> Value {
    let (running, before) = (kept.vm.check("readlink -f /run/current-system"), kept.vm.booted().len());
    let kernel = kept.vm.check(&format!(
        "cp \"$(readlink /usr/lib/rig/vmlinuz)\" /tmp/vmlinuz-{round} && nix-store --add /tmp/vmlinuz-{round}"
    ));
    let system = kept.next(&format!("cut{round}"), "loglevel=5").kernel(&kernel);
    let (revision, began) = (kept.push(&system), Instant::now());
    let when = if round.is_multiple_of(2) {
        kept.vm.ask(ENTRIES_CHANGE);
        kept.vm.pass(Duration::from_millis(random.u64(0..4000)));
        "while entries change"
    } else {
        kept.vm.pass(trial.mul_f64(random.f64()));
        "at any time"
    };
    let after = began.elapsed().as_secs();
    kept.vm.cut_power();
    let facts = kept.vm.facts_while_off();
    let boot = kept.vm.power_on();
    assert_eq!(facts["nextBoot"]["toplevel"], json!(boot.system), "{facts}");
    let look = kept.wait_until("the push to be settled", |look| has_settled(look, &revision));
    let ended = look.of(&revision).last().map_or(Value::Null, |entry| (*entry).clone());
    println!(
        "uefi: {}: a power cut {when}, {after} s after the push: {} ({}: {}), {} in the end",
        kept.vm.version(),
        ended["outcome"],
        ended["code"],
        ended["text"],
        look.status["state"]
    );
    assert_ne!(look.status["state"], "build-failed", "the commit is not to blame: {look:?}");
    let new = look.of(&revision).iter().find_map(|entry| entry["toplevel"].as_str());
    let booted = kept.vm.booted()[before..].to_vec();
    assert!(booted.iter().all(|system| *system == running || Some(system.as_str()) == new), "{booted:#?}");
    json!({ "revision": revision, "inSync": is_in_sync(&look, &revision) })
}

fn power_cuts(version: u32) {
    let Some(kept) = Kept::boot(version) else { return };
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("PULLAGENT_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    let rounds = number("PULLAGENT_TEST_CUTS").unwrap_or(2);
    println!("uefi: {version}: {rounds} power cuts by PULLAGENT_TEST_SEED={seed}");
    let (mut random, began) = (fastrand::Rng::with_seed(seed), Instant::now());
    deploys(&kept, kept.next("uncut", "loglevel=4"));
    let trial = began.elapsed();
    for round in 0..rounds {
        let ended = cut(&kept, round, &mut random, trial);
        if ended["inSync"] == false {
            deploys(&kept, kept.next(&format!("after{round}"), "loglevel=6"));
        }
    }
}

#[test]
fn with_252_a_power_cut_at_any_time_is_survived() {
    power_cuts(252);
}

#[test]
fn with_257_a_power_cut_at_any_time_is_survived() {
    power_cuts(257);
}
