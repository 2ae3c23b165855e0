//! A host with two real remotes, of which now one and now the other lags, lies or is down. Real agent, Git, signatures.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pullagent::cli::demo::people::{Change, Person};
use pullagent::cli::demo::{Tempo, World};
use pullagent::model::Oid;
use pullagent::report::{BadKind, Headline, Status};

use crate::trust_root::git::{self, Repo};
use crate::trust_root::git_server::GitServer;
use crate::trust_root::relay::Relay;
use crate::trust_root::world::{self, runs};

const SETTLE_MAX: Duration = Duration::from_secs(120);
const TEMPO: Tempo =
    Tempo { interval: Duration::from_secs(1), soak: Duration::from_secs(1), window: Duration::from_secs(20) };

/// For so long a remote may be silent in the middle of a pack.
const IDLE: Duration = Duration::from_secs(4);
/// The pause before another remote is asked for what one has not delivered.
const PAUSE: Duration = Duration::from_secs(2);
/// What it may take longer on a machine that has more to do.
const SLACK: Duration = Duration::from_secs(10);
/// Bytes of a file that does not get smaller in a pack, and how many of them the first remote delivers.
const BIG: usize = 512 << 10;
const DELIVERED: usize = BIG / 8;

/// A served repository, and what the host's configuration says about it.
struct Mirror {
    name: &'static str,
    server: GitServer,
    repo: Repo,
}

impl Mirror {
    fn start(name: &'static str) -> Mirror {
        let server = GitServer::start();
        let repo = server.repo("infra");
        Mirror { name, server, repo }
    }

    fn configuration(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name,
            "url": self.server.url("infra"),
            "interval": "1s",
            "username": GitServer::USER,
            "tokenFile": self.server.token_file(),
            "caFile": self.server.ca_file(),
        })
    }

    /// Makes `revision` of somebody's clone its main branch.
    fn show(&self, clone: &str, revision: &Oid) {
        let to = self.repo.path.to_string_lossy().into_owned();
        git::git(
            &PathBuf::from(clone),
            &["push", "-q", "-f", &to, &format!("{revision}:refs/heads/main")],
            b"",
        );
    }
}

async fn commit(person: &Person, note: &str, signed: bool) -> Oid {
    let write = &[("site/note.html", note)];
    person.commit(Change { message: note, write, remove: &[], signed }).await.unwrap()
}

async fn settle(world: &mut World, wanted: impl Fn(&Status) -> bool) -> Status {
    world::settle(world, SETTLE_MAX, wanted).await
}

async fn deployed(world: &mut World, revision: &Oid) -> Status {
    settle(world, |s| s.state == Headline::InSync && runs(s, revision)).await
}

#[tokio::test]
async fn of_two_remotes_neither_holds_the_host_back_nor_leads_it_astray() {
    let (mut north, mut south) = (Mirror::start("north"), Mirror::start("south"));
    let mut world = world::begin("two-remotes", TEMPO, SETTLE_MAX).await;
    let clone = |who: &str| world.host.root.parent().unwrap().join("home").join(who).display().to_string();
    let (alice, mallory) = (clone("alice"), clone("mallory"));
    let mut machine: serde_json::Value =
        serde_json::from_str(&world.alice.read("machine.json").unwrap()).unwrap();
    machine["pullagent"]["remotes"] = serde_json::json!([north.configuration(), south.configuration()]);
    let machine = machine.to_string();
    let write = &[("machine.json", machine.as_str())];
    let change = Change { message: "two remotes", write, remove: &[], signed: true };
    let first = world.alice.commit(change).await.unwrap();
    for mirror in [&north, &south] {
        mirror.show(&alice, &first);
    }
    world.alice.push("main").await.unwrap();
    deployed(&mut world, &first).await;
    // No systemd is there to start it anew.
    world.agent.stop().await.unwrap();
    world.agent.start().await.unwrap();
    settle(&mut world, |s| s.remotes.len() == 2).await;

    // The first in order lags behind; the newest that verifies is deployed, and stays.
    let second = commit(&world.alice, "by the second only", true).await;
    south.show(&alice, &second);
    deployed(&mut world, &second).await;

    // The first names one unsigned commit after the other, on top of what is deployed; the second's is deployed.
    world.mallory.check_out(&world.first.0.clone()).await.unwrap();
    git::git(&PathBuf::from(&mallory), &["fetch", "-q", &alice, second.as_str()], b"");
    world.mallory.check_out(&second).await.unwrap();
    let mut junk = vec![];
    for n in 0..3 {
        junk.push(commit(&world.mallory, &format!("junk {n}"), false).await);
        north.show(&mallory, &junk[n]);
        let named = junk[n].clone();
        settle(&mut world, |s| s.bad(&named).is_some_and(|b| b.kind == BadKind::Refused)).await;
    }
    let third = commit(&world.alice, "good", true).await;
    south.show(&alice, &third);
    let status = deployed(&mut world, &third).await;
    assert_eq!(status.alarms.len(), 1, "one is off the line, the other on it: {:?}", status.alarms);
    assert_eq!(status.alarms[0].code, "split-view");

    // The second is down; the first, which has come to its senses, leads on.
    south.server.stop();
    let fourth = commit(&world.alice, "by the first only", true).await;
    north.show(&alice, &fourth);
    let status = deployed(&mut world, &fourth).await;
    assert!(status.remotes.iter().any(|r| r.name == "south" && r.trouble.is_some()), "{status:?}");
    assert_eq!(status.alarms, []);

    // It comes back with what it knew, an older commit, and is the only one to be heard: that moves nothing.
    north.server.stop();
    south.server.restart();
    let status = settle(&mut world, |s| s.bad(&third).is_some_and(|b| b.code == "not-fast-forward")).await;
    assert!(runs(&status, &fourth) && status.accepted.unwrap().revision == fourth);

    // The accepted commit is lost from the store, and the remote it came from is gone: the other one has it.
    let fifth = commit(&world.alice, "after the loss", true).await;
    world.agent.stop().await.unwrap();
    std::fs::remove_dir_all(world.host.root.join("var/lib/pullagent/git")).unwrap();
    south.show(&alice, &fifth);
    world.agent.start().await.unwrap();
    deployed(&mut world, &fifth).await;
    world.tear_down().await.unwrap();
}

/// Both remotes have the same tip. The first, which is asked for it, stalls in the middle of the pack: after the time for which
/// it may be silent, the second is asked.
#[tokio::test]
async fn a_pack_that_stalls_comes_from_the_other_remote() {
    let (north, south) = (Mirror::start("north"), Mirror::start("south"));
    let relay = Relay::start(north.server.port());
    let mut world = world::begin("stalled-pack", TEMPO, SETTLE_MAX).await;
    let clone = world.host.root.parent().unwrap().join("home").join("alice").display().to_string();
    let mut machine: serde_json::Value =
        serde_json::from_str(&world.alice.read("machine.json").unwrap()).unwrap();
    let mut relayed = north.configuration();
    let url = relayed["url"].as_str().unwrap();
    relayed["url"] = url.replace(&north.server.port().to_string(), &relay.port().to_string()).into();
    machine["pullagent"]["remotes"] = serde_json::json!([relayed, south.configuration()]);
    machine["pullagent"]["fetch"] = serde_json::json!({ "idleTimeout": format!("{}s", IDLE.as_secs()) });
    let machine = machine.to_string();
    let write = &[("machine.json", machine.as_str())];
    let change = Change { message: "two remotes", write, remove: &[], signed: true };
    let first = world.alice.commit(change).await.unwrap();
    for mirror in [&north, &south] {
        mirror.show(&clone, &first);
    }
    world.alice.push("main").await.unwrap();
    deployed(&mut world, &first).await;
    world.agent.stop().await.unwrap();
    world.agent.start().await.unwrap();
    settle(&mut world, |s| s.remotes.len() == 2 && s.remotes.iter().all(|r| r.checked_at.is_some())).await;

    let mut took = vec![];
    for stalls in [false, true] {
        let big: String = (0..BIG).map(|_| fastrand::alphanumeric()).collect();
        let write = &[("site/big", big.as_str())];
        let change = Change { message: "big", write, remove: &[], signed: true };
        let tip = world.alice.commit(change).await.unwrap();
        if stalls {
            relay.stall_after(DELIVERED);
        }
        let begun = Instant::now();
        north.show(&clone, &tip);
        settle(&mut world, |s| s.remotes[0].heads.get("main") == Some(&tip)).await;
        south.show(&clone, &tip);
        settle(&mut world, |s| s.accepted.as_ref().is_some_and(|a| a.revision == tip)).await;
        took.push(begun.elapsed());
        assert_eq!(relay.is_stalled(), stalls, "the pack was asked of the first");
        deployed(&mut world, &tip).await;
    }
    println!("failover: verified after {:?}, with a stalled pack after {:?}", took[0], took[1]);
    assert!(took[1] <= took[0] + IDLE + PAUSE + SLACK, "{took:?}");
    world.tear_down().await.unwrap();
}
