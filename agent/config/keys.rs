//! Trust settings that were adopted from a system: taken out of its configuration as they stand, and read again.

use super::{ConfigError, Settings, parse};
use crate::model::{Keys, TrustSettings, without_comment};
use crate::trust;

/// Returns the `trust` section of a configuration file as it stands there.
///
/// # Errors
/// The configuration can't be used by this version; then nothing of it is.
pub fn trust_settings(bytes: &[u8]) -> Result<TrustSettings, ConfigError> {
    parse(bytes)?;
    let mut file: serde_json::Value = serde_json::from_slice(bytes)?;
    Ok(TrustSettings::new(file["trust"].take()))
}

impl Settings {
    /// Returns whose signatures count by `keys`, with what was revoked at any time.
    ///
    /// # Errors
    /// The settings can't be used by this version.
    pub fn policy_with(&self, keys: &Keys) -> Result<trust::Policy, ConfigError> {
        let mut settings = self.clone();
        if let Some(adopted) = &keys.settings {
            settings.trust = serde_json::from_value(adopted.section().clone())?;
        }
        let listed: Vec<String> =
            settings.trust.revoked_keys.iter().map(|key| without_comment(key)).collect();
        let more = keys.revoked.iter().filter(|key| !listed.contains(key)).cloned();
        settings.trust.revoked_keys.extend(more);
        settings.policy()
    }
}
