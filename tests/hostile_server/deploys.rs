//! The whole way: after hostile answers an honest server makes the host build, switch to and confirm the next system, as
//! if nothing had been. The demo's world with real Nix; its agent follows our server instead of the world's own.

use std::path::PathBuf;
use std::time::Duration;

use pullagent::cli::demo::people::Change;
use pullagent::cli::demo::{Setup, Tempo, World};
use pullagent::model::Oid;
use pullagent::report::{Headline, Status};
use serde_json::{Value, json};

use crate::common::scripted::{Ask, band, line};
use crate::packs;
use crate::server::{Script, Server};
use crate::stage::{floods, names, on};

const SETTLE_MAX: Duration = Duration::from_secs(90);
const TEMPO: Tempo =
    Tempo { interval: Duration::from_secs(1), soak: Duration::from_secs(1), window: Duration::from_secs(30) };

async fn settle(world: &mut World, wanted: impl Fn(&Status) -> bool) -> Status {
    match world.agent.await_status(SETTLE_MAX, wanted).await {
        Ok(status) => status,
        Err(e) => panic!("{e:#}\nlog:\n{}", std::fs::read_to_string(&world.agent.log).unwrap_or_default()),
    }
}

fn in_sync(s: &Status, tip: &Oid) -> bool {
    let running = s.running.as_ref().and_then(|r| r.revision.as_ref());
    s.state == Headline::InSync && running == Some(tip)
}

async fn push(world: &World, file: &str, content: &str) -> Oid {
    let change = Change { message: "a change", write: &[(file, content)], remove: &[], signed: true };
    let tip = world.alice.commit(change).await.unwrap();
    world.alice.push("main").await.unwrap();
    tip
}

/// Has the agent follow `url`, by a commit as its owner would make it.
async fn follow(world: &World, url: &str) -> Oid {
    let mut machine: Value = serde_json::from_str(&world.alice.read("machine.json").unwrap()).unwrap();
    let settings = &mut machine["pullagent"];
    settings["remotes"][0]["url"] = json!(url);
    settings["remotes"][0]["tokenFile"] = Value::Null;
    settings["remotes"][0]["caFile"] = Value::Null;
    settings["fetch"] = json!({ "idleTimeout": "1s", "packBytesMax": 4 << 20 });
    push(world, "machine.json", &machine.to_string()).await
}

#[tokio::test]
async fn an_honest_server_deploys_again() {
    let dir = std::env::temp_dir().join(format!("pullagent-hostile-{}", std::process::id()));
    let agent = PathBuf::from(env!("CARGO_BIN_EXE_pullagent"));
    pullagent::host::command::use_binary(&agent);
    let setup = Setup { dir: dir.clone(), keep: false, own_store: true, agent, tempo: TEMPO };
    let mut world = World::build(&setup).await.unwrap();
    world.agent.start().await.unwrap();
    let server = Server::start(&dir.join("forge/repositories/infra.git"));
    let tip = follow(&world, &server.url).await;
    settle(&mut world, |s| in_sync(s, &tip)).await;
    // The new system's agent takes over with its next start.
    world.agent.stop().await.unwrap();
    world.agent.start().await.unwrap();
    settle(&mut world, |s| in_sync(s, &tip)).await;

    let endless = || -> Script {
        let start = [line("packfile\n"), band(1, b"PACK\0\0\0\x02\0\0\x0f\0")].concat();
        floods(Ask::Pack, start, band(1, &packs::blob(&[7; 60_000])))
    };
    let broken = || -> Script { on(Ask::Pack, |_| false) };
    let lies: [(&str, Script, &str); 3] = [
        ("an endless pack", endless(), "fetch-limit"),
        ("a broken connection", broken(), "network"),
        ("a tip that does not exist", names(&"ab".repeat(20)), "refused"),
    ];
    let mut before = tip;
    for (name, lie, code) in lies {
        server.lie(lie);
        let tip = push(&world, "site/note.html", name).await;
        settle(&mut world, |s| s.retries.iter().any(|r| r.code == code)).await;
        let status = world.agent.status().await.unwrap();
        let running = status.running.and_then(|r| r.revision);
        assert_eq!(
            (running, status.deployment.is_none()),
            (Some(before), true),
            "{name}: the host was touched"
        );
        server.be_honest();
        world.agent.ask(&["sync"]).await.unwrap();
        settle(&mut world, |s| in_sync(s, &tip)).await;
        before = tip;
    }
    world.tear_down().await.unwrap();
}
