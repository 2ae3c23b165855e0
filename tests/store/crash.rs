//! The import dies, the disk is full, files rot: the store is what it was, or says that it is damaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use pullagent::model::Oid;
use pullagent::repo::import::Verdict;
use pullagent::repo::store::{Reference, Store, StoreError};
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

/// Where a store can rot, and who notices it.
enum Notices {
    Opening,
    Importing,
}

#[test]
fn damage_is_noticed_and_the_way_out_works() {
    type Damage = fn(&Path, &Path);
    let table: [(&str, Damage, Notices); 14] = [
        ("an empty index", |idx, _| fs::write(idx, "").unwrap(), Notices::Opening),
        ("an index of zeros", |idx, _| fs::write(idx, vec![0; file_len(idx)]).unwrap(), Notices::Opening),
        ("an index that is cut", |idx, _| cut(idx), Notices::Opening),
        ("a lost index", |idx, _| fs::remove_file(idx).unwrap(), Notices::Opening),
        ("an index with one wrong bit", |idx, _| flip(idx, 8 + 1024 + 3), Notices::Importing),
        ("a lost pack", |_, pack| fs::remove_file(pack).unwrap(), Notices::Opening),
        ("a pack that is cut", |_, pack| cut(pack), Notices::Opening),
        ("a pack with one wrong byte", |_, pack| flip(pack, file_len(pack) / 2), Notices::Importing),
        ("a pack of zeros", |_, pack| fs::write(pack, vec![0; file_len(pack)]).unwrap(), Notices::Opening),
        (
            "a config of zeros",
            |idx, _| fs::write(git_dir(idx).join("config"), [0; 66]).unwrap(),
            Notices::Opening,
        ),
        ("a config that is a directory", |idx, _| in_place(&git_dir(idx).join("config")), Notices::Opening),
        (
            "no directory of packs",
            |idx, _| fs::remove_dir_all(idx.parent().unwrap()).unwrap(),
            Notices::Opening,
        ),
        ("a file in place of it all", |idx, _| a_file_instead(git_dir(idx)), Notices::Opening),
        (
            "a reference that is a directory",
            |idx, _| in_place(&git_dir(idx).join("refs/pullagent/main")),
            Notices::Importing,
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

fn git_dir(idx: &Path) -> &Path {
    idx.ancestors().nth(3).unwrap()
}

fn in_place(file: &Path) {
    fs::remove_file(file).unwrap();
    fs::create_dir(file).unwrap();
}

fn a_file_instead(dir: &Path) {
    fs::remove_dir_all(dir).unwrap();
    fs::write(dir, "").unwrap();
}

/// A reference is for people and for what the server is told we have: without one all of it comes again.
#[test]
fn garbage_in_a_reference_costs_bytes_and_no_more() {
    for garbage in [&b""[..], &[0; 41], b"not an id\n", &[b'a'; 100_000], "ü".as_bytes()] {
        let (repo, mut host, tip) = behind(200);
        let base = host.main.revision.clone();
        fs::write(host.state().join("git/refs/pullagent/main"), garbage).unwrap();
        assert_eq!(host.store().tip(Reference::Main), None);
        host.accept(&tip, Some(&repo.pack(&tip, &[])));
        assert!(host.store().has(&base).unwrap());
        host.fsck();
    }
}

/// A store of the other object format holds nothing that fits; the agent discards it like one that is damaged.
#[test]
fn a_store_of_another_object_format_is_told() {
    let (_, host, tip) = behind(200);
    let config = host.state().join("git/config");
    let other = fs::read_to_string(&config).unwrap().replace("bare", "objectformat = sha256\n\tbare");
    fs::write(&config, other).unwrap();
    let opened = Store::open_or_create(host.state(), &tip);
    assert!(matches!(opened, Err(StoreError::Format { .. } | StoreError::Corrupt { .. })), "{opened:?}");
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
