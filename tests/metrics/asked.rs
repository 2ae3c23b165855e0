//! The exporter, asked as Prometheus asks and as others may: every bound holds, and it outlives who asks.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::exporter::Exporter;
use super::promtool::value;
use crate::host::{Host, mode};
use crate::worlds::in_sync;

#[test]
fn it_answers_one_question_and_no_other() {
    let host = Host::new();
    let mut exporter = Exporter::start(&host.root, None);
    let page = exporter.scrape();
    assert_eq!(value(&page, "pullagent_up"), Some(0.0), "no agent has run yet");
    host.publish(&in_sync());
    let page = exporter.scrape();
    assert_eq!(value(&page, "pullagent_up"), Some(1.0), "this very process");
    let status = |request: &[u8]| exporter.ask(request).split("\r\n").next().unwrap().to_owned();
    assert!(status(b"GET /metrics?x=y HTTP/1.0\r\n\r\n").ends_with("200 OK"));
    assert!(status(b"GET / HTTP/1.1\r\n\r\n").ends_with("404 Not Found"));
    assert!(status(b"POST /metrics HTTP/1.1\r\n\r\n").ends_with("405 Method Not Allowed"));
    assert!(status(b"\r\n\r\n").ends_with("400 Bad Request"));
    assert!(status(b"\xff\xfe\r\n\r\n").ends_with("400 Bad Request"));
    let long = [b"GET /metrics HTTP/1.1\r\nX: ".as_slice(), &[b'a'; 8192], b"\r\n\r\n"].concat();
    // A server that hangs up before it was told everything may be heard or not.
    let answer = exporter.ask(&long);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    std::fs::write(pullagent::report::status_path(&host.root), "{ not a status").unwrap();
    assert_eq!(value(&exporter.scrape(), "pullagent_up"), Some(0.0), "what can't be read is no sign of life");
    assert!(exporter.lives());
}

/// Whoever takes all places and says nothing keeps them for ten seconds.
#[test]
fn those_who_say_nothing_are_not_waited_for() {
    let host = Host::new();
    let exporter = Exporter::start(&host.root, None);
    let silent: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(exporter.address).unwrap()).collect();
    let began = Instant::now();
    exporter.scrape();
    let took = began.elapsed();
    assert!(took > Duration::from_secs(5) && took < Duration::from_secs(25), "{took:?}");
    drop(silent);
}

#[test]
fn the_file_is_whole_and_for_everybody() {
    let host = Host::new();
    host.publish(&in_sync());
    let dir = host.root.join("node");
    let file = dir.join("pullagent.prom");
    let mut without = Exporter::start(&host.root, Some(&file));
    assert!(
        without.scrape().contains("pullagent_up 1"),
        "no directory for the file keeps nobody from asking"
    );
    assert!(without.lives() && !dir.exists());
    std::fs::create_dir(&dir).unwrap();
    let exporter = Exporter::start(&host.root, Some(&file));
    let deadline = Instant::now() + Duration::from_secs(20);
    while !file.exists() {
        assert!(Instant::now() < deadline, "it is not written");
        std::thread::sleep(Duration::from_millis(10));
    }
    let written = std::fs::read_to_string(&file).unwrap();
    assert_eq!(value(&written, "pullagent_up"), Some(1.0));
    assert_eq!(written.lines().count(), exporter.scrape().lines().count());
    assert_eq!((mode(&file), std::fs::read_dir(&dir).unwrap().count()), (0o644, 1));
    exporter.end();
    assert!(!file.exists(), "what nobody writes any more is not to be read");
}
