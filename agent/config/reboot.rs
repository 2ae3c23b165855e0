//! What the configuration says about reboots.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ConfigError;
use crate::model::{RebootPolicy, Window};

/// How many windows there may be.
const WINDOWS_MAX: usize = 64;

/// What is done about a system that takes a reboot: another kernel, initrd, kernel parameters and the like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Reboot {
    /// Whether the agent may reboot the host: `never`, `window` or `immediate`.
    #[schemars(with = "String")]
    pub policy: RebootPolicy,
    /// When, for the policy `window`, by the host's own clock: `02:00-05:00`, `Sat,Sun 22:00-04:00`.
    #[schemars(with = "Vec<String>")]
    pub window: Vec<Window>,
    /// Whether this host's encrypted disks are unlocked at boot without anybody's hands: by a TPM, a key file, a server.
    /// Without it a host that has one is never rebooted by the agent.
    pub unattended_unlock: bool,
}

impl Reboot {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |text: &str| {
            Err(ConfigError::Value { key: "activation.reboot.window".to_owned(), text: text.to_owned() })
        };
        match (self.policy, self.window.len()) {
            (RebootPolicy::Window, 0) => {
                wrong("the policy is 'window' and there is none; name at least one, such as '02:00-05:00'")
            }
            (_, many) if many > WINDOWS_MAX => wrong("there may be 64 windows at most"),
            (RebootPolicy::Never | RebootPolicy::Window | RebootPolicy::Immediate, _) => Ok(()),
        }
    }
}
