//! The network's side against real Git servers: `git http-backend` behind nginx with TLS and a token, and local
//! repositories; and against scripted servers for what a real one does not do on demand.
#![allow(clippy::disallowed_methods, reason = "tests start servers and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::client::{ask, expect, fetch, fetch_on, limits, net, noise, oid, plain};
use common::git::Repo;
use common::git_server::{GitServer, Setup, wait_until};
use pullagent::model::{Https, Oid};
use pullagent::repo::net::Class;
use pullagent::repo::remote::{Limits, Link, Remote};

const MAIN: &str = "refs/heads/main";
const TEST: &str = "refs/heads/test-web1";
/// What a poll for two branches that exist may cost, both ways, the token and TLS with it.
const POLL_BYTES_MAX: u64 = 900;
/// An answer may come in one piece more or less: a chunk of HTTP and a record of TLS around it.
const PIECE_BYTES: u64 = 7 + 22;

fn remote(server: &GitServer, repo: &str) -> Remote {
    Remote {
        token_file: Some(server.token_file()),
        https: Https { ca_file: Some(server.ca_file()), ..Https::default() },
        ..plain(&server.url(repo))
    }
}

#[test]
fn exactly_the_refs_asked_for() {
    let server = GitServer::start();
    let repo = server.repo("infra.git");
    let first = repo.commit("main", &[("a", b"1")]);
    repo.git(&["update-ref", "refs/heads/main2", &first]);
    repo.git(&["update-ref", "refs/tags/main", &first]);
    repo.git(&["tag", "-m", "annotated", "v1", &first]);
    repo.git(&["symbolic-ref", "refs/heads/alias", MAIN]);
    let tip = repo.commit("main", &[("a", b"2")]);
    let remote = remote(&server, "infra.git");
    let check = |names: &[&str], expected: &[(&str, &str)]| {
        let expected: Vec<(String, Oid)> =
            expected.iter().map(|(name, id)| ((*name).to_owned(), oid(id))).collect();
        assert_eq!(ask(&remote, names), Ok(expected), "{names:?}");
    };
    check(&[MAIN], &[(MAIN, &tip)]);
    check(&[TEST], &[]);
    check(&[MAIN, TEST], &[(MAIN, &tip)]);
    check(&["refs/heads/alias"], &[("refs/heads/alias", &tip)]);
    check(&["refs/tags/main"], &[("refs/tags/main", &first)]);
    let tag = repo.git(&["rev-parse", "refs/tags/v1"]);
    check(&["refs/tags/v1"], &[("refs/tags/v1", &tag)]);
    expect(ask(&remote, &[]), Class::Local, "no ref");

    server.repo("empty.git");
    assert_eq!(ask(&Remote { url: server.url("empty.git"), ..remote }, &[MAIN]), Ok(vec![]));
}

#[test]
fn packs_by_id_are_whole_thin_and_on_one_link() {
    let server = GitServer::start();
    let repo = server.repo("infra.git");
    let big = noise(3 << 20, 1);
    let first = repo.commit("main", &[("big", &big), ("a", b"1")]);
    let second = repo.commit("main", &[("big", &big), ("a", b"2")]);
    let remote = remote(&server, "infra.git");
    let net = net();
    let link = Link::open(&remote, &net).unwrap();
    assert_eq!(link.object_format(), "sha1");

    let (full, done) = fetch_on(link, &first, &[]);
    let (bytes, link) = done.unwrap();
    assert_eq!(bytes, full.len() as u64);
    let dir = tempfile::tempdir().unwrap();
    let copy = Repo::init(dir.path(), "sha1");
    copy.index(&full);

    // By id, although no ref points there any more; thin, so it needs what was fetched first.
    repo.git(&["update-ref", MAIN, &first]);
    let (thin, done) = fetch_on(link.unwrap(), &second, &[&first]);
    let (_, link) = done.unwrap();
    assert!(thin.len() < 2000, "{} bytes", thin.len());
    copy.index(&thin);
    assert_eq!(copy.git(&["rev-list", "--objects", "--count", &second]), "7");

    // An unknown have costs bytes, not correctness; what nobody has is refused, and then the link is gone.
    let (all, done) = fetch_on(link.unwrap(), &second, &[&"d".repeat(40)]);
    assert!(all.len() > full.len());
    let (nothing, done) = fetch_on(done.unwrap().1.unwrap(), &"e".repeat(40), &[]);
    assert!(nothing.is_empty());
    expect(done, Class::Refused, "not our ref");
    let connections: std::collections::BTreeSet<u64> =
        server.requests().iter().map(|r| r.connection).collect();
    assert_eq!(connections.len(), 1);
}

/// Passes connections on to a server, and counts them and their bytes both ways, TLS records and all.
#[derive(Clone, Default)]
struct Relay {
    connections: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

impl Relay {
    /// Returns the relay and `remote` as it is reached through it.
    fn before(server: &GitServer, remote: Remote) -> (Relay, Remote) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (there, here) = (server.port(), listener.local_addr().unwrap().port());
        let relay = Relay::default();
        let counting = relay.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                counting.connections.fetch_add(1, Ordering::SeqCst);
                let client = client.unwrap();
                let server = TcpStream::connect(("127.0.0.1", there)).unwrap();
                let back = (server.try_clone().unwrap(), client.try_clone().unwrap());
                for (from, to) in [(client, server), back] {
                    let counting = counting.clone();
                    std::thread::spawn(move || counting.pass(from, to));
                }
            }
        });
        let url = remote.url.replace(&there.to_string(), &here.to_string());
        (relay, Remote { url, ..remote })
    }

    fn pass(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = [0; 16384];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            self.bytes.fetch_add(n as u64, Ordering::SeqCst);
            if to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _closed = to.shutdown(std::net::Shutdown::Both).is_ok();
    }
}

fn polls_on_one_connection(setup: Setup) {
    const POLLS: usize = 50;
    let server = GitServer::start_with(setup);
    let repo = server.repo("infra.git");
    let tip = repo.commit("main", &[("a", b"1")]);
    let (relay, remote) = Relay::before(&server, remote(&server, "infra.git"));
    let net = net();
    let mut link = Link::open(&remote, &net).unwrap();
    for _ in 0..POLLS {
        let (refs, kept) = link.ls_refs(&[MAIN, TEST]).unwrap();
        assert_eq!(refs, [(MAIN.to_owned(), oid(&tip))]);
        link = kept.unwrap();
    }
    drop(link);
    assert_eq!(relay.connections.load(Ordering::SeqCst), 1);
    // One handshake, then one request per poll; nginx logs each a moment after its answer.
    wait_until("the access log", || server.requests().len() > POLLS);
    let requests = server.requests();
    assert_eq!(requests.len(), POLLS + 1);
    assert!(requests.iter().all(|r| r.connection == requests[0].connection), "{requests:?}");
}

#[test]
fn polls_share_one_connection() {
    polls_on_one_connection(Setup::default());
    polls_on_one_connection(Setup { http2: false, ..Setup::default() });
    polls_on_one_connection(Setup { tls: false, ..Setup::default() });
}

/// A hundred thousand other refs change nothing, in bytes on the wire and in time.
#[test]
fn a_poll_costs_little_however_many_refs_there_are() {
    let server = GitServer::start();
    let repo = server.repo("infra.git");
    let tip = repo.commit("main", &[("a", b"1")]);
    repo.git(&["update-ref", TEST, &tip]);
    let (relay, remote) = Relay::before(&server, remote(&server, "infra.git"));
    let net = net();
    let mut link = Link::open(&remote, &net).unwrap().ls_refs(&[MAIN, TEST]).unwrap().1;
    let mut cost = || {
        let mut quickest = Duration::MAX;
        let before = relay.bytes.load(Ordering::SeqCst);
        for _ in 0..10 {
            let began = Instant::now();
            let (refs, kept) = link.take().unwrap().ls_refs(&[MAIN, TEST]).unwrap();
            quickest = quickest.min(began.elapsed());
            assert_eq!(refs.len(), 2);
            link = kept;
        }
        ((relay.bytes.load(Ordering::SeqCst) - before) / 10, quickest)
    };
    let (few, quick) = cost();
    repo.many_refs("refs/pull/", 50_000, &tip);
    repo.many_refs("refs/heads/b", 50_000, &tip);
    let (many, slow) = cost();
    println!("{few} bytes a poll over TLS, both ways; {many} with 100,000 other refs");
    println!("{:.2} times as long with 100,000 other refs", slow.as_secs_f64() / quick.as_secs_f64());
    assert!(many <= POLL_BYTES_MAX, "{many} bytes a poll");
    assert!(many.abs_diff(few) <= 2 * PIECE_BYTES, "{few} bytes a poll, {many} with more refs");
}

#[test]
fn each_way_to_be_turned_away_has_its_class_and_reason() {
    let mut server = GitServer::start();
    let repo = server.repo("infra.git");
    repo.commit("main", &[("a", b"1")]);
    let good = remote(&server, "infra.git");
    let check = |remote: &Remote, class, words: &str| expect(ask(remote, &[MAIN]), class, words);

    check(&Remote { https: Https::default(), ..good.clone() }, Class::Tls, "UnknownIssuer");
    check(
        &Remote {
            https: Https { ca_file: Some(server.other_ca_file()), ..Https::default() },
            ..good.clone()
        },
        Class::Tls,
        "UnknownIssuer",
    );
    check(
        &Remote { https: Https { ca_file: Some(server.token_file()), ..Https::default() }, ..good.clone() },
        Class::Local,
        "no certificate",
    );
    check(
        &Remote { https: Https { ca_file: Some("/nonexistent".into()), ..Https::default() }, ..good.clone() },
        Class::Local,
        "'/nonexistent'",
    );
    check(&Remote { token_file: None, ..good.clone() }, Class::Auth, "no token file");
    check(
        &Remote { token_file: Some("/nonexistent".into()), ..good.clone() },
        Class::Local,
        "'/nonexistent'",
    );
    check(&Remote { username: "mallory".to_owned(), ..good.clone() }, Class::Auth, "401");
    check(&Remote { url: server.url("missing.git"), ..good.clone() }, Class::NotFound, "404");
    check(&Remote { url: server.moved_url("infra.git"), ..good.clone() }, Class::Refused, "redirects");
    check(
        &Remote { url: "https://nowhere.invalid/x".to_owned(), ..good.clone() },
        Class::Dns,
        "nowhere.invalid",
    );
    for (url, words) in [
        ("http://git.example.org/x", "plain http"),
        ("http://10.0.0.1/x", "plain http"),
        ("https://me:s3cret@127.0.0.1/x", "user or a password"),
        ("git://127.0.0.1/x", "'git' is not supported"),
        ("relative/path", "not usable"),
    ] {
        check(&plain(url), Class::Local, words);
    }
    wait_until("the access log", || server.requests().len() > 3);
    let all: Vec<u16> = server.requests().iter().map(|r| r.status).collect();
    assert_eq!(all, [401, 401, 404, 301], "nothing was sent that should not have been");

    // The token is read anew for each request: when it changes on both sides, the same link goes on.
    let net = net();
    let link = Link::open(&good, &net).unwrap().ls_refs(&[MAIN]).unwrap().1.unwrap();
    server.set_token("another");
    std::fs::write(server.token_file(), "another").unwrap();
    let link = link.ls_refs(&[MAIN]).unwrap().1.unwrap();
    std::fs::write(server.token_file(), "wrong\n").unwrap();
    expect(link.ls_refs(&[MAIN]), Class::Auth, "not accepted");

    server.stop();
    check(&good, Class::Network, "refused");
}

#[test]
fn an_old_server_is_told_from_a_broken_one() {
    let server = GitServer::start_with(Setup { protocol_v2: false, ..Setup::default() });
    let repo = server.repo("infra.git");
    let tip = repo.commit("main", &[("a", b"1")]);
    repo.many_refs("refs/heads/b", 2000, &tip);
    let remote = remote(&server, "infra.git");
    expect(ask(&remote, &[MAIN]), Class::Protocol, "version 2 is needed");
}

#[test]
fn sha_256_repositories_work_alike() {
    let server = GitServer::start();
    let repo = server.repo_with("new.git", "sha256");
    let tip = repo.commit("main", &[("a", b"1")]);
    let remote = remote(&server, "new.git");
    let net = net();
    let link = Link::open(&remote, &net).unwrap();
    assert_eq!(link.object_format(), "sha256");
    let (refs, link) = link.ls_refs(&[MAIN]).unwrap();
    assert_eq!(refs, [(MAIN.to_owned(), oid(&tip))]);
    let (pack, done) = fetch_on(link.unwrap(), &tip, &[]);
    let dir = tempfile::tempdir().unwrap();
    Repo::init(dir.path(), "sha256").index(&pack);
    expect(
        done.unwrap().1.unwrap().pack(&oid(&"a".repeat(40)), &[], || unreachable!()),
        Class::Local,
        "sha256",
    );
}

#[test]
fn what_is_too_much_is_cut_off() {
    let server = GitServer::start();
    let repo = server.repo("infra.git");
    let tip = repo.commit("main", &[("big", &noise(4 << 20, 2))]);
    repo.many_refs("refs/heads/main-", 200, &tip);
    let remote = remote(&server, "infra.git");
    expect(ask(&remote, &[MAIN]), Class::Limit, "more than 100 refs");
    let few = Remote { limits: Limits { poll_bytes: 5_000, refs: 1000, ..limits() }, ..remote.clone() };
    expect(ask(&few, &[MAIN]), Class::Limit, "larger than 5000 bytes");
    let small = Remote { limits: Limits { pack_bytes: 1 << 20, ..limits() }, ..remote };
    let (pack, done) = fetch(&small, &tip, &[]);
    expect(done, Class::Limit, "larger than 1048576 bytes");
    assert!(pack.len() <= 1 << 20);
}

fn local_remote(url: &str) {
    let dir = tempfile::tempdir().unwrap();
    let repo = Repo::init(&dir.path().join("infra.git"), "sha1");
    let first = repo.commit("main", &[("a", b"1")]);
    let remote = plain(&url.replace("DIR", &dir.path().display().to_string()));
    let net = net();
    let (refs, link) = Link::open(&remote, &net).unwrap().ls_refs(&[MAIN]).unwrap();
    assert_eq!(refs, [(MAIN.to_owned(), oid(&first))]);
    assert!(link.is_none(), "a process that saw the refs once would never see them move");
    let second = repo.commit("main", &[("a", b"2")]);
    assert_eq!(ask(&remote, &[MAIN]), Ok(vec![(MAIN.to_owned(), oid(&second))]));

    let copy = Repo::init(&dir.path().join("copy.git"), "sha1");
    copy.index(&fetch(&remote, &first, &[]).0);
    let (thin, done) = fetch(&remote, &second, &[&first]);
    assert_eq!(done, Ok(thin.len() as u64));
    copy.index(&thin);
    assert_eq!(copy.git(&["rev-list", "--objects", "--count", &second]), "6");
    let (_, done) = fetch(&remote, &"e".repeat(40), &[]);
    expect(done, Class::Refused, "not our ref");

    // Whoever owns it: the operator named it. Only root can give files away.
    if rustix::process::geteuid().is_root() {
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::fs::chown(&repo.path, Some(nobody), None).unwrap();
        assert!(ask(&remote, &[MAIN]).is_ok());
    }
}

#[test]
fn a_local_path_is_a_remote_too() {
    local_remote("DIR/infra.git");
    local_remote("file://DIR/infra.git");
}

#[test]
fn a_local_path_that_is_no_repository_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing").display().to_string();
    expect(ask(&plain(&missing), &[MAIN]), Class::NotFound, "no usable directory");
    let empty = dir.path().display().to_string();
    expect(ask(&plain(&empty), &[MAIN]), Class::NotFound, "not appear to be a git repository");
    assert!(Path::new(&empty).read_dir().unwrap().next().is_none());
}
