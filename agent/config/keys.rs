//! Trust settings that were adopted from a system: taken out of its configuration as they stand, and read again. The rest of
//! that file may be one that this version can't read.

use std::collections::HashSet;

use super::{ConfigError, Settings, Trust, signer};
use crate::model::{Keys, TrustSettings, without_comment};
use crate::trust;

/// What a configuration file says about trust, and for whom.
#[derive(Debug)]
pub struct TrustIn {
    /// The `trust` section as it stands there, or why this version can't use it.
    pub settings: Result<TrustSettings, ConfigError>,
    /// The keys that it revokes, as far as they can be read: they count even where nothing else can be used.
    pub revoked: Vec<String>,
    /// The host that the file is for.
    pub hostname: Option<String>,
    /// The machine that it is for; `None`: any.
    pub machine_id: Option<String>,
}

/// Returns what a configuration file says about trust.
///
/// # Errors
/// It is not JSON.
pub fn trust_in(bytes: &[u8]) -> Result<TrustIn, ConfigError> {
    let mut file: serde_json::Value = serde_json::from_slice(bytes)?;
    let text = |key: &str| file.get(key).and_then(serde_json::Value::as_str).map(str::to_owned);
    let (hostname, machine_id) = (text("hostname"), text("expectedMachineId"));
    let section = file.get_mut("trust").map(serde_json::Value::take).unwrap_or_default();
    let settings = TrustSettings::new(section);
    let is_key = |key: &String| signer::public("trust.revokedKeys", key).is_ok();
    let revoked = settings.revoked_keys().into_iter().filter(is_key).collect();
    let settings = usable(&settings).map(|()| settings);
    Ok(TrustIn { settings, revoked, hostname, machine_id })
}

fn usable(settings: &TrustSettings) -> Result<(), ConfigError> {
    let trust: Trust = serde_json::from_value(settings.section().clone())?;
    trust.check()?;
    trust.policy().map(drop)
}

impl Settings {
    /// Returns whose signatures count by `keys`, with what was revoked at any time.
    ///
    /// # Errors
    /// The settings can't be used by this version.
    pub fn policy_with(&self, keys: &Keys) -> Result<trust::Policy, ConfigError> {
        let mut trust = match &keys.settings {
            Some(adopted) => serde_json::from_value(adopted.section().clone())?,
            None => self.trust.clone(),
        };
        let listed: HashSet<String> = trust.revoked_keys.iter().map(|key| without_comment(key)).collect();
        // No signature is accepted by a key of a kind that this version can't read.
        let more = keys.revoked.iter().filter(|key| !listed.contains(*key));
        let more = more.filter(|key| signer::public("trust.revokedKeys", key).is_ok()).cloned();
        trust.revoked_keys.extend(more);
        trust.policy()
    }
}
