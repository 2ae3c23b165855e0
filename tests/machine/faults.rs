//! What a switch leaves behind that fails, hangs or dies at a step, or loses its power there.

use std::time::Instant;

use crate::code;
use crate::common::machine::{Fault, Machine, Step, System, Verb, switch_command};
use crate::switching::told;

/// What a fault at a step leaves behind: exit code, whether `/etc` and the system are the new ones, and whether the
/// lists of units are left.
const FAILURES: [(Step, i32, bool, bool, bool); 14] = [
    (Step::Check, 1, false, false, false),
    (Step::Sync, 1, false, false, false),
    (Step::Interface, 100, false, false, false),
    (Step::Plan, 1, false, false, false),
    (Step::Stop, 1, false, false, true),
    (Step::Activate, 2, true, true, false),
    (Step::Etc, 2, false, true, false),
    (Step::CurrentSystem, 2, true, false, false),
    (Step::ResetFailed, 1, true, true, true),
    (Step::Reload, 1, true, true, true),
    (Step::Sysinit, 4, true, true, false),
    (Step::RestartUnits, 1, true, true, true),
    (Step::StartUnits, 1, true, true, true),
    (Step::Settle, 1, true, true, false),
];

fn two_systems(machine: &Machine) -> (String, String) {
    let system = |version: &str| System::new(version).service("web", &told("web", version, ""));
    (machine.install(&system("old")), machine.build(&system("new")))
}

#[test]
fn each_step_fails_on_demand() {
    let Some(machine) = Machine::boot() else { return };
    let (old, new) = two_systems(&machine);
    let (etc_old, etc_new) = (machine.etc_of(&old), machine.etc_of(&new));
    for (step, expected, etc, system, lists) in FAILURES {
        machine.fault(&new, Verb::Test, step, Fault::Fail);
        assert_eq!(code(&machine.switch(&new, Verb::Test)), Some(expected), "{step:?}");
        let view = machine.view();
        assert_eq!(view.etc.as_ref(), Some(if etc { &etc_new } else { &etc_old }), "{step:?}");
        assert_eq!(view.running.as_ref(), Some(if system { &new } else { &old }), "{step:?}");
        assert_eq!(view.leftovers.contains(&"web.service".to_owned()), lists, "{step:?}: {view:?}");
        // The way back always works, and starts again what was left stopped.
        assert_eq!(code(&machine.switch(&old, Verb::Test)), Some(0), "back from {step:?}");
        let view = machine.view();
        assert_eq!((view.etc.as_ref(), view.running.as_ref()), (Some(&etc_old), Some(&old)), "{step:?}");
        assert!(view.leftovers.is_empty() && machine.is_active("web.service"), "back from {step:?}");
        assert_eq!(machine.property("web.service", "Environment"), "VERSION=old");
    }
    machine.fault(&new, Verb::Boot, Step::BootLoader, Fault::Fail);
    assert_eq!(code(&machine.switch(&new, Verb::Boot)), Some(1));

    // A system can bring its faults along, also for the boot that activates it.
    let torn = System::new("torn").fault(Verb::Init, Step::CurrentSystem, Fault::Fail);
    let torn = machine.build(&torn.fault(Verb::Test, Step::Reload, Fault::Fail));
    assert_eq!([Verb::Test; 2].map(|verb| code(&machine.switch(&torn, verb))), [Some(1); 2]);
    machine.make_default(&torn);
    machine.reboot();
    assert_eq!((machine.view().running, machine.view().booted), (None, Some(torn)));
}

#[test]
fn a_switch_hangs_dies_and_waits_on_demand() {
    let Some(machine) = Machine::boot() else { return };
    let (old, new) = two_systems(&machine);
    let etc_new = machine.etc_of(&new);

    // Meanwhile it holds the lock, and its unit's time limit ends it.
    let unit = |name: &str, limit: &str| {
        let run = format!("systemd-run --quiet --unit=switch-{name} -p Type=exec -p RuntimeMaxSec={limit}");
        machine.check(&format!("{run} -p TimeoutStopSec=1 {}", switch_command(&new, Verb::Test)));
        format!("switch-{name}.service")
    };
    machine.fault(&new, Verb::Test, Step::CurrentSystem, Fault::Hang);
    // Long enough for a loaded machine to look at it first.
    let hanging = unit("hanging", "20");
    machine.wait_for_step(&new, Verb::Test, Step::CurrentSystem);
    assert_eq!(code(&machine.switch(&old, Verb::Test)), Some(11));
    let view = machine.view();
    assert_eq!((view.running.as_ref(), view.etc.as_ref()), (Some(&old), Some(&etc_new)), "torn");
    assert!(!machine.is_active("web.service"));
    machine.wait_for(&format!("systemctl --quiet is-failed {hanging}"));
    assert_eq!(machine.property(&hanging, "Result"), "timeout");
    assert_eq!(machine.property(&hanging, "ExecMainStatus"), "15");
    assert_eq!(code(&machine.switch(&old, Verb::Test)), Some(0));

    // What cannot be asked to end is killed.
    machine.check("rm /var/log/switch.log");
    machine.fault(&new, Verb::Test, Step::Stop, Fault::Stuck);
    let stuck = unit("stuck", "infinity");
    machine.wait_for_step(&new, Verb::Test, Step::Stop);
    machine.check(&format!("systemctl stop {stuck}"));
    assert_eq!(machine.property(&stuck, "Result"), "timeout");
    assert_eq!(machine.property(&stuck, "ExecMainStatus"), "9");
    assert_eq!(code(&machine.switch(&old, Verb::Test)), Some(0));

    // Killed from one moment to the next, it frees the lock and leaves its lists.
    for step in [Step::Plan, Step::Activate, Step::CurrentSystem, Step::StartUnits] {
        machine.fault(&new, Verb::Test, step, Fault::Die);
        assert_eq!(code(&machine.switch(&new, Verb::Test)), Some(128 + 9), "{step:?}");
        let leftovers = machine.view().leftovers;
        assert_eq!(leftovers.contains(&"web.service".to_owned()), step != Step::Plan, "{step:?}");
        assert_eq!(code(&machine.switch(&old, Verb::Test)), Some(0), "{step:?}");
        assert!(machine.is_active("web.service"), "{step:?}");
    }

    machine.fault(&new, Verb::Check, Step::Check, Fault::Wait(1));
    let begun = Instant::now();
    assert!(machine.switch(&new, Verb::Check).status.success() && begun.elapsed().as_millis() >= 1000);

    // Like the real one, it needs the bus.
    machine.check("systemctl stop dbus.socket dbus.service");
    assert_eq!(code(&machine.switch(&new, Verb::Test)), Some(1));
    assert_eq!(machine.view().running, Some(old));
}

#[test]
fn a_power_cut_in_a_switch_boots_the_old_system() {
    let Some(machine) = Machine::boot() else { return };
    let (old, new) = two_systems(&machine);
    let etc_old = machine.etc_of(&old);
    for step in [Step::Activate, Step::CurrentSystem, Step::StartUnits] {
        let before = machine.boot_id();
        machine.check("rm -f /var/log/switch.log; echo kept > /root/written; touch /run/gone");
        machine.fault(&new, Verb::Test, step, Fault::Hang);
        let mut switch = machine.spawn(&switch_command(&new, Verb::Test));
        machine.wait_for_step(&new, Verb::Test, step);
        machine.power_cut();
        assert!(!switch.wait().unwrap().success());
        assert_ne!(machine.boot_id(), before);
        let view = machine.view();
        assert_eq!((view.running.as_ref(), view.booted.as_ref()), (Some(&old), Some(&old)), "{step:?}");
        assert_eq!(view.etc.as_ref(), Some(&etc_old), "{step:?}");
        assert!(view.leftovers.is_empty() && view.failed.is_empty() && machine.is_active("web.service"));
        assert!(
            machine.succeeds("test -e /root/written -a ! -e /run/gone"),
            "the disk stays, memory does not"
        );
    }
}
