//! What the agent and its gateway hold after a deployment and many polls over TLS, as two processes on a host of the demo's
//! world; and what they do while nothing happens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::common::apart::Apart;
use super::common::usage::{Holding, Peak, Usage};
use super::table::Row;
use pullagent::cli::demo::people::Change;
use pullagent::cli::demo::{Tempo, World};
use pullagent::report::Headline;
use serde_json::{Value, json};

const POLLS_QUICK: u64 = 150;
const POLLS_LONG: u64 = 3000;
/// Between two orders to poll: as fast as notices of a gateway are taken.
const APART: Duration = Duration::from_millis(70);
const SETTLES_WITHIN: Duration = Duration::from_secs(90);
const TEMPO: Tempo =
    Tempo { interval: Duration::from_secs(1), soak: Duration::from_secs(1), window: Duration::from_secs(30) };
/// On a host `/run` is in memory, so that writing the status waits for no disk.
const SHM: &str = "/dev/shm";
/// How long both are watched while nothing happens but polls, one a second.
const IDLE: Duration = Duration::from_secs(10);
/// Both together, by their shares of what they have in common.
const PSS_KIB_MAX: f64 = 15.0 * 1024.0;
/// What polls may leave in memory, in any build.
const GAIN_KIB_MAX: u64 = 1024;

/// Returns the files below `dir`, and when each was written last.
fn written(dir: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let data = entry.metadata().unwrap();
        match data.is_dir() {
            true => found.extend(written(&entry.path())),
            false => drop(found.insert(entry.path(), data.modified().unwrap())),
        }
    }
    found
}

/// Returns how many polls the agent was told of.
fn polls(apart: &Apart) -> u64 {
    apart.status().counters.fetches.values().flat_map(BTreeMap::values).sum()
}

pub async fn measure(long: bool) -> Vec<Row> {
    let wanted = if long { POLLS_LONG } else { POLLS_QUICK };
    let base = if Path::new(SHM).is_dir() { PathBuf::from(SHM) } else { std::env::temp_dir() };
    let memory = tempfile::tempdir_in(base).unwrap();
    let edit = |world: &World, settings: &mut Value| {
        settings["remotes"][0]["interval"] = json!("1s");
        let status = world.host.root.join("run/pullagent");
        std::fs::remove_dir_all(&status).unwrap();
        std::os::unix::fs::symlink(memory.path(), status).unwrap();
    };
    let mut apart = Apart::begin("bench", TEMPO, SETTLES_WITHIN, edit).await;
    let (agent, gateway) = (apart.agent.id(), apart.gateway.id());
    let peak = Peak::of_imports(agent);
    let change =
        Change { message: "a change", write: &[("site/note.html", "new")], remove: &[], signed: true };
    let tip = apart.world.alice.commit(change).await.unwrap();
    apart.world.alice.push("main").await.unwrap();
    let runs = |s: &pullagent::report::Status| {
        s.state == Headline::InSync && s.running.as_ref().and_then(|r| r.revision.as_ref()) == Some(&tip)
    };
    apart.world.agent.await_status(SETTLES_WITHIN, runs).await.unwrap();
    let import = peak.end();
    let (begin, before) = (polls(&apart), [Holding::of(agent), Holding::of(gateway)]);
    while polls(&apart) < begin + wanted {
        apart.sync().await;
        tokio::time::sleep(APART).await;
    }
    let held = [Holding::of(agent), Holding::of(gateway)];
    for (before, after) in before.iter().zip(&held) {
        assert!(after.anonymous_kib <= before.anonymous_kib + GAIN_KIB_MAX, "{before:?} {after:?}");
    }

    let (files, from, idle) =
        (written(&apart.state_directory()), polls(&apart), [Usage::of(agent), Usage::of(gateway)]);
    tokio::time::sleep(IDLE).await;
    let [agent_used, gateway_used] = [Usage::of(agent).since(idle[0]), Usage::of(gateway).since(idle[1])];
    let polled = (polls(&apart) - from).max(1) as f64;
    assert_eq!(written(&apart.state_directory()), files, "polls that find nothing leave the state as it is");

    let pss: u64 = held.iter().map(|h| h.pss_kib).sum();
    let mut rows = vec![
        Row::new(format!("memory: PSS of both after {wanted} polls"), "KiB", pss as f64).at_most(PSS_KIB_MAX),
    ];
    for (name, h) in ["agent", "gateway"].into_iter().zip(held) {
        rows.push(Row::new(format!("memory: {name}, PSS"), "KiB", h.pss_kib as f64));
        rows.push(Row::new(format!("memory: {name}, RSS"), "KiB", h.rss_kib as f64));
        rows.push(Row::new(format!("memory: {name}, no file's"), "KiB", h.anonymous_kib as f64));
        rows.push(Row::new(format!("memory: {name}, threads"), "", h.threads as f64));
        rows.push(Row::new(format!("memory: {name}, descriptors"), "", h.files as f64));
    }
    rows.extend([
        Row::new("memory: import child, peak RSS", "KiB", import.rss_kib as f64),
        Row::new("idle agent: wake-ups a poll", "", agent_used.wakeups as f64 / polled),
        Row::new("idle agent: CPU a poll", "µs", agent_used.cpu_micros / polled),
        Row::new("idle gateway: wake-ups a poll", "", gateway_used.wakeups as f64 / polled),
        Row::new("idle gateway: CPU a poll", "µs", gateway_used.cpu_micros / polled),
    ]);
    rows
}
