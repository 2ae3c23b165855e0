//! Secrets that are renewed on a host: nobody restarts anything, and what was renewed counts.

use crate::common::machine::{Forge, GATEWAY, Managed, System, Via};

const TOKEN: &str = "/run/secrets/token";

/// Puts `token` where agenix and sops-nix put it: into a new directory, to which a link is turned in one step.
fn put_new_directory(host: &Managed, number: u32, token: &str) {
    host.machine.check(&format!(
        "umask 077; mkdir -p /run/secrets.d/{number}; printf '%s\\n' {token} > /run/secrets.d/{number}/token;
         ln -sfn /run/secrets.d/{number} /run/secrets.new; mv -T /run/secrets.new /run/secrets"
    ));
}

#[test]
fn a_renewed_token_counts_without_anybody_s_hands() {
    let tmpfiles = format!(
        "d /run/secrets.d 0700\nd /run/secrets.d/1 0700\nf /run/secrets.d/1/token 0600 - - - {}\nL /run/secrets - - - - /run/secrets.d/1\n",
        Forge::TOKEN
    );
    let host = Managed::boot_with(
        Via::Https,
        |settings| settings["remotes"][0]["tokenFile"] = TOKEN.into(),
        |system| system.etc("tmpfiles.d/secrets.conf", &tmpfiles),
    );
    let Some(host) = host else { return };
    host.wait_for_status("in-sync", &host.revision);
    let next = |label: &str| -> System { host.system.clone().label(label).etc("greeting", label) };
    let status = format!("{}/bin/pullagent status", host.package);
    let gateway = || host.machine.property(GATEWAY, "InvocationID");

    // Written in place.
    host.machine.forge().set_token("second-token");
    host.machine.wait_for(&format!("{status} | grep -q 'token was not accepted'"));
    host.machine.check(&format!("printf '%s\\n' second-token > {TOKEN}"));
    let two = host.push(&next("two"));
    host.wait_for_status("in-sync", &two);

    // Put in place of the old one, by a link above it.
    host.machine.forge().set_token("third-token");
    host.machine.wait_for(&format!("{status} | grep -q 'token was not accepted'"));
    put_new_directory(&host, 2, "third-token");
    let three = host.push(&next("three"));
    host.wait_for_status("in-sync", &three);

    // Once more, since a watch that was turned must turn again; and nobody restarts a gateway for nothing.
    let before = gateway();
    put_new_directory(&host, 3, "third-token");
    host.machine.wait_for(&format!(
        "[ \"$(systemctl show --property InvocationID --value {GATEWAY})\" != {before} ] && systemctl is-active -q {GATEWAY}"
    ));
    let settled = gateway();
    host.machine.check("touch /run/secrets.d/other; cat /run/secrets/token > /dev/null; sleep 2");
    assert_eq!(gateway(), settled);
}
