//! Owns what systemd says about the units of the host at one moment, all in one answer. What it means is judged elsewhere.

use std::collections::BTreeSet;

use super::systemd::{self, SystemdError};
use super::units;

/// How many units are looked at.
pub const UNITS_MAX: usize = 2048;
/// How much `systemctl` may print about them.
const SAID_MAX: usize = 4 << 20;
/// The kinds that can fail or stop in a way that somebody would miss. Scopes and slices come and go with what is in them.
const KINDS: [&str; 7] = ["service", "socket", "timer", "path", "mount", "automount", "swap"];
/// What is asked, in the terms of systemd (org.freedesktop.systemd1(5)).
const PROPERTIES: &str = "Id,LoadState,ActiveState,SubState,Result,Job,NRestarts,Type,Restart,TriggeredBy,WantedBy,RequiredBy,\
                          ConditionResult";

/// One unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnitState {
    /// Its full name.
    pub name: String,
    /// Whether systemd knows a definition of it, rather than just its name.
    pub loaded: bool,
    /// `active`, `inactive`, `failed`, `activating` and so on.
    pub active: String,
    /// The finer state, such as `running` or `auto-restart`.
    pub sub: String,
    /// Why it ended: `success`, `exit-code`, `timeout` and so on.
    pub result: String,
    /// Whether systemd is about to start or stop it.
    pub has_job: bool,
    /// How often systemd has restarted it by itself since somebody started it.
    pub restarts: u32,
    /// Of a service: `simple`, `notify`, `oneshot`, …
    pub kind: String,
    /// Of a service: when systemd restarts it by itself; `no` if never.
    pub restart: String,
    /// Whether a socket, timer or path starts it when it is needed.
    pub is_triggered: bool,
    /// Whether another unit, such as a target, asks for it.
    pub is_wanted: bool,
    /// Whether the conditions in its definition held when it was last to be started.
    pub condition: bool,
}

impl UnitState {
    /// Tells whether it failed, or failed and waits to be started again.
    pub fn is_failing(&self) -> bool {
        self.active == "failed" || (self.sub.starts_with("auto-restart") && self.result != "success")
    }

    /// Tells whether it is a unit of the host's own: no session of a user, nothing of a moment, nothing of ours but what is
    /// installed.
    pub fn is_of_host(&self) -> bool {
        const PASSING: [&str; 4] = ["user@", "user-runtime-dir@", "run-", units::PREFIX];
        !PASSING.iter().any(|prefix| self.name.starts_with(prefix))
    }
}

/// Returns the state of all units of the host that [can be missed](UnitState::is_of_host), and of those `named`: systemd
/// forgets a unit that does nothing and lists it no more.
///
/// # Errors
/// systemd does not answer.
pub async fn look<'a>(named: impl IntoIterator<Item = &'a String>) -> Result<Vec<UnitState>, SystemdError> {
    let patterns = KINDS.map(|kind| format!("*.{kind}"));
    let mut units = read(&systemd::show_many(PROPERTIES, &patterns, SAID_MAX).await?);
    let listed: BTreeSet<&str> = units.iter().map(|u| u.name.as_str()).collect();
    let forgotten: Vec<String> =
        named.into_iter().filter(|name| !listed.contains(name.as_str())).cloned().collect();
    if !forgotten.is_empty() {
        units.extend(read(&systemd::show_many(PROPERTIES, &forgotten, SAID_MAX).await?));
    }
    Ok(units)
}

/// Reads blocks of `Name=value` lines, with an empty line between two.
fn read(text: &str) -> Vec<UnitState> {
    let units = text.split("\n\n").map(unit).filter(|u| !u.name.is_empty() && u.loaded && u.is_of_host());
    units.take(UNITS_MAX).collect()
}

fn unit(block: &str) -> UnitState {
    let mut unit = UnitState { condition: true, ..UnitState::default() };
    for (key, value) in block.lines().filter_map(|line| line.split_once('=')) {
        let text = || value.to_owned();
        match key {
            "Id" => unit.name = text(),
            "LoadState" => unit.loaded = value == "loaded",
            "ActiveState" => unit.active = text(),
            "SubState" => unit.sub = text(),
            "Result" => unit.result = text(),
            "Job" => unit.has_job = !value.is_empty() && value != "0",
            "NRestarts" => unit.restarts = value.parse().unwrap_or(0),
            "Type" => unit.kind = text(),
            "Restart" => unit.restart = text(),
            "TriggeredBy" => unit.is_triggered = !value.is_empty(),
            "WantedBy" | "RequiredBy" => unit.is_wanted |= !value.is_empty(),
            "ConditionResult" => unit.condition = value != "no",
            _ => {}
        }
    }
    unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_units() {
        let text = "Type=notify\nRestart=always\nResult=success\nNRestarts=2\nId=nginx.service\nRequiredBy=\n\
                    WantedBy=multi-user.target\nTriggeredBy=\nLoadState=loaded\nActiveState=active\nSubState=running\n\
                    ConditionResult=yes\nJob=\n\n\
                    Id=gone.service\nLoadState=not-found\nActiveState=inactive\n\n\
                    Id=user@1000.service\nLoadState=loaded\nActiveState=active\n\n\
                    Id=pullagent-switch-3-aaaaaaa.service\nLoadState=loaded\nActiveState=active\n\n\
                    Id=pullagent.service\nLoadState=loaded\nActiveState=activating\nJob=317\nConditionResult=no\n";
        let units = read(text);
        assert_eq!(
            units.iter().map(|u| u.name.as_str()).collect::<Vec<_>>(),
            ["nginx.service", "pullagent.service"]
        );
        let nginx = &units[0];
        assert_eq!(
            (nginx.restarts, nginx.is_wanted, nginx.is_triggered, nginx.has_job),
            (2, true, false, false)
        );
        assert!(units[1].has_job && !units[1].condition && nginx.condition);
        assert_eq!(read(""), []);
    }
}
