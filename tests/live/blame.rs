//! Whose fault a rollback was: the old system's checks are tried once more, and a commit that can't help it is not set aside.

use serde_json::{Value, json};

use crate::common::machine::{Managed, Via, wait_until};
use crate::host::{LIMIT, Look, boot_soaking, web};

/// A check that does not wait long.
fn quick(mut check: Value) -> Value {
    for (key, value) in [
        ("interval", json!("1s")),
        ("startPeriod", json!("1s")),
        ("failureThreshold", json!(2)),
        ("timeout", json!("2s")),
    ] {
        check[key] = value;
    }
    check
}

/// Boots a machine whose first system looks for the file `/var/lib/helper`, which no system of ours brings along.
fn boot() -> Option<Managed> {
    let mut host = boot_soaking(Via::Https, "1s", "20s", |system| system)?;
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    host.machine.write_file("/var/lib/helper", "here\n");
    host.settings["health"]["checks"]["helper"] =
        quick(json!({ "command": ["/usr/bin/test", "-e", "/var/lib/helper"] }));
    host.system = host.system.clone().label("helped").agent(&host.package, &host.settings);
    let revision = host.push(&host.system);
    host.wait_for_outcome(&revision, "confirmed");
    Some(host)
}

/// What the status says of a revision that is tried again: a word, and when.
fn retry(host: &Managed, revision: &str) -> Option<(String, u64)> {
    let status = host.status()?;
    let retries = status["retries"].as_array()?;
    let retry = retries.iter().find(|r| r["revision"] == revision)?;
    Some((retry["code"].as_str()?.to_owned(), retry["notBefore"].as_u64()?))
}

#[test]
fn a_commit_is_not_to_blame_for_what_the_old_system_fails_as_well() {
    let Some(host) = boot() else { return };
    // What the check looks for goes away while the new system starts, through no doing of its own.
    let breaks = "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/rm -f /var/lib/helper";
    let two = web(host.system.clone().label("two"), "two").service("unlucky", breaks);
    let revision = host.push(&two);
    let ended = host.wait_for_outcome(&revision, "rolled-back");
    assert_eq!(host.page(), "one");
    wait_until("the verdict", LIMIT, || {
        retry(&host, &revision).is_some_and(|(code, _)| code == "environment")
    });
    let (_, not_before) = retry(&host, &revision).unwrap();
    let pause = not_before - ended["at"].as_u64().unwrap();
    assert!((600..=660).contains(&pause), "{pause}");
    let status = host.status().unwrap();
    assert_eq!((&status["state"], &status["setAside"]), (&json!("retrying"), &json!([])));
    let said = host.wait_for_outcome(&revision, "rolled-back").to_string();
    assert!(said.contains("it is the environment, not the revision: helper: "), "{said}");
    // The fault is mended, and the commit had none.
    let good = web(host.system.clone().label("three"), "three");
    host.machine.write_file("/var/lib/helper", "here\n");
    let next = host.push(&good);
    host.wait_for_outcome(&next, "confirmed");
}

#[test]
fn a_commit_is_to_blame_for_what_only_it_fails() {
    let Some(host) = boot() else { return };
    let hides = "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/mv /var/lib/helper /var/lib/hidden\nExecStop=/bin/mv /var/lib/hidden /var/lib/helper";
    let revision = host.push(&web(host.system.clone().label("two"), "two").service("hides", hides));
    host.wait_for_outcome(&revision, "rolled-back");
    wait_until("its word", LIMIT, || host.word() == "rolled-back");
    let log = "journalctl -u pullagent.service --no-pager | grep -c 'does not fail what the new one failed'";
    wait_until("the old system's checks", LIMIT, || host.machine.succeeds(log));
    assert_eq!(retry(&host, &revision), None);
    assert_eq!(host.status().unwrap()["setAside"][0]["revision"], revision.as_str());
}

/// A check that only the new system has and that asks another host: maybe that one is just away. In memory `tests/crash.rs`
/// has the same at each run.
#[test]
fn a_commit_is_tried_once_more_when_only_the_network_was_red() {
    if !crate::is_long("the second try after a red network") {
        return;
    }
    let Some(host) = boot() else { return };
    let mut settings = host.settings.clone();
    settings["health"]["checks"]["faraway"] = quick(json!({ "dns": "no.such.name.invalid" }));
    let faraway = host.system.clone().label("faraway").agent(&host.package, &settings);
    let revision = host.push(&faraway);
    let ended = host.wait_for_outcome(&revision, "rolled-back");
    assert_eq!(ended["code"], "network-checks", "{ended}");
    wait_until("its word", LIMIT, || host.word() == "retrying");
    let (code, not_before) = retry(&host, &revision).unwrap();
    assert_eq!(code, "network-checks");
    assert_eq!(not_before - ended["at"].as_u64().unwrap(), 1800);
}
