//! Servers that speak version 0 or 1 of Git's protocol: real ones that do not hear which is wanted, and scripted ones for
//! what a real one does not do on demand. They are polled and fetched from as any other, within bounds, and that they
//! are old is said.
#![allow(clippy::disallowed_methods, reason = "tests start servers and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "each test takes the part it needs of what several share")]

mod common;
#[path = "store/git.rs"]
mod git;
#[path = "store/host.rs"]
mod host;

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::client::{ask, exactly, expect, fetch, fetch_on, limits, net, noise, oid, plain};
use common::git_server::{GitServer, Setup, Spoken};
use common::scripted::{Ask, FLUSH, band, capabilities, head, line, send, serve, stall, whole};
/// The pieces that other tests use too call us by this name.
use pullagent as product;
use pullagent::gateway;
use pullagent::model::{Https, Oid};
use pullagent::repo::net::{Class, Failure};
use pullagent::repo::remote::{Limits, Link, Refs, Remote, Want};
use pullagent::wire::{self, Notice, Request, Source};

const MAIN: &str = "refs/heads/main";
const TEST: &str = "refs/heads/test-web1";
const ID: &str = "0123456789abcdef0123456789abcdef01234567";
const OFFERED: &str =
    "thin-pack side-band side-band-64k ofs-delta no-progress agent=git/2 object-format=sha1";
const SECOND: Duration = Duration::from_secs(1);

fn setup(spoken: Spoken) -> Setup {
    Setup { spoken, ..Setup::default() }
}

fn believing(ca_file: impl Into<PathBuf>) -> Https {
    Https { ca_file: Some(ca_file.into()), ..Https::default() }
}

fn remote(server: &GitServer, repo: &str) -> Remote {
    Remote {
        token_file: Some(server.token_file()),
        https: believing(server.ca_file()),
        ..plain(&server.url(repo))
    }
}

/// Asks once, on a link of its own.
fn look(remote: &Remote, names: &[&str]) -> Result<Refs, Failure> {
    let net = net();
    Link::open(remote, &net)?.ls_refs(names).map(|(refs, _)| refs)
}

fn names(refs: &Refs) -> Vec<&str> {
    refs.found.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn exactly_the_refs_asked_for() {
    for spoken in [Spoken::Zero, Spoken::One] {
        let server = GitServer::start_with(setup(spoken));
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
            assert_eq!(ask(&remote, names), Ok(expected), "{names:?}, {spoken:?}");
        };
        check(&[MAIN], &[(MAIN, &tip)]);
        check(&[TEST], &[]);
        check(&["refs/heads/alias"], &[("refs/heads/alias", &tip)]);
        check(&["refs/tags/main"], &[("refs/tags/main", &first)]);
        let tag = repo.git(&["rev-parse", "refs/tags/v1"]);
        check(&["refs/tags/v1"], &[("refs/tags/v1", &tag)]);
        // HEAD, three branches, two tags; what the annotated tag stands for is no ref.
        let old = look(&remote, &[MAIN]).unwrap().old.unwrap();
        assert_eq!(old.refs, 6);
        assert!((300..2000).contains(&old.bytes), "{old:?}");

        server.repo("empty.git");
        let empty = Remote { url: server.url("empty.git"), ..remote.clone() };
        let Refs { found, old } = look(&empty, &[MAIN]).unwrap();
        assert_eq!((found, old.unwrap().refs), (vec![], 0));
    }
}

#[test]
fn a_new_server_is_not_called_old() {
    let server = GitServer::start();
    server.repo("infra.git").commit("main", &[("a", b"1")]);
    assert_eq!(look(&remote(&server, "infra.git"), &[MAIN]).unwrap().old, None);
}

#[test]
fn each_poll_is_one_request_on_one_connection() {
    const POLLS: usize = 10;
    for http2 in [true, false] {
        let server = GitServer::start_with(Setup { http2, ..setup(Spoken::Zero) });
        let repo = server.repo("infra.git");
        let first = repo.commit("main", &[("a", b"1")]);
        let remote = remote(&server, "infra.git");
        let net = net();
        let mut link = Link::open(&remote, &net).unwrap();
        for _ in 0..POLLS {
            let (refs, kept) = link.ls_refs(&[MAIN]).unwrap();
            assert_eq!(refs.found, [(MAIN.to_owned(), oid(&first))]);
            link = kept.unwrap();
        }
        // What is pushed meanwhile is seen, and fetched by one more request.
        let second = repo.commit("main", &[("a", b"2")]);
        let (refs, link) = link.ls_refs(&[MAIN]).unwrap();
        assert_eq!(refs.found, [(MAIN.to_owned(), oid(&second))]);
        let (pack, done) = fetch_on(link.unwrap(), &second, &[]);
        assert_eq!(done.unwrap().0, pack.len() as u64);
        common::git_server::wait_until("the access log", || server.requests().len() > POLLS + 1);
        let requests = server.requests();
        let posts = requests.iter().filter(|r| r.line.starts_with("POST")).count();
        assert_eq!((requests.len(), posts), (POLLS + 2, 1), "{requests:?}");
        assert!(requests.iter().all(|r| r.connection == requests[0].connection), "{requests:?}");
    }
}

#[test]
fn packs_are_whole_thin_and_by_id() {
    for spoken in [Spoken::Zero, Spoken::One] {
        let server = GitServer::start_with(setup(spoken));
        let repo = server.repo("infra.git");
        let big = noise(1 << 20, 1);
        let first = repo.commit("main", &[("big", &big), ("a", b"1")]);
        let second = repo.commit("main", &[("big", &big), ("a", b"2")]);
        let remote = remote(&server, "infra.git");
        let dir = tempfile::tempdir().unwrap();
        let copy = common::git::Repo::init(dir.path(), "sha1");
        // Over HTTP what is behind a ref is given too.
        let (full, done) = fetch(&remote, &first, &[]);
        assert_eq!(done, Ok(full.len() as u64));
        copy.index(&full);
        let (thin, done) = fetch(&remote, &second, &[&first]);
        assert_eq!(done, Ok(thin.len() as u64));
        assert!(thin.len() < 2000, "{} bytes", thin.len());
        copy.index(&thin);
        assert_eq!(copy.git(&["rev-list", "--objects", "--count", &second]), "7");
        // An unknown have costs bytes, not correctness; what nobody has is refused.
        let (all, done) = fetch(&remote, &second, &[&"d".repeat(40)]);
        assert_eq!(done, Ok(all.len() as u64));
        assert!(all.len() > full.len());
        let (nothing, done) = fetch(&remote, &"e".repeat(40), &[]);
        assert!(nothing.is_empty());
        expect(done, Class::Refused, "not our ref");
        let small = Remote { limits: Limits { pack_bytes: 1 << 19, ..limits() }, ..remote };
        expect(fetch(&small, &second, &[]).1, Class::Limit, "larger than 524288 bytes");
    }
}

#[test]
fn sha_256_repositories_work_alike() {
    let server = GitServer::start_with(setup(Spoken::Zero));
    let repo = server.repo_with("new.git", "sha256");
    let tip = repo.commit("main", &[("a", b"1")]);
    let remote = remote(&server, "new.git");
    let net = net();
    let link = Link::open(&remote, &net).unwrap();
    assert_eq!(link.object_format(), "sha256");
    let (refs, link) = link.ls_refs(&[MAIN]).unwrap();
    assert_eq!(refs.found, [(MAIN.to_owned(), oid(&tip))]);
    let (pack, done) = fetch_on(link.unwrap(), &tip, &[]);
    let dir = tempfile::tempdir().unwrap();
    common::git::Repo::init(dir.path(), "sha256").index(&pack);
    let other = oid(&"a".repeat(40));
    expect(done.unwrap().1.unwrap().pack(&exactly(&other, &[]), || unreachable!()), Class::Local, "sha256");
}

#[test]
fn a_server_without_full_history_is_told() {
    for spoken in [Spoken::Zero, Spoken::Asked] {
        let server = GitServer::start_with(setup(spoken));
        let whole = server.repo("whole.git");
        whole.commit("main", &[("a", b"1")]);
        let tip = whole.commit("main", &[("a", b"2")]);
        let shallow = server.repo("shallow.git");
        let from = format!("file://{}", whole.path.display());
        shallow.git(&["fetch", "--depth=1", &from, "main:main"]);
        let remote = remote(&server, "shallow.git");
        assert_eq!(ask(&remote, &[MAIN]), Ok(vec![(MAIN.to_owned(), oid(&tip))]));
        expect(fetch(&remote, &tip, &[]).1, Class::Shallow, "no complete history");
    }
}

/// Goal: the list is read as it comes. Method: a process of its own polls, and says how much memory it had at most.
#[test]
fn ten_thousand_refs_cost_no_memory() {
    let server = GitServer::start_with(setup(Spoken::Zero));
    let repo = server.repo("infra.git");
    let tip = repo.commit("main", &[("a", b"1")]);
    let remote = remote(&server, "infra.git");
    let few = peak_kib(&remote);
    repo.many_refs("refs/pull/", 10_000, &tip);
    let refs = look(&remote, &[MAIN]).unwrap();
    let old = refs.old.unwrap();
    assert_eq!((names(&refs), old.refs), (vec![MAIN], 10_002));
    let many = peak_kib(&remote);
    println!("{old:?}: {few} KiB with 2 refs, {many} KiB with 10,002");
    assert!(many < few + 1024, "{few} KiB with 2 refs, {many} KiB with 10,002");
}

const REMOTE: &str = "PULLAGENT_TEST_REMOTE";

fn peak_kib(remote: &Remote) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "--ignored", "--nocapture", "a_poll_that_says_how_much_memory_it_took"]);
    let files =
        [&remote.token_file, &remote.https.ca_file].map(|f| f.as_ref().unwrap().display().to_string());
    child.env(REMOTE, [&remote.url, &files[0], &files[1]].map(String::as_str).join(" "));
    let output = child.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    text.lines().find_map(|l| l.strip_prefix("peak ")).unwrap().parse().unwrap()
}

#[test]
#[ignore = "a part of the test above, which runs it"]
fn a_poll_that_says_how_much_memory_it_took() {
    let Ok(named) = std::env::var(REMOTE) else { return };
    let [url, token, ca]: [&str; 3] = named.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let remote = Remote { token_file: Some(token.into()), https: believing(ca), ..plain(url) };
    for _ in 0..3 {
        ask(&remote, &[MAIN]).unwrap();
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    println!("\npeak {}", peak.trim().trim_end_matches(" kB"));
}

/// What an old server says first: this list, whole or not.
fn listing(lines: &[&str]) -> Vec<u8> {
    let lines: Vec<u8> = lines.iter().flat_map(|l| line(format!("{l}\n"))).collect();
    [line("# service=git-upload-pack\n"), FLUSH.to_vec(), lines].concat()
}

fn main_line() -> String {
    format!("{ID} {MAIN}\0{OFFERED}")
}

/// A server whose list is `list`, and that answers requests for a pack by `answer`.
fn server(list: Vec<u8>, answer: impl Fn(&mut TcpStream) -> bool + Send + Sync + 'static) -> Remote {
    plain(&serve(move |ask, to| match ask {
        Ask::Handshake => {
            whole(ask, to, &list);
            true
        }
        Ask::Refs => panic!("an old server is not asked for refs"),
        Ask::Pack => answer(to),
    }))
}

fn listed(lines: &[&str]) -> Result<Refs, Failure> {
    let list = [listing(lines), FLUSH.to_vec()].concat();
    look(&server(list, |_| unreachable!()), &[MAIN])
}

#[test]
fn lists_that_are_not_right_are_not_understood() {
    let good = listed(&[&main_line(), &format!("{ID} refs/heads/x")]).unwrap();
    assert_eq!(names(&good), [MAIN]);
    assert_eq!(good.old.unwrap().refs, 2);
    assert_eq!(names(&listed(&["version 1", &main_line()]).unwrap()), [MAIN]);
    // A name twice counts once; without capabilities it is a list all the same.
    let twice = listed(&[&format!("{ID} {MAIN}"), &format!("{} {MAIN}", "f".repeat(40))]).unwrap();
    assert_eq!(twice.found, [(MAIN.to_owned(), oid(ID))]);
    assert_eq!(listed(&[]).unwrap().found, []);
    for bad in ["main", ID, &format!("{} {MAIN}", &ID[1..]), &format!("{ID}{ID} {MAIN}"), "version 3"] {
        expect(listed(&[bad]), Class::Protocol, "");
        expect(listed(&[&main_line(), bad]), Class::Protocol, "unexpected line");
    }
    expect(listed(&[&main_line(), "ERR out of order"]), Class::Refused, "the server says 'out of order'");
    expect(listed(&["ERR no"]), Class::Refused, "the server says 'no'");
    for end in [&b""[..], b"0001", b"0002", b"zzzz", b"0030abc"] {
        let list = [listing(&[&main_line()]), end.to_vec()].concat();
        let failure = look(&server(list, |_| unreachable!()), &[MAIN]).expect_err("a failure");
        assert_eq!(failure.class, Class::Protocol, "{end:?}: {failure}");
    }
}

#[test]
fn floods_end_at_their_limits() {
    let endless = |first: Vec<u8>, again: Vec<u8>| {
        let remote = plain(&serve(move |ask, to| {
            head(ask, to);
            send(to, &first);
            let again = again.repeat(1000);
            while send(to, &again) {}
            false
        }));
        Remote { limits: Limits { poll_within: 60 * SECOND, ..remote.limits.clone() }, ..remote }
    };
    let began = listing(&[&main_line()]);
    let more = endless(began.clone(), line(format!("{ID} refs/heads/{}\n", "x".repeat(200))));
    expect(look(&more, &[MAIN]), Class::Limit, "larger than 16777216 bytes");
    let short = endless(began.clone(), line(format!("{ID} r\n")));
    expect(look(&short, &[MAIN]), Class::Limit, "more than 200000 refs");
    let main_again = endless(began, line(format!("{ID} {MAIN}\n")));
    expect(look(&main_again, &[MAIN]), Class::Limit, "");
    let service = endless(line("# service=git-upload-pack\n"), line("x\n"));
    expect(look(&service, &[MAIN]), Class::Protocol, "unexpected line 'x'");

    let acks = server([listing(&[&main_line()]), FLUSH.to_vec()].concat(), |to| {
        head(Ask::Pack, to);
        let naks = line("NAK\n").repeat(1000);
        while send(to, &naks) {}
        false
    });
    expect(fetch(&acks, ID, &[]).1, Class::Limit, "too many lines before the pack");
    let flood = server([listing(&[&main_line()]), FLUSH.to_vec()].concat(), |to| {
        head(Ask::Pack, to);
        send(to, &line("NAK\n"));
        let data = band(1, &[7; 60_000]);
        while send(to, &data) {}
        false
    });
    let small = Remote { limits: Limits { pack_bytes: 1_000_000, ..limits() }, ..flood };
    let (got, done) = fetch(&small, ID, &[]);
    expect(done, Class::Limit, "larger than 1000000 bytes");
    assert!(got.len() <= 1_000_000);
}

#[test]
fn silence_and_drips_end_in_time() {
    let brief = |remote: Remote| Remote {
        limits: Limits { poll_within: 2 * SECOND, ..remote.limits.clone() },
        ..remote
    };
    let stalls = brief(plain(&serve(|ask, to| {
        head(ask, to);
        send(to, &listing(&[&main_line()]));
        stall(to);
        false
    })));
    let drips = brief(plain(&serve(|ask, to| {
        head(ask, to);
        send(to, &listing(&[&main_line()]));
        while send(to, &line(format!("{ID} refs/heads/x\n"))) {
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    })));
    for remote in [stalls, drips] {
        let began = Instant::now();
        expect(look(&remote, &[MAIN]), Class::Timeout, "not done within 2s");
        assert!(began.elapsed() < 6 * SECOND, "{:?}", began.elapsed());
    }
}

fn packed(answer: Vec<u8>) -> (Vec<u8>, Result<u64, Failure>) {
    let list = [listing(&[&main_line()]), FLUSH.to_vec()].concat();
    let remote = server(list, move |to| {
        whole(Ask::Pack, to, &answer);
        true
    });
    fetch(&remote, ID, &[ID])
}

#[test]
fn a_server_that_fails_is_quoted_and_not_believed() {
    let pack = [band(1, b"PACK"), band(2, b"counting"), band(1, b"more"), FLUSH.to_vec()].concat();
    for head in ["NAK\n", "ACK 0123456789abcdef0123456789abcdef01234567\n", "NAK"] {
        assert_eq!(packed([line(head), pack.clone()].concat()), (b"PACKmore".to_vec(), Ok(8)));
    }
    // Some say nothing before the pack.
    assert_eq!(packed(pack.clone()).1, Ok(8));
    let fatal =
        [line("NAK\n"), band(1, b"PACK"), band(3, b"fatal: no\x1b[2J\n"), band(1, b"x"), FLUSH.to_vec()];
    expect(packed(fatal.concat()).1, Class::Refused, "the server says 'fatal: no [2J'");
    expect(packed(line("ERR upload-pack: no\n")).1, Class::Refused, "the server says 'upload-pack: no'");
    expect(packed(line(format!("shallow {ID}\n"))).1, Class::Shallow, "no complete history");
    expect(packed(line("PACK")).1, Class::Protocol, "unexpected line 'PACK'");
    expect(packed([line("NAK\n"), FLUSH.to_vec()].concat()).1, Class::Protocol, "no pack");
    for end in [&b""[..], b"0001", b"0010\x01PA"] {
        let (_, done) = packed([&line("NAK\n")[..], &band(1, b"PACK"), end].concat());
        assert!(done.is_err(), "{end:?}: {done:?}");
    }
    // Nothing that can't be told from a pack is asked for.
    let bandless = [listing(&[&format!("{ID} {MAIN}\0ofs-delta")]), FLUSH.to_vec()].concat();
    expect(fetch(&server(bandless, |_| unreachable!()), ID, &[]).1, Class::Protocol, "side bands");
}

/// Only where nothing of it is the exact object is what may stand for it asked for.
#[test]
fn what_is_behind_a_branch_is_asked_for_by_the_branch() {
    let server = GitServer::start_with(setup(Spoken::Zero));
    let repo = server.repo("infra.git");
    let first = oid(&repo.commit("main", &[("a", b"1")]));
    let local = plain(&repo.path.display().to_string());
    let second = oid(&repo.commit("main", &[("a", b"2")]));
    for remote in [remote(&server, "infra.git"), local] {
        for (or_behind, wanted) in [(&[MAIN][..], &first), (&[MAIN], &second), (&[], &second)] {
            let net = net();
            let (mut reader, writer) = std::io::pipe().unwrap();
            let want = Want { oid: wanted, haves: &[], or_behind };
            Link::open(&remote, &net).unwrap().pack(&want, || Ok(writer.into())).unwrap();
            let mut pack = Vec::new();
            std::io::Read::read_to_end(&mut reader, &mut pack).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let copy = common::git::Repo::init(dir.path(), "sha1");
            copy.index(&pack);
            copy.git(&["cat-file", "-e", wanted.as_str()]);
        }
    }
    let nothing = Want { oid: &first, haves: &[], or_behind: &[TEST] };
    let net = net();
    repo.git(&["update-ref", MAIN, second.as_str()]);
    let link = Link::open(&remote(&server, "infra.git"), &net).unwrap();
    expect(link.pack(&nothing, || unreachable!()), Class::NotFound, "no branch that could lead to");
}

/// Goal: a server that changes is followed, and what is said of it is right. Method: a gateway polls it meanwhile.
#[test]
fn a_server_that_learns_version_2_and_forgets_it_is_followed() {
    let mut server = GitServer::start_with(setup(Spoken::Zero));
    let tip = server.repo("infra.git").commit("main", &[("a", b"1")]);
    let source = Source {
        name: "origin".to_owned(),
        url: server.url("infra.git"),
        refs: vec![MAIN.to_owned()],
        interval_ms: 200,
        calendar: None,
        username: GitServer::USER.to_owned(),
        token_file: Some(server.token_file()),
        https: believing(server.ca_file()),
        ssh_key_file: None,
        known_hosts_file: None,
        limits: wire::Limits::default(),
    };
    host::block_on(async {
        let (ours, theirs) = wire::pair().unwrap();
        let gateway = tokio::spawn(gateway::run(theirs, Default::default()));
        ours.send(&Request::Watch { sources: vec![source] }, None).await.unwrap();
        for spoken in [Spoken::Zero, Spoken::Asked, Spoken::Zero, Spoken::One, Spoken::Asked] {
            server.speak(spoken);
            let follow = async {
                loop {
                    match ours.recv().await.unwrap().unwrap().0 {
                        Notice::Seen { refs, old, .. } => {
                            assert_eq!(refs[0].oid, oid(&tip));
                            if old.is_some() == (spoken != Spoken::Asked) {
                                break;
                            }
                        }
                        // While it starts anew.
                        Notice::Failed { class: Class::Network, .. } => {}
                        other => panic!("{spoken:?}: {other:?}"),
                    }
                }
            };
            tokio::time::timeout(20 * SECOND, follow).await.unwrap();
        }
        drop(ours);
        gateway.await.unwrap().unwrap();
    });
}

/// The same without a broken connection: a kept link notices by itself, or is given up.
#[test]
fn a_kept_link_asks_anew_what_is_spoken() {
    let turn = Arc::new(AtomicUsize::new(0));
    let turns = turn.clone();
    let new = [capabilities(), [line(format!("{ID} {MAIN}\n")), FLUSH.to_vec()].concat()];
    let old = [listing(&[&main_line()]), FLUSH.to_vec()].concat();
    let remote = plain(&serve(move |ask, to| {
        let is_old = turns.load(Ordering::SeqCst) != 1;
        match (ask, is_old) {
            (Ask::Handshake, true) => whole(ask, to, &old),
            (Ask::Handshake, false) => whole(ask, to, &new[0]),
            (Ask::Refs, false) => whole(ask, to, &new[1]),
            (Ask::Refs, true) => whole(ask, to, &line("ERR upload-pack: protocol error")),
            (Ask::Pack, _) => unreachable!(),
        }
        true
    }));
    let net = net();
    let (refs, link) = Link::open(&remote, &net).unwrap().ls_refs(&[MAIN]).unwrap();
    assert!(refs.old.is_some());
    turn.store(1, Ordering::SeqCst);
    let (refs, link) = link.unwrap().ls_refs(&[MAIN]).unwrap();
    assert_eq!((names(&refs), refs.old), (vec![MAIN], None));
    turn.store(2, Ordering::SeqCst);
    expect(link.unwrap().ls_refs(&[MAIN]), Class::Refused, "protocol error");
}

/// From a real server through the import child into the trusted store, at first and then what is new.
#[test]
fn packs_are_accepted_by_the_importer() {
    let server = GitServer::start_with(setup(Spoken::Zero));
    let served = server.repo("infra.git");
    let mut repo = git::Repo::new();
    repo.write("flake.nix", "{ }\n");
    let first = repo.commit("begin");
    let mut host = host::Host::new(&first);
    let remote = remote(&server, "infra.git");
    let mut haves: Vec<String> = Vec::new();
    for n in 0..3 {
        repo.change("flake.nix", "{ n = ".to_owned() + &n.to_string() + "; }\n");
        let tip = repo.tip();
        repo.git(&["push", "-q", served.path.to_str().unwrap(), &format!("{tip}:{MAIN}")]);
        assert_eq!(ask(&remote, &[MAIN]), Ok(vec![(MAIN.to_owned(), tip.clone())]));
        let haves_now: Vec<&str> = haves.iter().map(String::as_str).collect();
        let (pack, done) = fetch(&remote, tip.as_str(), &haves_now);
        assert_eq!(done, Ok(pack.len() as u64));
        host.accept(&tip, Some(&pack));
        host.fsck();
        haves = vec![tip.as_str().to_owned()];
    }
}
