//! The agent and its gateway as two processes, the real program, for a host of the demo's world.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use pullagent::cli::demo::{Setup, Tempo, World};
use pullagent::control::client::{self, ClientError};
use pullagent::control::protocol::Order;
use pullagent::report::{Headline, Status};
use rustix::process::{Pid, Signal, kill_process};

const AGENT_LOG: &str = "agent-apart.log";
const LINES_SHOWN: usize = 40;
const GATEWAY_LOG: &str = "gateway.log";

/// A program that ends with the value.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Asks it to end, and returns how it did.
    pub fn end(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill().is_err();
        let _reaped = self.0.wait().is_ok();
    }
}

pub fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_pullagent"))
}

/// Starts the gateway, which connects to `socket`; what it says goes to a file beside that.
pub fn gateway(socket: &Path) -> Process {
    let mut command = Command::new(binary());
    command.arg("gateway").arg("--socket").arg(socket).stderr(log(&socket.with_file_name(GATEWAY_LOG)));
    Process(command.spawn().unwrap())
}

fn log(path: &Path) -> File {
    File::options().create(true).append(true).open(path).unwrap()
}

/// Starts the agent of the host at `root` with a listening socket as descriptor 3, in the environment that the demo gives
/// its agent, by `config` or by the host's own configuration. What it says goes to a file beside the host.
pub fn agent(root: &Path, config: Option<&Path>, socket: OwnedFd, env: &[(String, String)]) -> Process {
    let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$; exec \"$0\" \"$@\" run";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(binary()).arg("--root").arg(root).stdin(socket);
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    command.stderr(log(&root.with_file_name(AGENT_LOG)));
    command.env_clear().envs(env.iter().cloned()).env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "gateway");
    Process(command.spawn().unwrap())
}

pub fn environment(pid: u32) -> Vec<(String, String)> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    text.split('\0').filter_map(|v| v.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

/// A host that is in sync with its first commit, and then kept by two processes.
pub struct Apart {
    pub agent: Process,
    pub gateway: Process,
    pub dir: PathBuf,
    pub world: World,
}

impl Apart {
    /// Builds the world and starts both; `edit` changes the host's configuration first. `limit` bounds each wait.
    pub async fn begin(
        name: &str,
        tempo: Tempo,
        limit: Duration,
        edit: impl FnOnce(&World, &mut serde_json::Value),
    ) -> Apart {
        let dir = std::env::temp_dir().join(format!("pullagent-{name}-{}", std::process::id()));
        pullagent::host::command::use_binary(binary());
        let setup = Setup { dir: dir.clone(), keep: false, own_store: true, agent: binary(), tempo };
        let mut world = World::build(&setup).await.unwrap();
        world.agent.start().await.unwrap();
        let before = world.agent.await_status(limit, |s| s.state == Headline::InSync).await.unwrap();
        let env = environment(before.agent.pid);
        world.agent.stop().await.unwrap();

        let own = std::fs::read(world.host.root.join("etc/static/pullagent/config.json")).unwrap();
        let mut settings = serde_json::from_slice(&own).unwrap();
        edit(&world, &mut settings);
        let config = dir.join("config.json");
        std::fs::write(&config, settings.to_string()).unwrap();
        let socket = dir.join("gateway.sock");
        let agent = agent(&world.host.root, Some(&config), super::peer::bind(&socket), &env);
        let gateway = gateway(&socket);
        let answered =
            |s: &Status| s.agent.pid != before.agent.pid && s.remotes.iter().all(|r| r.checked_at.is_some());
        world.agent.await_status(limit, answered).await.unwrap();
        Apart { agent, gateway, dir, world }
    }

    /// Returns Alice's private key, which the host trusts.
    pub fn private_key(&self) -> String {
        std::fs::read_to_string(self.dir.join("home/alice.key")).unwrap()
    }

    /// Asks for a poll of all remotes. The agent may be busy for a moment.
    pub async fn sync(&self) {
        let told = client::give(&self.world.host.root, &Order::Sync).await;
        assert!(matches!(told, Ok(_) | Err(ClientError::Refused { .. })), "{told:?}");
    }

    /// Returns what the agent has written of itself last.
    pub fn status(&self) -> Status {
        let text = std::fs::read(self.world.host.root.join("run/pullagent/status.json")).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// Where the agent keeps what it knows.
    pub fn state_directory(&self) -> PathBuf {
        self.world.host.root.join("var/lib/pullagent")
    }

    /// Returns the last of what the agent said.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join(AGENT_LOG)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
    }
}
