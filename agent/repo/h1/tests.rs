//! Answers that hyper gives, however they are cut and framed, and answers that nobody should give. Hyper's client is the
//! oracle: what it makes of the same bytes is what we make of them, or we are the stricter one.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use tokio::io::DuplexStream;

use super::*;

const REQUEST: &[u8] = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi";
const PIPE_BYTES: usize = 1 << 20;
const SOON: Duration = Duration::from_secs(10);

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(SOON, future).await.unwrap() })
}

/// Reads an answer to its end.
async fn whole<S: Stream>(connection: &mut Connection<S>) -> Result<(Head, Vec<u8>), Broken> {
    let head = connection.ask(REQUEST).await?;
    let mut body = Vec::new();
    while let Some(bytes) = connection.chunk().await? {
        assert!(!bytes.is_empty(), "an empty piece looks like the end");
        body.extend_from_slice(&bytes);
    }
    Ok((head, body))
}

/// Returns what we make of `answer`, sent in pieces of `size` bytes before the connection ends; and whether the connection
/// was good for more before it ended.
fn ours(answer: &[u8], size: usize) -> Result<(u16, Vec<u8>, bool), String> {
    run(async {
        let (client, mut server) = tokio::io::duplex(PIPE_BYTES);
        let mut connection = Connection::new(client);
        let feed = async {
            server.read_exact(&mut vec![0; REQUEST.len()]).await.unwrap();
            for piece in answer.chunks(size) {
                // It may be gone already.
                let _sent = server.write_all(piece).await.is_ok();
                tokio::task::yield_now().await;
            }
            // The end comes when the pieces have been looked at.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
            server
        };
        let read = async {
            let read = whole(&mut connection).await.map_err(|e| e.to_string());
            read.map(|(head, body)| (head.status.as_u16(), body, connection.is_ready()))
        };
        if answer_needs_the_end(answer) {
            return tokio::join!(async { drop(feed.await) }, read).1;
        }
        let (server, read) = tokio::join!(feed, async { tokio::time::timeout(SOON / 20, read).await });
        drop(server);
        read.unwrap_or_else(|_| Err("it never ends".to_owned()))
    })
}

/// Whether only the end of the connection can end it.
fn answer_needs_the_end(answer: &[u8]) -> bool {
    !answer.windows(7).any(|w| w.eq_ignore_ascii_case(b"chunked") || w.eq_ignore_ascii_case(b"length:"))
}

/// Returns what hyper makes of `answer`.
fn hypers(answer: &[u8]) -> Result<(u16, Vec<u8>), String> {
    let answer = answer.to_vec();
    run(async {
        let (client, mut server) = tokio::io::duplex(PIPE_BYTES);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(client)).await.map_err(|e| e.to_string())?;
        let connection = tokio::spawn(connection);
        let served = tokio::spawn(async move {
            let _read = server.read(&mut [0; 1024]).await.is_ok();
            let _sent = server.write_all(&answer).await.is_ok();
        });
        let request = hyper::Request::post("/x").header("host", "x").body(Full::<Bytes>::from("hi")).unwrap();
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes().to_vec();
        served.await.unwrap();
        connection.abort();
        Ok((status, body))
    })
}

#[test]
fn each_framing_is_read_as_hyper_reads_it() {
    let good: [(&str, &[u8], bool); 9] = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", true),
        ("HTTP/1.1 200 OK\r\ncontent-length:5\r\nContent-Length: 5\r\n\r\nhello", b"hello", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: x, Close\r\n\r\nhello", b"hello", false),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
            b"hello",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n000\r\nA: b\r\nC: d\r\n\r\n",
            b"hello",
            true,
        ),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n.",
            b".",
            true,
        ),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", b"", true),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b"", true),
        ("HTTP/1.1 200 OK\r\nContent-Type: x\r\n\r\nhello", b"hello", false),
    ];
    for (answer, body, is_kept) in good {
        let (status, theirs) = hypers(answer.as_bytes()).unwrap();
        assert_eq!(theirs, body, "{answer}");
        for size in [1, 2, 3, 7, answer.len()] {
            assert_eq!(
                ours(answer.as_bytes(), size),
                Ok((status, body.to_vec(), is_kept)),
                "{size} {answer}"
            );
        }
    }
}

#[test]
fn what_is_no_answer_is_refused() {
    let bad = [
        ("SSH-2.0-OpenSSH_9.2\r\n\r\n", "its head is not understood"),
        ("HTTP/2 200\r\n\r\n", "its head is not understood"),
        ("HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", "another protocol"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", "in the middle"),
        ("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello", "is no number"),
        ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", "is no number"),
        ("HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nhello", "is no number"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\nhello", "is no number"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "is no number"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "two ways"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "two ways"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunkedx\r\n\r\n0\r\n\r\n", "two ways"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", "has no size"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n", "has no size"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n\r\n", "has no size"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n;x\r\n\r\n", "has no size"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n", "longer than its size"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", "in the middle"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "in the middle"),
        ("", "in the middle"),
    ];
    for (answer, why) in bad {
        for size in [1, answer.len().max(1)] {
            let said = ended(answer, size).unwrap_err();
            assert!(said.contains(why), "{said:?} of {answer:?}");
        }
    }
}

/// As [`ours`], of an answer that ends with the connection.
fn ended(answer: &str, size: usize) -> Result<Vec<u8>, String> {
    run(async {
        let (client, mut server) = tokio::io::duplex(PIPE_BYTES);
        let mut connection = Connection::new(client);
        let feed = async {
            server.read_exact(&mut vec![0; REQUEST.len()]).await.unwrap();
            for piece in answer.as_bytes().chunks(size) {
                let _sent = server.write_all(piece).await.is_ok();
            }
            drop(server);
        };
        let (read, ()) = tokio::join!(whole(&mut connection), feed);
        read.map(|(_, body)| body).map_err(|e| e.to_string())
    })
}

#[test]
fn an_endless_answer_ends_at_a_bound() {
    let flood = |head: &'static str, more: &'static str| {
        run(async {
            let (client, mut server) = tokio::io::duplex(1 << 14);
            tokio::spawn(async move {
                let mut sent = server.write_all(head.as_bytes()).await;
                while sent.is_ok() {
                    sent = server.write_all(more.as_bytes()).await;
                }
            });
            let mut connection = Connection::new(client);
            let said = whole(&mut connection).await.unwrap_err().to_string();
            (said, connection.buffer.len())
        })
    };
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases = [
        flood("HTTP/1.1 200 OK\r\nA: ", "xxxxxxxxxxxxxxxx"),
        flood("HTTP/1.1 200 OK\r\n", "A: b\r\n"),
        flood("", "HTTP/1.1 100 Continue\r\n\r\n"),
        flood(CHUNKED, "0"),
        flood("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", "xxxxxxxxxxxxxxx"),
        flood("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", "A: b\r\n"),
    ];
    for (said, kept) in cases {
        assert!(
            said.contains("more than")
                || said.contains("too many")
                || said.contains("has no size")
                || said.contains("only promises"),
            "{said}"
        );
        assert!(kept <= HEAD_BYTES_MAX + READ_BYTES * 2, "{kept}");
    }
}

#[test]
fn a_connection_serves_many_requests_until_the_server_ends_it() {
    run(async {
        let (client, server) = tokio::io::duplex(PIPE_BYTES);
        let serve = service_fn(async |request: hyper::Request<hyper::body::Incoming>| {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(&body[..], b"hi");
            let pieces = (0..3).map(|n| Ok::<_, Infallible>(Frame::data(Bytes::from(format!("piece {n}")))));
            Ok::<_, Infallible>(hyper::Response::new(StreamBody::new(futures_util::stream::iter(pieces))))
        });
        let served = tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), serve),
        );
        let mut connection = Connection::new(client);
        for _ in 0..3 {
            assert!(connection.is_ready());
            let (head, body) = whole(&mut connection).await.unwrap();
            assert_eq!((head.status, &body[..]), (StatusCode::OK, &b"piece 0piece 1piece 2"[..]));
        }
        assert!(connection.is_ready());
        served.abort();
        let _aborted = served.await.is_err();
        assert!(!connection.is_ready(), "the server has closed it");
    });
}

/// Bytes that come before anybody asked belong to no answer.
#[test]
fn a_connection_with_bytes_nobody_asked_for_is_not_used_again() {
    run(async {
        let (client, mut server): (_, DuplexStream) = tokio::io::duplex(PIPE_BYTES);
        let mut connection = Connection::new(client);
        server.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n.HTTP/1.1 200 OK\r\n").await.unwrap();
        whole(&mut connection).await.unwrap();
        assert!(!connection.is_ready());
    });
}

proptest! {
    /// Whatever comes: no panic, no endless loop, and nothing that hyper would refuse is taken for a body.
    #[test]
    fn we_are_never_laxer_than_hyper(
        status in prop::sample::select(vec!["200 OK", "204 No", "304 Not", "100 Go", "500 Bad"]),
        headers in prop::collection::vec(prop::sample::select(vec![
            "Content-Length: 3\r\n", "Content-Length: 0\r\n", "Content-Length: 3,3\r\n", "Transfer-Encoding: chunked\r\n",
            "Connection: close\r\n", "A: b\r\n", "Content-Length: x\r\n", "Transfer-Encoding: identity\r\n",
        ]), 0..4),
        body in prop::collection::vec(prop::sample::select(vec!["abc", "3\r\nabc\r\n", "0\r\n\r\n", "0\r\n", "\r\n", "zz"]), 0..5),
        size in 1_usize..40,
    ) {
        let answer = format!("HTTP/1.1 {status}\r\n{}\r\n{}", headers.concat(), body.concat());
        if let Ok(body) = ended(&answer, size) {
            let theirs = hypers(answer.as_bytes());
            prop_assert_eq!(theirs.map(|(_, body)| body), Ok(body), "{}", answer);
        }
    }
}
