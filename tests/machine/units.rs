//! Pullagent's units through switches: who is restarted by what, and that nothing stops who may be deploying. Their
//! programs are replaced by something quiet, which is all that a switch sees of them.

use serde_json::{Value, json};

use crate::code;
use crate::common::machine::{GATEWAY, Machine, RECONCILER, System, Verb, Via, remote, settings};

const SOCKET: &str = "pullagent.socket";

/// A system with pullagent's units and this configuration.
fn system(package: &str, settings: &Value) -> System {
    let quiet = "[Service]\nType=exec\nWatchdogSec=0\nExecStart=\nExecStart=/usr/bin/sleep infinity\n\
                 Environment=PROGRAM=@pullagent@\n";
    let system = System::new("units").agent(package, settings);
    system.drop_in(GATEWAY, "quiet", quiet).drop_in(RECONCILER, "quiet", quiet)
}

#[test]
fn a_switch_restarts_whom_it_concerns_and_stops_nobody() {
    let Some(machine) = Machine::boot() else { return };
    let alice = machine.forge().signer("alice");
    let mut config = settings(&alice, vec![remote(&machine, Via::Https, &alice, "origin")]);
    let package = machine.add_program("/bin/true".as_ref(), b"");
    let first = system(&package, &config);
    let toplevel = machine.install(&first);

    let units = [RECONCILER, GATEWAY, SOCKET];
    let ids = || units.map(|unit| machine.property(unit, "InvocationID"));
    let active = || units.map(|unit| machine.is_active(unit));
    assert_eq!(active(), [true; 3], "they come up at boot");
    assert_eq!(machine.check("stat -c '%a %U' /run/pullagent/gateway.sock"), "600 pullagent-gateway");
    assert_eq!(machine.check("stat -c %a /var/lib/pullagent"), "700");
    assert_eq!(machine.property(RECONCILER, "User"), "");
    assert!(machine.succeeds("getent group pullagent-admin"));

    // Returns who was restarted by a switch.
    let restarted = |what: &str, system: &System| {
        let (before, new) = (ids(), machine.build(system));
        let output = machine.switch(&new, Verb::Test);
        assert_eq!(code(&output), Some(0), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(active(), [true; 3], "{what}");
        let after = ids();
        [0, 1, 2].map(|n| before[n] != after[n])
    };
    let other = first.clone().etc("greeting", "hello\n");
    assert_eq!(restarted("another system", &other), [false, false, false]);
    let moved = "[Service]\nLoadCredential=origin.tokenFile:/etc/secrets/ca\n";
    let gateway = other.clone().drop_in(GATEWAY, "moved", moved);
    assert_eq!(restarted("the gateway's unit", &gateway), [false, true, false]);
    // The gateway is part of the reconciler; the socket stays, with what is waiting in it.
    config["activation"]["soak"] = json!("2s");
    let configured = system(&package, &config).drop_in(GATEWAY, "moved", moved);
    assert_eq!(restarted("the configuration", &configured), [true, true, false]);
    let package = machine.add_program("/bin/false".as_ref(), b"");
    assert_eq!(restarted("another pullagent", &system(&package, &config)), [true, true, false]);
    let socket = system(&package, &config).drop_in(SOCKET, "backlog", "[Socket]\nBacklog=8\n");
    assert_eq!(restarted("the socket, which NixOS leaves alone", &socket), [false, false, false]);

    // Without pullagent: nobody is stopped, and all of it ends with the boot.
    let gone = machine.build(&System::new("gone"));
    assert_eq!(code(&machine.switch(&gone, Verb::Test)), Some(0));
    assert_eq!(active(), [true; 3], "who deploys this must live to see it");
    assert_eq!(code(&machine.switch(&toplevel, Verb::Test)), Some(0));
    assert_eq!(active(), [true; 3], "and back");
    machine.make_default(&gone);
    machine.reboot();
    assert_eq!(active(), [false; 3]);
}
