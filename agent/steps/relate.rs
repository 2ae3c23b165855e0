//! How commits stand to each other in the verified history, and which trust settings a system brings along. Asks no remote.

use super::Steps;
use super::prepare::CONFIG_IN_SYSTEM;
use crate::config;
use crate::host::{self, files};
use crate::model::{Happened, Keys, Kin, Oid, Sighting, StorePath, TrustSettings};
use crate::repo::lineage;
use crate::repo::store::{Store, StoreError};
use crate::trust;

impl Steps {
    /// Says how `revision` stands to `to`. What can't be found out is unknown, which permits nothing.
    pub(super) async fn relate(&self, revision: Oid, to: Oid) -> Happened {
        let kin = self.kin(&revision, &to).await.unwrap_or_else(|error| {
            tracing::warn!("the history can't be read: {}", host::chain(&error));
            Kin::Unknown
        });
        Happened::Saw(Sighting::Related { revision, to, kin })
    }

    /// Reads the stored history beside the loop; it may be long.
    pub(super) async fn kin(&self, revision: &Oid, to: &Oid) -> Result<Kin, StoreError> {
        let (directory, revision, to) = (self.state_directory.clone(), revision.clone(), to.clone());
        let read = move || match Store::open(&directory)? {
            Some(store) => lineage::kin(&store, &revision, &to),
            None => Ok(Kin::Unknown),
        };
        tokio::task::spawn_blocking(read).await.unwrap_or(Ok(Kin::Unknown))
    }

    /// Returns whose signatures count.
    ///
    /// # Errors
    /// The settings that were adopted can't be used by this version. Nothing is accepted then: to fall back to others
    /// would be to bring old keys back.
    pub(super) fn policy_of(&self, keys: &Keys) -> Result<trust::Policy, config::ConfigError> {
        if keys.settings.is_none() && keys.revoked.is_empty() {
            return Ok(self.trust.clone());
        }
        self.settings.policy_with(keys)
    }

    /// Returns the trust settings in `system`, if it has any that this version can use.
    pub(super) fn trust_settings_of(&self, system: &StorePath) -> Option<TrustSettings> {
        if let Some((known, settings)) = &*self.seen_trust.borrow()
            && known == system
        {
            return settings.clone();
        }
        let bytes = files::read_if_exists(&system.join(CONFIG_IN_SYSTEM), config::FILE_MAX).ok().flatten();
        let settings = bytes.and_then(|bytes| match config::trust_settings(&bytes) {
            Ok(settings) => Some(settings),
            Err(error) => {
                tracing::warn!("the trust settings of '{system}' can't be used: {}", host::chain(&error));
                None
            }
        });
        self.seen_trust.replace(Some((system.clone(), settings.clone())));
        settings
    }
}
