//! The forge, as the machine sees it, and an agent that follows it.

use std::path::Path;
use std::process::Output;
use std::time::Instant;

use serde_json::json;

use crate::common::machine::{Forge, HOSTNAME, Machine, Server, Signer, System};

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

/// A remote as the agent's configuration has it, and the files on the machine that it names.
fn remote(forge: &Forge, alice: &Signer, over_ssh: bool) -> (serde_json::Value, Vec<(&'static str, String)>) {
    let (key, hosts, token, ca) =
        ("/etc/secrets/key", "/etc/secrets/hosts", "/etc/secrets/token", "/etc/secrets/ca");
    if over_ssh {
        forge.authorize(alice);
        let remote = json!({ "url": forge.ssh_url("infra.git"), "sshKeyFile": key, "knownHostsFile": hosts });
        (remote, vec![(key, alice.private_key.clone()), (hosts, forge.known_hosts())])
    } else {
        let remote = json!({ "url": forge.https_url("infra.git"), "tokenFile": token, "caFile": ca });
        (remote, vec![(token, Forge::TOKEN.to_owned()), (ca, forge.ca())])
    }
}

/// The shortest use of all of it: an agent on the machine, a push to the forge, and a look at what comes of it.
#[test]
fn an_agent_on_it_deploys_what_is_pushed() {
    for over_ssh in [false, true] {
        let Some(machine) = Machine::boot() else { return };
        let forge = machine.forge();
        let (alice, repo) = (forge.signer("alice"), forge.repo("infra.git"));
        let (mut remote, secrets) = remote(forge, &alice, over_ssh);
        for (path, content) in secrets {
            machine.write_file(path, content);
            machine.check(&format!("chmod 600 {path}"));
        }
        remote["name"] = json!("origin");
        remote["interval"] = json!("1s");
        let config = json!({
            "schema": 1,
            "hostname": HOSTNAME,
            "remotes": [remote],
            "trust": { "signers": { "alice": { "keys": [alice.public_key], "roles": ["deployer"] } } },
            "activation": { "soak": "1s", "window": "10s" },
        });
        let agent = machine.add_program(Path::new(env!("CARGO_BIN_EXE_pullagent")), b"");
        let one = System::new("one").package("pullagent", &agent).agent_config(&config).service(
            "pullagent",
            "Type=notify\nExecStart=@pullagent@/bin/pullagent run --config /etc/pullagent/config.json\n\
             StateDirectory=pullagent\nRuntimeDirectory=pullagent\nKillMode=process",
        );
        let old = machine.install_at(&one, &forge.commit(&repo, "main", &one, Some(&alice)));

        let two = one.label("two").etc("greeting", "deployed\n");
        let revision = forge.commit(&repo, "main", &two, Some(&alice));
        let begun = Instant::now();
        machine.wait_for("test -e /etc/greeting");
        println!(
            "test host: a push over {} runs after {:.2} s",
            if over_ssh { "SSH" } else { "HTTPS" },
            begun.elapsed().as_secs_f32()
        );
        machine.wait_for(&format!("test $(readlink -f /nix/var/nix/profiles/system) != {old}"));
        let view = machine.view();
        assert_eq!(view.running, Some(machine.build_at(&two, &revision)));
        assert_eq!((&view.profile, view.booted), (&view.running, Some(old)));
    }
}
