//! A disk that fills up, at every point where it can: that is no verdict, leaves nothing behind, and is over as soon as
//! there is room. Only root can mount the small file systems that it takes.

use std::path::Path;
use std::process::Command;

use pullagent::repo::{Failure, FailureClass};

use crate::git::Repo;
use crate::host::Host;

/// What a file system gives out at once.
const PAGE: u64 = 4096;
/// Room that is enough for anything here.
const PLENTY: u64 = 64 << 20;

/// A file system of a given size, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={PLENTY}"), "none"])
            .arg(dir.path())
            .status();
        if !mount.is_ok_and(|status| status.success()) {
            println!("left out: only root can mount a small file system");
            return None;
        }
        Some(SmallDisk(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn used(&self) -> u64 {
        let stat = rustix::fs::statvfs(self.path()).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }

    /// Leaves `room` bytes beside what is used.
    fn leave(&self, room: u64) {
        let size = format!("remount,size={}", self.used() + room);
        assert!(Command::new("mount").args(["-o", &size]).arg(self.path()).status().unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg(self.path()).status().unwrap().success();
        assert!(unmounted || std::thread::panicking());
    }
}

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
}

#[track_caller]
fn is_full(failure: &Failure, room: u64) {
    assert_eq!(failure.class, FailureClass::Io, "{room}: {failure}");
    assert!(failure.text.contains("No space left on device"), "{room}: {failure}");
}

/// Method: the same import again and again with a page more room each time, until it succeeds. So the disk is full once at
/// the job, on each page of the pack, and on each of its index.
#[test]
fn an_import_fails_wherever_the_disk_is_full_and_works_once_there_is_room() {
    let Some(disk) = SmallDisk::mount() else { return };
    let mut repo = Repo::new();
    let base = repo.change("flake.nix", "{ }\n".repeat(100));
    let mut host = Host::at(disk.path().join("state"), &base);
    host.follow(&repo);
    repo.write("big", noise(20_000, 1));
    for n in 0..200 {
        repo.write(&format!("dir/file{n}"), noise(40, n));
    }
    let tip = repo.commit("more");
    let pack = repo.pack(&tip, &[&base]);
    assert!(pack.len() > 30_000);
    let (files, used) = (host.files(), disk.used());
    let mut room = 0;
    loop {
        disk.leave(room);
        match host.import(&tip, Some(&pack)) {
            Ok(_) => break,
            Err(failure) => is_full(&failure, room),
        }
        assert_eq!((host.files(), disk.used()), (files.clone(), used), "{room}: something was left behind");
        room += PAGE;
        assert!(room < PLENTY, "it never fits");
    }
    println!("a pack of {} bytes fits into {room} beside what is there", pack.len());
    assert!(room > pack.len() as u64, "it was never full");
    disk.leave(PLENTY);
    host.accept(&tip, Some(&pack));
    host.fsck();
}

/// The same for putting packs into one: the store stays as it is until there is room.
#[test]
fn a_repack_fails_wherever_the_disk_is_full_and_works_once_there_is_room() {
    let Some(disk) = SmallDisk::mount() else { return };
    let mut repo = Repo::new();
    repo.write("big", noise(20_000, 1));
    let base = repo.commit("begin");
    let mut host = Host::at(disk.path().join("state"), &base);
    host.follow(&repo);
    while !host.store().needs_repack().unwrap() {
        repo.change("flake.nix", noise(500, host.packs() as u64));
        host.follow(&repo);
    }
    let (files, used) = (host.files(), disk.used());
    let mut room = 0;
    loop {
        disk.leave(room);
        match host.repack() {
            Ok(()) => break,
            Err(failure) => is_full(&failure, room),
        }
        assert_eq!((host.files(), disk.used()), (files.clone(), used), "{room}: something was left behind");
        assert_eq!(host.quarantines(), 0);
        room += 2 * PAGE;
        assert!(room < PLENTY, "it never fits");
    }
    println!("a repack of {used} bytes fits into {room} beside them");
    assert_eq!(host.packs(), 1);
    host.fsck();
    host.store().verify_packs().unwrap();
}
