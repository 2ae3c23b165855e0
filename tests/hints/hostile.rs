//! The guarantee: whatever a service for hints does, remotes are polled at least as often as the configuration says for
//! hints, and not much more often than without; and the service is not asked again and again either.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::stage::{SECOND, Stage};
use crate::common::hint_server::{HintServer, repeat, send, stream, then_end, whole};

/// How long each service may do what it likes.
const SPAN: Duration = Duration::from_secs(12);
/// Between two polls without hints, and with them.
const INTERVAL: Duration = Duration::from_secs(1);
const CALM: Duration = Duration::from_secs(2);
/// More than this no connection to a client takes that stops reading: a mebibyte, and the buffers of two sockets.
const TAKEN_MAX: usize = 12 << 20;

/// Writes as much and as fast as it is taken, and counts it.
fn flood(to: &mut TcpStream, text: &str, taken: &AtomicUsize) -> bool {
    let text = text.repeat(1 + 4096 / text.len());
    while send(to, &text) {
        taken.fetch_add(text.len(), Ordering::SeqCst);
    }
    false
}

/// Lets a service do its worst to an agent. Returns how often the remote was polled, and the service was asked.
fn suffer(
    name: &str,
    long_poll: bool,
    script: impl Fn(&mut TcpStream, &AtomicUsize) -> bool + Send + Sync + 'static,
) -> (usize, usize) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counted = taken.clone();
    let server = HintServer::serve(move |_, to| script(to, &counted));
    let mut stage = if long_poll { Stage::long_poll(server.url()) } else { Stage::sse(server.url()) };
    (stage.interval, stage.calm) = (INTERVAL, CALM);
    let (polls, longest) = stage.run(async |agent| {
        let began = Instant::now();
        let (mut last, mut longest, before) = (began, Duration::ZERO, agent.seen);
        while began.elapsed() < SPAN {
            if agent.listen(SECOND / 20).await > 0 {
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
        }
        (agent.seen - before, longest.max(last.elapsed()))
    });
    let (asked, taken) = (server.asked().len(), taken.load(Ordering::SeqCst));
    println!("{name}: {polls} polls, {longest:?} apart at most, asked {asked} times, took {taken} bytes");
    // A tenth of jitter, and what a loaded machine takes for a poll.
    assert!(
        longest < CALM * 11 / 10 + 3 * SECOND,
        "{name}: a push would have been seen after {longest:?} only"
    );
    assert!(taken < asked * TAKEN_MAX, "{name}: {taken} bytes were taken");
    (polls, asked)
}

#[test]
fn a_hostile_service_costs_a_bounded_delay_and_a_bounded_number_of_polls() {
    type Script = Box<dyn Fn(&mut TcpStream, &AtomicUsize) -> bool + Send + Sync>;
    let sse =
        |script: fn(&mut TcpStream, &AtomicUsize) -> bool| -> (bool, Script) { (false, Box::new(script)) };
    let poll =
        |script: fn(&mut TcpStream, &AtomicUsize) -> bool| -> (bool, Script) { (true, Box::new(script)) };
    let table = [
        ("endless events", sse(|to, taken| stream(to) && flood(to, "data: x\n\n", taken))),
        ("an event now and then", sse(|to, _| stream(to) && repeat(to, "data: x\n\n", SECOND / 20))),
        ("an endless line", sse(|to, taken| stream(to) && flood(to, "x", taken))),
        ("an endless event", sse(|to, taken| stream(to) && flood(to, "data: x\n", taken))),
        ("endless comments", sse(|to, taken| stream(to) && flood(to, ":\n", taken))),
        ("a byte now and then", sse(|to, _| stream(to) && repeat(to, "x", SECOND / 10))),
        ("a lie of being there", sse(|to, _| stream(to) && repeat(to, ":\n\n", SECOND))),
        ("wrong content", sse(|to, _| whole(to, "200 OK", "Content-Type: text/plain\r\n", "data: x\n\n"))),
        ("redirects to itself", sse(|to, _| whole(to, "307 Temporary Redirect", "Location: /topic\r\n", ""))),
        ("failures", sse(|to, _| whole(to, "500 Internal Server Error", "Retry-After: 0\r\n", ""))),
        ("connections that end", sse(|_, _| false)),
        ("streams that end", sse(|to, _| then_end(stream(to) && send(to, "retry: 0\ndata: x\n\n")))),
        ("endless headers", sse(|to, taken| send(to, "HTTP/1.1 200 OK\r\n") && flood(to, "X: y\r\n", taken))),
        (
            "a bomb",
            sse(|to, taken| {
                send(
                    to,
                    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n",
                ) && flood(to, "\0", taken)
            }),
        ),
        ("answers at once", poll(|to, _| whole(to, "200 OK", "", "x"))),
        ("empty answers at once", poll(|to, _| whole(to, "204 No Content", "", ""))),
        ("an endless answer", poll(|to, taken| send(to, "HTTP/1.1 200 OK\r\n\r\n") && flood(to, "x", taken))),
    ];
    std::thread::scope(|scope| {
        for (name, (long_poll, script)) in table {
            scope.spawn(move || {
                let (polls, asked) = suffer(name, long_poll, script);
                // By schedule, with jitter; and for hints one every five seconds.
                let (scheduled, hinted) = (SPAN.as_secs() * 10 / 9 + 1, SPAN.as_secs() / 5 + 1);
                assert!(polls as u64 <= scheduled + hinted, "{name}: {polls} polls");
                assert!(polls >= 3, "{name}: {polls} polls");
                // A quarter of a second, doubled each time, and chance is on nobody's side for long.
                assert!(asked < 40, "{name}: asked {asked} times");
            });
        }
    });
}
