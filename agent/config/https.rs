//! What remotes and hints say in common about how an HTTPS server is reached and believed.

use std::path::PathBuf;

use super::{Hint, Remote};
use crate::model::Https;

/// The longest path, in bytes.
pub(super) const PATH_BYTES_MAX: usize = 1024;
/// The longest address of a proxy, in bytes.
const PROXY_BYTES_MAX: usize = 300;

impl Remote {
    /// Returns how it is reached where its URL is `https://`.
    pub fn https(&self) -> Https {
        Https {
            ca_file: self.ca_file.clone(),
            client_cert_file: self.client_cert_file.clone(),
            client_key_file: self.client_key_file.clone(),
            proxy: self.proxy.clone(),
            proxy_credentials_file: self.proxy_credentials_file.clone(),
        }
    }
}

impl Hint {
    /// Returns how its service is reached.
    pub fn https(&self) -> Https {
        Https {
            ca_file: self.ca_file.clone(),
            client_cert_file: self.client_cert_file.clone(),
            client_key_file: self.client_key_file.clone(),
            proxy: self.proxy.clone(),
            proxy_credentials_file: self.proxy_credentials_file.clone(),
        }
    }
}

/// Says which key is wrong, and what about it. Never repeats the proxy's address, which may hold a password.
pub(super) fn check(https: &Https, url: &str) -> Result<(), (&'static str, String)> {
    let wrong = |key, text: &str| Err((key, text.to_owned()));
    let files = [
        ("caFile", &https.ca_file),
        ("clientCertFile", &https.client_cert_file),
        ("clientKeyFile", &https.client_key_file),
        ("proxyCredentialsFile", &https.proxy_credentials_file),
    ];
    files.iter().try_for_each(|(key, file)| check_path(key, file.as_ref()))?;
    let given = files[1..].iter().find(|(_, file)| file.is_some()).map(|(key, _)| *key);
    if let Some(key) = given.or(https.proxy.as_ref().map(|_| "proxy"))
        && !url.starts_with("https://")
    {
        return wrong(key, "it is for https:// only");
    }
    match (&https.client_cert_file, &https.client_key_file) {
        (Some(_), None) => return wrong("clientKeyFile", "a client certificate needs its private key"),
        (None, Some(_)) => return wrong("clientCertFile", "a client key needs its certificate"),
        (Some(_), Some(_)) | (None, None) => {}
    }
    match &https.proxy {
        Some(proxy) => check_proxy(proxy).map_err(|text| ("proxy", text.to_owned())),
        None if https.proxy_credentials_file.is_some() => {
            wrong("proxyCredentialsFile", "there is no 'proxy' to use it for")
        }
        None => Ok(()),
    }
}

/// Refuses a file that is not named by an absolute path.
pub(super) fn check_path(key: &'static str, file: Option<&PathBuf>) -> Result<(), (&'static str, String)> {
    let bad = file.is_some_and(|f| !f.is_absolute() || f.as_os_str().len() > PATH_BYTES_MAX);
    if bad { Err((key, "it must be an absolute path".to_owned())) } else { Ok(()) }
}

fn check_proxy(proxy: &str) -> Result<(), &'static str> {
    let rest = ["http://", "socks5h://"].iter().find_map(|scheme| proxy.strip_prefix(scheme));
    let Some(rest) = rest.filter(|_| proxy.len() <= PROXY_BYTES_MAX) else {
        return Err("it must be http://host:port or socks5h://host:port");
    };
    if rest.contains('@') {
        return Err("no user name or password in an address; use 'proxyCredentialsFile'");
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let port = authority.rsplit_once(':').map(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
    if port == Some(true) && authority.chars().all(is_plain) && !authority.starts_with(':') {
        Ok(())
    } else {
        Err("it must be http://host:port or socks5h://host:port")
    }
}
