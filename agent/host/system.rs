//! Owns what a system in the store says about itself to people who compare systems: its kernel, its release, its age.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::files;
use crate::model::StorePath;

/// How much of `os-release` is read, in bytes.
const OS_RELEASE_MAX: u64 = 16 * 1024;

/// What can be told of one system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SystemFacts {
    /// When its store path was completed, unix seconds. Nix sets the times of its files to 1970, but the kernel keeps when
    /// that was done; Nix registers the path right after it (nix, src/libstore/posix-fs-canonicalise.cc).
    pub completed_at: Option<u64>,
    /// `VERSION_ID` of its `os-release`, such as `25.11`; empty if it does not say.
    pub version_id: String,
    /// What its kernel is.
    pub kernel: Option<PathBuf>,
}

/// Looks at a system. What is not there is not told.
pub fn look(toplevel: &StorePath) -> SystemFacts {
    let completed = fs::symlink_metadata(toplevel.as_path()).ok().map(|m| m.ctime());
    let release = files::read_bounded(&toplevel.join("etc/os-release"), OS_RELEASE_MAX).unwrap_or_default();
    SystemFacts {
        completed_at: completed.and_then(|at| u64::try_from(at).ok()),
        version_id: version_id(&String::from_utf8_lossy(&release)),
        kernel: fs::read_link(toplevel.join("kernel")).ok(),
    }
}

/// Reads one key of os-release(5).
fn version_id(text: &str) -> String {
    let value = text.lines().find_map(|line| line.strip_prefix("VERSION_ID="));
    value.unwrap_or_default().trim_matches(['"', '\'']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_read_with_and_without_quotes() {
        for (text, expected) in [
            ("NAME=NixOS\nVERSION_ID=\"25.11\"\n", "25.11"),
            ("VERSION_ID=25.11", "25.11"),
            ("VERSION_ID='25.11'", "25.11"),
            ("NAME=NixOS\n", ""),
        ] {
            assert_eq!(version_id(text), expected);
        }
        let nowhere = "/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-gone".parse().unwrap();
        assert_eq!(look(&nowhere), SystemFacts::default());
    }
}
