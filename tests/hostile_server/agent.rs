//! The real agent on a host of its own, watched from outside: what it accepts, what it says of failures, and what it and its
//! children cost at their peak.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pullagent::model::Oid;
use pullagent::report::{self, Status};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::common::nix::private_store;
use crate::common::toplevel::Host;
use crate::git;

/// How long anything may take that is not a stall; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(40);
/// How often the processes and the disk are looked at.
const LOOK: Duration = Duration::from_millis(3);

/// The bounds that the agent is configured with: small, so that it comes to them soon.
pub mod bounds {
    pub const PACK_BYTES: u64 = 4 << 20;
    pub const OBJECT_BYTES: u64 = 2 << 20;
    pub const UNPACKED_BYTES: u64 = 16 << 20;
    pub const OBJECTS: u32 = 20_000;
    pub const IDLE: &str = "1s";
    pub const POLL: &str = "2s";
    pub const PACK: &str = "3s";
}

/// A running agent. It and its children end with the value.
pub struct Agent {
    host: Host,
    child: Child,
    environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    meter: Meter,
}

impl Agent {
    /// Starts an agent that was introduced to `anchor` and follows the server at `url`.
    pub fn start(url: &str, anchor: &Oid) -> Agent {
        let host = Host::new();
        let system = host.toplevel("nixos-system-web1-1");
        host.install(&system);
        let config = host.root().join("etc/pullagent/config.json");
        std::fs::create_dir_all(config.parent().unwrap()).unwrap();
        std::fs::write(&config, configuration(url, anchor).to_string()).unwrap();
        let environment = private_store(&host.root().join("nix-store"));
        let child = spawn(host.root(), &environment);
        let meter = Meter::start(child.id(), &host.root().join("var/lib/pullagent"));
        let agent = Agent { host, child, environment, meter };
        agent.await_status("a first word of the remote", heard);
        agent
    }

    /// Kills the agent as `kill -9` does, and starts it again.
    pub fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.host.root(), &self.environment);
        self.meter = Meter::start(self.child.id(), &self.state());
        let pid = self.child.id();
        self.await_status("the agent to be back", |s| s.agent.pid == pid && heard(s));
    }

    /// Has the remote asked now, as an operator would.
    pub fn sync(&self) {
        let out = self.command().arg("sync").output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }

    pub fn state(&self) -> PathBuf {
        self.host.root().join("var/lib/pullagent")
    }

    pub fn status(&self) -> Option<Status> {
        report::read_status(self.host.root()).ok()
    }

    /// The accepted tip of the main line.
    pub fn accepted(&self) -> Option<Oid> {
        self.status().and_then(|s| s.accepted).map(|commit| commit.revision)
    }

    /// What `main` is in the trusted store.
    pub fn stored(&self) -> Option<Oid> {
        let text = std::fs::read_to_string(self.state().join("git/refs/pullagent/main")).ok()?;
        text.trim().parse().ok()
    }

    #[track_caller]
    pub fn await_status(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if let Some(status) = status.as_ref().filter(|s| wanted(s)) {
                return status.clone();
            }
            let told = status.as_ref().map(|s| (&s.retries, &s.problem, &s.remotes, &s.accepted));
            assert!(Instant::now() < deadline, "waited too long for {what}: {told:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until nothing of an import is left: no child, no quarantine.
    #[track_caller]
    pub fn await_tidy(&self, after: &str) {
        let left = || {
            let quarantines = std::fs::read_dir(self.state().join("quarantine")).map_or(0, Iterator::count);
            (quarantines, importers(self.child.id()).len())
        };
        let deadline = Instant::now() + PATIENCE;
        while left() != (0, 0) {
            assert!(Instant::now() < deadline, "{after}: quarantines and imports left: {:?}", left());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What lies on disk now, in bytes.
    pub fn disk(&self) -> u64 {
        bytes_below(&self.state())
    }

    /// Forgets the peaks so far.
    pub fn begin_measuring(&self) {
        self.meter.reset();
    }

    /// Returns the peaks since then.
    pub fn peaks(&self) -> Peaks {
        self.meter.peaks()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.host.root().join("log")).unwrap_or_default()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pullagent"));
        command.arg("--root").arg(self.host.root()).stdin(Stdio::null());
        command
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.child);
        let _gone = kill_process(pid, Signal::TERM).is_err();
        let _reaped = self.child.wait().is_ok();
    }
}

fn heard(s: &Status) -> bool {
    s.remotes[0].checked_at.is_some() || s.remotes[0].trouble.is_some()
}

fn spawn(root: &Path, environment: &[(std::ffi::OsString, std::ffi::OsString)]) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(root.join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pullagent"));
    command.arg("--root").arg(root).arg("run").env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    command.envs(environment.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().unwrap()
}

fn configuration(url: &str, anchor: &Oid) -> serde_json::Value {
    json!({
        "schema": 1,
        "hostname": "web1",
        // Asked only when told to, and again after a failure.
        "remotes": [{ "name": "origin", "url": url, "interval": "1h" }],
        "branches": [{ "pattern": "main", "operation": "switch" }],
        "trust": {
            "introduction": anchor,
            "signers": { "alice": { "keys": [git::public_key()], "roles": ["deployer"] } },
        },
        "fetch": {
            "packBytesMax": bounds::PACK_BYTES,
            "objectBytesMax": bounds::OBJECT_BYTES,
            "unpackedBytesMax": bounds::UNPACKED_BYTES,
            "objectsMax": bounds::OBJECTS,
            "idleTimeout": bounds::IDLE,
            "pollTimeout": bounds::POLL,
            "timeout": bounds::PACK,
        },
    })
}

/// What something cost at its peak, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peaks {
    /// Resident in the agent, gateway included.
    pub agent: u64,
    /// Resident in an import child.
    pub import: u64,
    /// On disk below the state directory.
    pub disk: u64,
}

/// Looks at an agent again and again.
struct Meter {
    pid: u32,
    import: Arc<AtomicU64>,
    disk: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Meter {
    fn start(pid: u32, state: &Path) -> Meter {
        let (import, disk, stop) =
            (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (at_import, at_disk, stopped, state) =
            (import.clone(), disk.clone(), stop.clone(), state.to_owned());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for child in importers(pid) {
                    at_import.fetch_max(peak_of(child), Ordering::Relaxed);
                }
                at_disk.fetch_max(bytes_below(&state), Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        });
        Meter { pid, import, disk, stop, thread: Mutex::new(Some(thread)) }
    }

    fn reset(&self) {
        // Makes the kernel count the peak from now on.
        std::fs::write(format!("/proc/{}/clear_refs", self.pid), "5").unwrap();
        self.import.store(0, Ordering::Relaxed);
        self.disk.store(0, Ordering::Relaxed);
    }

    fn peaks(&self) -> Peaks {
        Peaks {
            agent: peak_of(self.pid),
            import: self.import.load(Ordering::Relaxed),
            disk: self.disk.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().unwrap().take() {
            thread.join().unwrap();
        }
    }
}

/// The most that was resident at once in a process, in bytes.
fn peak_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok())
        .map_or(0, |kib| kib << 10)
}

/// The import processes of an agent; between them and it is a process that supervises them.
fn importers(agent: u32) -> Vec<u32> {
    let imports = |pid: &u32| {
        let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        cmdline.split(|byte| *byte == 0).nth(1) == Some(b"import")
    };
    let supervisors = children(agent);
    let all = supervisors.iter().flat_map(|pid| children(*pid)).chain(supervisors.iter().copied());
    all.filter(imports).collect()
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_task = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()
    };
    tasks.flat_map(of_task).collect()
}

/// What the files below a directory take up; some may vanish meanwhile.
fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    bytes.sum()
}
