//! The line from a push to a confirmed system, and back.

use crate::common::machine::{Fault, Forge, Managed, Step, System, Verb, Via, wait_until};
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

    let anybody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    machine.check(&format!(
        "{anybody} {0}/bin/pullagent status && {anybody} {0}/bin/pullagent history",
        host.package
    ));

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

    // Whoever may write to the forge may not deploy; and the forge may not rewrite what was accepted.
    refused(&host, "unsigned", |forge| forge.commit(&host.repo, "main", &host.system, None));
    let mallory = machine.forge().signer("mallory");
    refused(&host, "unknown-key", |forge| forge.commit(&host.repo, "main", &host.system, Some(&mallory)));
    refused(&host, "not-fast-forward", |forge| {
        host.repo.git(&["update-ref", "refs/heads/main", &host.revision]);
        forge.commit(&host.repo, "main", &host.system, Some(&host.alice))
    });

    // A test branch runs and is not made permanent; without it the host goes back.
    let permanent = machine.view().profile;
    host.repo.git(&["update-ref", "refs/heads/test-web1", &revision]);
    let trial = web(fixed.clone().label("trial"), "trial");
    let tried = machine.forge().commit(&host.repo, "test-web1", &trial, Some(&host.alice));
    host.wait_for_outcome(&tried, "tested");
    assert_eq!((host.page().as_str(), host.word().as_str()), ("trial", "testing"));
    assert_eq!([&machine.view().profile, &machine.view().boot_default], [&permanent; 2]);
    host.repo.git(&["update-ref", "-d", "refs/heads/test-web1"]);
    wait_until("the way back", LIMIT, || host.page() == "fixed" && host.word() == "in-sync");

    // The agent is killed in the middle of the switch, between a new /etc and a new system: the switch goes on alone.
    let last = web(fixed.label("last"), "last").fault(Verb::Test, Step::CurrentSystem, Fault::Wait(2));
    let revision = host.push(&last);
    let toplevel = machine.build_at(&last, &revision);
    machine.wait_for_step(&toplevel, Verb::Test, Step::CurrentSystem);
    machine.check("systemctl kill --signal=KILL pullagent.service");
    host.wait_for_outcome(&revision, "confirmed");
    assert_eq!(host.page(), "last");

    // And once more while the boot loader is being written, which is done again.
    let last = web(last.label("really"), "really").fault(Verb::Boot, Step::BootLoader, Fault::Wait(3));
    let revision = host.push(&last);
    let toplevel = machine.build_at(&last, &revision);
    machine.wait_for_step(&toplevel, Verb::Boot, Step::BootLoader);
    machine.check("systemctl kill --signal=KILL pullagent.service");
    host.wait_for_outcome(&revision, "confirmed");
    let ended = "systemctl list-units --all --plain --no-legend 'pullagent-root-*'";
    wait_until("the end of both calls", LIMIT, || machine.check(ended).is_empty());

    // And it is what the next boot starts.
    machine.reboot();
    wait_until("the page after a reboot", LIMIT, || machine.succeeds("curl -sf http://127.0.0.1:8000/"));
    assert_eq!(host.page(), "really");
    host.wait_for_status("in-sync", &revision);
    nothing_is_left(&host);
}

/// Has somebody make a commit on `main` that the host must refuse, for this reason, without changing anything; then the
/// forge's administrator puts `main` back.
fn refused(host: &Managed, code: &str, commit: impl FnOnce(&Forge) -> String) {
    let (before, main) = (host.machine.view().running, host.repo.git(&["rev-parse", "refs/heads/main"]));
    let bad = commit(host.machine.forge());
    assert_eq!(host.wait_for_outcome(&bad, "refused")["code"], code);
    assert_eq!(host.word(), "refused");
    assert_eq!(host.machine.view().running, before);
    host.repo.git(&["update-ref", "refs/heads/main", &main]);
    wait_until("the host to be in sync", LIMIT, || host.word() == "in-sync");
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

/// What differs is the transport, which `tests/ssh.rs` and `tests/machine` have with a real sshd.
#[test]
fn the_line_over_ssh() {
    if crate::is_long("the line over SSH") {
        the_line(Via::Ssh);
    }
}
