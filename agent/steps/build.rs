//! From a verified commit to a system in the store: export, one evaluation, realise. Works without a network.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use super::prepare::settings_of;
use super::submodules::SubmoduleError;
use super::verify::VerifyError;
use super::{Steps, TrustSeen, Verified, failed};
use crate::host::nix::{EvalLimits, FlakeSource, NixError};
use crate::host::{self, clock};
use crate::model::{Class, Deployment, DeploymentId, Desired, Event, Failure, Happened, Nonce, StorePath};
use crate::repo::FailureClass;
use crate::repo::export::{self, ExportError};
use crate::repo::store::{Store, StoreError};

/// A build without a configured limit ends after this all the same; nothing waits for ever.
const BUILD_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// So many damaged things in the store are thrown away for one build.
const DAMAGES_MAX: usize = 32;
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
pub(super) enum BuildError {
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
    #[error(transparent)]
    Submodule(#[from] SubmoduleError),
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

    /// Returns the path of the submodule whose store is damaged.
    fn damaged_submodule(&self) -> Option<&str> {
        match self {
            BuildError::Submodule(error) => error.damaged(),
            BuildError::Export(ExportError::Submodule { path, source }) => {
                (source.class == FailureClass::Corrupt).then_some(path)
            }
            _ => None,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            BuildError::Nix(e) => code(e),
            BuildError::Export(ExportError::Refused(_, refusal)) => refusal.code.as_str(),
            BuildError::Export(_) | BuildError::Store(_) | BuildError::NoStore => "store",
            BuildError::Fetch(e) => e.code(),
            BuildError::Submodule(e) => e.code(),
            BuildError::Folder(..) => "state",
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
                if let Some(path) = error.damaged_submodule() {
                    self.discard_submodule(path);
                }
                failed(&revision, error.code(), &error)
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
        self.ensure_stored(verified).await?;
        for _ in 0..DAMAGES_MAX {
            match self.build_stored(id, verified).await {
                Err(BuildError::Nix(error)) => self.discard_damaged(error).await?,
                other => return other,
            }
        }
        self.build_stored(id, verified).await
    }

    async fn build_stored(&self, id: &DeploymentId, verified: &Verified) -> Result<Built, BuildError> {
        let roots = self.roots_dir();
        let source_root = roots.join(format!("{id}-source"));
        let flake = self.add_source(verified, &source_root).await?;
        let build = &self.settings.build;
        let limits = EvalLimits { time: build.eval_timeout.0, address_space: build.eval_memory_max };
        let eval = self.timed("eval", self.nix.eval_drv(&flake, self.manager, limits));
        // What was evaluated must be what was signed, and not what a power cut has left of it.
        let source = [&flake.source];
        let (drv, damage) = tokio::join!(eval, self.nix.damaged(&source));
        if let Some(text) = damage? {
            return Err(NixError::Damaged { path: flake.source, text }.into());
        }
        let drv = drv?;
        let limit = build.timeout.map_or(BUILD_MAX, |t| t.0);
        let root = roots.join(id.as_str());
        let toplevel = self.timed("build", self.nix.realise(&drv, &root, limit)).await?;
        // The source was only needed for the evaluation; a root that stays behind is swept later.
        drop(std::fs::remove_file(source_root));
        Ok(Built { drv: Some(drv), toplevel })
    }

    /// Puts the commit's tree into the Nix store, exactly as it was signed, with the submodules that it names.
    async fn add_source(&self, verified: &Verified, root: &Path) -> Result<FlakeSource, BuildError> {
        let store = Store::open(&self.state_directory)?.ok_or(BuildError::NoStore)?;
        let (revision, work) = (verified.tip().revision.clone(), self.state_directory.join("export"));
        self.ensure_submodules(&store, &revision).await?;
        let (submodules, limits) = (self.submodule_stores(), self.stored_limits());
        let export = move || export::export(&store, &submodules, &revision, &work, &limits);
        let export = self.beside(export).await?;
        let subdir = &self.settings.source.subdir;
        let flake = export.path().join(subdir).join("flake.nix");
        match std::fs::metadata(&flake) {
            Ok(file) if file.is_file() => {}
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Err(BuildError::Folder(flake, e));
            }
            Ok(_) | Err(_) => return Err(NixError::Evaluation { text: no_flake(subdir) }.into()),
        }
        let source = self.nix.add_source(&export.path(), root).await?;
        Ok(FlakeSource {
            source,
            revision: verified.tip().revision.clone(),
            last_modified: export.commit_time(),
            subdir: self.settings.source.subdir.clone(),
            attribute: self.settings.attribute(),
        })
    }

    /// Runs file work beside the loop. Once begun it runs to its end, even if nobody waits for it any more.
    pub(super) async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ExportError> + Send + 'static,
    ) -> Result<T, BuildError> {
        let done = tokio::task::spawn_blocking(work).await;
        Ok(done.map_err(|e| BuildError::Folder(self.state_directory.clone(), e.into()))??)
    }

    /// Throws away what is damaged in the store if `error` comes of that, so that the next try makes it anew. Nix does not
    /// wait for the disk before it calls a derivation valid, nor, before 2.26, anything else. So after a power cut the files
    /// of what was added last may be empty, and stay so.
    ///
    /// # Errors
    /// `error` itself, if it has another cause; or what is damaged can't be thrown away.
    async fn discard_damaged(&self, error: NixError) -> Result<(), NixError> {
        let (path, text) = match error {
            NixError::Damaged { path, text } => (path, text),
            error => self.damaged_among(error.suspects()).await.ok_or(error)?,
        };
        tracing::warn!(
            "'{path}' in the Nix store is damaged, as after a power cut, and is made anew: {text}"
        );
        let deleted = self.delete_built(&path).await;
        deleted.map_err(|e| NixError::Damaged { path, text: format!("{text}; {}", host::chain(&e)) })
    }

    /// Deletes something from the store that came of a build and that nobody but builds of ours needs.
    pub(super) async fn delete_built(&self, path: &StorePath) -> Result<(), NixError> {
        // What is built keeps its derivation, too (nix.conf(5), `keep-derivations`). Nothing is under way that needs one.
        self.drop_roots(|_| false);
        self.nix.delete(path).await
    }

    /// Returns the first of `suspects` that is valid and damaged, and what Nix says of it.
    async fn damaged_among(&self, suspects: Vec<StorePath>) -> Option<(StorePath, String)> {
        for path in suspects {
            if let Ok(Some(text)) = self.nix.damaged(&[&path]).await {
                return Some((path, text));
            }
        }
        None
    }

    /// Drops the roots of all builds but one's.
    pub(super) fn sweep_roots(&self, keep: &DeploymentId) {
        self.drop_roots(|name| name == keep.as_str());
    }

    fn drop_roots(&self, is_kept: impl Fn(&str) -> bool) {
        for entry in std::fs::read_dir(self.roots_dir()).into_iter().flatten().flatten() {
            if !entry.file_name().to_str().is_some_and(&is_kept) {
                // It stays a root until the next sweep; nothing depends on its being gone.
                drop(std::fs::remove_file(entry.path()));
            }
        }
    }
}

/// What Nix would say in many words, and for each version in others.
fn no_flake(subdir: &str) -> String {
    let place = subdir.trim_matches('/');
    let file = if matches!(place, "" | ".") { "flake.nix".to_owned() } else { format!("{place}/flake.nix") };
    format!("there is no '{file}' in the commit; the setting 'source.subdir' names the folder that it is in")
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
        NixError::Damaged { .. } => "damaged",
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
        _ => host::chain(error),
    }
}
