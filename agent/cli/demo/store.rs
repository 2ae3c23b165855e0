//! The Nix store of the demo: its own below the throw-away directory where that works, else the machine's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::remote::write;
use super::tools::{Tools, run, succeeds};
use crate::host::command::Command;
use crate::model::{Oid, StorePath};

/// What every Nix of the demo is told: nothing is downloaded, and the agent's flake can be read.
const NIX_CONF: &str = "substitute = false\nexperimental-features = nix-command flakes\n";

/// In the demo's own store there is nothing to protect; without a sandbox and build users anybody may build.
const PRIVATE_NIX_CONF: &str = "sandbox = false\nbuild-users-group =\n";

/// The end of the name of every system that the demo builds.
const SYSTEM_NAME: &str = "-nixos-system-demo";

/// A Nix store, and the tools that work on it.
#[derive(Debug, Clone)]
pub struct Store {
    /// Where the store objects are.
    pub dir: PathBuf,
    /// Whether the demo has the store for itself.
    pub private: bool,
    tools: Tools,
}

impl Store {
    /// Readies a store for the host at `root`: its own one if that is wanted and works, else the machine's.
    ///
    /// Returns the tools with the environment that leads every Nix to it.
    ///
    /// # Errors
    /// If nothing can be built; the error says what each store said.
    pub async fn open(tools: &Tools, root: &Path, own: bool) -> anyhow::Result<(Store, Tools)> {
        let mut said = "was not wanted".to_owned();
        if own {
            let (store, its_tools) = Store::private(tools, root)?;
            match store.probe().await {
                Ok(()) => return Ok((store, its_tools)),
                Err(e) => said = format!("said: {e:#}"),
            }
        }
        let (store, its_tools) = Store::machine(tools).await?;
        let probed = store.probe().await;
        probed.with_context(|| format!("found no Nix store to build in; one of the demo's own {said}"))?;
        Ok((store, its_tools))
    }

    fn private(tools: &Tools, root: &Path) -> anyhow::Result<(Store, Tools)> {
        let (dir, state, conf) = (root.join("nix/store"), root.join("nix/var/nix"), root.join("nix/conf"));
        for dir in [&dir, &state, &conf] {
            std::fs::create_dir_all(dir).with_context(|| format!("failed to create '{}'", dir.display()))?;
        }
        write(&conf.join("nix.conf"), &format!("{NIX_CONF}{PRIVATE_NIX_CONF}"))?;
        let mut tools = tools.clone();
        tools.set("NIX_STORE_DIR", &dir);
        tools.set("NIX_STATE_DIR", &state);
        tools.set("NIX_LOG_DIR", root.join("nix/var/log/nix"));
        tools.set("NIX_CONF_DIR", &conf);
        tools.set("NIX_USER_CONF_FILES", "");
        tools.set("NIX_CONFIG", "");
        tools.set("NIX_REMOTE", "local");
        Ok((Store { dir, private: true, tools: tools.clone() }, tools))
    }

    async fn machine(tools: &Tools) -> anyhow::Result<(Store, Tools)> {
        let mut tools = tools.clone();
        for (name, value) in std::env::vars_os() {
            if let Some(name) = name.to_str().filter(|name| name.starts_with("NIX_")) {
                tools.set(name, value);
            }
        }
        // Root may switch the sandbox off; anybody else is told so by Nix and keeps it.
        tools.set("NIX_CONFIG", format!("{NIX_CONF}sandbox = false\n"));
        let ask = tools.command("nix-instantiate").args(["--eval", "--expr", "builtins.storeDir"]);
        let dir = PathBuf::from(run(ask).await?.trim_matches('"'));
        Ok((Store { dir, private: false, tools: tools.clone() }, tools))
    }

    /// Builds something tiny that needs what the demo's systems need.
    async fn probe(&self) -> anyhow::Result<()> {
        let (system, path) = (nix_system(), self.tools.program_directories()?);
        let expression = format!(
            "derivation {{ name = \"demo-probe\"; system = \"{system}\"; builder = \"/bin/sh\"; \
             args = [ \"-c\" \"mkdir $out\" ]; PATH = \"{path}\"; }}"
        );
        let build = self.tools.command("nix-build").args(["--no-out-link", "--expr", &expression]);
        run(build).await.map(drop)
    }

    /// Adds the flake at `source`, evaluates it as `revision`, and builds the system in it.
    pub async fn build_system(&self, source: &Path, revision: &Oid) -> anyhow::Result<StorePath> {
        let source = run(self.nix_store("--add").arg(source)).await?;
        let attribute = "nixosConfigurations.demo.config.system.build.toplevel.drvPath";
        let eval = self.tools.command("nix").args(["eval", "--raw"]);
        let derivation = run(eval.arg(format!("path:{source}?rev={revision}#{attribute}"))).await?;
        Ok(run(self.nix_store("--realise").arg(derivation)).await?.parse()?)
    }

    /// Points a profile to a system, as a new generation.
    pub async fn set_profile(&self, profile: &Path, system: &StorePath) -> anyhow::Result<()> {
        let set = self.tools.command("nix-env").arg("-p").arg(profile).args(["--set", system.as_str()]);
        run(set).await.map(drop)
    }

    /// Asks Nix whether it knows `path` as a valid object.
    pub async fn is_valid(&self, path: &StorePath) -> anyhow::Result<bool> {
        succeeds(self.nix_store("--check-validity").arg(path.as_str())).await
    }

    /// Has Nix compare every object of `system`'s closure with what its database says of it.
    pub async fn verify(&self, system: &StorePath) -> anyhow::Result<()> {
        let closure = run(self.nix_store("--query").args(["--requisites", system.as_str()])).await?;
        run(self.nix_store("--verify-path").args(closure.lines())).await.map(drop)
    }

    fn nix_store(&self, operation: &str) -> Command {
        self.tools.command("nix-store").arg(operation)
    }

    /// Returns the names of all systems of the demo in the store, and of their derivations.
    pub fn systems(&self) -> anyhow::Result<BTreeSet<String>> {
        let entries = std::fs::read_dir(&self.dir)
            .with_context(|| format!("failed to list '{}'", self.dir.display()))?;
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let systems = names.filter(|name| name.trim_end_matches(".drv").ends_with(SYSTEM_NAME));
        Ok(systems.collect())
    }
}

/// Returns this machine's kind in Nix's words.
pub fn nix_system() -> String {
    format!("{}-linux", std::env::consts::ARCH)
}
