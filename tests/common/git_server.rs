//! A real Git server over HTTPS: nginx, fcgiwrap and `git http-backend` on loopback, with an authority of its own and
//! a token. All of it lives in one temporary directory and ends with the value. Needs no fixed port and no root.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::git::Repo;

/// How long a server may take to come up.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// How many free ports are tried: one may be taken between finding and using it.
const PORTS_TRIED: usize = 5;

/// How openssl makes a key.
const NEW_KEY: [&str; 7] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    pub tls: bool,
    pub http2: bool,
    /// Whether the server hears which protocol version is asked for; without, it speaks version 0.
    pub protocol_v2: bool,
    /// Whether clients must show a certificate of the server's own authority.
    pub client_certificates: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Setup { tls: true, http2: true, protocol_v2: true, client_certificates: false }
    }
}

/// One request as the server logged it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub connection: u64,
    pub received: u64,
    pub sent: u64,
    pub status: u16,
    pub line: String,
}

/// The running server.
#[derive(Debug)]
pub struct GitServer {
    dir: TempDir,
    setup: Setup,
    port: u16,
    nginx: Option<Group>,
    _fcgiwrap: Group,
}

impl GitServer {
    /// The user name the server expects.
    pub const USER: &str = "pullagent";
    /// The token the server expects at first.
    pub const TOKEN: &str = "s3cret-token";

    /// Starts a server with TLS, HTTP/2 and protocol version 2.
    pub fn start() -> GitServer {
        GitServer::start_with(Setup::default())
    }

    /// Starts a server.
    pub fn start_with(setup: Setup) -> GitServer {
        let dir = tempfile::tempdir().unwrap();
        for below in ["repos", "tmp"] {
            fs::create_dir(dir.path().join(below)).unwrap();
        }
        certificate(dir.path());
        let socket = dir.path().join("cgi.sock");
        let mut fcgiwrap = Command::new("fcgiwrap");
        fcgiwrap.args(["-c", "3", "-s", &format!("unix:{}", socket.display())]);
        let fcgiwrap = Group::spawn(&mut fcgiwrap);
        wait_until("fcgiwrap", || socket.exists());
        let mut server = GitServer { dir, setup, port: 0, nginx: None, _fcgiwrap: fcgiwrap };
        server.set_token(GitServer::TOKEN);
        fs::write(server.token_file(), format!("{}\n", GitServer::TOKEN)).unwrap();
        for _ in 0..PORTS_TRIED {
            server.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            if server.start_nginx() {
                return server;
            }
        }
        panic!("nginx did not start: {}", server.error_log());
    }

    /// Makes an empty repository on the server.
    pub fn repo(&self, name: &str) -> Repo {
        Repo::init(&self.dir.path().join("repos").join(name), "sha1")
    }

    /// Makes an empty repository with another object format on the server.
    pub fn repo_with(&self, name: &str, object_format: &str) -> Repo {
        Repo::init(&self.dir.path().join("repos").join(name), object_format)
    }

    /// Returns the URL of a repository.
    pub fn url(&self, name: &str) -> String {
        let scheme = if self.setup.tls { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}/git/{name}", self.port)
    }

    /// Returns a URL that redirects to `self.url(name)` on another origin.
    pub fn moved_url(&self, name: &str) -> String {
        self.url(name).replace("/git/", "/moved/")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the authority that signed the server's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Returns an authority that did not.
    pub fn other_ca_file(&self) -> PathBuf {
        self.dir.path().join("other.pem")
    }

    /// Makes a client's certificate, signed by the authority of the server (or by the other one), and returns its file and
    /// the one of its key.
    pub fn client_certificate(&self, is_known: bool) -> (PathBuf, PathBuf) {
        let authority = if is_known { "ca" } else { "other" };
        let (cert, key) = (format!("client-{authority}.pem"), format!("client-{authority}.key"));
        let (ca, ca_key) = (format!("{authority}.pem"), format!("{authority}.key"));
        let who = ["-subj", "/CN=web1", "-keyout", &key, "-out", &cert, "-CA", &ca, "-CAkey", &ca_key];
        openssl(self.dir.path(), &[&["req", "-x509"][..], &NEW_KEY, &who].concat());
        (self.dir.path().join(cert), self.dir.path().join(key))
    }

    /// Returns a client's file with the token the server expected at first.
    pub fn token_file(&self) -> PathBuf {
        self.dir.path().join("token")
    }

    /// Changes the token that the server expects.
    pub fn set_token(&self, token: &str) {
        let line = format!("{}:{{PLAIN}}{token}\n", GitServer::USER);
        fs::write(self.dir.path().join("passwords"), line).unwrap();
    }

    /// Ends nginx, and with it all connections.
    pub fn stop(&mut self) {
        self.nginx = None;
    }

    /// Starts nginx again on the same port.
    pub fn restart(&mut self) {
        self.stop();
        assert!(self.start_nginx(), "nginx did not start again: {}", self.error_log());
    }

    /// Returns the requests so far; nginx logs each when it is done.
    pub fn requests(&self) -> Vec<Request> {
        let log = fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        log.lines().map(parse).collect()
    }

    fn error_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("error.log")).unwrap_or_default()
    }

    fn start_nginx(&mut self) -> bool {
        let dir = self.dir.path();
        fs::write(dir.join("nginx.conf"), self.config()).unwrap();
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(dir).arg("-c").arg(dir.join("nginx.conf")).arg("-e").arg(dir.join("error.log"));
        let mut nginx = Group::spawn(&mut nginx);
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline && nginx.0.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                self.nginx = Some(nginx);
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    fn config(&self) -> String {
        let dir = self.dir.path().display();
        let port = self.port;
        // As root, nginx would change to a user that cannot enter the temporary directory.
        let user = if rustix::process::geteuid().is_root() { "user root root;" } else { "" };
        let listen = match (self.setup.tls, self.setup.http2) {
            (true, true) => format!("127.0.0.1:{port} ssl http2"),
            (true, false) => format!("127.0.0.1:{port} ssl"),
            (false, _) => format!("127.0.0.1:{port}"),
        };
        let tls = format!("ssl_certificate {dir}/server.pem; ssl_certificate_key {dir}/server.key;");
        let asked = format!("{tls} ssl_client_certificate {dir}/ca.pem; ssl_verify_client on;");
        let tls = match (self.setup.tls, self.setup.client_certificates) {
            (true, true) => asked,
            (true, false) => tls,
            (false, _) => String::new(),
        };
        let version = if self.setup.protocol_v2 {
            "fastcgi_param HTTP_GIT_PROTOCOL $http_git_protocol if_not_empty;"
        } else {
            "fastcgi_param HTTP_GIT_PROTOCOL '';"
        };
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {dir}/tmp/{kind};\n"))
            .concat();
        let backend = backend().display().to_string();
        format!(
            "{user}
daemon off;
master_process off;
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
events {{ worker_connections 64; }}
http {{
  {temp}
  log_format requests '$connection $request_length $bytes_sent $status $request';
  access_log {dir}/access.log requests;
  keepalive_timeout 3600s;
  keepalive_requests 100000;
  server {{
    listen {listen};
    {tls}
    location ~ ^/moved(/.*)$ {{ return 301 https://localhost:{port}/git$1; }}
    location ~ ^/git(/.*)$ {{
      auth_basic git;
      auth_basic_user_file {dir}/passwords;
      client_max_body_size 0;
      fastcgi_pass unix:{dir}/cgi.sock;
      fastcgi_buffering off;
      fastcgi_param SCRIPT_FILENAME {backend};
      fastcgi_param PATH_INFO $1;
      fastcgi_param GIT_PROJECT_ROOT {dir}/repos;
      fastcgi_param GIT_HTTP_EXPORT_ALL '';
      fastcgi_param GIT_CONFIG_SYSTEM /dev/null;
      fastcgi_param GIT_CONFIG_GLOBAL /dev/null;
      fastcgi_param REMOTE_USER $remote_user;
      fastcgi_param REMOTE_ADDR $remote_addr;
      fastcgi_param REQUEST_METHOD $request_method;
      fastcgi_param QUERY_STRING $query_string;
      fastcgi_param CONTENT_TYPE $content_type;
      fastcgi_param CONTENT_LENGTH $content_length;
      fastcgi_param SERVER_PROTOCOL $server_protocol;
      {version}
    }}
  }}
}}
"
        )
    }
}

fn parse(line: &str) -> Request {
    let mut words = line.splitn(5, ' ');
    let mut number = || words.next().unwrap().parse().unwrap();
    let (connection, received, sent, status) = (number(), number(), number(), number());
    Request {
        connection,
        received,
        sent,
        status: u16::try_from(status).unwrap(),
        line: words.next().unwrap_or_default().to_owned(),
    }
}

fn backend() -> PathBuf {
    let path = Command::new("git").arg("--exec-path").output().unwrap().stdout;
    Path::new(String::from_utf8(path).unwrap().trim()).join("git-http-backend")
}

/// Makes an authority, a server certificate signed by it for loopback, and an unrelated authority.
fn certificate(dir: &Path) {
    for name in ["ca", "other"] {
        let (subject, key_file, file) =
            (format!("/CN=test {name}"), format!("{name}.key"), format!("{name}.pem"));
        let authority = ["-subj", &subject, "-keyout", &key_file, "-out", &file];
        openssl(dir, &[&["req", "-x509"][..], &NEW_KEY, &authority].concat());
    }
    let server = ["-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.pem"];
    let names =
        ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-addext", "basicConstraints=CA:FALSE"];
    let signed = ["-CA", "ca.pem", "-CAkey", "ca.key"];
    openssl(dir, &[&["req", "-x509"][..], &NEW_KEY, &server, &names, &signed].concat());
}

fn openssl(dir: &Path, args: &[&str]) {
    let output = Command::new("openssl").current_dir(dir).args(args).output().unwrap();
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits for `done`, which a program named `what` is about to make true.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + START_TIMEOUT;
    while !done() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A child and what it started, in a process group of their own; ends with the value.
#[derive(Debug)]
pub struct Group(Child);

impl Group {
    pub fn spawn(command: &mut Command) -> Group {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Group(command.spawn().unwrap())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let group = rustix::process::Pid::from_child(&self.0);
        let _gone = rustix::process::kill_process_group(group, rustix::process::Signal::KILL).is_err();
        let _reaped = self.0.wait().is_ok();
    }
}
