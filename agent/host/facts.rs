//! Owns where the host says what it runs, and reads all of it at one moment. Judges nothing.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::clock;
use super::files::{self, FileError, io_error};
use super::profile;
use crate::model::{HostFacts, Oid, StorePath};

/// How many symbolic links are followed to a store path.
const LINKS_MAX: usize = 8;
/// How long the small text files read here may be, in bytes.
const LINE_FILE_MAX: u64 = 4096;
/// How long a list left behind by a switch may be, in bytes, before we stop looking for text in it.
const LIST_MAX: u64 = 1 << 20;

/// Where everything lies: below `/`, or below a directory that plays the host (demo, tests).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPaths {
    root: PathBuf,
}

impl Default for HostPaths {
    fn default() -> HostPaths {
        HostPaths::under("/")
    }
}

impl HostPaths {
    /// Returns the paths below `root`.
    pub fn under(root: impl Into<PathBuf>) -> HostPaths {
        HostPaths { root: root.into() }
    }

    /// Returns the directory that everything lies below.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the link to the running system.
    pub fn current_system(&self) -> PathBuf {
        self.root.join("run/current-system")
    }

    /// Returns the link to the system that was booted.
    pub fn booted_system(&self) -> PathBuf {
        self.root.join("run/booted-system")
    }

    /// Returns the link that `/etc` is made of.
    pub fn etc_static(&self) -> PathBuf {
        self.root.join("etc/static")
    }

    /// Returns the `system` profile.
    pub fn profile(&self) -> PathBuf {
        self.root.join("nix/var/nix/profiles/system")
    }

    /// Returns the file that names this machine.
    pub fn machine_id(&self) -> PathBuf {
        self.root.join("etc/machine-id")
    }

    /// Returns the lists of units that an interrupted switch leaves behind.
    pub fn leftover_lists(&self) -> [PathBuf; 3] {
        ["start-list", "restart-list", "reload-list"].map(|name| self.root.join("run/nixos").join(name))
    }

    /// Returns the file that names this boot. A directory that plays the host may have its own, so that a
    /// reboot can be played too.
    pub fn boot_id(&self) -> PathBuf {
        let own = self.root.join("run/boot-id");
        if self.root != Path::new("/") && own.exists() {
            own
        } else {
            PathBuf::from("/proc/sys/kernel/random/boot_id")
        }
    }
}

/// Reads what the host says about itself now.
pub fn observe(paths: &HostPaths) -> Result<HostFacts, FileError> {
    observe_knowing(paths, &[])
}

/// Reads what the host says about itself now, and recognises the `/etc` of the toplevels in `known` besides
/// that of the running, booted and installed ones. (On NixOS, `/etc/static` points into a store path of its
/// own, which does not say whose it is.)
pub fn observe_knowing(paths: &HostPaths, known: &[StorePath]) -> Result<HostFacts, FileError> {
    let running = store_target(&paths.current_system())?;
    let booted = store_target(&paths.booted_system())?;
    let profile = store_target(&paths.profile())?;
    let candidates = running.iter().chain(known).chain(&booted).chain(&profile);
    Ok(HostFacts {
        etc: etc_owner(&paths.etc_static(), candidates)?,
        generation: generation(&paths.profile())?,
        boot_default: profile.clone(),
        running_revision: running.as_ref().map(revision).transpose()?.flatten(),
        // Where the agent keeps its state is not known here.
        volatile_state: false,
        leftover_lists: any_list(&paths.leftover_lists())?,
        boot_id: boot_id(&paths.boot_id())?,
        machine_id: line(&paths.machine_id())?,
        boottime_ms: clock::boottime_ms(),
        reboot_reasons: Vec::new(),
        zone: Some(clock::zone()),
        running,
        booted,
        profile,
    })
}

/// Follows links until one points into a store; a target that is gone is told all the same.
fn store_target(link: &Path) -> Result<Option<StorePath>, FileError> {
    let mut at = link.to_owned();
    for _ in 0..LINKS_MAX {
        match read_link(&at)? {
            None => return Ok(None),
            Some(target) => match StorePath::containing(&target) {
                Some(path) => return Ok(Some(path)),
                None => at = target,
            },
        }
    }
    Ok(None)
}

/// Returns what the link at `path` points to, as a path from here; `None` if there is no such link.
fn read_link(path: &Path) -> Result<Option<PathBuf>, FileError> {
    match fs::read_link(path) {
        Ok(target) => Ok(Some(files::parent(path).join(target))),
        // EINVAL: not a link.
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => Ok(None),
        Err(e) => Err(io_error("read link", path)(e)),
    }
}

fn etc_owner<'a>(
    etc_static: &Path,
    mut candidates: impl Iterator<Item = &'a StorePath>,
) -> Result<Option<StorePath>, FileError> {
    let Some(link) = store_target(etc_static)? else {
        return Ok(None);
    };
    let Ok(live) = fs::canonicalize(etc_static) else {
        return Ok(Some(link));
    };
    let owner = candidates.find(|toplevel| fs::canonicalize(toplevel.join("etc")).is_ok_and(|e| e == live));
    Ok(Some(owner.cloned().unwrap_or(link)))
}

/// Reads the generation's number off the profile's link, `system-42-link`.
fn generation(link: &Path) -> Result<Option<u64>, FileError> {
    let target = read_link(link)?;
    Ok(target.as_deref().and_then(|target| profile::number(link, target)))
}

fn revision(toplevel: &StorePath) -> Result<Option<Oid>, FileError> {
    Ok(line(&toplevel.join("etc/pullagent/revision"))?.and_then(|text| text.parse().ok()))
}

fn any_list(lists: &[PathBuf]) -> Result<bool, FileError> {
    for list in lists {
        match files::read_if_exists(list, LIST_MAX) {
            Ok(Some(text)) if !text.trim_ascii().is_empty() => return Ok(true),
            Err(FileError::TooLarge { .. }) => return Ok(true),
            Ok(_) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// Without it nobody could tell whether what was measured before still holds, so it must be there.
fn boot_id(path: &Path) -> Result<String, FileError> {
    let missing = || io_error("find a boot id in", path)(io::ErrorKind::InvalidData.into());
    line(path)?.ok_or_else(missing)
}

fn line(path: &Path) -> Result<Option<String>, FileError> {
    let bytes = files::read_if_exists(path, LINE_FILE_MAX)?;
    let text = bytes.map(|bytes| String::from_utf8_lossy(bytes.trim_ascii()).into_owned());
    Ok(text.filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A host in a directory, with a store of its own.
    struct Host {
        dir: tempfile::TempDir,
    }

    impl Host {
        fn new() -> Host {
            let dir = tempfile::tempdir().unwrap();
            for sub in ["store", "run/nixos", "etc", "nix/var/nix/profiles"] {
                fs::create_dir_all(dir.path().join(sub)).unwrap();
            }
            Host { dir }
        }

        fn path(&self, below: &str) -> PathBuf {
            self.dir.path().join(below)
        }

        /// A toplevel as on NixOS: its `etc` lies in another store path.
        fn toplevel(&self, letter: char) -> StorePath {
            let store = |name: &str| self.path(&format!("store/{}-{name}", letter.to_string().repeat(32)));
            let (top, etc) = (store("nixos-system"), store("etc"));
            fs::create_dir_all(etc.join("etc/pullagent")).unwrap();
            fs::write(etc.join("etc/pullagent/revision"), format!("{}\n", letter.to_string().repeat(40)))
                .unwrap();
            fs::create_dir_all(&top).unwrap();
            symlink(etc.join("etc"), top.join("etc")).unwrap();
            top.to_str().unwrap().parse().unwrap()
        }

        fn link(&self, below: &str, target: impl AsRef<Path>) {
            files::replace_symlink(target.as_ref(), &self.path(below)).unwrap();
        }

        fn observe(&self, known: &[StorePath]) -> HostFacts {
            observe_knowing(&HostPaths::under(self.dir.path()), known).unwrap()
        }
    }

    #[test]
    fn an_empty_host_says_nothing() {
        let facts = Host::new().observe(&[]);
        assert_eq!((facts.running, facts.etc, facts.profile, facts.generation), (None, None, None, None));
        assert!(!facts.boot_id.is_empty(), "the kernel's");
    }

    #[test]
    fn a_running_host_is_read_completely() {
        let host = Host::new();
        let (a, b) = (host.toplevel('a'), host.toplevel('b'));
        host.link("run/current-system", a.as_path());
        host.link("run/booted-system", b.as_path());
        host.link("etc/static", fs::read_link(a.join("etc")).unwrap());
        host.link("nix/var/nix/profiles/system-42-link", b.as_path());
        host.link("nix/var/nix/profiles/system", "system-42-link");
        fs::write(host.path("etc/machine-id"), "0123\n").unwrap();
        fs::write(host.path("run/boot-id"), "boot-1\n").unwrap();
        let facts = host.observe(&[]);
        assert_eq!((facts.running.as_ref(), facts.etc.as_ref()), (Some(&a), Some(&a)));
        assert_eq!((facts.booted.as_ref(), facts.profile.as_ref()), (Some(&b), Some(&b)));
        assert_eq!((facts.generation, facts.boot_default.as_ref()), (Some(42), Some(&b)));
        assert_eq!(facts.running_revision.as_ref().unwrap().as_str(), "a".repeat(40));
        assert_eq!((facts.machine_id.as_deref(), facts.boot_id.as_str()), (Some("0123"), "boot-1"));
        assert!(!facts.is_torn());
    }

    #[test]
    fn a_torn_activation_shows() {
        let host = Host::new();
        let (old, new) = (host.toplevel('a'), host.toplevel('b'));
        host.link("run/current-system", old.as_path());
        host.link("etc/static", fs::read_link(new.join("etc")).unwrap());
        assert!(host.observe(&[]).is_torn());
        assert_eq!(host.observe(std::slice::from_ref(&new)).etc, Some(new));
        host.link("etc/static", fs::read_link(old.join("etc")).unwrap());
        assert!(!host.observe(&[]).is_torn());
        fs::write(host.path("run/nixos/start-list"), "\n").unwrap();
        assert!(!host.observe(&[]).is_torn(), "an empty list is none");
        fs::write(host.path("run/nixos/start-list"), "nginx.service\n").unwrap();
        assert!(host.observe(&[]).is_torn());
    }

    #[test]
    fn a_collected_system_is_still_named() {
        let host = Host::new();
        let gone = host.path(&format!("store/{}-nixos-system", "c".repeat(32)));
        host.link("run/current-system", &gone);
        host.link("etc/static", gone.join("etc"));
        let facts = host.observe(&[]);
        assert_eq!(facts.running.as_ref().unwrap().as_path(), gone);
        assert_eq!(facts.etc, facts.running);
    }
}
