//! Which trust settings count: those of the accepted main line, remembered so that a rollback does not bring back older
//! ones. The settings are opaque here; [`crate::config`] reads them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Oid;

/// How many bytes of revoked keys are remembered: as many as the largest configuration file could hold.
pub const REVOKED_BYTES_MAX: usize = 1 << 20;

/// The `trust` section of a configuration file, as it stands there: keys that this version does not know are kept for one
/// that does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrustSettings(Value);

impl TrustSettings {
    /// Takes the section as it stands in the file.
    pub fn new(section: Value) -> TrustSettings {
        TrustSettings(section)
    }

    /// Returns the section as it stands in the file.
    pub fn section(&self) -> &Value {
        &self.0
    }

    /// Returns the keys in `revokedKeys`, without their comments.
    pub fn revoked_keys(&self) -> Vec<String> {
        let listed = self.0.get("revokedKeys").and_then(Value::as_array);
        listed.into_iter().flatten().filter_map(Value::as_str).map(without_comment).collect()
    }
}

/// Returns type and base64 of a public key's line: what makes two lines name the same key.
pub fn without_comment(line: &str) -> String {
    line.split_ascii_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// The trust settings that were adopted last. They stay until newer ones of the main line, or root, take their place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdoptedTrust {
    /// The revision whose configuration holds them; `None`: the system that they were read from does not say.
    pub revision: Option<Oid>,
    /// The settings.
    pub settings: TrustSettings,
    /// When they were adopted.
    pub at: u64,
}

/// What a tip's signatures are held against.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    /// The trust settings; `None`: those of the agent's own configuration.
    pub settings: Option<TrustSettings>,
    /// Keys that were revoked at any time, whatever the settings say.
    pub revoked: Vec<String>,
}

/// A commit that root named as the next anchor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Vouched {
    /// The commit.
    pub revision: Oid,
    /// Who named it.
    pub by: String,
    /// When.
    pub at: u64,
    /// Whether it is the anchor by now; until then it has to be fetched.
    pub anchored: bool,
}

/// How one commit stands to another in the history that this host has fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kin {
    /// It is an ancestor.
    Older,
    /// It is a descendant.
    Newer,
    /// Neither.
    Apart,
    /// The host does not have its history. It is no ancestor of anything that was accepted.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revoked_keys_are_told_apart_by_key_and_not_by_comment() {
        let of =
            |keys: &[&str]| TrustSettings::new(serde_json::json!({ "revokedKeys": keys })).revoked_keys();
        assert_eq!(
            of(&["ssh-ed25519  AAAA  alice@old", "ssh-ed25519 BBBB"]),
            ["ssh-ed25519 AAAA", "ssh-ed25519 BBBB"]
        );
        assert_eq!(TrustSettings::new(Value::Null).revoked_keys(), Vec::<String>::new());
    }
}
