//! The rules of the client, one test each, with services that do exactly what the rule is about. Rules 6 and 8 are held at
//! their edges by the tests of the decoder and of the pace.

use std::time::Duration;

use pullagent::model::Https;
use pullagent::wire::{Address, Way};

use super::stage::{SECOND, Stage, assert_untouched, forbidden, token_file};
use crate::common::git_server::GitServer;
use crate::common::hint_server::{HintServer, repeat, send, stream, then_end, whole};

const HEARTBEAT: &str = ": still here\n\n";

/// Says something now and then for as long as the client listens.
fn stay(to: &mut std::net::TcpStream) -> bool {
    repeat(to, HEARTBEAT, SECOND / 5)
}

#[test]
fn rule_1_it_asks_for_an_event_stream_and_takes_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let server = HintServer::serve(|before, to| match before {
        0 => whole(to, "200 OK", "Content-Type: text/html\r\n", "<p>log in</p>"),
        1 => whole(to, "200 OK", "", "data: no type\n\n"),
        _ => stream(to) && stay(to),
    });
    let address = Address { url: server.url(), token_file: Some(token_file(&dir)), https: Https::default() };
    Stage::of(Way::Sse(address)).run(async |agent| {
        agent.until_lost("content type 'text/html'").await;
        agent.until_lost("content type ''").await;
        assert_eq!(agent.seen, 1, "neither is a connection");
        agent.until_connected().await;
        agent.until_polls(2).await;
    });
    let head = &server.asked()[0].head;
    assert!(head.starts_with("get /topic http/1.1\r\n"), "{head}");
    for line in ["accept: text/event-stream\r\n", "authorization: bearer t0ken\r\n"] {
        assert!(head.contains(line), "{head}");
    }
}

#[test]
fn rule_1_a_token_goes_to_its_own_address_only_and_never_in_the_clear() {
    let dir = tempfile::tempdir().unwrap();
    let (elsewhere, listener) = forbidden();
    let server =
        HintServer::serve(move |_, to| whole(to, "302 Found", &format!("Location: {elsewhere}\r\n"), ""));
    let sse = |url: &str| {
        Way::Sse(Address { url: url.to_owned(), token_file: Some(token_file(&dir)), https: Https::default() })
    };
    Stage::of(sse(&server.url()))
        .run(async |agent| agent.until_lost("302 Found; redirects are not followed").await);
    assert_untouched(&listener);
    for (url, words) in [
        ("http://192.0.2.1/topic", "plain http, which is allowed on loopback only"),
        ("https://me:secret@127.0.0.1/topic", "put the token into a file"),
    ] {
        Stage::of(sse(url)).run(async |agent| {
            agent.until_lost(words).await;
            assert!(!agent.word.text.contains("secret"));
        });
    }
}

#[test]
fn rule_1_a_certificate_must_come_from_a_known_authority() {
    let server = GitServer::start();
    let sse = |ca_file| {
        Way::Sse(Address {
            url: server.url("x"),
            token_file: None,
            https: Https { ca_file: Some(ca_file), ..Https::default() },
        })
    };
    Stage::of(sse(server.other_ca_file()))
        .run(async |agent| agent.until_lost("the TLS handshake failed").await);
    Stage::of(sse(server.ca_file())).run(async |agent| {
        agent.until_lost("401 Unauthorized; no token file is configured").await;
    });
}

/// The arithmetic of the pauses is tested where it is done; this is that it is used.
#[test]
fn rule_2_a_server_is_left_alone_as_long_as_it_asks_for() {
    let server = HintServer::serve(|before, to| match before {
        0 => whole(to, "503 Service Unavailable", "Retry-After: 1\r\n", ""),
        1 => then_end(stream(to) && send(to, "retry: 1500\ndata: x\n\n")),
        2 => then_end(stream(to)),
        _ => stream(to) && stay(to),
    });
    Stage::sse(server.url()).run(async |agent| agent.until_connected().await);
    let asked = server.asked();
    let gaps: Vec<Duration> = asked.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
    assert!(gaps[0] >= SECOND, "{gaps:?}");
    assert!(gaps[1] >= 3 * SECOND / 2 && gaps[2] >= 3 * SECOND / 2, "it holds until it is changed: {gaps:?}");
}

#[test]
fn rule_3_each_connection_leads_to_a_poll_and_the_last_id_is_sent_as_a_courtesy() {
    let server = HintServer::serve(|before, to| match before {
        // Nobody hears of a push before the connection, or between two.
        0 => then_end(stream(to) && send(to, "id: 1795217954:0\n\n")),
        _ => stream(to) && stay(to),
    });
    Stage::sse(server.url()).run(async |agent| {
        agent.until_polls(3).await;
        assert_eq!(agent.word.counts.accepted, 0, "no event had to come for it");
    });
    let asked = server.asked();
    assert!(!asked[0].head.contains("last-event-id"), "{}", asked[0].head);
    assert!(asked[1].head.contains("last-event-id: 1795217954:0\r\n"), "{}", asked[1].head);
}

#[test]
fn rule_4_only_messages_with_data_count() {
    let server = HintServer::serve(|_, to| {
        stream(to)
            && send(to, ": hi\n\nevent: ping\ndata: x\n\nevent: ping\n\nid: 7\n\n")
            && {
                // After the poll for the connection.
                std::thread::sleep(SECOND);
                send(to, "event: message\ndata: x\n\n")
            }
            && stay(to)
    });
    Stage::sse(server.url()).run(async |agent| {
        agent.until_polls(3).await;
        let counts = agent.word.counts;
        assert_eq!((counts.accepted, counts.ignored), (1, 1), "{counts:?}");
        assert_eq!(agent.listen(6 * SECOND).await, 0, "comments are nothing");
    });
}

#[test]
fn rule_5_what_a_hint_says_decides_nothing() {
    let (evil, listener) = forbidden();
    let server = HintServer::serve(move |_, to| {
        let lies = format!(
            r#"{{"ref":"refs/heads/evil","after":"{}","repository":{{"url":"{evil}"}}}}"#,
            "e".repeat(40)
        );
        stream(to) && send(to, format!("data: {lies}\n\nid: {evil}\ndata: \u{1b}[31m\0\n\n")) && stay(to)
    });
    let stage = Stage::sse(server.url());
    stage.run(async |agent| {
        agent.until_connected().await;
        // The stage sees that the remote it was told of is asked, and for the branch it was told of.
        agent.until_polls(2).await;
    });
    assert_untouched(&listener);
}

#[test]
fn rule_5_a_filter_spares_polls() {
    let server = HintServer::serve(|_, to| {
        stream(to)
            && {
                std::thread::sleep(SECOND);
                send(to, "data: another/repo\n\ndata: another/repo\n\n")
            }
            && {
                std::thread::sleep(SECOND);
                send(to, "data: pushed to me/infra\n\n")
            }
            && stay(to)
    });
    let mut stage = Stage::sse(server.url());
    stage.hint.filter = Some("me/infra".to_owned());
    stage.run(async |agent| {
        agent.until_polls(3).await;
        let counts = agent.word.counts;
        assert_eq!((counts.accepted, counts.ignored), (1, 2), "{counts:?}");
    });
}

#[test]
fn rule_7_silence_is_noticed_and_heartbeats_are_not_silence() {
    let silent = HintServer::serve(|before, to| {
        // The second one says something often enough.
        stream(to) && if before == 0 { repeat(to, "", NAP) } else { stay(to) }
    });
    let mut stage = Stage::sse(silent.url());
    stage.hint.idle_ms = 1000;
    stage.run(async |agent| {
        agent.until_lost("nothing came for 1s").await;
        agent.until_connected().await;
        agent.listen(3 * SECOND).await;
        assert!(agent.word.connected);
    });
    assert_eq!(silent.asked().len(), 2);
}

/// A write of nothing does not show that the client has gone, so naps are long.
const NAP: Duration = Duration::from_secs(3600);

#[test]
fn rule_8_hints_that_come_together_lead_to_one_poll_and_none_is_lost() {
    let server = HintServer::serve(|_, to| {
        stream(to) && send(to, "data: x\n\n".repeat(50)) && {
            std::thread::sleep(SECOND);
            // The poll has been made; what is pushed now takes another one.
            send(to, "data: y\n\n".repeat(50)) && stay(to)
        }
    });
    Stage::sse(server.url()).run(async |agent| {
        agent.until_polls(3).await;
        let counts = agent.word.counts;
        assert_eq!(counts.accepted + counts.coalesced, 100, "{counts:?}");
        assert_eq!(agent.listen(6 * SECOND).await, 0);
    });
}

#[test]
fn rule_10_polls_go_on_slower_while_hints_are_connected_and_as_before_when_they_are_not() {
    let server = HintServer::serve(|before, to| {
        // It leaves after some four seconds, and does not come back.
        then_end(before == 0 && stream(to) && (0..20).all(|_| send(to, HEARTBEAT) && nap(SECOND / 5)))
    });
    let mut stage = Stage::sse(server.url());
    stage.interval = SECOND / 4;
    stage.run(async |agent| {
        agent.until_connected().await;
        // One may have been under way.
        assert!(agent.listen(3 * SECOND / 2).await <= 1, "the interval is an hour now");
        agent.until_lost("").await;
        assert!(agent.listen(2 * SECOND).await >= 4, "the interval is a quarter of a second again");
    });
}

fn nap(span: Duration) -> bool {
    std::thread::sleep(span);
    true
}

#[test]
fn rule_11_a_long_poll_is_asked_again_unless_it_fails() {
    let server = HintServer::serve(|before, to| {
        // Longer than what counts as an answer that nobody waited for.
        nap(11 * SECOND / 10);
        match before {
            0 => whole(to, "204 No Content", "", ""),
            1 => whole(to, "304 Not Modified", "", ""),
            2 => whole(to, "408 Request Timeout", "", ""),
            3 => whole(to, "504 Gateway Timeout", "", "<html>"),
            4 => whole(
                to,
                "200 OK",
                "ETag: \"5\"\r\nLast-Modified: Sat, 21 Nov 2026 10:00:00 GMT\r\n",
                "pushed",
            ),
            5 => whole(to, "200 OK", "", "pushed"),
            _ => whole(to, "500 Internal Server Error", "", ""),
        }
    });
    Stage::long_poll(server.url()).run(async |agent| {
        agent.until_connected().await;
        agent.until_lost("500 Internal Server Error").await;
        let counts = agent.word.counts;
        assert_eq!(counts.accepted + counts.coalesced, 2, "{counts:?}");
        agent.until(|agent| agent.seen >= 3).await;
    });
    let asked = server.asked();
    let validators = |n: usize| {
        let head: &str = &asked[n].head;
        (
            head.contains("if-none-match: \"5\""),
            head.contains("if-modified-since: sat, 21 nov 2026 10:00:00 gmt"),
        )
    };
    assert_eq!(validators(5), (true, true), "what the server gave is sent back");
    assert_eq!(validators(6), (false, false), "until it gives nothing any more");
    for n in 1..7 {
        let gap = asked[n].at - asked[n - 1].at;
        assert!(gap < 10 * SECOND, "an answer is no failure, whatever it says: {gap:?} before request {n}");
    }
}

#[test]
fn rule_11_a_long_poll_without_an_answer_is_no_connection() {
    let server = HintServer::serve(|before, to| {
        if before == 0 {
            repeat(to, "", NAP)
        } else {
            nap(3 * SECOND / 2) && whole(to, "204 No Content", "", "")
        }
    });
    let mut stage = Stage::long_poll(server.url());
    stage.hint.idle_ms = 2000;
    stage.run(async |agent| {
        agent.until_lost("nothing came for 2s").await;
        agent.until_connected().await;
    });
}

#[test]
fn rule_12_too_many_requests_say_so() {
    let server = HintServer::serve(|_, to| whole(to, "429 Too Many Requests", "Retry-After: 300\r\n", ""));
    Stage::sse(server.url()).run(async |agent| {
        agent.until_lost("429 Too Many Requests; it serves").await;
        agent.listen(3 * SECOND).await;
    });
    assert_eq!(server.asked().len(), 1, "it is left alone for five minutes");
}
