//! A throw-away host, and the program run on it.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pullagent::config::{self, Settings};
use pullagent::control::protocol;
use pullagent::host::clock;
use pullagent::report::{Publisher, Snapshot};

/// A whole and right configuration.
pub const GOLDEN: &str = include_str!("../fixtures/config.json");
/// Longer than anything here takes; only a test that fails waits for it.
pub const PATIENCE: &str = "20s";

/// A host's file system with a configuration, and no agent yet.
pub struct Host {
    _dir: tempfile::TempDir,
    pub root: PathBuf,
}

#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Host {
    pub fn new() -> Host {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let host = Host { root: dir.path().to_owned(), _dir: dir };
        std::fs::create_dir_all(host.root.join("etc/pullagent")).unwrap();
        std::fs::write(host.config(), GOLDEN).unwrap();
        host
    }

    pub fn config(&self) -> PathBuf {
        self.root.join("etc/pullagent/config.json")
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pullagent"));
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "PULLAGENT_CONFIG"] {
            command.env_remove(name);
        }
        command.env("PULLAGENT_ROOT", &self.root).args(args).stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    pub fn publish(&self, snapshot: &Snapshot) {
        publish_at(&self.root, snapshot);
    }

    /// Sends one request and returns the whole answer.
    pub fn http(&self, head: &str, body: &[u8]) -> String {
        let mut stream = UnixStream::connect(protocol::socket_path(&self.root)).unwrap();
        let head =
            format!("{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        // A server that has read enough may hang up before the end.
        stream.write_all(body).ok();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok();
        answer
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
}

pub fn publish_at(root: &Path, snapshot: &Snapshot) {
    Publisher::open(root).unwrap().publish(snapshot, &settings(), clock::unix_secs()).unwrap();
}

pub fn settings() -> Settings {
    config::parse(GOLDEN.as_bytes()).unwrap().settings
}

pub fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}
