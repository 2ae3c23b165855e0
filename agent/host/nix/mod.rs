//! Owns how Nix is called: only what has been stable from 2.18 on (and works with 2.8), most of it by the
//! classic commands. Knows nothing of Git and of deployments.
//!
//! A path is valid when Nix says so, never because a file is there: an interrupted build leaves files.

mod messages;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::{self, Command, CommandError, Ending, Limits, Output};
use super::files;
use super::manager::Manager;
use super::text::printable;
use super::units::Kind;
use crate::model::{Oid, StorePath};

/// Time limit of calls that only ask or register something.
const SHORT_TIME: Duration = Duration::from_secs(120);
/// Time limit of copying a source tree to the store.
const ADD_TIME: Duration = Duration::from_secs(15 * 60);
/// How long reading two toplevels, or a source, may take: a source that can be added can be compared.
const VERIFY_TIME: Duration = ADD_TIME;
/// How much of Nix's messages is looked at, from the end.
const MESSAGES_MAX: usize = 128 << 10;
/// Where the daemon of a multi-user installation listens.
const DAEMON_SOCKET: &str = "/nix/var/nix/daemon-socket/socket";
/// Variables that say which store is meant; where one is set, nothing is assumed.
const STORE_CHOICE: [&str; 3] = ["NIX_REMOTE", "NIX_STORE_DIR", "NIX_STATE_DIR"];
/// From here on `path:` flakes in the store take `lastModified` and `dir`; 2.8 refuses both.
const FULL_PATH_FLAKES: Version = Version { major: 2, minor: 18 };
/// From here on Nix can wait for the disk before it calls something valid.
const SYNCED_PATHS: Version = Version { major: 2, minor: 26 };

/// Says why Nix did not do what it was asked for, and with that whether to ask again.
#[derive(Debug, thiserror::Error)]
pub enum NixError {
    /// The configuration cannot be evaluated; it never will.
    #[error("evaluation failed: {text}")]
    Evaluation {
        /// Nix's own last words.
        text: String,
    },
    /// A derivation cannot be built; it never will.
    #[error("build failed: {text}")]
    Build {
        /// The derivation that failed first, if Nix named one.
        drv: Option<StorePath>,
        /// Nix's own last words.
        text: String,
        /// The last lines of the failed build's log.
        log: Vec<String>,
    },
    /// It failed for a reason that may be gone later.
    #[error("{cause}: {text}")]
    Transient {
        /// What kind of reason.
        cause: Cause,
        /// Nix's own last words.
        text: String,
    },
    /// Something in the store is not what it was when it was made, though Nix calls it valid.
    #[error("'{path}' in the Nix store is damaged, as a power cut may leave it: {text}")]
    Damaged {
        /// What is damaged.
        path: StorePath,
        /// Nix's own last words.
        text: String,
    },
    /// Nix could not be run.
    #[error("failed to run Nix")]
    Command(#[source] CommandError),
    /// Nix said something that we do not understand.
    #[error("cannot understand the answer of '{call}': '{answer}'")]
    Answer {
        /// What was run.
        call: &'static str,
        /// What it said, shortened.
        answer: String,
    },
    /// This version of Nix cannot do it.
    #[error("Nix {version} cannot {what}; it takes {FULL_PATH_FLAKES} or later")]
    TooOld {
        /// The version found.
        version: Version,
        /// What it cannot do.
        what: &'static str,
    },
    /// A file beside Nix's own could not be written.
    #[error(transparent)]
    File(#[from] files::FileError),
}

impl NixError {
    /// Names the files of `source` as its author knows them, without their place in the store.
    fn naming_files_of(mut self, source: &StorePath) -> NixError {
        if let NixError::Evaluation { text } = &mut self {
            *text = text.replace(&format!("{source}/"), "");
        }
        self
    }

    /// Tells whether the same call on the same input would fail again, so that trying again is no use.
    pub fn is_deterministic(&self) -> bool {
        match self {
            NixError::Evaluation { .. } | NixError::Build { .. } => true,
            NixError::Transient { .. }
            | NixError::Damaged { .. }
            | NixError::Command(_)
            | NixError::Answer { .. }
            | NixError::TooOld { .. }
            | NixError::File(_) => false,
        }
    }

    /// Returns what in the store Nix names where it says what went wrong, the last first: one of these may be damaged.
    pub fn suspects(&self) -> Vec<StorePath> {
        match self {
            NixError::Evaluation { text }
            | NixError::Build { text, .. }
            | NixError::Transient { cause: Cause::Store | Cause::Unknown, text } => {
                messages::named_paths(text)
            }
            NixError::Transient { .. }
            | NixError::Damaged { .. }
            | NixError::Command(_)
            | NixError::Answer { .. }
            | NixError::TooOld { .. }
            | NixError::File(_) => Vec::new(),
        }
    }
}

/// The kinds of failure that may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Something could not be downloaded.
    Network,
    /// A disk is full.
    NoSpace,
    /// There was not enough memory.
    Memory,
    /// It took longer than allowed.
    Timeout,
    /// Something killed it.
    Killed,
    /// The Nix daemon or database could not be used.
    Store,
    /// Nix gave a reason that we do not know.
    Unknown,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Cause::Network => "a download failed",
            Cause::NoSpace => "a disk is full",
            Cause::Memory => "out of memory",
            Cause::Timeout => "it took too long",
            Cause::Killed => "it was killed",
            Cause::Store => "the Nix store could not be used",
            Cause::Unknown => "Nix failed",
        })
    }
}

/// A version of Nix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A flake whose tree lies in the store already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlakeSource {
    /// The tree.
    pub source: StorePath,
    /// The commit it was exported from; becomes `self.rev`. Nix takes our word for it, and only for a SHA-1.
    pub revision: Oid,
    /// The commit's time in unix seconds; becomes `self.lastModified` where Nix lets us say so.
    pub last_modified: i64,
    /// Where in the tree `flake.nix` lies; empty or `.` for its root.
    pub subdir: String,
    /// The attribute whose derivation is wanted, such as `nixosConfigurations."web1".config.system.build.toplevel`.
    pub attribute: String,
}

/// Bounds of one evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvalLimits {
    /// How long it may take.
    pub time: Duration,
    /// How much memory it may use, in bytes; on a host without systemd, how much address space.
    pub address_space: Option<u64>,
}

/// The Nix of this host.
#[derive(Debug, Clone)]
pub struct Nix {
    version: Version,
    env: Vec<(OsString, OsString)>,
}

impl Nix {
    /// Finds Nix and asks for its version. `env` is added to the environment of every call; with it (or with
    /// our own environment) another store may be chosen, otherwise the daemon is used where there is one.
    pub async fn detect(env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Nix, NixError> {
        let mut env: Vec<_> = env.into_iter().collect();
        let chosen = |name: &&str| command::inherited(name).is_some() || env.iter().any(|(n, _)| n == name);
        if !STORE_CHOICE.iter().any(chosen) && Path::new(DAEMON_SOCKET).exists() {
            env.push(("NIX_REMOTE".into(), "daemon".into()));
        }
        let asked = Command::new("nix-store").arg("--version").envs(env.iter().cloned()).run().await;
        let answer = text(&asked.map_err(NixError::Command)?.stdout);
        match messages::version(&answer) {
            Some(version) => Ok(Nix { version, env }),
            None => Err(NixError::Answer { call: "nix-store --version", answer }),
        }
    }

    /// Returns the version found.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Copies the tree in `dir` to the store under the name of `dir` (to be `source`) and roots it at `root`.
    pub async fn add_source(&self, dir: &Path, root: &Path) -> Result<StorePath, NixError> {
        let call = self.durable(self.classic("nix-store").arg("--add").arg(dir)).time_limit(ADD_TIME);
        let added =
            call.run().await.map_err(|e| messages::store_failure(&e).unwrap_or(NixError::Command(e)))?;
        let path = store_path("nix-store --add", &added)?;
        // A garbage collection between the two makes the second fail; then it is all to be done again.
        self.add_root(&path, root).await?;
        Ok(path)
    }

    /// Evaluates a flake once and returns the path of the derivation that the attribute names.
    ///
    /// It writes and updates no lock file, reads no registry, no cached evaluation and no settings from the
    /// flake, and needs no network unless the flake's inputs do.
    pub async fn eval_drv(
        &self,
        flake: &FlakeSource,
        manager: Manager,
        limits: EvalLimits,
    ) -> Result<StorePath, NixError> {
        let call = self
            .classic("nix")
            .args(["--extra-experimental-features", "nix-command flakes", "eval", "--raw"])
            // An input that is not locked is an error. (`--no-write-lock-file` would turn that off, and lock it
            // anew in memory; nothing is written either way.)
            .arg("--no-update-lock-file")
            .args(["--option", "eval-cache", "false", "--option", "accept-flake-config", "false"])
            .args(["--option", "use-registries", "false", "--option", "flake-registry", ""])
            .arg(self.flake_url(flake)?)
            .time_limit(limits.time)
            .limits(Limits { address_space: limits.address_space, ..Limits::default() });
        let failure = |error| messages::eval_failure(error).naming_files_of(&flake.source);
        let output = manager.run(Kind::Build, call).await.map_err(failure)?;
        let drv = store_path("nix eval", &output)?;
        if drv.as_str().ends_with(".drv") { Ok(drv) } else { Err(not_understood("nix eval", &output)) }
    }

    /// Builds or substitutes the output of `drv`, which is rooted at `root` from the first moment on.
    pub async fn realise(
        &self,
        drv: &StorePath,
        root: &Path,
        limit: Duration,
    ) -> Result<StorePath, NixError> {
        let call = self.realise_call(drv, root)?.time_limit(limit);
        let output = call.run().await.map_err(messages::realise_failure)?;
        let out = rooted(root, &output)?;
        match self.is_valid(&out).await? {
            true => Ok(out),
            false => Err(NixError::Answer {
                call: "nix-store --realise",
                answer: format!("{out}, which is not valid"),
            }),
        }
    }

    /// Asks Nix whether `path` is valid: completely built or copied, and registered.
    pub async fn is_valid(&self, path: &StorePath) -> Result<bool, NixError> {
        let call = self.classic("nix-store").args(["--check-validity", "--print-invalid", path.as_str()]);
        let asked = call.time_limit(SHORT_TIME).run().await;
        let output = asked.map_err(|e| messages::store_failure(&e).unwrap_or(NixError::Command(e)))?;
        match text(&output.stdout).trim_end() {
            "" => Ok(true),
            invalid if invalid == path.as_str() => Ok(false),
            _ => Err(not_understood("nix-store --check-validity", &output)),
        }
    }

    /// Asks Nix whether what `paths`, which must be valid, hold is what they held when they were made; says what is not.
    pub async fn damaged(&self, paths: &[&StorePath]) -> Result<Option<String>, NixError> {
        let names = paths.iter().map(|path| path.as_str());
        let call = self.classic("nix-store").arg("--verify-path").args(names).time_limit(VERIFY_TIME);
        match call.run().await {
            Ok(_) => Ok(None),
            Err(CommandError::Failed { end: Ending::Code(1), stderr, .. })
                if stderr.contains("was modified") =>
            {
                Ok(Some(stderr.lines().last().unwrap_or_default().to_owned()))
            }
            Err(e) => Err(messages::store_failure(&e).unwrap_or(NixError::Command(e))),
        }
    }

    /// Removes `path`, which nothing may depend on that is needed, from the store, so that it is made anew when it is wanted.
    pub async fn delete(&self, path: &StorePath) -> Result<(), NixError> {
        let call = self.classic("nix-store").args(["--delete", path.as_str()]).time_limit(SHORT_TIME);
        let deleted = call.run().await;
        deleted.map(drop).map_err(|e| messages::store_failure(&e).unwrap_or(NixError::Command(e)))
    }

    /// Protects `path`, which must be valid or obtainable, from garbage collection by the link `root`.
    pub async fn add_root(&self, path: &StorePath, root: &Path) -> Result<(), NixError> {
        let call = self.realise_call(path, root)?.time_limit(SHORT_TIME);
        let output = call.run().await.map_err(messages::realise_failure)?;
        match rooted(root, &output)? {
            kept if kept == *path => Ok(()),
            _ => Err(not_understood("nix-store --realise", &output)),
        }
    }

    /// Makes `path` the newest generation of the profile at `profile`; nothing changes if it is already.
    pub async fn set_profile(&self, profile: &Path, path: &StorePath) -> Result<(), NixError> {
        let dir = files::parent(profile);
        std::fs::create_dir_all(dir).map_err(files::io_error("make directory", dir))?;
        let call = self.classic("nix-env").arg("-p").arg(profile).args(["--set", path.as_str()]);
        call.time_limit(SHORT_TIME).run().await.map(drop).map_err(messages::realise_failure)
    }

    /// Removes generations of a profile by their numbers; those that are gone already are no error. Nix itself refuses to
    /// remove the current one, and collects no garbage here.
    ///
    /// # Errors
    /// As [`Nix::set_profile`].
    pub async fn delete_generations(&self, profile: &Path, numbers: &[u64]) -> Result<(), NixError> {
        let numbers = numbers.iter().map(u64::to_string);
        let call = self.classic("nix-env").arg("-p").arg(profile).arg("--delete-generations").args(numbers);
        call.time_limit(SHORT_TIME).run().await.map(drop).map_err(messages::realise_failure)
    }

    fn classic(&self, program: &str) -> Command {
        Command::new(program).envs(self.env.iter().cloned()).stderr_tail(MESSAGES_MAX)
    }

    /// Has what `call` adds to the store be on the disk before Nix calls it valid, or a power cut would empty its files for
    /// good (nix.conf(5), `fsync-store-paths`). An evaluation may not ask for that.
    fn durable(&self, call: Command) -> Command {
        let option = ["--option", "fsync-store-paths", "true"];
        if self.version >= SYNCED_PATHS { call.args(option) } else { call }
    }

    fn realise_call(&self, path: &StorePath, root: &Path) -> Result<Command, NixError> {
        let dir = files::parent(root);
        std::fs::create_dir_all(dir).map_err(files::io_error("make directory", dir))?;
        let call = self.classic("nix-store").args(["--realise", path.as_str(), "--add-root"]).arg(root);
        Ok(self.durable(call))
    }

    fn flake_url(&self, flake: &FlakeSource) -> Result<String, NixError> {
        let mut query = Vec::new();
        if flake.revision.as_str().len() == 40 {
            query.push(format!("rev={}", flake.revision));
        }
        let subdir = Some(flake.subdir.trim_matches('/')).filter(|dir| !matches!(*dir, "" | "."));
        if self.version >= FULL_PATH_FLAKES {
            query.push(format!("lastModified={}", flake.last_modified));
            query.extend(subdir.map(|dir| format!("dir={}", percent(dir, "/"))));
        } else if subdir.is_some() {
            return Err(NixError::TooOld {
                version: self.version,
                what: "evaluate a flake in a subdirectory of the repository",
            });
        }
        let query = query.join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        let attribute = percent(&flake.attribute, "/\"^");
        Ok(format!("path:{}{mark}{query}#{attribute}.drvPath", flake.source))
    }
}

/// Encodes what may not stand in a URL as it is; `also` may.
fn percent(text: &str, also: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || also.as_bytes().contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// What the link `root` points to, now that Nix has made it. (Nix prints the link or its target,
/// depending on the version.)
fn rooted(root: &Path, output: &Output) -> Result<StorePath, NixError> {
    let target: Option<PathBuf> = std::fs::read_link(root).ok();
    let path = target.and_then(|target| target.to_str()?.parse().ok());
    path.ok_or_else(|| not_understood("nix-store --add-root", output))
}

fn store_path(call: &'static str, output: &Output) -> Result<StorePath, NixError> {
    text(&output.stdout).trim().parse().map_err(|_| not_understood(call, output))
}

fn not_understood(call: &'static str, output: &Output) -> NixError {
    NixError::Answer { call, answer: text(&output.stdout) }
}

fn text(bytes: &[u8]) -> String {
    const ANSWER_MAX: usize = 300;
    printable(&bytes[..bytes.len().min(ANSWER_MAX)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(minor: u32, subdir: &str, revision: &str) -> Result<String, NixError> {
        let nix = Nix { version: Version { major: 2, minor }, env: Vec::new() };
        nix.flake_url(&FlakeSource {
            source: "/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-source".parse().unwrap(),
            revision: revision.parse().unwrap(),
            last_modified: 17,
            subdir: subdir.into(),
            attribute: "nixosConfigurations.\"web1\".config.system.build.toplevel".into(),
        })
    }

    #[test]
    fn the_flake_is_named_as_the_version_understands_it() {
        let store = "path:/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-source";
        let attribute = "nixosConfigurations.\"web1\".config.system.build.toplevel.drvPath";
        let (sha1, sha256) = ("a".repeat(40), "b".repeat(64));
        assert_eq!(url(8, ".", &sha1).unwrap(), format!("{store}?rev={sha1}#{attribute}"));
        assert_eq!(url(8, "", &sha256).unwrap(), format!("{store}#{attribute}"));
        assert!(matches!(url(8, "hosts", &sha1), Err(NixError::TooOld { .. })));
        assert_eq!(
            url(26, "a b/c&x=1", &sha1).unwrap(),
            format!("{store}?rev={sha1}&lastModified=17&dir=a%20b/c%26x%3D1#{attribute}")
        );
    }
}
