//! The programs that the demo needs: finding them, naming the packages of those that are missing, running
//! them with the demo's own environment. Knows nothing of what they are used for.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::Child;

use crate::host::command::{Command, CommandError};

/// Where programs for administrators lie; an ordinary user's `PATH` lacks these on Debian.
const ADMIN_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// How often a server that was asked to end is looked at before it is killed, 10 ms apart.
const END_LOOKS: u32 = 50;

/// A program, the Debian package and the nixpkgs attribute that bring it.
struct Needed(&'static str, &'static str, &'static str);

const NEEDED: [Needed; 19] = [
    Needed("git", "git", "git"),
    Needed("ssh-keygen", "openssh-client", "openssh"),
    Needed("openssl", "openssl", "openssl"),
    Needed("nginx", "nginx", "nginx"),
    Needed("fcgiwrap", "fcgiwrap", "fcgiwrap"),
    Needed("nix", "nix-bin", "nix"),
    Needed("nix-store", "nix-bin", "nix"),
    Needed("nix-build", "nix-bin", "nix"),
    Needed("nix-env", "nix-bin", "nix"),
    Needed("nix-instantiate", "nix-bin", "nix"),
    Needed("flock", "util-linux", "util-linux"),
    Needed("sed", "sed", "gnused"),
    Needed("cat", "coreutils", "coreutils"),
    Needed("chmod", "coreutils", "coreutils"),
    Needed("cp", "coreutils", "coreutils"),
    Needed("ln", "coreutils", "coreutils"),
    Needed("mkdir", "coreutils", "coreutils"),
    Needed("mv", "coreutils", "coreutils"),
    Needed("sleep", "coreutils", "coreutils"),
];

/// The demo's programs and the environment they all run in.
#[derive(Debug, Clone)]
pub struct Tools {
    search_path: OsString,
    environment: Vec<(OsString, OsString)>,
}

impl Tools {
    /// Looks for every program that the demo needs in `search_path` and the administrators' directories.
    ///
    /// # Errors
    /// One error that names everything that is missing and the packages that bring it.
    pub fn find(search_path: &OsStr) -> anyhow::Result<Tools> {
        let directories: Vec<PathBuf> =
            std::env::split_paths(search_path).chain(ADMIN_DIRECTORIES.map(PathBuf::from)).collect();
        let missing: Vec<&Needed> =
            NEEDED.iter().filter(|needed| find_in(&directories, needed.0).is_none()).collect();
        if !missing.is_empty() {
            bail!(describe_missing(&missing));
        }
        let search_path =
            std::env::join_paths(directories).context("failed to join the directories of 'PATH'")?;
        Ok(Tools { search_path, environment: Vec::new() })
    }

    /// Adds a variable to the environment of all commands made from here on.
    pub fn set(&mut self, name: &str, value: impl AsRef<OsStr>) {
        self.environment.push((name.into(), value.as_ref().to_owned()));
    }

    /// Returns the directories that hold the programs, in the form of `PATH`, each directory once.
    pub fn program_directories(&self) -> anyhow::Result<String> {
        let directories: Vec<PathBuf> = std::env::split_paths(&self.search_path).collect();
        let mut used: Vec<PathBuf> = Vec::new();
        for Needed(program, ..) in NEEDED {
            let home = find_in(&directories, program).and_then(|path| Some(path.parent()?.to_owned()));
            used.extend(home.filter(|home| !used.contains(home)));
        }
        let joined = std::env::join_paths(used).context("failed to join the programs' directories")?;
        joined.into_string().ok().context("a directory of 'PATH' is not UTF-8")
    }

    /// Returns a command for `program` in the demo's environment.
    pub fn command(&self, program: impl Into<OsString>) -> Command {
        Command::new(program).env("PATH", &self.search_path).envs(self.environment.iter().cloned())
    }

    /// Starts a server that runs until it is dropped, in a process group of its own, its output appended to `log`.
    pub fn serve(
        &self,
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        log: &Path,
    ) -> anyhow::Result<Server> {
        let program: PathBuf = program.into();
        let open = std::fs::OpenOptions::new().create(true).append(true).open(log);
        let log_file = open.with_context(|| format!("failed to open '{}'", log.display()))?;
        let name = program.display().to_string();
        let command = self.command(program).args(arguments.into_iter().map(|a| a.as_ref().to_owned()));
        let child = command.serve(log_file).with_context(|| format!("failed to start '{name}'"))?;
        Ok(Server { name, child, log: log.to_owned() })
    }
}

/// Runs `command` to its end and returns what it printed, without the white space around it.
///
/// # Errors
/// If it cannot be started, fails, or takes longer than a minute; the error repeats its complaint.
pub async fn run(command: Command) -> anyhow::Result<String> {
    match command.run().await {
        Ok(output) => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Err(CommandError::Failed { program, end, stderr }) => bail!("'{program}' {end}: {}", stderr.trim()),
        Err(other) => Err(other.into()),
    }
}

/// Runs `command` to its end and tells whether it succeeded.
///
/// # Errors
/// If it cannot be started or takes longer than a minute.
pub async fn succeeds(command: Command) -> anyhow::Result<bool> {
    match command.run().await {
        Ok(_) => Ok(true),
        Err(CommandError::Failed { .. }) => Ok(false),
        Err(other) => Err(other.into()),
    }
}

fn find_in(directories: &[PathBuf], program: &str) -> Option<PathBuf> {
    directories.iter().map(|directory| directory.join(program)).find(|path| path.is_file())
}

fn describe_missing(missing: &[&Needed]) -> String {
    let list = |name: fn(&Needed) -> &'static str, before: &str| {
        let mut names: Vec<&str> = missing.iter().map(|needed| name(needed)).collect();
        names.dedup();
        names.iter().map(|name| format!(" {before}{name}")).collect::<String>()
    };
    format!(
        "the demo needs programs that are not installed:{} (Debian: apt-get install{}; Nix: nix shell{})",
        list(|needed| needed.0, ""),
        list(|needed| needed.1, ""),
        list(|needed| needed.2, "nixpkgs#"),
    )
}

/// A server that runs until it is dropped or killed, together with the processes it started.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Returns how the server ended and its last word, if it does not run any more.
    pub fn complaint(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = log.lines().last().unwrap_or("it said nothing");
        Some(format!("'{}' ended ({status}): {last}", self.name))
    }

    /// Returns the id of the server's process, or nothing if it has ended.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Returns the program's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Kills the server's own process only, as `kill -9` does, and waits for its end.
    pub async fn kill_process(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("failed to kill '{}'", self.name))
    }

    /// Ends the server with its whole process group; blocks for a moment.
    ///
    /// Its own process is asked first, so that it waits for its children and leaves no zombies.
    fn kill(&mut self) {
        signal(self.child.id(), Signal::TERM, kill_process);
        let group = self.child.id();
        for _ in 0..END_LOOKS {
            if !matches!(self.child.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        signal(group, Signal::KILL, kill_process_group);
    }

    /// Asks the server to end and waits for it; kills it with its whole group when it does not obey.
    pub async fn stop(mut self, patience: Duration) -> anyhow::Result<()> {
        signal(self.child.id(), Signal::TERM, kill_process);
        let ended = tokio::time::timeout(patience, self.child.wait()).await;
        drop(ended.with_context(|| format!("'{}' did not end when asked to", self.name))?);
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal by `send`; a process that has been waited for has no id and gets none.
fn signal(id: Option<u32>, signal: Signal, send: fn(Pid, Signal) -> rustix::io::Result<()>) {
    let pid = id.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended a moment ago; then there is nobody to tell.
        send(pid, signal).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_error_names_all_that_is_missing_and_its_packages() {
        let nowhere = std::env::temp_dir().join("pullagent-there-is-no-such-directory");
        let wanting = [
            Needed("git", "git", "git"),
            Needed("nix", "nix-bin", "nix"),
            Needed("nix-env", "nix-bin", "nix"),
        ];
        let missing: Vec<&Needed> = wanting
            .iter()
            .filter(|needed| find_in(std::slice::from_ref(&nowhere), needed.0).is_none())
            .collect();
        assert_eq!(
            describe_missing(&missing),
            "the demo needs programs that are not installed: git nix nix-env \
             (Debian: apt-get install git nix-bin; Nix: nix shell nixpkgs#git nixpkgs#nix)"
        );
    }
}
