//! A desk to work at: a home of its own with Git's configuration, keys, a clone, and the program in the path.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// A host's configuration without signers; everything that `verify` needs and no more.
const CONFIG: &str = r#"{ "schema": 1, "hostname": "web1",
    "remotes": [ { "name": "origin", "url": "https://git.example.org/me/infra.git" } ],
    "trust": { "signers": {} } }"#;

pub struct Desk {
    _dir: tempfile::TempDir,
    pub home: PathBuf,
    pub repo: PathBuf,
    pub config: Value,
}

#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Desk {
    /// Returns a desk with keys of `alice` (a deployer who signs all commits), `bot` and `mallory`, and a repository
    /// with one commit on `main`.
    pub fn new() -> Desk {
        Desk::with_format("sha1")
    }

    pub fn with_format(format: &str) -> Desk {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_owned();
        let config = serde_json::from_str(CONFIG).unwrap();
        let mut desk = Desk { repo: home.join("infra"), home, config, _dir: dir };
        for name in ["alice", "bot", "mallory"] {
            desk.sh(&format!("ssh-keygen -q -t ed25519 -N '' -C {name} -f ~/{name}"));
        }
        desk.sh("git config --global user.name Alice; git config --global user.email alice@example.org
             git config --global gpg.format ssh; git config --global user.signingKey ~/alice.pub
             git config --global commit.gpgSign true; git config --global init.defaultBranch main
             git config --global advice.detachedHead false");
        desk.sh(&format!("git init -q --object-format={format} ~/infra"));
        desk.git(&["commit", "-q", "--allow-empty", "-m", "Begin"]);
        desk.trust("alice", json!({ "keys": [desk.key("alice")] }));
        desk
    }

    /// Returns the public key of `name`, as one line.
    pub fn key(&self, name: &str) -> String {
        std::fs::read_to_string(self.home.join(format!("{name}.pub"))).unwrap().trim().to_owned()
    }

    /// Lists a signer, and writes the configuration.
    pub fn trust(&mut self, name: &str, signer: Value) {
        self.config["trust"]["signers"][name] = signer;
        self.write_config();
    }

    pub fn write_config(&self) {
        std::fs::write(self.home.join("web1.json"), self.config.to_string()).unwrap();
    }

    /// Returns a program that knows this home only. The one under test comes first in its path.
    pub fn command(&self, program: &str, dir: &Path) -> Command {
        let ours = Path::new(env!("CARGO_BIN_EXE_pullagent")).parent().unwrap();
        let path = format!("{}:{}", ours.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(program);
        command
            .current_dir(dir)
            .env_clear()
            .env("PATH", path)
            .env("HOME", &self.home)
            .env("LC_ALL", "C.UTF-8");
        command.env("GIT_CONFIG_NOSYSTEM", "1").env("PULLAGENT_ROOT", &self.home).stdin(Stdio::null());
        command.env("GIT_EDITOR", "false");
        command
    }

    pub fn try_git(&self, args: &[&str]) -> Ran {
        Ran::of(self.command("git", &self.repo).args(args).output().unwrap())
    }

    pub fn git(&self, args: &[&str]) -> String {
        self.try_git(args).good(args)
    }

    /// Runs a script in the repository, or at home before there is one.
    pub fn sh(&self, script: &str) -> String {
        self.try_sh(script).good(&[script])
    }

    pub fn try_sh(&self, script: &str) -> Ran {
        let dir = if self.repo.exists() { &self.repo } else { &self.home };
        Ran::of(self.command("sh", dir).args(["-euc", script]).output().unwrap())
    }

    pub fn pullagent(&self, args: &[&str]) -> Ran {
        let mut command = self.command("pullagent", &self.repo);
        Ran::of(command.env("PULLAGENT_CONFIG", self.home.join("web1.json")).args(args).output().unwrap())
    }

    pub fn verify(&self, args: &[&str]) -> Ran {
        self.pullagent(&[&["verify"], args].concat())
    }

    pub fn verify_json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.verify(&[args, &["--json"]].concat()).out).unwrap()
    }

    /// Makes an empty commit by `name`.
    pub fn commit(&self, name: &str, message: &str) -> String {
        let key = format!("user.signingKey={}", self.home.join(format!("{name}.pub")).display());
        self.git(&["-c", &key, "commit", "-q", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Installs hooks as their help says.
    pub fn install_hooks(&self, hooks: &str) {
        self.sh(&format!(
            "for hook in {hooks}; do path=$(git rev-parse --git-path hooks/$hook); mkdir -p \"$(dirname \"$path\")\"
             pullagent hook $hook > \"$path\" && chmod +x \"$path\"; done"
        ));
    }
}

impl Ran {
    pub fn of(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    fn good(self, what: &[&str]) -> String {
        assert_eq!(self.code, 0, "{what:?}: {self:?}");
        self.out.trim().to_owned()
    }
}
