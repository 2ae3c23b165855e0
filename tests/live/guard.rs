//! The dead man's switch under real systemd: it fires on time whatever becomes of everything else, from the old system's
//! binary, and once it has begun it comes to an end.

use std::path::Path;
use std::time::Duration;

use pullagent::host::clock;
use serde_json::Value;

use crate::common::machine::{Fault, Step, System, Verb, wait_until};
use crate::common::machine::{Managed, Via};
use crate::host::{LIMIT, Look, boot, put_state_on_tmpfs, web};

/// How late a guard may be: it has to switch a loaded machine back.
const LATE: Duration = Duration::from_secs(60);

/// A system whose check never ends, one way or the other: exit code 75 asks for patience.
pub fn undecided(host: &Managed, label: &str) -> System {
    let mut settings = host.settings.clone();
    settings["health"]["checks"]["wait"] =
        serde_json::json!({ "command": ["/bin/sh", "-c", "exit 75"], "interval": "1s" });
    web(host.system.clone().label(label).agent(&host.package, &settings), label)
}

/// Pushes a system that stays on probation, and returns its revision and the guard's directory.
pub fn on_probation(host: &Managed, system: &System) -> (String, String) {
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    let revision = host.push(system);
    let guard = host.guard();
    wait_until("the health phase", LIMIT, || host.word() == "checking-health");
    (revision, guard)
}

/// Waits for so many timers and returns their deadlines, the first one first, in milliseconds since boot.
pub fn deadlines(host: &Managed, many: usize) -> Vec<u64> {
    let names = "systemctl list-units --all --plain --no-legend 'pullagent-guard-*.timer' | cut -d' ' -f1";
    let mut deadlines: Vec<u64> = Vec::new();
    wait_until("all timers", LIMIT, || {
        let of = |name: &str| name.trim_end_matches(".timer").rsplit('-').next()?.parse().ok();
        deadlines = host.machine.check(names).lines().filter_map(of).collect();
        deadlines.len() == many
    });
    deadlines.sort_unstable();
    deadlines
}

/// Waits for the long timer, the one that the switch adds, and the agent's own, and returns the deadline of the latter.
fn deadline(host: &Managed) -> u64 {
    deadlines(host, 3)[0]
}

/// Waits for the guard's decision and returns how late it came, in milliseconds; fails if it came early.
fn fires(host: &Managed, guard: &str, deadline: u64) -> u64 {
    let decision = format!("cat {guard}/decision");
    while !host.machine.succeeds(&decision) {
        let late = clock::boottime_ms().saturating_sub(deadline);
        assert!(late < LATE.as_millis() as u64, "the guard does not fire");
        std::thread::sleep(Duration::from_millis(50));
    }
    let now = clock::boottime_ms();
    assert!(now >= deadline, "fired {} ms early", deadline - now);
    let decision: Value = serde_json::from_str(&host.machine.check(&decision)).unwrap();
    assert_eq!(decision["decision"], "roll-back");
    assert_eq!(decision["by"], "guard");
    now - deadline
}

pub fn runs_old_again(host: &Managed) {
    let old = Some(host.toplevel.clone());
    wait_until("the old system", LIMIT, || {
        let view = host.machine.view();
        view.running == old && view.leftovers.is_empty()
    });
    let page = "curl -sf http://127.0.0.1:8000/ | grep -qx one";
    wait_until("the old page", LIMIT, || host.machine.succeeds(page));
    let view = host.machine.view();
    assert_eq!([&view.running, &view.profile, &view.boot_default], [&old; 3]);
}

/// Everything at once that is known to stop, restart or shift timers; only steps of the wall clock cannot be made here
/// (the machine's clock is that of the machine it runs on), so it is looked up that no calendar is involved.
#[test]
fn it_fires_on_time_whatever_happens_meanwhile() {
    let Some(host) = boot(Via::Https, "5s") else { return };
    let (_, guard) = on_probation(&host, &undecided(&host, "undecided"));
    let (machine, deadline) = (&host.machine, deadline(&host));
    host.kill_agent();
    machine.check("systemctl stop dbus.socket dbus.service");
    for _ in 0..3 {
        machine.check("systemctl daemon-reload");
    }
    machine.check("systemctl daemon-reexec");
    machine.check("systemctl isolate multi-user.target");
    machine.check("systemctl daemon-reload");
    let timers =
        machine.check("systemctl show -p TimersCalendar -p TimersMonotonic 'pullagent-guard-*.timer'");
    assert!(timers.contains("OnStartupUSec") && !timers.contains("OnCalendar"), "{timers}");
    println!("test host: a guard fired {} ms after its deadline", fires(&host, &guard, deadline));
    runs_old_again(&host);
}

/// The new system brings another agent; who rolls back is the old one, which nothing can take away meanwhile.
#[test]
fn the_old_binary_rolls_back_although_garbage_is_collected() {
    let Some(host) = boot(Via::Https, "5s") else { return };
    let other = host.machine.add_program(Path::new(env!("CARGO_BIN_EXE_pullagent")), b"another version");
    let new = undecided(&host, "undecided").package("pullagent", &other);
    let (revision, guard) = on_probation(&host, &new);
    let machine = &host.machine;
    let deadline = deadline(&host);
    let agent = "readlink /proc/$(systemctl show --value -p MainPID pullagent.service)/exe";
    assert!(machine.check(agent).starts_with(&other), "the new system's agent runs");
    assert!(machine.check(&format!("readlink -f {guard}/agent")).starts_with(&host.package));
    let fired = machine.check(
        "for timer in $(systemctl list-units --all --plain --no-legend 'pullagent-guard-*.timer' | cut -d' ' -f1); do
         systemctl show --value -p ExecStart ${timer%.timer}.service; done",
    );
    let pinned = format!("path={guard}/agent ;");
    let programs: Vec<&str> = fired.lines().filter(|line| !line.is_empty()).collect();
    assert!(!programs.is_empty() && programs.iter().all(|program| program.contains(&pinned)), "{fired}");
    host.kill_agent();
    machine.check("rm -rf /nix/var/nix/profiles/system-profiles/*; nix-collect-garbage");
    fires(&host, &guard, deadline);
    runs_old_again(&host);

    // The old agent learns what was done, and does not try that again.
    host.revive_agent();
    host.wait_for_outcome(&revision, "rolled-back");
    wait_until("its word", LIMIT, || host.word() == "rolled-back");
    let next = host.push(&web(host.system.clone().label("next"), "next"));
    host.wait_for_outcome(&next, "confirmed");
}

/// A rollback that is killed at its start, in the middle of the switch, is done again by systemd.
#[test]
fn a_rollback_that_is_killed_is_done_again() {
    let Some(host) = boot(Via::Https, "5s") else { return };
    let (_, guard) = on_probation(&host, &undecided(&host, "undecided"));
    let (machine, deadline) = (&host.machine, deadline(&host));
    host.kill_agent();
    machine.fault(&host.toplevel, Verb::Test, Step::CurrentSystem, Fault::Hang);
    fires(&host, &guard, deadline);
    machine.wait_for_step(&host.toplevel, Verb::Test, Step::CurrentSystem);
    machine.check("systemctl kill --signal=KILL 'pullagent-guard-*.service'");
    runs_old_again(&host);
    machine.wait_for(&format!("grep -q rolled-back {guard}/result.json"));
}

/// The switch itself is killed, and the agent with it: what is left is torn, and rolled back.
#[test]
fn a_switch_that_is_killed_with_its_agent_is_rolled_back() {
    let Some(host) = boot(Via::Https, "5s") else { return };
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    let machine = &host.machine;
    let new =
        web(host.system.clone().label("new"), "new").fault(Verb::Test, Step::CurrentSystem, Fault::Hang);
    let revision = host.push(&new);
    let toplevel = machine.build_at(&new, &revision);
    machine.wait_for_step(&toplevel, Verb::Test, Step::CurrentSystem);
    machine.check("systemctl kill --signal=KILL pullagent.service 'pullagent-switch-*.service'");
    host.wait_for_outcome(&revision, "rolled-back");
    runs_old_again(&host);
}

/// The new system leaves neither a block nor an inode on the disk that the guard writes to.
#[test]
fn a_system_that_fills_the_disk_is_rolled_back() {
    let Some(host) = boot(Via::Https, "5s") else { return };
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    let (machine, state) = (&host.machine, "/var/lib/pullagent");
    put_state_on_tmpfs(&host, "size=100M,nr_inodes=2000");
    let fill = format!("dd if=/dev/zero bs=64k >> {state}/fill; touch {state}/fill$i; i=$((i + 1))");
    let fill = format!("ExecStart=/bin/sh -c 'i=0; while :; do {fill}; done 2> /dev/null'");
    let revision = host.push(&undecided(&host, "full").service("fill", &fill));
    wait_until("the new system", LIMIT, || {
        machine.succeeds("curl -sf http://127.0.0.1:8000/ | grep -qx full")
    });
    runs_old_again(&host);
    machine.check(&format!("rm {state}/fill*; systemctl restart pullagent.service"));
    host.wait_for_outcome(&revision, "rolled-back");
    let next = host.push(&web(host.system.clone().label("next"), "next"));
    host.wait_for_outcome(&next, "confirmed");
}

/// A power cut is a rollback: the old system is what boots, until the new one is confirmed.
#[test]
fn a_power_cut_on_probation_boots_the_old_system() {
    let Some(host) = boot(Via::Https, "60s") else { return };
    let (revision, _) = on_probation(&host, &undecided(&host, "undecided"));
    host.machine.power_cut();
    runs_old_again(&host);
    // The reset may not have been its fault, so it is tried again, but not without end.
    host.wait_for_outcome(&revision, "abandoned");
    let next = host.push(&web(host.system.clone().label("next"), "next"));
    host.wait_for_outcome(&next, "confirmed");
}
