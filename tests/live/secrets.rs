//! Credentials are where they are needed and nowhere else: a token with a mark is looked for in everything that a host shows
//! or keeps while it is used, refused, and used again, with every log at its most talkative.

use std::time::Duration;

use serde_json::{Value, json};

use crate::common::machine::{Forge, GATEWAY, Managed, RECONCILER, System, Via, wait_until};
use crate::host::{LIMIT, Look};

/// The marked secrets: a token, the one that replaces it, and what a webhook is signed with.
const FIRST: &str = "mark-a7f3-first-token";
const SECOND: &str = "mark-a7f3-second-token";
const HOOK: &str = "mark-a7f3-webhook-secret-of-some-length";

/// Where the secrets, and what to look for, are meant to be.
const MEANT: &str = "/root/patterns /etc/secrets /run/credentials";
/// Looks at each process's arguments and environment, over and over, until it is told to end.
const WATCH: &str = "while ! test -e /root/enough; do
    for p in /proc/[0-9]*; do
        if cat $p/cmdline $p/environ 2> /dev/null | tr '\\0' '\\n' | grep -qaFf /root/patterns; then
            tr '\\0' ' ' < $p/cmdline >> /root/seen; echo >> /root/seen
        fi
    done
    echo >> /root/rounds
done";

fn talkative(system: System) -> System {
    let text = "[Service]\nEnvironment=PULLAGENT_LOG=trace\n";
    [GATEWAY, RECONCILER].iter().fold(system, |system, unit| system.drop_in(unit, "log", text))
}

fn configure(settings: &mut Value) {
    settings["webhooks"] = json!({
        "listen": "127.0.0.1:9176",
        "hooks": { "forge": { "kind": "github", "secretFiles": ["/etc/secrets/hook"] } },
    });
}

/// Puts a token where the configuration says it is, and has the gateway read it.
fn hand_over(host: &Managed, token: &str) {
    host.machine.write_file("/etc/secrets/token", token);
    host.machine.check(&format!("systemctl restart {GATEWAY}"));
}

/// Returns every place on the host, but those that are meant, that holds one of the secrets.
fn places(host: &Managed) -> String {
    let meant = MEANT.split(' ').map(|path| format!("-path {path}")).collect::<Vec<_>>().join(" -o ");
    let files = format!(
        "find / -xdev \\( {meant} -o -path /proc -o -path /sys \\) -prune -o -type f -newer /etc/machine-id -print0;
         find /run /tmp /var /dev/shm \\( {meant} \\) -prune -o -type f -print0"
    );
    host.machine.check(&format!(
        "{{ {files}; }} | xargs -0 grep -laFf /root/patterns 2> /dev/null | sort -u
         for said in 'journalctl --all --output=export' 'systemctl show --all *' '{0} status --json' '{0} status' \\
                     '{0} history --json' '{0} log' '{0} config show' 'coredumpctl dump'; do
             $said 2>&1 | grep -qaFf /root/patterns && echo \"$said\"
         done; true",
        format_args!("{}/bin/pullagent", host.package)
    ))
}

#[test]
fn a_token_is_seen_nowhere_but_where_it_is_meant_to_be() {
    let Some(host) = Managed::boot_with(Via::Https, configure, talkative) else { return };
    let (machine, forge) = (&host.machine, host.machine.forge());
    machine.write_file("/etc/secrets/hook", HOOK);
    // Plain, and as HTTP sends it: each end of the pair may be cut at three places.
    let encoded = [FIRST, SECOND].map(|token| base64(&format!("{}:{token}", Forge::USER)));
    let middles = encoded.iter().map(|text| text[text.len() / 2 - 8..text.len() / 2 + 12].to_owned());
    let patterns: Vec<String> = [FIRST, SECOND, HOOK].map(str::to_owned).into_iter().chain(middles).collect();
    machine.write_file("/root/patterns", patterns.join("\n") + "\n");
    let watch = machine.spawn(WATCH);

    // Used.
    forge.set_token(FIRST);
    hand_over(&host, FIRST);
    let revision = host.push(&host.system.clone().label("two"));
    host.wait_for_status("in-sync", &revision);
    // Refused, and given up on.
    forge.set_token(SECOND);
    let trouble = || host.status().is_some_and(|s| s["remotes"][0]["trouble"]["class"] == "auth");
    wait_until("the token to be refused", LIMIT, trouble);
    // Replaced.
    hand_over(&host, SECOND);
    wait_until("the new token to be taken", LIMIT, || host.word() == "in-sync");
    let revision = host.push(&host.system.clone().label("three"));
    host.wait_for_status("in-sync", &revision);

    // Dies, and leaves nothing behind.
    for unit in [GATEWAY, RECONCILER] {
        let pid = machine.property(unit, "MainPID");
        let limits = machine.check(&format!("grep 'Max core file size' /proc/{pid}/limits"));
        assert_eq!(limits.split_whitespace().nth(4), Some("0"), "{unit}: {limits}");
        machine.check(&format!("systemctl kill --signal=ABRT --kill-whom=main {unit}"));
        wait_until(&format!("{unit} to be back"), LIMIT, || {
            machine.is_active(unit) && machine.property(unit, "MainPID") != pid
        });
    }
    wait_until("all to be well again", LIMIT, || host.word() == "in-sync");

    machine.check("touch /root/enough");
    drop(watch.wait_with_output().unwrap());
    let rounds = machine.check("wc -l < /root/rounds").parse::<u32>().unwrap();
    assert!(rounds > 10, "the processes were looked at {rounds} times only");
    assert_eq!(machine.check("cat /root/seen 2> /dev/null || true"), "", "in arguments or an environment");
    assert_eq!(places(&host), "");

    // The search itself finds what there is to find.
    machine
        .check("cp /root/patterns /var/lib/planted; sh -c 'cat /etc/secrets/token | systemd-cat -t planted'");
    std::thread::sleep(Duration::from_millis(500));
    let found = places(&host);
    assert!(found.contains("/var/lib/planted") && found.contains("journalctl"), "{found}");
}

/// Base64 as HTTP has it, without the padding.
fn base64(text: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let three = |chunk: &[u8]| chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
    let whole = text.as_bytes().chunks_exact(3).map(three);
    let digit = |bits: u32, at: u32| char::from(DIGITS[(bits >> (6 * at) & 63) as usize]);
    whole.flat_map(|bits| [3, 2, 1, 0].map(|at| digit(bits, at))).collect()
}
