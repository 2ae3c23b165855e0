//! When a remote is polled by itself: as soon as the network comes up, not when a long backoff ends. Plays in a network of
//! its own, which the test makes and takes down.
#![allow(clippy::disallowed_methods, reason = "tests start programs and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::git_server::GitServer;
use pullagent::gateway;
use pullagent::model::Https;
use pullagent::wire::{self, Class, Limits, Notice, ReconcilerEnd, Request, Source};

/// Polls in a row that fail before the network comes back: the next is then due within 16 s.
const FAILURES: u32 = 5;
/// The network is looked at every 3 s, and polls come within a second of a change.
const SOON: Duration = Duration::from_secs(4);
const ROUNDS: u32 = 2;

/// Runs the test below in a network namespace, which holds nothing but a loopback device.
#[test]
fn a_remote_is_polled_soon_after_the_network_has_come_up() {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--net").arg(std::env::current_exe().unwrap());
    command.args(["--exact", "inside", "--ignored", "--nocapture"]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{complaint}");
}

#[test]
#[ignore = "takes the network away from whoever is in it"]
fn inside() {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
    assert!(up.success());
    let server = GitServer::start();
    server.repo("infra.git").commit("main", &[("a", b"1")]);
    let source = Source {
        name: "origin".to_owned(),
        url: server.url("infra.git"),
        refs: vec!["refs/heads/main".to_owned()],
        // By schedule it is never polled.
        interval_ms: 3_600_000,
        username: GitServer::USER.to_owned(),
        token_file: Some(server.token_file()),
        https: Https { ca_file: Some(server.ca_file()), ..Https::default() },
        ssh_key_file: None,
        known_hosts_file: None,
        // A connection that was there when the network went says nothing any more.
        limits: Limits { idle_ms: 3000, ..Limits::default() },
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (ours, theirs) = wire::pair().unwrap();
        let gateway = tokio::spawn(gateway::run(theirs, Default::default()));
        let asked = Instant::now();
        ours.send(&Request::Watch { sources: vec![source] }, None).await.unwrap();
        while !is_answered(&ours).await {}
        // What the poll itself may take, on a machine that has more to do.
        let soon = SOON + 4 * asked.elapsed();
        address("delete");
        ours.send(&Request::Poll { source: None }, None).await.unwrap();
        for _ in 0..ROUNDS {
            let mut failures = 0;
            while failures < FAILURES {
                failures += u32::from(!is_answered(&ours).await);
            }
            address("add");
            let came_up = Instant::now();
            while !is_answered(&ours).await {}
            assert!(came_up.elapsed() < soon, "{:?} of {soon:?}", came_up.elapsed());
            address("delete");
            ours.send(&Request::Poll { source: None }, None).await.unwrap();
        }
        drop(ours);
        gateway.await.unwrap().unwrap();
    });
}

/// Waits for the end of a poll and returns whether it was answered.
async fn is_answered(ours: &ReconcilerEnd) -> bool {
    match ours.recv().await.unwrap().unwrap().0 {
        Notice::Seen { .. } => true,
        Notice::Failed { class: Class::Network | Class::Timeout, .. } => false,
        other => panic!("{other:?}"),
    }
}

/// Gives the host its only address, or takes it away.
fn address(what: &str) {
    let done = Command::new("ip").args(["address", what, "127.0.0.1/8", "dev", "lo"]).status().unwrap();
    assert!(done.success());
}
