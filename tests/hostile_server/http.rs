//! Lies below Git: status lines, headers, encodings, connections; and refs and capabilities that make no sense.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::bytes::zeros;
use crate::common::scripted::{Ask, FLUSH, band, capabilities, line, send, whole};
use crate::server::Script;
use crate::stage::{Expect, Stage, fetches, lists, on};

/// Answers a question for refs by these bytes instead of an HTTP answer with refs.
fn says(bytes: impl Into<Vec<u8>>) -> Script {
    let bytes = bytes.into();
    on(Ask::Refs, move |to| {
        send(to, &bytes);
        false
    })
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-result\r\n";

#[test]
fn answers_that_are_not_gits() {
    let mut stage = Stage::set();
    let elsewhere = stage.elsewhere.clone();
    for status in ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"] {
        let answer = format!("HTTP/1.1 {status}\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n");
        stage.tell(status, Expect::Trouble("refused", "redirects are not followed"), |_, _| says(answer));
    }
    for (status, class) in [
        ("401 No", "auth"),
        ("404 No", "not-found"),
        ("429 Slow", "server"),
        ("500 Oops", "server"),
        ("204 Nothing", "refused"),
        ("206 Part", "refused"),
    ] {
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        stage.tell(status, Expect::Trouble(class, &status[..3]), |_, _| says(answer));
    }
    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 18\r\n\r\n<h1>sign in</h1>\r\n";
    stage.tell("a page for people", Expect::Trouble("protocol", "text/html"), |_, _| says(page));
    let page = page.replace("text/html", "application/x-git-upload-pack-result");
    stage.tell("a page that says it is Git's", Expect::Trouble("protocol", "not understood"), |_, _| {
        says(page)
    });
    stage.tell("another program", Expect::Trouble("protocol", "not HTTP/1.1"), |_, _| {
        says("SSH-2.0-OpenSSH\r\n")
    });
    stage.tell("no answer", Expect::Trouble("network", "broke"), |_, _| says(""));
    stage.tell("headers without an end", Expect::Trouble("protocol", "too many headers"), |_, _| {
        on(Ask::Refs, |to| {
            send(to, OK.as_bytes());
            while send(to, b"X-More: and more and more and more\r\n") {}
            false
        })
    });
    stage.tell("one header without an end", Expect::Trouble("limit", "a head of more than"), |_, _| {
        on(Ask::Refs, |to| {
            send(to, format!("{OK}X-Long: ").as_bytes());
            while send(to, &[b'x'; 4096]) {}
            false
        })
    });
    stage.tell("a length beyond all numbers", Expect::Trouble("protocol", "no number"), |_, _| {
        says(format!("{OK}Content-Length: 99999999999999999999999999\r\n\r\n"))
    });
    stage.tell("two lengths", Expect::Trouble("protocol", "no number"), |_, _| {
        says(format!("{OK}Content-Length: 4\r\nContent-Length: 9000\r\n\r\n0000"))
    });
    stage.tell("an answer that is shorter than it says", Expect::Trouble("network", "broke"), |_, _| {
        says(format!("{OK}Content-Length: 1000\r\n\r\n0032"))
    });
    stage.tell("chunks that are cut", Expect::Trouble("network", "broke"), |_, _| {
        says(format!("{OK}Transfer-Encoding: chunked\r\n\r\nffff\r\n0032"))
    });
    stage.tell("chunks that are no chunks", Expect::Trouble("protocol", "no size"), |_, _| {
        says(format!("{OK}Transfer-Encoding: chunked\r\n\r\nzz\r\n0032\r\n"))
    });
    stage.tell(
        "chunk extensions without an end",
        Expect::Trouble("limit", "a size of a chunk of more than"),
        |_, _| {
            on(Ask::Refs, |to| {
                send(to, format!("{OK}Transfer-Encoding: chunked\r\n\r\n4;x=").as_bytes());
                while send(to, &[b'x'; 4096]) {}
                false
            })
        },
    );
    stage.tell(
        "a packed answer that unpacks to a GiB",
        Expect::Trouble("protocol", "not understood"),
        |_, _| {
            // Nothing is unpacked that was not asked for as packed.
            let bomb = zeros(1 << 30);
            let head = format!("{OK}Content-Encoding: deflate\r\nContent-Length: {}\r\n\r\n", bomb.len());
            says([head.as_bytes(), &bomb].concat())
        },
    );
    stage.tell("a broken connection in mid-pack", Expect::Retry("network"), |_, _| {
        on(Ask::Pack, |to| {
            send(to, format!("{OK}Content-Length: 100000\r\n\r\n").as_bytes());
            send(to, &[line("packfile\n"), band(1, b"PACK")].concat());
            false
        })
    });
}

#[test]
fn refs_and_capabilities_that_make_no_sense() {
    let mut stage = Stage::set();
    let unexpected = Expect::Trouble("protocol", "unexpected line");
    let listed = |lines: &[String]| {
        let lines: Vec<u8> = lines.iter().flat_map(line).collect();
        lists([lines, FLUSH.to_vec()].concat())
    };
    stage.tell("no id", unexpected, |_, _| listed(&["refs/heads/main\n".to_owned()]));
    stage.tell("an id in capitals", unexpected, |_, tip| {
        listed(&[format!("{} refs/heads/main\n", tip.as_str().to_uppercase())])
    });
    stage.tell("an id that is too long", unexpected, |_, tip| {
        listed(&[format!("{tip}{tip} refs/heads/main\n")])
    });
    stage.tell("an id that is no id", unexpected, |_, _| {
        listed(&[format!("{} refs/heads/main\n", "../".repeat(14))])
    });
    stage.tell("bytes that are no text", unexpected, |_, _| {
        lists([line([0xff; 60]), FLUSH.to_vec()].concat())
    });
    stage.tell("an error", Expect::Trouble("refused", "go away"), |_, _| {
        listed(&["ERR go away\n".to_owned()])
    });
    stage.tell("no list", Expect::Trouble("protocol", ""), |_, _| lists(b"zzzz".to_vec()));
    stage.tell("a list without an end", Expect::Trouble("protocol", ""), |_, tip| {
        lists(line(format!("{tip} refs/heads/main\n")))
    });
    stage.tell("a branch without a commit", Expect::Nothing, |_, _| {
        listed(&["unborn refs/heads/main\n".to_owned()])
    });
    stage.tell("a longer name", Expect::Nothing, |_, tip| listed(&[format!("{tip} refs/heads/main2\n")]));
    stage.tell("a shorter name", Expect::Nothing, |_, tip| listed(&[format!("{tip} main\n")]));
    let pack_error = [line("packfile\n"), band(3, b"fatal: no\x1b[2J\n")].concat();
    stage.tell("an error instead of a pack", Expect::Retry("refused"), |_, _| fetches(pack_error));
    stage.tell("no pack", Expect::Retry("protocol"), |_, _| fetches(FLUSH.to_vec()));
    stage.tell("a section that nobody knows", Expect::Retry("protocol"), |_, _| {
        fetches(line("packfile-uris\n"))
    });
    // Its list is believed as much as any. What it sends for a pack is none.
    stage.tell("an old protocol and nothing behind", Expect::Retry("protocol"), |_, tip| {
        let first = line(format!("{tip} refs/heads/main\0 side-band-64k\n"));
        let list = [line("# service=git-upload-pack\n"), FLUSH.to_vec(), first, FLUSH.to_vec()].concat();
        Box::new(move |request, to| {
            match request.ask {
                Ask::Refs => return Some(false),
                Ask::Handshake => whole(request.ask, to, &list),
                Ask::Pack => whole(request.ask, to, b"zzzz"),
            }
            Some(true)
        })
    });
    stage.tell("ids of another kind than announced", Expect::Trouble("protocol", ""), |_, _| {
        let text = String::from_utf8(capabilities()).unwrap();
        greets_then_honest(text.replace("object-format=sha1", "object-format=sha256").replace("0017", "0019"))
    });
}

/// Announces what it does not keep: the refs that follow are the repository's own.
fn greets_then_honest(body: String) -> Script {
    let first = AtomicBool::new(true);
    Box::new(move |request, to| match request.ask {
        Ask::Refs => first.swap(false, Ordering::Relaxed).then_some(false),
        Ask::Handshake => {
            whole(request.ask, to, body.as_bytes());
            Some(true)
        }
        Ask::Pack => None,
    })
}
