//! The HTTP client that all of the gateway shares: what it trusts, what it refuses to speak to, how it shows a token. It
//! follows no redirect and takes nothing from the environment. It knows neither Git nor events.

use std::error::Error as StdError;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderValue;

use super::net::{Class, Failure, causes};

/// The longest token file, in bytes.
const TOKEN_BYTES_MAX: u64 = 8 * 1024;
/// The longest file of certificate authorities, in bytes.
const CA_BYTES_MAX: u64 = 4 << 20;
/// How long making a connection may take, name lookup and TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// How often the kernel asks whether the other end of an idle connection still lives; keeps address translators
/// from forgetting it, without waking us.
const KEEPALIVE: Duration = Duration::from_secs(45);
/// What a server may have under way towards us. Bounds our memory when the reader of an answer is slow.
const WINDOW_BYTES: u32 = 512 * 1024;

/// Returns a client with a connection pool of its own for the server of `url`, so that dropping it drops its connections.
///
/// # Errors
/// If the certificate authorities cannot be read, or TLS cannot be set up.
pub fn client(url: &Url, ca_file: Option<&Path>, user_agent: &str) -> Result<reqwest::Client, Failure> {
    static PROVIDER: Once = Once::new();
    // An error says that the process has one already, which serves as well.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let authorities = ca_file.map(authorities).transpose()?.unwrap_or_default();
    let builder = match url.scheme() {
        "https" => reqwest::Client::builder().tls_certs_merge(authorities),
        // Without TLS, reading the system's authorities would be in vain.
        _ => reqwest::Client::builder().tls_certs_only([]),
    };
    builder
        .user_agent(user_agent)
        // A redirect could lead the token to another origin; an operator can write the new URL instead.
        .redirect(reqwest::redirect::Policy::none())
        // Nothing from the environment.
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(KEEPALIVE)
        .pool_max_idle_per_host(1)
        // A limit would need a timer of its own, hence wake-ups; the server closes what it does not want.
        .pool_idle_timeout(None)
        .http2_initial_stream_window_size(WINDOW_BYTES)
        .http2_initial_connection_window_size(WINDOW_BYTES)
        .build()
        .map_err(|e| Failure::new(Class::Tls, format!("TLS cannot be set up: {}", root_cause(&e))))
}

/// Refuses what a token must not be sent to, and what holds one: plain HTTP would show token and content to everyone on
/// the way, so it is for this host only.
///
/// # Errors
/// With what is wrong. No part of the URL is repeated.
pub fn check_url(url: &Url) -> Result<(), Failure> {
    let local = |text: &str| Err(Failure::new(Class::Local, text));
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let loopback = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if !url.username().is_empty() || url.password().is_some() {
        return local("its url holds a user or a password; put the token into a file");
    }
    match url.scheme() {
        "https" => Ok(()),
        "http" if loopback => Ok(()),
        _ => local("its url is plain http, which is allowed on loopback only"),
    }
}

/// Reads the token in the file at `path`, as it is now.
///
/// # Errors
/// If the file can't be read, or holds something else than one line.
pub fn token(path: &Path) -> Result<Vec<u8>, Failure> {
    let content = read_bounded(path, TOKEN_BYTES_MAX).map_err(|e| no_token(path, &e.to_string()))?;
    let token = content.trim_ascii();
    if token.is_empty() || token.iter().any(u8::is_ascii_control) {
        return Err(no_token(path, "it must hold one line"));
    }
    Ok(token.to_vec())
}

/// Returns `value`, made of the token at `path`, as a header that is kept out of debug output and of the tables of header
/// compression.
///
/// # Errors
/// If it cannot be a header.
pub fn secret(value: impl Into<Vec<u8>>, path: &Path) -> Result<HeaderValue, Failure> {
    let value = HeaderValue::from_maybe_shared(bytes::Bytes::from(value.into()));
    let mut value = value.map_err(|_| no_token(path, "it cannot be encoded"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Says in our words why a request failed, without its URL.
pub fn failure(error: &reqwest::Error) -> Failure {
    if let Some(tls) = causes(error).find_map(|e| e.downcast_ref::<rustls::Error>()) {
        return Failure::new(Class::Tls, format!("the TLS handshake failed: {tls}"));
    }
    let (class, what) = if error.is_dns() {
        (Class::Dns, "its name does not resolve")
    } else if error.is_timeout() {
        (Class::Timeout, "it did not accept a connection in time")
    } else if error.is_connect() {
        (Class::Network, "it accepts no connection")
    } else {
        (Class::Network, "the connection broke")
    };
    Failure::new(class, format!("{what}: {}", root_cause(error)))
}

fn no_token(path: &Path, why: &str) -> Failure {
    Failure::new(Class::Local, format!("the token in '{}' cannot be read: {why}", path.display()))
}

fn authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, Failure> {
    let failed = |why: String| {
        Failure::new(Class::Local, format!("the authorities in '{}' cannot be read: {why}", path.display()))
    };
    let pem = read_bounded(path, CA_BYTES_MAX).map_err(|e| failed(e.to_string()))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| failed(root_cause(&e)))?;
    if found.is_empty() { Err(failed("no certificate in it".to_owned())) } else { Ok(found) }
}

fn read_bounded(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(max + 1).read_to_end(&mut content)?;
    if content.len() as u64 > max { Err(io::Error::other("file too large")) } else { Ok(content) }
}

/// Returns the innermost cause, in its own words.
fn root_cause(error: &(dyn StdError + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}
