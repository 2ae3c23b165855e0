//! The programs that the demo needs: finding them, naming the packages of those that are missing, running
//! them with the demo's own environment. Knows nothing of what they are used for.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};

/// No single command of the demo takes longer than this; a first build with a cold disk needs a few seconds.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(60);

/// How much of a program's complaint is repeated in an error.
const COMPLAINT_BYTES_MAX: usize = 2000;

/// Where programs for administrators lie; an ordinary user's `PATH` lacks these on Debian.
const ADMIN_DIRECTORIES: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

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

    /// Returns a command for `program` with the demo's environment and nothing else of the caller's.
    #[expect(clippy::disallowed_methods, reason = "the demo plays the outside world: forge, people, machine")]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", &self.search_path).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.kill_on_drop(true);
        command
    }

    /// Starts `command` as a server in its own process group, its output appended to `log`.
    pub fn serve(&self, mut command: Command, log: &Path) -> anyhow::Result<Server> {
        let name = command.as_std().get_program().to_string_lossy().into_owned();
        let open = || std::fs::OpenOptions::new().create(true).append(true).open(log);
        let (out, err) = open()
            .and_then(|out| Ok((out.try_clone()?, out)))
            .with_context(|| format!("failed to open '{}'", log.display()))?;
        command.stdout(out).stderr(err).process_group(0);
        let child = command.spawn().with_context(|| format!("failed to start '{name}'"))?;
        Ok(Server { name, child, log: log.to_owned() })
    }
}

/// Runs `command` to its end and returns what it printed, without the white space around it.
///
/// # Errors
/// If it cannot be started, fails, or takes longer than a minute; the error repeats its complaint.
pub async fn run(command: Command) -> anyhow::Result<String> {
    let (printed, complaint) = outcome(command).await?;
    complaint.map_or(Ok(printed), |complaint| Err(anyhow::anyhow!(complaint)))
}

/// Runs `command` to its end and tells whether it succeeded.
///
/// # Errors
/// If it cannot be started or takes longer than a minute.
pub async fn succeeds(command: Command) -> anyhow::Result<bool> {
    Ok(outcome(command).await?.1.is_none())
}

async fn outcome(mut command: Command) -> anyhow::Result<(String, Option<String>)> {
    let line = shown(&command);
    let output = tokio::time::timeout(COMMAND_TIME_MAX, command.output())
        .await
        .with_context(|| format!("'{line}' did not end within {} s", COMMAND_TIME_MAX.as_secs()))?
        .with_context(|| format!("failed to start '{line}'"))?;
    let printed = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok((printed, None));
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let tail = stderr.char_indices().rev().nth(COMPLAINT_BYTES_MAX).map_or(0, |(at, _)| at);
    Ok((printed, Some(format!("'{line}' failed ({}): {}", output.status, stderr[tail..].trim()))))
}

fn shown(command: &Command) -> String {
    let command = command.as_std();
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
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
        "the demo needs programs that are not installed:{}\n  Debian:  apt-get install{}\n  Nix:     nix shell{}",
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
    /// Returns the end of what the server printed, if it does not run any more.
    pub fn complaint(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().rev().take(8).collect();
        let tail: Vec<&str> = lines.into_iter().rev().collect();
        Some(format!("'{}' ended ({status}): {}", self.name, tail.join("\n")))
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
        const LOOKS: u32 = 50;
        signal(self.child.id(), Signal::TERM, kill_process);
        let group = self.child.id();
        for _ in 0..LOOKS {
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
            "the demo needs programs that are not installed: git nix nix-env\n  \
             Debian:  apt-get install git nix-bin\n  Nix:     nix shell nixpkgs#git nixpkgs#nix"
        );
    }

    #[tokio::test]
    async fn a_failure_repeats_the_complaint() {
        let tools = Tools { search_path: "/usr/bin:/bin".into(), environment: Vec::new() };
        let mut command = tools.command("sh");
        command.args(["-c", "echo out; echo complaint >&2; exit 3"]);
        let error = run(command).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3): complaint"), "{error}");
    }
}
