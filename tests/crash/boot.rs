//! What a boot changes in the world in memory: kernels, and what NixOS refuses to switch over.

use pullagent::model::{RebootNeed, StorePath};

use super::world::{Behaviour, Inner, system};

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
