//! Goal: the test machine is what the agent's tests take it for: real systemd, Nix and Git; switches that keep the
//! order of NixOS's and go wrong where they are told to; reboots and power cuts. Method: look from inside.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step fails the test")]
#![expect(clippy::disallowed_methods, reason = "a test may start programs and read the clock")]

mod common;

use std::path::Path;
use std::process::Output;
use std::time::Instant;

use common::machine::{Fault, Forge, HOSTNAME, Machine, Server, Signer, Step, System, Verb, switch_command};
use serde_json::json;

/// A service that writes down what it does, and what `/etc` is meanwhile; `more` goes into `[Service]`.
fn told(name: &str, version: &str, more: &str) -> String {
    let tell = |what: &str| {
        format!("/bin/sh -c 'echo {name}-{version} {what} $$(readlink /etc/static) >> /run/told'")
    };
    let (start, stop, reload) = (tell("start"), tell("stop"), tell("reload"));
    format!(
        "ExecStartPre={start}\nExecStart=/usr/bin/sleep infinity\nExecReload={reload}\nExecStopPost={stop}\n\
         Environment=VERSION={version}\n{more}"
    )
}

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
    let unit = |limit: &str| {
        let run = format!("systemd-run --quiet --unit=switch-{limit} -p Type=exec -p RuntimeMaxSec={limit}");
        machine.check(&format!("{run} -p TimeoutStopSec=1 {}", switch_command(&new, Verb::Test)));
        format!("switch-{limit}.service")
    };
    machine.fault(&new, Verb::Test, Step::CurrentSystem, Fault::Hang);
    let hanging = unit("2");
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
    machine.fault(&new, Verb::Test, Step::Stop, Fault::Stuck);
    let stuck = unit("1");
    machine.wait_for(&format!("systemctl --quiet is-failed {stuck}"));
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

#[test]
fn the_forge_serves_git_over_https_and_ssh() {
    let Some(machine) = Machine::boot() else { return };
    let forge = machine.forge();
    let (alice, bob) = (forge.signer("alice"), forge.signer("bob"));
    let repo = forge.repo("infra.git");
    let system = System::new("pushed").etc("greeting", "from git\n");
    let revision = forge.commit(&repo, "main", &system, Some(&alice));
    assert!(repo.git(&["cat-file", "commit", &revision]).contains("BEGIN SSH SIGNATURE"));

    machine.write_file("/root/ca.pem", forge.ca());
    machine.write_file("/root/known_hosts", forge.known_hosts());
    for (name, person) in [("alice", &alice), ("bob", &bob)] {
        machine.write_file(&format!("/root/{name}"), &person.private_key);
    }
    machine.check("chmod 600 /root/alice /root/bob");
    forge.authorize(&alice);
    let https = |token: &str| {
        let account = format!("!echo username={}; echo password={token}; :", Forge::USER);
        let git = format!("git -c http.sslCAInfo=/root/ca.pem -c 'credential.helper={account}'");
        machine.run(&format!("rm -rf /tmp/https; {git} clone -q {} /tmp/https", forge.https_url("infra.git")))
    };
    let ssh = |key: &str| {
        let ssh = format!("ssh -o BatchMode=yes -o UserKnownHostsFile=/root/known_hosts -i /root/{key}");
        machine.run(&format!("GIT_SSH_COMMAND='{ssh}' git clone -q {} /tmp/ssh", forge.ssh_url("infra.git")))
    };
    let text = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let refused = text(&https("wrong"));
    assert!(refused.contains("Authentication failed"), "{refused}\n{}", forge.log());
    let cloned = https(Forge::TOKEN);
    assert!(cloned.status.success(), "{}\n{}", text(&cloned), forge.log());
    assert!(text(&ssh("bob")).contains("Permission denied (publickey)"));
    let cloned = ssh("alice");
    assert!(cloned.status.success(), "{}\n{}", text(&cloned), forge.log());
    for clone in ["https", "ssh"] {
        assert_eq!(machine.check(&format!("git -C /tmp/{clone} rev-parse HEAD")), revision);
    }
    assert!(
        forge.requests().iter().any(|line| line == "pullagent POST /infra.git/git-upload-pack HTTP/2.0 200")
    );
    let shell = machine
        .run(&format!("ssh -o UserKnownHostsFile=/root/known_hosts -i /root/alice git@{} id", Forge::HOST));
    assert!(!shell.status.success(), "the key is good for Git only");

    // What was pushed can be built and says its revision.
    let attribute = "nixosConfigurations.web1.config.system.build.toplevel";
    let built = machine.check(&format!(
        "NIX_REMOTE=daemon nix build --no-link --print-out-paths git+file:///tmp/https#{attribute}"
    ));
    assert_eq!(machine.read_file(&format!("{built}/etc/pullagent/revision")), Some(format!("{revision}\n")));
    assert_eq!(machine.build_at(&system, &revision), built);

    // Each server can go away and come back, and the forge outlives the machine's power.
    for (server, complaint) in
        [(Server::Nginx, "Failed to connect"), (Server::Dnsmasq, "resolve host"), (Server::Fcgiwrap, "502")]
    {
        forge.stop_server(server);
        let down = text(&https(Forge::TOKEN));
        assert!(down.contains(complaint), "{server:?}: {down}");
        forge.start_server(server);
    }
    forge.set_token("another");
    machine.power_cut();
    assert!(text(&https(Forge::TOKEN)).contains("Authentication failed"));
    assert!(https("another").status.success());
}

/// A remote as the agent's configuration has it, and the files on the machine that it names.
fn remote(forge: &Forge, alice: &Signer, over_ssh: bool) -> (serde_json::Value, Vec<(&'static str, String)>) {
    let (key, hosts, token, ca) =
        ("/etc/secrets/key", "/etc/secrets/hosts", "/etc/secrets/token", "/etc/secrets/ca");
    if over_ssh {
        forge.authorize(alice);
        let remote = json!({ "url": forge.ssh_url("infra.git"), "sshKeyFile": key, "knownHostsFile": hosts });
        (remote, vec![(key, alice.private_key.clone()), (hosts, forge.known_hosts())])
    } else {
        let remote = json!({ "url": forge.https_url("infra.git"), "tokenFile": token, "caFile": ca });
        (remote, vec![(token, Forge::TOKEN.to_owned()), (ca, forge.ca())])
    }
}

/// The shortest use of all of it: an agent on the machine, a push to the forge, and a look at what comes of it.
#[test]
fn an_agent_on_it_deploys_what_is_pushed() {
    for over_ssh in [false, true] {
        let Some(machine) = Machine::boot() else { return };
        let forge = machine.forge();
        let (alice, repo) = (forge.signer("alice"), forge.repo("infra.git"));
        let (mut remote, secrets) = remote(forge, &alice, over_ssh);
        for (path, content) in secrets {
            machine.write_file(path, content);
            machine.check(&format!("chmod 600 {path}"));
        }
        remote["name"] = json!("origin");
        remote["interval"] = json!("1s");
        let config = json!({
            "schema": 1,
            "hostname": HOSTNAME,
            "remotes": [remote],
            "trust": { "signers": { "alice": { "keys": [alice.public_key], "roles": ["deployer"] } } },
            "activation": { "soak": "1s", "window": "10s" },
        });
        let agent = machine.add_program(Path::new(env!("CARGO_BIN_EXE_pullagent")), b"");
        let one = System::new("one").package("pullagent", &agent).agent_config(&config).service(
            "pullagent",
            "Type=notify\nExecStart=@pullagent@/bin/pullagent run --config /etc/pullagent/config.json\n\
             StateDirectory=pullagent\nRuntimeDirectory=pullagent\nKillMode=process",
        );
        let old = machine.install_at(&one, &forge.commit(&repo, "main", &one, Some(&alice)));

        let two = one.label("two").etc("greeting", "deployed\n");
        let revision = forge.commit(&repo, "main", &two, Some(&alice));
        let begun = Instant::now();
        machine.wait_for("test -e /etc/greeting");
        println!(
            "test host: a push over {} runs after {:.2} s",
            if over_ssh { "SSH" } else { "HTTPS" },
            begun.elapsed().as_secs_f32()
        );
        machine.wait_for(&format!("test $(readlink -f /nix/var/nix/profiles/system) != {old}"));
        let view = machine.view();
        assert_eq!(view.running, Some(machine.build_at(&two, &revision)));
        assert_eq!((&view.profile, view.booted), (&view.running, Some(old)));
    }
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
    assert_eq!((wanted(None, true), wanted(Some("1"), true)), (Ok(true), Ok(true)));
    assert_eq!((wanted(Some("0"), false), wanted(Some("0"), true)), (Ok(false), Ok(false)));
    let reason = wanted(None, false).unwrap_err();
    assert!(
        reason.contains("root") && reason.contains("tests/setup") && reason.contains("PULLAGENT_TEST_HOST=0")
    );
}
