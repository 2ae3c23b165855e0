//! Reading commits and trees of an ordinary repository on this machine, bare or with a work tree, for verifying by hand
//! and in hooks. Reads what Git itself would read (packed and loose objects, alternates, the quarantine of a push),
//! except replace refs; trusts nothing it reads.

use std::path::{Path, PathBuf};

use gix_odb::Header as _;

use super::closure::commit_links;
use super::objects::{Kind, to_gix, to_oid};
use crate::model::Oid;
use crate::trust::tree::{self, Budget, Submodules, check_tree, join};
use crate::trust::{ObjectFormat, RANGE_MAX, Refusal};

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
    /// The object is there and is something else.
    #[error("object '{0}' is a {1}, not a {2}")]
    WrongKind(Oid, String, &'static str),
    /// Objects that are kept elsewhere can't be read.
    #[error("failed to open the object directory '{path}'")]
    Objects {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The object, or the way to it, is damaged.
    #[error("failed to read object '{oid}'")]
    Read {
        /// The object.
        oid: Oid,
        /// What gitoxide said.
        source: gix::Error,
    },
}

/// What was found out about a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeSeen {
    /// All of it is within the rules.
    Whole,
    /// The names are; some files are not in this clone, so their sizes don't count.
    WithoutSomeFiles,
}

/// Why a tree was not found to be within the rules.
#[derive(Debug)]
pub enum TreeFault {
    /// It breaks one.
    Refused(Refusal),
    /// It can't be read.
    Unread(LocalError),
}

/// An ordinary repository, open for reading.
pub struct LocalRepository {
    path: PathBuf,
    repository: gix::Repository,
    /// Object directories beside the repository's own.
    beside: Vec<gix_odb::Handle>,
}

/// Opens the repository that `dir` is, or lies in: a bare one, a `.git` directory, or a work tree. Objects are also read
/// from the object directories `beside`, which is where Git keeps a push while its hooks look at it.
pub fn open_for_verify(dir: &Path, beside: &[PathBuf]) -> Result<LocalRepository, LocalError> {
    let open = |source| LocalError::Open { path: dir.to_owned(), source };
    let (found, _) = gix::discover::upwards(dir).map_err(open)?;
    let found = found.into_repository_and_work_tree_directories().0;
    // Isolated: no system, user or environment configuration. Whoever names the directory trusts it to be read, and
    // reading runs nothing; without `Trust::Full` gitoxide lowers limits for repositories of another owner.
    let options = gix::open::Options::isolated()
        .with(gix::sec::Trust::Full)
        .config_overrides(["core.useReplaceRefs=false"]);
    let repository = gix::ThreadSafeRepository::open_opts(found, options).map_err(open)?.to_thread_local();
    let beside = beside.iter().map(|path| {
        let opened = gix_odb::at_opts(path, repository.object_hash(), None, Default::default());
        opened.map_err(|source| LocalError::Objects { path: path.clone(), source })
    });
    Ok(LocalRepository { path: dir.to_owned(), beside: beside.collect::<Result<_, _>>()?, repository })
}

impl LocalRepository {
    /// Returns the commit that `revision` names: a full object id, a full reference name such as `refs/heads/main`,
    /// `HEAD`, or the name of a local branch, else of a remote-tracking one such as `origin/main`. Never guesses: no
    /// abbreviated ids, no tags. `~` and a number behind it go up that many first parents, as in Git; `^` is one.
    pub fn resolve(&self, revision: &str) -> Result<Oid, LocalError> {
        let no_such = || LocalError::NoSuchRevision { path: self.path.clone(), name: revision.to_owned() };
        let (base, generations) = split_generations(revision).ok_or_else(no_such)?;
        let mut oid = self.resolve_name(base).map_err(|_| no_such())?;
        for _ in 0..generations {
            let raw = self.commit(&oid)?;
            let (_, parents) = commit_links(&raw).ok_or_else(no_such)?;
            oid = to_oid(parents.first().ok_or_else(no_such)?);
        }
        Ok(oid)
    }

    fn resolve_name(&self, revision: &str) -> Result<Oid, LocalError> {
        if let Ok(oid) = revision.parse() {
            return Ok(oid);
        }
        let names = match revision {
            "HEAD" => vec![revision.to_owned()],
            name if name.starts_with("refs/") => vec![revision.to_owned()],
            name => vec![format!("refs/heads/{name}"), format!("refs/remotes/{name}")],
        };
        let no_such = || LocalError::NoSuchRevision { path: self.path.clone(), name: revision.to_owned() };
        for name in names {
            let reference = self.repository.try_find_reference(name.as_str()).map_err(|_| no_such())?;
            if let Some(mut reference) = reference {
                return Ok(to_oid(&reference.follow_to_object().map_err(|_| no_such())?));
            }
        }
        Err(no_such())
    }

    /// Returns whether the history of this clone is cut off (`git clone --depth`).
    pub fn is_shallow(&self) -> bool {
        self.repository.is_shallow().unwrap_or(false)
    }

    /// Returns whether this clone leaves objects at its remote (`git clone --filter`).
    pub fn is_partial(&self) -> bool {
        let config = self.repository.config_snapshot();
        let mut remotes = config.plumbing().sections_by_name("remote").into_iter().flatten();
        remotes.any(|remote| remote.value("promisor").is_some_and(|value| value == "true"))
            || config.string("extensions.partialClone").is_some()
    }

    /// Returns the bytes of commit `oid`, after comparing them with the id.
    pub fn commit(&self, oid: &Oid) -> Result<Vec<u8>, LocalError> {
        self.read(oid, Kind::Commit, "commit")
    }

    /// Holds the tree `root`, and all below it, to the rules of [`tree`]. What is in submodules is not looked at: another
    /// repository has it.
    pub fn check_tree(&self, root: &Oid, submodules: &Submodules) -> Result<TreeSeen, TreeFault> {
        let mut walk =
            TreeWalk { repository: self, submodules, budget: Budget::new(), seen: TreeSeen::Whole };
        walk.directory(root, &mut Vec::new())?;
        Ok(walk.seen)
    }

    fn read(&self, oid: &Oid, kind: Kind, what: &'static str) -> Result<Vec<u8>, LocalError> {
        use gix::prelude::Find as _;
        let id = to_gix(oid);
        let read = |source| LocalError::Read { oid: oid.clone(), source };
        let mut buf = Vec::new();
        for objects in self.layers() {
            let Some(object) = objects.try_find(&id, &mut buf).map_err(read)? else { continue };
            object.verify_checksum(&id).map_err(read)?;
            if object.kind != kind {
                return Err(LocalError::WrongKind(oid.clone(), object.kind.to_string(), what));
            }
            return Ok(object.data.to_vec());
        }
        Err(LocalError::Missing(oid.clone()))
    }

    /// Returns the size of the file `oid`, without reading it whole.
    fn file_size(&self, oid: &Oid) -> Result<u64, LocalError> {
        let id = to_gix(oid);
        for objects in self.layers() {
            let found = objects.try_header(&id);
            match found.map_err(|source| LocalError::Read { oid: oid.clone(), source })? {
                Some(header) if header.kind() == Kind::Blob => return Ok(header.size()),
                Some(header) => {
                    return Err(LocalError::WrongKind(oid.clone(), header.kind().to_string(), "file"));
                }
                None => {}
            }
        }
        Err(LocalError::Missing(oid.clone()))
    }

    fn layers(&self) -> impl Iterator<Item = &gix_odb::Handle> {
        std::iter::once(&*self.repository.objects).chain(&self.beside)
    }
}

/// Splits `main~2^` into `main` and 3. `None`: what follows the name is something else.
fn split_generations(revision: &str) -> Option<(&str, u32)> {
    let end = revision.find(['~', '^']).unwrap_or(revision.len());
    let (base, mut rest) = revision.split_at(end);
    let mut generations: u32 = 0;
    while let Some(step) = rest.chars().next() {
        rest = &rest[1..];
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number = if digits == 0 { 1 } else { rest[..digits].parse().ok()? };
        rest = &rest[digits..];
        match (step, number) {
            ('~', n) => generations = generations.checked_add(n)?,
            ('^', 1) => generations = generations.checked_add(1)?,
            _ => return None,
        }
    }
    (generations <= RANGE_MAX as u32).then_some((base, generations))
}

/// Looking at one tree, as the export of a host does, but writing nothing.
struct TreeWalk<'a> {
    repository: &'a LocalRepository,
    submodules: &'a Submodules,
    budget: Budget,
    seen: TreeSeen,
}

impl TreeWalk<'_> {
    /// Goes into the directory with the path `dir`. Its depth is bounded by [`tree::DEPTH_MAX`].
    fn directory(&mut self, oid: &Oid, dir: &mut Vec<u8>) -> Result<(), TreeFault> {
        let raw = self.repository.read(oid, Kind::Tree, "tree").map_err(TreeFault::Unread)?;
        self.spend(raw.len() as u64)?;
        let entries = check_tree(&raw, ObjectFormat::of(oid), dir, self.submodules);
        for entry in entries.map_err(TreeFault::Refused)? {
            match entry.kind {
                tree::Kind::Directory => {
                    let parent = dir.len();
                    *dir = join(dir, entry.name);
                    self.directory(&entry.id, dir)?;
                    dir.truncate(parent);
                }
                tree::Kind::Submodule => self.spend(0)?,
                tree::Kind::File | tree::Kind::Executable | tree::Kind::Symlink => self.file(&entry.id)?,
            }
        }
        Ok(())
    }

    fn file(&mut self, oid: &Oid) -> Result<(), TreeFault> {
        match self.repository.file_size(oid) {
            Ok(size) => self.spend(size),
            Err(LocalError::Missing(_)) if self.repository.is_partial() => {
                self.seen = TreeSeen::WithoutSomeFiles;
                self.spend(0)
            }
            Err(e) => Err(TreeFault::Unread(e)),
        }
    }

    fn spend(&mut self, bytes: u64) -> Result<(), TreeFault> {
        self.budget.spend(bytes).map_err(TreeFault::Refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_are_counted_as_git_does() {
        let table = [
            ("main", Some(("main", 0))),
            ("HEAD~", Some(("HEAD", 1))),
            ("HEAD~12", Some(("HEAD", 12))),
            ("origin/main~2^", Some(("origin/main", 3))),
            ("HEAD^^", Some(("HEAD", 2))),
            ("HEAD~0", Some(("HEAD", 0))),
            ("HEAD^2", None),
            ("HEAD~x", None),
            ("HEAD^{tree}", None),
            ("HEAD~4294967296", None),
            ("HEAD~4294967295~", None),
        ];
        for (revision, expected) in table {
            assert_eq!(split_generations(revision), expected, "{revision}");
        }
    }
}
