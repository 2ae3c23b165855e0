//! A machine that pullagent keeps: its forge, somebody who signs, and a first system with the agent's own units.
//!
//! ```text
//! let Some(host) = Managed::boot(Via::Https) else { return };
//! let revision = host.push(&host.system.clone().label("two").etc("greeting", "deployed\n"));
//! host.wait_for_status("in-sync", &revision);
//! ```

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::forge::Forge;
use super::signer::Signer;
use super::system::{HOSTNAME, System};
use super::{Machine, wait_until};
use crate::common::git::Repo;

/// How long a deployment may take on a loaded machine.
const DEPLOY_LIMIT: Duration = Duration::from_secs(120);

/// How the agent reaches the forge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// With a token, a certificate by the forge's own authority.
    Https,
    /// With a key of the host's own and a `known_hosts` file.
    Ssh,
}

/// A machine, on, with pullagent installed and following the branch `main` of `infra.git`.
#[derive(Debug)]
pub struct Managed {
    /// The machine.
    pub machine: Machine,
    /// The repository, on the forge.
    pub repo: Repo,
    /// Who signs, and whom the host trusts.
    pub alice: Signer,
    /// The agent's package in the machine's store.
    pub package: String,
    /// The configuration, as for [`System::agent`].
    pub settings: Value,
    /// The first system; the next ones are made from it.
    pub system: System,
    /// The first system's store path.
    pub toplevel: String,
    /// The first system's revision.
    pub revision: String,
}

impl Managed {
    /// Boots a machine and installs a first system with pullagent, as it is. Returns nothing where these tests are
    /// left out.
    pub fn boot(via: Via) -> Option<Managed> {
        Managed::boot_with(via, |_| {}, |system| system)
    }

    /// Does so after `configure` has changed the configuration and `more` the first system.
    pub fn boot_with(
        via: Via,
        configure: impl FnOnce(&mut Value),
        more: impl FnOnce(System) -> System,
    ) -> Option<Managed> {
        let machine = Machine::boot()?;
        let forge = machine.forge();
        let (alice, repo) = (forge.signer("alice"), forge.repo("infra.git"));
        let mut settings = settings(&alice, vec![remote(&machine, via, &alice, "origin")]);
        configure(&mut settings);
        let package = machine.add_program(Path::new(env!("CARGO_BIN_EXE_pullagent")), b"");
        let system = more(System::new("one").agent(&package, &settings));
        let revision = forge.commit(&repo, "main", &system, Some(&alice));
        let toplevel = machine.install_at(&system, &revision);
        Some(Managed { machine, repo, alice, package, settings, system, toplevel, revision })
    }

    /// Pushes a system to `main`, signed, and returns the revision.
    pub fn push(&self, system: &System) -> String {
        self.machine.forge().commit(&self.repo, "main", system, Some(&self.alice))
    }

    /// Returns what `pullagent status --json` says; nothing if it says nothing.
    pub fn status(&self) -> Option<Value> {
        let program = format!("{}/bin/pullagent status --json", self.package);
        serde_json::from_slice(&self.machine.run(&program).stdout).ok()
    }

    /// Waits until the status has this word and the host runs this revision.
    pub fn wait_for_status(&self, word: &str, revision: &str) {
        let mut last = None;
        let holds = super::holds_within(DEPLOY_LIMIT, || {
            last = self.status();
            last.as_ref()
                .is_some_and(|status| status["state"] == word && status["running"]["revision"] == revision)
        });
        assert!(holds, "waited too long for '{word}' at {revision}: {last:#?}");
    }

    /// Waits until a unit is active.
    pub fn wait_for_unit(&self, unit: &str) {
        wait_until(unit, DEPLOY_LIMIT, || self.machine.is_active(unit));
    }
}

/// Returns a configuration that trusts one signer and is quick to judge.
pub fn settings(alice: &Signer, remotes: Vec<Value>) -> Value {
    json!({
        "schema": 1,
        "hostname": HOSTNAME,
        "remotes": remotes,
        "trust": { "signers": { "alice": { "keys": [alice.public_key], "roles": ["deployer"] } } },
        "activation": { "soak": "1s", "window": "20s" },
    })
}

/// Returns a remote, `infra.git` on the forge, as the configuration has it, and puts the files that it names onto the
/// machine: secrets for root only, the rest for everybody.
pub fn remote(machine: &Machine, via: Via, alice: &Signer, name: &str) -> Value {
    let forge = machine.forge();
    let put = |name: &str, mode: &str, content: &str| {
        let path = format!("/etc/secrets/{name}");
        machine.write_file(&path, content);
        machine.check(&format!("chmod {mode} {path}"));
        path
    };
    let files = match via {
        Via::Https => json!({
            "url": forge.https_url("infra.git"),
            "tokenFile": put("token", "600", Forge::TOKEN),
            "caFile": put("ca", "644", &forge.ca()),
        }),
        Via::Ssh => {
            forge.authorize(alice);
            json!({
                "url": forge.ssh_url("infra.git"),
                "sshKeyFile": put("key", "600", &alice.private_key),
                "knownHostsFile": put("hosts", "644", &forge.known_hosts()),
            })
        }
    };
    let mut remote = json!({ "name": name, "interval": "1s" });
    remote.as_object_mut().unwrap().extend(files.as_object().unwrap().clone());
    remote
}
