//! The gateway as a whole, over the real socket pair: what the reconciler asks and hears, with real Git servers behind.
#![allow(clippy::disallowed_methods, reason = "tests start servers and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::future::Future;
use std::io::Read;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use common::git::Repo;
use common::git_server::{GitServer, wait_until};
use common::scripted;
use pullagent::gateway;
use pullagent::model::{Https, Oid};
use pullagent::wire::{self, Class, Limits, Notice, ReconcilerEnd, Ref, Request, Source};

const MAIN: &str = "refs/heads/main";
const SECOND: Duration = Duration::from_secs(1);
/// Longer than any test: no poll by schedule comes in between.
const NEVER_MS: u64 = 3_600_000;

/// Runs a test beside a gateway, then closes the channel and sees that the gateway ends well and at once.
fn run<T, F: Future<Output = T>>(test: impl FnOnce(Reconciler) -> F) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (ours, theirs) = wire::pair().unwrap();
        let gateway = tokio::spawn(gateway::run(theirs, Default::default()));
        let result = tokio::time::timeout(60 * SECOND, test(Reconciler(ours))).await.unwrap();
        let closed = Instant::now();
        gateway.await.unwrap().unwrap();
        assert!(closed.elapsed() < 2 * SECOND, "{:?}", closed.elapsed());
        result
    })
}

/// The reconciler's end, with the checks that all tests make.
struct Reconciler(ReconcilerEnd);

impl Reconciler {
    async fn watch(&self, sources: &[&Source]) {
        let sources = sources.iter().map(|&source| source.clone()).collect();
        self.0.send(&Request::Watch { sources }, None).await.unwrap();
    }

    async fn poll(&self, source: Option<&str>) {
        self.0.send(&Request::Poll { source: source.map(str::to_owned) }, None).await.unwrap();
    }

    async fn want(&self, want: u64, source: &str, id: &str, haves: &[&str]) {
        let haves = haves.iter().map(|have| oid(have)).collect();
        let want = Request::Want { want, source: source.to_owned(), oid: oid(id), haves };
        self.0.send(&want, None).await.unwrap();
    }

    async fn probe(&self, nonce: u64, id: &str, haves: &[&str]) {
        let haves = haves.iter().map(|have| oid(have)).collect();
        let probe = Request::Probe { nonce, source: "origin".to_owned(), oid: oid(id), haves };
        self.0.send(&probe, None).await.unwrap();
    }

    async fn hears(&self) -> (Notice, Option<OwnedFd>) {
        self.0.recv().await.unwrap().unwrap()
    }

    async fn sees(&self, source: &str, tip: Option<&str>) {
        let refs = tip.map(|tip| Ref { name: MAIN.to_owned(), oid: oid(tip) }).into_iter().collect();
        assert_eq!(self.hears().await.0, Notice::Seen { source: source.to_owned(), refs });
    }

    async fn fails(&self, name: &str, number: Option<u64>, kind: Class, words: &str) {
        match self.hears().await.0 {
            Notice::Failed { source, want, class, text } => {
                assert_eq!((source.as_str(), want, class), (name, number, kind), "{text}");
                assert!(text.contains(words), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }

    /// Returns the pack of request `number`, read to its end.
    async fn receives(&self, number: u64) -> Vec<u8> {
        let pipe = self.pipe(number).await;
        let read = move || {
            let mut pack = Vec::new();
            std::fs::File::from(pipe).read_to_end(&mut pack).unwrap();
            pack
        };
        tokio::task::spawn_blocking(read).await.unwrap()
    }

    async fn pipe(&self, number: u64) -> OwnedFd {
        let (notice, pipe) = self.hears().await;
        assert_eq!(notice, Notice::Pack { want: number });
        pipe.unwrap()
    }
}

fn oid(text: &str) -> Oid {
    text.parse().unwrap()
}

fn plain(name: &str, url: String) -> Source {
    Source {
        name: name.to_owned(),
        url,
        refs: vec![MAIN.to_owned()],
        interval_ms: NEVER_MS,
        username: GitServer::USER.to_owned(),
        token_file: None,
        https: Https::default(),
        ssh_key_file: None,
        known_hosts_file: None,
        limits: Limits::default(),
    }
}

fn source(name: &str, server: &GitServer, repo: &str) -> Source {
    Source {
        token_file: Some(server.token_file()),
        https: Https { ca_file: Some(server.ca_file()), ..Https::default() },
        ..plain(name, server.url(repo))
    }
}

/// A remote that accepts connections and never says a word.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x.git", listener.local_addr().unwrap());
    (listener, url)
}

#[test]
fn a_push_is_seen_and_its_pack_comes_through_the_pipe() {
    let server = GitServer::start();
    let repo = server.repo("infra.git");
    let first = repo.commit("main", &[("a", b"1")]);
    let source = source("origin", &server, "infra.git");
    let dir = tempfile::tempdir().unwrap();
    let copy = Repo::init(dir.path(), "sha1");
    run(async |gateway| {
        gateway.watch(&[&source]).await;
        gateway.sees("origin", Some(&first)).await;
        gateway.want(1, "origin", &first, &[]).await;
        copy.index(&gateway.receives(1).await);
        let second = repo.commit("main", &[("a", b"2")]);
        gateway.poll(Some("origin")).await;
        gateway.sees("origin", Some(&second)).await;
        gateway.want(2, "origin", &second, &[&first]).await;
        copy.index(&gateway.receives(2).await);
        assert_eq!(copy.git(&["rev-list", "--objects", "--count", &second]), "6");
        // An answered poll is told even if nothing changed; the reconciler decides what that means.
        gateway.poll(None).await;
        gateway.sees("origin", Some(&second)).await;
        gateway.want(3, "origin", &"e".repeat(40), &[]).await;
        gateway.fails("origin", Some(3), Class::Refused, "not our ref").await;
        gateway.poll(None).await;
        gateway.sees("origin", Some(&second)).await;
        gateway.want(4, "elsewhere", &second, &[]).await;
        gateway.fails("elsewhere", Some(4), Class::Local, "no such source").await;
    });
    wait_until("the access log", || server.requests().len() > 8);
    let requests = server.requests();
    let kept = requests.iter().filter(|r| r.connection == requests[0].connection).count();
    assert_eq!((kept, requests.len()), (7, 9), "a refusal, and nothing else, costs the connection");
}

#[test]
fn a_server_that_comes_back_is_seen_without_being_asked() {
    let mut server = GitServer::start();
    let repo = server.repo("infra.git");
    let tip = repo.commit("main", &[("a", b"1")]);
    let source = source("origin", &server, "infra.git");
    run(async |gateway| {
        gateway.watch(&[&source]).await;
        gateway.sees("origin", Some(&tip)).await;
        // A restart in between kills the kept connection: nobody needs to hear of that.
        server.restart();
        gateway.poll(None).await;
        gateway.sees("origin", Some(&tip)).await;
        server.stop();
        gateway.poll(None).await;
        gateway.fails("origin", None, Class::Network, "refused").await;
        server.restart();
        // The interval is an hour: only the backoff can bring this.
        loop {
            match gateway.hears().await.0 {
                Notice::Failed { class: Class::Network, .. } => {}
                Notice::Seen { .. } => break,
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn polls_come_by_schedule_and_a_stalled_remote_delays_no_other() {
    let (_listener, url) = silent();
    let stalled = plain("stalled", url);
    let dir = tempfile::tempdir().unwrap();
    let tip = Repo::init(dir.path(), "sha1").commit("main", &[("a", b"1")]);
    let healthy = Source { interval_ms: 200, ..plain("healthy", dir.path().display().to_string()) };
    run(async |gateway| {
        let began = Instant::now();
        gateway.watch(&[&stalled, &healthy]).await;
        for _ in 0..10 {
            gateway.sees("healthy", Some(&tip)).await;
        }
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(9 * 180), "{took:?}");
        assert!(took < Duration::from_millis(10 * 220) + 4 * SECOND, "{took:?}");
    });
}

#[test]
fn watching_anew_keeps_what_is_unchanged() {
    let server = GitServer::start();
    let tip = server.repo("a.git").commit("main", &[("a", b"1")]);
    server.repo("b.git");
    let (a, b) = (source("a", &server, "a.git"), source("b", &server, "b.git"));
    run(async |gateway| {
        gateway.watch(&[&a]).await;
        gateway.sees("a", Some(&tip)).await;
        gateway.watch(&[&a, &b]).await;
        gateway.sees("b", None).await;
        gateway.poll(Some("a")).await;
        gateway.sees("a", Some(&tip)).await;
        // Changed: asked at once, under the same name.
        gateway.watch(&[&Source { url: server.url("b.git"), ..a.clone() }]).await;
        gateway.sees("a", None).await;
        gateway.poll(Some("b")).await;
        gateway.poll(None).await;
        gateway.sees("a", None).await;
    });
    wait_until("the access log", || server.requests().len() > 7);
    let requests = server.requests();
    let connections: std::collections::BTreeSet<u64> = requests.iter().map(|r| r.connection).collect();
    assert_eq!((requests.len(), connections.len()), (8, 3));
}

#[test]
fn what_the_server_holds_against_us_is_told_with_its_class() {
    let server = GitServer::start();
    let repo = server.repo("infra.git");
    let tip = repo.commit("main", &[("a", b"1")]);
    let good = source("origin", &server, "infra.git");
    run(async |gateway| {
        gateway
            .watch(&[&Source {
                https: Https { ca_file: Some(server.other_ca_file()), ..Https::default() },
                ..good.clone()
            }])
            .await;
        gateway.fails("origin", None, Class::Tls, "UnknownIssuer").await;
        gateway.watch(&[&Source { url: server.url("missing.git"), ..good.clone() }]).await;
        gateway.fails("origin", None, Class::NotFound, "404").await;
        server.set_token("new");
        gateway.watch(&[&good]).await;
        gateway.fails("origin", None, Class::Auth, "not accepted").await;
        // The operator writes the new token; nothing has to be restarted.
        std::fs::write(server.token_file(), "new\n").unwrap();
        gateway.poll(None).await;
        gateway.sees("origin", Some(&tip)).await;
    });
}

#[test]
fn closing_the_pipe_calls_the_fetch_off() {
    let url = scripted::serve_a_pack_that_stalls();
    let source = plain("origin", url);
    run(async |gateway| {
        gateway.watch(&[&source]).await;
        gateway.sees("origin", None).await;
        for number in 1..3 {
            gateway.want(number, "origin", &"a".repeat(40), &[]).await;
            let pipe = gateway.pipe(number).await;
            let closed = Instant::now();
            drop(pipe);
            gateway.fails("origin", Some(number), Class::Cancelled, "went away").await;
            assert!(closed.elapsed() < SECOND, "{:?}", closed.elapsed());
        }
        // Watching no longer ends what is under way and what waits; both are told.
        gateway.want(7, "origin", &"a".repeat(40), &[]).await;
        let _kept = gateway.pipe(7).await;
        gateway.want(8, "origin", &"a".repeat(40), &[]).await;
        gateway.watch(&[]).await;
        gateway.fails("origin", Some(7), Class::Cancelled, "called off").await;
        gateway.fails("origin", Some(8), Class::Cancelled, "no longer").await;
        gateway.watch(&[&source]).await;
        gateway.sees("origin", None).await;
        // One that is under way does not keep the gateway from ending, which `run` checks.
        gateway.want(3, "origin", &"a".repeat(40), &[]).await;
        let _kept = gateway.pipe(3).await;
    });
}

#[test]
fn a_failed_fetch_is_told_before_its_pipe_ends() {
    let server = GitServer::start();
    let repo = server.repo("infra.git");
    let tip = repo.commit("main", &[("a", &[b'x'; 100_000])]);
    let mut source = source("origin", &server, "infra.git");
    source.limits.pack_bytes = 100;
    run(async |gateway| {
        gateway.watch(&[&source]).await;
        gateway.sees("origin", Some(&tip)).await;
        gateway.want(1, "origin", &tip, &[]).await;
        let pipe = gateway.pipe(1).await;
        let end = tokio::net::unix::pipe::Receiver::from_owned_fd(pipe).unwrap();
        let mut buffer = [0; 4096];
        loop {
            end.readable().await.unwrap();
            match end.try_read(&mut buffer) {
                Ok(0) => break,
                Ok(_) => {}
                Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
            }
        }
        let told =
            tokio::time::timeout(Duration::ZERO, gateway.fails("origin", Some(1), Class::Limit, "100"));
        told.await.expect("the failure was there first");
    });
}

/// What a probe shows must be so from scratch: on a connection of its own, and with what the files say now.
#[test]
fn a_probe_takes_nothing_for_granted() {
    let server = GitServer::start();
    let repo = server.repo("infra.git");
    let first = repo.commit("main", &[("a", b"1")]);
    let second = repo.commit("main", &[("a", b"2")]);
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::copy(server.ca_file(), &ca).unwrap();
    let source = Source {
        https: Https { ca_file: Some(ca.clone()), ..Https::default() },
        ..source("origin", &server, "infra.git")
    };
    let copy = Repo::init(&dir.path().join("copy"), "sha1");
    run(async |gateway| {
        gateway.watch(&[&source]).await;
        gateway.sees("origin", Some(&second)).await;
        gateway.want(1, "origin", &first, &[]).await;
        copy.index(&gateway.receives(1).await);
        gateway.probe(2, &second, &[&first]).await;
        let pack = gateway.receives(2).await;
        copy.index(&pack);
        assert_eq!(copy.git(&["rev-list", "--objects", "--count", &second]), "6");
        // A newer tip has no say.
        let third = repo.commit("main", &[("a", b"3")]);
        gateway.probe(3, &second, &[&first]).await;
        assert_eq!(gateway.receives(3).await.len(), pack.len());

        server.set_token("new");
        gateway.probe(4, &second, &[&first]).await;
        gateway.fails("origin", Some(4), Class::Auth, "not accepted").await;
        std::fs::write(server.token_file(), "new\n").unwrap();
        gateway.probe(5, &second, &[&first]).await;
        gateway.receives(5).await;
        gateway.poll(None).await;
        gateway.sees("origin", Some(&third)).await;
        // What would stop a new connection counts for the kept one, too: it is not used again.
        std::fs::copy(server.other_ca_file(), &ca).unwrap();
        gateway.poll(None).await;
        gateway.fails("origin", None, Class::Tls, "UnknownIssuer").await;
        gateway.probe(6, &second, &[&first]).await;
        gateway.fails("origin", Some(6), Class::Tls, "UnknownIssuer").await;
        std::fs::remove_file(&ca).unwrap();
        gateway.probe(7, &second, &[&first]).await;
        gateway.fails("origin", Some(7), Class::Local, "authorities").await;
        std::fs::copy(server.ca_file(), &ca).unwrap();
        gateway.probe(8, &"e".repeat(40), &[]).await;
        gateway.fails("origin", Some(8), Class::Refused, "not our ref").await;
        let lost = Source { url: "https://nowhere.invalid/infra.git".to_owned(), ..source.clone() };
        gateway.watch(&[&lost]).await;
        gateway.fails("origin", None, Class::Dns, "does not resolve").await;
        gateway.probe(9, &second, &[&first]).await;
        gateway.fails("origin", Some(9), Class::Dns, "does not resolve").await;
    });
    wait_until("the access log", || server.requests().iter().filter(|r| r.status == 200).count() > 12);
    let mut connections: Vec<u64> = server.requests().iter().map(|r| r.connection).collect();
    let (poll, probes) = (connections[0], connections.split_off(3));
    assert!(connections.iter().all(|c| *c == poll), "polls and fetches share one connection");
    assert!(probes.iter().all(|c| *c != poll), "no probe is made on it");
}

#[test]
fn a_server_that_is_gone_fails_the_probe_at_once() {
    let mut server = GitServer::start();
    let tip = server.repo("infra.git").commit("main", &[("a", b"1")]);
    let source = source("origin", &server, "infra.git");
    run(async |gateway| {
        gateway.watch(&[&source]).await;
        gateway.sees("origin", Some(&tip)).await;
        server.stop();
        gateway.probe(1, &tip, &[]).await;
        gateway.fails("origin", Some(1), Class::Network, "refused").await;
        server.restart();
        gateway.probe(2, &tip, &[]).await;
        assert!(!gateway.receives(2).await.is_empty());
        gateway.probe(3, &tip, &[]).await;
        assert!(!gateway.receives(3).await.is_empty());
    });
}
