//! Real proxies on loopback: tinyproxy for `CONNECT`, microsocks for SOCKS 5; both want a user and a password.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::git_server::{Group, wait_until};

/// The running proxy; ends with the value.
#[derive(Debug)]
pub struct Proxy {
    dir: TempDir,
    scheme: &'static str,
    port: u16,
    _group: Group,
}

impl Proxy {
    /// What it expects.
    pub const USER: &str = "web1";
    pub const PASSWORD: &str = "pr0xy-pass";

    /// Starts a proxy that is asked by `CONNECT`.
    pub fn http() -> Proxy {
        Proxy::start("http", |port, dir| {
            let config = format!(
                "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nLogLevel Connect\nLogFile \"{}\"\nBasicAuth {} {}\n",
                dir.join("log").display(),
                Proxy::USER,
                Proxy::PASSWORD,
            );
            fs::write(dir.join("tinyproxy.conf"), config).unwrap();
            let mut command = Command::new("tinyproxy");
            command.arg("-d").arg("-c").arg(dir.join("tinyproxy.conf"));
            command
        })
    }

    /// Starts a proxy that speaks SOCKS 5.
    pub fn socks() -> Proxy {
        Proxy::start("socks5h", |port, _| {
            let mut command = Command::new("microsocks");
            command.args(["-i", "127.0.0.1", "-p", &port.to_string()]);
            command.args(["-u", Proxy::USER, "-P", Proxy::PASSWORD]);
            command
        })
    }

    fn start(scheme: &'static str, command: impl Fn(u16, &std::path::Path) -> Command) -> Proxy {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let group = Group::spawn(&mut command(port, dir.path()));
        wait_until("the proxy", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let pair = format!("{}:{}\n", Proxy::USER, Proxy::PASSWORD);
        fs::write(dir.path().join("credentials"), pair).unwrap();
        Proxy { dir, scheme, port, _group: group }
    }

    /// Returns how a client writes where it is.
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// Returns a client's file with what the proxy expects.
    pub fn credentials_file(&self) -> PathBuf {
        self.dir.path().join("credentials")
    }

    /// Returns the lines that it logged about connections to `target`.
    pub fn tunnels(&self, target: &str) -> usize {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(&format!("CONNECT {target}"))).count()
    }
}
