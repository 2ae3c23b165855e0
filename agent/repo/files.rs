//! Directories and files that must outlive a power cut: private ones, replaced whole and synced in order.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Makes `dir`, which must not exist yet, for its owner only.
pub(super) fn create_private(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(dir)
}

/// Makes `dir` and what is missing above it, for its owner only.
pub(super) fn ensure_private(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(dir)
}

/// Puts `bytes` at `path`, whole or not at all, and syncs them. `temp` lies in the same directory.
pub(super) fn replace(path: &Path, temp: &Path, bytes: &[u8]) -> io::Result<()> {
    write_synced(temp, bytes)?;
    fs::rename(temp, path)?;
    sync_parent(path)
}

/// Writes and syncs the file `path`; its directory entry is not synced.
pub(super) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Syncs the file or directory `path`.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Syncs the directory that `path` lies in.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync)
}

/// Deletes the file `path` if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    absent_is_ok(fs::remove_file(path))
}

/// Deletes the directory `dir` with all in it, if it is there.
pub(super) fn remove_tree(dir: &Path) -> io::Result<()> {
    absent_is_ok(fs::remove_dir_all(dir))
}

fn absent_is_ok(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
