//! Owns the question whether a boot may wait for somebody to unlock a disk. What unlocks one can't be seen from the running
//! system, only that it is encrypted.

use std::fs;
use std::path::Path;

use crate::host::files::{self, FileError, io_error};

/// Where the kernel lists block devices, below the root.
const DEVICES: &str = "sys/block";
/// What the names that cryptsetup gives its devices begin with (lib/utils_devpath.c and lib/libdevmapper.c: `CRYPT-<type>-…`).
/// Others, such as swap with a random key (`CRYPT-PLAIN`), ask nobody for anything.
const LOCKED: [&str; 3] = ["CRYPT-LUKS1-", "CRYPT-LUKS2-", "CRYPT-BITLK-"];
const NAME_MAX: u64 = 512;

/// Returns an encrypted disk of the host at `root` by its name, if there is one.
///
/// # Errors
/// What the kernel says of its devices can't be read.
pub fn encrypted_disk(root: &Path) -> Result<Option<String>, FileError> {
    let dir = root.join(DEVICES);
    let devices = match fs::read_dir(&dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        found => found.map_err(io_error("list", &dir))?,
    };
    for device in devices {
        let mapping = device.map_err(io_error("list", &dir))?.path().join("dm");
        let uuid = text(&mapping.join("uuid"))?;
        if LOCKED.iter().any(|kind| uuid.starts_with(kind)) {
            return text(&mapping.join("name")).map(Some);
        }
    }
    Ok(None)
}

/// What is no mapping has no such file.
fn text(file: &Path) -> Result<String, FileError> {
    let bytes = files::read_if_exists(file, NAME_MAX)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f47_only_what_is_unlocked_counts() {
        let root = tempfile::tempdir().unwrap();
        let found = || encrypted_disk(root.path()).unwrap();
        let add = |device: &str, uuid: &str, name: &str| {
            let dir = root.path().join(DEVICES).join(device).join("dm");
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("uuid"), format!("{uuid}\n")).unwrap();
            fs::write(dir.join("name"), format!("{name}\n")).unwrap();
        };
        assert_eq!(found(), None, "no devices");
        fs::create_dir_all(root.path().join(DEVICES).join("vda")).unwrap();
        add("dm-0", "LVM-Bq3pXw", "pool-root");
        add("dm-1", "CRYPT-PLAIN-dev-disk-by-partlabel-swap", "dev-disk-by-partlabel-swap");
        add("dm-2", "", "test");
        assert_eq!(found(), None);
        add("dm-3", "CRYPT-LUKS2-1b4c-cryptroot", "cryptroot");
        assert_eq!(found().as_deref(), Some("cryptroot"));
    }
}
