//! What a server can do to us: stall, drip, flood, lie and babble. Each ends in time, within its bounds, with its
//! reason. The servers are scripted; `remote.rs` has the real ones.
#![allow(clippy::disallowed_methods, reason = "tests start servers and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::io::Read;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use common::scripted::{Ask, FLUSH, band, capabilities, head, line, send, serve, stall, whole};
use proptest::prelude::*;
use pullagent::model::{Https, Oid};
use pullagent::repo::net::{Class, Failure, Net, Stop};
use pullagent::repo::remote::{Limits, Link, Remote, Want};

const MAIN: &str = "refs/heads/main";
const ID: &str = "0123456789abcdef0123456789abcdef01234567";
const IDLE: Duration = Duration::from_millis(400);
const WITHIN: Duration = Duration::from_millis(1500);
/// How much later than its bound something may end on a busy machine.
const SLACK: Duration = Duration::from_secs(3);

fn remote(url: &str) -> Remote {
    Remote {
        url: url.to_owned(),
        username: "pullagent".to_owned(),
        token_file: None,
        https: Https::default(),
        ssh_key_file: None,
        known_hosts_file: None,
        limits: Limits {
            refs: 100,
            poll_bytes: 100_000,
            pack_bytes: 1_000_000,
            poll_within: WITHIN,
            pack_within: WITHIN,
        },
    }
}

/// A server with a proper handshake that answers everything else by `answer`.
fn server(answer: impl Fn(&mut TcpStream) -> bool + Send + Sync + 'static) -> Remote {
    remote(&serve(move |ask, to| match ask {
        Ask::Handshake => {
            whole(ask, to, &capabilities());
            true
        }
        Ask::Refs | Ask::Pack => answer(to),
    }))
}

/// A server whose whole answer to everything but the handshake is `body`.
fn answering(body: Vec<u8>) -> Remote {
    server(move |to| {
        whole(Ask::Refs, to, &body);
        true
    })
}

fn refs(remote: &Remote) -> Result<Vec<(String, Oid)>, Failure> {
    let net = Rc::new(Net::new(Stop::default(), IDLE).unwrap());
    Link::open(remote, &net)?.ls_refs(&[MAIN]).map(|(refs, _)| refs.found)
}

/// Fetches; returns what came through the pipe, how it ended, and how long that took.
fn pack(remote: &Remote, stop: &Stop) -> (Vec<u8>, Result<u64, Failure>, Duration) {
    let net = Rc::new(Net::new(stop.clone(), IDLE).unwrap());
    let (mut reader, writer) = std::io::pipe().unwrap();
    let drain = std::thread::spawn(move || {
        let mut pack = Vec::new();
        reader.read_to_end(&mut pack).unwrap();
        pack
    });
    let began = Instant::now();
    let open = move || Ok(OwnedFd::from(writer));
    let done = Link::open(remote, &net)
        .and_then(|link| link.pack(&Want { oid: &ID.parse().unwrap(), haves: &[], or_behind: &[] }, open));
    (drain.join().unwrap(), done.map(|(bytes, _)| bytes), began.elapsed())
}

fn expect(result: Result<impl Sized, Failure>, class: Class, words: &str) {
    let failure = result.err().expect("a failure");
    assert_eq!(failure.class, class, "{failure}");
    assert!(failure.text.contains(words), "{failure}");
}

fn expect_refs(body: Vec<u8>, class: Class, words: &str) {
    expect(refs(&answering(body)), class, words);
}

fn expect_pack(body: Vec<u8>, class: Class, words: &str) {
    expect(pack(&answering(body), &Stop::default()).1, class, words);
}

#[test]
fn silence_ends_after_the_idle_time() {
    let silent = remote(&serve(|_, to| {
        stall(to);
        false
    }));
    expect(refs(&silent), Class::Timeout, "nothing happened for 400ms");
    let half = server(|to| {
        head(Ask::Pack, to);
        send(to, &[line("packfile\n"), band(1, b"PACK")].concat());
        stall(to);
        false
    });
    let (got, done, took) = pack(&half, &Stop::default());
    expect(done, Class::Timeout, "nothing happened for 400ms");
    assert_eq!(got, b"PACK");
    assert!((IDLE..IDLE + SLACK).contains(&took), "{took:?}");
}

#[test]
fn a_drip_ends_at_the_deadline() {
    for drop_of in [band(1, b"x"), band(1, b""), band(2, b"counting objects")] {
        let drip = server(move |to| {
            head(Ask::Pack, to);
            send(to, &line("packfile\n"));
            while send(to, &drop_of) {
                std::thread::sleep(Duration::from_millis(20));
            }
            false
        });
        let (_, done, took) = pack(&drip, &Stop::default());
        expect(done, Class::Timeout, "not done within 1.5s");
        assert!(took < WITHIN + SLACK, "{took:?}");
    }
}

#[test]
fn being_called_off_ends_it_at_once() {
    let silent = server(|to| {
        head(Ask::Pack, to);
        send(to, &[line("packfile\n"), band(1, b"PACK")].concat());
        stall(to);
        false
    });
    let stop = Stop::default();
    let switch = stop.clone();
    std::thread::spawn(move || {
        std::thread::sleep(IDLE / 2);
        switch.stop();
    });
    let (_, done, took) = pack(&silent, &stop);
    expect(done, Class::Cancelled, "called off");
    assert!(took < IDLE, "{took:?}");
}

#[test]
fn a_reader_that_goes_away_ends_it_at_once_even_if_the_server_is_silent() {
    let silent = server(|to| {
        head(Ask::Pack, to);
        send(to, &[line("packfile\n"), band(1, b"PACK")].concat());
        stall(to);
        false
    });
    let net = Rc::new(Net::new(Stop::default(), 10 * SLACK).unwrap());
    let remote = Remote { limits: Limits { pack_within: 10 * SLACK, ..silent.limits.clone() }, ..silent };
    let (reader, writer) = std::io::pipe().unwrap();
    std::thread::spawn(move || {
        std::thread::sleep(IDLE);
        drop(reader);
    });
    let began = Instant::now();
    let link = Link::open(&remote, &net).unwrap();
    expect(
        link.pack(&Want { oid: &ID.parse().unwrap(), haves: &[], or_behind: &[] }, || Ok(writer.into())),
        Class::Cancelled,
        "went away",
    );
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
}

#[test]
fn a_reader_that_does_not_read_is_not_waited_for_for_ever() {
    let fast = answering([line("packfile\n"), band(1, &[7; 60_000]).repeat(10), FLUSH.to_vec()].concat());
    let net = Rc::new(Net::new(Stop::default(), IDLE).unwrap());
    let (_reader, writer) = std::io::pipe().unwrap();
    let link = Link::open(&fast, &net).unwrap();
    expect(
        link.pack(&Want { oid: &ID.parse().unwrap(), haves: &[], or_behind: &[] }, || Ok(writer.into())),
        Class::Timeout,
        "nothing happened",
    );
}

#[test]
fn floods_end_at_their_limits() {
    // What is looked for here is the bound on bytes; a busy machine must not come to the one on time before.
    let patient = |remote: Remote| Remote {
        limits: Limits { pack_within: 10 * SLACK, ..remote.limits.clone() },
        ..remote
    };
    let flood = |what: Vec<u8>| {
        patient(server(move |to| {
            head(Ask::Pack, to);
            send(to, &line("packfile\n"));
            while send(to, &what) {}
            false
        }))
    };
    let (got, done, _) = pack(&flood(band(1, &[7; 60_000])), &Stop::default());
    expect(done, Class::Limit, "larger than 1000000 bytes");
    assert!(got.len() <= 1_000_000);
    let (got, done, _) = pack(&flood(band(1, b"").repeat(10_000)), &Stop::default());
    expect(done, Class::Limit, "larger than");
    assert!(got.is_empty());
    let acks = [line("acknowledgments\n"), line(format!("ACK {ID}\n")).repeat(100_000)].concat();
    expect_pack(acks, Class::Limit, "too many lines before the pack");

    let endless = |first: Vec<u8>, again: Vec<u8>| {
        remote(&serve(move |ask, to| {
            if ask == Ask::Handshake && first.is_empty() {
                whole(ask, to, &capabilities());
                return true;
            }
            head(ask, to);
            send(to, &first);
            while send(to, &again) {}
            false
        }))
    };
    let greeting = [line("# service=git-upload-pack\n"), FLUSH.to_vec(), line("version 2\n")].concat();
    expect(refs(&endless(greeting, line("x=y\n"))), Class::Limit, "larger than 100000 bytes");
    let many = endless(Vec::new(), line(format!("{ID} refs/heads/main-x\n")));
    expect(refs(&many), Class::Limit, "more than 100 refs");
}

#[test]
fn a_server_that_fails_is_quoted_and_not_believed() {
    let fatal = [
        line("packfile\n"),
        band(1, b"PACK"),
        band(3, b"fatal: out of\x1b[2J memory\n"),
        band(1, b"more"),
        FLUSH.to_vec(),
    ];
    expect_pack(fatal.concat(), Class::Refused, "the server says 'fatal: out of [2J memory'");
    expect_pack(line("ERR upload-pack: no\n"), Class::Refused, "the server says 'upload-pack: no'");
    expect_refs(line("ERR access denied\n"), Class::Refused, "the server says 'access denied'");

    // Where a pack ends only the importer can tell: framing that is intact is passed on.
    let cut = [line("packfile\n"), band(1, b"PACK"), FLUSH.to_vec()].concat();
    assert_eq!(pack(&answering(cut), &Stop::default()).1, Ok(4));
    for end in [&b""[..], b"0001", b"0010\x01PA"] {
        let body = [&line("packfile\n")[..], &band(1, b"PACK"), end].concat();
        let done = pack(&answering(body), &Stop::default()).1;
        assert!(done.is_err(), "{end:?}: {done:?}");
    }
    let short = server(|to| {
        send(to, b"HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\n");
        send(to, b"Content-Length: 1000\r\n\r\n");
        send(to, &[line("packfile\n"), band(1, b"PACK")].concat());
        false
    });
    expect(pack(&short, &Stop::default()).1, Class::Network, "the connection broke");
}

#[test]
fn what_was_not_asked_for_is_not_understood() {
    let shallow = [line("shallow-info\n"), line(format!("shallow {ID}\n")), b"0001".to_vec()];
    expect_pack([shallow.concat(), line("packfile\n")].concat(), Class::Shallow, "no complete history");
    expect_pack(FLUSH.to_vec(), Class::Protocol, "no pack");
    expect_pack(b"zzzz".to_vec(), Class::Protocol, "not understood");
    let both = |a: &str| [line(a), FLUSH.to_vec()].concat();
    expect_refs(both("main\n"), Class::Protocol, "unexpected line 'main'");
    expect_refs(both(&format!("{} {MAIN}\n", ID.to_uppercase())), Class::Protocol, "unexpected line");
    expect_refs(both(&format!("{ID}{ID} {MAIN}\n")), Class::Protocol, "unexpected line");
    expect_refs([line(format!("{ID} {MAIN}\n")), b"0001".to_vec()].concat(), Class::Protocol, "");
    expect_refs(line(format!("{ID} {MAIN}\n")), Class::Protocol, "");
    let raw = |answer: &'static str| {
        remote(&serve(move |_, to| {
            send(to, answer.as_bytes());
            false
        }))
    };
    let login = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi";
    expect(refs(&raw(login)), Class::Protocol, "content type 'text/html'");
    expect(refs(&raw("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")), Class::Server, "503");
    expect(refs(&raw("HTTP/1.1 429 Slow\r\nContent-Length: 0\r\n\r\n")), Class::Server, "429");
    expect(refs(&raw("SSH-2.0-OpenSSH\r\n")), Class::Protocol, "not HTTP/1.1");
}

/// One server whose answers the property test below changes between runs.
static BODY: Mutex<Vec<u8>> = Mutex::new(Vec::new());

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn mutated_answers_end_in_an_answer_or_a_failure(at in any::<usize>(), bytes in proptest::collection::vec(any::<u8>(), 0..12), cut in 0usize..8) {
        static URL: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| serve(|ask, to| {
            whole(ask, to, &BODY.lock().unwrap());
            true
        }));
        let remote = remote(&URL);
        let good = [
            [line(format!("{ID} {MAIN}\n")), FLUSH.to_vec()].concat(),
            [line("packfile\n"), band(1, b"PACK"), band(2, b"x"), FLUSH.to_vec()].concat(),
            capabilities(),
        ];
        for (body, kind) in good.into_iter().zip(0..) {
            let net = Rc::new(Net::new(Stop::default(), IDLE).unwrap());
            *BODY.lock().unwrap() = capabilities();
            let link = (kind < 2).then(|| Link::open(&remote, &net).unwrap());
            let mut body = body;
            let at = at % body.len();
            body.splice(at..(at + bytes.len()).min(body.len()), bytes.iter().copied());
            body.truncate(body.len().saturating_sub(cut));
            *BODY.lock().unwrap() = body;
            let (_reader, writer) = std::io::pipe().unwrap();
            match (link, kind) {
                (Some(link), 0) => if let Ok((refs, _)) = link.ls_refs(&[MAIN]) {
                    prop_assert!(refs.found.iter().all(|(name, _)| name == MAIN));
                },
                (Some(link), _) => drop(link.pack(&Want { oid: &ID.parse().unwrap(), haves: &[], or_behind: &[] }, || Ok(writer.into()))),
                (None, _) => drop(Link::open(&remote, &net)),
            }
        }
    }
}
