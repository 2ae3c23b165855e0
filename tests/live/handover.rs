//! A deployment that replaces the agent itself: only the new system's agent may say that the new system stays.

use std::path::Path;

use crate::common::machine::{Managed, Via};
use crate::common::machine::{System, wait_until};
use crate::host::{LIMIT, Look, boot, web};

/// Returns the package of the program that a unit's main process runs.
fn runs_from(host: &Managed, unit: &str) -> String {
    let exe = format!("readlink /proc/$(systemctl show --value -p MainPID {unit})/exe");
    host.machine.check(&exe).trim_end_matches("/bin/pullagent").to_owned()
}

fn process_of(host: &Managed, unit: &str) -> String {
    host.machine.property(unit, "MainPID")
}

fn in_sync(host: &Managed) {
    wait_until("the host to be in sync", LIMIT, || host.word() == "in-sync");
}

fn another_package(host: &Managed, trailer: &[u8]) -> String {
    host.machine.add_program(Path::new(env!("CARGO_BIN_EXE_pullagent")), trailer)
}

#[test]
fn the_new_system_s_agent_takes_over_and_confirms() {
    let Some(host) = boot(Via::Https, "30s") else { return };
    in_sync(&host);
    let other = another_package(&host, b"another version");
    let new = web(host.system.clone().label("new"), "new").package("pullagent", &other);
    let new = new.drop_in("pullagent.service", "more", "[Service]\nEnvironment=MORE=1\n");
    let revision = host.push(&new);
    host.wait_for_outcome(&revision, "confirmed");
    for unit in ["pullagent.service", "pullagent-gateway.service"] {
        assert_eq!(runs_from(&host, unit), other, "{unit}");
    }
    assert_eq!(host.page(), "new");
}

/// Where the switch does not restart the agent, it has itself restarted, once.
#[test]
fn an_agent_that_the_switch_spares_hands_over_by_itself() {
    let Some(host) = boot(Via::Https, "30s") else { return };
    in_sync(&host);
    let (before, other) =
        (process_of(&host, "pullagent.service"), another_package(&host, b"another version"));
    let new = web(host.system.clone().label("new"), "new").package("pullagent", &other);
    let new = new.drop_in("pullagent.service", "spared", "[Service]\nX-RestartIfChanged=false\n");
    let revision = host.push(&new);
    host.wait_for_outcome(&revision, "confirmed");
    assert_ne!(process_of(&host, "pullagent.service"), before);
    assert_eq!(runs_from(&host, "pullagent.service"), other);
}

/// The new agent is no agent at all: nobody confirms, and the guard brings the old system and its agent back.
#[test]
fn a_broken_new_agent_is_rolled_back() {
    let Some(host) = boot(Via::Https, "5s") else { return };
    in_sync(&host);
    host.machine.write_file("/tmp/broken/bin/pullagent", "#!/bin/sh\necho broken\nexit 1\n");
    let broken = host.machine.check("chmod 755 /tmp/broken/bin/pullagent && nix-store --add /tmp/broken");
    let revision =
        host.push(&web(host.system.clone().label("broken"), "broken").package("pullagent", &broken));
    host.wait_for_outcome(&revision, "rolled-back");
    assert_eq!(host.page(), "one");
    assert_eq!(runs_from(&host, "pullagent.service"), host.package);
    let next = host.push(&web(host.system.clone().label("next"), "next"));
    host.wait_for_outcome(&next, "confirmed");
}

#[test]
fn a_change_of_the_gateway_alone_restarts_the_gateway_alone() {
    let Some(host) = boot(Via::Https, "30s") else { return };
    in_sync(&host);
    let before = process_of(&host, "pullagent.service");
    let new = host.system.clone().label("new");
    let new = new.drop_in("pullagent-gateway.service", "more", "[Service]\nEnvironment=MORE=1\n");
    let revision = host.push(&new);
    host.wait_for_outcome(&revision, "confirmed");
    assert_eq!(process_of(&host, "pullagent.service"), before);
    assert!(host.machine.property("pullagent-gateway.service", "Environment").contains("MORE=1"));
}

#[test]
fn a_system_without_pullagent_is_refused_unless_that_is_allowed() {
    let Some(host) = boot(Via::Https, "30s") else { return };
    in_sync(&host);
    let bare = |host: &Managed, label: &str| -> System {
        web(host.system.clone().label(label), label).without_agent()
    };
    let refused = host.push(&bare(&host, "refused"));
    let ended = host.wait_for_outcome(&refused, "abandoned");
    assert_eq!(ended["code"], "no-agent");
    for unit in ["pullagent.service", "pullagent.socket", "pullagent-gateway.service"] {
        let lacking = host.push(&web(host.system.clone().label(unit).without_unit(unit), unit));
        let ended = host.wait_for_outcome(&lacking, "abandoned");
        assert_eq!(ended["code"], "no-agent");
        assert!(ended["text"].as_str().unwrap().contains(unit), "{ended}");
    }
    let unwanted =
        host.push(&web(host.system.clone().label("unwanted").unwanted("pullagent.service"), "none"));
    let ended = host.wait_for_outcome(&unwanted, "abandoned");
    assert_eq!(ended["code"], "no-agent");
    assert!(ended["text"].as_str().unwrap().contains("nothing that starts pullagent.service"), "{ended}");
    assert_eq!(host.page(), "one");

    let mut settings = host.settings.clone();
    settings["activation"]["allowRemoval"] = true.into();
    let allowed =
        host.push(&web(host.system.clone().agent(&host.package, &settings), "allowed").label("allowed"));
    host.wait_for_outcome(&allowed, "confirmed");
    host.push(&bare(&host, "bare"));
    wait_until("the last deployment", LIMIT, || {
        host.machine.succeeds("curl -sf http://127.0.0.1:8000/ | grep -qx bare")
    });
    let expected = host.machine.view().running;
    wait_until("the end of pullagent", LIMIT, || !host.machine.is_active("pullagent.service"));
    let view = host.machine.view();
    assert_eq!([&view.running, &view.profile, &view.boot_default], [&expected; 3]);
    wait_until("the end of its gateway", LIMIT, || !host.machine.is_active("pullagent-gateway.service"));
    host.machine.reboot();
    assert_eq!(host.page(), "bare");
}

/// Writes a record into the journal as a newer version would that has an event which this one does not know.
fn write_from_the_future(host: &Managed) {
    let journal = host.machine.read_file("/var/lib/pullagent/journal").unwrap();
    let (_, last) = journal.lines().last().unwrap().split_once(' ').unwrap();
    let mut record: serde_json::Value = serde_json::from_str(last).unwrap();
    record["seq"] = (record["seq"].as_u64().unwrap() + 1).into();
    record["mustUnderstand"] = true.into();
    record["event"] = serde_json::json!({ "event": "levitated", "height": 3 });
    let json = record.to_string();
    let line = format!("{:08x} {json}\n", crc32c::crc32c(json.as_bytes()));
    host.machine.write_file("/tmp/line", line);
    host.machine.check("cat /tmp/line >> /var/lib/pullagent/journal");
}

/// An older agent on the journal of a newer one: with nothing under way it holds still and says so, until somebody says that
/// all is well; on probation the system goes back.
#[test]
fn an_older_agent_on_a_newer_journal_is_careful() {
    let Some(host) = boot(Via::Https, "60s") else { return };
    in_sync(&host);
    host.machine.check("systemctl stop pullagent.service");
    write_from_the_future(&host);
    host.machine.check("systemctl start pullagent.service");
    wait_until("it to hold", LIMIT, || host.word() == "held");
    let waiting = host.push(&web(host.system.clone().label("waiting"), "waiting"));
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(host.page(), "one");
    host.machine.check(&format!("{}/bin/pullagent resume", host.package));
    let confirmed = host.wait_for_outcome(&waiting, "confirmed");
    assert_eq!(host.page(), "waiting");

    let (other, mut settings) = (another_package(&host, b"an older version"), host.settings.clone());
    settings["health"]["checks"]["wait"] =
        serde_json::json!({ "command": ["/bin/sh", "-c", "exit 75"], "interval": "1s" });
    let older = host.push(&web(host.system.clone().label("older").agent(&other, &settings), "older"));
    wait_until("the older agent", LIMIT, || {
        host.word() == "checking-health" && runs_from(&host, "pullagent.service") == other
    });
    host.machine.check("systemctl stop pullagent.service");
    write_from_the_future(&host);
    host.machine.check("systemctl start pullagent.service");
    let ended = host.wait_for_outcome(&older, "rolled-back");
    assert!(ended.to_string().contains("levitated"), "{ended}");
    wait_until("the page of before", LIMIT, || host.page() == "waiting");
    assert_eq!(host.machine.view().profile.as_deref(), confirmed["toplevel"].as_str());
    assert_eq!(runs_from(&host, "pullagent.service"), host.package);
}

/// Somebody stops the gateway: the host must not be deaf until somebody else thinks of it.
#[test]
fn a_stopped_gateway_comes_back() {
    let Some(host) = boot(Via::Https, "30s") else { return };
    in_sync(&host);
    host.machine.check("systemctl stop pullagent-gateway.service");
    let revision = host.push(&web(host.system.clone().label("new"), "new"));
    host.wait_for_outcome(&revision, "confirmed");
    host.machine.check("systemctl stop pullagent.service");
    wait_until("its end with the agent's", LIMIT, || !host.machine.is_active("pullagent-gateway.service"));
}

/// Whatever becomes of the socket's unit: as long as the agent runs, its gateway finds it.
#[test]
fn a_stopped_socket_cuts_nobody_off() {
    let Some(host) = boot(Via::Https, "30s") else { return };
    in_sync(&host);
    host.machine
        .check("systemctl stop pullagent.socket && systemctl kill --signal=KILL pullagent-gateway.service");
    let revision = host.push(&web(host.system.clone().label("new"), "new"));
    host.wait_for_outcome(&revision, "confirmed");
    host.machine.check("systemctl restart pullagent.service");
    assert!(host.machine.is_active("pullagent.socket"));
    let revision = host.push(&web(host.system.clone().label("newer"), "newer"));
    host.wait_for_outcome(&revision, "confirmed");
}
