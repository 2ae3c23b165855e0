//! A gateway with two remotes that count how often they are asked, and a reconciler that has it watch them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pullagent::model::Https;
use pullagent::wire::{Limits, Request, Source};
use serde_json::{Value, json};

use crate::peer;
use crate::scripted::{self, Ask};

/// How long anything may take that is to happen at once, on a loaded machine.
const SOON: Duration = Duration::from_secs(30);
/// Longer than it takes to give up on anybody.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
const NEVER_MS: u64 = 3_600_000;

/// The secrets of the hooks; the two of `forgejo` may both be used.
pub const SECRET: &str = "3gEsCfjlV2ugRwgpU#w1*WaW*wa4NXgG";
pub const OLD_SECRET: &str = "an older secret of the same forge";
pub const PATH_SECRET: &str = "hUAsvJzVsUiqvTcMUeZL4cKs";
pub const STANDARD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

pub struct Gateway {
    child: Child,
    pub address: SocketAddr,
    polls: BTreeMap<&'static str, Arc<AtomicUsize>>,
    dir: tempfile::TempDir,
    _reconciler: OwnedFd,
}

impl Gateway {
    /// Starts it, listening by itself.
    pub fn start() -> Gateway {
        Gateway::start_by(&[])
    }

    /// Starts it by systemd's own program for socket activation.
    pub fn start_activated() -> Gateway {
        Gateway::start_by(&["systemd-socket-activate", "--fdname=webhook", "-l", "@address@"])
    }

    fn start_by(before: &[&str]) -> Gateway {
        let dir = tempfile::tempdir().unwrap();
        let address = pullagent::cli::demo::remote::free_address().unwrap();
        let counted = ["origin", "mirror"].map(|name| (name, counting()));
        let sources: Vec<Source> = counted.iter().map(|(name, (url, _))| source(name, url)).collect();
        let own = address.to_string();
        // Whoever is passed a socket has no other to listen at.
        let listen = if before.is_empty() { own.clone() } else { "127.0.0.1:1".to_owned() };
        let config = dir.path().join("config.json");
        std::fs::write(&config, configuration(dir.path(), &sources, &listen).to_string()).unwrap();
        let socket = dir.path().join("gateway.sock");
        let listener = peer::bind(&socket);
        let program = env!("CARGO_BIN_EXE_pullagent");
        let mut words: Vec<String> = before.iter().map(|word| word.replace("@address@", &own)).collect();
        words.extend([program, "gateway", "--socket"].map(str::to_owned));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg(&socket).arg("--config").arg(&config).arg("--root").arg(dir.path());
        command.stdin(Stdio::null()).stderr(File::create(dir.path().join("log")).unwrap());
        let child = command.spawn().unwrap();
        // An activated one starts with the first connection.
        wait(|| TcpStream::connect(address).is_ok());
        let reconciler = rustix::net::accept(&listener).unwrap();
        let heard = reconciler.try_clone().unwrap();
        std::thread::spawn(move || while peer::hear(&heard).is_some() {});
        peer::say(&reconciler, &serde_json::to_string(&Request::Watch { sources }).unwrap(), &[]).unwrap();
        let polls = counted.map(|(name, (_, polls))| (name, polls)).into();
        let gateway = Gateway { child, address, polls, dir, _reconciler: reconciler };
        wait(|| gateway.polls("origin") == 1 && gateway.polls("mirror") == 1);
        gateway
    }

    /// Returns how often a remote was asked, the first time at the start.
    pub fn polls(&self, remote: &str) -> usize {
        self.polls[remote].load(Ordering::SeqCst)
    }

    /// Waits until a remote was asked so often.
    pub fn is_asked(&self, remote: &str, times: usize) {
        wait(|| self.polls(remote) >= times);
        assert_eq!(self.polls(remote), times, "{remote}");
    }

    /// Sends bytes and returns the whole answer, without the line that says when it was given.
    pub fn ask(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(ANSWER_TIME_MAX)).unwrap();
        // It may have heard enough before the end.
        stream.write_all(request).ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        let answer = String::from_utf8(answer).unwrap();
        answer.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect()
    }

    /// Returns the file of a secret.
    pub fn secret_file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Returns what it has logged, which never holds a secret.
    pub fn log(&self) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap();
        for secret in [SECRET, OLD_SECRET, PATH_SECRET, STANDARD_SECRET] {
            assert!(!log.contains(secret), "{log}");
        }
        log
    }

    pub fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Waits until `done`.
pub fn wait(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !done() {
        assert!(Instant::now() < deadline, "it does not happen");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A remote without branches, and how often it was asked for them.
fn counting() -> (String, Arc<AtomicUsize>) {
    let polls = Arc::new(AtomicUsize::new(0));
    let counter = polls.clone();
    let url = scripted::serve(move |ask, to| {
        let body = match ask {
            Ask::Handshake => scripted::capabilities(),
            Ask::Refs | Ask::Pack => scripted::FLUSH.to_vec(),
        };
        counter.fetch_add(usize::from(ask == Ask::Refs), Ordering::SeqCst);
        scripted::whole(ask, to, &body);
        true
    });
    (url, polls)
}

fn source(name: &str, url: &str) -> Source {
    Source {
        name: name.to_owned(),
        url: url.to_owned(),
        refs: vec!["refs/heads/main".to_owned()],
        interval_ms: NEVER_MS,
        username: "pullagent".to_owned(),
        token_file: None,
        https: Https::default(),
        ssh_key_file: None,
        known_hosts_file: None,
        limits: Limits::default(),
    }
}

fn configuration(dir: &Path, sources: &[Source], listen: &str) -> Value {
    let secret = |name: &str, text: &str| {
        let file = dir.join(name);
        std::fs::write(&file, format!("{text}\n")).unwrap();
        file
    };
    let (new, old) = (secret("new", SECRET), secret("old", OLD_SECRET));
    let (path, standard) = (secret("path", PATH_SECRET), secret("standard", STANDARD_SECRET));
    let missing = dir.join("missing");
    let hook = |kind: &str| json!({ "kind": kind, "secretFiles": [new], "remotes": ["origin"] });
    let mut config: Value = serde_json::from_str(include_str!("../fixtures/config.json")).unwrap();
    config["remotes"] = sources.iter().map(|s| json!({ "name": s.name, "url": s.url })).collect();
    config["webhooks"] = json!({ "listen": listen, "hooks": {
        "github": hook("github"),
        "forgejo": { "kind": "forgejo", "secretFiles": [new, old] },
        "gitea": hook("gitea"),
        "bitbucket": hook("bitbucket"),
        "gitlab": hook("gitlab"),
        "signed": { "kind": "standard-webhooks", "secretFiles": [standard], "remotes": ["origin"] },
        "own": { "kind": "hmac-sha256", "header": "X-Own", "secretFiles": [new], "remotes": ["mirror"] },
        "bearer": { "kind": "bearer", "secretFiles": [new, missing], "remotes": ["origin"] },
        "path": { "kind": "path", "secretFiles": [path], "remotes": ["origin"] },
        "broken": { "kind": "bearer", "secretFiles": [missing] },
    }});
    config
}
