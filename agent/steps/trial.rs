//! Trial boots: what is put in place for one, the reboot itself, the arrival in the new system, and the clearing away. The
//! order, and what a cut leaves of it, stands in `plan/trial.rs`.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{BOOT_MAX, GUARD_MARGIN, Steps, failed_step, millis};
use crate::guard;
use crate::host::boot::bootctl::{self, SetError};
use crate::host::boot::predict::{Loader, NextBoot};
use crate::host::boot::{self, Capability, unlock};
use crate::host::files::FileError;
use crate::host::manager::Manager;
use crate::host::systemd::{self, Force};
use crate::host::{self, facts, files, profile, switch};
use crate::model::{AwaitedReboot, Deployment, Event, Happened, Stage, Step, StorePath, Trial, Why};

/// The profile of the system on trial, below the root: the loader's entries are made of profiles.
const TRIAL_PROFILE: &str = "nix/var/nix/profiles/system-profiles/pullagent-trial";
/// How many times the health phase's window a booted system may take, since its kernel started.
const BOOT_WINDOWS: u32 = 2;
/// How long the host may take to go down once it was asked to reboot.
const DOWN_WITHIN: Duration = Duration::from_secs(300);

type Failed = Box<dyn Error + Send + Sync>;

/// Why a trial is not begun.
enum Stop {
    /// It can't be made safe here.
    Unsafe(String),
    /// Something failed that may pass.
    Again(Failed),
}

impl<E: Into<Failed>> From<E> for Stop {
    fn from(error: E) -> Stop {
        Stop::Again(error.into())
    }
}

impl Steps {
    /// Says why no system can be tried on this host by a boot that falls back; `None`: it can.
    pub(super) async fn trial_obstacle(&self) -> Option<String> {
        match self.obstacle().await {
            Ok(obstacle) => obstacle,
            Err(error) => Some(host::chain(&*error)),
        }
    }

    async fn obstacle(&self) -> Result<Option<String>, Failed> {
        if self.manager == Manager::Alone {
            return Ok(Some("no systemd runs this host".to_owned()));
        }
        match boot::capability(self.host.root())? {
            Capability::SystemdBoot { .. } => {}
            Capability::Grub(_) => {
                return Ok(Some("what GRUB boots next can't be foretold; it takes systemd-boot".to_owned()));
            }
            Capability::None(reason) => return Ok(Some(reason)),
        }
        if let Some(disk) = self.locked_disk()? {
            return Ok(Some(format!(
                "the disk '{disk}' is encrypted, and a boot may wait for somebody to unlock it; if that takes no hands, set \
                 activation.reboot.unattendedUnlock"
            )));
        }
        let state = &self.state_directory;
        if files::is_in_memory(state)? {
            let text =
                format!("'{}' does not outlast a reboot, so the trial would be forgotten", state.display());
            return Ok(Some(text));
        }
        let control = self.host.root().join(guard::CONTROL);
        if !systemd::unit_paths().await?.contains(&control) {
            return Ok(Some(format!("systemd looks for no units in '{}'", control.display())));
        }
        let fixed = self.loader().await?.fixed();
        Ok(fixed.map(|choice| {
            format!("what is booted can't be changed: '{}' comes first, because {}", choice.file, choice.why)
        }))
    }

    /// Returns a disk of this host that somebody may have to unlock at boot.
    pub(super) fn locked_disk(&self) -> Result<Option<String>, FileError> {
        match self.settings.activation.reboot.unattended_unlock {
            true => Ok(None),
            false => unlock::encrypted_disk(self.host.root()),
        }
    }

    async fn loader(&self) -> Result<Loader, boot::BootError> {
        boot::loader(self.host.root(), self.manager).await
    }

    fn trial_profile(&self) -> PathBuf {
        self.host.root().join(TRIAL_PROFILE)
    }

    /// Sets the trial up: the old system stays what is booted by default, and that is foretold before anything else happens.
    pub(super) async fn stage(&self, d: &Deployment) -> Happened {
        let Stage::Probation { trial, .. } = &d.stage else { return misplaced(d) };
        match self.try_stage(d, trial).await {
            Ok(entry) => Happened::Event(Event::Staged { id: d.id.clone(), entry }),
            Err(stop) => self.give_up(d, trial, stop).await,
        }
    }

    async fn try_stage(&self, d: &Deployment, trial: &Trial) -> Result<String, Stop> {
        let dir = self.guard_dir(&d.id);
        guard::mark_boot(&dir, self.boot_deadline_ms())?;
        self.nix.set_profile(&self.trial_profile(), &d.toplevel).await?;
        switch::boot(&trial.old, self.manager, BOOT_MAX).await?;
        let loader = self.loader().await?;
        let entry = entry_name(&loader, &d.toplevel)?;
        for (when, next) in [("next", loader.next_boot()), ("after the trial", loader.boot_after())] {
            check_falls_back(&loader, when, &next, &trial.old)?;
        }
        guard::install_boot(&dir, self.manager).await?;
        Ok(entry)
    }

    pub(super) fn boot_deadline_ms(&self) -> u64 {
        millis(self.settings.activation.window.0 * BOOT_WINDOWS + GUARD_MARGIN)
    }

    /// Makes the new system's entry the one of the next boot only, sees that this is so, and reboots.
    pub(super) async fn reboot(&self, d: &Deployment) -> Happened {
        let Stage::Probation { trial, step: Step::Staged { entry } } = &d.stage else { return misplaced(d) };
        if let Err(stop) = self.direct_next_boot(d, trial, entry).await {
            return self.give_up(d, trial, stop).await;
        }
        tracing::info!(deployment = d.id.as_str(), "rebooting into '{}' for its trial", d.toplevel);
        if let Err(error) = systemd::reboot(Force::Orderly).await {
            return failed_step(d, "reboot", &error);
        }
        tokio::time::sleep(DOWN_WITHIN).await;
        failed_step(
            d,
            "reboot",
            &std::io::Error::other("the host does not go down, although it was asked to"),
        )
    }

    async fn direct_next_boot(&self, d: &Deployment, trial: &Trial, entry: &str) -> Result<(), Stop> {
        let efivars = boot::efivars_dir(self.host.root());
        match bootctl::set_one_shot(&efivars, self.manager, Some(entry)).await {
            Ok(()) => {}
            Err(error @ SetError::NotKept { .. }) => return Err(Stop::Unsafe(host::chain(&error))),
            Err(error) => return Err(error.into()),
        }
        let loader = self.loader().await?;
        let next = loader.next_boot();
        if next.toplevel() != Some(&d.toplevel) {
            return Err(Stop::Unsafe(format!("the next boot would not be the new system: {}", told(&next))));
        }
        check_falls_back(&loader, "after the trial", &loader.boot_after(), &trial.old)
    }

    /// Ends what can't be made safe, and tries again what may pass.
    async fn give_up(&self, d: &Deployment, trial: &Trial, stop: Stop) -> Happened {
        match stop {
            Stop::Again(error) => failed_step(d, "boot-trial", &*error),
            Stop::Unsafe(obstacle) => {
                let mut need = trial.reboot.as_deref().cloned().unwrap_or_default();
                let why = format!("it can't be tried safely by a boot that falls back: {obstacle}");
                need.no_trial = Some(obstacle);
                self.await_reboot(d, AwaitedReboot { need, why, given_up: true }).await
            }
        }
    }

    /// Takes over in the new system: its guard runs already, and gets a timer beside it.
    pub(super) async fn enter_trial(&self, d: &Deployment) -> Happened {
        if let Err(why) = self.is_new_agent(d) {
            return self.hand_over(d, &why).await;
        }
        let dir = self.guard_dir(&d.id);
        match self.watched(&dir).await {
            Ok((boot_id, deadline_boottime_ms)) => {
                Happened::Event(Event::TrialBooted { id: d.id.clone(), boot_id, deadline_boottime_ms })
            }
            Err(error) => failed_step(d, "guard", &*error),
        }
    }

    async fn watched(&self, dir: &Path) -> Result<(String, u64), Failed> {
        let boot_id = facts::observe(&self.host)?.boot_id;
        let deadline = guard::boot_deadline(dir)?.unwrap_or_else(|| self.boot_deadline_ms());
        guard::arm(dir, self.manager, deadline).await?;
        Ok((boot_id, deadline))
    }

    /// Clears away what a trial leaves, whatever came of it: the guard's unit, the one-shot entry, the trial profile, and with
    /// `permanent` also its boot entry. Safe to repeat; without effect where there was no trial.
    pub(super) async fn clear_trial(
        &self,
        d: &Deployment,
        permanent: Option<&StorePath>,
    ) -> Result<(), Failed> {
        let dir = self.guard_dir(&d.id);
        if guard::boot_deadline(&dir)?.is_none() {
            return Ok(());
        }
        guard::remove_boot(&dir, self.manager).await?;
        let efivars = boot::efivars_dir(self.host.root());
        if boot::efivars::read(&efivars)?.is_some_and(|found| found.one_shot.is_some()) {
            bootctl::set_one_shot(&efivars, self.manager, None).await?;
        }
        profile::remove(&self.trial_profile())?;
        if let Some(permanent) = permanent {
            switch::boot(permanent, self.manager, BOOT_MAX).await?;
        }
        Ok(())
    }

    /// Clears away what a trial leaves that came to nothing, and makes permanent what the host runs now: the old system, or,
    /// if it was not rebooted at all, what it ran before. Somebody else's choice stays.
    pub(super) async fn end_trial(&self, d: &Deployment) -> Result<(), Failed> {
        let Stage::Probation { trial, .. } = &d.stage else { return Ok(()) };
        if guard::boot_deadline(&self.guard_dir(&d.id))?.is_none() {
            return Ok(());
        }
        let facts = facts::observe(&self.host)?;
        let ran = d.desired.why == Why::Reboot && facts.running.as_ref() == Some(&d.toplevel);
        let permanent = if ran { &d.toplevel } else { &trial.old };
        let ours = facts.profile.as_ref().is_some_and(|p| *p == d.toplevel || *p == trial.old);
        if ours && facts.profile.as_ref() != Some(permanent) {
            self.nix.set_profile(&self.host.profile(), permanent).await?;
        }
        self.clear_trial(d, ours.then_some(permanent)).await
    }

    /// Sees that the new system is what is booted from now on.
    pub(super) async fn check_default(&self, d: &Deployment) -> Result<(), Failed> {
        if guard::boot_deadline(&self.guard_dir(&d.id))?.is_none() {
            return Ok(());
        }
        let next = self.loader().await?.next_boot();
        match next.toplevel() == Some(&d.toplevel) {
            true => Ok(()),
            false => Err(format!("the next boot would not be the confirmed system: {}", told(&next)).into()),
        }
    }
}

/// Returns what names the one entry of a system, found by what it boots.
fn entry_name(loader: &Loader, toplevel: &StorePath) -> Result<String, Stop> {
    let entries = loader.entries_of(toplevel);
    let usable = entries.iter().filter(|entry| entry.doubt.is_none());
    let name = usable.filter_map(|entry| loader.name_of(entry)).next_back();
    name.ok_or_else(|| {
        Stop::Unsafe(
            "the new system has no boot entry that can be named, although it was installed".to_owned(),
        )
    })
}

/// The machine must come back to the old system by itself, and that one's files must be there.
fn check_falls_back(loader: &Loader, when: &str, next: &NextBoot, old: &StorePath) -> Result<(), Stop> {
    if next.toplevel() != Some(old) {
        return Err(Stop::Unsafe(format!("the boot {when} would not be the old system: {}", told(next))));
    }
    let NextBoot::Entry(choice) = next else { return Ok(()) };
    let doubt = loader.entries.iter().find(|entry| entry.file == choice.file).and_then(|entry| entry.doubt);
    match doubt {
        Some(doubt) => Err(Stop::Unsafe(format!("the old system's boot entry '{}' {doubt}", choice.file))),
        None => Ok(()),
    }
}

fn told(next: &NextBoot) -> String {
    match next {
        NextBoot::Entry(choice) => format!("'{}' comes first, because {}", choice.file, choice.why),
        NextBoot::Unknown(reason) => reason.clone(),
    }
}

/// The transition table offers these actions for a deployment that is set up for them only.
fn misplaced(d: &Deployment) -> Happened {
    let error = std::io::Error::other("a trial boot was asked of a deployment that has none");
    failed_step(d, "internal", &error)
}
