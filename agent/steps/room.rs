//! Whether there is room for what a switch and a rollback write: blocks, inodes, and where kernels go.

use std::path::Path;

use super::Steps;
use crate::host;
use crate::host::boot::need::{self, NeedError};
use crate::host::boot::partitions::{self, PartitionError, Partitions};
use crate::host::boot::{self, Capability};
use crate::host::files::{self, FileError};
use crate::host::manager::Manager;
use crate::model::{Failure, Operation, StorePath};

/// So many files must be free on each file system that is written to: those of a deployment, a journal and an activation are
/// far fewer.
const INODES_MIN: u64 = 512;

/// Why it can't be told whether there is room.
#[derive(Debug, thiserror::Error)]
enum RoomError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error(transparent)]
    Spec(#[from] NeedError),
}

impl Steps {
    /// Checks that there is room for a switch to `toplevel` and back, and to make it permanent if that is the aim.
    pub(super) async fn check_room(&self, toplevel: &StorePath, aim: Operation) -> Result<(), Failure> {
        let store = files::parent(toplevel.as_path());
        for dir in [self.state_directory.as_path(), store] {
            match shortage(dir, self.settings.activation.free_bytes_min) {
                Ok(None) => {}
                Ok(Some(text)) => return Err(Failure::transient("space", text)),
                Err(e) => return Err(Failure::transient("space", host::chain(&e))),
            }
        }
        match aim {
            Operation::Switch => {
                let installed = self.host.profile();
                boot_shortage(self.host.root(), self.manager, toplevel.as_path(), &installed).await
            }
            Operation::Test => Ok(()),
        }
    }
}

/// Says what is lacking on the file system of `dir`, if anything.
fn shortage(dir: &Path, bytes_min: u64) -> Result<Option<String>, FileError> {
    let free = files::free_space(dir)?;
    if free.bytes < bytes_min {
        return Ok(Some(lack(dir, free.bytes, bytes_min, "to switch safely")));
    }
    let text = |inodes| {
        format!(
            "the file system of '{}' has room for {inodes} more files, {INODES_MIN} are needed to switch safely",
            dir.display()
        )
    };
    Ok(free.inodes.filter(|inodes| *inodes < INODES_MIN).map(text))
}

fn lack(dir: &Path, free: u64, needed: u64, what_for: &str) -> String {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    format!("'{}' has {} MiB free, {} MiB are needed {what_for}", dir.display(), free >> 20, mib(needed))
}

/// Checks, where systemd-boot boots the machine, that the partition of the kernels is mounted and has room for those of
/// `toplevel`: a confirmation that fails half-way helps nobody. Other loaders say too little about themselves.
async fn boot_shortage(
    root: &Path,
    manager: Manager,
    toplevel: &Path,
    installed: &Path,
) -> Result<(), Failure> {
    match try_boot_shortage(root, manager, toplevel, installed).await {
        Ok(None) => Ok(()),
        Ok(Some(text)) => Err(Failure::transient("space", text)),
        Err(error) => Err(Failure::transient("bootloader", host::chain(&error))),
    }
}

async fn try_boot_shortage(
    root: &Path,
    manager: Manager,
    toplevel: &Path,
    installed: &Path,
) -> Result<Option<String>, RoomError> {
    let Capability::SystemdBoot { .. } = boot::capability(root)? else { return Ok(None) };
    let Some(new) = need::bootspec(toplevel)? else { return Ok(None) };
    let partitions = Partitions::find(root, manager).await?;
    if root == Path::new("/") {
        partitions.check_mounted()?;
    }
    let needed = partitions::bytes_needed(&new, need::bootspec(installed)?.as_ref())?;
    let free = partitions.free()?;
    Ok((free < needed)
        .then(|| lack(partitions.kernels(), free, needed, "for the new system's kernel and initrd")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Class;
    use std::fs;

    #[test]
    fn what_lacks_is_said_with_its_place_and_size() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(shortage(dir.path(), 1).unwrap(), None);
        let text = shortage(dir.path(), u64::MAX).unwrap().unwrap();
        assert!(text.contains(&dir.path().display().to_string()), "{text}");
        assert!(text.ends_with("17592186044416 MiB are needed to switch safely"), "{text}");
        assert!(shortage(&dir.path().join("none"), 1).is_err());
    }

    /// A machine that systemd-boot has booted, and a system with a kernel of `bytes`.
    fn machine(bytes: u64) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let below = |path: &str| dir.path().join(path);
        let info = "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
        for path in [info, "boot/loader/loader.conf", "new/boot.json"] {
            fs::create_dir_all(below(path).parent().unwrap()).unwrap();
        }
        let text: Vec<u8> =
            "systemd-boot 257.1".encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
        fs::write(below(info), [vec![6, 0, 0, 0], text].concat()).unwrap();
        fs::write(below("boot/loader/loader.conf"), b"default nixos-*").unwrap();
        // A hole: it takes no room here.
        fs::File::create(below("kernel")).unwrap().set_len(bytes).unwrap();
        let spec =
            serde_json::json!({ "org.nixos.bootspec.v1": { "kernel": below("kernel"), "kernelParams": [] } });
        fs::write(below("new/boot.json"), spec.to_string()).unwrap();
        let new = below("new");
        (dir, new)
    }

    async fn judged(dir: &Path, new: &Path, installed: &Path) -> Result<(), Failure> {
        boot_shortage(dir, Manager::Alone, new, installed).await
    }

    #[tokio::test]
    async fn kernels_need_room_on_their_own_partition() {
        let (dir, new) = machine(1 << 20);
        judged(dir.path(), &new, &dir.path().join("none")).await.unwrap();
        let (dir, new) = machine(8 << 40);
        let failure = judged(dir.path(), &new, &dir.path().join("none")).await.unwrap_err();
        assert_eq!((failure.code.as_str(), failure.class), ("space", Class::Transient));
        assert!(failure.text.contains("/boot' has "), "{}", failure.text);
        judged(dir.path(), &new, &new).await.unwrap();
        // Without a loader of that kind nothing is known, and nothing is claimed.
        fs::remove_dir_all(dir.path().join("sys")).unwrap();
        judged(dir.path(), &new, &dir.path().join("none")).await.unwrap();
    }

    #[tokio::test]
    async fn a_partition_that_is_not_there_is_the_loaders_failure() {
        let (dir, new) = machine(1);
        fs::remove_dir_all(dir.path().join("boot")).unwrap();
        let failure = judged(dir.path(), &new, &new).await.unwrap_err();
        assert_eq!((failure.code.as_str(), failure.class), ("bootloader", Class::Transient));
    }
}
