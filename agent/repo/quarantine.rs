//! Where packs wait until all of them is verified: a fresh directory beside the trusted store, on its file system.
//! Gone on any failure, when dropped, and at the next start. Must not know what is verified, nor how.

use std::fs;
use std::path::{Path, PathBuf};

use super::files;
use super::store::{Store, StoreError, io_error};

/// One import's directory. Dropping it deletes it.
#[derive(Debug)]
pub(super) struct Quarantine {
    path: PathBuf,
}

impl Quarantine {
    /// Makes a fresh one below `state_directory`.
    pub(super) fn new(state_directory: &Path) -> Result<Quarantine, StoreError> {
        let all = all(state_directory);
        let path = all.join(format!("{:016x}", fastrand::u64(..)));
        files::ensure_private(&all)
            .and_then(|()| files::create_private(&path))
            .map_err(io_error("create", &path))?;
        let quarantine = Quarantine { path };
        let pack = quarantine.pack_dir();
        files::ensure_private(&pack).map_err(io_error("create", &pack))?;
        Ok(quarantine)
    }

    /// Deletes all that were left behind below `state_directory`.
    pub(super) fn sweep(state_directory: &Path) -> Result<(), StoreError> {
        let all = all(state_directory);
        files::remove_tree(&all).map_err(io_error("delete", &all))
    }

    /// Returns the directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the pack named `pack` into `store`, which makes all its objects trusted, and deletes the quarantine.
    ///
    /// Pack and index are synced before they move; the index moves last, because it makes the pack visible.
    pub(super) fn publish(self, pack: &str, store: &Store) -> Result<(), StoreError> {
        let [data, index] = self.only_pair(pack)?;
        let to = store.pack_dir();
        if to.join(format!("{pack}.idx")).exists() {
            return Ok(()); // The name is the hash of the content: the same pack is trusted already.
        }
        for file in [&data, &index] {
            files::sync(file).map_err(io_error("sync", file))?;
        }
        for (file, name) in [(&data, format!("{pack}.pack")), (&index, format!("{pack}.idx"))] {
            fs::rename(file, to.join(name)).map_err(io_error("publish", file))?;
        }
        files::sync(&to).map_err(io_error("sync", &to))
    }

    /// Moves the pack named `pack` into `store` and deletes all other packs there.
    pub(super) fn publish_instead(self, pack: &str, store: &Store) -> Result<(), StoreError> {
        let old = store.packs()?;
        self.publish(pack, store)?;
        for index in old.iter().filter(|index| super::pack::name(index) != pack) {
            // The index goes first: a pack without one is no pack, an index without a pack is damage.
            for file in [index.clone(), index.with_extension("pack"), index.with_extension("rev")] {
                files::remove(&file).map_err(io_error("delete", &file))?;
            }
        }
        files::sync(&store.pack_dir()).map_err(io_error("sync", &store.pack_dir()))
    }

    fn pack_dir(&self) -> PathBuf {
        self.path.join("objects/pack")
    }

    /// Returns pack and index of the name `pack`, if that is a proper name and nothing else is there.
    fn only_pair(&self, pack: &str) -> Result<[PathBuf; 2], StoreError> {
        let dir = self.pack_dir();
        let pair = ["pack", "idx"].map(|extension| dir.join(format!("{pack}.{extension}")));
        let hex = pack.strip_prefix("pack-").unwrap_or_default();
        let proper = matches!(hex.len(), 40 | 64) && hex.bytes().all(|b| b.is_ascii_hexdigit());
        let files = fs::read_dir(&dir).map_err(io_error("list", &dir))?.count();
        let regular = pair.iter().all(|file| file.symlink_metadata().is_ok_and(|m| m.is_file()));
        if proper && regular && files == pair.len() {
            Ok(pair)
        } else {
            Err(StoreError::Quarantine { path: self.path.clone(), pack: pack.to_owned() })
        }
    }
}

impl Drop for Quarantine {
    fn drop(&mut self) {
        // What cannot be deleted now is deleted by the sweep at the next start.
        drop(files::remove_tree(&self.path));
    }
}

fn all(state_directory: &Path) -> PathBuf {
    state_directory.join("quarantine")
}
