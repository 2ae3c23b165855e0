//! How a server of the outside is reached and believed, beside its URL. Secrets are paths.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How an HTTPS server is reached and believed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Https {
    /// A PEM file of authorities trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the certificate that proves this host to the server, and those between it and the authority.
    pub client_cert_file: Option<PathBuf>,
    /// The PEM file of that certificate's private key.
    pub client_key_file: Option<PathBuf>,
    /// The proxy to go through, `http://host:port` or `socks5h://host:port`, without user or password.
    pub proxy: Option<String>,
    /// A file with `user:password` for the proxy.
    pub proxy_credentials_file: Option<PathBuf>,
}

impl Https {
    /// Returns the files that are read for a connection.
    pub fn files(&self) -> [Option<&PathBuf>; 4] {
        [&self.ca_file, &self.client_cert_file, &self.client_key_file, &self.proxy_credentials_file]
            .map(Option::as_ref)
    }
}
