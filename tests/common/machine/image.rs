//! What test machines start from: the root directory that `tests/host/image` builds, and whatever other recipes make.
//! It is built once, kept outside the repository as an archive under the hash of its recipe, and unpacked beside it.
//! Nothing ever writes to it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

const RECIPE: &str = include_str!("../../host/image");

/// How many archives are kept; an older recipe's may be wanted again when branches change.
const KEPT: usize = 3;

/// The image, unpacked; it cannot be evicted while this lives.
#[derive(Debug)]
pub struct Image {
    /// Its root directory.
    pub root: PathBuf,
    /// The cache it is in.
    pub cache: PathBuf,
    _in_use: File,
}

impl Image {
    /// Returns the root directory of test machines.
    pub fn get() -> Image {
        Image::of("image", RECIPE, build)
    }

    /// Returns the image of a kind that `recipe` describes whole, unpacking or building it first where that has not been
    /// done. `build` must not ask for another image.
    pub fn of(kind: &str, recipe: &str, build: impl FnOnce(&Path)) -> Image {
        let cache = cache();
        fs::create_dir_all(&cache).unwrap();
        let (name, began) = (name(kind, recipe), Instant::now());
        let root = cache.join(&name);
        let making = File::create(root.with_extension("making")).unwrap();
        flock(&making, FlockOperation::LockExclusive).unwrap();
        let in_use = File::create(root.with_extension("lock")).unwrap();
        flock(&in_use, FlockOperation::LockShared).unwrap();
        if !root.exists() {
            let (archive, partial) = (root.with_extension("tar.zst"), root.with_extension("partial"));
            remove(&partial);
            if archive.exists() {
                unpack(&archive, &partial);
            } else {
                build(&partial);
                pack(&partial, &archive);
                evict(&cache, kind);
            }
            fs::rename(&partial, &root).unwrap();
            println!("test host: {kind} made in {:.1} s", began.elapsed().as_secs_f32());
        }
        Image { root, cache, _in_use: in_use }
    }
}

/// Returns the directory of everything that outlives a test run: `$PULLAGENT_TEST_CACHE`, or the user's cache.
fn cache() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = || var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
    let cache = var("PULLAGENT_TEST_CACHE").or_else(|| Some(user()?.join("pullagent-tests")));
    let cache = cache.expect("PULLAGENT_TEST_CACHE, XDG_CACHE_HOME or HOME is set");
    assert!(!cache.to_string_lossy().contains([':', ',', '\\']), "mount options cannot say {cache:?}");
    std::path::absolute(cache).unwrap()
}

fn name(kind: &str, recipe: &str) -> String {
    let hash = Sha256::digest(format!("{}\n{recipe}", std::env::consts::ARCH));
    let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{kind}-{hash}")
}

fn build(root: &Path) {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/host/image");
    run(Command::new(recipe).arg(root));
}

fn pack(root: &Path, archive: &Path) {
    let partial = archive.with_extension("partial-archive");
    run(tar("--create", &partial).arg("--directory").arg(root).arg("."));
    fs::rename(partial, archive).unwrap();
}

fn unpack(archive: &Path, root: &Path) {
    fs::create_dir(root).unwrap();
    run(tar("--extract", archive).arg("--directory").arg(root));
}

fn tar(what: &str, archive: &Path) -> Command {
    let mut tar = Command::new("tar");
    tar.args([what, "--zstd", "--sparse", "--numeric-owner", "--xattrs", "--one-file-system", "--file"])
        .arg(archive);
    tar
}

/// Removes the archives of old recipes, and what is unpacked of them and not in use.
fn evict(cache: &Path, kind: &str) {
    let entries = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path());
    let mut archives: Vec<(SystemTime, PathBuf)> = entries
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(&format!("{kind}-")) && name.ends_with(".tar.zst")
        })
        .map(|path| (fs::metadata(&path).unwrap().modified().unwrap(), path))
        .collect();
    archives.sort_unstable();
    archives.reverse();
    for (_, archive) in archives.into_iter().skip(KEPT) {
        let root = archive.with_extension("").with_extension("");
        let lock = root.with_extension("lock");
        let in_use =
            File::open(&lock).is_ok_and(|f| flock(f, FlockOperation::NonBlockingLockExclusive).is_err());
        if !in_use {
            remove(&root);
            fs::remove_file(archive).unwrap();
            drop(fs::remove_file(lock));
            drop(fs::remove_file(root.with_extension("making")));
        }
    }
}

fn remove(dir: &Path) {
    if dir.exists() {
        fs::remove_dir_all(dir).unwrap();
    }
}

/// Runs a command to its end and fails with the last it printed if it fails.
pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let last: Vec<&str> = text.lines().rev().take(30).collect();
    let last: Vec<&str> = last.into_iter().rev().collect();
    assert!(output.status.success(), "{command:?} failed:\n{}", last.join("\n"));
}
