//! A scripted service for hints: it reads a request, tells the script, and lets that write whatever it likes.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// One request: when it came, and its head in lower case.
#[derive(Debug, Clone)]
pub struct Asked {
    pub at: Instant,
    pub head: String,
}

/// The running service; it ends with the test's process.
#[derive(Debug, Clone)]
pub struct HintServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl HintServer {
    /// Starts a service that answers by `script`, which is told how many requests there were before. It ends the
    /// connection by returning `false`.
    pub fn serve(script: impl Fn(usize, &mut TcpStream) -> bool + Send + Sync + 'static) -> HintServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = HintServer { address: listener.local_addr().unwrap(), asked: Arc::default() };
        let (script, asked) = (Arc::new(script), server.asked.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (script, asked, client) = (script.clone(), asked.clone(), client.unwrap());
                std::thread::spawn(move || {
                    let mut input = BufReader::new(client.try_clone().unwrap());
                    let mut output = client;
                    while let Some(head) = read_head(&mut input) {
                        let before = {
                            let mut asked = asked.lock().unwrap();
                            asked.push(Asked { at: Instant::now(), head });
                            asked.len() - 1
                        };
                        if !script(before, &mut output) {
                            break;
                        }
                    }
                    let _closed = output.shutdown(std::net::Shutdown::Both).is_ok();
                });
            }
        });
        server
    }

    /// Returns its address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}/topic", self.address)
    }

    /// Returns the requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn read_head(input: &mut impl BufRead) -> Option<String> {
    let (mut head, mut line) = (String::new(), String::new());
    while line != "\r\n" {
        line.clear();
        if input.read_line(&mut line).ok()? == 0 {
            return None;
        }
        head.push_str(&line.to_ascii_lowercase());
    }
    Some(head)
}

/// Begins an event stream that ends with the connection.
pub fn stream(to: &mut TcpStream) -> bool {
    send(to, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
}

/// Writes a whole answer; `headers` with a line end each. Returns whether the connection goes on, which it does.
pub fn whole(to: &mut TcpStream, status: &str, headers: &str, body: &str) -> bool {
    let length = if status.starts_with("204") || status.starts_with("304") {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    send(to, format!("HTTP/1.1 {status}\r\n{length}{headers}\r\n{body}"))
}

/// Writes, and returns whether the client still listens.
pub fn send(to: &mut TcpStream, text: impl AsRef<[u8]>) -> bool {
    to.write_all(text.as_ref()).is_ok()
}

/// Ends the connection, whatever was said before.
pub fn then_end(_said: bool) -> bool {
    false
}

/// Writes `text` every `pause`, for ever or until the client has gone.
pub fn repeat(to: &mut TcpStream, text: &str, pause: Duration) -> bool {
    while send(to, text) {
        std::thread::sleep(pause);
    }
    false
}
