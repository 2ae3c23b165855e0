//! A trusted store that rots under the agent: whatever is wrong with it, that is said, the store is fetched again without
//! anybody's help, not faster than retries go, and what runs stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pullagent::report::Status;

use crate::stage::Stage;

/// What the log says each time that a store is given up.
const GIVEN_UP: &str = "the trusted store is damaged; it is deleted and fetched again";

fn files(git_dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(git_dir.join("objects/pack")).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect()
}

/// Rewrites each file by way of a new one, so that nobody who has mapped the old one is hurt.
fn each(git_dir: &Path, extension: &str, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    let found = files(git_dir, extension);
    assert!(!found.is_empty(), "{extension}");
    for path in found {
        let changed = change(fs::read(&path).unwrap());
        fs::remove_file(&path).unwrap();
        fs::write(&path, changed).unwrap();
    }
}

fn flipped(mut bytes: Vec<u8>) -> Vec<u8> {
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    bytes
}

type Damage = fn(&Path);

const DAMAGES: [(&str, Damage); 11] = [
    ("zeroed indices", |git| each(git, "idx", |bytes| vec![0; bytes.len()])),
    ("emptied indices", |git| each(git, "idx", |_| Vec::new())),
    ("indices with a wrong bit", |git| each(git, "idx", flipped)),
    ("lost indices", |git| files(git, "idx").iter().for_each(|f| fs::remove_file(f).unwrap())),
    ("packs that are cut", |git| each(git, "pack", |bytes| bytes[..bytes.len() - 30].to_vec())),
    ("zeroed packs", |git| each(git, "pack", |bytes| vec![0; bytes.len()])),
    ("lost packs", |git| files(git, "pack").iter().for_each(|f| fs::remove_file(f).unwrap())),
    ("another object format", |git| {
        fs::write(
            git.join("config"),
            "[core]\nrepositoryformatversion = 1\n[extensions]\nobjectformat = sha256\n",
        )
        .unwrap();
    }),
    ("no configuration", |git| fs::remove_file(git.join("config")).unwrap()),
    ("no directory of packs", |git| fs::remove_dir_all(git.join("objects")).unwrap()),
    ("a file in place of it all", |git| {
        fs::remove_dir_all(git).unwrap();
        fs::write(git, "").unwrap();
    }),
];

/// Waits until the build of the accepted commit has failed, so that nobody reads the store any more.
fn await_quiet(stage: &Stage) {
    let tip = stage.repo.tip();
    stage.agent.await_status("the build to end", |s| s.bad(&tip).is_some());
}

#[test]
fn each_kind_of_damage_is_said_and_mended_by_itself() {
    let mut stage = Stage::set();
    let git_dir = stage.agent.state().join("git");
    let running = stage.agent.status().unwrap().running;
    for (n, (name, damage)) in DAMAGES.into_iter().enumerate() {
        await_quiet(&stage);
        damage(&git_dir);
        let tip = stage.push_after(n);
        stage.agent.sync();
        let said = |s: &Status| s.retries.iter().any(|r| r.revision == tip);
        let told = stage.agent.await_status(&format!("'{name}' to be said"), said);
        let told = &told.retries.iter().find(|r| r.revision == tip).unwrap();
        assert!(told.text.contains("store"), "{name}: {told:?}");
        println!("{name}: {}: {}", told.code, told.text);
        // Without another word from anybody.
        let accepted = |s: &Status| s.accepted.as_ref().is_some_and(|c| c.revision == tip);
        stage.agent.await_status(&format!("the store to be mended after '{name}'"), accepted);
        stage.agent.await_tidy(name);
        assert_eq!(stage.agent.stored(), Some(tip), "{name}");
        assert_eq!(stage.agent.log().matches(GIVEN_UP).count(), n + 1, "{name}: once for each damage");
        assert_eq!(stage.agent.status().unwrap().running, running, "{name}: what runs stays");
    }
}

/// A disk that damages whatever is written: the host asks the remote no faster than retries go.
#[test]
fn a_store_that_rots_again_and_again_is_not_fetched_in_a_hurry() {
    const WHILE: Duration = Duration::from_secs(10);
    /// After 0, 2 and 6 s, and one that was under way.
    const TIMES_MAX: usize = 4;
    let mut stage = Stage::set();
    await_quiet(&stage);
    let git_dir = stage.agent.state().join("git");
    stage.push_after(0);
    let began = Instant::now();
    stage.agent.sync();
    while began.elapsed() < WHILE {
        for index in files(&git_dir, "idx") {
            if fs::metadata(&index).is_ok_and(|m| m.len() > 0) && fs::remove_file(&index).is_ok() {
                fs::write(&index, "").ok();
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let times = stage.agent.log().matches(GIVEN_UP).count();
    assert!((1..=TIMES_MAX).contains(&times), "{times} times in {WHILE:?}");
    // Once the rot is over, the commit gets as far as it can.
    await_quiet(&stage);
}
