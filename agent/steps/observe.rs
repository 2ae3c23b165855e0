//! Looking at the host. What can't be read is never guessed.

use super::Steps;
use crate::guard;
use crate::host::boot::need::{self, Systems};
use crate::host::boot::{self, efivars};
use crate::host::manager::Manager;
use crate::host::{self, clock, facts, files};
use crate::model::{DeploymentId, GuardFacts, Happened, HostFacts, Sighting, StorePath};

/// Which three systems were compared, and what came of it: systems never change.
pub type Compared = ([Option<StorePath>; 3], Vec<String>);

impl Steps {
    pub(super) fn observe(&self, id: Option<&DeploymentId>) -> Happened {
        let seen = self.look(id);
        Happened::Saw(seen.unwrap_or_else(|text| Sighting::Blind { now: clock::unix_secs(), text }))
    }

    fn look(&self, id: Option<&DeploymentId>) -> Result<Sighting, String> {
        let mut known = Vec::new();
        let mut guard = GuardFacts::default();
        if let Some(dir) = id.map(|id| self.guard_dir(id)).filter(|dir| dir.join("plan.json").exists()) {
            guard = guard::facts(&dir).map_err(|e| host::chain(&e))?;
            if guard::boot_deadline(&dir).map_err(|e| host::chain(&e))?.is_some() {
                let variables = efivars::read(&boot::efivars_dir(self.host.root()));
                let variables = variables.map_err(|e| host::chain(&e))?;
                guard.one_shot_left = variables.is_some_and(|found| found.one_shot.is_some());
            }
            let plan = guard::read_plan(&dir).map_err(|e| host::chain(&e))?;
            known = vec![plan.old, plan.new];
        }
        let mut host = facts::observe_knowing(&self.host, &known).map_err(|e| host::chain(&e))?;
        host.reboot_reasons = self.reboot_reasons(&host);
        // A directory that plays a host may lie anywhere.
        host.volatile_state = self.manager == Manager::Systemd
            && files::is_in_memory(&self.state_directory).map_err(|e| host::chain(&e))?;
        let introduction = host.running_revision.clone().or_else(|| self.settings.trust.introduction.clone());
        let trust = host.running.as_ref().and_then(|running| self.trust_settings_now(running));
        Ok(Sighting::Host { now: clock::unix_secs(), host: Box::new(host), guard, introduction, trust })
    }

    /// Returns what the next boot would change.
    fn reboot_reasons(&self, host: &HostFacts) -> Vec<String> {
        let systems = [host.booted.clone(), host.running.clone(), host.boot_default.clone()];
        if let Some((compared, reasons)) = &*self.compared.borrow()
            && *compared == systems
        {
            return reasons.clone();
        }
        let reasons = match &systems {
            [Some(booted), Some(running), Some(candidate)] if booted != candidate => {
                let (booted, running, candidate) = (booted.as_path(), running.as_path(), candidate.as_path());
                need::reasons(Systems { booted, running, candidate }).unwrap_or_else(|error| {
                    tracing::warn!("whether a reboot is needed can't be told: {}", host::chain(&error));
                    Vec::new()
                })
            }
            _ => Vec::new(),
        };
        self.compared.replace(Some((systems, reasons.clone())));
        reasons
    }
}
