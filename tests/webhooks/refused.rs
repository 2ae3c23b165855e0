//! What is refused, and that the answer does not tell why.

use super::forge::{GITLAB, standard};
use super::gateway::{Gateway, PATH_SECRET, SECRET, STANDARD_SECRET};

fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("POST {path} HTTP/1.1\r\nHost: web1\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

#[test]
fn a_wrong_secret_looks_like_a_hook_that_is_none() {
    let mut gateway = Gateway::start();
    let ask = |path: &str, headers: &str| gateway.ask(&post(path, headers, "{}"));
    let none = ask("/hook/nothing", "");
    assert!(none.starts_with("HTTP/1.1 404 Not Found\r\n"), "{none}");
    let zeros = "0".repeat(64);
    let table = [
        ("/", String::new()),
        ("/hook/", String::new()),
        ("/hook/github", String::new()),
        ("/hook/github", format!("X-Hub-Signature-256: sha256={zeros}\r\n")),
        ("/hook/github", "X-Hub-Signature-256: sha1=abc\r\n".to_owned()),
        ("/hook/github/", format!("X-Hub-Signature-256: sha256={zeros}\r\n")),
        ("/hook/nothing", format!("Authorization: Bearer {SECRET}\r\n")),
        ("/hook/bearer", format!("Authorization: Basic {SECRET}\r\n")),
        ("/hook/bearer", format!("Authorization: Bearer {}\r\n", &SECRET[1..])),
        ("/hook/bearer/x", format!("Authorization: Bearer {SECRET}\r\n")),
        ("/hook/broken", format!("Authorization: Bearer {SECRET}\r\n")),
        ("/hook/gitlab", "X-Gitlab-Token: \r\n".to_owned()),
        ("/hook/path", String::new()),
        ("/hook/path/", String::new()),
        ("/hook/path/wrong", String::new()),
        ("//hook/bearer", format!("Authorization: Bearer {SECRET}\r\n")),
    ];
    for (path, headers) in &table {
        assert_eq!(ask(path, headers), none, "{path} {headers}");
    }
    for seconds in [-400, 400] {
        let headers = standard(STANDARD_SECRET, GITLAB, seconds).map(|line| format!("{line}\r\n")).concat();
        assert_eq!(gateway.ask(&post("/hook/signed", &headers, GITLAB)), none, "{seconds} s");
    }
    assert_eq!((gateway.polls("origin"), gateway.polls("mirror")), (1, 1));
    let log = gateway.log();
    assert!(log.contains("of the webhook 'broken', the secret in '"), "said at the start: {log}");
    assert!(
        log.contains("to the webhook 'github' was refused: it has no header 'x-hub-signature-256'"),
        "{log}"
    );
    assert!(log.matches("was refused").count() <= 11, "a flood is not a flood of the log: {log}");
    assert!(gateway.lives());
}

#[test]
fn only_post_is_answered_and_nothing_that_is_no_request() {
    let mut gateway = Gateway::start();
    let path = format!("/hook/path/{PATH_SECRET}");
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let answers = ["/", "/hook/github", &path]
            .map(|path| gateway.ask(format!("{method} {path} HTTP/1.1\r\nHost: web1\r\n\r\n").as_bytes()));
        assert!(answers[0].starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{}", answers[0]);
        assert!(answers[0].contains("\r\nallow: POST\r\n"), "{}", answers[0]);
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    }
    let head = gateway.ask(format!("HEAD {path} HTTP/1.0\r\n\r\n").as_bytes());
    assert!(head.starts_with("HTTP/1.0 405 "), "{head}");
    for rubbish in
        [&b"\r\n\r\n\0\0"[..], b"\xff\xfe\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST /\r\n\r\n"]
    {
        let answer = gateway.ask(rubbish);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    let long = format!("POST {path} HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(64 * 1024));
    let many = format!("POST {path} HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    for head in [long, many] {
        // A server that hangs up before it was told everything may be heard or not.
        let answer = gateway.ask(head.as_bytes());
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    // Two lengths, as those send who want to smuggle a second request past a proxy.
    let twice = format!("POST {path} HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 30\r\n\r\nxPOST");
    assert!(gateway.ask(twice.as_bytes()).starts_with("HTTP/1.1 400 "));
    // What follows a request is not taken for a second one.
    let second = [post(&path, "", ""), post(&path, "", "")].concat();
    assert_eq!(gateway.ask(&second).matches("HTTP/1.1").count(), 1);
    gateway.is_asked("origin", 2);
    assert!(gateway.lives());
}

/// A body is hashed as it comes and never kept; beyond a MiB not even that.
#[test]
fn large_bodies_are_refused_wherever_they_are_sent() {
    let mut gateway = Gateway::start();
    let (bearer, mib) = (format!("Authorization: Bearer {SECRET}"), 1 << 20);
    assert_eq!(gateway.post("/hook/bearer", &[&bearer], &vec![b'x'; mib]), 202);
    assert_eq!(gateway.post("/hook/bearer", &[&bearer], &vec![b'x'; mib + 1]), 413);
    assert_eq!(gateway.post("/hook/nothing", &[], &vec![b'x'; mib + 1]), 413);
    let chunked = [bearer.as_str(), "Transfer-Encoding: chunked"];
    assert_eq!(gateway.post("/hook/bearer", &chunked, &vec![b'x'; mib]), 202);
    let huge = gateway.post("/hook/bearer", &chunked, &vec![b'x'; 64 * mib]);
    assert!(huge == 413 || huge == 0, "{huge}: it hangs up on who does not stop");
    let claimed = format!("POST /hook/bearer HTTP/1.1\r\n{bearer}\r\nContent-Length: 99999999999\r\n\r\n");
    assert!(gateway.ask(claimed.as_bytes()).starts_with("HTTP/1.1 413 "));
    gateway.is_asked("origin", 3);
    assert!(gateway.lives());
}
