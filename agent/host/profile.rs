//! The generations of a profile, as its own links have them: `system-42-link` beside `system` (nix-env(1), "Profiles").

use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::files::{self, FileError, io_error};
use crate::model::{Generation, StorePath};

/// How many specialisations of one system are looked at.
const SPECIALISATIONS_MAX: usize = 64;

/// Returns the number in a generation's link; `None`: it is something else.
pub(super) fn number(profile: &Path, link: &Path) -> Option<u64> {
    let rest = link.file_name()?.to_str()?.strip_prefix(profile.file_name()?.to_str()?)?;
    rest.strip_prefix('-')?.strip_suffix("-link")?.parse().ok()
}

/// Returns the generations of a profile, oldest first.
///
/// # Errors
/// The profile's directory can't be read.
pub fn generations(profile: &Path) -> Result<Vec<Generation>, FileError> {
    let dir = files::parent(profile);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let link = entry.map_err(io_error("list", dir))?.path();
        let Some(number) = number(profile, &link) else { continue };
        let made =
            fs::symlink_metadata(&link).and_then(|m| m.modified()).map_err(io_error("look at", &link))?;
        let since = made.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        found.push(Generation { number, systems: systems(&link), since });
    }
    found.sort_by_key(|g| g.number);
    Ok(found)
}

/// Returns the system that a link names, and its specialisations, which have paths of their own.
/// Removes a profile and its generations; Nix looks at the links only.
///
/// # Errors
/// The profile's directory can't be read, or changed.
pub fn remove(profile: &Path) -> Result<(), FileError> {
    let dir = files::parent(profile);
    for entry in fs::read_dir(dir).map_err(io_error("list", dir))? {
        let link = entry.map_err(io_error("list", dir))?.path();
        if link == profile || number(profile, &link).is_some() {
            fs::remove_file(&link).map_err(io_error("remove", &link))?;
        }
    }
    files::sync_dir(dir)
}

fn systems(link: &Path) -> Vec<StorePath> {
    let Some(system) = fs::read_link(link).ok().and_then(|target| store_path(&target)) else { return vec![] };
    let below = fs::read_dir(link.join("specialisation")).into_iter().flatten().flatten();
    let others = below.take(SPECIALISATIONS_MAX).filter_map(|s| store_path(&fs::read_link(s.path()).ok()?));
    std::iter::once(system).chain(others).collect()
}

fn store_path(path: &Path) -> Option<StorePath> {
    path.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_the_profiles_own_links_count() {
        let temp = tempfile::tempdir().unwrap();
        let store = "/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-nixos-system-web1";
        let link = |name: &str, target: &str| symlink(target, temp.path().join(name)).unwrap();
        link("system-9-link", store);
        link("system-10-link", store);
        link("system-11-link", "../elsewhere");
        link("system", "system-10-link");
        link("systematic-3-link", store);
        link("system-4-link.tmp", store);
        link("other-5-link", store);
        let found = generations(&temp.path().join("system")).unwrap();
        let numbers: Vec<(u64, usize)> = found.iter().map(|g| (g.number, g.systems.len())).collect();
        assert_eq!(numbers, [(9, 1), (10, 1), (11, 0)]);
        assert!(found.iter().all(|g| g.since > 1_600_000_000));
        assert!(generations(&temp.path().join("none/system")).is_err());
        remove(&temp.path().join("system")).unwrap();
        let left = fs::read_dir(temp.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut left: Vec<String> = left.collect();
        left.sort();
        assert_eq!(left, ["other-5-link", "system-4-link.tmp", "systematic-3-link"]);
    }
}
