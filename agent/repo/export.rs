//! Writing the tree of a trusted revision as plain files, byte for byte as they are stored. No index, attributes,
//! filters, line-end conversion, keyword expansion or hooks. Must not know what the files are for.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps};

use super::closure::commit_links;
use super::failure::{Failure, FailureClass};
use super::files;
use super::limits::Limits;
use super::objects::to_oid;
use super::store::{Store, StoreError};
use super::submodules::{Gitlink, SubmoduleStores};
use super::tree::{Place, Step, TreeError, walk};
use crate::model::Oid;
use crate::trust::Refusal;
use crate::trust::tree::{Entry, Kind};

/// The name of the exported directory: what Nix calls every source tree, and so a part of the store path.
const NAME: &str = "source";

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Says why a revision could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The trusted store could not be opened.
    #[error("failed to look up revision '{0}'")]
    Store(Oid, #[source] StoreError),
    /// An object could not be read; the class says whether the store is damaged.
    #[error("failed to read the tree of revision '{0}'")]
    Read(Oid, #[source] Failure),
    /// The store of a submodule could not be opened, or an object in it not be read.
    #[error("failed to read submodule '{path}'")]
    Submodule {
        /// Its path.
        path: String,
        /// What happened; the class says whether the store is damaged.
        source: Failure,
    },
    /// The commit of a submodule is not in its store.
    #[error("submodule '{}' at commit {} is not in the store", .0.path, .0.commit.short())]
    Absent(Gitlink),
    /// The tree breaks a rule or a limit of [`crate::trust::tree`].
    #[error("the tree of revision '{0}' cannot be exported")]
    Refused(Oid, #[source] Refusal),
    /// A file or directory could not be written.
    #[error("failed to {operation} '{path}'")]
    Write {
        /// What was tried.
        operation: &'static str,
        /// On which file; below the exported directory if relative.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

/// An exported tree. Dropping it deletes the files.
#[derive(Debug)]
pub struct Export {
    /// A fresh directory that holds the exported one and nothing else.
    parent: PathBuf,
    commit_time: i64,
}

impl Export {
    /// Returns the directory with the tree; its last component is `source`.
    pub fn path(&self) -> PathBuf {
        self.parent.join(NAME)
    }

    /// Returns the committer's time in unix seconds; every file and directory has it as its modification time.
    pub fn commit_time(&self) -> i64 {
        self.commit_time
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // What cannot be deleted now is deleted with the directory it lies in, at the next start.
        drop(files::remove_tree(&self.parent));
    }
}

/// Writes the tree of `revision`, with its submodules in their places, into a fresh directory below `work`, which is made if
/// it is missing.
///
/// Blocks for as long as reading and writing the tree takes. Nothing is synced: an export does not survive anyway.
pub fn export(
    store: &Store,
    submodules: &SubmoduleStores,
    revision: &Oid,
    work: &Path,
    limits: &Limits,
) -> Result<Export, ExportError> {
    let in_store = |e| ExportError::Store(revision.clone(), e);
    let raw = store.commit(revision).map_err(in_store)?;
    let objects = store.objects(limits.object_bytes).map_err(in_store)?;
    let (tree, commit_time) = root_of(&raw, revision)?;
    let modules = submodules.open(revision, limits)?;

    let parent = work.join(format!("{:016x}", fastrand::u64(..)));
    files::ensure_private(work).map_err(|e| write_error("create", work, e))?;
    files::create_private(&parent).map_err(|e| write_error("create", &parent, e))?;
    let export = Export { parent, commit_time };
    let mut writer = Writer::new(&export.path(), commit_time)?;
    let written =
        walk(&[&objects], &tree, &modules, &mut |step| writer.step(&step)).and_then(|()| writer.leave());
    written.map_err(|e| e.of(revision))?;
    Ok(export)
}

/// Returns what submodules the tree of `revision` has whose commits are not at hand. Those that may be within these are
/// not among them.
///
/// # Errors
/// As [`export`].
pub fn missing(
    store: &Store,
    submodules: &SubmoduleStores,
    revision: &Oid,
    limits: &Limits,
) -> Result<Vec<Gitlink>, ExportError> {
    let in_store = |e| ExportError::Store(revision.clone(), e);
    let raw = store.commit(revision).map_err(in_store)?;
    let objects = store.objects(limits.object_bytes).map_err(in_store)?;
    let (tree, _) = root_of(&raw, revision)?;
    let modules = submodules.open(revision, limits)?;
    let mut missing = Vec::new();
    let mut note = |step: Step<'_>| -> Result<(), Stop> {
        if let Step::Absent(path, commit) = step {
            missing.push(Gitlink { path: path.to_owned(), commit: commit.clone() });
        }
        Ok(())
    };
    walk(&[&objects], &tree, &modules, &mut note).map_err(|e| e.of(revision))?;
    Ok(missing)
}

/// Returns the tree of a raw commit, and its committer's time.
fn root_of(raw: &[u8], revision: &Oid) -> Result<(Oid, i64), ExportError> {
    let malformed = || Failure::new(FailureClass::Corrupt, "the commit is malformed");
    let links = commit_links(raw).zip(committer_time(raw));
    let ((tree, _), time) = links.ok_or_else(|| ExportError::Read(revision.clone(), malformed()))?;
    Ok((to_oid(&tree), time))
}

/// What [`ExportError`] is made of before the revision is added.
enum Stop {
    Tree(TreeError),
    Absent(Gitlink),
    Write { operation: &'static str, path: PathBuf, source: io::Error },
}

impl From<TreeError> for Stop {
    fn from(error: TreeError) -> Stop {
        Stop::Tree(error)
    }
}

impl Stop {
    fn of(self, revision: &Oid) -> ExportError {
        match self {
            Stop::Tree(TreeError::Refused(refusal)) => ExportError::Refused(revision.clone(), refusal),
            Stop::Tree(TreeError::Failed { submodule: None, failure }) => {
                ExportError::Read(revision.clone(), failure)
            }
            Stop::Tree(TreeError::Failed { submodule: Some(path), failure }) => {
                ExportError::Submodule { path, source: failure }
            }
            Stop::Absent(link) => ExportError::Absent(link),
            Stop::Write { operation, path, source } => ExportError::Write { operation, path, source },
        }
    }
}

/// Writes relative to handles of directories it made itself, so that no path is ever looked up twice.
struct Writer {
    time: Timestamps,
    /// The open directories from the root down, with their names; at most as many as a tree may be deep.
    open: Vec<(OwnedFd, PathBuf)>,
    buf: Vec<u8>,
}

impl Writer {
    fn new(root: &Path, commit_time: i64) -> Result<Writer, ExportError> {
        let root_dir = make_directory(CWD, root.as_os_str()).map_err(|e| write_error("create", root, e))?;
        let at = Timespec { tv_sec: commit_time, tv_nsec: 0 };
        let time = Timestamps { last_access: at, last_modification: at };
        Ok(Writer { time, open: vec![(root_dir, PathBuf::new())], buf: Vec::new() })
    }

    fn step(&mut self, step: &Step<'_>) -> Result<(), Stop> {
        match step {
            Step::Enter(name) => self.enter(OsStr::from_bytes(name)),
            Step::Leaf(entry, place) => self.leaf(entry, place),
            Step::Leave => self.leave(),
            Step::Absent(path, commit) => {
                Err(Stop::Absent(Gitlink { path: (*path).to_owned(), commit: (*commit).clone() }))
            }
        }
    }

    fn enter(&mut self, name: &OsStr) -> Result<(), Stop> {
        let dir = make_directory(self.here(), name).map_err(|e| self.stop("create", name, e))?;
        let path = self.path(name);
        self.open.push((dir, path));
        Ok(())
    }

    fn leaf(&mut self, entry: &Entry<'_>, place: &Place<'_>) -> Result<(), Stop> {
        let name = OsStr::from_bytes(entry.name);
        let mut buf = std::mem::take(&mut self.buf);
        place.read_file(&entry.id, &mut buf)?;
        let written = match entry.kind {
            Kind::Symlink => self.symlink(name, &buf),
            Kind::Executable => self.file(name, &buf, Mode::from_raw_mode(0o755)),
            Kind::File | Kind::Directory | Kind::Submodule => {
                self.file(name, &buf, Mode::from_raw_mode(0o644))
            }
        };
        self.buf = buf;
        written.map_err(|e| self.stop("write", name, e))
    }

    /// Sets the directory's time last: every entry made in it has changed it.
    fn leave(&mut self) -> Result<(), Stop> {
        match self.open.pop() {
            Some((dir, path)) => rustix::fs::futimens(&dir, &self.time).map_err(|e| Stop::Write {
                operation: "set the time of",
                path,
                source: e.into(),
            }),
            None => Ok(()),
        }
    }

    fn file(&self, name: &OsStr, bytes: &[u8], mode: Mode) -> io::Result<()> {
        let mut file = File::from(rustix::fs::openat(self.here(), name, NEW_FILE, mode)?);
        file.write_all(bytes)?;
        Ok(rustix::fs::futimens(&file, &self.time)?)
    }

    fn symlink(&self, name: &OsStr, target: &[u8]) -> io::Result<()> {
        rustix::fs::symlinkat(OsStr::from_bytes(target), self.here(), name)?;
        Ok(rustix::fs::utimensat(self.here(), name, &self.time, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn here(&self) -> BorrowedFd<'_> {
        self.open.last().expect("directories are left as often as they are entered, after the root").0.as_fd()
    }

    fn path(&self, name: &OsStr) -> PathBuf {
        self.open.last().map_or_else(PathBuf::new, |(_, path)| path.clone()).join(name)
    }

    fn stop(&self, operation: &'static str, name: &OsStr, source: io::Error) -> Stop {
        Stop::Write { operation, path: self.path(name), source }
    }
}

/// Makes the directory `name` in `parent` and opens it, without following a link that someone put in its place.
fn make_directory(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    Ok(rustix::fs::openat(parent, name, DIRECTORY, Mode::empty())?)
}

fn write_error(operation: &'static str, path: &Path, source: io::Error) -> ExportError {
    ExportError::Write { operation, path: path.to_owned(), source }
}

/// Returns the seconds in a raw commit's `committer` line: the last word but one.
fn committer_time(raw: &[u8]) -> Option<i64> {
    let header = raw.split(|&b| b == b'\n').take_while(|line| !line.is_empty());
    let line = header.filter_map(|line| line.strip_prefix(b"committer ")).next()?;
    let seconds = line.rsplit(|&b| b == b' ').nth(1)?;
    std::str::from_utf8(seconds).ok()?.parse().ok()
}
