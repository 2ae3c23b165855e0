//! The stores of submodules: one for each path that is configured, beside the trusted store and laid out like it. What lies
//! in them is vouched for by the verified trees that name it, and by nothing else. Knows no URL.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::export::ExportError;
use super::failure::{Failure, FailureClass};
use super::files;
use super::limits::Limits;
use super::store::{Store, StoreError, io_error};
use super::tree::Modules;
use crate::model::Oid;
use crate::trust::tree::Submodules;

/// Stands for a slash in the name of a store's directory; no path that may be configured has one.
const SLASH: &str = "%";

/// A commit of another repository, as a tree names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gitlink {
    /// The path from the root of the revision's own tree.
    pub path: String,
    /// The commit.
    pub commit: Oid,
}

/// The stores of the submodules of one host.
#[derive(Debug, Clone)]
pub struct SubmoduleStores {
    directory: PathBuf,
    paths: Submodules,
}

impl SubmoduleStores {
    /// Returns those below `state_directory` for the submodules at `paths`.
    pub fn new(state_directory: &Path, paths: Submodules) -> SubmoduleStores {
        SubmoduleStores { directory: state_directory.join("submodules"), paths }
    }

    /// Returns at which paths there may be submodules.
    pub fn paths(&self) -> &Submodules {
        &self.paths
    }

    /// Opens the store of the submodule at `path`; `None` if there is none yet.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn store(&self, path: &str) -> Result<Option<Store>, StoreError> {
        Store::open(&self.state_of(path))
    }

    /// Opens the store that `link` belongs into; makes it if there is none.
    ///
    /// # Errors
    /// As [`Store::open_or_create`].
    pub fn open_or_create(&self, link: &Gitlink) -> Result<Store, StoreError> {
        Store::open_or_create(&self.state_of(&link.path), &link.commit)
    }

    /// Deletes the store of the submodule at `path`: the way out of [`StoreError::Corrupt`].
    pub fn discard(&self, path: &str) -> Result<(), StoreError> {
        let state = self.state_of(path);
        files::remove_tree(&state).map_err(io_error("delete", &state))
    }

    /// Deletes what an earlier process left unfinished, and the stores of submodules that are configured no longer. Called
    /// at start.
    pub fn sweep(&self) -> Result<(), StoreError> {
        let configured: Vec<PathBuf> = self.paths.iter().map(|path| self.state_of(path)).collect();
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(io_error("list", &self.directory))?,
        };
        for entry in entries {
            let state = entry.map_err(io_error("list", &self.directory))?.path();
            if configured.contains(&state) {
                Store::sweep(&state)?;
            } else {
                files::remove_tree(&state).map_err(io_error("delete", &state))?;
            }
        }
        Ok(())
    }

    /// Opens the objects of all submodules, for a walk through the tree of `revision`.
    pub(super) fn open(&self, revision: &Oid, limits: &Limits) -> Result<Modules<'_>, ExportError> {
        let mut objects = BTreeMap::new();
        for path in &self.paths {
            let failed = |e: StoreError| ExportError::Submodule { path: path.clone(), source: useless(e) };
            if let Some(store) = self.store(path).map_err(failed)? {
                store.check_format(revision).map_err(failed)?;
                objects.insert(path.clone(), store.objects(limits.object_bytes).map_err(failed)?);
            }
        }
        Ok(Modules { allowed: &self.paths, objects })
    }

    /// Returns the directory that the store of `path` lies in, with its quarantine.
    fn state_of(&self, path: &str) -> PathBuf {
        self.directory.join(path.replace('/', SLASH))
    }
}

/// A store of another object format than the tree's holds nothing that could be used, as if it were damaged.
fn useless(error: StoreError) -> Failure {
    match error {
        StoreError::Format { .. } => Failure::new(FailureClass::Corrupt, error.to_string()),
        other => Failure::from(other),
    }
}
