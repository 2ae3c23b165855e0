//! Who could have written what the journal says: if not only the agent's own user, root on a real host, it proves nothing.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::JournalError;

/// What lies in the state directory and decides what is trusted, or is run.
const OWN: [&str; 7] = ["journal", "lock", "git", "guard", "roots", "quarantine", "export"];
/// Write permission for group and others.
const WRITABLE: u32 = 0o022;

/// Refuses a state directory that others could have written to, or that is somewhere else than it seems.
pub(super) fn check(dir: &Path) -> Result<(), JournalError> {
    let own = OWN.iter().map(|name| dir.join(name));
    std::iter::once(dir.to_owned()).chain(own).try_for_each(|path| check_one(&path))
}

fn check_one(path: &Path) -> Result<(), JournalError> {
    let meta = match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta.map_err(|source| JournalError::Io { what: "look at", path: path.to_owned(), source })?,
    };
    let us = rustix::process::geteuid().as_raw();
    let mode = meta.permissions().mode();
    let what = if meta.is_symlink() {
        "is a symbolic link".to_owned()
    } else if meta.uid() != us {
        format!("belongs to uid {} and not to uid {us}", meta.uid())
    } else if mode & WRITABLE != 0 {
        format!("may be written by others (mode {:04o})", mode & 0o7777)
    } else {
        return Ok(());
    };
    Err(JournalError::Untrusted { path: path.to_owned(), what })
}
