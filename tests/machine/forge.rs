//! The forge, as the machine sees it.

use std::process::Output;

use crate::common::machine::{Forge, Machine, Server, System};

#[test]
fn the_forge_serves_git_over_https_and_ssh() {
    let Some(machine) = Machine::boot() else { return };
    let forge = machine.forge();
    let (alice, bob) = (forge.signer("alice"), forge.signer("bob"));
    let repo = forge.repo("infra.git");
    let system = System::new("pushed").etc("greeting", "from git\n");
    let revision = forge.commit(&repo, "main", &system, Some(&alice));
    assert!(repo.git(&["cat-file", "commit", &revision]).contains("BEGIN SSH SIGNATURE"));

    machine.write_file("/root/ca.pem", forge.ca());
    machine.write_file("/root/known_hosts", forge.known_hosts());
    for (name, person) in [("alice", &alice), ("bob", &bob)] {
        machine.write_file(&format!("/root/{name}"), &person.private_key);
    }
    machine.check("chmod 600 /root/alice /root/bob");
    forge.authorize(&alice);
    let https = |token: &str| {
        let account = format!("!echo username={}; echo password={token}; :", Forge::USER);
        let git = format!("git -c http.sslCAInfo=/root/ca.pem -c 'credential.helper={account}'");
        machine.run(&format!("rm -rf /tmp/https; {git} clone -q {} /tmp/https", forge.https_url("infra.git")))
    };
    let ssh = |key: &str| {
        let ssh = format!("ssh -o BatchMode=yes -o UserKnownHostsFile=/root/known_hosts -i /root/{key}");
        machine.run(&format!("GIT_SSH_COMMAND='{ssh}' git clone -q {} /tmp/ssh", forge.ssh_url("infra.git")))
    };
    let text = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();

    let refused = text(&https("wrong"));
    assert!(refused.contains("Authentication failed"), "{refused}\n{}", forge.log());
    let cloned = https(Forge::TOKEN);
    assert!(cloned.status.success(), "{}\n{}", text(&cloned), forge.log());
    assert!(text(&ssh("bob")).contains("Permission denied (publickey)"));
    let cloned = ssh("alice");
    assert!(cloned.status.success(), "{}\n{}", text(&cloned), forge.log());
    for clone in ["https", "ssh"] {
        assert_eq!(machine.check(&format!("git -C /tmp/{clone} rev-parse HEAD")), revision);
    }
    assert!(
        forge.requests().iter().any(|line| line == "pullagent POST /infra.git/git-upload-pack HTTP/2.0 200")
    );
    let shell = machine
        .run(&format!("ssh -o UserKnownHostsFile=/root/known_hosts -i /root/alice git@{} id", Forge::HOST));
    assert!(!shell.status.success(), "the key is good for Git only");

    // What was pushed can be built and says its revision.
    let attribute = "nixosConfigurations.web1.config.system.build.toplevel";
    let built = machine.check(&format!(
        "NIX_REMOTE=daemon nix build --no-link --print-out-paths git+file:///tmp/https#{attribute}"
    ));
    assert_eq!(machine.read_file(&format!("{built}/etc/pullagent/revision")), Some(format!("{revision}\n")));
    assert_eq!(machine.build_at(&system, &revision), built);

    // Each server can go away and come back, and the forge outlives the machine's power.
    for (server, complaint) in
        [(Server::Nginx, "Failed to connect"), (Server::Dnsmasq, "resolve host"), (Server::Fcgiwrap, "502")]
    {
        forge.stop_server(server);
        let down = text(&https(Forge::TOKEN));
        assert!(down.contains(complaint), "{server:?}: {down}");
        forge.start_server(server);
    }
    forge.set_token("another");
    machine.power_cut();
    assert!(text(&https(Forge::TOKEN)).contains("Authentication failed"));
    assert!(https("another").status.success());
}
