//! Boot loaders: which of them a host has, what the next boot will be, and what a trial of a new kernel needs of them.
//!
//! systemd-boot's choice can be foretold ([`predict`]) and directed for one boot ([`bootctl`]); GRUB's cannot be
//! foretold. Everything here is read from the host each time and judged by whoever asks.

pub mod bootctl;
pub mod efivars;
pub mod entry;
pub mod grub;
pub mod lines;
pub mod loader_conf;
pub mod need;
pub mod order;
pub mod partitions;
pub mod pattern;
pub mod predict;
pub mod uki;
pub mod unlock;
pub mod version;

use std::path::{Path, PathBuf};

use super::files::{self, FileError};
use super::manager::Manager;
use efivars::Variables;
use grub::Grub;
use partitions::{PartitionError, Partitions};
use predict::Loader;
use version::{Version, VersionError};

/// Where the kernel shows the EFI variables, below the root.
const EFIVARS: &str = "sys/firmware/efi/efivars";
/// Says `1` while a kernel is loaded that a reboot would jump to, past firmware and boot loader (kexec(8)).
const KEXEC_LOADED: &str = "sys/kernel/kexec_loaded";
const FLAG_MAX: u64 = 64;

/// Says why nothing is known of the boot loader.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The loader's partitions can't be found or read.
    #[error(transparent)]
    Partition(#[from] PartitionError),
    /// The loader is none that we know.
    #[error(transparent)]
    Version(#[from] VersionError),
    /// The loader left no variables.
    #[error("no boot loader has left EFI variables, so systemd-boot did not boot this machine")]
    NoVariables,
}

/// What can be done about the next boot of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// systemd-boot: an entry for one boot, and the next boot can be foretold.
    SystemdBoot {
        /// The version that booted the machine.
        version: Version,
    },
    /// GRUB: an entry for one boot, if its menu looks for one; no boot can be foretold.
    Grub(Grub),
    /// Nothing, for this reason.
    None(String),
}

/// Returns the directory of the EFI variables of the host at `root`.
pub fn efivars_dir(root: &Path) -> PathBuf {
    root.join(EFIVARS)
}

/// Returns what can be done about the next boot of the host at `root`.
///
/// # Errors
/// A file that would say so can't be read.
pub fn capability(root: &Path) -> Result<Capability, FileError> {
    let kexec = files::read_if_exists(&root.join(KEXEC_LOADED), FLAG_MAX)?;
    if kexec.is_some_and(|flag| flag.trim_ascii() != b"0") {
        let reason = "a kernel is loaded for kexec, and a reboot would start it past the boot loader";
        return Ok(Capability::None(reason.to_owned()));
    }
    let info = efivars::read(&efivars_dir(root))?.and_then(|variables| variables.info);
    let version = info.map(|info| info.parse::<Version>().and_then(|v| v.rules().map(|_| v)));
    Ok(match (version, grub::read(root)?) {
        (Some(Ok(version)), _) => Capability::SystemdBoot { version },
        (_, Some(grub)) => Capability::Grub(grub),
        (Some(Err(e)), None) => Capability::None(e.to_string()),
        (None, None) => Capability::None("neither systemd-boot nor GRUB was found".to_owned()),
    })
}

/// Reads all that systemd-boot will look at on the host at `root`.
///
/// # Errors
/// Something of it can't be read, or another loader booted the machine.
pub async fn loader(root: &Path, manager: Manager) -> Result<Loader, BootError> {
    let variables: Variables = efivars::read(&efivars_dir(root))?.ok_or(BootError::NoVariables)?;
    let version = variables.info.as_deref().ok_or(BootError::NoVariables)?.parse()?;
    let partitions = Partitions::find(root, manager).await?;
    if root == Path::new("/") {
        partitions.check_mounted()?;
    }
    Ok(Loader { version, conf: partitions.conf()?, entries: partitions.entries()?, variables })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn host(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    fn info(text: &str) -> Vec<u8> {
        [vec![6, 0, 0, 0], text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()].concat()
    }

    const INFO: &str = "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
    const GRUB: (&str, &[u8]) = ("boot/grub/grub.cfg", b"set default=0\n");

    #[test]
    fn the_loader_that_booted_the_machine_decides_what_can_be_done() {
        let (new, old, other) =
            (info("systemd-boot 257.13"), info("systemd-boot 249.11"), info("rEFInd 0.14"));
        let none = |capability: &Capability, why: &str| matches!(capability, Capability::None(text) if text.contains(why));
        let of = |files: &[(&str, &[u8])]| capability(host(files).path()).unwrap();
        let version = Version { major: 257, minor: 13 };
        assert_eq!(of(&[(INFO, &new), (KEXEC_LOADED, b"0\n"), GRUB]), Capability::SystemdBoot { version });
        assert!(none(&of(&[(INFO, &new), (KEXEC_LOADED, b"1\n")]), "kexec"));
        assert!(none(&of(&[(INFO, &old)]), "older than 252"));
        assert!(none(&of(&[(INFO, &other)]), "rEFInd"));
        assert!(none(&of(&[]), "neither"));
        assert!(matches!(of(&[GRUB]), Capability::Grub(Grub { one_shot: None, environment: None })));
        assert!(capability(host(&[(INFO, b"x")]).path()).is_err(), "unreadable is not 'none'");
    }

    #[tokio::test]
    async fn a_directory_that_plays_a_host_is_read_like_one() {
        let version = info("systemd-boot 252.39");
        let toplevel = format!("/nix/store/{}-nixos", "a".repeat(32));
        let entry = format!("linux /k\noptions init={toplevel}/init");
        let dir = host(&[
            (INFO, &version),
            ("boot/loader/loader.conf", b"default nixos-*"),
            ("boot/loader/entries/nixos-generation-1.conf", entry.as_bytes()),
            ("boot/k", b""),
        ]);
        let loader = loader(dir.path(), Manager::Alone).await.unwrap();
        assert_eq!(loader.next_boot().toplevel().unwrap().as_str(), toplevel);
        let empty = host(&[]);
        assert!(matches!(super::loader(empty.path(), Manager::Alone).await, Err(BootError::NoVariables)));
        let without = host(&[(INFO, &version)]);
        let error = super::loader(without.path(), Manager::Alone).await.unwrap_err();
        assert!(matches!(error, BootError::Partition(PartitionError::NotFound)), "{error}");
    }
}
