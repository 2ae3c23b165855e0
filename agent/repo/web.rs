//! The HTTP client that all of the gateway shares: what it trusts, what it refuses to speak to, how it shows a token. It
//! follows no redirect and takes nothing from the environment. It knows neither Git nor events.

use std::error::Error as StdError;
use std::fs::File;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

use base64::Engine as _;
use reqwest::Url;
use reqwest::header::HeaderValue;

use super::dial::{CONNECT_TIMEOUT, KEEPALIVE};
use super::net::{Class, Failure, causes};
use super::tls;
use crate::model::Https;

/// The longest token file, in bytes.
const TOKEN_BYTES_MAX: u64 = 8 * 1024;
/// Returns a client with a connection pool of its own for the server of `url`, so that dropping it drops its connections.
///
/// # Errors
/// If a file cannot be read or used, or TLS cannot be set up.
pub fn client(url: &Url, https: &Https, user_agent: &str) -> Result<reqwest::Client, Failure> {
    // Without TLS, reading the system's authorities would be in vain.
    let tls = if url.scheme() == "https" { tls::config(https)? } else { tls::without()? };
    let mut builder = reqwest::Client::builder().tls_backend_preconfigured(tls);
    // Nothing from the environment.
    builder = builder.no_proxy();
    if let Some(proxy) = https.proxy.as_deref().filter(|_| url.scheme() == "https") {
        let unusable = |_| Failure::new(Class::Local, "the address of its proxy is not usable");
        let mut proxy = reqwest::Proxy::https(self::proxy(proxy)?).map_err(unusable)?;
        if let Some(path) = &https.proxy_credentials_file {
            let (user, password) = user_and_password(path)?;
            proxy = proxy.basic_auth(&user, &password);
        }
        builder = builder.proxy(proxy);
    }
    builder
        .user_agent(user_agent)
        // A redirect could lead the token to another origin; an operator can write the new URL instead.
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_keepalive(KEEPALIVE)
        .pool_max_idle_per_host(1)
        // A limit would need a timer of its own, hence wake-ups; the server closes what it does not want.
        .pool_idle_timeout(None)
        .http1_only()
        .build()
        .map_err(|e| Failure::new(Class::Tls, format!("TLS cannot be set up: {}", root_cause(&e))))
}

/// Returns the address of a proxy.
///
/// # Errors
/// If it is none that can be used. No part of it is repeated.
pub(super) fn proxy(url: &str) -> Result<Url, Failure> {
    let wrong = |text: &str| Failure::new(Class::Local, text);
    let url = Url::parse(url).map_err(|_| wrong("the address of its proxy is not usable"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("the address of its proxy holds a user or a password; put them into a file"));
    }
    match url.scheme() {
        "http" | "socks5h" => Ok(url),
        _ => Err(wrong("its proxy must be http://host:port or socks5h://host:port")),
    }
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

/// Reads `user:password` in the file at `path`, as it is now.
///
/// # Errors
/// If the file can't be read, or holds something else than one such line.
pub(super) fn user_and_password(path: &Path) -> Result<(String, String), Failure> {
    let pair = String::from_utf8(token(path)?).map_err(|_| no_token(path, "it is no text"))?;
    let pair = pair.split_once(':').ok_or_else(|| no_token(path, "it must hold user:password"))?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

/// Returns what proves `user` by `password`, which was read from the file at `path` (RFC 7617).
///
/// # Errors
/// If it cannot be a header.
pub(super) fn basic(user: &str, password: &[u8], path: &Path) -> Result<HeaderValue, Failure> {
    let pair = [user.as_bytes(), b":", password].concat();
    let pair = base64::engine::general_purpose::STANDARD.encode(pair);
    secret(format!("Basic {pair}"), path)
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
    if error.is_dns() {
        Failure::new(Class::Dns, format!("its name does not resolve: {}", root_cause(error)))
    } else if error.is_timeout() {
        Failure::new(Class::Timeout, format!("it did not accept a connection in time: {}", root_cause(error)))
    } else if error.is_connect() && tls_error(error).is_none() {
        Failure::new(Class::Network, format!("it accepts no connection: {}", root_cause(error)))
    } else {
        broke(error)
    }
}

/// Says in our words why a connection failed, or the TLS on it.
pub(super) fn broke(error: &(dyn StdError + 'static)) -> Failure {
    match tls_error(error) {
        Some(tls) => Failure::new(Class::Tls, format!("the TLS handshake failed: {tls}")),
        None => Failure::new(Class::Network, format!("the connection broke: {}", root_cause(error))),
    }
}

fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    causes(error).find_map(|e| e.downcast_ref::<rustls::Error>())
}

fn no_token(path: &Path, why: &str) -> Failure {
    Failure::new(Class::Local, format!("the token in '{}' cannot be read: {why}", path.display()))
}

/// Reads the file at `path`, of `max` bytes at most.
pub(super) fn read_bounded(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(max + 1).read_to_end(&mut content)?;
    if content.len() as u64 > max { Err(io::Error::other("file too large")) } else { Ok(content) }
}

/// Returns the innermost cause, in its own words.
pub(super) fn root_cause(error: &(dyn StdError + 'static)) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}
