//! Owns what is read of `units.json`: the names of the installed units and the properties of those that we start.
//!
//! The same file makes the units of the NixOS module and of the tests; so what is tested is what runs.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

/// The file itself.
pub const JSON: &str = include_str!("units.json");
/// The reconciler's unit.
pub const RECONCILER: &str = "pullagent.service";
/// The gateway's unit.
pub const GATEWAY: &str = "pullagent-gateway.service";
/// What the names of the units that we start begin with.
pub const PREFIX: &str = "pullagent-";

/// The kinds of units that we start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `switch-to-configuration test`: root, unconfined.
    Switch,
    /// Another call of `switch-to-configuration`: root, unconfined.
    Root,
    /// A rollback, by the pinned binary: root, unconfined.
    Guard,
    /// An evaluation: a user of its own, sandboxed.
    Build,
    /// A health check: a user of its own, sandboxed.
    Probe,
    /// A health check that asked for root.
    PrivilegedProbe,
}

impl Kind {
    /// Returns the kind's word in the names of units.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Switch => "switch",
            Kind::Root => "root",
            Kind::Guard => "guard",
            Kind::Build => "build",
            Kind::Probe | Kind::PrivilegedProbe => "probe",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Kind::PrivilegedProbe => "privilegedProbe",
            _ => self.word(),
        }
    }
}

/// Returns the properties of the units of a kind, as `Name=value`.
pub fn properties(kind: Kind) -> Vec<String> {
    properties_of(kind.key())
}

/// Returns the properties of the timers that fire a guard, as `Name=value`.
pub fn timer_properties() -> Vec<String> {
    properties_of("guardTimer")
}

fn properties_of(key: &str) -> Vec<String> {
    let of_kind = parsed().transient.get(key);
    let lines = |(name, value): (&String, &Value)| match value {
        Value::One(value) => vec![format!("{name}={value}")],
        Value::Several(values) => values.iter().map(|value| format!("{name}={value}")).collect(),
    };
    of_kind.into_iter().flatten().flat_map(lines).collect()
}

#[derive(Deserialize)]
struct Units {
    transient: BTreeMap<String, BTreeMap<String, Value>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Value {
    One(String),
    Several(Vec<String>),
}

fn parsed() -> &'static Units {
    static UNITS: OnceLock<Units> = OnceLock::new();
    UNITS.get_or_init(|| serde_json::from_str(JSON).expect("units.json is part of the program, and tested"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_properties() {
        for kind in [Kind::Switch, Kind::Root, Kind::Guard, Kind::Build, Kind::Probe, Kind::PrivilegedProbe] {
            let properties = properties(kind);
            assert!(properties.contains(&"Type=exec".to_owned()), "{kind:?}: {properties:?}");
            let sandboxed = matches!(kind, Kind::Build | Kind::Probe);
            assert_eq!(properties.contains(&"DynamicUser=yes".to_owned()), sandboxed, "{kind:?}");
        }
        assert!(properties(Kind::Switch).contains(&"IgnoreOnIsolate=yes".to_owned()));
        assert!(timer_properties().contains(&"IgnoreOnIsolate=yes".to_owned()));
        assert!(JSON.contains(RECONCILER) && JSON.contains(GATEWAY));
    }
}
