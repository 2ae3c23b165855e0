//! The forge of a machine: Git over HTTPS (nginx, fcgiwrap, `git http-backend`, an account, an authority of its own)
//! and over SSH (sshd, a key with a forced command), and the DNS server that knows its name. It serves what is pushed
//! and checks no signature. Its programs are those of the machine's image, so this machine needs none of them.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::lab::Lab;
use super::signer::{self, Signer, ssh_keygen};
use super::system::System;
use super::{holds_within, read_text};
use crate::common::git::Repo;

/// How long a server may take to start or to end.
const SERVER_LIMIT: Duration = Duration::from_secs(30);

/// What the forge consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// HTTPS, on port 443.
    Nginx,
    /// Runs `git http-backend` for nginx.
    Fcgiwrap,
    /// SSH, on port 22.
    Sshd,
    /// DNS, on port 53.
    Dnsmasq,
}

/// The forge, serving until it is dropped; it does not notice what becomes of the machine.
#[derive(Debug)]
pub struct Forge {
    lab: Rc<Lab>,
    running: RefCell<Vec<(Server, Child)>>,
}

impl Forge {
    /// The forge's name, which only its DNS server knows.
    pub const HOST: &str = "git.example.org";
    /// The account that may fetch and push over HTTPS.
    pub const USER: &str = "pullagent";
    /// The account's token at first.
    pub const TOKEN: &str = "s3cret-token";

    /// Starts all servers.
    pub(super) fn start(lab: &Rc<Lab>) -> Forge {
        let forge = Forge { lab: lab.clone(), running: RefCell::default() };
        for below in ["repos", "etc", "tmp", "keys"] {
            fs::create_dir(forge.path(below)).unwrap();
        }
        forge.write("etc/nginx.conf", NGINX);
        forge.write("etc/sshd_config", SSHD);
        forge.write("etc/authorized_keys", "");
        forge.set_token(Forge::TOKEN);
        forge.make_keys();
        for server in [Server::Fcgiwrap, Server::Nginx, Server::Sshd, Server::Dnsmasq] {
            forge.start_server(server);
        }
        forge
    }

    /// Starts a server and waits until it serves.
    pub fn start_server(&self, server: Server) {
        let (program, args): (_, &[&str]) = match server {
            Server::Fcgiwrap => ("fcgiwrap", &["-c", "2", "-s", "unix:/srv/tmp/cgi.sock"]),
            Server::Nginx => ("nginx", &["-e", "stderr", "-p", "/srv/tmp", "-c", "/srv/etc/nginx.conf"]),
            Server::Sshd => ("/usr/sbin/sshd", &["-D", "-e", "-f", "/srv/etc/sshd_config"]),
            Server::Dnsmasq => ("dnsmasq", DNSMASQ),
        };
        let log = File::options().append(true).create(true).open(self.path("tmp/servers.log")).unwrap();
        let mut command = self.lab.forge_command(program);
        command.args(args).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        self.running.borrow_mut().push((server, command.spawn().unwrap()));
        let serves = holds_within(SERVER_LIMIT, || match server {
            Server::Fcgiwrap => self.path("tmp/cgi.sock").exists(),
            Server::Nginx => self.lab.listens(443),
            Server::Sshd => self.lab.listens(22),
            Server::Dnsmasq => self.lab.listens(53),
        });
        assert!(serves, "{server:?} does not serve:\n{}", self.log());
    }

    /// Ends a server and its connections.
    pub fn stop_server(&self, server: Server) {
        let mut running = self.running.borrow_mut();
        let place = running.iter().position(|(other, _)| *other == server).expect("the server runs");
        end(&mut running.swap_remove(place).1);
        if server == Server::Fcgiwrap {
            fs::remove_file(self.path("tmp/cgi.sock")).unwrap();
        }
    }

    /// Makes an empty repository.
    pub fn repo(&self, name: &str) -> Repo {
        Repo::init(&self.path("repos").join(name), "sha1")
    }

    /// Returns the URL of a repository over HTTPS, for the account.
    pub fn https_url(&self, name: &str) -> String {
        format!("https://{}/{name}", Forge::HOST)
    }

    /// Returns the URL of a repository over SSH, for keys that are authorized.
    pub fn ssh_url(&self, name: &str) -> String {
        format!("ssh://git@{}/srv/repos/{name}", Forge::HOST)
    }

    /// Returns the certificate of the authority that vouches for the forge, in PEM.
    pub fn ca(&self) -> String {
        read_text(&self.path("etc/ca.pem"))
    }

    /// Returns the lines of a `known_hosts` file for the forge.
    pub fn known_hosts(&self) -> String {
        format!("{} {}", Forge::HOST, read_text(&self.path("etc/host_key.pub")))
    }

    /// Changes the account's token.
    pub fn set_token(&self, token: &str) {
        self.write("etc/passwords", &format!("{}:{{PLAIN}}{token}\n", Forge::USER));
    }

    /// Lets somebody fetch and push over SSH, and nothing else.
    pub fn authorize(&self, signer: &Signer) {
        let mut keys = File::options().append(true).open(self.path("etc/authorized_keys")).unwrap();
        let command = r#"restrict,command="exec git-shell -c \"$SSH_ORIGINAL_COMMAND\"""#;
        writeln!(keys, "{command} {}", signer.public_key).unwrap();
    }

    /// Makes somebody with a new key.
    pub fn signer(&self, name: &str) -> Signer {
        Signer::new(&self.path("keys"), name)
    }

    /// Commits a system on top of a branch, signed or not, and returns the revision.
    pub fn commit(&self, repo: &Repo, branch: &str, system: &System, signer: Option<&Signer>) -> String {
        signer::commit(repo, branch, system, signer)
    }

    /// Does so with any files, by their paths.
    pub fn commit_files(
        &self,
        repo: &Repo,
        branch: &str,
        files: Vec<(String, Vec<u8>)>,
        signer: Option<&Signer>,
    ) -> String {
        signer::commit_files(repo, branch, files, signer)
    }

    /// Returns the requests that nginx has answered, one a line: user, request, status.
    pub fn requests(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("tmp/access.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// Returns what the servers complain about.
    pub fn log(&self) -> String {
        read_text(&self.path("tmp/servers.log"))
    }

    fn path(&self, below: &str) -> PathBuf {
        self.lab.dir.join("srv").join(below)
    }

    fn write(&self, below: &str, content: &str) {
        fs::write(self.path(below), content).unwrap();
    }

    fn make_keys(&self) {
        ssh_keygen(&self.path("etc/host_key"), "forge");
        let mut openssl = self.lab.forge_command("/bin/sh");
        run(openssl.args(["-euc", CERTIFICATES]));
    }
}

impl Drop for Forge {
    fn drop(&mut self) {
        self.running.get_mut().iter_mut().for_each(|(_, server)| end(server));
    }
}

/// Ends a server; the group is that of the server too, although nsenter stands between.
fn end(server: &mut Child) {
    let _gone = kill_process_group(Pid::from_child(server), Signal::KILL).is_err();
    let _reaped = server.wait().is_ok();
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

const DNSMASQ: &[&str] = &[
    "--no-daemon",
    "--conf-file=/dev/null",
    "--no-resolv",
    "--no-hosts",
    "--bind-interfaces",
    "--listen-address=10.80.0.1",
    "--address=/git.example.org/10.80.0.1",
    "--user=root",
    "--pid-file=",
];

/// An authority, and a certificate for the forge's name and address.
const CERTIFICATES: &str = "cd /srv/etc
new='req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30'
openssl $new -subj '/CN=test authority' -keyout ca.key -out ca.pem
openssl $new -subj /CN=git.example.org -keyout server.key -out server.pem -CA ca.pem -CAkey ca.key \
  -addext subjectAltName=DNS:git.example.org,IP:10.80.0.1 -addext basicConstraints=CA:FALSE";

/// Commands of Git are let through by their keys only; Git itself must not mind whose repository it is.
const SSHD: &str = "Port 22
ListenAddress 10.80.0.1
HostKey /srv/etc/host_key
AuthorizedKeysFile /srv/etc/authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
PidFile none
LogLevel VERBOSE
AcceptEnv GIT_PROTOCOL
SetEnv GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0=*
";

const NGINX: &str = "daemon off;
master_process off;
user root root;
pid /srv/tmp/nginx.pid;
error_log stderr warn;
events { worker_connections 64; }
http {
  client_body_temp_path /srv/tmp/body;
  proxy_temp_path /srv/tmp/proxy;
  fastcgi_temp_path /srv/tmp/fastcgi;
  uwsgi_temp_path /srv/tmp/uwsgi;
  scgi_temp_path /srv/tmp/scgi;
  log_format requests '$remote_user $request $status';
  access_log /srv/tmp/access.log requests;
  keepalive_timeout 3600s;
  server {
    listen 10.80.0.1:443 ssl;
    http2 on;
    server_name git.example.org;
    ssl_certificate /srv/etc/server.pem;
    ssl_certificate_key /srv/etc/server.key;
    location / {
      auth_basic git;
      auth_basic_user_file /srv/etc/passwords;
      client_max_body_size 0;
      fastcgi_pass unix:/srv/tmp/cgi.sock;
      fastcgi_buffering off;
      fastcgi_param SCRIPT_FILENAME /usr/lib/git-core/git-http-backend;
      fastcgi_param GIT_PROJECT_ROOT /srv/repos;
      fastcgi_param GIT_HTTP_EXPORT_ALL '';
      fastcgi_param HTTP_GIT_PROTOCOL $http_git_protocol if_not_empty;
      fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding if_not_empty;
      fastcgi_param PATH_INFO $uri;
      fastcgi_param QUERY_STRING $query_string;
      fastcgi_param REQUEST_METHOD $request_method;
      fastcgi_param CONTENT_TYPE $content_type;
      fastcgi_param CONTENT_LENGTH $content_length;
      fastcgi_param SERVER_PROTOCOL $server_protocol;
      fastcgi_param REMOTE_USER $remote_user;
      fastcgi_param REMOTE_ADDR $remote_addr;
    }
  }
}
";
