//! "Can this host still be updated?" A new system that cuts its host off is rolled back, however healthy it is otherwise; a
//! remote that was down already speaks against nobody.

use serde_json::{Value, json};

use crate::common::machine::{Fault, Managed, Server, Step, System, Verb, Via, wait_until};
use crate::host::{LIMIT, Look, boot, web};

/// Pushes what `cut` makes of the first system. It has to come back by itself, for a reason that names `said`, and the way
/// out is a push like any other, which the old system still hears of.
fn rolls_back(cut: impl FnOnce(&Managed, System) -> System, said: &str) {
    let Some(host) = boot(Via::Https, "12s") else { return };
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    let revision = host.push(&cut(&host, web(host.system.clone().label("cut-off"), "cut-off")));
    let ended = host.wait_for_outcome(&revision, "rolled-back");
    assert!(ended.to_string().contains(said), "{ended:#}");
    assert_eq!(host.page(), "one");
    let status = host.status().unwrap();
    assert_eq!(status["setAside"], json!([]), "it may have been the network's fault");

    let next = host.push(&web(host.system.clone().label("next"), "next"));
    host.wait_for_outcome(&next, "confirmed");
    assert_eq!(host.page(), "next");
}

/// Changes the remote in the configuration.
fn with_remote(host: &Managed, system: System, key: &str, value: Value) -> System {
    let mut settings = host.settings.clone();
    settings["remotes"][0][key] = value;
    system.agent(&host.package, &settings)
}

#[test]
fn broken_dns_rolls_back() {
    let nobody = "nameserver 10.80.0.99\noptions timeout:1 attempts:1\n";
    rolls_back(|_, system| system.etc("resolv.conf", nobody), "dns");
}

#[test]
fn a_closed_firewall_rolls_back() {
    let rules = "table ip shut { chain out { type filter hook output priority 0; oifname host0 drop; }; }";
    let service = format!(
        "Type=oneshot\nRemainAfterExit=yes\nExecStart=/usr/sbin/nft '{rules}'\nExecStop=/usr/sbin/nft delete table ip shut"
    );
    rolls_back(|_, system| system.service("firewall", &service), "updatable");
}

#[test]
fn credentials_that_are_gone_roll_back() {
    let gone = |host: &Managed, system| with_remote(host, system, "tokenFile", json!("/etc/secrets/gone"));
    rolls_back(gone, "pullagent-gateway");
}

#[test]
fn credentials_that_are_wrong_roll_back() {
    let wrong = |host: &Managed, system| {
        host.machine.write_file("/etc/secrets/wrong", "wrong\n");
        with_remote(host, system, "tokenFile", json!("/etc/secrets/wrong"))
    };
    rolls_back(wrong, "auth");
}

#[test]
fn a_changed_authority_rolls_back() {
    let other = |host: &Managed, system| {
        let new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=other \
                   -keyout /dev/null -out /etc/secrets/other-ca";
        host.machine.check(&format!("{new} && chmod 644 /etc/secrets/other-ca"));
        with_remote(host, system, "caFile", json!("/etc/secrets/other-ca"))
    };
    rolls_back(other, "tls");
}

/// The server goes down after the revision was fetched and before the switch: that is not the new system's fault.
#[test]
fn a_remote_that_was_down_before_rolls_nothing_back() {
    let Some(host) = boot(Via::Https, "12s") else { return };
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    let slow =
        web(host.system.clone().label("slow"), "slow").fault(Verb::Check, Step::Check, Fault::Wait(10));
    let revision = host.push(&slow);
    let toplevel = host.machine.build_at(&slow, &revision);
    host.machine.wait_for_step(&toplevel, Verb::Check, Step::Check);
    host.machine.forge().stop_server(Server::Nginx);
    host.wait_for_outcome(&revision, "confirmed");
    assert_eq!(host.page(), "slow");
    assert_eq!(host.word(), "unreachable");

    host.machine.forge().start_server(Server::Nginx);
    let next = host.push(&web(host.system.clone().label("next"), "next"));
    host.wait_for_outcome(&next, "confirmed");
}
