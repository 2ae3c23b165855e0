//! Goal: a new key and what it signed can be pushed together. Method: the demo's world with the real agent; one push brings
//! a commit of alice's that lists mallory as a signer, and one of mallory's on top of it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "common/world.rs"]
mod world;

use std::time::Duration;

use pullagent::cli::demo::people::Change;
use pullagent::cli::demo::{Tempo, World};
use pullagent::model::Oid;
use pullagent::report::{Headline, Status};
use world::runs;

const SETTLE_MAX: Duration = Duration::from_secs(90);
const TEMPO: Tempo =
    Tempo { interval: Duration::from_secs(1), soak: Duration::from_secs(1), window: Duration::from_secs(20) };

async fn settle(world: &mut World, wanted: impl Fn(&Status) -> bool) -> Status {
    world::settle(world, SETTLE_MAX, wanted).await
}

/// Whether git says that the trusted store has `revision`.
fn stores(world: &World, revision: &Oid) -> bool {
    let store = pullagent::repo::store::Store::open(&world.host.root.join("var/lib/pullagent")).unwrap();
    store.unwrap().has(revision).unwrap()
}

#[tokio::test]
async fn a_key_and_what_it_signed_are_pushed_together() {
    let mut world = world::begin("stones", TEMPO, SETTLE_MAX).await;

    let mut machine: serde_json::Value =
        serde_json::from_str(&world.alice.read("machine.json").unwrap()).unwrap();
    let key = world.mallory.public_key.clone();
    machine["pullagent"]["trust"]["signers"]["mallory"] = serde_json::json!({ "keys": [key] });
    let listed = machine.to_string();
    let change = Change {
        message: "trust: list mallory",
        write: &[("machine.json", &listed)],
        remove: &[],
        signed: true,
    };
    let stone = world.alice.commit(change).await.unwrap();
    // A branch that no host follows brings it to mallory.
    world.alice.push("rotation").await.unwrap();
    world.mallory.check_out(&stone).await.unwrap();
    let write = [("site/note.html", "by mallory")];
    let tip = world
        .mallory
        .commit(Change { message: "by mallory", write: &write, remove: &[], signed: true })
        .await
        .unwrap();
    world.mallory.push("main").await.unwrap();

    // The stone comes first; what stands on it is refused, and status says so all the while.
    let under_way = settle(&mut world, |s| s.bad(&tip).is_some()).await;
    assert_eq!(under_way.accepted.as_ref().map(|c| &c.revision), Some(&stone));
    let refused = under_way.bad(&tip).unwrap();
    assert_eq!((refused.code.as_str(), refused.commit.as_ref()), ("unknown-key", Some(&tip)));
    assert!(!stores(&world, &tip), "the trusted store holds verified history and nothing else");

    // The stone's system was built from accepted history, so the key that it lists counts from then on.
    let done = settle(&mut world, |s| s.state == Headline::InSync && runs(s, &tip)).await;
    let log = std::fs::read_to_string(&world.agent.log).unwrap();
    assert!(log.contains(&format!("{} is confirmed", stone.short())), "{log}");
    assert!(done.bad(&tip).is_none());
    assert_eq!(done.accepted.and_then(|c| c.signer).as_deref(), Some("mallory"));
    world.tear_down().await.unwrap();
}
