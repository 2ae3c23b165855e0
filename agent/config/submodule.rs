//! Where the content of submodules comes from. What it is, the tree of the verified commit says; `.gitmodules` is not read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Remote, Settings, Source, check, default_interval, default_username};
use crate::trust::tree::{self, Submodules};

/// So many submodules may be configured; the gateway keeps a thread for each.
pub const SUBMODULES_MAX: usize = 32;
/// The longest path of a submodule, in bytes.
const PATH_BYTES_MAX: usize = 200;
/// How many bytes all addresses and files of submodules may have together: the gateway is told them in one frame.
const TEXT_BYTES_MAX: usize = 24 * 1024;

/// Where the commits of one submodule are fetched from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Submodule {
    /// As that of a remote.
    pub url: String,
    /// The user name that goes with the token.
    #[serde(default = "default_username")]
    pub username: String,
    /// A file that holds an access token, readable by the agent only.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// For SSH: a file that holds a private key without a passphrase, readable by the agent only.
    #[serde(default)]
    pub ssh_key_file: Option<PathBuf>,
    /// For SSH: a file in the manner of `known_hosts` with the keys of the server.
    #[serde(default)]
    pub known_hosts_file: Option<PathBuf>,
    /// A PEM file of certificate authorities, in addition to the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// A PEM file with a certificate that proves this host to the server.
    #[serde(default)]
    pub client_cert_file: Option<PathBuf>,
    /// The PEM file of that certificate's private key, readable by the agent only.
    #[serde(default)]
    pub client_key_file: Option<PathBuf>,
    /// A proxy to go through, as that of a remote.
    #[serde(default)]
    pub proxy: Option<String>,
    /// A file that holds `user:password` for the proxy, readable by the agent only.
    #[serde(default)]
    pub proxy_credentials_file: Option<PathBuf>,
}

impl Submodule {
    /// Returns the name by which the gateway knows the submodule at `path`; no remote can have it.
    pub fn source_name(path: &str) -> String {
        format!("submodule:{path}")
    }

    /// Returns the remote that the submodule at `path` is fetched from. It is never asked for its branches.
    pub fn as_remote(&self, path: &str) -> Remote {
        let s = self.clone();
        Remote {
            name: Submodule::source_name(path),
            url: s.url,
            interval: default_interval(),
            interval_while_hinted: None,
            username: s.username,
            token_file: s.token_file,
            ssh_key_file: s.ssh_key_file,
            known_hosts_file: s.known_hosts_file,
            ca_file: s.ca_file,
            client_cert_file: s.client_cert_file,
            client_key_file: s.client_key_file,
            proxy: s.proxy,
            proxy_credentials_file: s.proxy_credentials_file,
        }
    }

    fn text_bytes(&self) -> usize {
        let files = [
            &self.token_file,
            &self.ssh_key_file,
            &self.known_hosts_file,
            &self.ca_file,
            &self.client_cert_file,
            &self.client_key_file,
            &self.proxy_credentials_file,
        ];
        let files = files.into_iter().flatten().map(|file| file.as_os_str().len());
        let proxy = self.proxy.as_ref().map_or(0, String::len);
        self.url.len() + self.username.len() + proxy + files.sum::<usize>()
    }
}

impl Source {
    /// Returns at which paths of the tree there may be submodules.
    pub fn submodule_paths(&self) -> Submodules {
        self.submodules.keys().cloned().collect()
    }
}

impl Settings {
    /// Refuses paths that no tree could have, and addresses that no remote could.
    pub(super) fn check_submodules(&self) -> Result<(), ConfigError> {
        let wrong = |key: String, text: String| Err(ConfigError::Value { key, text });
        let submodules: &BTreeMap<String, Submodule> = &self.source.submodules;
        let all = "source.submodules".to_owned();
        if submodules.len() > SUBMODULES_MAX {
            return wrong(all, format!("there are more than {SUBMODULES_MAX}"));
        }
        let text_bytes: usize = submodules.iter().map(|(path, s)| path.len() + s.text_bytes()).sum();
        if text_bytes > TEXT_BYTES_MAX {
            return wrong(
                all,
                format!("all paths and addresses together are longer than {TEXT_BYTES_MAX} bytes"),
            );
        }
        for (path, submodule) in submodules {
            let key = format!("source.submodules.{path:?}");
            if let Some(text) = path_offence(path) {
                return wrong(key, text);
            }
            if let Err((field, text)) = check::check_access(&submodule.as_remote(path)) {
                return wrong(format!("{key}.{field}"), text);
            }
        }
        Ok(())
    }
}

/// Says what keeps `path` from being that of a submodule, as a tree spells it.
fn path_offence(path: &str) -> Option<String> {
    if path.len() > PATH_BYTES_MAX {
        return Some(format!("the path is longer than {PATH_BYTES_MAX} bytes"));
    }
    if path.contains('%') || path.contains(char::is_control) {
        return Some("a path with '%' or control characters is not supported".to_owned());
    }
    let shape = "write the path as Git shows it: from the root of the repository, without '.', '..', or a slash at its ends";
    path.split('/')
        .find_map(tree::directory_name_offence)
        .map(|says| format!("a part of the path {says}; {shape}"))
}
