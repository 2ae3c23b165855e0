//! What can go wrong, by the numbers of `docs/failures.md`: rows that have no place in the other files here. The host ends
//! on a system that works, says why, and deploys the next push.

use serde_json::{Value, json};

use crate::common::machine::{Fault, Managed, Step, System, Verb, Via, wait_until};
use crate::host::{LIMIT, Look, boot_soaking, boot_with, next, put_state_on_tmpfs, web};

/// Boots a machine that is in sync; `configure` changes what the first system's agent is told.
fn boot(configure: impl FnOnce(&mut Value)) -> Option<Managed> {
    let told = |settings: &mut Value| {
        settings["activation"] = json!({ "soak": "1s", "window": "20s", "switchTimeout": "10s" });
        configure(settings);
    };
    let host = Managed::boot_with(Via::Https, told, |system| web(system, "one"))?;
    host.wait_for_status("in-sync", &host.revision);
    Some(host)
}

/// Says that the first system runs, is permanent, and is what boots.
fn runs_the_first(host: &Managed) {
    let (view, old) = (host.machine.view(), Some(host.toplevel.clone()));
    assert_eq!([&view.running, &view.profile, &view.boot_default], [&old; 3]);
    assert_eq!((view.etc, view.leftovers), (Some(host.machine.etc_of(&host.toplevel)), vec![]));
    assert_eq!(host.page(), "one");
}

/// The next push goes through.
fn deploys(host: &Managed, label: &str) {
    let revision = host.push(&next(host, label));
    host.wait_for_outcome(&revision, "confirmed");
    host.wait_for_status("in-sync", &revision);
    assert_eq!(host.page(), label);
}

/// A system with another check.
fn checked(host: &Managed, label: &str, check: Value) -> System {
    let mut settings = host.settings.clone();
    settings["health"]["checks"]["more"] = check;
    next(host, label).agent(&host.package, &settings)
}

#[test]
fn f01_a_system_that_cannot_be_evaluated_changes_nothing() {
    let Some(host) = boot(|_| {}) else { return };
    let bad = host.push(&next(&host, "no name for a store path"));
    assert_eq!(host.wait_for_outcome(&bad, "build-failed")["code"], "eval");
    assert_eq!(host.word(), "build-failed");
    runs_the_first(&host);
    deploys(&host, "repaired");
    let of_bad = |ended: &&Value| ended["revision"] == bad.as_str();
    assert_eq!(host.history().iter().filter(of_bad).count(), 1, "it was tried once");
}

#[test]
fn f02_a_system_that_cannot_be_built_changes_nothing() {
    let Some(host) = boot(|_| {}) else { return };
    // One name cannot be a file and a directory.
    let clash = next(&host, "clash").etc("clash", "a file\n").etc("clash/below", "in a directory\n");
    let bad = host.push(&clash);
    assert_eq!(host.wait_for_outcome(&bad, "build-failed")["code"], "build");
    runs_the_first(&host);
    deploys(&host, "repaired");
}

/// Puts the agent's state on a file system of its own, as large as this.
fn put_state_on(host: &Managed, megabytes: u32) {
    put_state_on_tmpfs(host, &format!("size={megabytes}M"));
    wait_until("the agent", LIMIT, || host.word() == "in-sync");
}

#[test]
fn f05_without_room_nothing_is_begun() {
    let Some(host) = boot(|settings| settings["activation"]["freeBytesMin"] = json!(64 << 20)) else {
        return;
    };
    put_state_on(&host, 100);
    host.machine.check("head -c 60M /dev/zero > /var/lib/pullagent/fill");
    let revision = host.push(&next(&host, "two"));
    assert_eq!(host.wait_for_outcome(&revision, "abandoned")["code"], "space");
    runs_the_first(&host);
    // Nobody has to push again.
    host.machine.check("rm /var/lib/pullagent/fill");
    host.wait_for_outcome(&revision, "confirmed");
    assert_eq!(host.page(), "two");
}

#[test]
fn f06_what_cannot_be_written_down_is_not_done() {
    let Some(host) = boot(|_| {}) else { return };
    put_state_on(&host, 100);
    host.machine.run("cat /dev/zero > /var/lib/pullagent/fill");
    let revision = host.push(&next(&host, "two"));
    wait_until("a word about it", LIMIT, || !matches!(host.word().as_str(), "in-sync" | "verifying"));
    std::thread::sleep(std::time::Duration::from_secs(3));
    runs_the_first(&host);
    assert_ne!(host.word(), "in-sync", "{:#?}", host.status());
    host.machine.check("rm /var/lib/pullagent/fill");
    host.wait_for_outcome(&revision, "confirmed");
}

#[test]
fn f18_a_unit_that_fails_later_rolls_back() {
    let more = |system: System| system.service("job", "ExecStart=/usr/bin/sleep infinity");
    let Some(host) = boot_soaking(Via::Https, "15s", "60s", more) else { return };
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    let late = "ExecStart=/bin/sh -c 'sleep 8; exit 1'";
    let bad = host.push(&next(&host, "late").service("job", late));
    let ended = host.wait_for_outcome(&bad, "rolled-back");
    assert!(ended.to_string().contains("job.service failed"), "{ended}");
    runs_the_first(&host);
    deploys(&host, "repaired");
}

#[test]
fn f20_a_unit_that_is_never_ready_rolls_back() {
    let Some(host) = boot(|_| {}) else { return };
    let never = "Type=notify\nTimeoutStartSec=infinity\nExecStart=/usr/bin/sleep infinity";
    let bad = host.push(&next(&host, "never").service("never", never));
    host.wait_for_outcome(&bad, "rolled-back");
    runs_the_first(&host);
    deploys(&host, "repaired");
}

#[test]
fn f41_a_switch_that_never_ends_is_ended_and_rolled_back() {
    let Some(host) = boot(|_| {}) else { return };
    // It cannot even be asked to end.
    let stuck = next(&host, "stuck").fault(Verb::Test, Step::Reload, Fault::Stuck);
    let bad = host.push(&stuck);
    host.wait_for_outcome(&bad, "rolled-back");
    runs_the_first(&host);
    deploys(&host, "repaired");
}

/// Somebody tidies up while the system that they would need is not the one that runs.
#[test]
fn f50_old_generations_that_are_deleted_take_no_way_back_with_them() {
    let Some(host) = boot_with(Via::Https, "30s", |system| system) else { return };
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    deploys(&host, "two");
    let two = host.machine.view().running;
    let wait = json!({ "command": ["/bin/sh", "-c", "test -e /tmp/tidied && exit 1; exit 75"], "interval": "1s",
        "startPeriod": "1s", "failureThreshold": 2, "privileged": true });
    let bad = host.push(&checked(&host, "bad", wait));
    wait_until("the health phase", LIMIT, || host.word() == "checking-health");
    host.machine.check(
        "rm /nix/var/nix/profiles/system-1-link; nix-env -p /nix/var/nix/profiles/system --delete-generations old;
         nix-collect-garbage -d; touch /tmp/tidied",
    );
    host.wait_for_outcome(&bad, "rolled-back");
    let view = host.machine.view();
    assert_eq!([&view.running, &view.profile, &view.boot_default], [&two; 3]);
    deploys(&host, "three");
    host.machine.reboot();
    wait_until("the page after a reboot", LIMIT, || host.machine.succeeds("curl -sf http://127.0.0.1:8000/"));
    assert_eq!(host.page(), "three");
}

#[test]
fn f52_a_check_that_hangs_is_ended_and_counts_as_failed() {
    let Some(host) = boot(|_| {}) else { return };
    let hangs = json!({ "command": ["/bin/sh", "-c", "trap '' TERM; sleep infinity & wait; wait"],
        "interval": "1s", "timeout": "2s", "startPeriod": "1s", "failureThreshold": 2 });
    let bad = host.push(&checked(&host, "hangs", hangs));
    let ended = host.wait_for_outcome(&bad, "rolled-back");
    assert!(ended.to_string().contains("more"), "{ended}");
    wait_until("the end of its processes", LIMIT, || !host.machine.succeeds("pgrep -x sleep"));
    runs_the_first(&host);
    deploys(&host, "repaired");
}

#[test]
fn f53_a_check_that_fails_now_and_then_does_not_roll_back() {
    let Some(host) = boot(|settings| settings["activation"]["soak"] = json!("5s")) else { return };
    // One is red every third time, all the time; the other twice, which is once less than counts.
    let counted = |file: &str, test: &str| {
        format!("n=$(cat /tmp/{file} || echo 0); echo $((n + 1)) > /tmp/{file}; test {test}")
    };
    let check = |command: String, severity: &str| {
        json!({ "command": ["/bin/sh", "-c", command], "interval": "500ms", "startPeriod": "0s",
            "failureThreshold": 3, "severity": severity, "privileged": true, "baseline": "require" })
    };
    let mut settings = host.settings.clone();
    settings["health"]["checks"]["thirds"] = check(counted("thirds", "$((n % 3)) != 2"), "soft");
    settings["health"]["checks"]["first"] = check(counted("first", "$n -ge 2"), "hard");
    let revision = host.push(&next(&host, "flaky").agent(&host.package, &settings));
    host.wait_for_outcome(&revision, "confirmed");
    assert_eq!(host.page(), "flaky");
    let tries: u32 = host.machine.check("cat /tmp/first").parse().unwrap();
    assert!(tries > 5, "{tries} tries");
}

/// An operator switches while nothing is under way: that is left alone until the next push.
#[test]
fn f55_what_was_switched_to_by_hand_stays_until_the_next_push() {
    let Some(host) = boot(|_| {}) else { return };
    let by_hand = host.machine.build(&next(&host, "by-hand"));
    host.machine.switch(&by_hand, Verb::Test);
    wait_until("a word about it", LIMIT, || host.word() == "drift");
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert_eq!((host.word().as_str(), host.page().as_str()), ("drift", "by-hand"));
    assert_eq!(host.machine.view().profile.as_ref(), Some(&host.toplevel));
    // What is not healthy goes back to what the operator ran.
    let bad = host.push(&next(&host, "bad").service("job", "ExecStart=/usr/bin/false"));
    host.wait_for_outcome(&bad, "rolled-back");
    assert_eq!(host.machine.view().running, Some(by_hand));
    deploys(&host, "next");
}

/// The demo's host has the same at each run: `tests/kill.rs`, `tests/crash.rs`.
#[test]
fn f63_three_bad_pushes_suspend_the_host() {
    if !crate::is_long("row 63") {
        return;
    }
    let Some(host) = boot(|_| {}) else { return };
    for n in 0..3 {
        let bad = next(&host, &format!("bad-{n}")).service("job", "ExecStart=/usr/bin/false");
        let bad = host.push(&bad);
        host.wait_for_outcome(&bad, "rolled-back");
    }
    wait_until("the suspension", LIMIT, || host.word() == "suspended");
    runs_the_first(&host);
    let good = host.push(&next(&host, "good"));
    wait_until("a look at it", LIMIT, || host.history().iter().any(|entry| entry["revision"] == good));
    runs_the_first(&host);
    // Somebody says so by a commit.
    let mut settings = host.settings.clone();
    settings["activation"]["retryNonce"] = "mended".into();
    let mended = host.push(&next(&host, "mended").agent(&host.package, &settings));
    host.wait_for_outcome(&mended, "confirmed");
    assert_eq!(host.status().unwrap()["setAside"], serde_json::json!([]));
}
