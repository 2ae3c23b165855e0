//! Goal: of two remotes, one in trouble costs the other nothing: a push to it is seen and fetched as soon as if both were
//! well. Method: the real gateway and two real Git servers; the first lags, stalls, answers with errors or is gone, and each
//! time is held against that of the same run without trouble.
#![allow(clippy::disallowed_methods, reason = "tests start servers and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::git::Repo;
use common::git_server::GitServer;
use common::relay::Relay;
use common::scripted;
use pullagent::gateway;
use pullagent::model::Https;
use pullagent::wire::{self, Limits, Notice, ReconcilerEnd, Request, Source};

const MAIN: &str = "refs/heads/main";
/// Time between polls of either.
const INTERVAL: Duration = Duration::from_millis(500);
/// A remote is given up after so much silence: what it could cost the other if that had to wait.
const IDLE: Duration = Duration::from_secs(8);
/// What a push may take longer than the slowest without trouble, on a machine that has more to do. Polls come at random
/// times, so one may be an interval later than another; it is far less than [`IDLE`].
const SLACK: Duration = Duration::from_secs(2);
/// Pushes in each situation.
const PUSHES: usize = 5;

fn source(name: &str, server: &GitServer, url: String) -> Source {
    Source {
        name: name.to_owned(),
        url,
        refs: vec![MAIN.to_owned()],
        interval_ms: INTERVAL.as_millis().try_into().unwrap(),
        calendar: None,
        username: GitServer::USER.to_owned(),
        token_file: Some(server.token_file()),
        https: Https { ca_file: Some(server.ca_file()), ..Https::default() },
        ssh_key_file: None,
        known_hosts_file: None,
        limits: Limits { idle_ms: IDLE.as_millis().try_into().unwrap(), ..Limits::default() },
    }
}

/// Waits until `south` is seen with this tip.
async fn seen(ours: &ReconcilerEnd, tip: &str) {
    loop {
        match ours.recv().await.unwrap().unwrap().0 {
            Notice::Seen { source, refs, .. }
                if source == "south" && refs.iter().any(|r| r.oid.as_str() == tip) =>
            {
                return;
            }
            Notice::Failed { source, text, .. } if source == "south" => panic!("{text}"),
            _ => {}
        }
    }
}

/// Fetches the tip from `south` and has Git make sure of it.
async fn fetched(ours: &ReconcilerEnd, want: u64, tip: &str) {
    let oid = tip.parse().unwrap();
    let request = Request::Want { want, source: "south".to_owned(), oid, haves: vec![] };
    ours.send(&request, None).await.unwrap();
    let pipe = loop {
        match ours.recv().await.unwrap().unwrap() {
            (Notice::Pack { want: number }, Some(pipe)) if number == want => break pipe,
            (Notice::Failed { want: Some(number), text, .. }, _) if number == want => panic!("{text}"),
            _ => {}
        }
    };
    let tip = tip.to_owned();
    let read = move || {
        let mut pack = Vec::new();
        std::fs::File::from(pipe).read_to_end(&mut pack).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let clone = Repo::init(dir.path(), "sha1");
        clone.index(&pack);
        clone.git(&["fsck", "--strict", &tip]);
    };
    tokio::task::spawn_blocking(read).await.unwrap();
}

/// The slowest of some pushes: until it is seen, and until it is fetched.
#[derive(Debug, Clone, Copy)]
struct Slowest {
    seen: Duration,
    fetched: Duration,
}

async fn push(ours: &ReconcilerEnd, repo: &Repo, next: &mut u64) -> Slowest {
    let mut slowest = Slowest { seen: Duration::ZERO, fetched: Duration::ZERO };
    for _ in 0..PUSHES {
        *next += 1;
        let tip = repo.commit("main", &[("a", next.to_string().as_bytes())]);
        let begun = Instant::now();
        seen(ours, &tip).await;
        slowest.seen = slowest.seen.max(begun.elapsed());
        fetched(ours, *next, &tip).await;
        slowest.fetched = slowest.fetched.max(begun.elapsed());
    }
    slowest
}

/// Waits until `north` has failed, so that what follows happens in the middle of its trouble.
async fn troubled(ours: &ReconcilerEnd) {
    loop {
        if let Notice::Failed { source, .. } = ours.recv().await.unwrap().unwrap().0
            && source == "north"
        {
            return;
        }
    }
}

fn server_error(_: scripted::Ask, to: &mut TcpStream) -> bool {
    to.write_all(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n").is_ok()
}

#[test]
fn a_remote_in_trouble_costs_the_other_nothing() {
    let (mut north, south) = (GitServer::start(), GitServer::start());
    let (behind, ahead) = (north.repo("infra"), south.repo("infra"));
    for repo in [&behind, &ahead] {
        repo.commit("main", &[("a", b"0")]);
    }
    let relay = Relay::start(north.port());
    let through = north.url("infra").replace(&north.port().to_string(), &relay.port().to_string());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (ours, theirs) = wire::pair().unwrap();
        let gateway = tokio::spawn(gateway::run(theirs, Default::default()));
        let watch = async |url: String| {
            let sources = vec![source("north", &north, url), source("south", &south, south.url("infra"))];
            ours.send(&Request::Watch { sources }, None).await.unwrap();
        };
        let mut next = 0;
        watch(through.clone()).await;
        // Both are well; the first never has what the second has.
        let healthy = push(&ours, &ahead, &mut next).await;
        println!("failover: well: {healthy:?}");
        let check = |situation: &str, took: Slowest| {
            println!("failover: {situation}: {took:?}");
            assert!(took.seen <= healthy.seen + SLACK, "{situation}: {took:?}, without {healthy:?}");
            assert!(took.fetched <= healthy.fetched + SLACK, "{situation}: {took:?}, without {healthy:?}");
        };

        relay.stall_after(0);
        check("it stalls", push(&ours, &ahead, &mut next).await);
        troubled(&ours).await;
        check("it has stalled before", push(&ours, &ahead, &mut next).await);
        relay.heal();

        watch(scripted::serve(server_error)).await;
        troubled(&ours).await;
        check("it answers with errors", push(&ours, &ahead, &mut next).await);

        watch(through).await;
        north.set_token("another");
        troubled(&ours).await;
        check("it refuses the host", push(&ours, &ahead, &mut next).await);
        drop(ours);
        gateway.await.unwrap().unwrap();
    });

    // It disappears, and nobody listens at its port any more.
    north.set_token(GitServer::TOKEN);
    runtime.block_on(async {
        let (ours, theirs) = wire::pair().unwrap();
        let gateway = tokio::spawn(gateway::run(theirs, Default::default()));
        let url = north.url("infra");
        let sources = vec![source("north", &north, url), source("south", &south, south.url("infra"))];
        ours.send(&Request::Watch { sources }, None).await.unwrap();
        let mut next = 1000;
        let healthy = push(&ours, &ahead, &mut next).await;
        north.stop();
        let took = push(&ours, &ahead, &mut next).await;
        println!("failover: it disappears: {took:?}, without {healthy:?}");
        assert!(took.seen <= healthy.seen + SLACK && took.fetched <= healthy.fetched + SLACK, "{took:?}");
        drop(ours);
        gateway.await.unwrap().unwrap();
    });
}
