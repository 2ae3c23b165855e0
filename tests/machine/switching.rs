//! What a switch does to units, to `/etc` and to the boot loader, and when it says that it cannot.

use std::time::Instant;

use crate::code;
use crate::common::machine::{Machine, System, Verb, switch_command};

/// A service that writes down what it does, and what `/etc` is meanwhile; `more` goes into `[Service]`.
pub fn told(name: &str, version: &str, more: &str) -> String {
    let tell = |what: &str| {
        format!("/bin/sh -c 'echo {name}-{version} {what} $$(readlink /etc/static) >> /run/told'")
    };
    let (start, stop, reload) = (tell("start"), tell("stop"), tell("reload"));
    format!(
        "ExecStartPre={start}\nExecStart=/usr/bin/sleep infinity\nExecReload={reload}\nExecStopPost={stop}\n\
         Environment=VERSION={version}\n{more}"
    )
}

#[test]
fn a_switch_does_to_units_what_nixos_does() {
    let Some(machine) = Machine::boot() else { return };
    let base = System::new("old").etc("www/index.html", "old\n");
    let base = base.service("page", "ExecStart=/usr/bin/busybox httpd -f -p 127.0.0.1:8080 -h /etc/www");
    let base = base
        .service("kept", &told("kept", "1", ""))
        .unit("manual.service", "[Service]\nExecStart=/usr/bin/sleep infinity\n");
    let versions =
        |system: System, version: &str| {
            let service = |name: &str, more: &str| told(name, version, more);
            system
            .service("changed", &service("changed", ""))
            .service("restarted", &service("restarted", "X-StopIfChanged=false"))
            .service("reloaded", &service("reloaded", "X-ReloadIfChanged=true"))
            .service("left", &service("left", "X-RestartIfChanged=false"))
            .wanted_unit("listen.socket", &["sockets.target"], "[Socket]\nListenStream=/run/listen\n")
            .unit("listen.service", &format!("[Service]\n{}\n", service("listen", "")))
            .wanted_unit("name.service", &["multi-user.target"], &format!(
                "[Unit]\nDescription=version {version}\n[Service]\nExecStart=/usr/bin/sleep infinity\n"
            ))
        };
    let old = versions(base.clone(), "1").service("removed", &told("removed", "1", ""));
    let old = old.wanted_unit(
        "stays.service",
        &["multi-user.target"],
        "[Unit]\nX-StopOnRemoval=false\n[Service]\nExecStart=/usr/bin/sleep infinity\n",
    );
    let new = versions(base, "2")
        .label("new")
        .etc("www/index.html", "new\n")
        .service("added", &told("added", "2", ""));
    let (old, new) = (machine.install(&old), machine.build(&new));
    machine.check("systemctl start manual.service listen.service; rm /run/told");
    let units = ["page", "kept", "manual", "left", "stays", "name", "changed", "reloaded", "listen"];
    let ids = || units.map(|unit| machine.property(&format!("{unit}.service"), "InvocationID"));
    let before = ids();

    let dry = machine.switch(&new, Verb::DryActivate);
    let text = String::from_utf8_lossy(&dry.stderr).into_owned();
    for line in ["would not stop the changed: left.service", "would reload: reloaded.service"] {
        assert!(text.contains(line), "{text}");
    }
    assert_eq!((ids(), machine.view().leftovers), (before.clone(), vec![]));

    let output = machine.switch(&new, Verb::Test);
    assert_eq!(code(&output), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(machine.check("curl -s http://127.0.0.1:8080/"), "new");
    let steps = machine.steps(&new, Verb::Test).join(" ");
    assert_eq!(
        steps,
        "begin NIXOS_NO_CHECK= NIXOS_INSTALL_BOOTLOADER= check sync interface plan stop activate users etc \
         current-system reset-failed reload sysinit reload-units restart-units start-units settle end 0"
    );
    let (etc_old, etc_new) = (machine.etc_of(&old), machine.etc_of(&new));
    let told = machine.read_file("/run/told").unwrap();
    let mut told: Vec<&str> = told.lines().collect();
    told.sort_unstable();
    // Stopped by the old definition in the old `/etc`, except what is only restarted: that sees the new of both.
    let mut expected = [
        format!("changed-1 stop {etc_old}"),
        format!("changed-2 start {etc_new}"),
        format!("removed-1 stop {etc_old}"),
        format!("listen-1 stop {etc_old}"),
        format!("restarted-2 stop {etc_new}"),
        format!("restarted-2 start {etc_new}"),
        format!("reloaded-2 reload {etc_new}"),
        format!("added-2 start {etc_new}"),
    ];
    expected.sort_unstable();
    assert_eq!(told, expected);
    let after = ids();
    assert_eq!(before[..6], after[..6], "untouched");
    assert_eq!(before[7], after[7], "reloaded");
    assert_ne!(before[6], after[6], "changed");
    assert!(
        machine.is_active("listen.socket") && !machine.is_active("listen.service"),
        "the socket starts it"
    );
    assert!(!machine.is_active("removed.service") && machine.is_active("stays.service"));

    let begun = Instant::now();
    assert_eq!(code(&machine.switch(&old, Verb::Test)), Some(0));
    println!("test host: switched in {:.2} s", begun.elapsed().as_secs_f32());
    assert!(!machine.is_active("added.service") && machine.is_active("removed.service"));

    // Another configuration of systemd itself makes it start anew, and nothing else notices.
    let reexec = machine
        .build(&System::new("reexec").etc("systemd/system.conf", "[Manager]\nDefaultTimeoutStopSec=7\n"));
    let timer = machine.property("systemd-tmpfiles-clean.timer", "InvocationID");
    assert_eq!(code(&machine.switch(&reexec, Verb::Test)), Some(0));
    assert!(machine.steps(&reexec, Verb::Test).contains(&"reexec".to_owned()));
    assert_eq!(machine.check("systemctl show --value -p DefaultTimeoutStopUSec"), "7s");
    assert_eq!(machine.property("systemd-tmpfiles-clean.timer", "InvocationID"), timer);
    assert_eq!(code(&machine.switch(&old, Verb::Test)), Some(0));

    // A unit that fails is told, also when it is started again and again, and a system without it is fine.
    for more in ["", "Restart=always\nRestartSec=60"] {
        let failing = System::new("failing").service("broken", &format!("ExecStart=/bin/false\n{more}"));
        let failing = machine.build(&failing);
        assert_eq!(code(&machine.switch(&failing, Verb::Test)), Some(4), "{more}");
        let view = machine.view();
        let failed: &[&str] = if more.is_empty() { &["broken.service"] } else { &[] };
        assert_eq!((view.leftovers, view.failed), (vec![], failed.iter().map(|&unit| unit.into()).collect()));
        assert_eq!(code(&machine.switch(&old, Verb::Test)), Some(0));
    }
    assert!(machine.view().failed.is_empty());
}

#[test]
fn what_needs_a_reboot_says_so() {
    let Some(machine) = Machine::boot() else { return };
    let base = System::new("old").inhibitor("dbus", "1");
    let old = machine.install(&base);
    let inhibited = machine.build(&base.clone().label("inhibited").inhibitor("dbus", "2"));
    for (verb, expected) in [(Verb::Check, 1), (Verb::Test, 1), (Verb::Boot, 0)] {
        assert_eq!(code(&machine.switch(&inhibited, verb)), Some(expected), "{verb:?}");
    }
    let forced = format!("NIXOS_NO_CHECK=1 {}", switch_command(&inhibited, Verb::Test));
    assert!(machine.succeeds(&forced) && machine.succeeds(&switch_command(&inhibited, Verb::Check)));
    assert!(machine.succeeds(&format!("NIXOS_NO_CHECK=1 {}", switch_command(&old, Verb::Test))));
    let other = machine.build(&base.label("other").interface("2").kernel("another\n"));
    assert_eq!(code(&machine.switch(&other, Verb::Test)), Some(100));
    assert_eq!(machine.view().running, Some(old.clone()));
    assert!(machine.succeeds(&format!("! cmp {old}/kernel {other}/kernel && jq -e . {other}/boot.json")));

    // `switch` has written the boot loader before it finds out.
    machine.check(&format!("nix-env -p /nix/var/nix/profiles/system --set {other}"));
    assert_eq!(code(&machine.switch(&other, Verb::Switch)), Some(100));
    assert_eq!(machine.view().boot_default, Some(other.clone()));
    // A system in another profile gets an entry and is not the default.
    machine.check(&format!("nix-env -p /nix/var/nix/profiles/system-profiles/trial --set {inhibited}"));
    assert_eq!(code(&machine.switch(&other, Verb::Boot)), Some(0));
    let entries = machine.check(
        "cd /boot/loader/entries; grep -l init=$(readlink -f \
         /nix/var/nix/profiles/system-profiles/trial)/init *",
    );
    assert_eq!(
        (entries.as_str(), machine.view().boot_default),
        ("nixos-trial-generation-1.conf", Some(other))
    );
}
