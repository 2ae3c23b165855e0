//! The demo's forge: a bare repository behind nginx, fcgiwrap and `git http-backend`, over HTTPS with a
//! certificate authority of its own and one account. It checks no signature: what is pushed, it serves.

use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};

use super::tools::{Server, Tools, run};

/// nginx and fcgiwrap are up within milliseconds; a loaded machine gets this long.
const START_TIME_MAX: Duration = Duration::from_secs(10);

/// Ports are taken from below the kernel's range for outgoing connections, so that nobody gets one by accident.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// How many ports are tried before giving up.
const PORT_TRIES: usize = 200;

/// The account that pushes and fetches; what the agent trusts is the signature, never this.
const USER: &str = "pullagent";

/// The name of the authority's certificate in the forge's directory.
pub const CA_FILE: &str = "ca.pem";

/// The forge, serving until it is dropped.
#[derive(Debug)]
pub struct Remote {
    /// Where everybody fetches from and pushes to.
    pub url: String,
    /// The certificate of the forge's authority, in PEM.
    pub ca_file: PathBuf,
    /// The account's password, in a file of its own: what the agent reads.
    pub token_file: PathBuf,
    /// The account in the form of `.netrc`: what git reads.
    pub account_file: PathBuf,
    repository: PathBuf,
    tools: Tools,
    _servers: [Server; 2],
}

impl Remote {
    /// Makes the authority, the account, and an empty repository below `dir`, and starts to serve it.
    pub async fn start(tools: &Tools, dir: &Path) -> anyhow::Result<Remote> {
        std::fs::create_dir_all(dir).with_context(|| format!("failed to create '{}'", dir.display()))?;
        let address = free_address()?;
        make_certificates(tools, dir).await?;
        let token_file = make_account(dir, address)?;
        let repository = make_repository(tools, dir).await?;
        let servers = serve(tools, dir, address).await?;
        Ok(Remote {
            url: format!("https://{address}/infra.git"),
            ca_file: dir.join(CA_FILE),
            token_file,
            account_file: dir.join("netrc"),
            repository,
            tools: tools.clone(),
            _servers: servers,
        })
    }

    /// Returns the name of the account.
    pub fn user(&self) -> &'static str {
        USER
    }

    /// Returns the commit that a branch points to, or nothing if there is no such branch.
    pub async fn tip(&self, branch: &str) -> anyhow::Result<Option<String>> {
        let git = self.tools.command("git").arg("-C").arg(&self.repository);
        let git = git.args(["for-each-ref", "--format=%(objectname)"]).arg(format!("refs/heads/{branch}"));
        Ok(Some(run(git).await?).filter(|oid| !oid.is_empty()))
    }
}

/// Returns an address on loopback that nobody listens on.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    let candidates = (0..PORT_TRIES).map(|_| SocketAddr::from(([127, 0, 0, 1], fastrand::u16(PORTS))));
    let mut free = candidates.filter(|address| std::net::TcpListener::bind(address).is_ok());
    free.next().with_context(|| format!("found no free port on loopback in {PORT_TRIES} tries"))
}

/// Waits until a server accepts connections at `address`.
pub async fn await_listening(server: &mut Server, address: SocketAddr) -> anyhow::Result<()> {
    await_start(server, async || tokio::net::TcpStream::connect(address).await.is_ok()).await
}

async fn await_start(server: &mut Server, up: impl AsyncFn() -> bool) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + START_TIME_MAX;
    while !up().await {
        if let Some(complaint) = server.complaint() {
            bail!(complaint);
        }
        if tokio::time::Instant::now() > deadline {
            bail!("'{}' does not serve after {} s", server.name(), START_TIME_MAX.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// Returns nginx's `user` directive: its workers must not lose the right to read the demo's directory.
pub fn nginx_user() -> &'static str {
    if rustix::process::geteuid().is_root() { "user root root;" } else { "" }
}

async fn make_certificates(tools: &Tools, dir: &Path) -> anyhow::Result<()> {
    // A configuration of our own: what the distribution's default one adds differs.
    let config = "[req]\ndistinguished_name = name\n[name]\n\
        [ca]\nbasicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign\n\
        subjectKeyIdentifier = hash\n\
        [server]\nbasicConstraints = CA:FALSE\nsubjectAltName = IP:127.0.0.1\nextendedKeyUsage = serverAuth\n";
    write(&dir.join("openssl.cnf"), config)?;
    let openssl = |line: &str| run(tools.command("openssl").dir(dir).args(line.split(' ')));
    for key in ["ca.key", "server.key"] {
        openssl(&format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {key}")).await?;
    }
    let certify = "-config openssl.cnf -new -sha256 -batch";
    openssl(&format!(
        "req {certify} -x509 -days 2 -key ca.key -subj /CN=demo-ca -extensions ca -out {CA_FILE}"
    ))
    .await?;
    openssl(&format!("req {certify} -key server.key -subj /CN=demo-forge -out server.csr")).await?;
    let sign = format!("x509 -req -sha256 -days 2 -in server.csr -CA {CA_FILE} -CAkey ca.key -set_serial 1");
    openssl(&format!("{sign} -extfile openssl.cnf -extensions server -out server.pem")).await?;
    Ok(())
}

/// Makes a password; leaves it where nginx, git and the agent each look for it.
fn make_account(dir: &Path, address: SocketAddr) -> anyhow::Result<PathBuf> {
    let token: String = std::iter::repeat_with(fastrand::alphanumeric).take(32).collect();
    let token_file = dir.join("token");
    write(&token_file, &token)?;
    write(&dir.join("htpasswd"), &format!("{USER}:{{PLAIN}}{token}\n"))?;
    let netrc = format!("machine {} login {USER} password {token}\n", address.ip());
    write(&dir.join("netrc"), &netrc)?;
    Ok(token_file)
}

async fn make_repository(tools: &Tools, dir: &Path) -> anyhow::Result<PathBuf> {
    let repository = dir.join("repositories/infra.git");
    let init = tools.command("git").args(["init", "--quiet", "--bare", "--initial-branch=main"]);
    run(init.arg(&repository)).await?;
    let allow_push = tools.command("git").arg("-C").arg(&repository);
    run(allow_push.args(["config", "http.receivepack", "true"])).await?;
    Ok(repository)
}

async fn serve(tools: &Tools, dir: &Path, address: SocketAddr) -> anyhow::Result<[Server; 2]> {
    let exec_path = run(tools.command("git").arg("--exec-path")).await?;
    let backend = Path::new(&exec_path).join("git-http-backend");
    if !backend.is_file() {
        bail!("git was installed without its HTTP server '{}'", backend.display());
    }
    write(&dir.join("nginx.conf"), &nginx_conf(dir, &backend, address))?;

    let log = dir.join("server.log");
    let socket = format!("unix:{}/cgi.sock", dir.display());
    let mut fcgiwrap = tools.serve("fcgiwrap", ["-c", "1", "-s", &socket], &log)?;
    let conf = dir.join("nginx.conf");
    let arguments = ["-e".as_ref(), "stderr".as_ref(), "-p".as_ref(), dir, "-c".as_ref(), conf.as_path()];
    let mut nginx = tools.serve("nginx", arguments, &log)?;
    await_start(&mut fcgiwrap, async || dir.join("cgi.sock").exists()).await?;
    await_listening(&mut nginx, address).await?;
    Ok([fcgiwrap, nginx])
}

fn nginx_conf(dir: &Path, backend: &Path, address: SocketAddr) -> String {
    let (dir, backend, user) = (dir.display(), backend.display(), nginx_user());
    format!(
        "daemon off;\n{user}\nworker_processes 1;\nerror_log stderr warn;\npid {dir}/nginx.pid;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_max_body_size 64m;
  client_body_temp_path {dir}/tmp-body;
  proxy_temp_path {dir}/tmp-proxy;
  fastcgi_temp_path {dir}/tmp-fastcgi;
  uwsgi_temp_path {dir}/tmp-uwsgi;
  scgi_temp_path {dir}/tmp-scgi;
  server {{
    listen {address} ssl;
    ssl_certificate {dir}/server.pem;
    ssl_certificate_key {dir}/server.key;
    auth_basic forge;
    auth_basic_user_file {dir}/htpasswd;
    location / {{
      fastcgi_pass unix:{dir}/cgi.sock;
      fastcgi_param SCRIPT_FILENAME {backend};
      fastcgi_param GIT_PROJECT_ROOT {dir}/repositories;
      fastcgi_param GIT_HTTP_EXPORT_ALL 1;
      fastcgi_param GIT_PROTOCOL $http_git_protocol;
      fastcgi_param PATH_INFO $uri;
      fastcgi_param QUERY_STRING $query_string;
      fastcgi_param REQUEST_METHOD $request_method;
      fastcgi_param CONTENT_TYPE $content_type;
      fastcgi_param CONTENT_LENGTH $content_length;
      fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;
      fastcgi_param REMOTE_USER $remote_user;
    }}
  }}
}}
"
    )
}

/// Writes a file that only its owner may read.
pub fn write(path: &Path, content: &str) -> anyhow::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(path);
    file.and_then(|mut file| std::io::Write::write_all(&mut file, content.as_bytes()))
        .with_context(|| format!("failed to write '{}'", path.display()))
}
