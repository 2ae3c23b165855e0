//! Goal: an agent whose gateway is another process deploys as before; a hostile program in the gateway's place delays that,
//! and neither deploys, nor stops anything, nor keeps operators from being answered. Method: the demo's world; the real
//! agent is started with the socket as systemd passes it.
#![allow(clippy::disallowed_methods, reason = "tests start programs and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use common::apart::{agent, binary, environment, gateway};
use common::peer::{bind, impostor, say, seen};
use pullagent::cli::demo::people::Change;
use pullagent::cli::demo::{Setup, Tempo, World};
use pullagent::model::{Oid, UPDATABLE};
use pullagent::report::{Headline, Status};

const SETTLE_MAX: Duration = Duration::from_secs(60);
const TEMPO: Tempo =
    Tempo { interval: Duration::from_secs(1), soak: Duration::from_secs(1), window: Duration::from_secs(30) };
/// How long an order may take while the agent is flooded.
const ORDER_MAX: Duration = Duration::from_secs(5);

async fn settle(world: &mut World, wanted: impl Fn(&Status) -> bool) -> Status {
    world.agent.await_status(SETTLE_MAX, wanted).await.unwrap()
}

fn in_sync(status: &Status, tip: &Oid) -> bool {
    let running = status.running.as_ref().and_then(|r| r.revision.as_ref());
    status.state == Headline::InSync && running == Some(tip)
}

async fn push(world: &World, write: &[(&str, &str)], signed: bool) -> Oid {
    let tip = world.alice.commit(Change { message: "a change", write, remove: &[], signed }).await.unwrap();
    world.alice.push("main").await.unwrap();
    tip
}

/// Everything that a hostile gateway can say, over and over, as fast as it is taken: a tip that is not signed, tips that do
/// not exist, an empty repository, failures, packs that nobody asked for and packs of garbage.
fn harass(socket: OwnedFd, unsigned: &Oid) -> std::thread::JoinHandle<u64> {
    let (unsigned, nothing) = (unsigned.to_string(), r#"{"seen":{"source":"origin","refs":[]}}"#.to_owned());
    std::thread::spawn(move || {
        let zero = || vec![OwnedFd::from(std::fs::File::open("/dev/zero").unwrap())];
        let failed = r#"{"failed":{"source":"origin","want":null,"class":"tls","text":"boo"}}"#;
        let mut n = 0u64;
        loop {
            let said = match n % 6 {
                0 => say(&socket, &seen("origin", &unsigned), &[]),
                1 => say(&socket, &seen("origin", &format!("{n:040x}")), &[]),
                2 => say(&socket, &nothing, &[]),
                3 => say(&socket, failed, &[]),
                4 => say(&socket, &format!(r#"{{"pack":{{"want":{}}}}}"#, n / 6 % 50), &zero()),
                _ => say(&socket, &seen("elsewhere", &unsigned), &[]),
            };
            if said.is_err() {
                return n;
            }
            n += 1;
        }
    })
}

#[tokio::test]
async fn a_gateway_apart_serves_and_a_hostile_one_only_delays() {
    let dir = std::env::temp_dir().join(format!("pullagent-apart-{}", std::process::id()));
    pullagent::host::command::use_binary(binary());
    let setup = Setup { dir: dir.clone(), keep: false, own_store: true, agent: binary(), tempo: TEMPO };
    let mut world = World::build(&setup).await.unwrap();
    world.agent.start().await.unwrap();
    let first = world.first.0.clone();
    let status = settle(&mut world, |s| in_sync(s, &first)).await;
    let env = environment(status.agent.pid);
    world.agent.stop().await.unwrap();

    let path = dir.join("gateway.sock");
    let agent = agent(&world.host.root, None, bind(&path), &env);
    // Nobody asks the remote in its place.
    let alone = |s: &Status| s.agent.pid != status.agent.pid && s.remotes.iter().all(|r| r.trouble.is_some());
    let trouble = settle(&mut world, alone).await.remotes[0].trouble.clone().unwrap();
    assert_eq!((trouble.class.as_str(), trouble.text.contains("the gateway is gone")), ("local", true));

    let hostile = impostor(&path);
    let unsigned = push(&world, &[("site/note.html", "from nobody")], false).await;
    let flood = harass(hostile, &unsigned);
    let before = world.host.view().await.unwrap();
    for _ in 0..3 {
        for order in [&["suspend", "--reason", "a test"][..], &["resume"], &["sync"], &["status"]] {
            let began = Instant::now();
            world.agent.ask(order).await.unwrap();
            assert!(began.elapsed() < ORDER_MAX, "{order:?} took {:?}", began.elapsed());
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    assert_eq!(world.host.view().await.unwrap(), before, "the host was touched");
    let status = world.agent.status().await.unwrap();
    assert!(status.deployment.is_none() && status.running.is_some_and(|r| r.revision == Some(first.clone())));

    // A real one takes its place, and all goes on.
    let serving = gateway(&path);
    let sent = tokio::task::spawn_blocking(move || flood.join().unwrap()).await.unwrap();
    println!("the hostile gateway said {sent} things");
    world.alice.check_out(&first).await.unwrap();
    world.alice.force_push("main").await.unwrap();
    settle(&mut world, |s| in_sync(s, &first)).await;
    let tip = push(&world, &[("site/note.html", "from alice")], true).await;
    let status = settle(&mut world, |s| in_sync(s, &tip)).await;
    let proven = status.health.iter().find(|c| c.name == UPDATABLE).unwrap();
    assert!(proven.hard && proven.green == Some(true), "{proven:?}");

    // It goes away and comes back; a deployment in between waits for it.
    drop(serving);
    settle(&mut world, |s| s.state == Headline::Unreachable).await;
    let tip = push(&world, &[("site/note.html", "while it was away")], true).await;
    let serving = gateway(&path);
    settle(&mut world, |s| in_sync(s, &tip)).await;
    assert_eq!((serving.end(), agent.end()), (Some(0), Some(0)));
}
