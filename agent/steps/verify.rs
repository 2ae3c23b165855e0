//! From a tip that a remote named to a verified commit in the trusted store.

use super::{Steps, failed};
use crate::gateway::link::FetchError;
use crate::host::clock;
use crate::model::{
    Candidate, Event, Happened, Keys, Kin, Line, Oid, Operation, Refusal, Sighting, Tip, Verification,
};
use crate::repo::FailureClass;
use crate::repo::import::{self, Against, ImportRequest, Verdict};
use crate::repo::store::{Reference, Store, StoreError};
use crate::trust::{self, Accepted, AnchorFacts, Code};

/// A commit whose signature and history were verified, and which is whole in the trusted store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    tip: Tip,
}

impl Verified {
    /// Takes the journal's word: only [`Steps::perform`] puts tips there, and only verified ones.
    pub(super) fn journaled(tip: Tip) -> Verified {
        Verified { tip }
    }

    fn proven(accepted: Accepted, v: &Verification) -> Verified {
        let tip = Tip {
            revision: accepted.revision,
            tree: accepted.tree,
            payload_sha256: accepted.payload_sha256,
            committer_time: accepted.committer_time,
            signer: accepted.signer,
            subject: accepted.subject,
            branch: v.candidate.branch.clone(),
            remote: v.candidate.remote.clone(),
            accepted_at: clock::unix_secs(),
        };
        Verified { tip }
    }

    /// Returns the commit.
    pub fn tip(&self) -> &Tip {
        &self.tip
    }
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub(super) enum VerifyError {
    #[error("failed to fetch {0}")]
    Fetch(String, #[source] FetchError),
    #[error("failed to verify {0}")]
    Import(String, #[source] crate::repo::Failure),
    #[error("the trusted store can't be used")]
    Store(#[from] StoreError),
    #[error("the trust settings accepted last can't be used by this version, so nothing is accepted")]
    Keys(#[source] crate::config::ConfigError),
    #[error("{0} was accepted before, and what the remote sends for it now is not acceptable")]
    Lost(String, #[source] trust::Refusal),
    #[error("{0} was accepted before, and there is no remote to fetch it from again")]
    Nowhere(String),
}

impl VerifyError {
    pub(super) fn is_corruption(&self) -> bool {
        match self {
            // A store of another object format than the anchor's holds nothing that could be built upon.
            VerifyError::Store(StoreError::Corrupt { .. } | StoreError::Format { .. }) => true,
            VerifyError::Import(_, failure) => failure.class == FailureClass::Corrupt,
            VerifyError::Fetch(..)
            | VerifyError::Store(_)
            | VerifyError::Keys(_)
            | VerifyError::Lost(..)
            | VerifyError::Nowhere(_) => false,
        }
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            VerifyError::Lost(..) | VerifyError::Nowhere(_) => "store",
            VerifyError::Keys(_) => "trust-settings",
            VerifyError::Fetch(_, e) => fetch_code(e.class),
            VerifyError::Import(_, failure) => import_code(failure.class),
            VerifyError::Store(_) => "store",
        }
    }
}

/// Returns the code for an import that failed.
pub(super) fn import_code(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Corrupt => "store-corrupt",
        FailureClass::Limit => Code::FetchLimit.as_str(),
        FailureClass::Missing => Code::MissingObject.as_str(),
        FailureClass::Collision => Code::Sha1Collision.as_str(),
        FailureClass::Io => "store",
        FailureClass::Incomplete => "incomplete",
        FailureClass::Crashed => "import",
    }
}

/// Returns the code for a fetch that failed: a refusal's where there is one for it, else the class itself.
pub(super) fn fetch_code(class: &'static str) -> &'static str {
    match class {
        "limit" | "timeout" => Code::FetchLimit.as_str(),
        "shallow" => Code::ShallowRemote.as_str(),
        other => other,
    }
}

impl Steps {
    pub(super) async fn verify(&self, v: &Verification) -> Happened {
        match self.judged(v).await {
            Happened::Saw(Sighting::Failed { revision, failure, at, .. }) => {
                let remote = Some(v.candidate.remote.clone());
                Happened::Saw(Sighting::Failed { revision, remote, failure, at })
            }
            other => other,
        }
    }

    async fn judged(&self, v: &Verification) -> Happened {
        match self.verify_or_step(v).await {
            Ok(Verdict::Accepted(accepted)) => self.accepted(v, Verified::proven(*accepted, v).tip).await,
            Ok(Verdict::Refused(refusal)) if refusal.code.is_final() => {
                Happened::Event(Event::Refused { refusal: refused(v, &refusal) })
            }
            Ok(Verdict::Refused(refusal)) => failed(&v.candidate.revision, refusal.code.as_str(), &refusal),
            Err(error) => {
                if error.is_corruption() {
                    self.discard_store();
                }
                failed(&v.candidate.revision, error.code(), &error)
            }
        }
    }

    async fn accepted(&self, v: &Verification, tip: Tip) -> Happened {
        Happened::Event(match &v.line {
            Line::Introduction(_) | Line::Root(_) | Line::Main(_) => Event::MainAccepted { tip },
            Line::Test { main, .. } => Event::TestAccepted { tip, main: main.revision.clone() },
            // Root vouches for what it installed; that it continues the accepted line is for the history to show.
            Line::Installed { revision, main } => match self.kin(revision, &main.revision).await {
                Ok(Kin::Newer) => Event::MainAccepted { tip },
                // The store has lost the accepted line; without a pause this would be asked again at once.
                Ok(Kin::Unknown) => {
                    let text = "the accepted line is not in the store, so nothing can be held against it";
                    return failed(revision, Code::AnchorMissing.as_str(), &std::io::Error::other(text));
                }
                Ok(kin) => {
                    let (revision, to) = (revision.clone(), main.revision.clone());
                    return Happened::Saw(Sighting::Related { revision, to, kin });
                }
                Err(error) => {
                    if matches!(error, StoreError::Corrupt { .. }) {
                        self.discard_store();
                    }
                    return failed(revision, "store", &error);
                }
            },
        })
    }

    /// Verifies the tip; if it is refused and something below it would not be, verifies that instead. It is fetched by
    /// itself, so that nothing above it gets into the trusted store. The tip is judged again afterwards, like any other:
    /// by the same keys at once, and by the next system's keys when that runs.
    async fn verify_or_step(&self, v: &Verification) -> Result<Verdict, VerifyError> {
        let refused = match self.try_verify(v).await? {
            Verdict::Refused(refusal) => refusal,
            accepted @ Verdict::Accepted(_) => return Ok(accepted),
        };
        let Some(revision) = refused.stepping_stone.clone() else { return Ok(Verdict::Refused(refused)) };
        tracing::warn!(
            revision = v.candidate.revision.as_str(),
            code = refused.code.as_str(),
            "{refused}; {} below it is acceptable and comes first",
            revision.short()
        );
        let candidate = Candidate { revision, ..v.candidate.clone() };
        match self.try_verify(&Verification { candidate, ..v.clone() }).await? {
            accepted @ Verdict::Accepted(_) => Ok(accepted),
            // What came for it was of no use; that says nothing of the tip, so both are tried again.
            Verdict::Refused(later) if !later.code.is_final() => Ok(Verdict::Refused(later)),
            // Its files are not acceptable, which the history does not show.
            Verdict::Refused(_) => Ok(Verdict::Refused(refused)),
        }
    }

    async fn try_verify(&self, v: &Verification) -> Result<Verdict, VerifyError> {
        let tip = &v.candidate.revision;
        let name = || format!("{} from '{}'", tip.short(), v.candidate.remote);
        let anchor = anchor_revision(&v.line);
        if tip.as_str().len() != anchor.as_str().len() {
            let text = format!("the branch has ids of another hash function than {}", anchor.short());
            return Ok(Verdict::Refused(trust::Refusal::new(Code::ObjectFormat, Some(tip), text)));
        }
        // The anchor says what kind of store this is: a remote that could would leave one that nothing else fits into.
        let store = Store::open_or_create(&self.state_directory, anchor)?;
        // A host whose revisions can't be built prepares none, which is when there is time for this.
        if store.is_crowded()? {
            self.tidy_store().await;
        }
        let incoming = if store.has(tip)? && self.has_anchor(&store, &v.line)? {
            None
        } else {
            let haves = haves(&store)?;
            let wanted = self.link.want(&v.candidate.remote, tip, haves).await;
            Some(wanted.map_err(|e| VerifyError::Fetch(name(), e))?)
        };
        let request = ImportRequest {
            tip: tip.clone(),
            against: against(&v.line),
            policy: self.policy_of(&v.keys).map_err(VerifyError::Keys)?,
            host: self.settings.hostname.clone(),
            branch: v.candidate.branch.clone(),
            now: clock::unix_secs(),
            submodules: self.settings.source.submodule_paths(),
            limits: self.import_limits(),
        };
        let (pack, number) = incoming.map_or((None, None), |i| (Some(i.pack), Some(i.number)));
        let verdict = import::import(&store, &request, pack).await;
        // What the gateway says of a broken transfer is nearer to the cause than "the pack is incomplete".
        match verdict {
            Err(failure) => match number.and_then(|n| self.link.why_broken(n)) {
                Some(broke) => Err(VerifyError::Fetch(name(), broke)),
                None => Err(VerifyError::Import(name(), failure)),
            },
            Ok(verdict) => Ok(verdict),
        }
    }

    /// Fetches an accepted commit again if the store has lost it. Its id vouches for it: it was verified before.
    pub(super) async fn ensure_stored(&self, verified: &Verified) -> Result<(), VerifyError> {
        let tip = verified.tip();
        let store = Store::open_or_create(&self.state_directory, &tip.revision)?;
        if store.has(&tip.revision)? {
            return Ok(());
        }
        tracing::warn!(
            revision = tip.revision.as_str(),
            "the trusted store lost {}, which was accepted; fetching it again",
            tip.revision.short()
        );
        let mut last = None;
        for remote in self.remotes_from(&tip.remote) {
            match self.fetch_again(tip, remote).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    let text = crate::host::chain(&error);
                    tracing::warn!(revision = tip.revision.as_str(), "not fetched from {remote}: {text}");
                    last = Some(error);
                }
            }
        }
        Err(last.unwrap_or_else(|| VerifyError::Nowhere(tip.revision.short().to_owned())))
    }

    /// Returns the names of all remotes, this one first.
    fn remotes_from<'a>(&'a self, first: &'a str) -> impl Iterator<Item = &'a str> {
        let names = || self.settings.remotes.iter().map(|r| r.name.as_str());
        names().filter(move |name| *name == first).chain(names().filter(move |name| *name != first))
    }

    async fn fetch_again(&self, tip: &Tip, remote: &str) -> Result<(), VerifyError> {
        let candidate = Candidate {
            remote: remote.to_owned(),
            branch: tip.branch.clone(),
            revision: tip.revision.clone(),
            operation: Operation::Switch,
        };
        let line = Line::Introduction(tip.revision.clone());
        let again = Verification { candidate, line, judged_by: String::new(), keys: Keys::default() };
        match self.try_verify(&again).await? {
            Verdict::Accepted(_) => Ok(()),
            Verdict::Refused(refusal) => Err(VerifyError::Lost(tip.revision.short().to_owned(), refusal)),
        }
    }

    /// A store that was rebuilt may lack the anchor of the journal; then everything is fetched.
    fn has_anchor(&self, store: &Store, line: &Line) -> Result<bool, StoreError> {
        store.has(anchor_revision(line))
    }

    /// The store is a cache of verified history: what is damaged is thrown away and fetched and verified again.
    pub(super) fn discard_store(&self) {
        tracing::error!("the trusted store is damaged; it is deleted and fetched again");
        if let Err(error) = Store::discard(&self.state_directory) {
            tracing::error!("the damaged store can't be deleted: {}", crate::host::chain(&error));
        }
    }
}

fn anchor_revision(line: &Line) -> &Oid {
    match line {
        Line::Introduction(revision) | Line::Root(revision) | Line::Installed { revision, .. } => revision,
        Line::Main(tip) | Line::Test { main: tip, .. } => &tip.revision,
    }
}

/// What the store has, for the server to build on.
fn haves(store: &Store) -> Result<Vec<Oid>, StoreError> {
    let mut haves = Vec::new();
    for tip in [Reference::Main, Reference::Test].into_iter().filter_map(|r| store.tip(r)) {
        if store.has(&tip)? && !haves.contains(&tip) {
            haves.push(tip);
        }
    }
    Ok(haves)
}

fn against(line: &Line) -> Against {
    match line {
        Line::Introduction(revision) | Line::Root(revision) | Line::Installed { revision, .. } => {
            Against::Main { anchor: AnchorFacts::introduction(revision.clone()) }
        }
        Line::Main(tip) => Against::Main { anchor: anchor(tip) },
        Line::Test { main, previous } => Against::Test {
            main: anchor(main),
            previous: previous.as_ref().map(|p| (p.revision.clone(), p.committer_time)),
        },
    }
}

fn anchor(tip: &Tip) -> AnchorFacts {
    AnchorFacts {
        revision: tip.revision.clone(),
        payload_sha256: Some(tip.payload_sha256.clone()),
        tree: Some(tip.tree.clone()),
        committer_time: Some(tip.committer_time),
    }
}

fn refused(v: &Verification, refusal: &trust::Refusal) -> Refusal {
    let c = &v.candidate;
    let operation: Operation = c.operation;
    Refusal {
        revision: c.revision.clone(),
        branch: c.branch.clone(),
        remote: c.remote.clone(),
        operation,
        commit: refusal.commit.clone(),
        code: refusal.code.as_str().to_owned(),
        text: refusal.to_string(),
        advice: refusal.code.advice().to_owned(),
        judged_by: v.judged_by.clone(),
        at: clock::unix_secs(),
    }
}
