//! A real nginx with nchan, and what the documentation of ntfy and Mercure says that they send.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::stage::{SECOND, Stage};
use crate::common::git_server::wait_until;
use crate::common::hint_server::{HintServer, send, stream, then_end};
use crate::common::nchan::Nchan;

#[test]
fn nchan_tells_of_a_push_and_survives_a_restart() {
    let mut nchan = Nchan::start();
    Stage::sse(nchan.url("sse")).run(async |agent| {
        agent.until_connected().await;
        agent.until_polls(2).await;
        nchan.publish("refs/heads/main");
        agent.until_polls(3).await;
        assert_eq!(agent.word.counts.accepted, 1);
        assert_eq!(agent.listen(6 * SECOND).await, 0, "its pings are no hints");
        nchan.restart();
        agent.until_lost("").await;
        agent.until_connected().await;
        // What was pushed meanwhile is looked for, whether it is told of or not.
        agent.until_polls(4).await;
        nchan.publish("refs/heads/main");
        agent.until_polls(5).await;
    });
}

#[test]
fn a_worker_of_nchan_that_hangs_is_noticed_by_its_silence() {
    let nchan = Nchan::start();
    let mut stage = Stage::sse(nchan.url("sse"));
    stage.hint.idle_ms = 3000;
    stage.run(async |agent| {
        agent.until_connected().await;
        nchan.freeze();
        agent.until_lost("nothing came for 3s").await;
        let polls = agent.seen;
        nchan.thaw();
        agent.until_connected().await;
        agent.until(|agent| agent.seen > polls).await;
        nchan.publish("refs/heads/main");
        agent.until(|agent| agent.word.counts.accepted + agent.word.counts.coalesced == 1).await;
    });
}

#[test]
fn nchan_resumes_after_the_last_event() {
    let nchan = Nchan::start();
    let wire = Wire::to(nchan.port());
    Stage::sse(wire.url("sse")).run(async |agent| {
        let events = |n: u64| {
            move |agent: &super::stage::Agent| agent.word.counts.accepted + agent.word.counts.coalesced == n
        };
        agent.until_connected().await;
        nchan.publish("one");
        agent.until(events(1)).await;
        wire.cut();
        agent.until_lost("").await;
        nchan.publish("two");
        nchan.publish("three");
        wire.mend();
        // All that was missed comes, and one more.
        agent.until_connected().await;
        nchan.publish("four");
        agent.until(events(4)).await;
    });
    // nginx logs a request when it ends.
    wait_until("the second stream in the log", || nchan.log().matches("GET /sse").count() >= 2);
    let log = nchan.log();
    assert!(log.lines().any(|line| line.contains("GET /sse") && !line.starts_with("\"-\"")), "{log}");
}

#[test]
fn nchan_tells_by_long_poll() {
    let nchan = Nchan::start();
    Stage::long_poll(nchan.url("poll")).run(async |agent| {
        // It answers 408 after three seconds.
        agent.until_connected().await;
        agent.until_polls(2).await;
        nchan.publish("refs/heads/main");
        agent.until_polls(3).await;
        // It goes on from there: nothing is told twice, and nothing is left out.
        assert_eq!(agent.listen(6 * SECOND).await, 0);
        nchan.publish("refs/heads/main");
        agent.until_polls(4).await;
        assert!(agent.word.connected && agent.word.counts.accepted == 2, "{:?}", agent.word);
    });
}

/// From docs.ntfy.sh/subscribe/api, "Subscribe as SSE stream".
const NTFY: [&str; 3] = [
    "event: open\ndata: {\"id\":\"weSj9RtNkj\",\"time\":1635528898,\"event\":\"open\",\"topic\":\"mytopic\"}\n\n",
    "data: {\"id\":\"p0M5y6gcCY\",\"time\":1635528909,\"event\":\"message\",\"topic\":\"mytopic\",\"message\":\"Hi!\"}\n\n",
    "event: keepalive\ndata: {\"id\":\"VNxNIg5fpt\",\"time\":1635528928,\"event\":\"keepalive\",\"topic\":\"test\"}\n\n",
];

#[test]
fn of_what_ntfy_sends_only_messages_are_hints() {
    let server = HintServer::serve(|_, to| {
        let said = |text| {
            std::thread::sleep(SECOND);
            text
        };
        then_end(stream(to) && NTFY.into_iter().cycle().take(7).all(|text| send(to, said(text))))
    });
    Stage::sse(server.url()).run(async |agent| {
        agent.until(|agent| agent.word.counts.accepted + agent.word.counts.coalesced == 2).await;
        agent.until_lost("the server ended the stream").await;
        assert_eq!(agent.word.counts.ignored, 5);
    });
}

/// From the specification of Mercure (draft-dunglas-mercure), "Subscription", and its hub: a comment at first, then
/// updates with ids.
const MERCURE: &str = ":\n\nid: urn:uuid:e1ee88e2-532a-4d6f-ba70-f0f8bd584022\ndata: {\"@id\": \"https://example.com/books/1\",\n\
     data: \"availability\": \"https://schema.org/OutOfStock\"}\n\n:\n";

#[test]
fn mercure_is_an_event_stream_like_others() {
    let server = HintServer::serve(|before, to| {
        stream(to) && {
            std::thread::sleep(SECOND);
            send(to, MERCURE) && before > 0
        }
    });
    Stage::sse(format!("{}?topic=https%3A%2F%2Fexample.com%2Fbooks%2F1", server.url())).run(async |agent| {
        agent.until(|agent| agent.word.counts.accepted + agent.word.counts.coalesced >= 2).await;
    });
    let asked = server.asked();
    assert!(asked[0].head.starts_with("get /topic?topic=https%3a%2f%2f"), "{}", asked[0].head);
    assert!(asked[1].head.contains("last-event-id: urn:uuid:e1ee88e2-532a-4d6f-ba70-f0f8bd584022"));
}

/// A connection that can be cut: everything on it ends, and nothing new comes through.
struct Wire {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    sockets: Vec<TcpStream>,
}

impl Wire {
    fn to(port: u16) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let wire = Wire { port: listener.local_addr().unwrap().port(), state: Arc::default() };
        let state = wire.state.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let mut state = state.lock().unwrap();
                if state.is_cut {
                    continue;
                }
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let _ended = io::copy(&mut from, &mut to).is_ok();
                        let _closed = to.shutdown(Shutdown::Both).is_ok();
                    });
                }
                state.sockets.extend([client, server]);
            }
        });
        wire
    }

    fn url(&self, kind: &str) -> String {
        format!("http://127.0.0.1:{}/{kind}", self.port)
    }

    fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.is_cut = true;
        for socket in state.sockets.drain(..) {
            let _closed = socket.shutdown(Shutdown::Both).is_ok();
        }
    }

    fn mend(&self) {
        self.state.lock().unwrap().is_cut = false;
    }
}
