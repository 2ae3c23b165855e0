//! A real `sshd` on loopback with keys of its own: everything lies in one temporary directory, and a login can only
//! read the repositories there. It serves us as whoever runs the test.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::git::Repo;

/// Where `sshd` is looked for beside the PATH, which often lacks what is made for root.
const SBIN: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// The server. Each connection has an `sshd` of its own, which ends with it.
pub struct Sshd {
    dir: tempfile::TempDir,
    port: u16,
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl Sshd {
    /// Starts a server that passes the wish for protocol version 2 on, as forges do.
    pub fn start() -> Sshd {
        Sshd::start_with("AcceptEnv GIT_PROTOCOL")
    }

    /// Starts a server with `more` in its configuration.
    pub fn start_with(more: &str) -> Sshd {
        let dir = tempfile::tempdir().unwrap();
        for name in ["host_key", "other_host_key", "key", "other_key"] {
            keygen(&dir.path().join(name), "");
        }
        let config = configure(dir.path(), more);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let log = dir.path().join("log");
        let listener = std::thread::spawn(move || {
            for client in listener.incoming().take_while(|_| !stopped.load(Ordering::SeqCst)) {
                serve(client.unwrap(), &config, &log);
            }
        });
        let server = Sshd { dir, port, stop, listener: Some(listener) };
        server.known_hosts("known_hosts", "", "host_key");
        server
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self, repo: &str) -> String {
        self.url_at("127.0.0.1", repo)
    }

    /// Returns the URL of a repository for a machine that calls this one `host`.
    pub fn url_at(&self, host: &str, repo: &str) -> String {
        format!("ssh://{}@{host}:{}{}", user(), self.port, self.path(repo).display())
    }

    pub fn repo(&self, name: &str) -> Repo {
        Repo::init(&self.path(name), "sha1")
    }

    /// Writes a file that says, after `marker`, that the server has the key `key`; returns its path.
    pub fn known_hosts(&self, name: &str, marker: &str, key: &str) -> PathBuf {
        let key = fs::read_to_string(self.path(&format!("{key}.pub"))).unwrap();
        fs::write(self.path(name), format!("{marker}[127.0.0.1]:{} {key}", self.port)).unwrap();
        self.path(name)
    }

    /// What was asked for, one line per login: what came in `GIT_PROTOCOL`, and the command.
    pub fn logins(&self) -> Vec<String> {
        let logins = fs::read_to_string(self.path("logins")).unwrap_or_default();
        logins.lines().map(str::to_owned).collect()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _woken = TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        let ended = self.listener.take().is_none_or(|listener| listener.join().is_ok());
        if std::thread::panicking() || !ended {
            eprintln!("sshd: {}", fs::read_to_string(self.path("log")).unwrap_or_default());
        }
    }
}

/// Makes a key pair without a comment.
pub fn keygen(file: &Path, passphrase: &str) {
    let mut keygen = Command::new("ssh-keygen");
    keygen.args(["-q", "-t", "ed25519", "-C", "", "-N", passphrase, "-f"]).arg(file);
    assert!(keygen.status().unwrap().success());
}

/// The user who runs the test.
pub fn user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn configure(dir: &Path, more: &str) -> PathBuf {
    let shown = dir.display();
    let key = fs::read_to_string(dir.join("key.pub")).unwrap();
    let forced = dir.join("forced");
    fs::write(&forced, forced_command(dir)).unwrap();
    let authorized = format!("restrict,command=\"/bin/sh {}\" {key}", forced.display());
    fs::write(dir.join("authorized_keys"), authorized).unwrap();
    let config = format!(
        "HostKey {shown}/host_key\nAuthorizedKeysFile {shown}/authorized_keys\nPidFile none\nUsePAM {}\n\
         StrictModes no\nPermitRootLogin forced-commands-only\nPasswordAuthentication no\n\
         KbdInteractiveAuthentication no\nLogLevel VERBOSE\n{more}\n",
        if root_is_locked() { "yes" } else { "no" },
    );
    let file = dir.join("sshd_config");
    fs::write(&file, config).unwrap();
    if rustix::process::geteuid().is_root() {
        // Compiled in; made by whatever starts the machine's own server, if it has one.
        fs::create_dir_all("/run/sshd").unwrap();
        fs::set_permissions("/run/sshd", fs::Permissions::from_mode(0o755)).unwrap();
    }
    file
}

/// Only PAM lets an account in whose password is locked; only root can know.
fn root_is_locked() -> bool {
    let shadow = fs::read_to_string("/etc/shadow").unwrap_or_default();
    rustix::process::geteuid().is_root() && shadow.lines().any(|line| line.starts_with("root:!"))
}

/// What every login runs: `git-shell` for the repositories in `dir`, a forge's refusal for all else. From
/// `stalls.git` comes a part of a pack and then nothing.
fn forced_command(dir: &Path) -> String {
    let (dir, path) = (dir.display(), std::env::var("PATH").unwrap());
    format!(
        r#"PATH='{path}' GIT_CONFIG_SYSTEM=/dev/null GIT_CONFIG_GLOBAL=/dev/null
export PATH GIT_CONFIG_SYSTEM GIT_CONFIG_GLOBAL
printf '%s\n' "$GIT_PROTOCOL $SSH_ORIGINAL_COMMAND" >>'{dir}/logins'
case "$SSH_ORIGINAL_COMMAND" in
  "git-upload-pack '{dir}/stalls.git'")
    git upload-pack '{dir}/stalls.git' | {{ dd bs=1 count=100000 2>/dev/null; cat >/dev/null; }} ;;
  "git-upload-pack '{dir}/"*) exec git shell -c "$SSH_ORIGINAL_COMMAND" ;;
  *) echo 'ERROR: Repository not found.' >&2; exit 1 ;;
esac
"#
    )
}

/// Has an `sshd` of its own serve one connection.
fn serve(client: TcpStream, config: &Path, log: &Path) {
    let socket = || OwnedFd::from(client.try_clone().unwrap());
    let mut sshd = Command::new(program());
    sshd.arg("-i").arg("-f").arg(config).arg("-E").arg(log);
    let mut child = sshd.stdin(socket()).stdout(socket()).stderr(Stdio::null()).env_clear().spawn().unwrap();
    std::thread::spawn(move || child.wait());
}

fn program() -> PathBuf {
    let path = format!("{}:{SBIN}", std::env::var("PATH").unwrap());
    let found = std::env::split_paths(&path).map(|dir| dir.join("sshd")).find(|file| file.is_file());
    found.expect("sshd is installed (tests/setup does it)")
}
