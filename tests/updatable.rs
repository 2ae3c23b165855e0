//! Goal: a system from which the host could not be updated any more goes away again; it is not blamed for it, tried again
//! later, and not for ever. Method: the demo's world with the real agent; the new system's configuration loses its way to
//! the remote, or the remote was gone before.
#![allow(clippy::disallowed_methods, reason = "a test starts programs")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "common/world.rs"]
mod world;

use std::time::Duration;

use pullagent::cli::demo::people::Change;
use pullagent::cli::demo::{Tempo, World};
use pullagent::model::{Oid, UPDATABLE};
use pullagent::plan::BREAKER;
use pullagent::report::{Headline, Status};
use serde_json::{Value, json};
use world::runs;

const SETTLE_MAX: Duration = Duration::from_secs(60);
const TEMPO: Tempo =
    Tempo { interval: Duration::from_secs(1), soak: Duration::from_secs(1), window: Duration::from_secs(6) };

async fn settle(world: &mut World, wanted: impl Fn(&Status) -> bool) -> Status {
    world::settle(world, SETTLE_MAX, wanted).await
}

/// Pushes a system whose agent is configured otherwise.
async fn configure(world: &World, change: impl FnOnce(&mut Value)) -> Oid {
    let mut machine: Value = serde_json::from_str(&world.alice.read("machine.json").unwrap()).unwrap();
    change(&mut machine["pullagent"]);
    let write = [("machine.json", machine.to_string())];
    let write: Vec<(&str, &str)> = write.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let change = Change { message: "other remotes", write: &write, remove: &[], signed: true };
    let tip = world.alice.commit(change).await.unwrap();
    world.alice.push("main").await.unwrap();
    tip
}

#[tokio::test]
async fn a_system_that_loses_its_way_to_the_remote_is_rolled_back_and_not_blamed() {
    let mut world = world::begin("updatable", TEMPO, SETTLE_MAX).await;
    let dir = std::env::temp_dir().join(format!("pullagent-updatable-{}", std::process::id()));
    let packs = || std::fs::read_dir(dir.join("host/var/lib/pullagent/git/objects/pack")).unwrap().count();

    // One of several remotes is enough; that it is the second does not matter.
    let good = configure(&world, |settings| {
        let mut dead = settings["remotes"][0].clone();
        (dead["name"], dead["url"]) = (json!("dead"), json!("https://127.0.0.1:9/infra.git"));
        settings["remotes"].as_array_mut().unwrap().insert(0, dead);
    })
    .await;
    settle(&mut world, |s| s.state == Headline::InSync && runs(s, &good)).await;
    assert_eq!(packs(), 4, "two packs and their indices: what was fetched to show the way is not kept");

    // The new system has the wrong token. The agent still has the right one, so the remote is known to be there.
    let token = dir.join("lost-token");
    std::fs::write(&token, "wrong\n").unwrap();
    let lost = configure(&world, |settings| {
        settings["remotes"].as_array_mut().unwrap().remove(0);
        settings["remotes"][0]["tokenFile"] = json!(token);
    })
    .await;
    let back = |n: u32| {
        let (lost, good) = (lost.clone(), good.clone());
        move |s: &Status| {
            s.deployment.is_none() && runs(s, &good) && s.retry(&lost).is_some_and(|r| r.tries == n)
        }
    };
    // The last word of the remote may still be about the wrong token.
    let rolled_back = back(1);
    let status = settle(&mut world, |s| rolled_back(s) && s.state != Headline::Unreachable).await;
    let retry = status.retry(&lost).unwrap();
    assert_eq!((status.state, retry.code.as_str()), (Headline::Retrying, UPDATABLE));
    assert!(retry.text.contains("origin: auth: "), "{}", retry.text);
    let pause = retry.not_before - status.agent.written_at;
    assert!((500..=600).contains(&pause), "{pause} s");
    assert!(status.bad(&lost).is_none(), "it is not set aside");

    // The pause survives a restart; 'sync' does not cut it short, 'retry' does.
    world.agent.kill_9().await.unwrap();
    world.agent.start().await.unwrap();
    world.agent.ask(&["sync"]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    settle(&mut world, back(1)).await;
    for n in 2..=3 {
        world.agent.ask(&["retry", lost.as_str()]).await.unwrap();
        // What was remembered against it is forgotten each time.
        settle(&mut world, |s| s.deployment.is_some()).await;
        let status = settle(&mut world, back(1)).await;
        assert_eq!(status.suspension.is_some(), n == 3, "rollback {n}");
    }
    let status = settle(&mut world, |s| s.state == Headline::Suspended).await;
    assert_eq!(status.suspension.unwrap().by, BREAKER);
    world.agent.ask(&["resume"]).await.unwrap();

    // Now the remote is gone for the old system as well: then it can't speak against the new one.
    std::fs::write(&world.remote.token_file, "wrong, too\n").unwrap();
    world.agent.ask(&["retry", lost.as_str()]).await.unwrap();
    let red = |s: &Status| s.deployment.as_ref().is_some_and(|d| d.red_before == [UPDATABLE]);
    settle(&mut world, red).await;
    settle(&mut world, |s| s.deployment.is_none() && runs(s, &lost)).await;
    world.tear_down().await.unwrap();
}
