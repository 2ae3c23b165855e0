//! How commits stand to each other in the verified history, and which trust settings a system brings along. Asks no remote.

use super::Steps;
use super::prepare::CONFIG_IN_SYSTEM;
use crate::config;
use crate::host::files::FileError;
use crate::host::{self, facts, files};
use crate::model::{Happened, Keys, Kin, Oid, Sighting, StorePath, TrustSettings};
use crate::repo::lineage;
use crate::repo::store::{Store, StoreError};
use crate::trust;

/// The trust settings of a system.
#[derive(Debug, Clone, Default)]
pub struct TrustSeen {
    /// The settings, if it has any that can be used here.
    pub settings: Option<TrustSettings>,
    /// The keys that it revokes.
    pub revoked: Vec<String>,
}

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

    /// Returns the trust settings in `system`, as far as this version can use them.
    ///
    /// # Errors
    /// The file can't be read.
    pub(super) fn trust_settings_of(&self, system: &StorePath) -> Result<TrustSeen, FileError> {
        if let Some((known, seen)) = &*self.seen_trust.borrow()
            && known == system
        {
            return Ok(seen.clone());
        }
        let bytes = files::read_if_exists(&system.join(CONFIG_IN_SYSTEM), config::FILE_MAX)?;
        let seen = bytes.map(|bytes| self.trust_seen(system, &bytes)).unwrap_or_default();
        self.seen_trust.replace(Some((system.clone(), seen.clone())));
        Ok(seen)
    }

    /// Returns the trust settings in the running system. What can't be read now is read again at the next look.
    pub(super) fn trust_settings_now(&self, running: &StorePath) -> Option<TrustSettings> {
        let unreadable =
            |e: &FileError| tracing::warn!("the trust settings are not known: {}", host::chain(e));
        self.trust_settings_of(running).inspect_err(unreadable).ok()?.settings
    }

    /// Signers count from a configuration of this very host only: another one's may list its own. A key that is revoked
    /// anywhere is one that somebody holds who should not.
    fn trust_seen(&self, system: &StorePath, bytes: &[u8]) -> TrustSeen {
        let unusable = |why: &dyn std::fmt::Display| {
            tracing::warn!("the trust settings of '{system}' are not taken over: {why}");
        };
        let found = match config::trust_in(bytes) {
            Ok(found) => found,
            Err(error) => {
                unusable(&host::chain(&error));
                return TrustSeen::default();
            }
        };
        let settings = match found.settings {
            Err(error) => Err(host::chain(&error)),
            Ok(_) if found.hostname.as_ref() != Some(&self.settings.hostname) => {
                let other = found.hostname.as_deref().unwrap_or("nobody");
                Err(format!("they are for '{other}', and this is '{}'", self.settings.hostname))
            }
            Ok(_) if found.machine_id.is_some() && found.machine_id != self.machine_id() => {
                Err("they are for another machine (expectedMachineId)".to_owned())
            }
            Ok(settings) => Ok(settings),
        };
        let settings = settings.map_err(|why| unusable(&why)).ok();
        TrustSeen { settings, revoked: found.revoked }
    }

    pub(super) fn machine_id(&self) -> Option<String> {
        facts::observe(&self.host).ok().and_then(|facts| facts.machine_id)
    }
}
