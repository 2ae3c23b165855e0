//! Owns how files are written and read: whole or not at all, durable, and never without a bound.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Mode of a file that only its owner may read.
pub const PRIVATE: u32 = 0o600;
/// Mode of a file that everybody may read.
pub const PUBLIC: u32 = 0o644;

/// Tells a file from the one that lay there before: which it is, how long, and when it was last changed in any way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    file: (u64, u64),
    bytes: u64,
    changed: (i64, i64),
}

/// Returns the stamp of the file that `path` leads to, through any links; `None`: there is none that we may look at.
pub fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    let changed = (file.ctime(), file.ctime_nsec());
    Some(Stamp { file: (file.dev(), file.ino()), bytes: file.len(), changed })
}

/// Says what could not be done to which file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("failed to {operation} '{}'", path.display())]
    Io {
        /// What was tried, such as "read".
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is larger than anything we would have written there.
    #[error("'{}' is larger than {max} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound, in bytes.
        max: u64,
    },
}

impl FileError {
    /// Tells whether the file is simply not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, FileError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Tells whether nobody can write there, for as long as the file system stays what it is.
    pub fn is_unwritable(&self) -> bool {
        // EIO has no kind of its own.
        let says_io = |e: &io::Error| e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error());
        match self {
            FileError::Io { source, .. } => {
                source.kind() == io::ErrorKind::ReadOnlyFilesystem || says_io(source)
            }
            FileError::TooLarge { .. } => false,
        }
    }
}

/// Says who created a file that can be created once only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// We did; it holds our bytes.
    Won,
    /// Somebody was first; it holds these bytes.
    Lost(Vec<u8>),
}

/// Room left on a file system, for an ordinary user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FreeSpace {
    /// Bytes.
    pub bytes: u64,
    /// Files; `None` where the file system has no such limit (btrfs).
    pub inodes: Option<u64>,
}

/// Replaces the file at `path` by `bytes`: after a crash it holds either the old or the new content.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let temp = write_temp(path, bytes, mode)?;
    temp.rename_to(path)?;
    sync_dir(parent(path))
}

/// Creates the file at `path` with `bytes` unless it exists; of several at once exactly one wins.
///
/// The file appears with all its bytes or not at all (`link(2)` of a synced temporary file), and whoever
/// returns, winner or loser, returns after it is durable. `max` bounds what a loser reads.
pub fn create_once(path: &Path, bytes: &[u8], max: u64) -> Result<Created, FileError> {
    let temp = write_temp(path, bytes, PRIVATE)?;
    let linked = fs::hard_link(&temp.0, path);
    drop(temp);
    created(linked, path, max)
}

/// Gives the whole and durable file at `prepared` the name `path` unless that exists; of several at once exactly one
/// wins. It takes neither a block nor an inode, so it works on a full disk. `max` bounds what a loser reads.
pub fn rename_once(prepared: &Path, path: &Path, max: u64) -> Result<Created, FileError> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    let renamed = match renameat_with(CWD, prepared, CWD, path, RenameFlags::NOREPLACE) {
        // Not every file system knows the flag (OpenZFS before 2.2).
        Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(prepared, path),
        renamed => renamed.map_err(io::Error::from),
    };
    created(renamed, path, max)
}

fn created(done: io::Result<()>, path: &Path, max: u64) -> Result<Created, FileError> {
    match done {
        Ok(()) => sync_dir(parent(path)).map(|()| Created::Won),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            sync_dir(parent(path))?;
            read_bounded(path, max).map(Created::Lost)
        }
        Err(e) => Err(io_error("create", path)(e)),
    }
}

/// Reads a whole file of at most `max` bytes.
pub fn read_bounded(path: &Path, max: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() as u64 > max {
        return Err(FileError::TooLarge { path: path.to_owned(), max });
    }
    Ok(bytes)
}

/// Reads a file as [`read_bounded`], or returns `None` where there is none.
pub fn read_if_exists(path: &Path, max: u64) -> Result<Option<Vec<u8>>, FileError> {
    match read_bounded(path, max) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

/// Points the symbolic link `link` at `target`, in one step for whoever looks.
pub fn replace_symlink(target: &Path, link: &Path) -> Result<(), FileError> {
    let temp = Temp(temp_name(link));
    symlink(target, &temp.0).map_err(io_error("create", &temp.0))?;
    temp.rename_to(link)?;
    sync_dir(parent(link))
}

/// Copies the program at `from` to `to`, whole and durable, executable for its owner only.
pub fn copy_program(from: &Path, to: &Path) -> Result<(), FileError> {
    let temp = Temp(temp_name(to));
    fs::copy(from, &temp.0).map_err(io_error("copy", from))?;
    fs::set_permissions(&temp.0, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .map_err(io_error("make executable", &temp.0))?;
    File::open(&temp.0).and_then(|f| f.sync_all()).map_err(io_error("sync", &temp.0))?;
    temp.rename_to(to)?;
    sync_dir(parent(to))
}

/// Makes what was created, renamed or removed in `dir` durable.
pub fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(io_error("sync directory", dir))
}

/// Returns the room left on the file system that `path` lies on.
pub fn free_space(path: &Path) -> Result<FreeSpace, FileError> {
    let stat = rustix::fs::statvfs(path).map_err(|e| io_error("ask for free space of", path)(e.into()))?;
    Ok(FreeSpace {
        bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        inodes: (stat.f_files > 0).then_some(stat.f_favail),
    })
}

/// Tells whether `path` lies in memory, so that nothing there survives a boot (statfs(2), the types of file systems).
pub fn is_in_memory(path: &Path) -> Result<bool, FileError> {
    const TMPFS: i64 = 0x0102_1994;
    const RAMFS: i64 = 0x8584_58f6;
    let stat =
        rustix::fs::statfs(path).map_err(|e| io_error("ask for the file system of", path)(e.into()))?;
    Ok([TMPFS, RAMFS].contains(&stat.f_type))
}

/// Returns the directory that `path` lies in.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Wraps an error of the operating system with what was tried on which file.
pub fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::Io { operation, path: path.to_owned(), source }
}

/// A temporary file or link beside its target; removed on every way out but a rename.
struct Temp(PathBuf);

impl Temp {
    fn rename_to(self, path: &Path) -> Result<(), FileError> {
        fs::rename(&self.0, path).map_err(io_error("replace", path))?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // Nothing depends on it: a name that stays behind costs a directory entry.
        fs::remove_file(&self.0).ok();
    }
}

fn write_temp(path: &Path, bytes: &[u8], mode: u32) -> Result<Temp, FileError> {
    let name = temp_name(path);
    let open = OpenOptions::new().write(true).create_new(true).mode(mode).open(&name);
    let mut file = open.map_err(io_error("create", &name))?;
    let temp = Temp(name);
    // The process's mask (our unit has `UMask=0077`) was taken off the mode.
    let exactly = std::os::unix::fs::PermissionsExt::from_mode(mode);
    file.set_permissions(exactly).map_err(io_error("set the mode of", &temp.0))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io_error("write", &temp.0))?;
    Ok(temp)
}

/// A name that no other thread or process uses now; one left by a process that died is not reused either,
/// because it is created with `O_EXCL`.
fn temp_name(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    name.push(format!(".{}-{unique}-{:08x}", std::process::id(), fastrand::u32(..)));
    parent(path).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn what_was_prepared_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("decision");
        for (name, won) in [("first", true), ("second", false)] {
            let prepared = dir.path().join(name);
            fs::write(&prepared, name).unwrap();
            let created = rename_once(&prepared, &path, 100).unwrap();
            assert_eq!(created == Created::Won, won);
            assert_eq!((prepared.exists(), fs::read(&path).unwrap().as_slice()), (!won, &b"first"[..]));
        }
        assert!(rename_once(&dir.path().join("first"), &path, 100).is_err(), "it was taken");
    }

    #[test]
    fn atomic_writes_replace_and_leave_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        write_atomic(&path, b"one", PRIVATE).unwrap();
        write_atomic(&path, b"two", PUBLIC).unwrap();
        assert_eq!(read_bounded(&path, 10).unwrap(), b"two");
        assert!(write_atomic(&dir.path().join("missing/state.json"), b"x", PRIVATE).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn the_first_of_many_creators_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("decision");
        let start = Barrier::new(16);
        let create = |n: usize| {
            start.wait();
            create_once(&path, format!("creator {n}").as_bytes(), 100).unwrap()
        };
        let results: Vec<Created> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|n| scope.spawn(move || create(n))).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let content = read_bounded(&path, 100).unwrap();
        assert_eq!(results.iter().filter(|r| **r == Created::Won).count(), 1);
        assert!(results.iter().all(|r| *r == Created::Won || *r == Created::Lost(content.clone())));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn reads_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_bounded(&path, 5).unwrap(), b"12345");
        assert!(matches!(read_bounded(&path, 4), Err(FileError::TooLarge { max: 4, .. })));
        assert_eq!(read_if_exists(&dir.path().join("none"), 4).unwrap(), None);
        let endless = read_bounded(Path::new("/dev/zero"), 1000);
        assert!(matches!(endless, Err(FileError::TooLarge { .. })));
    }

    #[test]
    fn links_are_replaced_and_programs_copied() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("current");
        replace_symlink(Path::new("/a"), &link).unwrap();
        replace_symlink(Path::new("/b"), &link).unwrap();
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("/b"));
        let copy = dir.path().join("sh");
        copy_program(Path::new("/bin/sh"), &copy).unwrap();
        assert_eq!(fs::read(&copy).unwrap(), fs::read("/bin/sh").unwrap());
        rustix::fs::access(&copy, rustix::fs::Access::EXEC_OK).unwrap();
    }

    #[test]
    fn free_space_is_told() {
        assert!(free_space(Path::new("/tmp")).unwrap().bytes > 0);
        assert!(free_space(Path::new("/no/such/place")).is_err());
    }
}
