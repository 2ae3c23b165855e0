//! A scripted server: speaks just enough HTTP/1.1 and pkt-lines to do what no real Git server does on demand.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

/// What a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    Handshake,
    Refs,
    Pack,
}

/// Starts a server on loopback that answers each request by `answer`, which writes the whole HTTP answer to the
/// socket and returns whether the connection goes on. Returns the URL of its repository.
pub fn serve(answer: impl Fn(Ask, &mut TcpStream) -> bool + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/infra.git", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (answer, client) = (answer.clone(), client.unwrap());
            std::thread::spawn(move || {
                let mut input = BufReader::new(client.try_clone().unwrap());
                let mut output = client;
                while let Some(ask) = read_request(&mut input) {
                    if !answer(ask, &mut output) {
                        break;
                    }
                }
                let _closed = output.shutdown(std::net::Shutdown::Both).is_ok();
            });
        }
    });
    url
}

fn read_request(input: &mut impl BufRead) -> Option<Ask> {
    let mut length = 0;
    let mut line = String::new();
    loop {
        line.clear();
        if input.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body).ok()?;
    let body = String::from_utf8_lossy(&body);
    Some(match () {
        () if body.contains("command=ls-refs") => Ask::Refs,
        () if body.contains("want ") => Ask::Pack,
        () => Ask::Handshake,
    })
}

/// Returns `content` as one packet line.
pub fn line(content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [format!("{:04x}", content.len() + 4).as_bytes(), content].concat()
}

/// Returns a packet line of side band `band`.
pub fn band(band: u8, content: &[u8]) -> Vec<u8> {
    line([&[band], content].concat())
}

/// The flush packet.
pub const FLUSH: &[u8] = b"0000";

/// Returns the body of a handshake for protocol version 2.
pub fn capabilities() -> Vec<u8> {
    let lines = ["version 2\n", "ls-refs=unborn\n", "fetch=shallow\n", "object-format=sha1\n"];
    [line("# service=git-upload-pack\n"), FLUSH.to_vec(), lines.map(line).concat(), FLUSH.to_vec()].concat()
}

/// Writes the head of an answer without a length: it ends with the connection.
pub fn head(ask: Ask, to: &mut TcpStream) {
    let kind = if ask == Ask::Handshake { "advertisement" } else { "result" };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-{kind}\r\n\r\n");
    send(to, head.as_bytes());
}

/// Writes a whole answer.
pub fn whole(ask: Ask, to: &mut TcpStream, body: &[u8]) {
    let kind = if ask == Ask::Handshake { "advertisement" } else { "result" };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/x-git-upload-pack-{kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    send(to, &[head.as_bytes(), body].concat());
}

/// Writes, and returns whether the client still listens.
pub fn send(to: &mut TcpStream, bytes: &[u8]) -> bool {
    to.write_all(bytes).is_ok()
}

/// Says nothing more until the client closes.
pub fn stall(to: &mut TcpStream) {
    let _end = to.read(&mut [0; 16]).is_ok();
}

/// Starts a server that has no branches, begins to send any pack, and goes silent.
pub fn serve_a_pack_that_stalls() -> String {
    serve(|ask, to| match ask {
        Ask::Handshake => {
            whole(ask, to, &capabilities());
            true
        }
        Ask::Refs => {
            whole(ask, to, b"0000");
            true
        }
        Ask::Pack => {
            head(ask, to);
            send(to, &[line("packfile\n"), band(1, b"PACK")].concat());
            stall(to);
            false
        }
    })
}
