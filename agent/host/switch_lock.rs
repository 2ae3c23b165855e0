//! Owns the question who else switches the host at the moment: whoever holds the lock of `switch-to-configuration`.
//!
//! The lock is never taken, not even to try it: a real switch that came at that moment would be refused.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{major, minor};

use super::clock;
use super::files::{self, FileError, io_error};

/// The lock, below the root (nixpkgs: switch-to-configuration-ng/src/main.rs).
const LOCK: &str = "run/nixos/switch-to-configuration.lock";
/// All file locks that are held, proc_locks(5).
const LOCKS: &str = "/proc/locks";
const LOCKS_MAX: u64 = 4 << 20;
/// How often the lock is looked at while it is waited for.
const LOOK: Duration = Duration::from_millis(500);

/// Returns the process that switches the host at `root` at the moment.
///
/// # Errors
/// The lock, or who holds what, can't be looked at.
pub fn holder(root: &Path) -> Result<Option<u32>, FileError> {
    let lock = root.join(LOCK);
    let file = match std::fs::metadata(&lock) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(io_error("look at", &lock))?,
    };
    let id = format!("{:02x}:{:02x}:{}", major(file.dev()), minor(file.dev()), file.ino());
    let locks = files::read_bounded(Path::new(LOCKS), LOCKS_MAX)?;
    Ok(holder_in(&String::from_utf8_lossy(&locks), &id))
}

/// Waits until nobody switches the host at `root`, at most `limit`; returns who still does.
///
/// # Errors
/// As [`holder`].
pub async fn wait_until_free(root: &Path, limit: Duration) -> Result<Option<u32>, FileError> {
    let until = clock::boottime_ms().saturating_add(limit.as_millis() as u64);
    loop {
        let holder = holder(root)?;
        if holder.is_none() || clock::boottime_ms() >= until {
            return Ok(holder);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A line is `1: FLOCK ADVISORY WRITE <pid> <major>:<minor>:<inode> 0 EOF`; of one that waits, `->` is the second word.
fn holder_in(locks: &str, id: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&id)).then(|| words[4].parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{FlockOperation, flock};

    #[tokio::test]
    async fn whoever_holds_the_lock_is_named() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(holder(root.path()).unwrap(), None, "no switch was ever run");
        std::fs::create_dir_all(root.path().join("run/nixos")).unwrap();
        let file = std::fs::File::create(root.path().join(LOCK)).unwrap();
        assert_eq!(holder(root.path()).unwrap(), None);
        flock(&file, FlockOperation::LockExclusive).unwrap();
        assert_eq!(holder(root.path()).unwrap(), Some(std::process::id()));
        let still = wait_until_free(root.path(), Duration::from_millis(1)).await.unwrap();
        assert_eq!(still, Some(std::process::id()));
        let other = std::fs::File::open(root.path().join(LOCK)).unwrap();
        assert!(flock(&other, FlockOperation::NonBlockingLockShared).is_err(), "it is still held");
        drop(file);
        assert_eq!(wait_until_free(root.path(), Duration::from_secs(9)).await.unwrap(), None);
    }

    #[test]
    fn the_kernels_table_is_read() {
        let table = "1: FLOCK  ADVISORY  WRITE 16990 fe:00:12 0 EOF\n\
                     1: -> FLOCK  ADVISORY  WRITE 17 fe:00:13 0 EOF\n\
                     2: POSIX  ADVISORY  WRITE 18 fe:00:14 0 EOF\nnonsense\n";
        assert_eq!(holder_in(table, "fe:00:12"), Some(16990));
        for other in ["fe:00:13", "fe:00:14", "fe:00:1", "00:12:12"] {
            assert_eq!(holder_in(table, other), None, "{other}");
        }
    }
}
