//! Who may say that something was pushed, on a host whose remotes are polled once an hour: webhooks through systemd's
//! socket, and a program inside the gateway's sandbox.

use serde_json::{Value, json};

use crate::common::machine::{GATEWAY, Managed, System, Via, WEBHOOKS};

const SECRET: &str = "it-is-a-secret-of-32-characters!";
const SECRET_FILE: &str = "/etc/secrets/forge";
/// A hook whose secret nobody has put there.
const LOST_FILE: &str = "/etc/secrets/lost";

fn boot(configure: impl FnOnce(&mut Value)) -> Option<Managed> {
    let host = Managed::boot_with(
        Via::Https,
        |settings| {
            settings["remotes"][0]["interval"] = json!("1h");
            configure(settings);
        },
        |system| system,
    )?;
    host.wait_for_status("in-sync", &host.revision);
    Some(host)
}

fn next(host: &Managed, label: &str) -> System {
    host.system.clone().label(label).etc("greeting", label)
}

/// Sends what Forgejo sends, signed with `secret`, and returns the status of the answer.
fn send(host: &Managed, hook: &str, secret: &str) -> String {
    host.machine.check(&format!(
        "body='{{\"ref\":\"refs/heads/main\"}}'
         sum=$(printf %s \"$body\" | openssl dgst -sha256 -hmac '{secret}' -r | cut -d ' ' -f 1)
         curl -sS --max-time 20 -o /dev/null -w '%{{http_code}}' -H \"X-Forgejo-Signature: $sum\" \
              --data-binary \"$body\" http://127.0.0.1:9176/hook/{hook}"
    ))
}

#[test]
fn a_webhook_wakes_it_through_the_socket_of_systemd() {
    let Some(host) = boot(|settings| {
        let hook = |file| json!({ "kind": "forgejo", "secretFiles": [file] });
        settings["webhooks"] = json!({ "listen": "127.0.0.1:9176",
            "hooks": { "forge": hook(SECRET_FILE), "lost": hook(LOST_FILE) } });
    }) else {
        return;
    };
    let machine = &host.machine;
    assert!(machine.is_active(WEBHOOKS), "systemd listens");
    // A secret that is not there keeps the gateway from nothing, and lets nobody in.
    assert!(machine.is_active(GATEWAY));
    for (hook, secret) in [("lost", "missing"), ("forge", SECRET), ("gone", SECRET)] {
        assert_eq!(send(&host, hook, secret), "404", "{hook}");
    }
    machine.write_file(SECRET_FILE, SECRET);
    machine.check(&format!("chmod 600 {SECRET_FILE}; systemctl restart {GATEWAY}"));
    assert!(machine.is_active(WEBHOOKS), "it came back with the gateway");
    assert_eq!(send(&host, "forge", "another secret of 32 characters!"), "404");

    let two = host.push(&next(&host, "two"));
    assert_eq!(send(&host, "forge", SECRET), "202");
    host.wait_for_status("in-sync", &two);

    // What was sent while nobody was there is lost, and not missed: whoever comes back asks at once.
    let three = host.push(&next(&host, "three"));
    machine.check(&format!("systemctl kill --signal=KILL {GATEWAY}"));
    host.wait_for_status("in-sync", &three);
    let four = host.push(&next(&host, "four"));
    assert_eq!(send(&host, "forge", SECRET), "202");
    host.wait_for_status("in-sync", &four);
}

#[test]
fn a_program_in_the_gateway_s_sandbox_wakes_it() {
    let watches = "while :; do if [ -e /srv/pushed ] && [ \"$(cat /srv/pushed)\" != \"$last\" ]; then \
                   last=$(cat /srv/pushed); echo pushed; fi; sleep 0.2; done";
    let Some(host) = boot(|settings| {
        settings["hints"] = json!([{ "name": "bell", "kind": "exec", "splay": "0s",
            "command": ["/bin/sh", "-c", watches] }]);
    }) else {
        return;
    };
    let status = format!("{}/bin/pullagent status --json", host.package);
    host.machine.wait_for(&format!("{status} | grep -q '\"connected\": true'"));
    let two = host.push(&next(&host, "two"));
    host.machine.write_file("/srv/pushed", "1\n");
    host.wait_for_status("in-sync", &two);
    // It ends with the gateway, and comes back with it.
    host.machine.check(&format!("systemctl restart {GATEWAY}"));
    host.machine.wait_for(&format!("{status} | grep -q '\"connected\": true'"));
    assert_eq!(host.machine.check("pgrep -u pullagent-gateway -c sleep"), "1");
}
