//! What goes after a deployment was confirmed: generations of the `system` profile, as the configuration says, through Nix's
//! own links; then the boot entries follow. Nothing is collected as garbage here.

use super::{BOOT_MAX, Steps, failed};
use crate::host::files::FileError;
use crate::host::{clock, facts, profile, switch};
use crate::model::{Event, Happened, RETENTION, Tidying};
use crate::plan;

impl Steps {
    /// Chooses what is to go; nothing of it is done before that is journaled.
    pub(super) fn choose_generations(&self, tidying: &Tidying) -> Happened {
        match self.removable(tidying) {
            Ok(numbers) => {
                let id = tidying.id.clone();
                Happened::Event(Event::GenerationsChosen { id, numbers })
            }
            Err(error) => failed(&tidying.revision, RETENTION, &error),
        }
    }

    /// Removes what was chosen, as far as it may still go, and has the boot entries written anew. Safe to repeat: entries of
    /// generations that went before a crash go now.
    pub(super) async fn remove_generations(&self, tidying: &Tidying) -> Happened {
        match self.try_to_remove(tidying).await {
            Ok(()) => Happened::Event(Event::GenerationsRemoved {
                id: tidying.id.clone(),
                numbers: tidying.numbers.clone().unwrap_or_default(),
                at: clock::unix_secs(),
            }),
            Err(error) => failed(&tidying.revision, RETENTION, &*error),
        }
    }

    async fn try_to_remove(&self, tidying: &Tidying) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let chosen = tidying.numbers.as_deref().unwrap_or_default();
        let still: Vec<u64> =
            self.removable(tidying)?.into_iter().filter(|number| chosen.contains(number)).collect();
        if !still.is_empty() {
            self.nix.delete_generations(&self.host.profile(), &still).await?;
        }
        // Whoever has set the profile since has written the entries, too.
        if facts::observe(&self.host)?.profile.as_ref() == Some(&tidying.toplevel) {
            switch::boot(&tidying.toplevel, self.manager, BOOT_MAX).await?;
        }
        Ok(())
    }

    /// Nothing goes unless what was confirmed runs and is permanent.
    fn removable(&self, tidying: &Tidying) -> Result<Vec<u64>, FileError> {
        let facts = facts::observe(&self.host)?;
        let (Some(current), Some(running)) = (facts.generation, &facts.running) else { return Ok(vec![]) };
        if *running != tidying.toplevel || facts.profile.as_ref() != Some(running) || facts.is_torn() {
            return Ok(vec![]);
        }
        let generations = profile::generations(&self.host.profile())?;
        let seen = [facts.running, facts.etc, facts.booted, facts.profile, facts.boot_default];
        let needed: Vec<_> = seen.into_iter().flatten().chain([tidying.old.clone()]).collect();
        let rule = Steps::policy(&self.settings).retention;
        Ok(plan::removable(rule, &generations, current, &needed, clock::unix_secs()))
    }
}
