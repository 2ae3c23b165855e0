//! A Git server that lies on demand: smart HTTP, protocol version 2, over real repositories. What its script leaves alone is
//! answered by real `git upload-pack`, so that one server at one URL is hostile now and honest a moment later.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::common::scripted::{Ask, whole};

/// One request of a client.
pub struct Request {
    pub ask: Ask,
    pub body: Vec<u8>,
}

/// Answers a request and returns whether the connection goes on; `None` leaves the request to the honest server.
pub type Script = Box<dyn Fn(&Request, &mut TcpStream) -> Option<bool> + Send + Sync>;

/// The running server. Its threads end with the process.
pub struct Server {
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    repository: PathBuf,
    script: Mutex<Option<Arc<Script>>>,
    lies: AtomicUsize,
    /// Requests for anything else than a repository of this name by Git's smart protocol.
    strange: AtomicUsize,
}

impl Server {
    /// Serves the repository of the work tree `repository`, honestly at first.
    pub fn start(repository: &Path) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/infra.git", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            repository: repository.to_owned(),
            script: Mutex::default(),
            lies: AtomicUsize::new(0),
            strange: AtomicUsize::new(0),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (shared, client) = (serving.clone(), client.unwrap());
                std::thread::spawn(move || shared.serve(client));
            }
        });
        Server { url, shared }
    }

    /// Lies from now on.
    pub fn lie(&self, script: Script) {
        self.shared.lies.store(0, Ordering::SeqCst);
        *self.shared.script.lock().unwrap() = Some(Arc::new(script));
    }

    /// Is honest from now on.
    pub fn be_honest(&self) {
        *self.shared.script.lock().unwrap() = None;
    }

    /// How many requests were answered by the last script.
    pub fn lies(&self) -> usize {
        self.shared.lies.load(Ordering::SeqCst)
    }

    /// How many requests were for something that a Git client of ours never asks for.
    pub fn strange(&self) -> usize {
        self.shared.strange.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) {
        let mut input = BufReader::new(client.try_clone().unwrap());
        let mut output = client;
        while let Some(request) = self.read(&mut input) {
            let script = self.script.lock().unwrap().clone();
            let lied = script.and_then(|script| {
                let done = script(&request, &mut output);
                if done.is_some() {
                    self.lies.fetch_add(1, Ordering::SeqCst);
                }
                done
            });
            if !lied.unwrap_or_else(|| honestly(&self.repository, &request, &mut output)) {
                break;
            }
        }
        let _closed = output.shutdown(std::net::Shutdown::Both).is_ok();
    }

    fn read(&self, input: &mut impl BufRead) -> Option<Request> {
        let (mut length, mut line, mut first) = (0, String::new(), String::new());
        loop {
            line.clear();
            if input.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if first.is_empty() {
                first.clone_from(&line);
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        input.read_exact(&mut body).ok()?;
        let has = |what: &str| String::from_utf8_lossy(&body).contains(what);
        let ask = match first.split(' ').nth(1).unwrap_or_default() {
            "/infra.git/info/refs?service=git-upload-pack" => Ask::Handshake,
            "/infra.git/git-upload-pack" if has("command=ls-refs") => Ask::Refs,
            // By an old version of the protocol, there are no commands.
            "/infra.git/git-upload-pack" if has("want ") => Ask::Pack,
            _ => {
                self.strange.fetch_add(1, Ordering::SeqCst);
                return None;
            }
        };
        Some(Request { ask, body })
    }
}

/// Answers by what `git upload-pack` says about `repository`.
pub fn honestly(repository: &Path, request: &Request, to: &mut TcpStream) -> bool {
    whole(request.ask, to, &body_of(repository, request));
    true
}

/// Returns the body of git's own answer.
pub fn body_of(repository: &Path, request: &Request) -> Vec<u8> {
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "upload-pack", "--stateless-rpc"]);
    if request.ask == Ask::Handshake {
        git.arg("--http-backend-info-refs");
    }
    git.arg(repository).env("GIT_PROTOCOL", "version=2").env("GIT_CONFIG_NOSYSTEM", "1");
    git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = git.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let body = request.body.clone();
    let sender = std::thread::spawn(move || drop(stdin.write_all(&body)));
    let answer = child.wait_with_output().unwrap().stdout;
    sender.join().unwrap();
    answer
}
