//! The gateway as a process of its own, the real program, and a test in the reconciler's place.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::rc::Rc;
use std::time::{Duration, Instant};

use pullagent::gateway::link::Link;
use pullagent::model::{Https, Sighting};
use pullagent::wire::{Hint, Limits, Listener, Source};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::LocalSet;

use super::git_server::GitServer;
use super::peer::MAIN;

pub const NEVER_MS: u64 = 3_600_000;
const SECOND: Duration = Duration::from_secs(1);

/// Runs a test as the reconciler runs: on one thread, in a directory of its own.
pub fn run(limit: Duration, test: impl AsyncFnOnce(PathBuf)) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(limit, test(dir.path().to_owned())).await.unwrap();
    });
}

/// The real program in its role; killed with the value.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    pub fn start(socket: &Path, env: &[(&str, &str)]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pullagent"));
        command.arg("gateway").arg("--socket").arg(socket).envs(env.iter().copied());
        Process(command.spawn().unwrap())
    }

    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    pub fn end(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.0.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill().is_err();
        let _reaped = self.0.wait().is_ok();
    }
}

/// A remote that is never polled by schedule, on `server` where it has one.
pub fn source(url: String, server: Option<&GitServer>) -> Source {
    Source {
        name: "origin".to_owned(),
        url,
        refs: vec![MAIN.to_owned()],
        interval_ms: NEVER_MS,
        calendar: None,
        username: GitServer::USER.to_owned(),
        token_file: server.map(GitServer::token_file),
        https: Https { ca_file: server.map(GitServer::ca_file), ..Https::default() },
        ssh_key_file: None,
        known_hosts_file: None,
        limits: Limits::default(),
    }
}

/// The reconciler's end, which serves whoever connects.
pub struct Reconciler {
    pub link: Rc<Link>,
    pub saw: Rc<RefCell<Vec<Sighting>>>,
}

impl Reconciler {
    pub fn new(socket: OwnedFd, sources: Vec<Source>) -> Reconciler {
        Reconciler::listening(socket, sources, vec![])
    }

    pub fn listening(socket: OwnedFd, sources: Vec<Source>, hints: Vec<Hint>) -> Reconciler {
        let (link, saw) = (Rc::new(Link::new(sources, hints)), Rc::new(RefCell::new(Vec::new())));
        let (serving, seen) = (link.clone(), saw.clone());
        let door = Listener::from_fd(socket).unwrap();
        tokio::task::spawn_local(async move {
            serving.admit(&door, || 7, async |sighting| seen.borrow_mut().push(sighting)).await
        });
        Reconciler { link, saw }
    }

    /// Waits until something like this was seen, and forgets what came before it.
    pub async fn sees(&self, wanted: impl Fn(&Sighting) -> bool) -> Sighting {
        let began = Instant::now();
        loop {
            let found = self.saw.borrow().iter().position(&wanted);
            if let Some(n) = found {
                return self.saw.borrow_mut().drain(..=n).next_back().unwrap();
            }
            assert!(began.elapsed() < 30 * SECOND, "not seen; only {:?}", self.saw.borrow());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn sees_tip(&self, tip: &str) {
        self.sees(|s| matches!(s, Sighting::Heads { heads, .. } if heads["main"].as_str() == tip)).await;
    }
}
