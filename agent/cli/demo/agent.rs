//! The agent of the demo's host: started, killed and asked as a stranger would, by its command line alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::tools::{Server, Tools, run};
use crate::report::Status;

/// The agent is ready once its status answers; opening the journal takes milliseconds.
const START_TIME_MAX: Duration = Duration::from_secs(20);

/// How long the agent may take to end when it is asked to.
const STOP_TIME_MAX: Duration = Duration::from_secs(15);

/// The pause between two looks at the status.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// The agent, running or not.
#[derive(Debug)]
pub struct Agent {
    binary: PathBuf,
    root: PathBuf,
    /// What the agent says while it works.
    pub log: PathBuf,
    tools: Tools,
    process: Option<Server>,
}

impl Agent {
    /// Describes the agent `binary` of the host at `root`; starts nothing.
    pub fn new(tools: &Tools, binary: &Path, root: &Path, log: &Path) -> Agent {
        let (binary, root, log) = (binary.to_owned(), root.to_owned(), log.to_owned());
        Agent { binary, root, log, tools: tools.clone(), process: None }
    }

    /// Starts the agent and does not wait for anything.
    pub fn spawn(&mut self) -> anyhow::Result<()> {
        let arguments = ["--root".as_ref(), self.root.as_path(), "run".as_ref()];
        self.process = Some(self.tools.serve(&self.binary, arguments, &self.log)?);
        Ok(())
    }

    /// Starts the agent and waits until it says of itself that it runs.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        let id = self.process.as_ref().and_then(Server::id);
        // A status of its forerunner may lie there.
        self.await_status(START_TIME_MAX, |status| Some(status.agent.pid) == id).await.map(drop)
    }

    /// Kills the agent as `kill -9` does, and waits until it is gone.
    pub async fn kill_9(&mut self) -> anyhow::Result<()> {
        match self.process.take() {
            Some(mut process) => process.kill_process().await,
            None => bail!("there is no agent to be killed"),
        }
    }

    /// Asks the agent to end, and waits for it.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        match self.process.take() {
            Some(process) => process.stop(STOP_TIME_MAX).await,
            None => Ok(()),
        }
    }

    /// Looks at the status again and again until it is as wanted.
    ///
    /// # Errors
    /// If that takes longer than `limit`, or the agent ends by itself.
    pub async fn await_status(
        &mut self,
        limit: Duration,
        mut wanted: impl FnMut(&Status) -> bool,
    ) -> anyhow::Result<Status> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let status = self.status().await;
            if let Some(status) = status.as_ref().ok().filter(|status| wanted(status)) {
                return Ok(status.clone());
            }
            if let Some(complaint) = self.process.as_mut().and_then(Server::complaint) {
                bail!("the agent ended by itself: {complaint}");
            }
            if tokio::time::Instant::now() > deadline {
                let state = status.context("failed to ask for the status")?.state;
                bail!("the state is '{}' after {} s", state.word(), limit.as_secs());
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Returns what `pullagent status --json` says.
    pub async fn status(&self) -> anyhow::Result<Status> {
        let text = self.ask(&["status", "--json"]).await?;
        serde_json::from_str(&text).context("failed to parse the agent's status")
    }

    /// Runs a verb of the agent's command line and returns what it printed.
    pub async fn ask(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run(self.tools.command(&self.binary).arg("--root").arg(&self.root).args(arguments)).await
    }
}
