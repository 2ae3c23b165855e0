//! The whole of the demo's world in one throw-away directory: store, forge, people, host, agent. Building it is
//! everything that happens before the agent is first started; dropping it leaves no process and no file.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::agent::Agent;
use super::flake::{self, Tempo, Wiring};
use super::host::Host;
use super::leftovers::Leftovers;
use super::people::{Change, Person};
use super::remote::{CA_FILE, Remote};
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
    /// Whether to try a Nix store of its own before the machine's.
    pub own_store: bool,
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
    /// Dropped last: by then every server has ended.
    _directory: Directory,
}

impl World {
    /// Builds a world: afterwards the host runs its first generation and the forge serves it.
    ///
    /// # Errors
    /// If a program is missing, the directory cannot be used, or anything fails on the way.
    pub async fn build(setup: &Setup) -> anyhow::Result<World> {
        let search_path = search_path();
        let tools = Tools::find(&search_path)?;
        build_in(setup, Directory::create(setup)?, tools).await
    }

    /// Stops the agent as an administrator would, then everything else.
    pub async fn tear_down(mut self) -> anyhow::Result<()> {
        self.agent.stop().await
    }
}

async fn build_in(setup: &Setup, directory: Directory, mut tools: Tools) -> anyhow::Result<World> {
    let dir = directory.leftovers.dir.as_path();
    let home = dir.join("home");
    std::fs::create_dir(&home).with_context(|| format!("failed to create '{}'", home.display()))?;
    tools.set("HOME", &home);
    tools.set("GIT_CONFIG_NOSYSTEM", "1");
    tools.set("GIT_TERMINAL_PROMPT", "0");
    // The caller's own settings of these would win over the clones'.
    let (root, forge) = (dir.join("host"), dir.join("forge"));
    tools.set("GIT_SSL_CAINFO", forge.join(CA_FILE));
    tools.set("NO_PROXY", "127.0.0.1");
    tools.set("no_proxy", "127.0.0.1");

    let mut host = Host::create(&tools, &root)?;
    let (store, nix_tools) = Store::open(&tools, &root, setup.own_store).await?;
    let remote = Remote::start(&tools, &forge).await?;
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
    Ok(World { agent, host, remote, alice, mallory, store, first: (revision, system), _directory: directory })
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

/// The throw-away directory, and the processes in it that nobody waits for.
#[derive(Debug)]
struct Directory {
    leftovers: Leftovers,
    keep: bool,
}

impl Directory {
    /// Creates it; its path is free of symbolic links, which Nix does not accept in a store's name.
    fn create(setup: &Setup) -> anyhow::Result<Directory> {
        let Setup { dir, keep, agent, .. } = setup;
        let resolve = |path: &Path| {
            path.canonicalize().with_context(|| format!("failed to resolve '{}'", path.display()))
        };
        let agent = resolve(agent)?;
        let create = std::fs::DirBuilder::new().mode(0o700).create(dir);
        create.with_context(|| {
            format!("failed to create '{}', which must be a directory that does not exist yet", dir.display())
        })?;
        let leftovers = Leftovers { dir: resolve(dir)?, agent };
        let mut directory = Directory { leftovers, keep: *keep };
        if !is_plain(&directory.leftovers.dir) {
            directory.keep = false;
            bail!(
                "'{}' cannot be the demo's directory: at most {DIRECTORY_BYTES_MAX} bytes of letters, digits, \
                 '.', '_' and '-' fit into configuration files and socket addresses",
                directory.leftovers.dir.display()
            );
        }
        Ok(directory)
    }
}

fn is_plain(path: &Path) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    path.to_str().is_some_and(|name| name.len() <= DIRECTORY_BYTES_MAX && name.chars().all(plain))
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.leftovers.kill();
        if !self.keep {
            remove(&self.leftovers.dir);
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
