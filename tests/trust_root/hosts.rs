//! The same on the demo's host, with the real agent, a real Git server and real keys.

use std::time::Duration;

use pullagent::cli::demo::people::{Change, Person};
use pullagent::cli::demo::{Tempo, World};
use pullagent::model::Oid;
use pullagent::report::{BadKind, Headline, Status};

use crate::trust_root::world::{self, runs};

const SETTLE_MAX: Duration = Duration::from_secs(120);
const TEMPO: Tempo =
    Tempo { interval: Duration::from_secs(1), soak: Duration::from_secs(1), window: Duration::from_secs(10) };

async fn settle(world: &mut World, wanted: impl Fn(&Status) -> bool) -> Status {
    world::settle(world, SETTLE_MAX, wanted).await
}

async fn deployed(world: &mut World, revision: &Oid) -> Status {
    settle(world, |s| s.state == Headline::InSync && runs(s, revision)).await
}

async fn refused(world: &mut World, revision: &Oid) -> String {
    let settled = settle(world, |s| s.bad(revision).is_some_and(|b| b.kind == BadKind::Refused)).await;
    settled.bad(revision).unwrap().code.clone()
}

async fn commit(person: &Person, write: &[(&str, &str)], remove: &[&str]) -> Oid {
    person.commit(Change { message: "a change", write, remove, signed: true }).await.unwrap()
}

/// Returns the host's configuration with other trust settings.
fn with_trust(world: &World, edit: impl Fn(&mut serde_json::Value)) -> String {
    let mut machine: serde_json::Value =
        serde_json::from_str(&world.alice.read("machine.json").unwrap()).unwrap();
    edit(&mut machine["pullagent"]["trust"]);
    machine.to_string()
}

#[tokio::test]
async fn p17_a_revocation_that_was_rolled_back_still_counts() {
    let mut world = world::begin("p17", TEMPO, SETTLE_MAX).await;
    let key = world.mallory.public_key.clone();
    let listed = with_trust(&world, |t| t["signers"]["mallory"] = serde_json::json!({ "keys": [key] }));
    let both = commit(&world.alice, &[("machine.json", &listed)], &[]).await;
    world.alice.push("main").await.unwrap();
    let status = deployed(&mut world, &both).await;
    assert_eq!(status.trust.signers, ["alice", "mallory"]);

    let revoked = with_trust(&world, |t| t["revokedKeys"] = serde_json::json!([key]));
    let bad = commit(&world.alice, &[("machine.json", &revoked)], &["site/healthz"]).await;
    world.alice.push("main").await.unwrap();
    let rolled_back =
        |s: &Status| !s.state.is_passing() && s.bad(&bad).is_some_and(|b| b.kind == BadKind::RolledBack);
    let status = settle(&mut world, rolled_back).await;
    assert_eq!((status.trust.differs, status.trust.revision.as_ref()), (true, Some(&bad)), "{status:?}");
    assert_eq!(status.accepted.unwrap().revision, bad, "the anchor has not gone back either");
    // The old generation, whose agent starts anew, lists the key as good.
    world.agent.stop().await.unwrap();
    world.agent.start().await.unwrap();

    world.mallory.check_out(&bad).await.unwrap();
    let stolen = commit(&world.mallory, &[("site/healthz", "ok\n")], &[]).await;
    world.mallory.push("main").await.unwrap();
    assert_eq!(refused(&mut world, &stolen).await, "revoked-key");

    let fix = commit(&world.alice, &[("site/healthz", "ok\n")], &[]).await;
    world.alice.force_push("main").await.unwrap();
    let status = deployed(&mut world, &fix).await;
    assert_eq!((status.trust.differs, status.trust.revoked), (false, 1));
    world.tear_down().await.unwrap();
}

#[tokio::test]
async fn root_is_the_way_out_of_a_force_push_a_hand_at_the_switch_and_a_lost_memory() {
    let mut world = world::begin("root", TEMPO, SETTLE_MAX).await;
    let first = world.first.0.clone();
    let old = commit(&world.alice, &[("site/note.html", "old line")], &[]).await;
    world.alice.push("main").await.unwrap();
    deployed(&mut world, &old).await;

    // The branch is rewritten, and meant to be.
    world.alice.check_out(&first).await.unwrap();
    let rewritten = commit(&world.alice, &[("site/note.html", "new line")], &[]).await;
    world.alice.force_push("main").await.unwrap();
    assert_eq!(refused(&mut world, &rewritten).await, "not-fast-forward");
    let short = world.agent.ask(&["accept", rewritten.short()]).await.unwrap_err();
    assert!(format!("{short:#}").contains("not a whole commit id"), "{short:#}");
    let said = world.agent.ask(&["accept", rewritten.as_str()]).await.unwrap();
    assert!(said.contains("fetched and deployed next"), "{said}");
    let status = deployed(&mut world, &rewritten).await;
    assert_eq!((status.accepted.unwrap().signer, status.set_aside.len()), (None, 0));
    let said = world.agent.ask(&["accept", rewritten.as_str(), "--json"]).await.unwrap();
    assert!(said.contains("is the accepted revision already") && said.contains("\"ok\": true"), "{said}");
    let next = commit(&world.alice, &[("site/note.html", "and on")], &[]).await;
    world.alice.push("main").await.unwrap();
    deployed(&mut world, &next).await;

    // Root installs a commit by hand that nobody has pushed, then the branch moves to the one before it.
    let between = commit(&world.alice, &[("site/note.html", "between")], &[]).await;
    world.alice.push("main").await.unwrap();
    world.agent.stop().await.unwrap();
    let newest = commit(&world.alice, &[("site/note.html", "newest")], &[]).await;
    let source = world.host.root.parent().unwrap().join("by-hand");
    world.alice.export(&source).await.unwrap();
    let system = world.store.build_system(&source, &newest).await.unwrap();
    world.store.set_profile(&world.host.profile(), &system).await.unwrap();
    world.host.switch(&system, "test").await.unwrap();
    world.agent.start().await.unwrap();
    let status = settle(&mut world, |s| s.trouble_code.as_deref() == Some("anchor-conflict")).await;
    assert_eq!(status.accepted.unwrap().revision, between);
    assert_eq!(
        status.running.unwrap().revision.as_ref(),
        Some(&newest),
        "an ancestor of what runs is not deployed"
    );
    let why = world.agent.ask(&["explain", between.as_str()]).await.unwrap();
    assert!(why.contains("anchor-conflict") && why.contains("pullagent accept"), "{why}");
    world.alice.push("main").await.unwrap();
    deployed(&mut world, &newest).await;
    let log = std::fs::read_to_string(&world.agent.log).unwrap();
    assert!(!log.contains(&format!("switched to {}", between.short())), "{log}");

    // Memory is lost: on from what runs. What the running system already passed is not gone back to.
    world.agent.stop().await.unwrap();
    let state = world.host.root.join("var/lib/pullagent");
    std::fs::remove_dir_all(&state).unwrap();
    world.agent.start().await.unwrap();
    let status = deployed(&mut world, &newest).await;
    assert_eq!(status.accepted.unwrap().revision, newest);
    world.alice.check_out(&between).await.unwrap();
    world.alice.force_push("main").await.unwrap();
    assert_eq!(refused(&mut world, &between).await, "not-fast-forward");

    // Somebody else may have written to the memory.
    use std::os::unix::fs::PermissionsExt;
    world.agent.stop().await.unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
    world.agent.start().await.unwrap();
    let status = settle(&mut world, |s| s.trouble_code.as_deref() == Some("state-untrusted")).await;
    assert_eq!(status.state, Headline::Held);
    world.tear_down().await.unwrap();
}
