//! What a trial by a one-shot entry relies on, with each loader.

use std::time::Duration;

use serde_json::{Value, json};

use crate::vm::{Boot, Vm};

/// Asks what will be booted, reboots, and fails unless that is what then was.
fn reboot_as_foretold(vm: &Vm, when: &str) -> Boot {
    let facts = vm.facts();
    let boot = vm.reboot();
    assert_foretold(vm, when, &facts, &boot);
    boot
}

fn assert_foretold(vm: &Vm, when: &str, facts: &Value, boot: &Boot) {
    println!(
        "uefi: {}: {when}: {} because {}, in {:.0} s",
        vm.version(),
        facts["nextBoot"]["file"],
        facts["nextBoot"]["why"],
        boot.took.as_secs_f32()
    );
    assert_eq!(facts["nextBoot"]["toplevel"], json!(boot.system), "{when}: {facts}");
}

/// Makes a system's entry the one of the next boot, by the name that we have for it.
fn set_one_shot(vm: &Vm, system: &str) {
    let facts = vm.facts();
    let entry = facts["entries"].as_array().unwrap().iter().find(|entry| entry["toplevel"] == system);
    vm.check(&format!("bootctl set-oneshot '{}'", entry.unwrap()["name"].as_str().unwrap()));
    assert_eq!(vm.facts()["nextBoot"]["toplevel"], system);
}

/// A trial is booted once; a crash of it, or a cut of the power, ends in the old system; nothing is left behind.
fn trials(version: u32) {
    let Some(vm) = Vm::boot(version) else { return };
    let old = vm.old();
    let facts = vm.facts();
    assert_eq!(facts["capability"]["kind"], "systemd-boot");
    assert!(
        facts["capability"]["version"].as_str().unwrap().starts_with(&vm.version().to_string()),
        "{facts}"
    );
    assert_eq!(facts["selected"], "nixos-generation-1.conf");

    let good = vm.make_system("good", "loglevel=5");
    vm.install_beside(&good);
    let facts = vm.facts();
    assert_eq!(
        (&facts["nextBoot"]["toplevel"], &facts["bootAfter"]["toplevel"]),
        (&json!(old), &json!(old)),
        "{facts}"
    );

    // A good trial is booted once.
    set_one_shot(&vm, &good);
    let facts = vm.facts();
    assert_eq!(facts["bootAfter"]["toplevel"], old, "{facts}");
    assert_eq!(reboot_as_foretold(&vm, "a trial").system, good);
    assert_eq!(reboot_as_foretold(&vm, "after a trial").system, old);

    // A panic in the first stage resets the machine, and the entry is not booted again.
    let bad = vm.make_system("bad", "rig.stage1=fail");
    vm.install_beside(&bad);
    set_one_shot(&vm, &bad);
    let facts = vm.facts();
    let boot = vm.reboot();
    assert!(vm.console().contains("Kernel panic"), "the trial was not booted");
    assert_eq!(facts["bootAfter"]["toplevel"], json!(boot.system));
    assert_eq!(boot.system, old);

    // A variable that is read by nobody before the power is cut is still there; the boot uses it up.
    set_one_shot(&vm, &good);
    vm.cut_power();
    assert!(vm.nvram().get("LoaderEntryOneShot").is_some());
    let facts = vm.facts_while_off();
    let boot = vm.power_on();
    assert_foretold(&vm, "a power cut before the trial", &facts, &boot);
    assert_eq!(boot.system, good);
    vm.cut_power();
    assert_eq!(vm.nvram().get("LoaderEntryOneShot"), None);
    let facts = vm.facts_while_off();
    let boot = vm.power_on();
    assert_foretold(&vm, "a power cut in the trial", &facts, &boot);
    assert_eq!(boot.system, old);
}

#[test]
fn with_252_a_trial_is_booted_once_and_ends_in_the_old_system() {
    trials(252);
}

#[test]
fn with_257_a_trial_is_booted_once_and_ends_in_the_old_system() {
    trials(257);
}

#[test]
fn with_the_newest_loader_a_trial_is_booted_once_and_ends_in_the_old_system() {
    trials(0);
}

/// A reset is what brings a machine back that hangs, and a hang in the first stage is reset by a hardware watchdog only
/// if the first stage itself starts it. Later, systemd feeds the watchdog: then it takes a guard that is started by
/// whatever system boots.
#[test]
fn a_hang_is_ended_by_a_watchdog_or_a_guard_and_by_nothing_else() {
    let Some(vm) = Vm::boot(257) else { return };
    let old = vm.old();
    for (n, (stage1, comes_back)) in [("hang", false), ("hang-watched", true)].into_iter().enumerate() {
        let hangs = vm.make_system(stage1, &format!("rig.stage1={stage1}"));
        vm.install_beside(&hangs);
        set_one_shot(&vm, &hangs);
        vm.send("systemctl --no-block reboot");
        let boot = if comes_back {
            vm.wait_for_boot()
        } else {
            assert_eq!(vm.boot_within(vm.first_boot().took * 4), None, "nothing could have reset it");
            vm.power_cut()
        };
        println!("uefi: stage 1 '{stage1}': back in {:.0} s", boot.took.as_secs_f32());
        assert_eq!(vm.console().matches("stage 1 hangs").count(), n + 1, "the trial was booted");
        assert_eq!(boot.system, old, "{stage1}");
    }

    let quiet = vm.make_system("quiet", "loglevel=3");
    vm.install_beside(&quiet);
    let deadline = vm.first_boot().took.as_secs() * 3;
    vm.check(&format!(
        "mkdir -p /etc/systemd/system.control/multi-user.target.wants && cd /etc/systemd/system.control && \
         printf '[Service]\\nExecStart=/usr/bin/systemctl reboot\\n' > rig-guard.service && \
         printf '[Timer]\\nOnBootSec={deadline}s\\n' > rig-guard.timer && \
         ln -s ../rig-guard.timer multi-user.target.wants/ && sync"
    ));
    set_one_shot(&vm, &quiet);
    assert_eq!(vm.reboot().system, quiet);
    assert_eq!(
        vm.check("systemctl is-active rig-guard.timer"),
        "active",
        "although the system knows nothing of it"
    );
    let boot = vm.wait_for_boot();
    println!("uefi: the guard had rebooted it after {:.0} s", boot.took.as_secs_f32());
    assert_eq!(boot.system, old);
}

/// The power is cut at any instant of the installation of an entry; the machine boots the old system, and that was
/// foretold by what then lay on its disks.
#[test]
fn a_power_cut_while_entries_are_written_leaves_the_old_system() {
    let Some(vm) = Vm::boot(257) else { return };
    let seed = std::env::var("PULLAGENT_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    let (mut random, old) = (fastrand::Rng::with_seed(seed), vm.old());
    println!("uefi: power cuts by PULLAGENT_TEST_SEED={seed}");
    for round in 0..4 {
        let new = vm.make_system(&format!("cut{round}"), "loglevel=5");
        vm.check(&format!("/usr/lib/rig/set-profile system-profiles/pullagent-trial {new}; sync"));
        let took = std::time::Instant::now();
        vm.send(&format!("{old}/bin/switch-to-configuration boot"));
        std::thread::sleep(Duration::from_millis(random.u64(0..6000)));
        let cut_after = took.elapsed();
        vm.cut_power();
        let facts = vm.facts_while_off();
        let boot = vm.power_on();
        let entries = facts["entries"].as_array().unwrap().len();
        assert_foretold(&vm, &format!("a power cut after {cut_after:?}, {entries} entries"), &facts, &boot);
        assert_eq!(boot.system, old);
    }
    // And it can still be updated.
    let new = vm.make_system("last", "loglevel=5");
    vm.install_beside(&new);
    set_one_shot(&vm, &new);
    assert_eq!(vm.reboot().system, new);
}

/// What is set by EFI variable comes before what an installer writes, and stays until somebody deletes it.
fn stale_default(version: u32) {
    let Some(vm) = Vm::boot(version) else { return };
    let new = vm.make_system("new", "loglevel=5");
    vm.check("bootctl set-default nixos-generation-1.conf");
    vm.check(&format!("/usr/lib/rig/set-profile system {new} && {new}/bin/switch-to-configuration boot"));
    let facts = vm.facts();
    assert!(facts["nextBoot"]["why"].as_str().unwrap().contains("LoaderEntryDefault"), "{facts}");
    assert_eq!(reboot_as_foretold(&vm, "a stale default").system, vm.old());
    vm.check("bootctl set-default ''");
    assert_eq!(reboot_as_foretold(&vm, "without it").system, new);
}

#[test]
fn with_252_a_stale_efi_default_wins() {
    stale_default(252);
}

#[test]
fn with_257_a_stale_efi_default_wins() {
    stale_default(257);
}

/// An entry with a counter, named by the default and by a pattern, is booted as often as the version has it.
fn counters(version: u32) {
    let Some(vm) = Vm::boot(version) else { return };
    let new = vm.make_system("counted", "loglevel=5");
    let file = vm.install_beside(&new);
    let stem = file.strip_suffix(".conf").unwrap();
    let conf = |line: &str| {
        vm.check(&format!("printf 'timeout 0\\n{line}\\n' > /boot/loader/loader.conf; sync -f /boot"));
    };
    vm.check(&format!("mv /boot/loader/entries/{file} /boot/loader/entries/{stem}+1.conf; sync -f /boot"));
    conf(&format!("default {file}"));
    reboot_as_foretold(&vm, "an exact default, one try left");
    reboot_as_foretold(&vm, "an exact default again");
    vm.check(&format!(
        "mv /boot/loader/entries/{stem}+* /boot/loader/entries/{stem}+0-1.conf; sync -f /boot"
    ));
    reboot_as_foretold(&vm, "an exact default, no try left");
    conf("default nixos-*");
    assert_eq!(reboot_as_foretold(&vm, "a pattern, no try left").system, vm.old());
    conf(&format!("preferred {file}\\ndefault nixos-generation-1.conf"));
    assert_eq!(reboot_as_foretold(&vm, "preferred, no try left").system, vm.old());
    vm.check(&format!(
        "mv /boot/loader/entries/{stem}+* /boot/loader/entries/{stem}+2-1.conf; sync -f /boot"
    ));
    reboot_as_foretold(&vm, "preferred, two tries left");
    // The one-shot variable takes a pattern; what has a counter has no exact name that all loaders agree on.
    conf("default nixos-generation-1.conf");
    set_one_shot(&vm, &new);
    assert_eq!(reboot_as_foretold(&vm, "a one-shot pattern").system, new);
}

#[test]
fn with_252_counters_count_as_foretold() {
    counters(252);
}

#[test]
fn with_257_counters_count_as_foretold() {
    counters(257);
}

#[test]
fn with_the_newest_loader_counters_count_as_foretold() {
    counters(0);
}
