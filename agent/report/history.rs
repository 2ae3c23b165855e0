//! What `history --json` shows and `history.json` holds: the deployments that ended and the tips that never became one.

use serde::{Deserialize, Serialize};

use super::SCHEMA;
use crate::model::{DeploymentId, Ended, Oid, Operation, Outcome, State, StorePath, UPDATABLE, Why};

/// The history of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// Version of the layout; [`SCHEMA`].
    pub schema: u32,
    /// The host's name in its configuration.
    pub host: String,
    /// What ended, newest last.
    pub entries: Vec<Entry>,
}

/// One end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// The deployment; `null` where nothing was built.
    pub id: Option<DeploymentId>,
    /// The commit.
    pub revision: Oid,
    /// First line of its message; empty where it was refused.
    pub subject: String,
    /// Who signed it.
    pub signer: Option<String>,
    /// Its branch.
    pub branch: String,
    /// What was to be done with it.
    pub operation: Operation,
    /// Why it was begun.
    pub why: Why,
    /// The system, if it was built.
    pub toplevel: Option<StorePath>,
    /// How it ended.
    pub outcome: Fate,
    /// The generation it became.
    pub generation: Option<u64>,
    /// The generations that went after it was confirmed.
    #[serde(default)]
    pub removed: Vec<u64>,
    /// A stable word for what went wrong.
    pub code: Option<String>,
    /// What went wrong, in words.
    pub text: Option<String>,
    /// Checks that failed, with their last words.
    pub details: Vec<String>,
    /// When it began.
    pub began: u64,
    /// When it ended.
    pub at: u64,
}

/// How a deployment ended, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Made permanent.
    Confirmed,
    /// Entered for a test.
    Tested,
    /// The old system came back.
    RolledBack,
    /// The old system could not be brought back.
    RollbackFailed,
    /// Somebody else switched the host meanwhile.
    Superseded,
    /// Signature or history were not acceptable.
    Refused,
    /// It could not be built.
    BuildFailed,
    /// Called off before it touched the host, or undone by a reset.
    Abandoned,
    /// The test system stopped running through no act of the agent.
    TestLost,
    /// It waits for a reboot that the agent does not do.
    RebootAwaited,
}

impl History {
    /// Returns the history of `state`.
    pub fn of(state: &State, host: &str) -> History {
        let entries = state.history.iter().map(Entry::of).collect();
        History { schema: SCHEMA, host: host.to_owned(), entries }
    }
}

impl Entry {
    /// Returns the entry for one end.
    pub fn of(ended: &Ended) -> Entry {
        let mut entry = Entry {
            id: ended.id.clone(),
            revision: ended.revision.clone(),
            subject: ended.subject.clone(),
            signer: ended.signer.clone(),
            branch: ended.branch.clone(),
            operation: ended.operation,
            why: ended.why,
            toplevel: ended.toplevel.clone(),
            outcome: Fate::of(&ended.outcome),
            generation: None,
            removed: vec![],
            code: None,
            text: None,
            details: vec![],
            began: ended.began,
            at: ended.at,
        };
        entry.explain(&ended.outcome);
        entry
    }

    fn explain(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Confirmed { generation, removed } => {
                self.generation = *generation;
                self.removed = removed.clone();
            }
            Outcome::RolledBack { reason, failures, class, code } => {
                // Without a failed check it was something else: a switch that tore, a deadline, somebody's doing.
                let check = if class.is_target() { "health" } else { UPDATABLE };
                self.code = code.clone().or_else(|| (!failures.is_empty()).then(|| check.to_owned()));
                self.text = Some(reason.clone());
                self.details = failures.clone();
            }
            Outcome::RollbackFailed { reason, text, class: _ } => {
                self.text = Some(format!("{text} (it was to be rolled back because {reason})"));
            }
            Outcome::Refused { code, text } => {
                self.code = Some(code.clone());
                self.text = Some(text.clone());
            }
            Outcome::BuildFailed { failure } | Outcome::Abandoned { failure } => {
                self.code = Some(failure.code.clone());
                self.text = Some(failure.text.clone());
            }
            Outcome::Superseded => {
                self.text = Some("somebody else switched the host during the probation".to_owned());
            }
            Outcome::RebootAwaited { reboot } => {
                self.text = Some(format!("{}; {}", reboot.need.reasons.join(", "), reboot.why));
            }
            Outcome::TestLost => self.text = Some("the test system no longer runs".to_owned()),
            Outcome::Tested => {}
        }
    }
}

impl Fate {
    /// All there are.
    pub const ALL: [Fate; 10] = [
        Fate::Confirmed,
        Fate::Tested,
        Fate::RolledBack,
        Fate::RollbackFailed,
        Fate::Superseded,
        Fate::Refused,
        Fate::BuildFailed,
        Fate::Abandoned,
        Fate::TestLost,
        Fate::RebootAwaited,
    ];

    /// Returns the word as JSON spells it.
    pub fn word(self) -> &'static str {
        match self {
            Fate::Confirmed => "confirmed",
            Fate::Tested => "tested",
            Fate::RolledBack => "rolled-back",
            Fate::RollbackFailed => "rollback-failed",
            Fate::Superseded => "superseded",
            Fate::Refused => "refused",
            Fate::BuildFailed => "build-failed",
            Fate::Abandoned => "abandoned",
            Fate::TestLost => "test-lost",
            Fate::RebootAwaited => "reboot-awaited",
        }
    }

    fn of(outcome: &Outcome) -> Fate {
        match outcome {
            Outcome::Confirmed { .. } => Fate::Confirmed,
            Outcome::Tested => Fate::Tested,
            Outcome::RolledBack { .. } => Fate::RolledBack,
            Outcome::RollbackFailed { .. } => Fate::RollbackFailed,
            Outcome::Superseded => Fate::Superseded,
            Outcome::Refused { .. } => Fate::Refused,
            Outcome::BuildFailed { .. } => Fate::BuildFailed,
            Outcome::Abandoned { .. } => Fate::Abandoned,
            Outcome::TestLost => Fate::TestLost,
            Outcome::RebootAwaited { .. } => Fate::RebootAwaited,
        }
    }
}
