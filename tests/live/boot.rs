//! Reboots under real systemd: what takes one is said, and not forced; and the guard of a trial boot, which systemd starts
//! whatever is booted, brings the host back. The machine's "firmware" knows no entry for one boot, so the trial itself is
//! played by moving the default; `tests/uefi` has the rest.

use std::path::Path;
use std::time::Duration;

use pullagent::host::clock;
use serde_json::json;

use crate::common::machine::{Machine, System, Verb, Via, wait_until};
use crate::host::{LIMIT, Look, boot, web};

#[test]
fn what_takes_a_reboot_is_said_and_not_forced() {
    let Some(host) = boot(Via::Https, "30s") else { return };
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    let pending = || host.status().map(|s| s["rebootPending"].clone()).unwrap_or_default();
    assert_eq!(pending(), json!(null));

    // Another kernel: all but it is switched to.
    let kernel = web(host.system.clone().label("kernel").kernel("another kernel"), "kernel");
    let revision = host.push(&kernel);
    host.wait_for_outcome(&revision, "confirmed");
    wait_until("the agent to say so", LIMIT, || pending()["blocked"] == false);
    assert_eq!(
        (pending()["policy"].as_str(), pending()["why"].as_str()),
        (Some("never"), Some("policy never"))
    );
    assert!(pending()["reasons"][0].as_str().unwrap().starts_with("kernel"), "{}", pending());
    host.machine.reboot();
    wait_until("the new kernel", LIMIT, || host.word() == "in-sync" && pending() == json!(null));

    // Another init: only a boot leads there, and the target is as good as ever.
    let before = host.machine.view().running;
    let interface = web(kernel.clone().label("interface").interface("2"), "interface");
    let revision = host.push(&interface);
    let ended = host.wait_for_outcome(&revision, "reboot-awaited");
    assert!(ended["text"].as_str().unwrap().contains("init interface 1 → 2"), "{ended}");
    wait_until("its word", LIMIT, || host.word() == "reboot-pending");
    assert_eq!(host.status().unwrap()["setAside"], json!([]));
    assert_eq!((host.machine.view().running, host.page().as_str()), (before, "kernel"));

    // A newer commit takes its place.
    let next = host.push(&web(kernel.label("next"), "next"));
    host.wait_for_outcome(&next, "confirmed");
    let tried = host.history().iter().filter(|d| d["revision"] == revision.as_str()).count();
    assert_eq!(tried, 1, "it was not tried again and again");
}

#[test]
fn a_trial_boot_that_nobody_confirms_ends_in_the_old_system() {
    let Some(machine) = Machine::boot() else { return };
    let old = machine.install(&System::new("old"));
    let new = machine.build(&System::new("new").service("new", "ExecStart=/bin/sleep infinity"));
    let package = machine.add_program(Path::new(env!("CARGO_BIN_EXE_pullagent")), b"");
    let dir = "/var/lib/pullagent/guard/7-aaaaaaa";
    let plan = json!({
        "schema": 1, "deployment": "7-aaaaaaa", "old": old, "new": new, "revision": "a".repeat(40), "branch": "main",
        "operation": "switch", "root": "/", "switchJob": format!("{dir}/switch"), "bootId": machine.boot_id(),
        "deadlineBoottimeMs": 1, "switchLimitMs": 60_000, "oldChecks": {}, "agentVersion": "0.1.0"
    });
    machine.write_file(&format!("{dir}/plan.json"), plan.to_string());
    // The machine shares our clock since boot; it needs the time to come up.
    let deadline = clock::boottime_ms() + 90_000;
    machine.write_file(&format!("{dir}/boot.json"), json!({ "deadlineBoottimeMs": deadline }).to_string());
    machine.check(&format!(
        "ln -s {package}/bin/pullagent {dir}/agent && {dir}/agent guard --install-boot {dir}"
    ));
    assert!(machine.check("systemctl show --value -p UnitPath").contains("/etc/systemd/system.control"));

    machine.make_default(&new);
    machine.reboot();
    assert_eq!(machine.view().booted, Some(new.clone()));
    let unit = "pullagent-boot-guard.service";
    machine.wait_for(&format!("systemctl is-active {unit} && test -e {dir}/booted"));
    assert!(!machine.succeeds(&format!("test -e {dir}/decision")));
    // The real loader has used the entry up by now.
    machine.make_default(&old);

    // A switch and an isolation leave it alone.
    let pid = machine.property(unit, "MainPID");
    assert!(machine.switch(&new, Verb::Test).status.success());
    machine.check("systemctl isolate multi-user.target");
    assert_eq!(machine.property(unit, "MainPID"), pid);

    machine.wait_for_reboot(|| ());
    assert!(clock::boottime_ms() >= deadline, "it did not wait for its deadline");
    assert_eq!(machine.view().booted, Some(old.clone()));
    let decision = machine.check(&format!("cat {dir}/decision"));
    assert!(decision.contains("\"by\":\"guard\""), "{decision}");
    // In the old system it has nothing to do; asked again, it says so; and it leaves nothing.
    wait_until("the guard's end", Duration::from_secs(60), || !machine.is_active(unit));
    assert!(machine.check(&format!("{dir}/agent guard --fire {dir}")).contains("NothingToDo"));
    machine.check(&format!("{dir}/agent guard --remove-boot {dir}"));
    assert_eq!(machine.check("find /etc/systemd/system.control ! -type d"), "");
}
