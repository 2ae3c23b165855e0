//! The gateway as a process of its own, for its metrics alone: nobody listens at the socket that it is told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long it may take to come up on a loaded machine.
const START_TIME_MAX: Duration = Duration::from_secs(20);
/// Longer than it takes to give up on anybody.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);

pub struct Exporter {
    child: Child,
    pub address: SocketAddr,
}

impl Exporter {
    /// Starts it for the host at `root`, with that host's configuration and `textfile` besides an address.
    pub fn start(root: &Path, textfile: Option<&Path>) -> Exporter {
        let address = pullagent::cli::demo::remote::free_address().unwrap();
        let text = std::fs::read_to_string(root.join("etc/pullagent/config.json")).unwrap();
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config["exporter"] = serde_json::json!({ "listen": address.to_string(), "textfile": textfile });
        let file = root.join("exporter.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pullagent"));
        command.arg("gateway").arg("--socket").arg(root.join("nobody.sock"));
        command.arg("--config").arg(file).arg("--root").arg(root);
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let exporter = Exporter { child, address };
        let deadline = Instant::now() + START_TIME_MAX;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "nobody listens at {address}");
            std::thread::sleep(Duration::from_millis(10));
        }
        exporter
    }

    /// Sends `request` and returns the whole answer.
    pub fn ask(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(ANSWER_TIME_MAX)).unwrap();
        // It may have read enough before the end.
        stream.write_all(request).ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        String::from_utf8(answer).unwrap()
    }

    /// Returns the page of metrics.
    pub fn scrape(&self) -> String {
        let answer = self.ask(b"GET /metrics HTTP/1.1\r\nHost: web1\r\nAccept: text/plain\r\n\r\n");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{head}");
        assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
        body.to_owned()
    }

    /// Ends it as a service manager does.
    pub fn end(mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    pub fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
