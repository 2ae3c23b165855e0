//! The whole of the demo's world in one throw-away directory: store, forge, people, host, agent. Building it is
//! everything that happens before the agent is first started; dropping it leaves no process and no file.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::agent::Agent;
use super::flake::{self, Tempo, Wiring};
use super::host::Host;
use super::leftovers;
use super::people::{Change, Person};
use super::remote::Remote;
use super::store::Store;
use super::tools::Tools;
use crate::model::{Oid, StorePath};

/// The longest directory name that leaves room for the sockets below it: their addresses hold 107 bytes.
const DIRECTORY_BYTES_MAX: usize = 64;

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The directory to be created for it.
    pub dir: PathBuf,
    /// Whether the directory outlives the world.
    pub keep: bool,
    /// The program that is the agent.
    pub agent: PathBuf,
    /// How fast it works.
    pub tempo: Tempo,
}

/// A host that follows a repository, and everybody who has to do with it.
#[derive(Debug)]
pub struct World {
    /// The agent; not started yet.
    pub agent: Agent,
    /// The host, running its first generation.
    pub host: Host,
    /// Where the repository is served.
    pub remote: Remote,
    /// The owner of the key that the host trusts.
    pub alice: Person,
    /// Somebody with a key of her own and the right to push.
    pub mallory: Person,
    /// Where systems are built.
    pub store: Store,
    /// The commit and the system that the host was installed with.
    pub first: (Oid, StorePath),
    dir: PathBuf,
    keep: bool,
}

impl World {
    /// Builds a world: afterwards the host runs its first generation and the forge serves it.
    ///
    /// # Errors
    /// If a program is missing, the directory cannot be used, or anything fails on the way.
    pub async fn build(setup: &Setup) -> anyhow::Result<World> {
        let search_path = search_path();
        let tools = Tools::find(&search_path)?;
        let dir = create_directory(&setup.dir)?;
        let world = build_in(setup, &dir, tools).await;
        if world.is_err() && !setup.keep {
            remove(&dir);
        }
        world
    }

    /// Stops the agent as an administrator would, then everything else.
    pub async fn tear_down(mut self) -> anyhow::Result<()> {
        self.agent.stop().await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.agent.kill();
        self.host.kill();
        self.remote.kill();
        leftovers::kill(&self.dir);
        if !self.keep {
            remove(&self.dir);
        }
    }
}

async fn build_in(setup: &Setup, dir: &Path, mut tools: Tools) -> anyhow::Result<World> {
    let home = dir.join("home");
    std::fs::create_dir(&home).with_context(|| format!("failed to create '{}'", home.display()))?;
    tools.set("HOME", &home);
    tools.set("GIT_CONFIG_NOSYSTEM", "1");
    tools.set("GIT_TERMINAL_PROMPT", "0");

    let root = dir.join("host");
    let mut host = Host::create(&tools, &root)?;
    let (store, nix_tools) = Store::open(&tools, &root).await?;
    let remote = Remote::start(&tools, &dir.join("forge")).await?;
    std::os::unix::fs::symlink(&remote.account_file, home.join(".netrc"))
        .context("failed to give git its account")?;
    let alice = Person::new(&tools, &home, "alice", &remote).await?;
    let mallory = Person::new(&tools, &home, "mallory", &remote).await?;

    let wiring = Wiring {
        root: &root,
        address: host.address,
        path: &tools.program_directories()?,
        remote: &remote,
        signer: (&alice.name, &alice.public_key),
        tempo: setup.tempo,
    };
    let revision = push_first(&alice, &wiring).await?;
    let system = install(&alice, &store, &mut host, &revision, dir).await?;
    let agent = Agent::new(&nix_tools, &setup.agent, &root, &dir.join("agent.log"));
    let (dir, keep, first) = (dir.to_owned(), setup.keep, (revision, system));
    Ok(World { agent, host, remote, alice, mallory, store, first, dir, keep })
}

async fn push_first(alice: &Person, wiring: &Wiring<'_>) -> anyhow::Result<Oid> {
    let files = flake::files(wiring)?;
    let write: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let change = Change { message: "demo: set up the host", write: &write, remove: &[], signed: true };
    let revision = alice.commit(change).await?;
    alice.push("main").await?;
    Ok(revision)
}

/// Does what `nixos-install` does: builds the first system, makes it the profile, boots it.
async fn install(
    alice: &Person,
    store: &Store,
    host: &mut Host,
    revision: &Oid,
    dir: &Path,
) -> anyhow::Result<StorePath> {
    let source = dir.join("source");
    alice.export(&source).await?;
    let system = store.build_system(&source, revision).await?;
    store.set_profile(&host.profile(), &system).await?;
    host.boot(&system).await?;
    Ok(system)
}

#[expect(clippy::disallowed_methods, reason = "the caller's programs are the demo's")]
fn search_path() -> std::ffi::OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

/// Creates the directory; returns its name without symbolic links, which Nix does not accept in a store's name.
fn create_directory(dir: &Path) -> anyhow::Result<PathBuf> {
    let create = std::fs::DirBuilder::new().mode(0o700).create(dir);
    create.with_context(|| format!("failed to create '{}'", dir.display()))?;
    let dir = dir.canonicalize().with_context(|| format!("failed to resolve '{}'", dir.display()))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    match dir.to_str() {
        Some(name) if name.len() <= DIRECTORY_BYTES_MAX && name.chars().all(plain) => Ok(dir),
        Some(_) | None => {
            let unusable = dir.display().to_string();
            std::fs::remove_dir(&dir).with_context(|| format!("failed to remove '{unusable}'"))?;
            bail!(
                "'{unusable}' cannot be the demo's directory: at most {DIRECTORY_BYTES_MAX} bytes of letters, \
                 digits, '.', '_' and '-' fit into configuration files and socket addresses"
            )
        }
    }
}

/// Removes the directory. Store objects are read-only, so their directories are opened first.
fn remove(dir: &Path) {
    const TRIES: u32 = 20;
    for _ in 0..TRIES {
        open_directories(dir);
        match std::fs::remove_dir_all(dir) {
            Ok(()) => return,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return,
            // A process that was killed a moment ago may have created one more file.
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(50)),
        }
    }
    tracing::warn!("failed to remove '{}'", dir.display());
}

fn open_directories(dir: &Path) {
    // What cannot be opened cannot be removed either, and the removal says so.
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).ok();
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.for_each(|entry| open_directories(&entry.path()));
}
