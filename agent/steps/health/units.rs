//! The built-in check that no unit came to harm: none failed, none is restarted again and again, and what ran before still
//! runs. Only what is new counts; a unit that was failing before the switch speaks against nobody.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::config::Health;
use crate::guard::GuardPlan;
use crate::host;
use crate::host::unit_states::{self, UnitState};
use crate::model::StorePath;
use crate::steps::CheckResult;

/// So many restarts by systemd within one health phase are too many.
const RESTARTS_MAX: u32 = 3;
/// How many units a reason names.
const NAMED_MAX: usize = 5;

/// The check, for one health phase.
#[derive(Debug)]
pub(super) struct Units {
    rules: Health,
    active_before: BTreeSet<String>,
    failing_before: BTreeSet<String>,
    /// Where the new system keeps its units: what it does not have was taken away on purpose.
    defined_in: PathBuf,
    /// How often each unit had been restarted when it was first seen.
    restarts: RefCell<BTreeMap<String, u32>>,
}

impl Units {
    pub(super) fn new(rules: &Health, plan: &GuardPlan, new: &StorePath) -> Units {
        Units {
            rules: rules.clone(),
            active_before: plan.baseline_units.iter().cloned().collect(),
            failing_before: plan.failing_units.iter().cloned().collect(),
            defined_in: new.join("etc/systemd/system"),
            restarts: RefCell::default(),
        }
    }

    /// Looks at all units once.
    pub(super) async fn attempt(&self) -> CheckResult {
        match unit_states::look(&self.active_before).await {
            Ok(units) => self.judge(&units),
            Err(error) => CheckResult::broken(host::chain(&error)),
        }
    }

    fn judge(&self, units: &[UnitState]) -> CheckResult {
        let troubles: Vec<String> = units.iter().filter_map(|unit| self.trouble(unit)).collect();
        match troubles.len() {
            0 => CheckResult::good(),
            n if n <= NAMED_MAX => CheckResult::bad(troubles.join("; ")),
            n => {
                CheckResult::bad(format!("{}; and {} more", troubles[..NAMED_MAX].join("; "), n - NAMED_MAX))
            }
        }
    }

    fn trouble(&self, unit: &UnitState) -> Option<String> {
        let name = &unit.name;
        let restarts = self.new_restarts(unit);
        if self.rules.ignores(name) || self.failing_before.contains(name) {
            return None;
        }
        if restarts >= RESTARTS_MAX {
            return Some(format!("{name} was restarted {restarts} times since the switch"));
        }
        if unit.is_failing() {
            let result = if unit.result.is_empty() { &unit.active } else { &unit.result };
            return Some(format!("{name} failed ({result})"));
        }
        self.is_missed(unit).then(|| format!("{name} ran before and does not any more"))
    }

    /// A restart by a switch begins to count anew, so only what is added from look to look counts.
    fn new_restarts(&self, unit: &UnitState) -> u32 {
        let mut seen = self.restarts.borrow_mut();
        let first = seen.entry(unit.name.clone()).or_insert(unit.restarts);
        *first = unit.restarts.min(*first);
        unit.restarts - *first
    }

    /// Tells whether a unit has stopped that the new system still wants to run. What comes and goes as it is needed, what is
    /// done after a while, and what its own conditions keep from running is no loss.
    fn is_missed(&self, unit: &UnitState) -> bool {
        let lasting = match unit.name.rsplit_once('.').map(|(_, kind)| kind) {
            Some("service") => {
                let ends = unit.kind == "oneshot" || (unit.restart == "no" && unit.result == "success");
                !ends && unit.kind != "dbus"
            }
            _ => true,
        };
        self.active_before.contains(&unit.name)
            && unit.active == "inactive"
            && !unit.has_job
            && lasting
            && unit.is_wanted
            && !unit.is_triggered
            && unit.condition
            && self.defined_in.join(&unit.name).exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str, active: &str, sub: &str) -> UnitState {
        UnitState {
            name: name.to_owned(),
            loaded: true,
            active: active.to_owned(),
            sub: sub.to_owned(),
            result: if active == "failed" { "exit-code" } else { "success" }.to_owned(),
            kind: "simple".to_owned(),
            restart: "always".to_owned(),
            is_wanted: true,
            condition: true,
            ..UnitState::default()
        }
    }

    struct Host {
        units: Units,
        _dir: tempfile::TempDir,
    }

    /// `web.service` ran and `old.service` was failing before; the new system defines `web.service`.
    fn host() -> Host {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("web.service"), "").unwrap();
        let units = Units {
            rules: Health { ignore_units: vec!["flaky-*".to_owned()], ..Health::default() },
            active_before: ["web.service", "gone.service"].map(str::to_owned).into(),
            failing_before: ["old.service".to_owned()].into(),
            defined_in: dir.path().to_owned(),
            restarts: RefCell::default(),
        };
        Host { units, _dir: dir }
    }

    fn text(units: &[UnitState]) -> String {
        host().units.judge(units).text
    }

    #[test]
    fn only_new_failures_count() {
        assert_eq!(text(&[unit("web.service", "active", "running")]), "");
        assert_eq!(text(&[unit("new.service", "failed", "failed")]), "new.service failed (exit-code)");
        assert_eq!(text(&[unit("old.service", "failed", "failed")]), "");
        assert_eq!(text(&[unit("flaky-1.service", "failed", "failed")]), "");
        let waits =
            UnitState { result: "signal".to_owned(), ..unit("web.service", "activating", "auto-restart") };
        assert_eq!(text(std::slice::from_ref(&waits)), "web.service failed (signal)");
        // A service that ends well and is started again is at work.
        assert_eq!(text(&[UnitState { result: "success".to_owned(), ..waits }]), "");
        let many: Vec<UnitState> =
            (0..7).map(|n| unit(&format!("{n}.service"), "failed", "failed")).collect();
        assert!(text(&many).ends_with("4.service failed (exit-code); and 2 more"));
    }

    #[test]
    fn what_is_restarted_again_and_again_counts_even_while_it_runs() {
        let host = host();
        let mut web = unit("web.service", "active", "running");
        web.restarts = 7;
        for (restarts, ok) in [(7, true), (9, true), (0, true), (2, true), (3, false), (4, false)] {
            web.restarts = restarts;
            assert_eq!(host.units.judge(std::slice::from_ref(&web)).ok, ok, "{restarts}");
        }
    }

    #[test]
    fn what_ran_before_is_missed_if_it_should_still_run() {
        let stopped = unit("web.service", "inactive", "dead");
        assert_eq!(text(std::slice::from_ref(&stopped)), "web.service ran before and does not any more");
        let excused = [
            UnitState { name: "gone.service".to_owned(), ..stopped.clone() },
            UnitState { has_job: true, ..stopped.clone() },
            UnitState { kind: "oneshot".to_owned(), ..stopped.clone() },
            UnitState { kind: "dbus".to_owned(), ..stopped.clone() },
            UnitState { restart: "no".to_owned(), ..stopped.clone() },
            UnitState { is_triggered: true, ..stopped.clone() },
            UnitState { is_wanted: false, ..stopped.clone() },
            UnitState { condition: false, ..stopped.clone() },
            unit("web.service", "activating", "start"),
            unit("new.service", "inactive", "dead"),
        ];
        for unit in excused {
            assert_eq!(text(std::slice::from_ref(&unit)), "", "{unit:?}");
        }
    }
}
