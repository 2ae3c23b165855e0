//! Those who send much, or slowly, or nothing: they cost a bounded number of polls and a bounded time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::gateway::{Gateway, PATH_SECRET, SECRET};

/// Even whoever has the secret, or replays what had it, gets no more polls than the bound.
#[test]
fn a_flood_of_good_requests_leads_to_few_polls() {
    let mut gateway = Gateway::start();
    let request =
        format!("POST /hook/path/{PATH_SECRET} HTTP/1.1\r\nHost: web1\r\nContent-Length: 0\r\n\r\n");
    let began = Instant::now();
    let answers: Vec<String> = (0..400).map(|_| gateway.ask(request.as_bytes())).collect();
    let count = |status: &str| answers.iter().filter(|answer| answer.starts_with(status)).count();
    let (taken, refused) = (count("HTTP/1.1 202 "), count("HTTP/1.1 429 "));
    assert_eq!(taken + refused, 400);
    let seconds = began.elapsed().as_secs();
    assert!(taken >= 100 && taken as u64 <= 100 + 10 * (seconds + 1), "{taken} in {seconds} s");
    std::thread::sleep(Duration::from_secs(2));
    let (polls, seconds) = (gateway.polls("origin"), began.elapsed().as_secs() as usize);
    assert!(polls >= 2 && polls <= 2 + seconds.min(10 + seconds / 6), "{polls} polls in {seconds} s");
    assert_eq!(gateway.polls("mirror"), 1);
    assert!(gateway.lives());
}

/// All places taken by those who say nothing, or a byte a second: who comes then is served when their time is over.
#[test]
fn those_who_are_slow_are_not_waited_for() {
    let gateway = Gateway::start();
    let slow: Vec<TcpStream> = (0..32)
        .map(|n| {
            let mut stream = TcpStream::connect(gateway.address).unwrap();
            let begun = match n % 3 {
                0 => String::new(),
                1 => "POST /hook/github HTTP/1.1\r\nX: ".to_owned(),
                _ => "POST /hook/github HTTP/1.1\r\nContent-Length: 1000\r\n\r\n".to_owned(),
            };
            stream.write_all(begun.as_bytes()).unwrap();
            stream
        })
        .collect();
    let drip: Vec<TcpStream> = slow.iter().map(|stream| stream.try_clone().unwrap()).collect();
    std::thread::spawn(move || {
        for _ in 0..30 {
            std::thread::sleep(Duration::from_secs(1));
            drip.iter().skip(1).step_by(2).for_each(|mut stream| drop(stream.write_all(b"x")));
        }
    });
    let began = Instant::now();
    let request =
        format!("POST /hook/gitlab HTTP/1.1\r\nX-Gitlab-Token: {SECRET}\r\nContent-Length: 0\r\n\r\n");
    assert!(gateway.ask(request.as_bytes()).starts_with("HTTP/1.1 202 "));
    let took = began.elapsed();
    assert!(took > Duration::from_secs(5) && took < Duration::from_secs(25), "{took:?}");
    gateway.is_asked("origin", 2);
    for mut stream in slow {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let ended = stream.read_to_end(&mut Vec::new());
        let gone = ended.as_ref().is_ok_and(|_| true)
            || ended.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(gone, "{ended:?}");
    }
}
