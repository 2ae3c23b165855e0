//! What a switch comes to under real systemd, whatever its exit code says; and whatever else may be at work on the host.

use serde_json::{Value, json};

use crate::common::machine::{Fault, Managed, Step, System, Verb, Via, wait_until};
use crate::host::{LIMIT, Look, boot, boot_with, next};

fn in_sync(host: &Managed) {
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
}

/// Returns how often a system was switched to.
fn switches(host: &Managed, toplevel: &str) -> usize {
    host.machine.steps(toplevel, Verb::Test).iter().filter(|step| step.starts_with("begin")).count()
}

/// Waits until a push was called off for this reason, which must not be held against it, and does what helps; then it has to
/// be deployed without another word.
fn waits_for(host: &Managed, revision: &str, code: &str, help: impl FnOnce()) -> Value {
    let ended = host.wait_for_outcome(revision, "abandoned");
    assert_eq!(ended["code"], code, "{ended}");
    assert_eq!(host.status().unwrap()["setAside"], json!([]), "not the target's fault");
    help();
    host.wait_for_outcome(revision, "confirmed");
    ended
}

/// Row 17: everything is activated, and units are left that were to be started. What is left is worked off by another run.
#[test]
fn a_switch_that_stops_after_the_activation_is_run_once_more() {
    let Some(host) = boot(Via::Https, "20s") else { return };
    in_sync(&host);
    host.machine.fault("*", Verb::Test, Step::StartUnits, Fault::Fail);
    let system = next(&host, "new");
    let revision = host.push(&system);
    host.wait_for_outcome(&revision, "confirmed");
    assert_eq!(switches(&host, &host.machine.build_at(&system, &revision)), 2);
    assert_eq!(host.page(), "new");
    assert!(host.machine.view().leftovers.is_empty());
}

/// Row 14: one that stops half-way each time is run twice and no more, and rolled back.
#[test]
fn a_switch_that_stops_half_way_each_time_is_rolled_back() {
    let Some(host) = boot(Via::Https, "20s") else { return };
    in_sync(&host);
    let system = next(&host, "torn").fault(Verb::Test, Step::CurrentSystem, Fault::Fail);
    let revision = host.push(&system);
    let ended = host.wait_for_outcome(&revision, "rolled-back");
    assert!(ended["text"].as_str().unwrap().contains("also when it was run once more"), "{ended}");
    assert_eq!(switches(&host, &host.machine.build_at(&system, &revision)), 2);
    assert_eq!(host.page(), "one");
}

/// Rows 13 and 15: a script of the activation fails and all else is done; whether that may be is the admin's word. A unit that
/// failed before makes the switch end with 4, which says nothing about the new system.
#[test]
fn exit_codes_alone_decide_nothing() {
    let broken = "ExecStart=/usr/bin/false";
    let Some(host) = boot_with(Via::Https, "20s", |system| system.service("broken", broken)) else { return };
    in_sync(&host);
    let fails = |system: System| system.fault(Verb::Test, Step::Users, Fault::Fail);
    let good = next(&host, "good");
    let revision = host.push(&good);
    host.wait_for_outcome(&revision, "confirmed");
    let steps = host.machine.steps(&host.machine.build_at(&good, &revision), Verb::Test);
    assert_eq!(steps.last().unwrap(), "end 4", "the switch itself complains");

    let mended = |system: System| system.without_unit("broken.service");
    let refused = host.push(&fails(mended(next(&host, "refused"))));
    let ended = host.wait_for_outcome(&refused, "rolled-back");
    assert!(ended["text"].as_str().unwrap().contains("a script of the activation failed"), "{ended}");
    let mut settings = host.settings.clone();
    settings["activation"]["activationErrors"] = "tolerate".into();
    let tolerated = fails(mended(next(&host, "tolerated"))).agent(&host.package, &settings);
    let revision = host.push(&tolerated);
    host.wait_for_outcome(&revision, "confirmed");
    let steps = host.machine.steps(&host.machine.build_at(&tolerated, &revision), Verb::Test);
    assert_eq!(steps.last().unwrap(), "end 2");
}

/// Rows 10 and 11: only a reboot leads to such a system, and nothing is wrong with it.
#[test]
fn a_system_that_takes_a_reboot_is_not_to_blame() {
    let Some(host) = boot_with(Via::Https, "20s", |system| system.inhibitor("dbus", "1")) else { return };
    in_sync(&host);
    for system in [next(&host, "inhibited").inhibitor("dbus", "2"), next(&host, "init").interface("2")] {
        let revision = host.push(&system);
        host.wait_for_outcome(&revision, "reboot-awaited");
        wait_until("its word", LIMIT, || host.word() == "reboot-pending");
        assert_eq!(host.status().unwrap()["setAside"], json!([]));
        assert_eq!(host.page(), "one");
    }
}

/// Row 39: no system can be switched to without the message bus, so nothing is begun.
#[test]
fn without_a_message_bus_nothing_is_begun() {
    let Some(host) = boot(Via::Https, "20s") else { return };
    in_sync(&host);
    host.machine.check("systemctl stop dbus.socket dbus.service");
    let system = next(&host, "new");
    let revision = host.push(&system);
    let ended = waits_for(&host, &revision, "dbus", || {
        assert_eq!(switches(&host, &host.machine.build_at(&system, &revision)), 0);
        host.machine.check("systemctl start dbus.socket dbus.service");
    });
    assert!(ended["text"].as_str().unwrap().contains("systemctl start dbus.socket"), "{ended}");
}

const LOCK: &str = "/run/nixos/switch-to-configuration.lock";

/// Row 12: somebody else switches, before the deployment begins.
#[test]
fn a_switch_that_is_under_way_is_waited_for() {
    let Some(host) = boot(Via::Https, "20s") else { return };
    in_sync(&host);
    host.machine.check(&format!("touch /run/busy; (exec 9>> {LOCK}; flock 9; while [ -e /run/busy ]; do sleep 0.2; done) > /dev/null 2>&1 &"));
    let revision = host.push(&next(&host, "new"));
    waits_for(&host, &revision, "locked", || {
        assert_eq!(host.page(), "one");
        host.machine.check("rm /run/busy");
    });
}

/// Row 54: somebody else begins to switch in the very moment between the check and the switch, and is half-way when ours is
/// refused. What they do is theirs: it is neither finished nor undone.
#[test]
fn a_switch_that_comes_in_between_is_left_alone() {
    let Some(host) = boot(Via::Https, "20s") else { return };
    in_sync(&host);
    let machine = &host.machine;
    let system = next(&host, "new").fault(Verb::Check, Step::Check, Fault::Wait(5));
    let revision = host.push(&system);
    let toplevel = machine.build_at(&system, &revision);
    machine.wait_for_step(&toplevel, Verb::Check, Step::Check);
    let theirs = "(exec 9>> LOCK; flock 9; echo other.service > /run/nixos/start-list; touch /run/began
        while [ ! -e /run/enough ]; do sleep 0.2; done; rm /run/nixos/start-list) > /dev/null 2>&1 &";
    machine.check(&theirs.replace("LOCK", LOCK));
    machine.wait_for("test -e /run/began");
    let refused = "journalctl -q -o cat -u 'pullagent-switch-*' | grep -q 'could not acquire lock'";
    wait_until("our switch to be refused", LIMIT, || machine.succeeds(refused));
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(switches(&host, &host.toplevel), 0, "the old system is not switched back to");
    assert!(machine.succeeds("test -e /run/nixos/start-list"), "nor are their lists worked off");
    waits_while_locked(&host, &revision);
    assert_eq!(switches(&host, &host.toplevel), 0);
    assert_eq!(host.page(), "new");
}

fn waits_while_locked(host: &Managed, revision: &str) {
    host.machine.check("touch /run/enough");
    wait_until("the deployment that was called off", LIMIT, || {
        host.history().iter().any(|d| d["revision"] == revision && d["code"] == "locked")
    });
    host.wait_for_outcome(revision, "confirmed");
}

/// Row 9: a power cut has emptied a file of the system to go back to.
#[test]
fn a_damaged_system_is_not_left() {
    let Some(host) = boot(Via::Https, "20s") else { return };
    in_sync(&host);
    let (machine, old) = (&host.machine, &host.toplevel);
    let began = std::time::Instant::now();
    machine.check(&format!("nix-store --verify-path {old}"));
    println!("test host: a toplevel is compared within {} ms", began.elapsed().as_millis());
    machine.check(&format!(
        "mount -o remount,rw /nix/store 2> /dev/null; cp -a {old}/boot.json /tmp/kept; chmod u+w {old}/boot.json
         : > {old}/boot.json; chmod u-w {old}/boot.json"
    ));
    let revision = host.push(&next(&host, "new"));
    let ended = waits_for(&host, &revision, "damaged", || {
        machine.check(&format!("cat /tmp/kept > {old}/boot.json; touch -d @1 {old}/boot.json"));
    });
    assert!(ended["text"].as_str().unwrap().contains(old.as_str()), "{ended}");
}
