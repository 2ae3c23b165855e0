//! Both ends over real sockets, and a hostile peer that writes to the socket by hand.

use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn oid(c: char) -> Oid {
    c.to_string().repeat(40).parse().expect("forty hexadecimal digits")
}

fn source() -> Source {
    Source {
        name: "origin".to_owned(),
        url: "https://git.example.org/infra.git".to_owned(),
        refs: vec!["refs/heads/main".to_owned()],
        interval_ms: 60_000,
        calendar: None,
        username: "pullagent".to_owned(),
        token_file: Some("/run/token".into()),
        https: Https::default(),
        ssh_key_file: Some("/run/key".into()),
        known_hosts_file: None,
        limits: Limits::default(),
    }
}

fn hint() -> Hint {
    Hint {
        name: "push".to_owned(),
        way: Way::Sse(Address {
            url: "https://push.example.org/sse".to_owned(),
            token_file: Some("/run/token".into()),
            https: Https::default(),
        }),
        polls: [("origin".to_owned(), 600_000)].into(),
        filter: Some("infra".to_owned()),
        splay_ms: 2000,
        idle_ms: 90_000,
    }
}

/// Runs a test on a runtime like the daemon's.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(20), test).await.unwrap() })
}

/// Returns the reconciler's end and the raw socket of a peer that may send anything.
fn hostile() -> (ReconcilerEnd, OwnedFd) {
    let (ours, theirs) = pair().unwrap();
    (ours, theirs.into_fd().unwrap())
}

/// Sends `frame` with `fds` by hand and returns what the reconciler makes of it.
fn judge(frame: &[u8], fds: &[BorrowedFd<'_>]) -> Result<Option<Notice>, String> {
    run(async {
        let (ours, theirs) = hostile();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        rustix::net::sendmsg(&theirs, &[IoSlice::new(frame)], &mut control, SendFlags::NOSIGNAL).unwrap();
        ours.recv().await.map(|got| got.map(|(notice, _)| notice)).map_err(|e| e.to_string())
    })
}

#[test]
fn messages_and_descriptors_cross() {
    run(async {
        let (ours, theirs) = pair().unwrap();
        let want = Request::Want {
            want: 7,
            source: "origin".to_owned(),
            oid: oid('a'),
            haves: vec![oid('b'), "c".repeat(64).parse().unwrap()],
        };
        for request in [
            Request::Watch { sources: vec![source()] },
            Request::Listen { hints: vec![] },
            Request::Listen { hints: vec![hint()] },
            Request::Poll { source: None },
            Request::Poll { source: Some("origin".to_owned()) },
            want,
            Request::Probe { nonce: 8, source: "origin".to_owned(), oid: oid('a'), haves: vec![oid('b')] },
        ] {
            ours.send(&request, None).await.unwrap();
            let (got, fd) = theirs.recv().await.unwrap().unwrap();
            assert_eq!((got, fd.is_none()), (request, true));
        }
        let (read, write) = std::io::pipe().unwrap();
        theirs.send(&Notice::Pack { want: 7 }, Some(read.into())).await.unwrap();
        let seen = Notice::Seen {
            source: "origin".to_owned(),
            refs: vec![Ref { name: "refs/heads/main".to_owned(), oid: oid('a') }],
            old: Some(OldProtocol { refs: 3, bytes: 200 }),
        };
        theirs.send(&seen, None).await.unwrap();
        drop(theirs);
        let (pack, fd) = ours.recv().await.unwrap().unwrap();
        assert_eq!(pack, Notice::Pack { want: 7 });
        { write }.write_all(b"PACK").unwrap();
        let mut content = String::new();
        File::from(fd.unwrap()).read_to_string(&mut content).unwrap();
        assert_eq!(content, "PACK");
        assert_eq!(ours.recv().await.unwrap().unwrap().0, seen);
        assert!(ours.recv().await.unwrap().is_none());
    });
}

#[test]
fn the_wire_format_is_plain_json() {
    let failed = Notice::Failed {
        source: "origin".to_owned(),
        want: None,
        class: Class::NotFound,
        text: text("gone"),
    };
    let json = r#"{"failed":{"source":"origin","want":null,"class":"not-found","text":"gone"}}"#;
    assert_eq!(serde_json::to_string(&failed).unwrap(), json);
    for class in [Class::Dns, Class::Tls, Class::NotFound, Class::Cancelled] {
        assert_eq!(serde_json::to_string(&class).unwrap(), format!("\"{}\"", class.as_str()));
    }
}

#[test]
fn what_is_no_message_is_refused_with_the_cause() {
    let check = |frame: &str, cause: &str| {
        let verdict = judge(frame.as_bytes(), &[]);
        let error = verdict.expect_err(frame);
        assert!(error.contains(cause), "{frame}: {error}");
    };
    let id = "a".repeat(40);
    check("{", "no known message");
    check(r#"{"open":{}}"#, "unknown variant `open`");
    check(r#"{"watch":{"sources":[]}}"#, "unknown variant `watch`");
    check(r#"{"pack":{"want":1,"path":"/etc/passwd"}}"#, "unknown field `path`");
    check(r#"{"pack":{"want":-1}}"#, "no known message");
    check(r#"{"pack":{"want":1}}"#, "carries 0 file descriptors where 1 belongs");
    check(r#"{"pack":{"want":1}} {}"#, "trailing characters");
    check(r#"{"seen":{"source":"","refs":[]}}"#, "no usable name");
    check(&format!(r#"{{"seen":{{"source":"{}","refs":[]}}}}"#, "x".repeat(256)), "no usable name");
    check(
        r#"{"seen":{"source":"a","refs":[{"name":"refs/heads/x","oid":"HEAD"}]}}"#,
        "not a full Git object id",
    );
    for name in ["main", "refs/heads/a b", "refs/../x", "refs/heads/\\u0000", "refs/heads/*"] {
        let frame = format!(r#"{{"seen":{{"source":"a","refs":[{{"name":"{name}","oid":"{id}"}}]}}}}"#);
        check(&frame, "no usable ref name");
    }
    let one = format!(r#"{{"name":"refs/heads/x","oid":"{id}"}}"#);
    let refs = vec![one; REFS_MAX + 1].join(",");
    check(&format!(r#"{{"seen":{{"source":"a","refs":[{refs}]}}}}"#), "too many refs");
    let failed =
        |text: &str| format!(r#"{{"failed":{{"source":"a","want":1,"class":"tls","text":"{text}"}}}}"#);
    check(&failed(&"x".repeat(TEXT_BYTES_MAX + 1)), "too long a text");
    check(&failed("\\u001b[2J"), "control characters");
    check(&format!("\"{}\"", "x".repeat(FRAME_BYTES_MAX)), "longer than");
    check(&"[".repeat(FRAME_BYTES_MAX), "no known message");
}

#[test]
fn descriptors_come_one_at_most_and_never_stay_open() {
    let (read, write) = std::io::pipe().unwrap();
    let end = write.as_fd();
    let seen = br#"{"seen":{"source":"a","refs":[]}}"#;
    assert!(judge(seen, &[end]).unwrap_err().contains("1 file descriptors where 0"));
    for fds in [vec![end; 2], vec![end; 4]] {
        assert!(judge(br#"{"pack":{"want":1}}"#, &fds).is_err());
    }
    assert!(judge(b"{", &[end]).is_err());
    drop(write);
    // If a copy of the write end had stayed open anywhere, this would wait for ever.
    let mut rest = Vec::new();
    { read }.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
}

#[test]
fn what_breaks_the_bounds_is_not_sent() {
    run(async {
        let (ours, theirs) = pair().unwrap();
        let only_fetched = Source { refs: vec![], ..source() };
        for many in [vec![source(); POLLED_MAX + 1], vec![only_fetched; SOURCES_MAX + 1]] {
            let error = ours.send(&Request::Watch { sources: many }, None).await.unwrap_err();
            assert!(error.to_string().contains("too many sources"), "{error}");
        }
        let long = "x".repeat(200);
        let refs = (0..REFS_MAX).map(|i| format!("refs/heads/{long}{i}")).collect();
        let big = Request::Watch { sources: vec![Source { refs, ..source() }; POLLED_MAX] };
        assert!(matches!(ours.send(&big, None).await, Err(Error::Oversized)));
        let bad = Source { url: "https://x\nHost: y".to_owned(), ..source() };
        assert!(ours.send(&Request::Watch { sources: vec![bad] }, None).await.is_err());
        ours.send(&Request::Poll { source: None }, None).await.unwrap();
        assert_eq!(theirs.recv().await.unwrap().unwrap().0, Request::Poll { source: None });
    });
}

#[test]
fn a_sender_waits_for_a_reader_that_does_not_read() {
    run(async {
        let (ours, theirs) = pair().unwrap();
        let notice = Notice::Seen { source: "x".repeat(200), refs: vec![], old: None };
        let mut sent = 0;
        while let Ok(done) = tokio::time::timeout(Duration::from_millis(50), theirs.send(&notice, None)).await
        {
            done.unwrap();
            sent += 1;
        }
        for _ in 0..sent {
            ours.recv().await.unwrap().unwrap();
        }
        drop(ours);
        // A program that another test starts just now holds a copy of the closed end until it executes.
        let refused = async {
            loop {
                match theirs.send(&notice, None).await {
                    Ok(()) => tokio::time::sleep(Duration::from_millis(10)).await,
                    Err(e) => break e,
                }
            }
        };
        let refused = tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap();
        assert!(matches!(refused, Error::Closed), "{refused}");
    });
}

#[test]
fn only_a_socket_that_keeps_frames_apart_will_do() {
    run(async {
        let (stream, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(matches!(ReconcilerEnd::from_fd(stream.into()), Err(Error::NotSeqpacket(_))));
        let (file, _other) = std::io::pipe().unwrap();
        assert!(matches!(ReconcilerEnd::from_fd(file.into()), Err(Error::Socket("inspect", _))));
    });
}

#[test]
fn explanations_fit_and_stay_on_one_line() {
    assert_eq!(text("a\nb\u{1b}[0m"), "a b [0m");
    let long = text(&"ä".repeat(1000));
    assert!(long.len() <= TEXT_BYTES_MAX && long.ends_with('…'), "{long}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn random_frames_are_refused_and_never_panic(frame in proptest::collection::vec(any::<u8>(), 1..300)) {
        prop_assert!(judge(&frame, &[]).is_err());
    }

    #[test]
    fn mutated_messages_are_valid_or_refused(at in 0usize..200, byte: u8, cut in 0usize..200) {
        let seen = Notice::Seen {
            source: "origin".to_owned(),
            refs: vec![Ref { name: "refs/heads/main".to_owned(), oid: oid('a') }],
            old: Some(OldProtocol { refs: 3, bytes: 200 }),
        };
        let mut frame = serde_json::to_vec(&seen).unwrap();
        let at = at % frame.len();
        frame[at] = byte;
        frame.truncate(frame.len() - cut % 20);
        if let Ok(Some(notice)) = judge(&frame, &[]) {
            prop_assert!(notice.offence().is_none());
        }
    }

    #[test]
    fn every_explanation_may_be_sent(raw in "\\PC{0,400}|.{0,400}") {
        let failed =
            Notice::Failed { source: "a".to_owned(), want: None, class: Class::Local, text: text(&raw) };
        prop_assert_eq!(failed.offence(), None);
    }
}
