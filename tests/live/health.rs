//! What counts as healthy: what units do is looked at without a word of configuration, and checks look at the rest.

use serde_json::{Value, json};

use crate::common::machine::{Managed, System, Via, wait_until};
use crate::host::{self, LIMIT, Look, boot_soaking, web};

/// Makes the script fail as soon as the new system runs.
const BREAKS: &str = "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo \"exit 1\" >> /etc/greenboot/check/required.d/10_a.sh'";
const SLEEPS: &str = "ExecStart=/usr/bin/sleep infinity";

/// Boots a machine whose first system has these services, by name and text.
fn boot(services: &[(&str, &str)]) -> Option<Managed> {
    boot_for("5s", "30s", services)
}

/// Does so with another soak time and window.
fn boot_for(soak: &str, window: &str, services: &[(&str, &str)]) -> Option<Managed> {
    let more =
        |system| services.iter().fold(system, |system: System, (name, text)| system.service(name, text));
    let host = boot_soaking(Via::Https, soak, window, more)?;
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    Some(host)
}

/// Pushes a system and says how that ended and why.
fn push(host: &Managed, system: &System, outcome: &str) -> String {
    let revision = host.push(&web(system.clone(), outcome));
    host.wait_for_outcome(&revision, outcome).to_string()
}

/// Adds checks to a system's configuration.
fn with_checks(host: &Managed, system: System, edit: impl FnOnce(&mut Value)) -> System {
    let mut settings = host.settings.clone();
    edit(&mut settings["health"]);
    system.agent(&host.package, &settings)
}

/// What the status says of a check of the newest deployment: whether it is hard, and whether it is green.
fn told(host: &Managed, name: &str) -> (bool, bool) {
    let status = host.status().unwrap();
    let checks = status["health"].as_array().unwrap();
    let check =
        checks.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no '{name}' in {status:#}"));
    (check["hard"] == true, check["green"] == true)
}

/// A check that does not wait long.
fn quick(mut check: Value) -> Value {
    for (key, value) in
        [("interval", json!("1s")), ("startPeriod", json!("2s")), ("failureThreshold", json!(2))]
    {
        check[key] = value;
    }
    check
}

#[test]
fn a_unit_that_fails_rolls_back_and_one_that_failed_before_does_not() {
    let Some(host) = boot(&[("old", "ExecStart=/usr/bin/false"), ("job", SLEEPS)]) else { return };
    // It was failing already.
    let same = host.system.clone().label("same");
    push(&host, &same, "confirmed");
    // It fails since the switch.
    let said =
        push(&host, &same.clone().label("fails").service("job", "ExecStart=/usr/bin/false"), "rolled-back");
    assert!(said.contains("job.service failed (exit-code)"), "{said}");
    assert!(host.machine.is_active("job.service"));
    // Whoever knows better says so.
    let ignores = |health: &mut Value| health["ignoreUnits"] = json!(["jo*.service"]);
    let known = same.label("known").service("job", "ExecStart=/usr/bin/false");
    push(&host, &with_checks(&host, known, ignores), "confirmed");
}

#[test]
fn a_unit_that_is_restarted_again_and_again_rolls_back() {
    // A busy machine takes its time to restart anything; it ends with the third restart.
    let Some(host) = boot_for("60s", "120s", &[("job", SLEEPS)]) else { return };
    // Most of the time it runs, so that no look at one moment shows it.
    let flaps = "ExecStart=/usr/bin/sleep 0.7\nRestart=always\nRestartSec=10ms\nStartLimitIntervalSec=0";
    let said = push(&host, &host.system.clone().label("flaps").service("job", flaps), "rolled-back");
    assert!(said.contains("job.service was restarted"), "{said}");
}

#[test]
fn a_unit_that_does_not_run_any_more_rolls_back_unless_it_was_taken_away() {
    let stops = "Type=notify\nNotifyAccess=all\nRestart=on-failure\nExecStart=/bin/sh -c 'systemd-notify --ready; sleep 1'";
    let Some(host) = boot(&[("job", SLEEPS), ("spare", SLEEPS)]) else { return };
    let said = push(&host, &host.system.clone().label("stops").service("job", stops), "rolled-back");
    assert!(said.contains("job.service ran before and does not any more"), "{said}");
    push(&host, &host.system.clone().label("fewer").without_unit("spare.service"), "confirmed");
    assert!(!host.machine.is_active("spare.service"));
}

#[test]
fn checks_of_every_kind_pass_and_fail() {
    let Some(host) = boot(&[("job", SLEEPS)]) else { return };
    let script = |name: &str, text: &str| {
        let path = format!("/etc/greenboot/check/{name}");
        host.machine.write_file(&path, format!("#!/bin/sh\n{text}\n"));
        host.machine.check(&format!("chmod 755 {path}"));
    };
    script("required.d/10_a.sh", "test $(id -u) = 0");
    script("wanted.d/20_b.sh", "echo broken >&2; exit 1");
    let good = |health: &mut Value| {
        health["scriptDirectories"] = json!(["/etc/greenboot/check"]);
        let checks = &mut health["checks"];
        checks["page"] =
            quick(json!({ "http": "http://127.0.0.1:8000/gone", "status": 404, "expect": "nginx" }));
        checks["port"] = quick(json!({ "tcp": "127.0.0.1:8000" }));
        checks["name"] = quick(json!({ "dns": "localhost" }));
        checks["unit"] = quick(json!({ "unit": "job.service", "successThreshold": 2 }));
        checks["target"] = quick(json!({ "unit": "multi-user.target" }));
        checks["root"] = quick(
            json!({ "command": ["/usr/bin/systemctl", "is-active", "job.service"], "privileged": true }),
        );
    };
    let all = with_checks(&host, host.system.clone().label("all"), good);
    push(&host, &all, "confirmed");
    assert_eq!(told(&host, "wanted.d/20_b.sh"), (false, false));
    assert_eq!(told(&host, "required.d/10_a.sh"), (true, true));

    let bad: [(&str, Value, &str); 6] = [
        ("status", json!({ "http": "http://127.0.0.1:8000/", "status": 404 }), "answers 200"),
        ("body", json!({ "http": "http://127.0.0.1:8000/", "expect": "absent" }), "without 'absent'"),
        ("banner", json!({ "tcp": "127.0.0.1:8000", "expect": "SSH-", "timeout": "2s" }), "does not answer"),
        ("closed", json!({ "tcp": "127.0.0.1:9" }), "refused"),
        ("noname", json!({ "dns": "no.such.name.invalid" }), "can't be resolved"),
        ("nounit", json!({ "unit": "gone.service" }), "gone.service is inactive"),
    ];
    let patient = |check: &Value| {
        let mut check = quick(check.clone());
        check["failureThreshold"] = json!(5);
        check
    };
    let with = with_checks(&host, host.system.clone().label("bad"), |health| {
        bad.iter().for_each(|(name, check, _)| health["checks"][name] = patient(check));
    });
    let said = push(&host, &with, "rolled-back");
    for (name, _, why) in bad {
        assert!(said.contains(&format!("{name}: ")) && said.contains(why), "{name}: {said}");
    }
    let breaks = host.system.clone().label("script").service("breaks", BREAKS);
    let said = push(&host, &with_checks(&host, breaks, good), "rolled-back");
    assert!(said.contains("required.d/10_a.sh"), "{said}");
}

/// What is red already can't speak against the new system, unless that is to repair it.
#[test]
fn what_was_red_before_counts_only_where_it_is_to_be_repaired() {
    let Some(host) = boot(&[]) else { return };
    let red = |baseline: &str| quick(json!({ "tcp": "127.0.0.1:9", "baseline": baseline, "timeout": "2s" }));
    let soft = with_checks(&host, host.system.clone().label("first"), |h| {
        h["checks"]["port"] = red("must-not-regress");
        h["checks"]["port"]["severity"] = json!("soft");
    });
    push(&host, &soft, "confirmed");
    let excused = with_checks(&host, host.system.clone().label("hard"), |h| {
        h["checks"]["port"] = red("must-not-regress")
    });
    push(&host, &excused, "confirmed");
    assert_eq!(told(&host, "port"), (false, false));
    let required =
        with_checks(&host, host.system.clone().label("must"), |h| h["checks"]["port"] = red("require"));
    let said = push(&host, &required, "rolled-back");
    assert!(said.contains("check 'port'"), "{said}");
    // A check that is gone with its service is still told of.
    push(&host, &host.system.clone().label("without"), "confirmed");
    assert_eq!(told(&host, "port"), (false, false));
}

/// A check that the new system points elsewhere was not red before just because nothing is there yet.
#[test]
fn a_check_that_is_changed_is_not_excused_by_the_old_system() {
    let Some(host) = host::boot(Via::Https, "20s") else { return };
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    let mut settings = host.settings.clone();
    settings["health"]["checks"]["web"]["http"] = "http://127.0.0.1:8001/".into();
    let moved = web(host.system.clone().label("moved").agent(&host.package, &settings), "moved");
    let revision = host.push(&moved);
    let ended = host.wait_for_outcome(&revision, "rolled-back");
    assert!(ended["text"].as_str().unwrap().contains("web"), "{ended}");
    assert_eq!(host.page(), "one");
}
