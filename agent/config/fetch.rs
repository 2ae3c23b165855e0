//! What a remote may cost: the bounds of polls and packs that a user may move. Knows nothing of who keeps them.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Span};

/// The least that any bound in bytes may be: whatever is smaller would refuse honest commits.
const BYTES_MIN: u64 = 1 << 20;

/// What a remote may cost. Whatever exceeds a bound is given up, and nothing of it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Fetch {
    /// Bytes of one pack as it arrives.
    pub pack_bytes_max: u64,
    /// Bytes of one object.
    pub object_bytes_max: u64,
    /// Bytes of all new objects of one pack, unpacked.
    pub unpacked_bytes_max: u64,
    /// Objects in one pack.
    pub objects_max: u32,
    /// How long a remote may be silent.
    pub idle_timeout: Span,
    /// How long asking a remote for its branches may take in all.
    pub poll_timeout: Span,
    /// How long a pack may take in all.
    pub timeout: Span,
}

impl Default for Fetch {
    fn default() -> Fetch {
        Fetch {
            pack_bytes_max: 512 << 20,
            object_bytes_max: 64 << 20,
            unpacked_bytes_max: 8 << 30,
            objects_max: 1_000_000,
            idle_timeout: Span::secs(30),
            poll_timeout: Span::secs(60),
            timeout: Span::secs(20 * 60),
        }
    }
}

impl Fetch {
    /// Refuses bounds that no honest remote could keep.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, text: String| Err(ConfigError::Value { key: format!("fetch.{key}"), text });
        let bytes = [
            ("packBytesMax", self.pack_bytes_max),
            ("objectBytesMax", self.object_bytes_max),
            ("unpackedBytesMax", self.unpacked_bytes_max),
        ];
        if let Some((key, _)) = bytes.iter().find(|(_, bytes)| *bytes < BYTES_MIN) {
            return wrong(key, format!("it must be {BYTES_MIN} or more"));
        }
        if self.objects_max == 0 {
            return wrong("objectsMax", "it must be 1 or more".to_owned());
        }
        let times = [
            ("idleTimeout", self.idle_timeout),
            ("pollTimeout", self.poll_timeout),
            ("timeout", self.timeout),
        ];
        match times.iter().find(|(_, time)| time.0 < Duration::from_secs(1)) {
            Some((key, _)) => wrong(key, "it must be 1s or more".to_owned()),
            None => Ok(()),
        }
    }
}
