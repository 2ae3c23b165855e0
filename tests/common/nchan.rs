//! A real nginx with nchan: one topic, to publish to, to stream from and to poll. All of it lives in one temporary
//! directory and ends with the value. Needs no fixed port and no root.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tempfile::TempDir;

/// How long nginx may take to come up.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// What the server has room for.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Connections at once.
    pub connections: usize,
    /// Seconds between two signs of life on each stream.
    pub ping_secs: u32,
}

/// The running server.
#[derive(Debug)]
pub struct Nchan {
    dir: TempDir,
    room: Room,
    port: u16,
    nginx: Child,
}

impl Nchan {
    pub fn start() -> Nchan {
        Nchan::with(Room { connections: 64, ping_secs: 1 })
    }

    /// Starts a server with other bounds. The limit on open files must allow for them.
    pub fn with(room: Room) -> Nchan {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let nginx = start(&dir, room, port);
        Nchan { dir, room, port, nginx }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns where hints are given by `kind`: `sse` or `poll`.
    pub fn url(&self, kind: &str) -> String {
        format!("http://127.0.0.1:{}/{kind}", self.port)
    }

    /// Publishes a message, as a forge or a hook would.
    pub fn publish(&self, message: &str) {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let length = message.len();
        let request = format!("POST /pub HTTP/1.0\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{message}");
        socket.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    }

    /// Ends nginx and starts it again on the same port.
    pub fn restart(&mut self) {
        end(&mut self.nginx);
        self.nginx = start(&self.dir, self.room, self.port);
    }

    /// Stops nginx in its tracks: the kernel still takes bytes and connections for it.
    pub fn freeze(&self) {
        kill_process(Pid::from_child(&self.nginx), Signal::STOP).unwrap();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        kill_process(Pid::from_child(&self.nginx), Signal::CONT).unwrap();
    }

    /// Returns for each request that ended its `Last-Event-ID` and its first line.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default()
    }
}

impl Drop for Nchan {
    fn drop(&mut self) {
        end(&mut self.nginx);
    }
}

fn start(dir: &TempDir, room: Room, port: u16) -> Child {
    let file = dir.path().join("nginx.conf");
    fs::write(&file, config(dir, room, port)).unwrap();
    let mut nginx = Command::new("nginx");
    nginx.arg("-p").arg(dir.path()).arg("-c").arg(&file).arg("-e").arg(dir.path().join("error.log"));
    nginx.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut nginx = nginx.spawn().unwrap();
    let deadline = Instant::now() + START_TIMEOUT;
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = fs::read_to_string(dir.path().join("error.log")).unwrap_or_default();
        assert!(
            nginx.try_wait().unwrap().is_none() && Instant::now() < deadline,
            "nginx did not start: {log}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    nginx
}

fn end(nginx: &mut Child) {
    let _gone = kill_process_group(Pid::from_child(nginx), Signal::KILL).is_err();
    let _reaped = nginx.wait().is_ok();
}

fn config(dir: &TempDir, room: Room, port: u16) -> String {
    let Room { connections, ping_secs } = room;
    let dir = dir.path().display();
    // As root, nginx would change to a user that cannot enter the temporary directory.
    let user = if rustix::process::geteuid().is_root() { "user root root;" } else { "" };
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {dir}/tmp/{kind};\n"))
        .concat();
    format!(
        "{user}
load_module /usr/lib/nginx/modules/ngx_nchan_module.so;
daemon off;
master_process off;
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
events {{ worker_connections {connections}; }}
http {{
  {temp}
  log_format hints '\"$http_last_event_id\" $request';
  access_log {dir}/access.log hints;
  nchan_shared_memory_size 4m;
  server {{
    listen 127.0.0.1:{port};
    location = /pub {{
      nchan_publisher;
      nchan_channel_id infra;
      nchan_message_timeout 5m;
      nchan_message_buffer_length 10;
    }}
    location = /sse {{
      nchan_subscriber eventsource;
      nchan_channel_id infra;
      nchan_subscriber_first_message newest;
      nchan_eventsource_ping_interval {ping_secs};
    }}
    location = /poll {{
      nchan_subscriber longpoll;
      nchan_channel_id infra;
      nchan_subscriber_first_message newest;
      nchan_subscriber_timeout 3;
    }}
  }}
}}
"
    )
}
