//! The bounds of an import. Knows nothing of where they are applied. Those of a tree are in [`crate::trust::tree`].

use serde::{Deserialize, Serialize};

const MIB: u64 = 1 << 20;

/// How much a pack, and what comes out of it, may be. Whatever exceeds one of these is refused, never cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Objects in one pack, as its header says.
    pub objects: u32,
    /// Bytes of one object, and of one buffer while deltas are resolved.
    pub object_bytes: u64,
    /// Bytes of trusted objects that a thin pack may name as delta bases; each is stored again in full.
    pub bases_bytes: u64,
    /// Bytes of one pack as it arrives.
    pub pack_bytes: u64,
    /// Bytes of all new objects of one pack, unpacked.
    pub total_bytes: u64,
    /// Seconds of processor time one import may use.
    pub cpu_secs: u32,
    /// Seconds one import may take in all; the network may be slow to bring the pack.
    pub wall_secs: u32,
}

impl Limits {
    /// Default for [`Limits::objects`].
    pub const OBJECTS: u32 = 1_000_000;
    /// Default for [`Limits::object_bytes`].
    pub const OBJECT_BYTES: u64 = 64 * MIB;
    /// Default for [`Limits::bases_bytes`].
    pub const BASES_BYTES: u64 = 128 * MIB;
    /// Default for [`Limits::pack_bytes`].
    pub const PACK_BYTES: u64 = 512 * MIB;
    /// Default for [`Limits::total_bytes`].
    pub const TOTAL_BYTES: u64 = 8192 * MIB;
    /// Default for [`Limits::cpu_secs`].
    pub const CPU_SECS: u32 = 600;
    /// Default for [`Limits::wall_secs`].
    pub const WALL_SECS: u32 = 1800;
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            objects: Limits::OBJECTS,
            object_bytes: Limits::OBJECT_BYTES,
            bases_bytes: Limits::BASES_BYTES,
            pack_bytes: Limits::PACK_BYTES,
            total_bytes: Limits::TOTAL_BYTES,
            cpu_secs: Limits::CPU_SECS,
            wall_secs: Limits::WALL_SECS,
        }
    }
}
