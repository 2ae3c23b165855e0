//! Owns where a boot loader's files lie: the EFI system partition and, where there is one, the extended boot partition;
//! whether they are mounted, how much room is left, and what entries are on them. Changes nothing.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::entry::{self, Entry, TYPE1_SUFFIX, TYPE2_SUFFIX};
use super::loader_conf::LoaderConf;
use super::need::Bootspec;
use super::uki;
use crate::host::command::Command;
use crate::host::files::{self, FileError, io_error};
use crate::host::manager::Manager;
use crate::host::units::Kind;

/// How long `bootctl` may take to say where the partitions are.
const ASK_TIME: Duration = Duration::from_secs(10);
/// How long a text file of the loader may be, in bytes.
const TEXT_MAX: u64 = 64 << 10;
/// How many files a directory of entries may have.
const ENTRIES_MAX: usize = 1024;
/// How long the table of mounts may be, in bytes.
const MOUNTS_MAX: u64 = 4 << 20;
/// Where the table of mounts is.
const MOUNTS: &str = "/proc/self/mountinfo";
/// Where the partitions are mounted where nobody says it (systemd: `find_esp` in src/shared/find-esp.c).
const USUAL_PLACES: [&str; 3] = ["boot", "efi", "boot/efi"];
/// What the new files take besides their own bytes: entries, directories, and that the last cluster is not full.
const SPACE_BESIDE: u64 = 1 << 20;

/// Says why the partitions, or what is on them, are not known.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// Nothing looks like one.
    #[error(
        "no EFI system partition was found: neither 'bootctl' names one, nor is there a loader below /boot or /efi"
    )]
    NotFound,
    /// Nothing is mounted where it should be.
    #[error("nothing is mounted at '{}', so there is no boot loader to see; mount the partition", _0.display())]
    NotMounted(PathBuf),
    /// It is mounted read-only.
    #[error("'{}' is mounted read-only, so no boot entry can be written", _0.display())]
    ReadOnly(PathBuf),
    /// There are more files than a boot menu has entries.
    #[error("'{}' holds more than {ENTRIES_MAX} files", _0.display())]
    TooMany(PathBuf),
    /// A file or directory can't be read.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The directories at which the partitions are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partitions {
    /// The EFI system partition, with the loader and its configuration.
    pub esp: PathBuf,
    /// The extended boot partition, if there is one; kernels go there, otherwise to the other.
    pub extended: Option<PathBuf>,
}

impl Partitions {
    /// Finds the partitions of the host at `root`. Of the real one `bootctl` knows it best; of a directory that plays a
    /// host, whatever lies in the usual places is taken. (`bootctl` looks at the disk itself, which is not to be seen from
    /// within our own sandbox.)
    ///
    /// # Errors
    /// There is none.
    pub async fn find(root: &Path, manager: Manager) -> Result<Partitions, PartitionError> {
        let real = root == Path::new("/");
        let esp = if real { ask("--print-esp-path", manager).await } else { None };
        let boot = if real { ask("--print-boot-path", manager).await } else { None };
        let usual =
            || USUAL_PLACES.iter().map(|place| root.join(place)).find(|place| place.join("loader").is_dir());
        let esp = esp.or_else(usual).ok_or(PartitionError::NotFound)?;
        Ok(Partitions { extended: boot.filter(|boot| *boot != esp), esp })
    }

    /// Returns the partition that kernels are written to.
    pub fn kernels(&self) -> &Path {
        self.extended.as_deref().unwrap_or(&self.esp)
    }

    /// Checks that the partitions are mounted, for writing: a directory that merely has their name would take all that
    /// is written, and the machine would never see it.
    ///
    /// # Errors
    /// One of them is not.
    pub fn check_mounted(&self) -> Result<(), PartitionError> {
        let mounts = files::read_bounded(Path::new(MOUNTS), MOUNTS_MAX)?;
        let mounts = String::from_utf8_lossy(&mounts);
        [Some(&self.esp), self.extended.as_ref()].into_iter().flatten().try_for_each(|place| {
            // An automount is mounted by looking into it.
            drop(fs::read_dir(place));
            check_mounted_in(&mounts, place)
        })
    }

    /// Returns how many bytes can be written for new kernels.
    ///
    /// # Errors
    /// The file system does not say.
    pub fn free(&self) -> Result<u64, FileError> {
        files::free_space(self.kernels()).map(|space| space.bytes)
    }

    /// Reads `loader.conf`; an empty one where there is none, as the loader does.
    ///
    /// # Errors
    /// It can't be read.
    pub fn conf(&self) -> Result<LoaderConf, PartitionError> {
        let text = files::read_if_exists(&self.esp.join("loader/loader.conf"), TEXT_MAX)?;
        Ok(LoaderConf::parse(&String::from_utf8_lossy(&text.unwrap_or_default())))
    }

    /// Reads all entries, in the order in which systemd-boot finds them (`config_load_all_entries`): of each partition
    /// the images first, then the text files.
    ///
    /// # Errors
    /// A directory or file can't be read.
    pub fn entries(&self) -> Result<Vec<Entry>, PartitionError> {
        let mut entries = Vec::new();
        for place in [Some(&self.esp), self.extended.as_ref()].into_iter().flatten() {
            read_images(place, &mut entries)?;
            read_texts(place, &mut entries)?;
        }
        Ok(entries)
    }
}

/// Returns how many bytes the boot files of `new` take beyond those of `installed`, which need not be written again. It
/// is an upper bound: files that are shared with other entries count.
///
/// # Errors
/// A file of `new` can't be found.
pub fn bytes_needed(new: &Bootspec, installed: Option<&Bootspec>) -> Result<u64, FileError> {
    let of = |spec: &Bootspec| [Some(spec.kernel.clone()), spec.initrd.clone()];
    let there: Vec<PathBuf> = installed.into_iter().flat_map(of).flatten().collect();
    of(new).into_iter().flatten().filter(|file| !there.contains(file)).try_fold(SPACE_BESIDE, |sum, file| {
        let size = fs::metadata(&file).map_err(io_error("find the size of", &file))?.len();
        Ok(sum.saturating_add(size))
    })
}

async fn ask(option: &str, manager: Manager) -> Option<PathBuf> {
    let command = Command::new("bootctl").arg(option).time_limit(ASK_TIME);
    let output = manager.run(Kind::Root, command).await.ok()?;
    let path = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    path.is_absolute().then_some(path)
}

/// The fields of a line of mountinfo are described in proc(5): the fifth is the place; after a lone dash come the file
/// system's type, its source and its own options. Those count and not the mount's, which are ours: from within our own
/// sandbox everything is read-only.
fn check_mounted_in(mounts: &str, place: &Path) -> Result<(), PartitionError> {
    let is_here = |mount: &str| mount.split(' ').nth(4).is_some_and(|at| Path::new(&unescape(at)) == place);
    let here = mounts.lines().filter_map(|line| line.split_once(" - ")).filter(|(mount, _)| is_here(mount));
    // The last mount at a place is the one that is seen.
    match here.map(|(_, system)| system).rfind(|system| !system.starts_with("autofs ")) {
        None => Err(PartitionError::NotMounted(place.to_owned())),
        Some(system)
            if system.split(' ').nth(2).is_some_and(|options| options.split(',').any(|o| o == "ro")) =>
        {
            Err(PartitionError::ReadOnly(place.to_owned()))
        }
        Some(_) => Ok(()),
    }
}

/// Spaces and the like are written as three octal digits.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn read_texts(place: &Path, entries: &mut Vec<Entry>) -> Result<(), PartitionError> {
    let dir = place.join("loader/entries");
    for file in names(&dir, TYPE1_SUFFIX)? {
        let text = files::read_bounded(&dir.join(&file), TEXT_MAX)?;
        let Some(mut entry) = entry::parse_type1(&file, &String::from_utf8_lossy(&text)) else { continue };
        let exists = |file: &PathBuf| place.join(file).is_file();
        match entry.files.as_slice() {
            // The loader leaves out what it cannot start, but not what lacks an initrd: that fails when it is booted.
            [program, ..] if !exists(program) => continue,
            [_, rest @ ..] if !rest.iter().all(exists) => entry.doubt = Some("its initrd is missing"),
            _ => {}
        }
        entries.push(entry);
    }
    Ok(())
}

fn read_images(place: &Path, entries: &mut Vec<Entry>) -> Result<(), PartitionError> {
    let dir = place.join("EFI/Linux");
    for file in names(&dir, TYPE2_SUFFIX)? {
        let path = dir.join(&file);
        let mut image = File::open(&path).map_err(io_error("open", &path))?;
        let entry = uki::read(&file, &mut image).map_err(io_error("read the sections of", &path))?;
        entries.extend(entry.map(|mut entry| {
            // Addons can add to the command line (systemd-stub(7)), another `init=` too.
            if dir.join(format!("{file}.extra.d")).exists() {
                entry.doubt = Some("files beside it may add to its command line");
            }
            entry
        }));
    }
    Ok(())
}

/// Returns the names of the files in a directory that may be entries, in the order of the directory; none if there is
/// no such directory.
fn names(dir: &Path, suffix: &str) -> Result<Vec<String>, PartitionError> {
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error("list", dir)(e).into()),
    };
    let mut names = Vec::new();
    for (n, found) in listing.enumerate() {
        let found = found.map_err(io_error("list", dir))?;
        if n >= ENTRIES_MAX {
            return Err(PartitionError::TooMany(dir.to_owned()));
        }
        let name = found.file_name().to_string_lossy().into_owned();
        if entry::is_entry_name(&name, suffix) && found.path().is_file() {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    fn at(dir: &tempfile::TempDir) -> Partitions {
        Partitions { esp: dir.path().to_owned(), extended: None }
    }

    #[test]
    fn entries_are_read_as_far_as_the_loader_could_start_them() {
        let dir = place(&[
            ("loader/loader.conf", "default a.conf"),
            ("loader/entries/a.conf", "linux /EFI/k.efi\ninitrd /EFI/i.efi"),
            ("loader/entries/b.conf", "linux /EFI/missing.efi"),
            ("loader/entries/c.conf", "linux /EFI/k.efi\ninitrd /EFI/missing.efi"),
            ("loader/entries/.d.conf", "linux /EFI/k.efi"),
            ("loader/entries/e.conf.tmp", "linux /EFI/k.efi"),
            ("loader/entries/g.conf/x", ""),
            ("EFI/k.efi", ""),
            ("EFI/i.efi", ""),
            ("EFI/Linux/f.efi", "no image"),
        ]);
        let mut found: Vec<_> = at(&dir)
            .entries()
            .unwrap()
            .into_iter()
            .map(|entry| (entry.file, entry.doubt.is_some()))
            .collect();
        found.sort();
        assert_eq!(found, [("a.conf".to_owned(), false), ("c.conf".to_owned(), true)]);
        assert_eq!(at(&dir).conf().unwrap().default.as_deref(), Some("a.conf"));
        assert!(at(&dir).free().unwrap() > 0);
    }

    #[test]
    fn an_empty_partition_has_no_entries_and_an_unreadable_one_is_an_error() {
        let dir = place(&[]);
        assert_eq!(at(&dir).entries().unwrap(), []);
        assert_eq!(at(&dir).conf().unwrap(), LoaderConf::default());
        let dir = place(&[("loader/entries/a.conf", &"#".repeat(70_000))]);
        assert!(at(&dir).entries().unwrap_err().to_string().contains("a.conf"));
        let dir = place(&[("loader/entries", "a file")]);
        assert!(at(&dir).entries().is_err());
    }

    #[test]
    fn what_is_mounted_is_told_from_what_only_has_the_name() {
        let mounts = "22 1 254:1 / / rw,relatime - ext4 /dev/vda rw\n\
            30 22 0:30 / /boot rw shared:1 - autofs systemd-1 rw\n\
            31 22 254:2 / /efi ro,relatime shared:7 master:1 - vfat /dev/vdb1 rw,errors=remount-ro\n\
            32 22 254:3 / /my\\040boot rw,relatime - vfat /dev/vdb2 ro,fmask=0077\n";
        let check = |place: &str| check_mounted_in(mounts, Path::new(place));
        assert!(check("/efi").is_ok());
        assert!(matches!(check("/boot"), Err(PartitionError::NotMounted(_))), "not yet");
        assert!(matches!(check("/boot/efi"), Err(PartitionError::NotMounted(_))));
        assert!(matches!(check("/my boot"), Err(PartitionError::ReadOnly(_))));
        let remounted = format!("{mounts}33 30 254:2 / /boot rw - vfat /dev/vdb1 rw\n");
        assert!(check_mounted_in(&remounted, Path::new("/boot")).is_ok());
        let dir = place(&[]);
        assert!(matches!(at(&dir).check_mounted(), Err(PartitionError::NotMounted(_))));
    }

    #[test]
    fn only_what_is_not_there_yet_needs_room() {
        let dir = place(&[("k", "12345"), ("i", "123"), ("j", "1234567")]);
        let spec = |initrd: &str| Bootspec {
            kernel: dir.path().join("k"),
            initrd: Some(dir.path().join(initrd)),
            kernel_params: Vec::new(),
        };
        assert_eq!(bytes_needed(&spec("i"), None).unwrap(), SPACE_BESIDE + 8);
        assert_eq!(bytes_needed(&spec("j"), Some(&spec("i"))).unwrap(), SPACE_BESIDE + 7);
        assert_eq!(bytes_needed(&spec("i"), Some(&spec("i"))).unwrap(), SPACE_BESIDE);
        assert!(bytes_needed(&spec("x"), None).unwrap_err().to_string().contains("/x"));
    }
}
