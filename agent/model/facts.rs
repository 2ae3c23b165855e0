//! What the host says about itself. Read afresh before every decision, never remembered.

use serde::{Deserialize, Serialize};

use super::{Class, Oid, Red, StorePath};

/// The name of the built-in check that the host can still be updated; no configured check may have it.
pub const UPDATABLE: &str = "updatable";
/// The name of the built-in check that no unit came to harm; no configured check may have it.
pub const UNITS: &str = "units";

/// The state of the host at one moment, as far as decisions need it.
///
/// Each field is one anchor of the running system; none of them is believed alone (a switch that was
/// interrupted leaves `/etc` new and `/run/current-system` old).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostFacts {
    /// Target of `/run/current-system`: written by the last line of an activation.
    pub running: Option<StorePath>,
    /// The toplevel whose `etc` `/etc/static` points into: written by an early step of an activation.
    pub etc: Option<StorePath>,
    /// Target of `/run/booted-system`.
    pub booted: Option<StorePath>,
    /// What the `system` profile points to.
    pub profile: Option<StorePath>,
    /// The profile's generation number.
    pub generation: Option<u64>,
    /// What the next boot will start, as far as it can be predicted.
    pub boot_default: Option<StorePath>,
    /// The revision that the running system says it was built from (`etc/pullagent/revision` in it).
    pub running_revision: Option<Oid>,
    /// Whether `/run/nixos/{start,restart,reload}-list` show an interrupted switch.
    pub leftover_lists: bool,
    /// Whether all that the agent remembers is gone with the next boot: its state directory is in memory.
    #[serde(default)]
    pub volatile_state: bool,
    /// `/proc/sys/kernel/random/boot_id`: changes with every boot.
    pub boot_id: String,
    /// `/etc/machine-id`.
    pub machine_id: Option<String>,
    /// Milliseconds since boot, suspend included (`CLOCK_BOOTTIME`).
    pub boottime_ms: u64,
    /// Why the system that the next boot starts differs from what was booted in a way that only a boot brings about, in
    /// words; empty: it does not, or that can't be told.
    #[serde(default)]
    pub reboot_reasons: Vec<String>,
    /// The time zone of the host's own clock; `None`: UTC.
    #[serde(skip)]
    pub zone: Option<jiff::tz::TimeZone>,
}

impl HostFacts {
    /// Tells whether an activation stopped half-way: `/etc` and the running system disagree, or units wait
    /// to be started.
    ///
    /// A host without `/etc/static` (an `/etc` overlay) is judged by the lists alone.
    pub fn is_torn(&self) -> bool {
        self.leftover_lists || (self.etc.is_some() && self.etc != self.running)
    }
}

/// Who may end a probation, and how. The first decision written is the only one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Decision {
    /// The new system stays.
    Confirm,
    /// The old system comes back.
    RollBack {
        /// Why, for people.
        reason: String,
        /// `agent` or `guard`.
        by: Arbiter,
        /// Whether the target is to blame. Versions that did not write it blamed the target.
        #[serde(default, skip_serializing_if = "Class::is_target")]
        class: Class,
    },
    /// Somebody else switched the host meanwhile; it is left as it is.
    Superseded,
}

/// Who decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Arbiter {
    /// The reconciler.
    Agent,
    /// The dead man's switch, because nobody confirmed in time.
    Guard,
}

/// How the guard's work ended: `guard/<id>/result.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum GuardResult {
    /// The old system runs again.
    RolledBack,
    /// There was nothing to roll back: the old system ran all along, or a reboot brought it back.
    NothingToDo,
    /// The host runs a third system, which somebody else switched to; it was left alone.
    Superseded,
    /// The old system could not be brought back.
    Failed {
        /// What went wrong, for people.
        text: String,
    },
}

/// How one health check fares at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckFacts {
    /// Its name in the configuration.
    pub name: String,
    /// Whether its failure rolls back.
    pub hard: bool,
    /// Whether its last try succeeded; `None`: it was not tried yet.
    pub green: Option<bool>,
    /// Failures in a row.
    pub failures: u32,
    /// How many failures in a row mean unhealthy.
    pub failures_max: u32,
    /// What the last failure said.
    pub text: String,
}

/// What the guard's directory says about the deployment on probation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardFacts {
    /// The decision, if one was taken.
    pub decision: Option<Decision>,
    /// How a rollback ended, if one was carried out.
    pub result: Option<GuardResult>,
    /// Whether the new system has left a trace of a trial boot.
    #[serde(default)]
    pub trial_seen: bool,
    /// Whether an entry is set for the next boot only.
    #[serde(default)]
    pub one_shot_left: bool,
    /// The hard checks that spoke against the new system, if the agent found any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub red: Option<Red>,
}
