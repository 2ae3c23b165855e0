//! From a verified commit to a system in the store: export, one evaluation, realise. Works without a network.

use std::path::Path;
use std::time::Duration;

use super::prepare::settings_of;
use super::verify::VerifyError;
use super::{Steps, TrustSeen, Verified, failed};
use crate::host::clock;
use crate::host::nix::{EvalLimits, FlakeSource, NixError};
use crate::model::{Class, Deployment, DeploymentId, Desired, Event, Failure, Happened, Nonce, StorePath};
use crate::repo::FailureClass;
use crate::repo::export::{self, ExportError};
use crate::repo::store::{Store, StoreError};

/// A build without a configured limit ends after this all the same; nothing waits for ever.
const BUILD_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many lines of a failed build's log are told.
const LOG_LINES: usize = 5;

/// A system that Nix says is valid, built from a verified commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    drv: Option<StorePath>,
    toplevel: StorePath,
}

impl Built {
    /// Takes the journal's word for a deployment that was built before.
    pub(super) fn journaled(d: &Deployment) -> Built {
        Built { drv: d.drv.as_ref().and_then(|drv| drv.parse().ok()), toplevel: d.toplevel.clone() }
    }

    /// Returns the system.
    pub fn toplevel(&self) -> &StorePath {
        &self.toplevel
    }
}

#[derive(Debug, thiserror::Error)]
enum BuildError {
    #[error(transparent)]
    Nix(#[from] NixError),
    #[error("failed to export the revision")]
    Export(#[from] ExportError),
    #[error("the trusted store can't be used")]
    Store(#[from] StoreError),
    #[error("the trusted store is gone; it is fetched again")]
    NoStore,
    #[error(transparent)]
    Fetch(#[from] VerifyError),
    #[error("failed to prepare '{0}'")]
    Folder(std::path::PathBuf, #[source] std::io::Error),
}

impl BuildError {
    fn is_corruption(&self) -> bool {
        match self {
            BuildError::Export(ExportError::Read(_, failure)) => failure.class == FailureClass::Corrupt,
            BuildError::Export(ExportError::Store(_, StoreError::Corrupt { .. })) => true,
            BuildError::Store(StoreError::Corrupt { .. }) => true,
            BuildError::Fetch(error) => error.is_corruption(),
            _ => false,
        }
    }
}

impl Steps {
    fn nonce_of(&self, toplevel: &StorePath) -> Option<Nonce> {
        let running = self.settings.activation.retry_nonce.clone();
        Some(Nonce { running, built: settings_of(toplevel)?.activation.retry_nonce })
    }

    pub(super) async fn build(&self, id: DeploymentId, desired: Desired) -> Happened {
        let revision = desired.tip.revision.clone();
        match self.build_verified(&id, &Verified::journaled(desired.tip.clone())).await {
            Ok(built) => self.built(id, desired, built),
            Err(BuildError::Nix(error)) if error.is_deterministic() => {
                let failure =
                    Failure { class: Class::Target, code: code(&error).to_owned(), text: text(&error) };
                Happened::Event(Event::BuildFailed { desired, failure, at: clock::unix_secs() })
            }
            Err(error) => {
                if error.is_corruption() {
                    self.discard_store();
                }
                let code = match &error {
                    BuildError::Nix(e) => code(e),
                    BuildError::Export(_) | BuildError::Store(_) | BuildError::NoStore => "store",
                    BuildError::Fetch(e) => e.code(),
                    BuildError::Folder(..) => "state",
                };
                failed(&revision, code, &error)
            }
        }
    }

    fn built(&self, id: DeploymentId, desired: Desired, Built { drv, toplevel }: Built) -> Happened {
        let (drv, at) = (drv.map(|d| d.to_string()), clock::unix_secs());
        match self.trust_settings_of(&toplevel) {
            Ok(TrustSeen { settings: trust, revoked }) => {
                let nonce = self.nonce_of(&toplevel);
                Happened::Event(Event::Built { id, desired, drv, toplevel, trust, revoked, nonce, at })
            }
            Err(error) => failed(&desired.tip.revision, "nix", &error),
        }
    }

    async fn build_verified(&self, id: &DeploymentId, verified: &Verified) -> Result<Built, BuildError> {
        let roots = self.roots_dir();
        std::fs::create_dir_all(&roots).map_err(|e| BuildError::Folder(roots.clone(), e))?;
        let source_root = roots.join(format!("{id}-source"));
        self.ensure_stored(verified).await?;
        let flake = self.add_source(verified, &source_root).await?;
        let build = &self.settings.build;
        let limits = EvalLimits { time: build.eval_timeout.0, address_space: build.eval_memory_max };
        let drv = self.timed("eval", self.nix.eval_drv(&flake, self.manager, limits)).await?;
        let limit = build.timeout.map_or(BUILD_MAX, |t| t.0);
        let root = roots.join(id.as_str());
        let toplevel = self.timed("build", self.nix.realise(&drv, &root, limit)).await?;
        // The source was only needed for the evaluation; a root that stays behind is swept later.
        drop(std::fs::remove_file(source_root));
        Ok(Built { drv: Some(drv), toplevel })
    }

    /// Puts the commit's tree into the Nix store, exactly as it was signed.
    async fn add_source(&self, verified: &Verified, root: &Path) -> Result<FlakeSource, BuildError> {
        let store = Store::open(&self.state_directory)?.ok_or(BuildError::NoStore)?;
        let (revision, work) = (verified.tip().revision.clone(), self.state_directory.join("export"));
        let limits = self.stored_limits();
        let export = tokio::task::spawn_blocking(move || export::export(&store, &revision, &work, &limits));
        let export =
            export.await.map_err(|e| BuildError::Folder(self.state_directory.clone(), e.into()))??;
        let source = self.nix.add_source(&export.path(), root).await?;
        Ok(FlakeSource {
            source,
            revision: verified.tip().revision.clone(),
            last_modified: export.commit_time(),
            subdir: self.settings.source.subdir.clone(),
            attribute: self.settings.attribute(),
        })
    }

    /// Drops the roots of all builds but one's.
    pub(super) fn sweep_roots(&self, keep: &DeploymentId) {
        for entry in std::fs::read_dir(self.roots_dir()).into_iter().flatten().flatten() {
            if entry.file_name().to_str() != Some(keep.as_str()) {
                // It stays a root until the next sweep; nothing depends on its being gone.
                drop(std::fs::remove_file(entry.path()));
            }
        }
    }
}

/// Names the kind of failure in one word.
fn code(error: &NixError) -> &'static str {
    use crate::host::nix::Cause;
    match error {
        NixError::Evaluation { .. } => "eval",
        NixError::Build { .. } => "build",
        NixError::Transient { cause, .. } => match cause {
            Cause::Network => "network",
            Cause::NoSpace => "space",
            Cause::Memory => "memory",
            Cause::Timeout => "timeout",
            Cause::Killed => "killed",
            Cause::Store | Cause::Unknown => "nix",
        },
        NixError::Command(_) | NixError::Answer { .. } | NixError::TooOld { .. } => "nix",
        NixError::File(_) => "state",
    }
}

/// What Nix said, with the end of the log, which is what people look for. The code beside it says what it was about.
fn text(error: &NixError) -> String {
    match error {
        NixError::Build { text, log, .. } if !log.is_empty() => {
            let tail = log.iter().skip(log.len().saturating_sub(LOG_LINES)).map(String::as_str);
            format!("{text}; its log ends with: {}", tail.collect::<Vec<_>>().join(" ⏎ "))
        }
        NixError::Build { text, .. } | NixError::Evaluation { text } => text.clone(),
        _ => crate::host::chain(error),
    }
}
