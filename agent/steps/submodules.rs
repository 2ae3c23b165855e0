//! Bringing in the submodules that a verified tree names. Its ids vouch for what comes, of which no signature is asked; the
//! configuration says where it comes from. Must not know what is in them.

use super::Steps;
use super::build::BuildError;
use crate::gateway::link::FetchError;
use crate::host;
use crate::model::{Oid, SUBMODULE_MISSING};
use crate::repo::export;
use crate::repo::import;
use crate::repo::store::{Reference, Store, StoreError};
use crate::repo::submodules::{Gitlink, SubmoduleStores};
use crate::repo::{Failure, FailureClass};

/// What Git's own server says when it does not have a commit, and what JGit says (`wantNotValid`), as in Gerrit.
const NOT_THERE: [&str; 2] = ["not our ref", "not valid"];

/// Why a submodule is not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum SubmoduleError {
    /// Its repository does not have the commit.
    #[error(
        "the repository of submodule '{}' does not have commit {}, which the verified tree names: push it there, if \
         'source.submodules.\"{}\".url' of the running system leads there",
        .0.path, .0.commit.short(), .0.path
    )]
    NotThere(Gitlink, #[source] FetchError),
    /// It was not fetched.
    #[error(
        "failed to fetch submodule '{}' at commit {} from where 'source.submodules.\"{}\"' says", .0.path,
        .0.commit.short(), .0.path
    )]
    Fetch(Gitlink, #[source] FetchError),
    /// What came is not what the tree names, or could not be taken in.
    #[error("failed to take in submodule '{}' at commit {}", .0.path, .0.commit.short())]
    Import(Gitlink, #[source] Failure),
    /// Its store can't be used.
    #[error("the store of submodule '{0}' can't be used")]
    Store(String, #[source] StoreError),
}

impl SubmoduleError {
    /// Returns the path of the submodule whose store is damaged, or made for another object format.
    pub(super) fn damaged(&self) -> Option<&str> {
        match self {
            SubmoduleError::Store(path, StoreError::Corrupt { .. } | StoreError::Format { .. }) => Some(path),
            SubmoduleError::Import(link, failure) if failure.class == FailureClass::Corrupt => {
                Some(&link.path)
            }
            SubmoduleError::NotThere(..)
            | SubmoduleError::Fetch(..)
            | SubmoduleError::Import(..)
            | SubmoduleError::Store(..) => None,
        }
    }

    pub(super) fn code(&self) -> &'static str {
        match self {
            SubmoduleError::NotThere(..) => SUBMODULE_MISSING,
            SubmoduleError::Fetch(_, e) => super::verify::fetch_code(e.class),
            SubmoduleError::Import(_, failure) => super::verify::import_code(failure.class),
            SubmoduleError::Store(..) => "store",
        }
    }
}

impl Steps {
    /// Returns the stores of the submodules that are configured.
    pub(super) fn submodule_stores(&self) -> SubmoduleStores {
        SubmoduleStores::new(&self.state_directory, self.settings.source.submodule_paths())
    }

    /// Fetches what the tree of `revision` names and the stores lack, level by level: what is in a submodule shows only
    /// once that is there.
    pub(super) async fn ensure_submodules(&self, store: &Store, revision: &Oid) -> Result<(), BuildError> {
        let stores = self.submodule_stores();
        // Each level brings in another path.
        for _ in 0..stores.paths().len() {
            let missing = self.missing_submodules(store, &stores, revision).await?;
            if missing.is_empty() {
                break;
            }
            for link in missing {
                self.fetch_submodule(&stores, link).await?;
            }
        }
        Ok(())
    }

    async fn missing_submodules(
        &self,
        store: &Store,
        stores: &SubmoduleStores,
        revision: &Oid,
    ) -> Result<Vec<Gitlink>, BuildError> {
        let (store, stores, revision) = (store.clone(), stores.clone(), revision.clone());
        let limits = self.stored_limits();
        self.beside(move || export::missing(&store, &stores, &revision, &limits)).await
    }

    async fn fetch_submodule(&self, stores: &SubmoduleStores, link: Gitlink) -> Result<(), SubmoduleError> {
        let unusable = |e| SubmoduleError::Store(link.path.clone(), e);
        let store = stores.open_or_create(&link).map_err(unusable)?;
        let have = store.tip(Reference::Main).filter(|tip| store.has(tip).unwrap_or(false));
        let source = crate::config::Submodule::source_name(&link.path);
        tracing::info!("fetching submodule '{}' at commit {}", link.path, link.commit.short());
        let wanted = self.link.want(&source, &link.commit, have.into_iter().collect()).await;
        let incoming = match wanted {
            Ok(incoming) => incoming,
            Err(error) => return Err(not_fetched(link, error)),
        };
        match import::pin(&store, &link.commit, self.import_limits(), incoming.pack).await {
            Ok(()) => Ok(()),
            // What the gateway says of a broken transfer is nearer to the cause than "the pack is incomplete".
            Err(failure) => Err(match self.link.why_broken(incoming.number) {
                Some(broke) => not_fetched(link, broke),
                None => SubmoduleError::Import(link, failure),
            }),
        }
    }

    /// The store of a submodule is a cache, too: what is damaged is thrown away and fetched again.
    pub(super) fn discard_submodule(&self, path: &str) {
        tracing::error!("the store of submodule '{path}' is of no use; it is deleted and fetched again");
        if let Err(error) = self.submodule_stores().discard(path) {
            tracing::error!("the store of submodule '{path}' can't be deleted: {}", host::chain(&error));
        }
    }
}

fn not_fetched(link: Gitlink, error: FetchError) -> SubmoduleError {
    // A certificate may be "not valid", too.
    let is_answer = matches!(error.class, "refused" | "protocol");
    match is_answer && NOT_THERE.iter().any(|words| error.text.contains(words)) {
        true => SubmoduleError::NotThere(link, error),
        false => SubmoduleError::Fetch(link, error),
    }
}
