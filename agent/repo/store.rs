//! The trusted store: a bare repository below the state directory that holds verified history and nothing else.
//! Must not know what makes a commit trusted, and touches no network.
//!
//! The store is a cache: the anchor's id re-verifies everything in it. So every doubt about it ends in
//! [`StoreError::Corrupt`] and [`Store::discard`], never in a repair.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::closure::commit_links;
use super::failure::{Failure, FailureClass};
use super::files;
use super::limits::Limits;
use super::objects::{Format, Kind, Objects, format_of, to_gix, to_oid};
use super::pack;
use super::quarantine::Quarantine;
use crate::model::Oid;

/// How much is read of `config` and the files of references.
const SMALL_FILE_BYTES: u64 = 64 * 1024;

/// Says why the trusted store cannot be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system said no.
    #[error("failed to {operation} '{path}'")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The store is damaged. Way out: [`Store::discard`], then fetch everything again.
    #[error("the trusted store '{path}' is damaged: {what}")]
    Corrupt {
        /// The store.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// An object or a pack could not be read, and it is not the store's fault.
    #[error("failed to read the trusted store '{path}'")]
    Read {
        /// The store.
        path: PathBuf,
        /// What happened.
        source: Failure,
    },
    /// The store and the revision asked for use different hash functions.
    #[error("the trusted store '{path}' holds {have} objects, unlike '{wanted}'")]
    Format {
        /// The store.
        path: PathBuf,
        /// The object format of the store, as Git names it.
        have: String,
        /// The revision that does not fit.
        wanted: Oid,
    },
    /// The store is sound but does not hold this object.
    #[error("object '{0}' is not in the trusted store")]
    Missing(Oid),
    /// The import child left something else than the one pack it announced.
    #[error("the quarantine '{path}' does not hold exactly '{pack}'")]
    Quarantine {
        /// The quarantine.
        path: PathBuf,
        /// The pack that was announced.
        pack: String,
    },
}

/// Makes an [`io::Error`] say what was tried on which path.
pub(super) fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { operation, path: path.to_owned(), source }
}

/// The references in the store: one for each line of history that a host follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reference {
    /// The last accepted revision of the main line, which only moves forward.
    Main,
    /// The last accepted tip of the host's test branch, which may be rewritten.
    Test,
}

impl Reference {
    /// Returns the full name.
    pub fn name(self) -> &'static str {
        match self {
            Reference::Main => "refs/pullagent/main",
            Reference::Test => "refs/pullagent/test",
        }
    }
}

/// The trusted store of one state directory. Whoever holds it is the only writer: the reconciler.
#[derive(Debug, Clone)]
pub struct Store {
    state_directory: PathBuf,
    git_dir: PathBuf,
    format: Format,
}

impl Store {
    /// More packs than this are packed into one: a look-up tries every pack, and each costs three memory maps.
    pub const PACKS_MAX: usize = 50;

    /// With more packs than this, whatever else there is to do has to wait until they are one.
    pub const PACKS_URGENT: usize = 2 * Store::PACKS_MAX;

    /// Opens the store below `state_directory` for objects of the same format as `wanted`; makes it if there is none.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when a pack, an index or the layout is damaged; [`StoreError::Format`] when `wanted`
    /// cannot be in this store.
    pub fn open_or_create(state_directory: &Path, wanted: &Oid) -> Result<Store, StoreError> {
        let store = match Store::open(state_directory)? {
            Some(store) => store,
            None => Store::create(state_directory, format_of(wanted))?,
        };
        store.check_format(wanted)?;
        Ok(store)
    }

    /// Opens the store below `state_directory`; `None` if there is none yet.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when a pack, an index or the layout is damaged.
    pub fn open(state_directory: &Path) -> Result<Option<Store>, StoreError> {
        let git_dir = git_dir(state_directory);
        if !git_dir.try_exists().map_err(io_error("look for", &git_dir))? {
            return Ok(None);
        }
        let config = read_small(&git_dir.join("config")).map_err(|e| misshapen(&git_dir, e))?;
        let config = config.unwrap_or_default();
        let format =
            parse_format(&config).ok_or_else(|| corrupt(&git_dir, "its 'config' names no object format"))?;
        let store = Store { state_directory: state_directory.to_owned(), git_dir, format };
        store.check_layout()?;
        store.check_packs()?;
        Ok(Some(store))
    }

    /// Deletes the store below `state_directory`. The way out of [`StoreError::Corrupt`].
    pub fn discard(state_directory: &Path) -> Result<(), StoreError> {
        let git_dir = git_dir(state_directory);
        let is_dir = fs::symlink_metadata(&git_dir).is_ok_and(|found| found.is_dir());
        let delete = if is_dir { files::remove_tree } else { files::remove };
        delete(&git_dir).map_err(io_error("delete", &git_dir))
    }

    /// Deletes what an earlier process left unfinished below `state_directory`: quarantines, and the halves of packs
    /// and references that were being published. Called at start, before the store is opened.
    pub fn sweep(state_directory: &Path) -> Result<(), StoreError> {
        Quarantine::sweep(state_directory)?;
        let git_dir = git_dir(state_directory);
        for reference in [Reference::Main, Reference::Test] {
            let lock = lock_of(&git_dir.join(reference.name()));
            files::remove(&lock).map_err(io_error("delete", &lock))?;
        }
        // A pack becomes visible by its index, which is moved last: a pack without one was never trusted.
        for pack in list(&git_dir.join("objects/pack"), "pack")? {
            if !pack.with_extension("idx").exists() {
                files::remove(&pack).map_err(io_error("delete", &pack))?;
            }
        }
        Ok(())
    }

    /// Returns the repository's directory, which `git --git-dir` can read.
    pub fn git_dir(&self) -> &Path {
        &self.git_dir
    }

    /// Tells whether `oid` is in the store, and so its whole history and every tree and file of it.
    pub fn has(&self, oid: &Oid) -> Result<bool, StoreError> {
        let objects = self.objects(Limits::OBJECT_BYTES)?;
        Ok(objects.header(&to_gix(oid)).map_err(|f| self.failed(f))?.is_some())
    }

    /// Returns the bytes of commit `oid`, after comparing them with the id.
    pub fn commit(&self, oid: &Oid) -> Result<Vec<u8>, StoreError> {
        let (objects, mut buf) = (self.objects(Limits::OBJECT_BYTES)?, Vec::new());
        match objects.find(&to_gix(oid), &mut buf).map_err(|f| self.failed(f))? {
            Some(object) if object.kind == Kind::Commit => Ok(object.data.to_vec()),
            Some(_) | None => Err(StoreError::Missing(oid.clone())),
        }
    }

    /// Returns the parents of commit `oid` that are in the store, as is `oid` itself.
    pub fn parents(&self, oid: &Oid) -> Result<Vec<Oid>, StoreError> {
        let commit = self.commit(oid)?;
        let (_, parents) =
            commit_links(&commit).ok_or_else(|| corrupt(&self.git_dir, "a commit is malformed"))?;
        let mut stored = Vec::new();
        for parent in parents.iter().map(|id| to_oid(id)) {
            if self.has(&parent)? {
                stored.push(parent);
            }
        }
        Ok(stored)
    }

    /// Returns the last accepted revision that `reference` keeps; `None` if there is none that can be read.
    ///
    /// For people and for what a fetch tells the server it has; what is trusted is told by the journal.
    pub fn tip(&self, reference: Reference) -> Option<Oid> {
        let read = |name: &str| read_small(&self.git_dir.join(name)).ok().flatten();
        let loose = read(reference.name()).and_then(|text| text.trim_ascii().parse().ok());
        loose.or_else(|| {
            // Where `git gc` by hand moves references to.
            let packed = read("packed-refs")?;
            let mut lines = packed.lines().filter_map(|line| line.split_once(' '));
            lines.find(|(_, name)| *name == reference.name())?.0.parse().ok()
        })
    }

    /// Makes `oid` the last accepted revision that `reference` keeps, so that `git gc` keeps it and `git log` shows it.
    pub fn set_tip(&self, reference: Reference, oid: &Oid) -> Result<(), StoreError> {
        let path = self.git_dir.join(reference.name());
        // `git gc` by hand deletes the directory once its references are packed.
        path.parent()
            .map_or(Ok(()), files::ensure_private)
            .and_then(|()| files::replace(&path, &lock_of(&path), format!("{oid}\n").as_bytes()))
            .map_err(io_error("write", &path))
            .map_err(|e| misshapen(&self.git_dir, e))
    }

    /// Tells whether there are more packs than [`Store::PACKS_MAX`].
    pub fn needs_repack(&self) -> Result<bool, StoreError> {
        Ok(self.packs()?.len() > Store::PACKS_MAX)
    }

    /// Tells whether there are more packs than [`Store::PACKS_URGENT`].
    pub fn is_crowded(&self) -> Result<bool, StoreError> {
        Ok(self.packs()?.len() > Store::PACKS_URGENT)
    }

    /// Reads all indices and compares their checksums: a damaged one hides objects without an error.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names the first one that is not what it was.
    pub(super) fn verify_indices(&self) -> Result<(), StoreError> {
        self.each_pack(pack::verify_index)
    }

    /// Reads all packs and compares their checksums, which takes a second for each few hundred megabytes.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] names the first one that is not what it was.
    pub fn verify_packs(&self) -> Result<(), StoreError> {
        self.each_pack(pack::verify_pack)
    }

    /// Returns the state directory that the store lies in.
    pub(super) fn state_directory(&self) -> &Path {
        &self.state_directory
    }

    /// Returns the directory of the packs.
    pub(super) fn pack_dir(&self) -> PathBuf {
        self.git_dir.join("objects/pack")
    }

    /// Returns the paths of all pack indices.
    pub(super) fn packs(&self) -> Result<Vec<PathBuf>, StoreError> {
        list(&self.pack_dir(), "idx")
    }

    /// Returns how many bytes of packs and indices there are.
    pub(super) fn size(&self) -> Result<u64, StoreError> {
        let files = self.packs()?.into_iter().flat_map(|index| [index.with_extension("pack"), index]);
        let sizes =
            files.map(|file| fs::metadata(&file).map(|m| m.len()).map_err(io_error("look at", &file)));
        sizes.sum()
    }

    /// Checks that `wanted` could be in this store.
    pub(super) fn check_format(&self, wanted: &Oid) -> Result<(), StoreError> {
        if self.format == format_of(wanted) {
            return Ok(());
        }
        let have = self.format.to_string();
        Err(StoreError::Format { path: self.git_dir.clone(), have, wanted: wanted.clone() })
    }

    /// Returns the hash function of all ids in the store.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Opens the objects for reading.
    pub(super) fn objects(&self, object_bytes: u64) -> Result<Objects, StoreError> {
        let dir = self.git_dir.join("objects");
        Objects::open(&dir, self.format, object_bytes, FailureClass::Corrupt).map_err(io_error("open", &dir))
    }

    fn each_pack(&self, check: fn(&Path, Format) -> Result<(), Failure>) -> Result<(), StoreError> {
        self.packs()?.iter().try_for_each(|index| check(index, self.format)).map_err(|f| self.failed(f))
    }

    /// Says what is wrong with the store.
    pub(super) fn damaged(&self, what: &str) -> StoreError {
        corrupt(&self.git_dir, what)
    }

    pub(super) fn failed(&self, failure: Failure) -> StoreError {
        match failure.class {
            FailureClass::Corrupt => corrupt(&self.git_dir, &failure.text),
            _ => StoreError::Read { path: self.git_dir.clone(), source: failure },
        }
    }

    fn create(state_directory: &Path, format: Format) -> Result<Store, StoreError> {
        let git_dir = git_dir(state_directory);
        files::ensure_private(state_directory).map_err(io_error("create", state_directory))?;
        let quarantine = Quarantine::new(state_directory)?;
        let fresh = quarantine.path().join("git");
        lay_out(&fresh, format)
            .and_then(|()| fs::rename(&fresh, &git_dir))
            .and_then(|()| files::sync_parent(&git_dir))
            .map_err(io_error("create", &git_dir))?;
        Ok(Store { state_directory: state_directory.to_owned(), git_dir, format })
    }

    fn check_layout(&self) -> Result<(), StoreError> {
        for foreign in ["shallow", "objects/info/alternates", "info/grafts"] {
            if self.git_dir.join(foreign).exists() {
                return Err(corrupt(&self.git_dir, &format!("it has a file '{foreign}'")));
            }
        }
        let pack_dir = self.pack_dir();
        if pack_dir.is_dir() {
            Ok(())
        } else {
            Err(corrupt(&self.git_dir, "it has no directory 'objects/pack'"))
        }
    }

    fn check_packs(&self) -> Result<(), StoreError> {
        self.each_pack(pack::check_pair)?;
        match list(&self.pack_dir(), "pack")?.iter().find(|pack| !pack.with_extension("idx").exists()) {
            Some(pack) => Err(corrupt(&self.git_dir, &format!("'{}' has no index", pack.display()))),
            None => Ok(()),
        }
    }
}

fn corrupt(git_dir: &Path, what: &str) -> StoreError {
    StoreError::Corrupt { path: git_dir.to_owned(), what: what.to_owned() }
}

/// A file in place of a directory, or the other way round, is damage: waiting does not mend it.
fn misshapen(git_dir: &Path, error: StoreError) -> StoreError {
    use io::ErrorKind::{AlreadyExists, IsADirectory, NotADirectory};
    match error {
        StoreError::Io { path, source, .. }
            if matches!(source.kind(), AlreadyExists | IsADirectory | NotADirectory) =>
        {
            corrupt(git_dir, &format!("'{}' can't be used: {source}", path.display()))
        }
        other => other,
    }
}

fn git_dir(state_directory: &Path) -> PathBuf {
    state_directory.join("git")
}

/// Git's own name for a reference that is being written, so that a `git` at work beside us keeps off.
fn lock_of(reference: &Path) -> PathBuf {
    reference.with_extension("lock")
}

/// Lays out what `git --git-dir` needs to see a bare repository, and nothing that could run anything.
fn lay_out(dir: &Path, format: Format) -> io::Result<()> {
    for below in ["", "objects", "objects/pack", "objects/info", "refs", "refs/heads", "refs/pullagent"] {
        files::create_private(&dir.join(below))?;
    }
    files::write_synced(&dir.join("HEAD"), b"ref: refs/heads/main\n")?;
    files::write_synced(&dir.join("config"), config(format).as_bytes())?;
    for below in ["objects", "refs", ""] {
        files::sync(&dir.join(below))?;
    }
    Ok(())
}

fn config(format: Format) -> String {
    // No automatic gc: it would race with an import, and we repack ourselves.
    let (version, extensions) = match format {
        Format::Sha256 => (1, "[extensions]\n\tobjectformat = sha256\n"),
        _ => (0, ""),
    };
    format!(
        "[core]\n\trepositoryformatversion = {version}\n\tbare = true\n{extensions}[gc]\n\tauto = 0\n\tpackRefs = false\n"
    )
}

fn parse_format(config: &str) -> Option<Format> {
    let objectformat = config.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        key.trim().eq_ignore_ascii_case("objectformat").then(|| value.trim())
    });
    match objectformat {
        Some("sha256") => Some(Format::Sha256),
        Some("sha1") => Some(Format::Sha1),
        Some(_) => None,
        None => config.contains("repositoryformatversion").then_some(Format::Sha1),
    }
}

/// Returns the beginning of the file `path`, whatever it holds; `None` if there is none.
fn read_small(path: &Path) -> Result<Option<String>, StoreError> {
    let file = match fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(io_error("open", path))?,
    };
    let mut bytes = Vec::new();
    file.take(SMALL_FILE_BYTES).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Returns the files in `dir` with this extension; none if there is no such directory.
fn list(dir: &Path, extension: &str) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(io_error("list", dir))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(io_error("list", dir))?.path();
        if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    Ok(found)
}
