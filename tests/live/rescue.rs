//! Rollbacks that meet with difficulties: nobody is left but the guard, its processes are killed, nothing can be written, or
//! the old system does not let itself be switched to. What is reported of them is what the host came to.

use std::time::Duration;

use pullagent::host::clock;
use serde_json::json;

use crate::common::machine::{Fault, Managed, Step, System, Verb, Via, wait_until};
use crate::guard::{deadlines, on_probation, runs_old_again, undecided};
use crate::host::{LIMIT, Look, boot, boot_with, next, put_state_on_tmpfs, web};

const KILL: &str = "systemctl kill --signal=KILL 'pullagent-guard-*-fire-*.service'";

/// Whatever kills the rollbacks that the agent asks for, the guard's timer still comes, and nothing has failed until then.
#[test]
fn rollbacks_that_are_killed_are_left_to_the_timer() {
    let Some(host) = boot(Via::Https, "45s") else { return };
    let (revision, _) = on_probation(&host, &undecided(&host, "undecided"));
    let first = deadlines(&host, 3)[0];
    host.machine.check("systemctl stop web.service");
    let left = "journalctl -q -o cat -u pullagent | grep -q \"left to the guard's timer\"";
    wait_until("its being left to the timer", LIMIT, || {
        host.machine.run(KILL);
        host.machine.succeeds(left)
    });
    assert!(clock::boottime_ms() < first, "the timer has not fired yet");
    assert_eq!(host.word(), "rolling-back");
    host.wait_for_outcome(&revision, "rolled-back");
    assert!(clock::boottime_ms() >= first);
    let outcomes: Vec<_> =
        host.history().into_iter().filter(|d| d["revision"] == revision.as_str()).collect();
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    runs_old_again(&host);
}

/// Nothing else is begun while a rollback is still owed that the journal knows nothing of: its timer would undo whatever runs
/// by then.
#[test]
fn a_rollback_that_is_owed_comes_before_the_next_deployment() {
    let Some(host) = boot(Via::Https, "120s") else { return };
    let (_, guard) = on_probation(&host, &undecided(&host, "undecided"));
    host.kill_agent();
    host.machine.check("rm /var/lib/pullagent/journal*");
    // An operator goes back by hand, so that the first revision runs and the agent has where to start from.
    host.machine.check(&format!("{}/bin/switch-to-configuration test || true", host.toplevel));
    host.revive_agent();
    let next = host.push(&web(host.system.clone().label("next"), "next"));
    host.wait_for_outcome(&next, "confirmed");
    assert!(host.machine.succeeds(&format!("test -e {guard}/result.json")), "nothing is owed any more");
    assert_eq!(host.page(), "next");
}

/// The new system's agent never comes up. The switch itself has added a timer, so that this costs the window and a margin, and
/// not the time that a switch may take.
#[test]
fn a_dead_agent_costs_no_more_than_the_window_and_a_margin() {
    let Some(host) = boot(Via::Https, "2s") else { return };
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    let new = undecided(&host, "undecided").fault(Verb::Test, Step::Settle, Fault::Wait(6));
    let revision = host.push(&new);
    let toplevel = host.machine.build_at(&new, &revision);
    host.machine.wait_for_step(&toplevel, Verb::Test, Step::Settle);
    host.kill_agent();
    let at = clock::boottime_ms();
    let both = deadlines(&host, 2);
    let margin = Duration::from_secs(2 + 80).as_millis() as u64;
    let after = both[0] - at;
    assert!(after >= margin && after <= margin + 30_000, "fires after {after} ms");
    assert!(both[1] > both[0] + 20_000, "the long one is later: {both:?}");
    let guard = host.guard();
    wait_until("the decision", LIMIT, || host.machine.succeeds(&format!("grep -q guard {guard}/decision")));
    assert!(clock::boottime_ms() >= both[0] && clock::boottime_ms() < both[1]);
    runs_old_again(&host);
}

/// Row 60: the disk with all of the agent's files turns read-only, as file systems do after an error. Nothing can be decided
/// there any more, so nobody can have decided otherwise.
#[test]
fn a_read_only_disk_does_not_keep_the_guard_from_rolling_back() {
    let Some(host) = boot(Via::Https, "15s") else { return };
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    let (machine, state) = (&host.machine, "/var/lib/pullagent");
    put_state_on_tmpfs(&host, "size=50%");
    let volatile = || host.status().is_some_and(|s| s["alarms"].to_string().contains("volatile-state"));
    wait_until("the word that nothing there survives a reboot", LIMIT, volatile);
    let (revision, _) = on_probation(&host, &undecided(&host, "undecided"));
    deadlines(&host, 3);
    // Without errors of a disk, no file system turns read-only under whoever writes to it.
    host.kill_agent();
    machine.check(&format!("mount -o remount,ro {state}"));
    host.revive_agent();
    runs_old_again(&host);
    assert!(machine.succeeds("journalctl -q -o cat -u 'pullagent-guard-*' | grep -q 'without a record'"));
    assert_eq!(host.history().iter().filter(|d| d["revision"] == revision.as_str()).count(), 0);
    // Nothing new is begun there; once it can be written again, the host goes on.
    let next = host.push(&web(host.system.clone().label("next"), "next"));
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(host.page(), "one");
    machine.check(&format!("mount -o remount,rw {state}; systemctl restart pullagent.service"));
    host.wait_for_outcome(&revision, "rolled-back");
    host.wait_for_outcome(&next, "confirmed");
}

/// A host whose running system can't be switched to any more: each try dies in the middle.
fn without_way_back(policy: &'static str) -> Option<(Managed, String)> {
    let host = boot_with(Via::Https, "20s", |system| system)?;
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    let mut settings = host.settings.clone();
    // The machine sees the disks of the one that it runs on.
    settings["activation"]["reboot"] = json!({ "policy": policy, "unattendedUnlock": true });
    let old = |system: System| web(system.label("old").agent(&host.package, &settings), "old");
    let old = old(host.system.clone());
    let revision = host.push(&old);
    host.wait_for_outcome(&revision, "confirmed");
    let toplevel = host.machine.build_at(&old, &revision);
    for _ in 0..2 {
        host.machine.fault(&toplevel, Verb::Test, Step::CurrentSystem, Fault::Die);
    }
    Some((host, toplevel))
}

/// A system that fails at once, so that it is rolled back.
fn failing(host: &Managed) -> System {
    web(host.system.clone().label("failing"), "failing").without_unit("web.service")
}

/// Row 48: both tries to switch back fail. What boots is the old system, so a reboot is the way back, where it is allowed.
#[test]
fn a_rollback_that_fails_twice_is_a_reboot_where_that_is_allowed() {
    let Some((host, old)) = without_way_back("immediate") else { return };
    let mut revision = String::new();
    host.machine.wait_for_reboot(|| revision = host.push(&failing(&host)));
    let view = host.machine.view();
    assert_eq!([&view.running, &view.profile, &view.boot_default], [&Some(old); 3]);
    host.wait_for_outcome(&revision, "rolled-back");
    let said = "journalctl -q -o cat -u pullagent | grep -q 'a reboot brought the old system back'";
    wait_until("its word", LIMIT, || host.machine.succeeds(said));
}

/// Where it isn't, the host stays up, half-way, and says so; a fix that is pushed is deployed over it.
#[test]
fn a_rollback_that_fails_twice_needs_somebody_where_reboots_are_not_allowed() {
    let Some((host, old)) = without_way_back("never") else { return };
    let before = host.machine.boot_id();
    let revision = host.push(&failing(&host));
    host.wait_for_outcome(&revision, "rollback-failed");
    assert_eq!((host.word().as_str(), host.machine.boot_id()), ("rollback-failed", before));
    assert_eq!(host.machine.view().profile, Some(old));
    let next = host.push(&web(host.system.clone().label("next"), "next"));
    host.wait_for_outcome(&next, "confirmed");
    assert_eq!(host.page(), "next");
}

/// Row 40: a reload of systemd hangs, as generators do whose file system is gone. All that time it answers nobody and no timer
/// of a guard goes off; then it goes on by itself.
#[test]
fn f40_while_systemd_does_not_answer_nothing_is_lost() {
    if !crate::is_long("row 40") {
        return;
    }
    // A switch may take longer than such a reload, as by default.
    let Some(host) = Managed::boot_with(Via::Https, |_| {}, |system| web(system, "one")) else { return };
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    let generator = "/usr/local/lib/systemd/system-generators/hang";
    host.machine.write_file(generator, "#!/bin/sh\nwhile [ -e /run/hang ]; do sleep 1; done\n");
    host.machine.check(&format!("chmod 755 {generator}; touch /run/hang"));
    let revision = host.push(&next(&host, "new"));
    let ended = || host.history().into_iter().rfind(|d| d["revision"] == revision.as_str());
    wait_until("its end", 8 * LIMIT, || ended().is_some());
    let (ended, view) = (ended().unwrap(), host.machine.view());
    println!("while reloads hung: {ended}");
    assert_eq!(view.etc, view.running.as_deref().map(|running| host.machine.etc_of(running)), "{ended}");
    assert_eq!(view.running.as_deref() == Some(&*host.toplevel), ended["outcome"] != "confirmed", "{ended}");
    assert!(view.leftovers.is_empty() && host.machine.is_active("web.service"), "{ended}");
    host.machine.check("rm /run/hang");
    let good = host.push(&next(&host, "good"));
    host.wait_for_outcome(&good, "confirmed");
    assert_eq!(host.page(), "good");
}
