//! The line from a push to a confirmed system, and back.

use crate::common::machine::{Managed, Via};
use crate::common::machine::{System, wait_until};
use crate::host::{LIMIT, Look, boot_with, web};

/// A service that no target wants: an operator starts it by hand.
fn with_manual(system: System) -> System {
    system.unit("manual.service", "[Service]\nExecStart=/usr/bin/sleep infinity\n")
}

fn the_line(via: Via) {
    let Some(host) = boot_with(via, "30s", with_manual) else { return };
    let machine = &host.machine;
    machine.check("systemctl start manual.service");
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");

    // A push is deployed, proven and made permanent.
    let good = web(host.system.clone().label("good"), "good");
    let revision = host.push(&good);
    let ended = host.wait_for_outcome(&revision, "confirmed");
    assert_eq!(ended["signer"], "alice");
    assert_eq!(host.page(), "good");
    let view = machine.view();
    let expected = Some(machine.build_at(&good, &revision));
    assert_eq!([&view.running, &view.profile, &view.boot_default], [&expected; 3]);
    assert_eq!(machine.check("systemctl --failed --plain --no-legend"), "", "nothing is left failed");

    // The next one breaks the service, and forgets the one that an operator has started.
    let broken =
        good.clone().label("broken").etc("web/nginx.conf", "no configuration").without_unit("manual.service");
    let bad = host.push(&web(broken, "broken").etc("web/nginx.conf", "no configuration"));
    let ended = host.wait_for_outcome(&bad, "rolled-back");
    assert!(ended["text"].as_str().unwrap().contains("web"), "{ended}");
    assert_eq!(host.page(), "good");
    assert!(machine.is_active("manual.service"), "it ran before, so it runs again");
    let view = machine.view();
    assert_eq!([&view.running, &view.profile, &view.boot_default], [&expected; 3]);
    assert_eq!(host.word(), "rolled-back");

    // What repairs it goes through.
    let fixed = web(good.label("fixed"), "fixed");
    let revision = host.push(&fixed);
    host.wait_for_outcome(&revision, "confirmed");
    assert_eq!(host.page(), "fixed");
    assert!(machine.is_active("manual.service"));

    // And it is what the next boot starts.
    machine.reboot();
    wait_until("the page after a reboot", LIMIT, || machine.succeeds("curl -sf http://127.0.0.1:8000/"));
    assert_eq!(host.page(), "fixed");
    host.wait_for_status("in-sync", &revision);
    nothing_is_left(&host);
}

/// No unit of an ended deployment is left, and none of ours counts as failed.
fn nothing_is_left(host: &Managed) {
    let units =
        "systemctl list-units --all --plain --no-legend 'pullagent-*' | cut -d' ' -f1 | sort | tr '\\n' ' '";
    let installed = ["pullagent-gateway.service"];
    wait_until("the units of the deployments to be gone", LIMIT, || {
        host.machine.check(units).split_whitespace().all(|unit| installed.contains(&unit))
    });
    assert_eq!(host.machine.check("systemctl --failed --plain --no-legend"), "");
}

#[test]
fn the_line_over_https() {
    the_line(Via::Https);
}

#[test]
fn the_line_over_ssh() {
    the_line(Via::Ssh);
}
