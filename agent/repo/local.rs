//! Reading commits of an ordinary repository on this machine, bare or with a work tree, for verifying by hand. Reads
//! what Git itself would read (packed and loose objects, alternates), except replace refs; trusts nothing it reads.

use std::path::{Path, PathBuf};

use super::objects::{Kind, to_gix, to_oid};
use crate::model::Oid;

/// Says why a repository on this machine cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Not a repository, or not readable.
    #[error("failed to open the Git repository '{path}'")]
    Open {
        /// Where it was looked for.
        path: PathBuf,
        /// What gitoxide said.
        source: gix::Error,
    },
    /// No branch and no reference of this name, and no full object id.
    #[error("'{name}' is no branch, no full reference name and no full object id in '{path}'")]
    NoSuchRevision {
        /// The repository.
        path: PathBuf,
        /// What was asked for.
        name: String,
    },
    /// The object is not there.
    #[error("object '{0}' is missing")]
    Missing(Oid),
    /// The object is there and is no commit.
    #[error("object '{0}' is a {1}, not a commit")]
    NotACommit(Oid, String),
    /// The object, or the way to it, is damaged.
    #[error("failed to read object '{oid}'")]
    Read {
        /// The object.
        oid: Oid,
        /// What gitoxide said.
        source: gix::Error,
    },
}

/// An ordinary repository, open for reading.
pub struct LocalRepository {
    path: PathBuf,
    repository: gix::Repository,
}

/// Opens the repository at `dir`: a bare one, a `.git` directory, or the top of a work tree.
pub fn open_for_verify(dir: &Path) -> Result<LocalRepository, LocalError> {
    // Isolated: no system, user or environment configuration. Whoever names the directory trusts it to be read, and
    // reading runs nothing; without `Trust::Full` gitoxide lowers limits for repositories of another owner.
    let options = gix::open::Options::isolated()
        .with(gix::sec::Trust::Full)
        .config_overrides(["core.useReplaceRefs=false"]);
    let opened = gix::ThreadSafeRepository::open_opts(dir, options);
    let repository = opened.map_err(|source| LocalError::Open { path: dir.to_owned(), source })?;
    Ok(LocalRepository { path: dir.to_owned(), repository: repository.to_thread_local() })
}

impl LocalRepository {
    /// Returns the commit that `revision` names: a full object id, a full reference name such as `refs/heads/main`,
    /// `HEAD`, or the name of a local branch. Never guesses: no abbreviated ids, no other name spaces.
    pub fn resolve(&self, revision: &str) -> Result<Oid, LocalError> {
        if let Ok(oid) = revision.parse() {
            return Ok(oid);
        }
        let full = match revision {
            "HEAD" => revision.to_owned(),
            name if name.starts_with("refs/") => revision.to_owned(),
            name => format!("refs/heads/{name}"),
        };
        let no_such = || LocalError::NoSuchRevision { path: self.path.clone(), name: revision.to_owned() };
        let reference = self.repository.try_find_reference(full.as_str()).map_err(|_| no_such())?;
        let mut reference = reference.ok_or_else(no_such)?;
        let id = reference.follow_to_object().map_err(|_| no_such())?;
        Ok(to_oid(&id))
    }

    /// Returns the bytes of commit `oid`, after comparing them with the id.
    pub fn commit(&self, oid: &Oid) -> Result<Vec<u8>, LocalError> {
        use gix::prelude::Find as _;
        let id = to_gix(oid);
        let mut buf = Vec::new();
        let read = |source| LocalError::Read { oid: oid.clone(), source };
        let object = self.repository.objects.try_find(&id, &mut buf).map_err(read)?;
        let object = object.ok_or_else(|| LocalError::Missing(oid.clone()))?;
        object.verify_checksum(&id).map_err(read)?;
        match object.kind {
            Kind::Commit => Ok(object.data.to_vec()),
            other => Err(LocalError::NotACommit(oid.clone(), other.to_string())),
        }
    }
}
