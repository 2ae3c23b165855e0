//! Looking at the host. What can't be read is never guessed.

use super::Steps;
use crate::guard;
use crate::host::{self, clock, facts};
use crate::model::{DeploymentId, GuardFacts, Happened, Sighting};

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
            let plan = guard::read_plan(&dir).map_err(|e| host::chain(&e))?;
            known = vec![plan.old, plan.new];
        }
        let host = facts::observe_knowing(&self.host, &known).map_err(|e| host::chain(&e))?;
        let introduction = host.running_revision.clone().or_else(|| self.settings.trust.introduction.clone());
        let trust = host.running.as_ref().and_then(|running| self.trust_settings_now(running));
        Ok(Sighting::Host { now: clock::unix_secs(), host: Box::new(host), guard, introduction, trust })
    }
}
