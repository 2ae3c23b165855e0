//! How the world in memory moves by itself: time, switches under way, the guard's own work, and what must always hold.

use pullagent::model::{
    Arbiter, Class, Decision, Deployment, GuardResult, Oid, ROLLBACKS_MAX, SWITCH_REPEATS_MAX,
};

use super::world::{Behaviour, Bug, Cut, GUARD_LONG_MS, Guard, Inner, Job, NEVER, World, third_system};

/// The pause after the first rollback that is not the target's fault; each further one is twice as long.
const FIRST_PAUSE_SECS: u64 = 600;
const LAST_PAUSE_SECS: u64 = 6 * 3600;

impl World {
    /// Lets time pass: guards fire, switches go on.
    pub fn pass(&self, ms: u64) {
        let mut w = self.inner.borrow_mut();
        let end = w.now_ms + ms;
        while let Some(at) = w.next_moment().filter(|at| *at <= end) {
            w.now_ms = w.now_ms.max(at);
            w.elapse();
        }
        w.now_ms = end;
    }

    /// Somebody looks at a host that suspended itself, and resumes it.
    pub fn resume(&self) {
        let now = self.now();
        let w = &mut *self.inner.borrow_mut();
        if w.recent_rollbacks(now) < ROLLBACKS_MAX {
            w.violations.push(format!("suspended after {:?}, which is too early", w.rolled_back));
        }
        w.rolled_back.clear();
    }

    /// What the crash does to the world before the agent is started again.
    pub fn crash(&self, cut: Cut) {
        match cut {
            Cut::Kill => self.pass(2_000),
            Cut::LongKill => self.pass(2 * GUARD_LONG_MS),
            Cut::Power => self.inner.borrow_mut().boot(),
        }
        // A guard may have wanted a reboot meanwhile, and does so again in the system that comes up.
        self.settle_boots();
        self.inner.borrow_mut().crashed = None;
    }
}

impl Inner {
    pub(super) fn next_moment(&self) -> Option<u64> {
        let due = |t: &u64| *t != NEVER && *t > self.now_ms;
        let of = |g: &Guard| {
            let timers = g.timers.iter().copied().filter(|_| g.decision.is_none());
            let job = g.job.iter().flat_map(|j| [j.etc_at, j.runs_at]);
            timers.chain(job).filter(due).min()
        };
        self.guards.values().filter_map(of).min()
    }

    pub(super) fn elapse(&mut self) {
        let now = self.now_ms;
        for id in self.guards.keys().cloned().collect::<Vec<_>>() {
            let Some(guard) = self.guards.get(&id) else { continue };
            if let (Some(job), Some(new)) = (&guard.job, &guard.new) {
                if job.etc_at == now {
                    self.etc = new.clone();
                }
                if job.runs_at == now {
                    self.running = new.clone();
                }
            }
            let lives = guard.boot == self.boots || guard.boots;
            if guard.decision.is_none() && lives && guard.timers.iter().any(|t| *t <= now) {
                self.fire(&id);
            }
        }
    }

    pub(super) fn decide(&mut self, id: &str, decision: Decision) -> Decision {
        let overwrite = self.bug == Some(Bug::DecisionOverwritten);
        let leave_out = self.bug == Some(Bug::ClassLeftOut);
        let guard = self.guards.entry(id.to_owned()).or_default();
        let decision = match decision {
            Decision::RollBack { reason, by, class: _ } if leave_out => {
                Decision::RollBack { reason, by, class: Class::Target }
            }
            other => other,
        };
        if guard.decision.is_none() || overwrite {
            guard.decision = Some(decision.clone());
        }
        let guard = guard.clone();
        if guard.decision == Some(Decision::Confirm) && !guard.test {
            self.may_be_permanent.extend(guard.new);
        }
        guard.decision.unwrap_or(decision)
    }

    /// The guard's own work.
    pub(super) fn fire(&mut self, id: &str) {
        let reason = "nobody confirmed in time".to_owned();
        let decision =
            self.decide(id, Decision::RollBack { reason, by: Arbiter::Guard, class: Class::Target });
        let Some(guard) = self.guards.get(id).cloned() else { return };
        let (Some(old), Some(new)) = (guard.old.clone(), guard.new.clone()) else { return };
        let result = match decision {
            Decision::Confirm => return,
            Decision::Superseded => GuardResult::Superseded,
            // To go back from a trial boot is to boot: then there is nothing left to do.
            Decision::RollBack { .. } if guard.boots && guard.boot != self.boots && self.booted == new => {
                self.reboot_due = true;
                return;
            }
            Decision::RollBack { .. } if guard.boots => GuardResult::NothingToDo,
            Decision::RollBack { .. } if guard.boot != self.boots => GuardResult::NothingToDo,
            Decision::RollBack { .. } if self.running == old && self.etc == old => GuardResult::NothingToDo,
            Decision::RollBack { .. } if self.running != old && self.running != new => {
                GuardResult::Superseded
            }
            Decision::RollBack { .. } => {
                let back = if self.bug == Some(Bug::RollsBackToWrongPath) { third_system() } else { old };
                (self.running, self.etc) = (back.clone(), back);
                GuardResult::RolledBack
            }
        };
        // A rollback waits for, or stops, the switch that still runs.
        if let Some(guard) = self.guards.get_mut(id) {
            guard.job = guard.job.take().map(|j| Job {
                etc_at: NEVER,
                runs_at: NEVER,
                ends_at: j.ends_at.min(self.now_ms),
            });
            guard.result = guard.result.take().or(Some(result));
        }
    }

    /// Takes down a rollback that the agent is about to be told of.
    pub(super) fn note_rollback(&mut self, d: &Deployment, result: Option<&GuardResult>, now: u64) {
        if matches!(result, Some(GuardResult::Superseded)) {
            return;
        }
        let revision = d.desired.tip.revision.clone();
        let of_agent = |g: &Guard| matches!(g.decision, Some(Decision::RollBack { by: Arbiter::Agent, .. }));
        let by_agent = self.guards.get(d.id.as_str()).is_some_and(of_agent);
        let behaviour = self.commits.get(&revision).map(|c| c.behaviour);
        if by_agent && matches!(behaviour, Some(Behaviour::Offline | Behaviour::CutOff)) {
            let (count, at) = self.unreached.entry(revision.clone()).or_default();
            (*count, *at) = (*count + 1, now);
        }
        self.note_red(d, &revision, now);
        self.rolled_back.push((revision, now));
    }

    /// What must hold whenever a switch is about to begin: the pauses after rollbacks, and the end of them.
    pub(super) fn check_patience(&mut self, revision: &Oid, now: u64) {
        if self.recent_rollbacks(now) >= ROLLBACKS_MAX {
            self.violations.push(format!("it goes on after {ROLLBACKS_MAX} rollbacks within a day"));
        }
        if let Some((count, until)) = self.red.get(revision)
            && now < *until
        {
            self.violations.push(format!("{revision} is tried again {} s early after {count}", until - now));
        }
        let Some((count, at)) = self.unreached.get(revision) else { return };
        let pause = (FIRST_PAUSE_SECS << (count - 1)).min(LAST_PAUSE_SECS);
        if now < at + pause {
            self.violations.push(format!("{revision} is tried again {} s after rollback {count}", now - at));
        }
    }

    /// How many rollbacks there were within a day since somebody resumed the host.
    pub fn recent_rollbacks(&self, now: u64) -> usize {
        self.rolled_back.iter().filter(|(_, at)| now - at < 24 * 3600).count()
    }

    /// What must hold at every moment, whatever happened before.
    pub(super) fn check_invariants(&mut self) {
        let mut wrong = vec![];
        for path in [&self.profile, &self.boot_default] {
            if !self.may_be_permanent.contains(path) && *path != third_system() {
                wrong.push(format!("{path} is permanent, and nobody confirmed it"));
            }
        }
        let number = |id: &String| id.split('-').next().and_then(|n| n.parse::<u32>().ok());
        let newest = self.guards.keys().max_by_key(|id| number(id)).cloned();
        let permanent = (self.profile.clone(), self.boot_default.clone());
        let on_trial = |id: &String, g: &Guard| {
            g.boots && g.new.as_ref() == Some(&self.booted) && self.boot_guard.as_ref() == Some(id)
        };
        for (id, guard) in self.guards.iter().filter(|(id, g)| g.boot == self.boots || on_trial(id, g)) {
            let (Some(old), Some(new)) = (&guard.old, &guard.new) else { continue };
            // What runs for good before its boot was confirmed; both may be what boots.
            let only_boot = guard.only_boot && guard.boot == self.boots;
            if old == new
                || only_boot
                || guard.result.is_some()
                || guard.decision == Some(Decision::Superseded)
            {
                continue;
            }
            if guard.switches > 1 + SWITCH_REPEATS_MAX {
                wrong.push(format!("{id}: switched to {} times", guard.switches));
            }
            let confirmed = guard.decision == Some(Decision::Confirm);
            let by_operator = self.profile == third_system();
            if !confirmed
                && !by_operator
                && guard.decision.is_none()
                && guard.permanent != Some(permanent.clone())
            {
                wrong.push(format!("{id}: profile or boot entry moved before it was confirmed"));
            }
            let moved = guard.permanent != Some(permanent.clone());
            if guard.test && confirmed && moved && newest.as_ref() == Some(id) {
                wrong.push(format!("{id}: a test was made permanent"));
            }
            let armed = guard.timers.iter().any(|t| *t > self.now_ms);
            if guard.decision.is_none() && (self.running == *new || self.etc == *new) && !armed {
                wrong.push(format!("{id}: the new system was activated without a guard"));
            }
        }
        self.violations.append(&mut wrong);
    }
}
