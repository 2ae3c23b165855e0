//! Old generations go after a deployment was confirmed, and nothing else goes.

use serde_json::json;

use crate::common::machine::{Managed, Via, wait_until};
use crate::host::{LIMIT, Look};

/// The numbers of a profile's generations.
fn generations(host: &Managed, profile: &str) -> Vec<u64> {
    let list = format!("ls /nix/var/nix/profiles | sed -n 's/^{profile}-\\([0-9]*\\)-link$/\\1/p' | sort -n");
    host.machine.check(&list).lines().map(|n| n.parse().unwrap()).collect()
}

/// The systems that the boot loader has an entry for.
fn entries(host: &Managed) -> Vec<String> {
    let list = "sed -n 's/^options .*init=\\([^ ]*\\)\\/init .*/\\1/p' /boot/loader/entries/*.conf | sort -u";
    host.machine.check(list).lines().map(str::to_owned).collect()
}

fn push(host: &Managed, label: &str) -> String {
    let revision = host.push(&host.system.clone().label(label));
    host.wait_for_outcome(&revision, "confirmed");
    host.machine.view().running.unwrap()
}

#[test]
fn what_was_replaced_long_ago_goes_with_its_boot_entry() {
    let Some(host) = Managed::boot(Via::Https) else { return };
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    // By default all are kept.
    let two = push(&host, "two");
    let three = push(&host, "three");
    let before = generations(&host, "system");
    assert_eq!(before.len(), 3, "{before:?}");
    // Somebody else's profile.
    host.machine.check(&format!(
        "for s in {} {two} {three}; do nix-env -p /nix/var/nix/profiles/other --set $s; done",
        host.toplevel
    ));
    let mut settings = host.settings.clone();
    settings["retention"] = json!({ "generations": { "keep": 1 } });
    let tidy = host.system.clone().label("four").agent(&host.package, &settings);
    let revision = host.push(&tidy);
    host.wait_for_outcome(&revision, "confirmed");
    let four = host.machine.view().running.unwrap();
    // The first was booted, the third is what the host would go back to.
    let expected = [before[0], before[2], before[2] + 1];
    wait_until("the second generation to go", LIMIT, || generations(&host, "system") == expected);
    let mut kept = vec![host.toplevel.clone(), three.clone(), four.clone()];
    kept.sort();
    wait_until("its entry to go", LIMIT, || entries(&host) == kept);
    assert_eq!(generations(&host, "other").len(), 3);
    let view = host.machine.view();
    assert_eq!([view.profile.as_ref(), view.boot_default.as_ref()], [Some(&four); 2]);
    // The entries go just before it is known that they went.
    let told = || host.wait_for_outcome(&revision, "confirmed")["removed"] == json!([before[1]]);
    wait_until("the history to tell", LIMIT, told);
    assert!(host.machine.succeeds(&format!("test -e {two}")), "no garbage was collected");

    // What is rolled back removes nothing.
    let mut bad = settings.clone();
    bad["health"]["checks"]["never"] = json!({
        "command": ["/usr/bin/false"], "interval": "1s", "startPeriod": "1s", "failureThreshold": 2
    });
    let revision = host.push(&host.system.clone().label("bad").agent(&host.package, &bad));
    host.wait_for_outcome(&revision, "rolled-back");
    assert_eq!(generations(&host, "system"), expected);
    host.machine.reboot();
    wait_until("the host again", LIMIT, || host.word() == "rolled-back");
    let five = host.system.clone().label("five").agent(&host.package, &settings);
    let revision = host.push(&five);
    host.wait_for_outcome(&revision, "confirmed");
    let expected = [before[2] + 1, before[2] + 2];
    wait_until("the older ones to go", LIMIT, || generations(&host, "system") == expected);
    let mut kept = vec![four, host.machine.view().running.unwrap()];
    kept.sort();
    wait_until("their entries to go", LIMIT, || entries(&host) == kept);
}
