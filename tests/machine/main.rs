//! Goal: the test machine is what the agent's tests take it for: real systemd, Nix and Git; switches that keep the
//! order of NixOS's and go wrong where they are told to; reboots and power cuts. Method: look from inside.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step fails the test")]
#![expect(clippy::disallowed_methods, reason = "a test may start programs and read the clock")]

mod agent;
#[path = "../common/mod.rs"]
mod common;
mod credentials;
mod faults;
mod forge;
mod hostile;
mod metrics;
mod sandbox;
mod security;
mod switching;
mod units;
mod wakes;

use std::path::Path;
use std::process::Output;
use std::time::Instant;

use common::machine::{Machine, System, Verb};

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn it_boots_and_reboots_what_is_installed() {
    let begun = Instant::now();
    let Some(machine) = Machine::boot() else { return };
    println!("test host: booted in {:.2} s", begun.elapsed().as_secs_f32());
    assert!(machine.check("systemctl --version").starts_with("systemd 257"));
    assert!(machine.check("nix --version").ends_with(" 2.26.3"));
    assert_eq!(machine.check("systemctl is-system-running"), "running");
    let nothing = machine.view();
    assert_eq!((nothing.running, nothing.boot_default), (None, None));

    // Installed: the next boot activates it, before systemd starts.
    let (first_boot, machine_id) = (machine.boot_id(), machine.read_file("/etc/machine-id"));
    let service = "ExecStart=/usr/bin/sleep infinity\nExecStartPre=/usr/bin/test -e /run/current-system/init";
    let old = machine.build(&System::new("old").service("web", service).user("guest"));
    machine.make_default(&old);
    assert_eq!(machine.view().running, None, "nothing is activated yet");
    let begun = Instant::now();
    machine.reboot();
    println!("test host: rebooted in {:.2} s", begun.elapsed().as_secs_f32());
    let view = machine.view();
    let expected = Some(old.clone());
    assert_eq!(
        [&view.running, &view.booted, &view.profile, &view.boot_default, &view.etc],
        [&expected, &expected, &expected, &expected, &Some(machine.etc_of(&old))]
    );
    assert!(machine.is_active("web.service") && machine.succeeds("id guest"));
    assert_eq!(machine.property("web.service", "FragmentPath"), "/etc/systemd/system/web.service");

    // A reboot shows as on hardware, and only a reboot does.
    assert_ne!(machine.boot_id(), first_boot);
    let in_unit =
        "systemd-run --quiet --wait --pipe -p ProtectProc=invisible -p DynamicUser=yes -p PrivatePIDs=yes";
    assert_eq!(machine.check(&format!("{in_unit} cat /proc/sys/kernel/random/boot_id")), machine.boot_id());
    assert_eq!(machine.read_file("/etc/machine-id"), machine_id);

    // What is tried is gone with the next boot, what was made permanent stays.
    let new = machine.build(&System::new("new").etc("greeting", "new\n"));
    assert_eq!(code(&machine.switch(&new, Verb::Test)), Some(0));
    assert_eq!(machine.read_file("/etc/greeting").as_deref(), Some("new\n"));
    machine.reboot();
    assert_eq!((machine.view().running.as_ref(), machine.read_file("/etc/greeting")), (Some(&old), None));
    assert!(machine.is_active("web.service"));
    machine.make_default(&new);
    machine.wait_for_reboot(|| drop(machine.run("systemd-run --quiet --on-active=0.1 systemctl reboot")));
    assert_eq!(machine.view().booted, Some(new.clone()));
    assert_eq!(machine.steps(&new, Verb::Init), ["activate", "users", "etc", "current-system"]);

    machine.halt();
    assert_eq!(machine.offline("readlink /etc/static"), machine_etc(&machine, &new));
    machine.power_on();
    assert_eq!(machine.view().booted, Some(new));
}

/// The same as `etc_of`, while the machine is off.
fn machine_etc(machine: &Machine, toplevel: &str) -> String {
    machine.offline(&format!("readlink -f {toplevel}/etc"))
}

#[test]
fn nix_builds_in_a_sandbox_and_through_the_daemon() {
    let Some(machine) = Machine::boot() else { return };
    machine.write_file(
        "/srv/probe.nix",
        r#"derivation {
             name = "probe"; system = builtins.currentSystem; builder = "/bin/sh";
             args = [ "-c" "id -u > $out; ls / /etc >> $out; ls /root >> $out 2>&1; cat /proc/net/dev >> $out" ];
           }"#,
    );
    let user =
        "systemd-run --quiet --wait --pipe -p DynamicUser=yes -p CacheDirectory=nix -E HOME=/var/cache/nix";
    let evaluated = machine.check(&format!("{user} nix-instantiate /srv/probe.nix"));
    let drv = evaluated.lines().last().unwrap();
    assert!(machine.succeeds("systemctl is-active nix-daemon.service"), "the daemon was needed");
    let seen = machine.check(&format!("cat $(NIX_REMOTE=daemon nix-store --realise {drv})"));
    assert!(
        seen.contains("/root: No such file") && !seen.contains("host0") && seen.contains(" lo:"),
        "{seen}"
    );
    let gone = format!("/nix/store/{}-gone", "a".repeat(32));
    let gone = machine.try_build(&System::new("gone").package("gone", &gone).etc("gone", "@gone@"), None);
    assert!(!gone.status.success() && String::from_utf8_lossy(&gone.stderr).contains("aaa-gone"), "{gone:?}");

    // A program in the store, named by a unit: two trailers make two packages, and both run.
    let program = Path::new(env!("CARGO_BIN_EXE_pullagent"));
    let (one, two) = (machine.add_program(program, b""), machine.add_program(program, b"two"));
    assert_ne!(one, two);
    let lines = "Type=oneshot\nRemainAfterExit=yes\nExecStart=@agent@/bin/pullagent --version";
    let system = machine.install(&System::new("agent").package("agent", &two).service("version", lines));
    assert!(machine.is_active("version.service"));
    assert!(
        machine.check(&format!("nix-store -q --requisites {system}")).contains(&two),
        "it is in the closure"
    );
}

#[test]
fn machines_do_not_meet_and_leave_nothing() {
    let (Some(one), Some(two)) = (Machine::boot(), Machine::boot()) else { return };
    let id = |machine: &Machine| machine.read_file("/etc/machine-id").unwrap();
    assert_ne!(id(&one), id(&two));
    one.write_file("/etc/only-one", "x");
    assert_eq!(two.read_file("/etc/only-one"), None);
    one.check("systemd-run --quiet --unit=server nc -lk 10.80.0.2 7000");
    one.wait_for("nc -z 10.80.0.2 7000");
    assert!(!two.succeeds("nc -z 10.80.0.2 7000"));
    let word = one.directory().to_owned();
    let words = [word.join("root").into_os_string()];
    let processes = || common::processes::with_arguments(&[&words[0]]).len();
    assert!(word.exists() && processes() > 0 && one.control_groups().iter().all(|group| group.exists()));

    let groups = one.control_groups().to_owned();
    drop(one);
    assert!(!word.exists() && processes() == 0 && !groups.iter().any(|group| group.exists()));
    assert!(two.succeeds("true"), "the other one lives on");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(word.to_str().unwrap()), "{mounts}");
}

/// A test that is killed cannot clean up; its machine goes all the same, and its files with the next machine.
#[test]
fn a_killed_test_takes_its_machine_along() {
    let Some(machine) = Machine::boot() else { return };
    let mut test = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "role_owner_of_a_machine"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(test.stdout.take().unwrap()));
    let mut directories =
        lines.map_while(Result::ok).filter_map(|line| Some(line.split_once("directory ")?.1.to_owned()));
    let directory = directories.next().unwrap();
    let root = Path::new(&directory).join("root").into_os_string();
    assert!(!common::processes::with_arguments(&[&root]).is_empty());
    test.kill().unwrap();
    test.wait().unwrap();
    common::processes::wait_until("the machine's end", || {
        common::processes::with_arguments(&[&root]).is_empty()
    });
    drop(machine);
    drop(Machine::boot());
    assert!(!Path::new(&directory).exists());
}

/// Not a test: the process that the test above kills.
#[test]
#[ignore = "a role that another test plays"]
fn role_owner_of_a_machine() {
    let machine = Machine::boot().unwrap();
    println!("directory {}", machine.directory().display());
    std::thread::sleep(std::time::Duration::from_secs(60));
}

#[test]
fn it_runs_or_says_why_not() {
    use common::machine::wanted;
    assert_eq!((wanted(None, true, true), wanted(Some(""), true, true)), (Ok(true), Ok(true)));
    assert_eq!((wanted(None, false, true), wanted(Some("0"), true, true)), (Ok(false), Ok(false)));
    assert!(wanted(None, true, false).unwrap_err().contains("tests/setup"), "root must be able to");
    assert!(wanted(Some("1"), false, true).unwrap_err().contains("needs root"));
    assert!(wanted(Some("yes"), true, true).is_err());
}
