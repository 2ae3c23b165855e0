//! `pullagent log`, with a `journalctl` that answers as the real one does; `tests/live/journal.rs` has the real one.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use pullagent::model::{Class, Outcome};
use pullagent::report::Snapshot;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::host::{Host, Ran};
use super::worlds::{in_sync, rev};

const BEGAN: u64 = 1_800_000_000;

/// A host that rolled back `d4e5f6a`, and its journal.
struct World {
    host: Host,
    bin: PathBuf,
}

fn rolled_back() -> Snapshot {
    let mut snapshot = in_sync();
    let mut ended = snapshot.state.history.back().unwrap().clone();
    ended.id = Some(pullagent::model::DeploymentId::new(2, &rev("d4e5f6a")));
    ended.revision = rev("d4e5f6a");
    ended.subject = "web: break it".to_owned();
    (ended.began, ended.at) = (BEGAN, BEGAN + 50);
    ended.outcome = Outcome::RolledBack {
        reason: "check 'web' failed".to_owned(),
        failures: vec!["web: connection refused".to_owned()],
        class: Class::Target,
        code: None,
    };
    snapshot.state.history.push_back(ended);
    snapshot
}

fn record(second: u64, more: Value) -> String {
    let mut record = json!({ "__REALTIME_TIMESTAMP": format!("{}000000", BEGAN + second), "PRIORITY": "6" });
    record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    record.to_string()
}

impl World {
    fn new() -> World {
        let host = Host::new();
        host.publish(&rolled_back());
        let bin = host.root.join("bin");
        std::fs::create_dir(&bin).unwrap();
        let agent = |second, event: &str, priority: &str, message: &str| {
            record(
                second,
                json!({ "_SYSTEMD_UNIT": "pullagent.service", "PULLAGENT_EVENT": event, "PRIORITY": priority,
                        "PULLAGENT_DEPLOYMENT": "2-d4e5f6a", "MESSAGE": message }),
            )
        };
        let sentences = [
            agent(0, "built", "6", "built d4e5f6a: it"),
            agent(10, "switched", "6", "switched to d4e5f6a"),
            agent(50, "rolled-back", "4", "rolled back d4e5f6a"),
        ];
        let init = |second, unit: &str, priority: &str| {
            let message = format!("{unit}: Failed with result 'exit-code'.");
            record(second, json!({ "_PID": "1", "UNIT": unit, "PRIORITY": priority, "MESSAGE": message }))
        };
        let of = |second, unit: &str, message: &str| {
            record(second, json!({ "_SYSTEMD_UNIT": unit, "MESSAGE": message }))
        };
        let switches = [
            of(5, "pullagent-switch-2-d4e5f6a.service", "activating the configuration..."),
            of(6, "pullagent-switch-22-d4e5f6b.service", "of another deployment"),
            init(8, "web.service", "4"),
            init(8, "pullagent-probe-7-1.service", "4"),
            of(40, "pullagent-guard-2-d4e5f6a-fire-1.service", "rolling back"),
            of(41, "evil.service", "said with a forged identifier"),
        ];
        let words = [of(7, "web.service", "bind() failed\u{1b}[2J")];
        let world = World { host, bin };
        world.journalctl(&format!(
            "case \"$*\" in
             *--follow*) cat <<'EOF'\n{}\nEOF
             exec sleep 1000;;
             *_SYSTEMD_UNIT=web.service*) cat <<'EOF'\n{}\nEOF
             ;;
             *PULLAGENT_REVISION=d4e5f6a0000000000000000000000000000000*) cat <<'EOF'\n{}\nEOF
             ;;
             *SYSLOG_IDENTIFIER=pullagent-switch*) cat <<'EOF'\n{}\nEOF
             ;;
             *) echo '-- No entries --';;
             esac",
            agent(60, "main-accepted", "6", "accepted the next one"),
            words.join("\n"),
            sentences.join("\n"),
            switches.join("\n"),
        ));
        world
    }

    fn journalctl(&self, script: &str) {
        let path = self.bin.join("journalctl");
        let asked = self.host.root.join("asked");
        std::fs::write(&path, format!("#!/bin/sh\necho \"$*\" >> '{}'\n{script}\n", asked.display()))
            .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.host.command(&["log"]);
        command.args(args).env("TZ", "UTC").env("PATH", format!("{}:/usr/bin:/bin", self.bin.display()));
        command
    }

    fn log(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }
}

const PAGE: &str = "\
d4e5f6a  \"web: break it\"  main, signed by alice, deployment 2-d4e5f6a
✖ rolled back (health)  2027-01-15 08:00, 50 s after it was built
  2027-01-15 08:00:00  pullagent     built d4e5f6a: it
  2027-01-15 08:00:05  switch        activating the configuration...
  2027-01-15 08:00:07  web.service   bind() failed\u{fffd}[2J
  2027-01-15 08:00:08  web.service ! web.service: Failed with result 'exit-code'.
  2027-01-15 08:00:10  pullagent     switched to d4e5f6a
  2027-01-15 08:00:40  guard         rolling back
  2027-01-15 08:00:50  pullagent   ! rolled back d4e5f6a
";

#[test]
fn the_newest_deployment_is_told_with_what_the_switch_and_failed_units_said() {
    let world = World::new();
    let ran = world.log(&[]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, PAGE, ""));
    assert_eq!(world.log(&["--revision", "d4e5"]).out, PAGE);
    let asked = std::fs::read_to_string(world.host.root.join("asked")).unwrap();
    let switches = asked.lines().find(|line| line.contains("pullagent-switch")).unwrap();
    assert!(switches.contains("--since=@1800000000 --until=@1800000056"), "{switches}");
    assert!(asked.lines().all(|line| line.contains("--lines=") && line.contains("--output=json")), "{asked}");
    assert!(!asked.contains("_SYSTEMD_UNIT=pullagent-probe"), "no words of our own units: {asked}");

    let told: Value = serde_json::from_str(&world.log(&["--json"]).out).unwrap();
    let deployment = &told["deployments"][0];
    assert_eq!((&told["schema"], &told["host"], &told["missing"]), (&1.into(), &"web1".into(), &json!([])));
    assert_eq!((&deployment["id"], &deployment["outcome"]), (&"2-d4e5f6a".into(), &"rolled-back".into()));
    let first = json!({ "at": BEGAN, "unit": "pullagent.service", "priority": 6, "event": "built",
                        "message": "built d4e5f6a: it" });
    assert_eq!((&deployment["lines"][0], deployment["lines"].as_array().unwrap().len()), (&first, 7));
}

#[test]
fn several_are_told_oldest_first_and_what_the_journal_has_lost_is_remembered() {
    let world = World::new();
    let ran = world.log(&["--last", "5"]);
    let (first, second) = ran.out.split_once("\n\n").unwrap();
    assert!(
        first.starts_with("a1b2c3d  \"nginx: raise limits\"") && first.contains("no word of pullagent"),
        "{first}"
    );
    assert_eq!((ran.code, second), (0, PAGE));
    // The same commit is tried again: what was said until the first try ended is about that one.
    let mut again = rolled_back();
    let mut later = again.state.history.back().unwrap().clone();
    later.id = Some(pullagent::model::DeploymentId::new(3, &rev("d4e5f6a")));
    (later.began, later.at) = (BEGAN + 500, BEGAN + 600);
    again.state.history.push_back(later);
    world.host.publish(&again);
    assert!(world.log(&[]).out.contains("deployment 3-d4e5f6a"));
    let asked = std::fs::read_to_string(world.host.root.join("asked")).unwrap();
    let sentences = asked.lines().rfind(|line| line.contains("PULLAGENT_REVISION=")).unwrap();
    assert!(sentences.contains("--since=@1800000050 --until=@1800000606"), "{sentences}");
    world.host.publish(&rolled_back());
    // The journal has nothing at all.
    world.journalctl("echo '-- No entries --'");
    let ran = world.log(&[]);
    assert!(ran.out.contains("  check 'web' failed\n  web: connection refused\n"), "{}", ran.out);
    assert!(ran.code == 0 && ran.err.is_empty(), "{ran:?}");
}

#[test]
fn what_is_missing_is_said() {
    let world = World::new();
    let hint = "Hint: You are currently not seeing messages from other users and the system.";
    let rights = "may not read the host's journal";
    for (script, said) in [
        (format!("echo \"{hint}\" >&2"), rights),
        (
            "echo 'No journal files were opened due to insufficient permissions.' >&2; exit 1".to_owned(),
            rights,
        ),
        ("echo 'Failed to open files: Input/output error' >&2; exit 1".to_owned(), "Input/output error"),
    ] {
        world.journalctl(&script);
        let ran = world.log(&[]);
        assert!(ran.code == 0 && ran.out.contains("check 'web' failed") && ran.err.contains(said), "{ran:?}");
        assert_eq!(ran.err.lines().count(), 1, "it is said once: {}", ran.err);
        let told: Value = serde_json::from_str(&world.log(&["--json", "-q"]).out).unwrap();
        assert!(told["missing"][0].as_str().unwrap().contains(said), "{told}");
    }
    let mut without = world.command(&[]);
    let ran = Ran::of(without.env("PATH", world.host.root.join("none")).output().unwrap());
    assert!(ran.code == 0 && ran.err.contains("'journalctl' was not found"), "{ran:?}");
    for (args, code) in [(&["--revision", "f00d"][..], 2), (&["--revision", "xyz"], 2), (&["--last", "0"], 2)]
    {
        assert_eq!(world.log(args).code, code, "{args:?}");
    }
    // The agent has not run since the host was started: there is still the journal.
    std::fs::remove_dir_all(pullagent::report::run_dir(&world.host.root)).unwrap();
    let words =
        record(3, json!({ "_SYSTEMD_UNIT": "pullagent.service", "MESSAGE": "can't start", "PRIORITY": "3" }));
    world.journalctl(&format!("echo '{}'", words.replace('\'', "'\\''")));
    let ran = world.log(&[]);
    assert_eq!(ran.out, "  2027-01-15 08:00:03  pullagent ✖ can't start\n");
    assert!(ran.code == 0 && ran.err.contains("has not run since"), "{ran:?}");
    assert_eq!(world.log(&["--revision", "d4e5f6a"]).code, 6);
}

#[test]
fn what_happens_next_is_followed_until_ctrl_c() {
    let world = World::new();
    for (args, next) in [
        (&["--follow"][..], "  2027-01-15 08:01:00  pullagent   accepted the next one"),
        (&["-f", "--json"], "\"message\":\"accepted the next one\"}"),
    ] {
        let mut child = world.command(args).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains(next)), "{args:?}");
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    let asked = std::fs::read_to_string(world.host.root.join("asked")).unwrap();
    let follows = asked.lines().find(|line| line.contains("--follow")).unwrap();
    assert!(
        follows.contains("--since=@") && follows.contains("_SYSTEMD_UNIT=pullagent.service + "),
        "{follows}"
    );
}
