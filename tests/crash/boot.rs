//! What a boot changes in the world in memory: kernels, and what NixOS refuses to switch over.

use pullagent::model::{Deployment, Event, Happened, RebootNeed, Stage, StorePath, Why};

use super::world::{Behaviour, Bug, Guard, Inner, World, system, third_system};

impl Inner {
    /// Returns how the commit behaves that a system was built from; `None` for one that no commit of the script made.
    pub(super) fn behaviour_of(&self, toplevel: &StorePath) -> Option<Behaviour> {
        self.commits.iter().find(|(oid, _)| system(oid) == *toplevel).map(|(_, commit)| commit.behaviour)
    }

    /// Returns the system whose kernel a system has; most have that of the first.
    fn kernel(&self, toplevel: &StorePath) -> Option<StorePath> {
        self.behaviour_of(toplevel).filter(|b| b.has_own_kernel()).map(|_| toplevel.clone())
    }

    fn is_inhibited(&self, toplevel: &StorePath) -> bool {
        self.behaviour_of(toplevel) == Some(Behaviour::Inhibited)
    }

    /// Returns what of a system takes a boot.
    pub(super) fn reboot_reasons(&self, toplevel: &StorePath) -> Vec<String> {
        let differs = self.kernel(toplevel) != self.kernel(&self.booted);
        differs.then(|| "another kernel".to_owned()).into_iter().collect()
    }

    pub(super) fn reboot_need(&self, toplevel: &StorePath) -> Option<RebootNeed> {
        let forbidden = self.is_inhibited(toplevel) != self.is_inhibited(&self.running);
        let forbids_switch = forbidden.then(|| "another init".to_owned()).into_iter().collect();
        let reasons = self.reboot_reasons(toplevel);
        (!reasons.is_empty()).then_some(RebootNeed { reasons, forbids_switch, no_trial: None })
    }
}

/// How long a booted system may take to prove healthy, since its boot.
const BOOT_DEADLINE_MS: u64 = 400_000;
/// When the agent is up after a boot.
const UP_MS: u64 = 20_000;

impl Inner {
    /// The host goes down and comes up with whatever the boot loader has.
    pub(super) fn boot(&mut self) {
        self.check_invariants();
        self.go_down();
        let chosen = self.one_shot.take().filter(|new| self.behaviour_of(new) != Some(Behaviour::LosesEntry));
        let booted = chosen.unwrap_or_else(|| self.boot_default.clone());
        let behaviour = self.behaviour_of(&booted).filter(|_| booted != self.boot_default);
        if behaviour == Some(Behaviour::Panics) {
            // Before anything of the system ran; the watchdog or the kernel itself resets the machine.
            self.go_down();
            self.come_up(self.boot_default.clone());
            return;
        }
        self.come_up(booted);
        if behaviour == Some(Behaviour::Falls) {
            self.go_down();
            self.come_up(self.boot_default.clone());
        }
        if behaviour == Some(Behaviour::Hangs) {
            // Only the boot guard lives in it.
            self.now_ms = BOOT_DEADLINE_MS;
            self.elapse();
        }
    }

    fn go_down(&mut self) {
        self.boots += 1;
        self.wall_offset += self.now_ms / 1000 + 30;
        self.now_ms = UP_MS;
        self.reboot_due = false;
        for guard in self.guards.values_mut() {
            guard.timers.clear();
            guard.job = None;
        }
    }

    fn come_up(&mut self, booted: StorePath) {
        (self.running, self.etc, self.booted) = (booted.clone(), booted.clone(), booted);
        let watched = self.boot_guard.clone().filter(|_| self.bug != Some(Bug::BootGuardLeftOut));
        let guard = watched.and_then(|id| self.guards.get_mut(&id));
        let Some(guard) = guard.filter(|g| g.boots && g.new.as_ref() == Some(&self.booted)) else { return };
        guard.seen = true;
        guard.timers.push(BOOT_DEADLINE_MS);
    }
}

impl World {
    /// Has the host rebooted as often as its guards want.
    pub(super) fn settle_boots(&self) {
        for _ in 0..BOOTS_MAX {
            if !self.inner.borrow().reboot_due {
                return;
            }
            self.inner.borrow_mut().boot();
        }
        self.inner.borrow_mut().violations.push("it reboots again and again".to_owned());
    }

    pub(super) async fn stage(&self, d: Deployment) -> Happened {
        let Stage::Probation { trial, .. } = d.stage.clone() else { panic!("staged without a plan") };
        let now = self.now();
        self.inner.borrow_mut().check_patience(&d.desired.tip.revision, now);
        self.point().await;
        self.with_guard(&d, |guard| {
            guard.boots = true;
            // What runs for good is no longer what boots, until its boot is confirmed.
            let profile = guard.permanent.take().map(|(profile, _)| profile);
            guard.permanent = profile.map(|profile| (profile, trial.old.clone()));
        });
        self.point().await;
        self.inner.borrow_mut().trial_profile = Some(d.toplevel.clone());
        self.point().await;
        let default = if self.bug(Bug::TrialMadeDefault) { d.toplevel.clone() } else { trial.old };
        self.inner.borrow_mut().boot_default = default;
        self.point().await;
        self.inner.borrow_mut().boot_guard = Some(d.id.to_string());
        self.point().await;
        Happened::Event(Event::Staged { id: d.id, entry: "trial".to_owned() })
    }

    pub(super) async fn reboot(&self, d: Deployment) -> Happened {
        self.point().await;
        self.inner.borrow_mut().one_shot = Some(d.toplevel.clone());
        self.point().await;
        self.inner.borrow_mut().reboot_due = true;
        self.point().await;
        unreachable!("the host is down")
    }

    pub(super) async fn enter_trial(&self, d: Deployment) -> Happened {
        self.point().await;
        if !self.bug(Bug::BootGuardLeftOut) {
            self.with_guard(&d, |guard| guard.timers.push(BOOT_DEADLINE_MS));
        }
        self.point().await;
        let boot_id = format!("boot-{}", self.inner.borrow().boots);
        Happened::Event(Event::TrialBooted { id: d.id, boot_id, deadline_boottime_ms: BOOT_DEADLINE_MS })
    }

    /// Clears away what a trial leaves that came to nothing.
    pub(super) async fn clear_trial(&self, d: &Deployment) {
        let (Stage::Probation { trial, .. }, true) = (&d.stage, self.is_boot(d)) else { return };
        {
            let mut w = self.inner.borrow_mut();
            let ran = d.desired.why == Why::Reboot && w.running == d.toplevel;
            let permanent = if ran { &d.toplevel } else { &trial.old };
            if w.profile == d.toplevel || w.profile == trial.old {
                w.profile = permanent.clone();
            }
        }
        self.point().await;
        {
            let mut w = self.inner.borrow_mut();
            (w.boot_guard, w.one_shot, w.trial_profile) = (None, None, None);
        }
        self.point().await;
        let mut w = self.inner.borrow_mut();
        if w.profile != third_system() {
            w.boot_default = w.profile.clone();
        }
    }

    pub(super) fn is_boot(&self, d: &Deployment) -> bool {
        self.inner.borrow().guards.get(d.id.as_str()).is_some_and(|guard| guard.boots)
    }

    fn with_guard(&self, d: &Deployment, change: impl FnOnce(&mut Guard)) {
        change(self.inner.borrow_mut().guards.entry(d.id.to_string()).or_default());
    }
}

/// How often a host may reboot in a row, whatever happens.
const BOOTS_MAX: u32 = 4;
