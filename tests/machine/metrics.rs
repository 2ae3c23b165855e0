//! Metrics from inside the gateway's sandbox, widened as the module does it: it can read all that it shows, tell that the
//! agent is dead, and write its file.

use serde_json::json;

use crate::common::machine::{GATEWAY, Managed, RECONCILER, Via};

/// What the module adds to the gateway's unit for this configuration.
const WIDER: &str =
    "[Service]\nSystemCallFilter=listen\nSocketBindAllow=ipv4:tcp:9175\nReadWritePaths=-/srv/node\n";
const TEXTFILE: &str = "/srv/node/pullagent.prom";

#[test]
fn the_gateway_shows_them_also_when_the_agent_is_dead() {
    let configure = |settings: &mut serde_json::Value| {
        settings["exporter"] = json!({ "listen": "127.0.0.1:9175", "textfile": TEXTFILE });
    };
    let Some(host) = Managed::boot_with(Via::Https, configure, |system| {
        // Dead for as long as it takes to look.
        let dead = "[Service]\nRestartSec=60\n";
        system.drop_in(GATEWAY, "metrics", WIDER).drop_in(RECONCILER, "metrics", dead)
    }) else {
        return;
    };
    host.wait_for_status("in-sync", &host.revision);
    let says =
        |line: &str| format!("curl -sS --max-time 5 http://127.0.0.1:9175/metrics | grep -qxF '{line}'");
    for line in [
        "pullagent_up 1",
        "pullagent_state{state=\"in-sync\"} 1",
        "pullagent_remote_up{remote=\"origin\"} 1",
        "nixos_current_generation 1",
        "nixos_boot_generation 1",
        "nixos_booted_generation 1",
    ] {
        host.machine.wait_for(&says(line));
    }
    // A machine that can be reached from elsewhere shows them to nobody there.
    assert!(
        !host.machine.succeeds("curl -sS --max-time 5 http://$(hostname -I | cut -d ' ' -f 1):9175/metrics")
    );

    host.machine.check("mkdir /srv/node; chown pullagent-gateway /srv/node; chmod 755 /srv /srv/node");
    host.machine.check(&format!("systemctl restart {GATEWAY}"));
    host.machine.wait_for(&format!("grep -qx 'pullagent_up 1' {TEXTFILE}"));
    assert_eq!(host.machine.check(&format!("stat -c '%a %U' {TEXTFILE}")), "644 pullagent-gateway");

    host.machine.check(&format!("systemctl kill -s KILL {RECONCILER}"));
    host.machine.wait_for(&says("pullagent_up 0"));
    assert!(host.machine.is_active(GATEWAY) && !host.machine.is_active(RECONCILER));
}
