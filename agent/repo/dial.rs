//! Making a connection to a server: its name, its addresses, the proxy in between, TLS. Files are read as they are when a
//! connection is made; when one has changed since, the connection is not used again. It knows no HTTP.

use std::cell::RefCell;
use std::error::Error as StdError;
use std::future::{Future, Ready, poll_fn, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiAddrs, GaiResolver, Name};
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::rt::TokioIo;
use reqwest::Url;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::h1::Stream;
use super::net::{Class, Failure, causes};
use super::{tls, web};
use crate::host::files::{self, Stamp};
use crate::model::Https;

/// How long making a connection may take, name lookup, proxy and TLS included.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How often the kernel asks whether the other end of an idle connection still lives; keeps address translators
/// from forgetting it, without waking us.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(45);
/// What is said of a proxy that does not accept our credentials, or misses some (hyper-util 0.1, whose errors are private).
const UNKNOWN_TO_PROXY: [&str; 3] =
    ["authorization required", "credentials not accepted", "user/pass authentication"];
/// User, password and server's name must fit into what is sent to a SOCKS proxy at once (hyper-util 0.1), in bytes.
const SOCKS_BYTES_MAX: usize = 249;
/// How long what was made of the files counts: the system's own authorities may change, too.
const TLS_AGE_MAX: Duration = Duration::from_secs(3600);
/// How long the first address is tried alone (RFC 8305 §5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Makes connections to one server.
pub(super) struct Dialer {
    url: Url,
    https: Https,
    /// What was made of the files, as long as they stay the same, and when.
    tls: RefCell<Option<(Stamps, Instant, Arc<ClientConfig>)>>,
}

/// How the files are that a connection is made with.
pub(super) type Stamps = [Option<Stamp>; 4];

impl Dialer {
    pub(super) fn new(url: Url, https: Https) -> Dialer {
        Dialer { url, https, tls: RefCell::new(None) }
    }

    /// Returns how the files are now.
    pub(super) fn stamps(&self) -> Stamps {
        self.https.files().map(|path| path.and_then(|path| files::stamp(path)))
    }

    /// Connects, within [`CONNECT_TIMEOUT`].
    ///
    /// # Errors
    /// With what failed, without any part of the URL but the host's name.
    pub(super) async fn connect(&self) -> Result<Box<dyn Stream>, Failure> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.dial()).await {
            Ok(done) => done,
            Err(_) => Err(Failure::new(Class::Timeout, "it did not accept a connection in time")),
        }
    }

    async fn dial(&self) -> Result<Box<dyn Stream>, Failure> {
        if self.url.scheme() != "https" {
            return Ok(Box::new(self.direct().await?));
        }
        let config = self.tls()?;
        let tcp = match &self.https.proxy {
            Some(proxy) => self.through(proxy).await?,
            None => self.direct().await?,
        };
        let host = self.url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host)
            .map_err(|_| Failure::new(Class::Local, "the host in its url is not usable"))?;
        match TlsConnector::from(config).connect(name, tcp).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(web::broke(&error)),
        }
    }

    /// Returns how TLS is spoken, made anew when a file has changed.
    fn tls(&self) -> Result<Arc<ClientConfig>, Failure> {
        let stamps = self.stamps();
        let made = self.tls.borrow().clone();
        if let Some((then, at, config)) = made
            && then == stamps
            && at.elapsed() < TLS_AGE_MAX
        {
            return Ok(config);
        }
        let config = Arc::new(tls::config(&self.https)?);
        self.tls.replace(Some((stamps, Instant::now(), config.clone())));
        Ok(config)
    }

    async fn direct(&self) -> Result<TcpStream, Failure> {
        let uri = uri(self.url.as_str())?;
        ask(connector(), uri).await.map(TokioIo::into_inner).map_err(|e| unreached("it", e.as_ref()))
    }

    /// Connects to the server through `proxy`, which also looks its name up.
    async fn through(&self, proxy: &str) -> Result<TcpStream, Failure> {
        let proxy = web::proxy(proxy)?;
        let (to, server) = (uri(proxy.as_str())?, uri(self.url.as_str())?);
        let file = self.https.proxy_credentials_file.as_deref();
        let credentials = file.map(web::user_and_password).transpose()?;
        let reached = Reached(Some(
            ask(connector(), to.clone()).await.map_err(|e| unreached("the proxy", e.as_ref()))?,
        ));
        let connected = if proxy.scheme() == "socks5h" {
            let mut socks = SocksV5::new(to, reached);
            if let Some((user, password)) = credentials {
                let bytes = user.len() + password.len() + self.url.host_str().unwrap_or_default().len();
                if bytes > SOCKS_BYTES_MAX {
                    return Err(Failure::new(
                        Class::Local,
                        "user and password are too long for a SOCKS proxy",
                    ));
                }
                socks = socks.with_auth(user, password);
            }
            ask(socks, server).await
        } else {
            let mut tunnel = Tunnel::new(to, reached);
            if let Some(((user, password), file)) = credentials.zip(file) {
                tunnel = tunnel.with_auth(web::basic(&user, password.as_bytes(), file)?);
            }
            ask(tunnel, server).await
        };
        connected.map(TokioIo::into_inner).map_err(|e| not_through(e.as_ref()))
    }
}

/// Says why the proxy, which was reached, does not connect us. One that does not know us is not to be asked again and again.
fn not_through(error: &(dyn StdError + 'static)) -> Failure {
    let cause = web::root_cause(error);
    let class =
        if UNKNOWN_TO_PROXY.iter().any(|words| cause.contains(words)) { Class::Auth } else { Class::Network };
    Failure::new(class, format!("the proxy does not connect us: {cause}"))
}

fn uri(url: &str) -> Result<Uri, Failure> {
    url.parse().map_err(|_| Failure::new(Class::Local, "its url is not usable"))
}

/// Returns what connects by name, to all its addresses in turn.
fn connector() -> HttpConnector<Lookup> {
    let mut connector = HttpConnector::new_with_resolver(Lookup(GaiResolver::new()));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_happy_eyeballs_timeout(Some(NEXT_ADDRESS_AFTER));
    connector
}

type Boxed = Box<dyn StdError + Send + Sync>;

async fn ask<S: Service<Uri>>(mut service: S, uri: Uri) -> Result<S::Response, Boxed>
where
    S::Error: Into<Boxed>,
{
    poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
    service.call(uri).await.map_err(Into::into)
}

/// Says why `who` cannot be reached.
fn unreached(who: &str, error: &(dyn StdError + 'static)) -> Failure {
    let cause = web::root_cause(error);
    if causes(error).any(|e| e.is::<Unresolved>()) {
        let whose = if who == "it" { "its".to_owned() } else { format!("{who}'s") };
        return Failure::new(Class::Dns, format!("{whose} name does not resolve: {cause}"));
    }
    let (class, what) = match causes(error).find_map(|e| e.downcast_ref::<io::Error>()).map(io::Error::kind) {
        Some(io::ErrorKind::TimedOut) => (Class::Timeout, "did not accept a connection in time"),
        _ => (Class::Network, "accepts no connection"),
    };
    Failure::new(class, format!("{who} {what}: {cause}"))
}

/// A name that does not resolve.
#[derive(Debug, thiserror::Error)]
#[error("name lookup")]
struct Unresolved(#[source] io::Error);

/// Looks names up as the system does, and says when that is what failed.
#[derive(Clone)]
struct Lookup(GaiResolver);

impl Service<Name> for Lookup {
    type Response = GaiAddrs;
    type Error = Unresolved;
    type Future = Pin<Box<dyn Future<Output = Result<GaiAddrs, Unresolved>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unresolved>> {
        self.0.poll_ready(cx).map_err(Unresolved)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let looking = self.0.call(name);
        Box::pin(async { looking.await.map_err(Unresolved) })
    }
}

/// A connection that is there already: what is asked of a proxy is asked on it.
struct Reached(Option<TokioIo<TcpStream>>);

impl Service<Uri> for Reached {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<TcpStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}
