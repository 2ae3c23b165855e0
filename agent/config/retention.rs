//! How many generations of the system are kept: the `retention` section of the configuration.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Span};

/// What is kept of what was deployed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retention {
    /// The generations of the `system` profile, and their boot entries.
    pub generations: Generations,
}

/// Which generations are kept. Without either bound all are; where both are set, one goes only if both say so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Generations {
    /// How many of the newest are kept, whatever their age; 1 or more.
    pub keep: Option<u64>,
    /// How old one must be to go.
    pub max_age: Option<Span>,
}

impl Retention {
    /// Refuses what makes no sense, naming the key.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.generations.keep == Some(0) {
            let text = "it must be 1 or more; null keeps all".to_owned();
            return Err(ConfigError::Value { key: "retention.generations.keep".to_owned(), text });
        }
        Ok(())
    }
}
