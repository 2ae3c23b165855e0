//! Goal: the trusted store is a cache; a host that loses it, or finds it damaged, goes on by itself. So it does with what a
//! power cut has left in the Nix store.
//! Method: the demo's world with the real agent; the store is taken away at the two moments that matter.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test looks at the clock")]

#[path = "common/world.rs"]
mod world;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pullagent::cli::demo::people::Change;
use pullagent::cli::demo::{Tempo, World};
use pullagent::model::Oid;
use pullagent::report::{BadKind, Headline, Status};
use world::runs;

const SETTLE_MAX: Duration = Duration::from_secs(60);
const TEMPO: Tempo =
    Tempo { interval: Duration::from_secs(1), soak: Duration::from_secs(1), window: Duration::from_secs(20) };

async fn settle(world: &mut World, wanted: impl Fn(&Status) -> bool) -> Status {
    world::settle(world, SETTLE_MAX, wanted).await
}

async fn push(world: &World, write: &[(&str, &str)]) -> Oid {
    let change = Change { message: "a change", write, remove: &[], signed: true };
    let tip = world.alice.commit(change).await.unwrap();
    world.alice.push("main").await.unwrap();
    tip
}

fn store(world: &World) -> PathBuf {
    world.host.root.join("var/lib/pullagent/git")
}

#[tokio::test]
async fn a_lost_store_is_fetched_again_with_the_next_push() {
    let mut world = world::begin("lost-store", TEMPO, SETTLE_MAX).await;
    std::fs::remove_dir_all(store(&world)).unwrap();
    let tip = push(&world, &[("site/note.html", "after the loss")]).await;
    settle(&mut world, |s| s.state == Headline::InSync && runs(s, &tip)).await;
    world.tear_down().await.unwrap();
}

#[tokio::test]
async fn a_damaged_store_is_noticed_and_replaced() {
    let mut world = world::begin("damaged-store", TEMPO, SETTLE_MAX).await;
    let packs = store(&world).join("objects/pack");
    for entry in std::fs::read_dir(packs).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "idx") {
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, b"").unwrap();
        }
    }
    let tip = push(&world, &[("site/note.html", "after the damage")]).await;
    settle(&mut world, |s| s.state == Headline::InSync && runs(s, &tip)).await;
    let log = std::fs::read_to_string(&world.agent.log).unwrap();
    assert!(log.contains("damaged"), "the damage is said: {log}");
    world.tear_down().await.unwrap();
}

#[tokio::test]
async fn a_revision_that_was_accepted_before_the_loss_can_still_be_built() {
    let mut world = world::begin("lost-revision", TEMPO, SETTLE_MAX).await;
    let whole = world.alice.read("flake.nix").unwrap();
    let tip = push(&world, &[("flake.nix", "this is not Nix")]).await;
    let failed =
        |s: &Status| s.bad(&tip).is_some_and(|b| b.kind == BadKind::BuildFailed) && !s.state.is_passing();
    let why = settle(&mut world, failed).await.bad(&tip).unwrap().clone();

    std::fs::remove_dir_all(store(&world)).unwrap();
    // Failures are told apart by their second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    world.agent.ask(&["retry", tip.as_str()]).await.unwrap();
    let again = |s: &Status| failed(s) && s.bad(&tip).is_some_and(|b| b.at > why.at);
    let second = settle(&mut world, again).await.bad(&tip).unwrap().clone();
    assert_eq!((second.code, second.kind), (why.code, why.kind), "it was fetched again and judged as before");

    let tip = push(&world, &[("flake.nix", &whole)]).await;
    settle(&mut world, |s| s.state == Headline::InSync && runs(s, &tip)).await;
    world.tear_down().await.unwrap();
}

/// Nix does not wait for the disk before it calls something valid, so a power cut empties files of what was added last.
#[tokio::test]
async fn what_a_power_cut_emptied_in_the_nix_store_is_made_anew() {
    let mut world = world::begin("emptied", TEMPO, SETTLE_MAX).await;
    let whole = world.alice.read("system/toplevel.sh").unwrap();
    let tip = push(&world, &[("system/toplevel.sh", "echo no >&2; exit 1")]).await;
    let failed =
        |s: &Status| s.bad(&tip).is_some_and(|b| b.kind == BadKind::BuildFailed) && !s.state.is_passing();
    let why = settle(&mut world, failed).await.bad(&tip).unwrap().clone();
    assert_eq!(why.code, "build");

    let mut emptied = 0;
    for entry in std::fs::read_dir(&world.store.dir).unwrap() {
        let path = entry.unwrap().path();
        let file = match path.to_str().unwrap() {
            source if source.ends_with("-source") => path.join("flake.nix"),
            drv if drv.ends_with(".drv") => path,
            _ => continue,
        };
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
        std::fs::write(&file, "").unwrap();
        emptied += 1;
    }
    assert!(emptied >= 2, "{emptied}");
    // Failures are told apart by their second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    world.agent.ask(&["retry", tip.as_str()]).await.unwrap();
    let again = |s: &Status| failed(s) && s.bad(&tip).is_some_and(|b| b.at > why.at);
    let second = settle(&mut world, again).await.bad(&tip).unwrap().clone();
    assert_eq!((second.code, second.text), (why.code, why.text), "it is judged as before");
    let log = std::fs::read_to_string(&world.agent.log).unwrap();
    assert_eq!(log.matches("and is made anew").count(), 2, "the source and the derivation: {log}");

    let tip = push(&world, &[("system/toplevel.sh", &whole)]).await;
    settle(&mut world, |s| s.state == Headline::InSync && runs(s, &tip)).await;
    world.tear_down().await.unwrap();
}

/// The same of the system itself, which was built before and is tried once more.
#[tokio::test]
async fn a_new_system_that_a_power_cut_emptied_is_built_anew() {
    let mut world = world::begin("emptied-system", TEMPO, SETTLE_MAX).await;
    let sick = Change { message: "a change", write: &[], remove: &["site/healthz"], signed: true };
    let tip = world.alice.commit(sick).await.unwrap();
    world.alice.push("main").await.unwrap();
    let failed =
        |s: &Status| s.bad(&tip).is_some_and(|b| b.kind == BadKind::RolledBack) && !s.state.is_passing();
    let why = settle(&mut world, failed).await.bad(&tip).unwrap().clone();
    let is_new = |dir: &Path| {
        std::fs::read_to_string(dir.join("etc/pullagent/revision")).is_ok_and(|r| r.trim() == tip.as_str())
    };
    let systems = std::fs::read_dir(&world.store.dir).unwrap().map(|entry| entry.unwrap().path());
    let new = systems.filter(|dir| is_new(dir)).last().unwrap().join("etc/nginx/nginx.conf");
    let whole = std::fs::read(&new).unwrap();
    std::fs::set_permissions(&new, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&new, "").unwrap();
    world.agent.ask(&["retry", tip.as_str()]).await.unwrap();
    settle(&mut world, |s| s.state == Headline::Retrying).await;
    world.agent.ask(&["retry", tip.as_str()]).await.unwrap();
    let again = |s: &Status| failed(s) && s.bad(&tip).is_some_and(|b| b.at > why.at);
    settle(&mut world, again).await;
    assert_eq!(std::fs::read(&new).unwrap(), whole);
    world.tear_down().await.unwrap();
}
