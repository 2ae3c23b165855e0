//! Pullagent on the machine, with the units that the module installs: a push to the forge, and what comes of it.

use std::time::Instant;

use crate::common::machine::{GATEWAY, Managed, RECONCILER, Via};

/// The shortest use of all of it, over both kinds of remote.
#[test]
fn an_agent_on_it_deploys_what_is_pushed() {
    for via in [Via::Https, Via::Ssh] {
        let Some(host) = Managed::boot(via) else { return };
        let two = host.system.clone().label("two").etc("greeting", "deployed\n");
        let begun = Instant::now();
        let revision = host.push(&two);
        host.machine.wait_for("test -e /etc/greeting");
        println!("test host: a push over {via:?} runs after {:.2} s", begun.elapsed().as_secs_f32());
        host.wait_for_status("in-sync", &revision);
        println!("test host: a push over {via:?} is confirmed after {:.2} s", begun.elapsed().as_secs_f32());
        let view = host.machine.view();
        assert_eq!(view.running, Some(host.machine.build_at(&two, &revision)));
        assert_eq!((&view.profile, view.booted), (&view.running, Some(host.toplevel.clone())));
        assert_eq!(view.failed, Vec::<String>::new());
        for unit in [RECONCILER, GATEWAY] {
            assert_eq!(host.machine.property(unit, "NRestarts"), "0", "{unit}");
        }
    }
}
