//! Trial boots by the agent, with each loader: a system that takes a reboot is booted once, and becomes permanent when it
//! has proved healthy.

use serde_json::{Value, json};

use crate::common::machine::System;
use crate::kept::{Kept, Look};

/// What a trial leaves on the host when it is over, whatever came of it.
const LEFT_OVERS: &str = "ls -A /nix/var/nix/profiles/system-profiles
    find /etc/systemd/system.control ! -type d; grep -l pullagent-trial /boot/loader/entries/* || true";

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

fn is_in_sync(look: &Look, revision: &str) -> bool {
    look.status["state"] == "in-sync" && look.status["running"]["revision"] == revision
}

/// A next push that takes no reboot is deployed.
fn deploys(kept: &Kept, system: System) -> Value {
    let revision = kept.push(&system);
    let ended = kept.wait_for(&revision, "confirmed");
    let look = kept.wait_until("the host to be in sync", |look| is_in_sync(look, &revision));
    assert_eq!(look.status["rebootPending"], json!(null), "{look:?}");
    is_at_rest(kept, ended["toplevel"].as_str().unwrap());
    ended
}

/// What is good is booted once for its trial, becomes permanent, and stays.
fn good(kept: &Kept) {
    let began = std::time::Instant::now();
    let system = kept.next("good", "loglevel=5");
    let ended = deploys(kept, system.clone());
    println!("uefi: {}: a good trial took {:.0} s", kept.vm.version(), began.elapsed().as_secs_f32());
    let good = ended["toplevel"].as_str().unwrap();
    assert_eq!(kept.vm.booted(), [kept.vm.old().as_str(), good], "it takes one reboot");
    assert!(kept.vm.check("cat /proc/cmdline").contains("loglevel=5"));

    assert_eq!(kept.vm.reboot().system, good, "a plain reboot");
    deploys(kept, system.label("later").etc("label", "later"));
    assert_eq!(kept.vm.booted().len(), 3, "what takes no reboot is not booted");
}

#[test]
fn with_257_a_good_trial_is_permanent() {
    let Some(kept) = Kept::boot_with_the_others(257) else { return };
    good(&kept);
}

#[test]
fn with_252_a_good_trial_is_permanent() {
    let Some(kept) = Kept::boot(252) else { return };
    good(&kept);
}
