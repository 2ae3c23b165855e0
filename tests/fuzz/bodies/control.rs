//! The control socket: any bytes from a local user. The server answers in HTTP or closes, in time, and no order that
//! breaks a bound gets to the loop.

use std::sync::Arc;
use std::time::Duration;

use pullagent::control::{protocol, server};
use pullagent::model::Command;
use pullagent::report::Snapshot;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

/// How long one answer may take; the server has no reason to wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A server with a loop behind it that says yes to everything.
struct Served {
    root: tempfile::TempDir,
    runtime: Runtime,
    orders: std::sync::mpsc::Receiver<Command>,
}

thread_local! {
    static SERVED: Served = serve();
}

fn serve() -> Served {
    let root = super::scratch();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (heard, orders) = std::sync::mpsc::channel();
    let (sender, mut receiver) = mpsc::channel::<server::Ordered>(8);
    let path = root.path().to_owned();
    runtime.spawn(async move {
        let listener = server::bind(&path).unwrap();
        let (_keep, snapshot) = watch::channel(Arc::new(Snapshot::default()));
        server::serve(listener, sender, snapshot, Arc::new(super::settings())).await.unwrap();
    });
    runtime.spawn(async move {
        while let Some((command, reply)) = receiver.recv().await {
            heard.send(command).unwrap();
            reply.send(Ok("heard".to_owned())).ok();
        }
    });
    runtime.block_on(async {
        while !protocol::socket_path(root.path()).exists() {
            tokio::task::yield_now().await;
        }
    });
    Served { root, runtime, orders }
}

/// The first byte chooses between a whole request and the body of an order.
pub fn check(data: &[u8]) -> bool {
    let Some((choice, rest)) = data.split_first() else { return false };
    let request = match choice & 1 {
        0 => rest.to_vec(),
        _ => {
            let head = format!(
                "POST /v1/command HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
                rest.len()
            );
            [head.as_bytes(), rest].concat()
        }
    };
    SERVED.with(|served| {
        let answer = served.runtime.block_on(exchange(served, &request));
        // The library speaks HTTP/2, too, to whoever begins with it: frames instead of a status line.
        let framed = request.starts_with(b"PRI * HTTP/2.0\r\n");
        assert!(
            answer.is_empty() || framed || answer.starts_with(b"HTTP/1."),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        let mut heard = false;
        for command in served.orders.try_iter() {
            heard = true;
            if let Command::Suspend { reason: Some(reason), .. } = &command {
                assert!(reason.chars().count() <= protocol::REASON_MAX);
            }
        }
        heard
    })
}

async fn exchange(served: &Served, request: &[u8]) -> Vec<u8> {
    let socket = tokio::net::UnixStream::connect(protocol::socket_path(served.root.path())).await.unwrap();
    let (mut reader, mut writer) = socket.into_split();
    let mut answer = Vec::new();
    let both = async {
        // The server may refuse to read on.
        let write = async {
            writer.write_all(request).await.ok();
            writer.shutdown().await.ok();
        };
        let (_, read) = tokio::join!(write, reader.read_to_end(&mut answer));
        read.ok();
    };
    tokio::time::timeout(ANSWER_WITHIN, both).await.expect("the server answers or closes in time");
    answer
}

pub fn seeds() -> Vec<Vec<u8>> {
    let oid = "ab".repeat(20);
    let orders = [
        r#"{"command":"sync"}"#.to_owned(),
        r#"{"command":"suspend","reason":"holidays","until":1800000000}"#.to_owned(),
        r#"{"command":"suspend"}"#.to_owned(),
        r#"{"command":"resume"}"#.to_owned(),
        format!(r#"{{"command":"retry","revision":"{oid}"}}"#),
        format!(r#"{{"command":"suspend","reason":"{}"}}"#, "x".repeat(501)),
    ];
    let mut seeds: Vec<Vec<u8>> = orders.iter().map(|o| [&[1], o.as_bytes()].concat()).collect();
    for path in ["/v1/status", "/v1/history", "/elsewhere"] {
        seeds.push([&[0], format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()].concat());
    }
    seeds.push(b"\0GET /elsewhere HTTP/1.0\r\n\r\n".to_vec());
    let chunked = "POST /v1/command HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
        transfer-encoding: chunked\r\n\r\n12\r\n{\"command\":\"sync\"}\r\n0\r\n\r\n";
    seeds.push([&[0], chunked.as_bytes()].concat());
    seeds
}
