//! What the journal of a real host has of a deployment: the agent's sentences with their fields, once each; and what
//! `pullagent log`, `status --watch` and `systemctl status` make of it.

use serde_json::Value;

use crate::common::machine::{Managed, Via, wait_until};
use crate::host::{LIMIT, Look, boot, next};

/// Returns the records that match, as `journalctl` prints them.
fn records(host: &Managed, matches: &str) -> Vec<Value> {
    let text = host.machine.check(&format!("journalctl --no-pager --quiet --all --output=json {matches}"));
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_deployment_can_be_told_from_the_journal() {
    let Some(host) = boot(Via::Https, "20s") else { return };
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    let status_text = || host.machine.property("pullagent.service", "StatusText");
    let short = &host.revision[..7];
    assert!(
        status_text().starts_with(&format!("in sync with {short} (main), generation ")),
        "{}",
        status_text()
    );
    let pullagent = format!("{}/bin/pullagent", host.package);
    host.machine.check(&format!(
        "systemd-run --quiet --unit=watching -p StandardOutput=file:/tmp/watched {pullagent} status --watch --json"
    ));

    // Its service fails a while after the switch.
    let fails = "ExecStart=/bin/sh -c 'echo I give up; exit 3'";
    let revision = host.push(&next(&host, "broken").service("job", fails));
    let ended = host.wait_for_outcome(&revision, "rolled-back");
    let id = ended["id"].as_str().unwrap();

    // One record for each event, of the journal's own protocol, with fields.
    let of = format!("_SYSTEMD_UNIT=pullagent.service PULLAGENT_DEPLOYMENT={id}");
    let mut said = Vec::new();
    wait_until("the last word in the journal", LIMIT, || {
        said = records(&host, &of);
        said.iter().any(|r| r["PULLAGENT_EVENT"] == "rolled-back")
    });
    let events: Vec<&str> = said.iter().filter_map(|r| r["PULLAGENT_EVENT"].as_str()).collect();
    let once = ["built", "prepared", "armed", "switched", "soak-started", "decided", "rolled-back"];
    for event in once {
        assert_eq!(events.iter().filter(|e| **e == event).count(), 1, "{event} in {events:?}");
    }
    for record in said.iter().filter(|r| r["PULLAGENT_EVENT"].is_string()) {
        let event = record["PULLAGENT_EVENT"].as_str().unwrap();
        assert_eq!(record["MESSAGE_ID"], pullagent::report::message_id(event).unwrap(), "{record}");
        assert_eq!(
            (&record["_TRANSPORT"], &record["SYSLOG_IDENTIFIER"]),
            (&"journal".into(), &"pullagent".into())
        );
        assert!(!record["MESSAGE"].as_str().unwrap().is_empty());
    }
    let of_event = |event: &str| said.iter().find(|r| r["PULLAGENT_EVENT"] == event).unwrap();
    let built = of_event("built");
    assert_eq!(
        (&built["PULLAGENT_REVISION"], &built["PULLAGENT_SIGNER"]),
        (&revision.as_str().into(), &"alice".into())
    );
    assert_eq!((&built["PRIORITY"], &of_event("rolled-back")["PRIORITY"]), (&"6".into(), &"4".into()));
    let confirmed = records(&host, "_SYSTEMD_UNIT=pullagent.service PULLAGENT_EVENT=main-accepted");
    assert!(confirmed.iter().any(|r| r["PULLAGENT_REVISION"] == revision.as_str()), "{confirmed:?}");
    // So does the gateway, from its own sandbox.
    let started =
        records(&host, "_SYSTEMD_UNIT=pullagent-gateway.service PULLAGENT_EVENT=started _TRANSPORT=journal");
    assert!(!started.is_empty());

    // The service manager shows the headline.
    let line = format!("rolled back {} ", &revision[..7]);
    wait_until("the service manager to be told", LIMIT, || status_text().starts_with(&line));

    // One verb tells all of it.
    let log = host.machine.check(&format!("{pullagent} log"));
    for part in [
        "✖ rolled back (",
        "pullagent     built ",
        "switch ",
        "job.service   I give up",
        "job.service ! job.service: Failed with result 'exit-code'.",
        "pullagent   ! rolled back ",
    ] {
        assert!(log.contains(part), "no '{part}' in\n{log}");
    }
    let user = host
        .machine
        .check(&format!("setpriv --reuid=65534 --regid=65534 --clear-groups {pullagent} log 2>&1"));
    assert!(user.contains("✖ rolled back (") && user.contains("may not read the host's journal"), "{user}");

    // Whoever watched has seen it happen, whatever became of the agent meanwhile.
    let watched = host.machine.check("systemctl stop watching; cat /tmp/watched");
    let states: Vec<Value> = watched.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let words: Vec<&str> = states.iter().map(|s: &Value| s["state"].as_str().unwrap()).collect();
    assert_eq!((words.first(), words.last()), (Some(&"in-sync"), Some(&"rolled-back")), "{words:?}");
    assert!(words.contains(&"checking-health"), "{words:?}");
}
