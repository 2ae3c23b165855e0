//! Where metrics are shown: the `exporter` section of the configuration.

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// What node_exporter wants the names of files to end with; it passes over all others.
const TEXTFILE_SUFFIX: &str = "prom";

/// Where metrics are shown. One of the two is enough.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Exporter {
    /// The address and port at which Prometheus may ask, without a password: `127.0.0.1:9175`. Every address of this host
    /// that others reach is open to them unless a firewall says otherwise.
    #[schemars(with = "Option<String>")]
    pub listen: Option<SocketAddr>,
    /// A file for the textfile collector of node_exporter, written anew again and again; its name ends in `.prom`.
    pub textfile: Option<PathBuf>,
}

impl Exporter {
    /// Refuses what makes no sense, naming the key.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, text: &str| {
            Err(ConfigError::Value { key: format!("exporter{key}"), text: text.to_owned() })
        };
        let file = self.textfile.as_deref();
        match (self.listen, file) {
            (None, None) => {
                wrong("", "it shows metrics nowhere; set 'listen' or 'textfile', or null instead of all")
            }
            (Some(address), _) if address.port() == 0 => wrong(".listen", "port 0 is no port to ask at"),
            (_, Some(file)) if !file.is_absolute() => wrong(".textfile", "it must be an absolute path"),
            (_, Some(file)) if file.extension().is_none_or(|suffix| suffix != TEXTFILE_SUFFIX) => {
                wrong(".textfile", "its name must end in '.prom', or node_exporter passes over it")
            }
            _ => Ok(()),
        }
    }
}
