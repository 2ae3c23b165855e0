//! What the loop shows of itself at one moment, for those who report it.

use crate::model::State;
use crate::plan::{Facts, Held};

/// State, facts, and the action under way.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// What the agent remembers.
    pub state: State,
    /// What it knows of the world.
    pub facts: Facts,
    /// What it does right now; `None`: it waits.
    pub doing: Option<Doing>,
    /// Why nothing is changed although something could be: an unreadable journal, a full disk.
    pub trouble: Option<Held>,
}

impl Snapshot {
    /// Tells whether there is anything to report: the agent has looked at the host, or says why it can't.
    pub fn is_known(&self) -> bool {
        self.facts.host.is_some() || self.trouble.is_some()
    }
}

/// An action under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doing {
    /// `verify`, `build`, `prepare`, `arm`, `switch`, `check-health`, `confirm`, `roll-back`, …
    pub action: &'static str,
    /// The commit it is about.
    pub revision: Option<crate::model::Oid>,
    /// Since when, unix seconds.
    pub since: u64,
}
