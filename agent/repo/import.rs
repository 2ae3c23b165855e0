//! Taking a revision into the trusted store: a short-lived, limited child verifies everything in a quarantine
//! (`child.rs`), and what it accepted is published here. Must not know where the pack came from, nor parse it.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::failure::{Failure, FailureClass};
use super::files;
use super::limits::Limits;
use super::quarantine::Quarantine;
use super::store::{Reference, Store, StoreError};
use crate::host::command::{Command, CommandError, Ending, own_binary};
use crate::model::Oid;
use crate::trust::tree::Submodules;
use crate::trust::{
    Accepted, AnchorFacts, ListedKey, Policy, PolicyError, PublicKey, Refusal, Role, Rules, Signer,
};

pub use super::child::run_child;

/// The hidden verb of our own program that [`run_child`] serves; its one argument is the job file.
pub const VERB: &str = "import";

/// How large a child's report may be: a hundred lines of verified commits, and some.
const REPORT_BYTES_MAX: usize = 1 << 20;

/// What is to be verified, and against what.
#[derive(Debug, Clone)]
pub struct ImportRequest {
    /// The commit.
    pub tip: Oid,
    /// The history it has to continue.
    pub against: Against,
    /// Who may sign.
    pub policy: Policy,
    /// The host's name, as its configuration says it.
    pub host: String,
    /// The branch that named the tip, below `refs/heads/`.
    pub branch: String,
    /// The host's clock, unix seconds.
    pub now: u64,
    /// Where the tree may have submodules; what is in them is no part of this.
    pub submodules: Submodules,
    /// What the pack may be.
    pub limits: Limits,
}

/// The history that a tip has to continue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "kebab-case")]
pub enum Against {
    /// Fast-forward from the anchor.
    Main {
        /// The last accepted revision of the main line, or the introduction.
        anchor: AnchorFacts,
    },
    /// On top of the accepted main line.
    Test {
        /// The last accepted revision of the main line.
        main: AnchorFacts,
        /// The test tip accepted before, and its committer's time in unix seconds.
        previous: Option<(Oid, i64)>,
    },
}

impl Against {
    fn reference(&self) -> Reference {
        match self {
            Against::Main { .. } => Reference::Main,
            Against::Test { .. } => Reference::Test,
        }
    }
}

/// What an import came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The tip may be deployed; it and everything it needs is in the trusted store.
    Accepted(Box<Accepted>),
    /// The tip may not be deployed; nothing of it was kept.
    Refused(Refusal),
}

/// Verifies `request.tip` and takes it into `store`.
///
/// `pack` brings what the store lacks, as a pipe or a file; `None` if the store has the tip already.
/// Dropping the future kills the child and deletes the quarantine. Must run where [`Command`] may be run.
///
/// # Errors
/// A [`Failure`] says nothing about the tip: try again, or after [`FailureClass::Corrupt`] discard the store first.
pub async fn import(
    store: &Store,
    request: &ImportRequest,
    pack: Option<OwnedFd>,
) -> Result<Verdict, Failure> {
    let task = Task::Import(Box::new(ImportTask {
        tip: request.tip.clone(),
        against: request.against.clone(),
        policy: PolicyText::of(&request.policy),
        host: request.host.clone(),
        branch: request.branch.clone(),
        now: request.now,
        submodules: request.submodules.clone(),
        pack: pack.is_some(),
    }));
    let quarantine = Quarantine::new(store.state_directory())?;
    match run(&quarantine, store, task, request.limits, pack).await? {
        Report::Accepted { accepted, pack } if accepted.revision == request.tip => {
            let (store, reference, tip) = (store.clone(), request.against.reference(), request.tip.clone());
            blocking(move || {
                pack.map_or(Ok(()), |pack| quarantine.publish(&pack, &store))?;
                store.set_tip(reference, &tip)
            })
            .await?;
            Ok(Verdict::Accepted(accepted))
        }
        Report::Refused(refusal) => Ok(Verdict::Refused(refusal)),
        Report::Failed(failure) => Err(failure),
        Report::Accepted { .. } | Report::Repacked { .. } | Report::Found | Report::Pinned { .. } => {
            Err(Failure::crashed("it answered another question"))
        }
    }
}

/// Takes commit `oid` into `store`, with all it needs, because a verified tree names it: no signature is asked for.
///
/// Dropping the future kills the child and deletes the quarantine. Must run where [`Command`] may be run.
///
/// # Errors
/// As [`import`]. Nothing of a pack that is not exactly what was asked for is kept.
pub async fn pin(store: &Store, oid: &Oid, limits: Limits, pack: OwnedFd) -> Result<(), Failure> {
    let quarantine = Quarantine::new(store.state_directory())?;
    match run(&quarantine, store, Task::Pin(oid.clone()), limits, Some(pack)).await? {
        Report::Pinned { pack } => {
            let (store, oid) = (store.clone(), oid.clone());
            blocking(move || {
                quarantine.publish(&pack, &store)?;
                store.set_tip(Reference::Main, &oid)
            })
            .await
        }
        Report::Failed(failure) => Err(failure),
        Report::Accepted { .. } | Report::Refused(_) | Report::Repacked { .. } | Report::Found => {
            Err(Failure::crashed("it answered another question"))
        }
    }
}

/// Shows that `pack` brings commit `oid`: every object in it is hashed again, in a quarantine, and nothing of it is kept.
///
/// Dropping the future kills the child and deletes the quarantine.
///
/// # Errors
/// The pack is not whole, does not hold the commit, or could not be looked at.
pub async fn look(store: &Store, oid: &Oid, limits: Limits, pack: OwnedFd) -> Result<(), Failure> {
    let quarantine = Quarantine::new(store.state_directory())?;
    match run(&quarantine, store, Task::Look(oid.clone()), limits, Some(pack)).await? {
        Report::Found => Ok(()),
        Report::Failed(failure) => Err(failure),
        Report::Accepted { .. } | Report::Refused(_) | Report::Repacked { .. } | Report::Pinned { .. } => {
            Err(Failure::crashed("it answered another question"))
        }
    }
}

/// Replaces the packs of `store` by one, if there are more than [`Store::PACKS_MAX`].
///
/// Nothing else may read the store meanwhile. Dropping the future kills the child and leaves the store as it was.
pub async fn repack_if_needed(store: &Store, limits: &Limits) -> Result<(), Failure> {
    if !store.needs_repack()? {
        return Ok(());
    }
    let quarantine = Quarantine::new(store.state_directory())?;
    match run(&quarantine, store, Task::Repack, *limits, None).await? {
        // Not beside the loop: it would go on there if this is dropped, and somebody else might read the store by then.
        Report::Repacked { pack } => Ok(quarantine.publish_instead(&pack, store)?),
        Report::Failed(failure) => Err(failure),
        Report::Accepted { .. } | Report::Refused(_) | Report::Found | Report::Pinned { .. } => {
            Err(Failure::crashed("it answered another question"))
        }
    }
}

/// Runs the child on `task` and returns its report.
async fn run(
    quarantine: &Quarantine,
    store: &Store,
    task: Task,
    limits: Limits,
    pack: Option<OwnedFd>,
) -> Result<Report, Failure> {
    let (state_directory, quarantine) = (store.state_directory().to_owned(), quarantine.path().to_owned());
    let file = quarantine.join("job.json");
    let job = serde_json::to_vec(&Job { state_directory, quarantine, limits, task });
    job.map_err(std::io::Error::from)
        .and_then(|json| files::write_synced(&file, &json))
        .map_err(|e| Failure::io("write the import's job", &e))?;
    let command = Command::new(own_binary())
        .arg(VERB)
        .arg(&file)
        .time_limit(Duration::from_secs(u64::from(limits.wall_secs)))
        .stdout_max(REPORT_BYTES_MAX);
    let command = match pack {
        Some(fd) => command.stdin(File::from(fd)),
        None => command,
    };
    let output = command.run().await.map_err(|e| of_command(&e))?;
    serde_json::from_slice(&output.stdout)
        .map_err(|e| Failure::crashed(&format!("its report is malformed: {e}")))
}

/// Runs file work beside the loop. Once begun it runs to its end, even if nobody waits for it any more.
async fn blocking(work: impl FnOnce() -> Result<(), StoreError> + Send + 'static) -> Result<(), Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Failure::from),
        Err(e) => Err(Failure::crashed(&e.to_string())),
    }
}

/// Returns what the end of a child without a report means. Allocation failures abort, and the kernel's limits kill.
fn of_command(error: &CommandError) -> Failure {
    /// Aborted, killed, out of processor time, file too large: Linux' numbers on all our architectures.
    const OF_LIMITS: [i32; 4] = [6, 9, 24, 25];
    /// A page of a mapped file can't be read: a bad sector, or a pack that was cut meanwhile. Linux' number for it.
    const BUS_ERROR: i32 = 7;
    let class = match error {
        CommandError::TimedOut { .. } => FailureClass::Limit,
        CommandError::Failed { end: Ending::Signal(signal), .. } if OF_LIMITS.contains(signal) => {
            FailureClass::Limit
        }
        CommandError::Failed { end: Ending::Signal(BUS_ERROR), .. } => FailureClass::Corrupt,
        CommandError::NotFound { .. } | CommandError::Io { .. } => FailureClass::Io,
        CommandError::Failed { .. } | CommandError::TooMuchOutput { .. } | CommandError::Stopped { .. } => {
            FailureClass::Crashed
        }
    };
    Failure::new(class, format!("the import child was of no use: {error}"))
}

/// What the child is told, in a file of the quarantine.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) state_directory: PathBuf,
    pub(super) quarantine: PathBuf,
    pub(super) limits: Limits,
    pub(super) task: Task,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Task {
    Import(Box<ImportTask>),
    /// Take in one commit that a verified tree names, from the pack on standard input.
    Pin(Oid),
    /// Find one commit in the pack on standard input.
    Look(Oid),
    Repack,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ImportTask {
    pub(super) tip: Oid,
    pub(super) against: Against,
    pub(super) policy: PolicyText,
    pub(super) host: String,
    pub(super) branch: String,
    pub(super) now: u64,
    #[serde(default)]
    pub(super) submodules: Submodules,
    /// Whether a pack comes on standard input.
    pub(super) pack: bool,
}

/// What the child answers, as one line of JSON on standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Report {
    /// `pack` is the name of the pack to publish, without extension.
    Accepted {
        accepted: Box<Accepted>,
        pack: Option<String>,
    },
    Refused(Refusal),
    Failed(Failure),
    Repacked {
        pack: String,
    },
    Pinned {
        pack: String,
    },
    Found,
}

/// A [`Policy`] as text: it is made of checked keys, and the child checks them again.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct PolicyText {
    signers: Vec<SignerText>,
    revoked: Vec<String>,
    rules: Rules,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct SignerText {
    name: String,
    keys: Vec<KeyText>,
    roles: BTreeSet<Role>,
    test_hosts: Option<BTreeSet<String>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct KeyText {
    line: String,
    valid_from: Option<u64>,
    valid_until: Option<u64>,
}

impl PolicyText {
    pub(super) fn of(policy: &Policy) -> PolicyText {
        let key = |k: &ListedKey| KeyText {
            line: k.public.to_string(),
            valid_from: k.valid_from,
            valid_until: k.valid_until,
        };
        let signer = |s: &Signer| SignerText {
            name: s.name.clone(),
            keys: s.keys.iter().map(key).collect(),
            roles: s.roles.clone(),
            test_hosts: s.test_hosts.clone(),
        };
        PolicyText {
            signers: policy.signers().iter().map(signer).collect(),
            revoked: policy.revoked().iter().map(PublicKey::to_string).collect(),
            rules: policy.rules(),
        }
    }

    /// Returns the policy again.
    pub(super) fn parse(self) -> Result<Policy, Failure> {
        let malformed =
            |e: &dyn std::error::Error| Failure::crashed(&format!("the policy got lost on the way: {e}"));
        let public = |line: &String| line.parse::<PublicKey>().map_err(|e| malformed(&e));
        let key = |k: &KeyText| {
            let (valid_from, valid_until) = (k.valid_from, k.valid_until);
            Ok(ListedKey { public: public(&k.line)?, valid_from, valid_until })
        };
        let signer = |s: SignerText| {
            let keys = s.keys.iter().map(key).collect::<Result<_, Failure>>()?;
            Ok(Signer { name: s.name, keys, roles: s.roles, test_hosts: s.test_hosts })
        };
        let signers = self.signers.into_iter().map(signer).collect::<Result<_, Failure>>()?;
        let revoked = self.revoked.iter().map(public).collect::<Result<_, Failure>>()?;
        Policy::new(signers, revoked, self.rules).map_err(|e: PolicyError| malformed(&e))
    }
}
