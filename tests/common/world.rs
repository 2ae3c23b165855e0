//! The demo's world, kept by the real agent, as tests begin with it and wait for it.

use std::path::PathBuf;
use std::time::Duration;

use pullagent::cli::demo::{Setup, Tempo, World};
use pullagent::model::Oid;
use pullagent::report::{Headline, Status};

/// Builds a world with a store of its own, starts its agent, and waits until it is in sync with the first commit.
pub async fn begin(name: &str, tempo: Tempo, limit: Duration) -> World {
    let dir = std::env::temp_dir().join(format!("pullagent-{name}-{}", std::process::id()));
    let agent = PathBuf::from(env!("CARGO_BIN_EXE_pullagent"));
    pullagent::host::command::use_binary(&agent);
    let mut world = World::build(&Setup { dir, keep: false, own_store: true, agent, tempo }).await.unwrap();
    world.agent.start().await.unwrap();
    let first = world.first.0.clone();
    settle(&mut world, limit, |s| s.state == Headline::InSync && runs(s, &first)).await;
    world
}

/// Waits for a status; shows the agent's log where it does not come within `limit`.
pub async fn settle(world: &mut World, limit: Duration, wanted: impl Fn(&Status) -> bool) -> Status {
    match world.agent.await_status(limit, wanted).await {
        Ok(status) => status,
        Err(e) => panic!("{e:#}\nlog:\n{}", std::fs::read_to_string(&world.agent.log).unwrap_or_default()),
    }
}

/// Whether the host runs what was built from `revision`.
pub fn runs(status: &Status, revision: &Oid) -> bool {
    status.running.as_ref().and_then(|r| r.revision.as_ref()) == Some(revision)
}
