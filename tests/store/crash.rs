//! The import dies, the disk is full, files rot: the store is what it was, or says that it is damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use pullagent::model::Oid;
use pullagent::repo::import::Verdict;
use pullagent::repo::store::{Store, StoreError};
use pullagent::repo::{FailureClass, Limits};

use crate::git::Repo;
use crate::host::Host;
use crate::watch::Watch;

/// How often the import is killed.
const KILLS: u64 = 40;

/// A host that follows a repository, and a commit large enough that its import takes a while.
fn behind(file_bytes: usize) -> (Repo, Host, Oid) {
    let mut repo = Repo::new();
    let first = repo.change("flake.nix", "{ }\n");
    let mut host = Host::new(&first);
    host.follow(&repo);
    let mut random = fastrand::Rng::with_seed(1);
    for n in 0..200 {
        let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(file_bytes).collect();
        repo.write(&format!("dir{}/file{n}", n % 7), noise);
    }
    let tip = repo.commit("many files");
    (repo, host, tip)
}

#[test]
fn killed_at_any_moment_the_store_is_as_it_was() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (repo, mut host, tip) = behind(200);
    let pack = repo.pack(&tip, &[&host.main.revision]);
    let before = host.files();
    let start = Instant::now();
    host.import(&tip, Some(&pack)).unwrap();
    let whole = start.elapsed();
    forget(&host, &before);
    let mut killed = 0;
    for _ in 0..KILLS {
        let watch = Watch::kill(host.state(), whole.mul_f32(random.f32()));
        match host.import(&tip, Some(&pack)) {
            Err(failure) => {
                assert_eq!(failure.class, FailureClass::Limit, "{failure}");
                assert_eq!(host.files(), before);
                killed += 1;
            }
            Ok(Verdict::Accepted(_)) => forget(&host, &before),
            Ok(Verdict::Refused(refusal)) => panic!("{refusal}"),
        }
        drop(watch);
    }
    println!("killed {killed} of {KILLS} imports");
    assert!(killed > KILLS / 4, "too few of the imports were hit");
    host.follow(&repo);
    host.fsck();
}

/// Takes back an import that was faster than its killer.
fn forget(host: &Host, before: &[(PathBuf, u64)]) {
    for (path, _) in host.files() {
        if path.starts_with(host.state().join("git/objects")) && !before.iter().any(|(old, _)| *old == path) {
            fs::remove_file(path).unwrap();
        }
    }
    host.store().set_tip(pullagent::repo::store::Reference::Main, &host.main.revision).unwrap();
    assert_eq!(host.files(), before);
}

#[test]
fn what_a_dead_agent_left_is_swept() {
    let (repo, mut host, _) = behind(200);
    let before = host.files();
    // Killed while a child worked, while a pack was moved, and while a reference was written.
    fs::create_dir_all(host.state().join("quarantine/0123456789abcdef/objects/pack")).unwrap();
    fs::write(host.state().join("quarantine/0123456789abcdef/objects/pack/.tmpAbCdEf"), "x").unwrap();
    let git = host.state().join("git");
    fs::write(git.join("objects/pack/pack-0123456789012345678901234567890123456789.pack"), "PACK").unwrap();
    fs::write(git.join("refs/pullagent/main.lock"), "").unwrap();
    Store::sweep(host.state()).unwrap();
    assert_eq!((host.files(), host.quarantines()), (before, 0));
    host.follow(&repo);
    host.fsck();
}

#[test]
fn a_full_disk_is_no_verdict_and_leaves_nothing() {
    let (repo, host, tip) = behind(2_000);
    let Some(disk) = SmallDisk::mount(300_000) else {
        println!("left out: only root can mount a small file system");
        return;
    };
    let mut small = Host::at(disk.path().join("state"), &host.main.revision);
    small.accept(&host.main.revision, Some(&repo.pack(&host.main.revision, &[])));
    let pack = repo.pack(&tip, &[&host.main.revision]);
    assert!(pack.len() > 300_000);
    small.fail(&tip, &pack, FailureClass::Io, "");
    small.fsck();
    drop((small, disk));
}

/// A file system of a given size, gone when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(dir.path()).status();
        mounted.is_ok_and(|status| status.success()).then_some(SmallDisk(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        assert!(Command::new("umount").arg(self.0.path()).status().unwrap().success());
    }
}

/// Where a store can rot, and who notices it.
enum Notices {
    Opening,
    Importing,
}

#[test]
fn damage_is_noticed_and_the_way_out_works() {
    type Damage = fn(&Path, &Path);
    let table: [(&str, Damage, Notices); 9] = [
        ("an empty index", |idx, _| fs::write(idx, "").unwrap(), Notices::Opening),
        ("an index of zeros", |idx, _| fs::write(idx, vec![0; file_len(idx)]).unwrap(), Notices::Opening),
        ("an index that is cut", |idx, _| cut(idx), Notices::Opening),
        ("a lost index", |idx, _| fs::remove_file(idx).unwrap(), Notices::Opening),
        ("an index with one wrong bit", |idx, _| flip(idx, 8 + 1024 + 3), Notices::Importing),
        ("a lost pack", |_, pack| fs::remove_file(pack).unwrap(), Notices::Opening),
        ("a pack that is cut", |_, pack| cut(pack), Notices::Opening),
        ("a pack with one wrong byte", |_, pack| flip(pack, file_len(pack) / 2), Notices::Importing),
        (
            "a config of zeros",
            |idx, _| fs::write(idx.ancestors().nth(3).unwrap().join("config"), [0; 66]).unwrap(),
            Notices::Opening,
        ),
    ];
    for (name, damage, notices) in table {
        let mut repo = Repo::new();
        let base = repo.change("flake.nix", "{ }\n".repeat(100));
        let mut host = Host::new(&base);
        host.follow(&repo);
        let tip = repo.change("flake.nix", "{ }\n".repeat(100) + "x");
        let index = host
            .files()
            .into_iter()
            .map(|(path, _)| path)
            .find(|path| path.extension().is_some_and(|e| e == "idx"));
        let index = index.unwrap();
        damage(&index, &index.with_extension("pack"));
        match notices {
            Notices::Opening => {
                let opened = Store::open(host.state());
                assert!(matches!(opened, Err(StoreError::Corrupt { .. })), "{name}: {opened:?}");
            }
            Notices::Importing => {
                let failure = host.import(&tip, Some(&repo.pack(&tip, &[&base]))).expect_err(name);
                assert_eq!(failure.class, FailureClass::Corrupt, "{name}: {failure}");
            }
        }
        Store::discard(host.state()).unwrap();
        host.accept(&tip, Some(&repo.pack(&tip, &[])));
        host.fsck();
    }
}

fn file_len(path: &Path) -> usize {
    usize::try_from(path.metadata().unwrap().len()).unwrap()
}

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() - 30]).unwrap();
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn foreign_objects_are_never_followed() {
    let (repo, mut host, _) = behind(200);
    for (file, content) in
        [("objects/info/alternates", repo.path().join(".git/objects")), ("shallow", PathBuf::from("x"))]
    {
        let path = host.state().join("git").join(file);
        fs::write(&path, content.to_str().unwrap()).unwrap();
        let opened = Store::open(host.state());
        assert!(matches!(opened, Err(StoreError::Corrupt { .. })), "{opened:?}");
        fs::remove_file(path).unwrap();
    }
    host.limits = Limits::default();
    host.follow(&repo);
}
