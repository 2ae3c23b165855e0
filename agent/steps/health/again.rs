//! Whose fault a rollback was: the checks that were red under the new system are tried once more under the old one. If it
//! fails them all, too, it is the environment, and the revision has nothing to answer for.

use std::collections::BTreeMap;

use super::units::Units;
use super::watch::{Terms, Watch, failures};
use super::{Subject, UNITS_TERMS, UPDATABLE_TERMS, checks};
use crate::config::{Baseline, Check, Settings};
use crate::guard;
use crate::host::{clock, facts};
use crate::model::{Event, Happened, Recheck, Red, StorePath, UNITS, UPDATABLE};
use crate::steps::{Steps, millis, prepare};

/// Returns the hard checks that speak against the new system.
pub(super) fn red(subjects: &[Subject], watches: &[Watch]) -> Red {
    let hard = || subjects.iter().zip(watches).filter(|(_, w)| w.is_hard());
    // Where none fails, the time was over before they turned green.
    let failing = hard().any(|(_, w)| w.is_red());
    let red: Vec<_> = hard().filter(|(_, w)| if failing { w.is_red() } else { !w.is_green() }).collect();
    let to_be_repaired =
        |s: &Subject| matches!(s, Subject::Configured(check) if check.baseline == Baseline::Require);
    let is_remote = |s: &Subject| match s {
        Subject::Configured(check) => check.is_remote(),
        Subject::Updatable => true,
        Subject::Units(_) => false,
    };
    Red {
        checks: match red.iter().any(|(s, _)| to_be_repaired(s)) {
            true => vec![],
            false => red.iter().map(|(_, w)| w.name.clone()).collect(),
        },
        network: !red.is_empty() && red.iter().all(|(s, _)| is_remote(s)),
    }
}

/// Says whether the old system fails all its checks, if that is known by `now`.
fn judge(watches: &[Watch], until: u64, now: u64) -> Option<bool> {
    if watches.iter().any(Watch::is_green) {
        return Some(false);
    }
    if watches.iter().all(Watch::is_given_up) {
        return Some(true);
    }
    (now >= until).then(|| watches.iter().all(Watch::is_red))
}

impl Steps {
    pub(in crate::steps) async fn check_old(&self, recheck: &Recheck) -> Happened {
        let (environment, failures) = self.try_old(recheck).await;
        let (id, at) = (recheck.id.clone(), clock::unix_secs());
        Happened::Event(Event::OldChecked { id, environment, failures, at })
    }

    async fn try_old(&self, recheck: &Recheck) -> (bool, Vec<String>) {
        let old = prepare::settings_of(&recheck.old);
        let old = old.as_ref().unwrap_or(&self.settings);
        let Some(watches) = self.watches_of_old(recheck, old) else { return (false, vec![]) };
        let (subjects, mut watches): (Vec<_>, Vec<_>) = watches.into_iter().unzip();
        let reach = self.reach(&recheck.revision, old.remotes.iter().map(|r| r.name.clone()).collect());
        let until = clock::boottime_ms().saturating_add(millis(old.activation.window.0));
        let judge = |watches: &[Watch], now| {
            if self.runs(&recheck.old) { judge(watches, until, now) } else { Some(false) }
        };
        let environment = self.watch(&recheck.id, &subjects, &mut watches, &reach, judge).await;
        (environment, failures(&watches))
    }

    /// Returns how the old system is to be held to the checks; `None`: it does not know one of them, so it can't fail it.
    fn watches_of_old(&self, recheck: &Recheck, old: &Settings) -> Option<Vec<(Subject, Watch)>> {
        let configured: BTreeMap<String, Check> = checks(old).into_iter().collect();
        let watch = |name: &String| {
            let (subject, terms) = match (name.as_str(), configured.get(name)) {
                (UPDATABLE, _) => (Subject::Updatable, UPDATABLE_TERMS),
                (UNITS, _) => {
                    let plan = guard::read_plan(&self.guard_dir(&recheck.id)).ok()?;
                    (Subject::Units(Units::new(&old.health, &plan, &recheck.old)), UNITS_TERMS)
                }
                (_, check) => (Subject::Configured(check?.clone()), Terms::of(check?)),
            };
            Some((subject, Watch::on_its_own(name, terms)))
        };
        recheck.checks.iter().map(watch).collect()
    }

    fn runs(&self, toplevel: &StorePath) -> bool {
        facts::observe(&self.host).is_ok_and(|facts| facts.running.as_ref() == Some(toplevel))
    }
}
