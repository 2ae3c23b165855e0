//! Our answer to "what will be booted next?" is what then is, with each loader, also where no trial would be begun.

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
