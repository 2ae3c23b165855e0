//! Goal: inside its sandbox, each process can do what its duty asks for, and nothing of what a hostile program in its
//! place would try. Method: shell scripts, one per attempt, run in the very unit: a drop-in puts them in the place of
//! an installed unit's program, `systemd-run` gives them the properties of a transient kind. What must fail there is
//! also tried by root outside of all sandboxes, where it must succeed: so it is the sandbox that made it fail.

mod attempts;

use std::path::Path;

pub use attempts::Attempt;
use attempts::*;

use crate::common::machine::{GATEWAY, Machine, RECONCILER, System, Via, remote, settings, transient};

/// Makes the attempts that were put onto the machine, in their order: `yes` or `no`, and the last that each said.
const RUNNER: &str = r#"
for attempt in /srv/attempts/*; do
  if said=$(timeout -k 1 20 sh "$attempt" 2>&1 < /dev/null); then word=yes; else word=no; fi
  echo "$word $(echo "$said" | tail -n 1)"
done
"#;

/// What the attempts aim at.
const PLANTED: &str = "
chmod 755 /srv; umask 022
mkdir -p -m 700 /var/lib/pullagent
touch /var/lib/pullagent/planted /root/planted /home/planted /dev/shm/planted
mkdir -p /var/lib/pullagent/roots
git init -q --bare /srv/own.git
touch /srv/private; chown nobody /srv/private; chmod 600 /srv/private
systemd-run --quiet --unit=orders nc -lkU /run/pullagent/control.sock
while ! [ -S /run/pullagent/control.sock ]; do sleep 0.01; done
chown root:pullagent-admin /run/pullagent/control.sock; chmod 660 /run/pullagent/control.sock
systemctl show --value -p MainPID other.service > /srv/root.pid
systemctl show --value -p MainPID victim.service > /srv/victim.pid
";

/// Boots a machine with what the attempts aim at. In the place of pullagent's programs it has the attempts, in `unit`,
/// and something quiet elsewhere.
fn target(unit: &str) -> Option<Machine> {
    let machine = Machine::boot()?;
    let forge = machine.forge();
    let (alice, repo) = (forge.signer("alice"), forge.repo("infra.git"));
    let remotes =
        vec![remote(&machine, Via::Https, &alice, "origin"), remote(&machine, Via::Ssh, &alice, "deploy")];
    // Nothing starts it; a unit must name something in the store.
    let package = machine.add_program(Path::new("/bin/true"), b"");
    let quiet = "ExecStart=/usr/bin/sleep infinity";
    let mut system = System::new("target")
        .agent(&package, &settings(&alice, remotes))
        .service("other", &format!("{quiet}\nLoadCredential=secret:/etc/secrets/token"))
        .service("victim", &format!("{quiet}\nUser=nobody"))
        .service("page", "ExecStart=/usr/bin/busybox httpd -f -p 127.0.0.1:8080 -h /etc/pullagent")
        .unit("planted.service", &format!("[Service]\n{quiet}\n"));
    for name in [GATEWAY, RECONCILER] {
        let program = if name != unit && name == RECONCILER {
            // It would have the gateway started again and again.
            "[Unit]\nConditionPathExists=/no/agent\n"
        } else if name == unit {
            "[Service]\nType=oneshot\nExecStart=\nExecStart=/bin/sh /srv/run\nRestart=no\nStandardOutput=truncate:/srv/said\nWatchdogSec=0"
        } else {
            "[Service]\nType=exec\nExecStart=\nExecStart=/usr/bin/sleep infinity\nWatchdogSec=0"
        };
        system = system.drop_in(name, "attempts", program);
    }
    forge.commit(&repo, "main", &system, Some(&alice));
    machine.install(&system);
    machine.check(PLANTED);
    Some(machine)
}

/// Makes attempts by way of `start`, which leaves what [`RUNNER`] prints in `/srv/said`; all of them must end alike.
pub fn all(
    machine: &Machine,
    who: &str,
    expected: bool,
    attempts: &[&[Attempt]],
    start: &str,
) -> Vec<String> {
    let attempts = attempts.concat();
    machine.check("rm -rf /srv/attempts /srv/said; mkdir /srv/attempts");
    machine.write_file("/srv/run", RUNNER);
    for (n, (_, script)) in attempts.iter().enumerate() {
        machine.write_file(&format!("/srv/attempts/{n:03}"), script);
    }
    machine.check(start);
    let said = machine.read_file("/srv/said").unwrap();
    assert_eq!(said.lines().count(), attempts.len(), "{said}");
    let word = if expected { "yes" } else { "no" };
    let wrong = attempts.iter().zip(said.lines()).filter(|(_, said)| !said.starts_with(word));
    wrong
        .map(|((what, _), said)| format!("{who} {}: {what}: {said}", if expected { "can't" } else { "can" }))
        .collect()
}

/// The attempts of `cannot` succeed outside of all sandboxes and fail by way of `start`, those of `can` succeed there.
fn check(machine: &Machine, who: &str, cannot: &[&[Attempt]], can: &[&[Attempt]], start: &str) {
    let mut wrong = all(machine, "root", true, cannot, "sh /srv/run > /srv/said");
    machine.check("rm -f /nix/store/planted /nix/var/nix/profiles/planted; rm -f /run/pullagent/status.json; umount /tmp; true");
    wrong.extend(all(machine, who, false, &[cannot, &[NOT_EVEN_ROOT]].concat(), start));
    wrong.extend(all(machine, who, true, can, start));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_gateway_reaches_the_network_and_nothing_else() {
    let Some(machine) = target(GATEWAY) else { return };
    let cannot = [NOBODY, NEW_CODE, UNPRIVILEGED, GATEWAY_CANNOT];
    check(&machine, "the gateway", &cannot, &[GATEWAY_CAN], &format!("systemctl start {GATEWAY}"));
}

#[test]
fn the_reconciler_steers_the_host_and_reaches_no_network() {
    let Some(machine) = target(RECONCILER) else { return };
    let start = format!("systemctl restart {RECONCILER}");
    check(&machine, "the reconciler", &[NOBODY, NEW_CODE, RECONCILER_CANNOT], &[RECONCILER_CAN], &start);
}

/// Returns a command that makes the attempts in a transient unit of a kind.
fn run_as(kind: &str) -> String {
    let properties: Vec<String> = transient(kind).iter().map(|p| format!("-p '{p}'")).collect();
    format!(
        "systemd-run --quiet --wait --unit=tried -p StandardOutput=truncate:/srv/said {} sh /srv/run",
        properties.join(" ")
    )
}

#[test]
fn evaluations_and_checks_are_nobody() {
    let Some(machine) = target("") else { return };
    let build = [NOBODY, NEW_CODE, UNPRIVILEGED, TRANSIENT_CANNOT, BUILD_CANNOT];
    check(&machine, "an evaluation", &build, &[TRANSIENT_CAN, BUILD_CAN], &run_as("build"));
    let probe = [NOBODY, UNPRIVILEGED, TRANSIENT_CANNOT];
    check(&machine, "a check", &probe, &[TRANSIENT_CAN, PROBE_CAN], &run_as("probe"));
    // Neither leaves a process behind, not even one that hides and can't be asked to end.
    for (kind, deaf) in [("build", ""), ("probe", "trap \"\" TERM;")] {
        let hidden = format!(
            "setsid sh -c '{deaf} sleep 12345; true' > /dev/null 2>&1 & sleep 0.2; pgrep -f '1234[5]'"
        );
        machine.write_file("/srv/run", hidden);
        drop(machine.run(&run_as(kind)));
        assert_ne!(machine.read_file("/srv/said").as_deref(), Some(""), "{kind} has started it");
        assert!(!machine.succeeds("pgrep -f 'sleep 1234[5]'"), "{kind} leaves a process behind");
    }
}
