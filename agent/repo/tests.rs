//! Thousands of damaged packs, in this process: none makes the import panic, and whatever is accepted is sound.

use std::fs;
use std::path::Path;

use super::child;
use super::import::{Against, ImportTask, PolicyText, Report};
use super::limits::Limits;
use super::pack;
use super::quarantine::Quarantine;
use super::store::Store;
use crate as product;
use crate::model::Oid;
use crate::trust::AnchorFacts;
use crate::trust::tree::Submodules;

#[path = "../../tests/store/bytes.rs"]
#[expect(dead_code, reason = "the integration tests use all of it")]
mod bytes;

#[path = "../../tests/store/git.rs"]
#[expect(dead_code, clippy::disallowed_methods, reason = "the integration tests use all of it")]
mod git;

use git::{FIRST_COMMIT, Repo, policy, with_trailer};

/// How many damaged packs there are; every third has a forged delta, and some of those are harmless.
const PACKS: usize = 3_000;

/// The bytes of a SHA-1 trailer.
const TRAILER: usize = 20;

/// Does to a pack what a hostile server might; the trailer is right again afterwards.
fn damage(pack: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bad = pack[..pack.len() - TRAILER].to_vec();
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..bad.len());
        match random.u8(..7) {
            0..=2 => bad[at] ^= 1 << random.u8(..8),
            3 => bad[at] = random.u8(..),
            4 => bad.insert(at, random.u8(..)),
            5 => drop(bad.remove(at)),
            _ => {
                let to = random.usize(..bad.len());
                let run = random.usize(1..40).min(bad.len() - at.max(to));
                bad.copy_within(at..at + run, to);
            }
        }
    }
    // The number of objects is believed until the end; a wrong one must not matter either.
    if random.u8(..10) == 0 {
        bad[11] = bad[11].wrapping_add(random.u8(..3));
    }
    bad.extend([0; TRAILER]);
    with_trailer(bad)
}

/// A pack of `tip` whose one file is a delta on the file before it, and the delta's instructions are damaged. The
/// checksum within the compressed stream is right, so that gitoxide gets to see them.
fn forge(repo: &Repo, tip: &Oid, random: &mut fastrand::Rng) -> Vec<u8> {
    let object = |kind: &str, name: &str| repo.pipe(&["cat-file", kind, name], b"");
    let whole =
        |code: u8, raw: &[u8]| [bytes::entry_header(code, raw.len() as u64), bytes::stored(raw)].concat();
    let (old, new) = (object("blob", "HEAD^:flake.nix"), object("blob", "HEAD:flake.nix"));
    let copy = [0x90, u8::try_from(old.len()).unwrap()];
    let insert = &new[old.len()..];
    let head = [bytes::varint(old.len() as u64), bytes::varint(new.len() as u64)].concat();
    let mut delta = [&head, &copy[..], &[u8::try_from(insert.len()).unwrap()], insert].concat();
    for _ in 0..random.usize(..4) {
        let at = random.usize(..delta.len());
        delta[at] = random.u8(..);
    }
    delta.truncate(delta.len() - random.usize(..2) * random.usize(..3));
    let base: Vec<u8> = bytes::tree_entry("", "", repo.oid("HEAD^:flake.nix").as_str()).split_off(2);
    let delta = [bytes::entry_header(7, delta.len() as u64), base, bytes::stored(&delta)].concat();
    let (commit, tree) = (object("commit", tip.as_str()), object("tree", "HEAD^{tree}"));
    bytes::pack(3, &[whole(1, &commit), whole(2, &tree), delta].concat())
}

fn import(store: &Store, quarantine: &Quarantine, tip: &Oid, anchor: &Oid, mut pack: &[u8]) -> Report {
    let task = ImportTask {
        tip: tip.clone(),
        against: Against::Main { anchor: AnchorFacts::introduction(anchor.clone()) },
        policy: PolicyText::of(&policy()),
        host: "web1".into(),
        branch: "main".into(),
        now: FIRST_COMMIT + 1_000_000,
        submodules: Submodules::new(),
        pack: true,
    };
    child::import(store, task, &mut pack, quarantine.path(), &Limits::default())
}

/// Puts the store back to one pack.
fn keep_only(store: &Store, first: &Path) {
    for index in store.packs().unwrap() {
        if index != first {
            fs::remove_file(index.with_extension("pack")).unwrap();
            fs::remove_file(index).unwrap();
        }
    }
}

#[test]
fn damaged_packs_never_panic_and_what_is_accepted_is_sound() {
    let seed = 0x5eed_0001;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut repo = Repo::new();
    repo.write("a/b", "text\n".repeat(30));
    let anchor = repo.change("flake.nix", "{ }\n".repeat(30));
    let full = repo.pack(&anchor, &[]);
    let tip = repo.change("flake.nix", "{ }\n".repeat(31));
    let thin = repo.pack(&tip, &[&anchor]);

    let state = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(state.path(), &tip).unwrap();
    let quarantine = Quarantine::new(state.path()).unwrap();
    let Report::Accepted { pack, .. } = import(&store, &quarantine, &anchor, &anchor, &full) else {
        panic!("the full pack must be accepted")
    };
    quarantine.publish(&pack.unwrap(), &store).unwrap();
    let first = store.packs().unwrap().remove(0);

    let (mut accepted, mut refused, mut failed) = (0, 0, 0);
    for n in 0..PACKS {
        let bad = if n % 3 == 0 { forge(&repo, &tip, &mut random) } else { damage(&thin, &mut random) };
        let quarantine = Quarantine::new(state.path()).unwrap();
        match import(&store, &quarantine, &tip, &anchor, &bad) {
            Report::Accepted { pack, .. } => {
                accepted += 1;
                quarantine.publish(&pack.unwrap(), &store).unwrap();
                fsck(&store);
                keep_only(&store, &first);
            }
            Report::Refused(_) => refused += 1,
            Report::Failed(failure) => {
                assert_ne!(failure.class, super::FailureClass::Corrupt, "{failure}");
                failed += 1;
            }
            Report::Repacked { .. } | Report::Found | Report::Pinned { .. } => {
                panic!("nobody asked for that")
            }
        }
    }
    println!("seed {seed:#x}: {accepted} accepted, {refused} refused, {failed} failed of {PACKS}");
    assert!(accepted > 0 && failed > PACKS / 2);
    assert_eq!(store.packs().unwrap(), std::slice::from_ref(&first));
    assert_eq!(pack::check_pair(&first, store.format()), Ok(()));
}

#[expect(clippy::disallowed_methods, reason = "the test runs git")]
fn fsck(store: &Store) {
    let mut git = std::process::Command::new("git");
    git.arg("--git-dir").arg(store.git_dir());
    git::run(git.args(["fsck", "--strict", "--full", "--no-progress", "--no-dangling"]), b"");
}
