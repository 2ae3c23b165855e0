//! Trial boots by the agent, with each loader: a system that takes a reboot is booted once, and becomes permanent only when
//! it has proved healthy. Whatever becomes of it, the host comes back with a system that works, says what happened, and
//! takes the next push.

use serde_json::{Value, json};

use crate::common::machine::System;
use crate::kept::{Kept, Look, NETWORK};
use crate::vm::wanted;

/// What a trial leaves on the host when it is over, whatever came of it.
const LEFT_OVERS: &str = "ls -A /nix/var/nix/profiles/system-profiles
    test ! -d /etc/systemd/system.control || find /etc/systemd/system.control ! -type d; grep -l pullagent-trial /boot/loader/entries/* || true";

/// Nothing of a trial is left, and what is booted next is what runs.
fn is_at_rest(kept: &Kept, toplevel: &str) {
    assert_eq!(kept.vm.check(LEFT_OVERS), "");
    let facts = kept.vm.facts();
    assert_eq!(facts["nextBoot"]["toplevel"], toplevel, "{facts}");
    assert_eq!(facts["bootAfter"]["toplevel"], toplevel, "{facts}");
    for link in ["/run/current-system", "/nix/var/nix/profiles/system"] {
        assert_eq!(kept.vm.check(&format!("readlink -f {link}")), toplevel);
    }
    assert_eq!(kept.vm.nvram().get("LoaderEntryOneShot"), None);
}

pub fn is_in_sync(look: &Look, revision: &str) -> bool {
    look.status["state"] == "in-sync" && look.status["running"]["revision"] == revision
}

/// A next push that takes no reboot is deployed.
pub fn deploys(kept: &Kept, system: System) -> Value {
    let revision = kept.push(&system);
    let ended = kept.wait_for(&revision, "confirmed");
    let look = kept.wait_until("the host to be in sync", |look| is_in_sync(look, &revision));
    assert_eq!(look.status["rebootPending"], json!(null), "{look:?}");
    is_at_rest(kept, ended["toplevel"].as_str().unwrap());
    ended
}

/// What is good is booted once for its trial, becomes permanent, and stays. Returns it.
fn good(kept: &Kept) -> System {
    let began = std::time::Instant::now();
    let system = kept.next("good", "loglevel=5");
    let ended = deploys(kept, system.clone());
    println!("uefi: {}: a good trial took {:.0} s", kept.vm.version(), began.elapsed().as_secs_f32());
    let good = ended["toplevel"].as_str().unwrap();
    assert_eq!(kept.vm.booted(), [kept.vm.old().as_str(), good], "it takes one reboot");
    assert!(kept.vm.check("cat /proc/cmdline").contains("loglevel=5"));

    assert_eq!(kept.vm.reboot().system, good, "a plain reboot");
    system
}

/// What takes no reboot is switched to, also after a trial.
fn then_live(kept: &Kept, good: System) {
    let before = kept.vm.booted().len();
    deploys(kept, good.label("later").etc("label", "later"));
    assert_eq!(kept.vm.booted().len(), before);
}

#[test]
fn with_257_a_good_trial_is_permanent() {
    let Some(kept) = Kept::boot_with_the_others(257) else { return };
    let system = good(&kept);
    // It takes as long again, so only where time was asked for.
    if wanted() {
        then_live(&kept, system);
    }
}

#[test]
fn with_252_a_good_trial_is_permanent() {
    let Some(kept) = Kept::boot(252) else { return };
    let system = good(&kept);
    then_live(&kept, system);
}

/// A system that dies before systemd runs leaves no trace: it is tried once more, then somebody has to look.
fn dies_early(kept: &Kept, parameter: &str, sign: &str) {
    let bad = kept.push(&kept.next("early", parameter));
    kept.wait_for(&bad, "reboot-awaited");
    assert_eq!(kept.vm.console().matches(sign).count(), 2, "it was booted twice");
    let look = kept.wait_until("a word about it", |look| !look.status["rebootPending"].is_null());
    let tries: Vec<_> = look.of(&bad).iter().map(|e| (e["outcome"].clone(), e["code"].clone())).collect();
    assert_eq!(tries.len(), 2, "{tries:?}");
    assert_eq!(tries[0], (json!("abandoned"), json!("loader")));
    let why = look.status["rebootPending"]["why"].as_str().unwrap();
    println!("uefi: {}: '{parameter}': {why}", kept.vm.version());
    assert!(why.contains("no trace") && why.contains("2 times"), "{why}");
    runs_the_first(kept);
}

/// A system that came up before it died may have lost its power only: it is tried once more, then it is set aside.
fn dies_late(kept: &Kept, system: &System) {
    let before = kept.vm.booted().len();
    let bad = kept.push(system);
    let look = kept.wait_until("it to be set aside", |look| look.status["setAside"] != json!([]));
    assert_eq!(look.status["setAside"][0]["revision"], bad, "{look:?}");
    let tries = look.of(&bad);
    let codes: Vec<_> = tries.iter().map(|e| (e["outcome"].clone(), e["code"].clone())).collect();
    assert_eq!(codes, [(json!("abandoned"), json!("reset")), (json!("abandoned"), json!("reset"))]);
    println!("uefi: {}: {}", kept.vm.version(), tries[1]["text"]);
    let (new, old) = (tries[1]["toplevel"].as_str().unwrap(), kept.toplevel.as_str());
    assert_eq!(kept.vm.booted()[before..], [new, old, new, old]);
    runs_the_first(kept);
}

/// The new system is booted and ends in a reset or a reboot: the old one is back, and the new one is set aside.
fn ends_in_the_old(kept: &Kept, system: &System, outcome: &str) -> Value {
    let before = kept.vm.booted().len();
    let bad = kept.push(system);
    let ended = kept.wait_for(&bad, outcome);
    println!("uefi: {}: {}: {}", kept.vm.version(), ended["code"], ended["text"]);
    let booted = kept.vm.booted()[before..].to_vec();
    assert_eq!(booted, [ended["toplevel"].as_str().unwrap(), &kept.toplevel], "it is tried once");
    runs_the_first(kept);
    ended
}

fn is_set_aside(kept: &Kept, ended: &Value) {
    let look = kept.wait_until("it to be set aside", |look| look.status["setAside"] != json!([]));
    assert_eq!(look.status["setAside"][0]["revision"], ended["revision"], "{look:?}");
}

fn runs_the_first(kept: &Kept) {
    is_at_rest(kept, &kept.toplevel);
    let revision = kept.vm.check("cat /run/current-system/etc/pullagent/revision");
    let look =
        kept.wait_until("the host to be at rest", |look| look.status["running"]["revision"] == revision);
    assert_eq!(look.status["running"]["revision"], revision);
}

/// Panics, early and late; a good system is still deployed.
fn panics(version: u32) {
    let Some(kept) = Kept::boot(version) else { return };
    dies_early(&kept, "rig.stage1=fail", "Kernel panic");
    // Once its guard has noted that it runs.
    let crash = "ExecStart=/bin/sh -c 'until test -e /var/lib/pullagent/guard/*/booted; do sleep 1; done; sync; \
                 echo c > /proc/sysrq-trigger'";
    dies_late(&kept, &kept.next("late", "loglevel=5").service("crash", crash));
    deploys(&kept, kept.next("good", "loglevel=6"));
}

#[test]
fn with_252_a_panic_ends_in_the_old_system() {
    panics(252);
}

#[test]
fn with_257_a_panic_ends_in_the_old_system() {
    panics(257);
}

/// A system that can't be updated any more is as bad as one that does not boot, but that may be the network's fault.
fn without_network(version: u32) {
    let Some(kept) = Kept::boot(version) else { return };
    let dark = kept.next("dark", "loglevel=5").without_unit(NETWORK);
    let ended = ends_in_the_old(&kept, &dark, "rolled-back");
    assert!(ended["text"].as_str().unwrap().contains("updatable"), "{ended}");
    deploys(&kept, kept.next("good", "loglevel=6"));
}

#[test]
fn with_252_a_system_without_network_ends_in_the_old_one() {
    without_network(252);
}

#[test]
fn with_257_a_system_without_network_ends_in_the_old_one() {
    without_network(257);
}

/// A hang is ended by a watchdog that the first stage starts, or by the guard that every system starts.
fn hangs(version: u32) {
    let Some(kept) = Kept::boot(version) else { return };
    // Nobody in it ever speaks for the new system.
    let mute = "[Service]\nExecStart=\nExecStart=/bin/sleep infinity\nType=exec\nWatchdogSec=0\n";
    let hung = kept.next("hung", "loglevel=5").drop_in("pullagent.service", "mute", mute);
    let ended = ends_in_the_old(&kept, &hung, "rolled-back");
    is_set_aside(&kept, &ended);
    dies_early(&kept, "rig.stage1=hang-watched", "stage 1 hangs");
    deploys(&kept, kept.next("good", "loglevel=6"));
}

#[test]
fn with_252_a_hang_ends_in_the_old_system() {
    hangs(252);
}

#[test]
fn with_257_a_hang_ends_in_the_old_system() {
    hangs(257);
}

/// Where an EFI variable says what is booted, no installer decides that: then no boot is tried, be it the running system
/// that is named or another one. All but the kernel is deployed, and it is said what is in the way.
fn stale_default(version: u32) {
    let Some(kept) = Kept::boot(version) else { return };
    // The system that the machine was made with is none that Nix knows, so nothing could fall back to it.
    kept.vm.reboot();
    let booted = kept.vm.booted().len();
    for (n, entry) in ["nixos-generation-1.conf", "nixos-generation-2.conf"].into_iter().enumerate() {
        kept.vm.check(&format!("bootctl set-default {entry}"));
        let stale = kept.push(&kept.next(&format!("stale{n}"), &format!("loglevel={n}")));
        let look = kept.wait_until("a word about it", |look| {
            let why = look.status["rebootPending"]["why"].as_str().unwrap_or_default();
            look.status["running"]["revision"] == stale.as_str() && why.contains("LoaderEntryDefault")
        });
        println!("uefi: {}: {entry}: {}", kept.vm.version(), look.status["rebootPending"]["why"]);
        assert_eq!(look.of(&stale)[0]["outcome"], "confirmed", "{look:?}");
        assert_eq!(kept.vm.check(LEFT_OVERS), "");
    }
    assert_eq!(kept.vm.booted().len(), booted, "nothing was booted");
    kept.vm.check("bootctl set-default ''");
    deploys(&kept, kept.next("good", "loglevel=6"));
    assert_eq!(kept.vm.booted().len(), booted + 1);
}

#[test]
fn with_252_a_stale_efi_default_forbids_a_trial() {
    stale_default(252);
}

#[test]
fn with_257_a_stale_efi_default_forbids_a_trial() {
    stale_default(257);
}
