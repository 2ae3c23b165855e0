//! What the store grows to over many fetches, each a pack, put into one now and then; against a repository that git fetches
//! the same into, before and after `git gc`.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::process::Stdio;

use super::common::git::{Repo, command, git};
use super::common::pushes::{Key, Pusher};
use super::table::Row;
use super::taker::Taker;
use pullagent::model::Oid;
use pullagent::repo::Limits;
use pullagent::repo::import::repack_if_needed;
use pullagent::repo::store::Store;

const QUICK: usize = 120;
const LONG: usize = 500;

/// The pack that git's server sends to who wants `tip` and has `have`: thin, with offset deltas.
fn pack(repo: &Repo, tip: &Oid, have: Option<&Oid>) -> File {
    let file = tempfile::tempfile().unwrap();
    let mut pack = command(&repo.path);
    pack.args(["pack-objects", "-q", "--revs", "--thin", "--delta-base-offset", "--stdout"]);
    let mut child = pack.stdin(Stdio::piped()).stdout(file.try_clone().unwrap()).spawn().unwrap();
    let not = have.map_or(String::new(), |have| format!("^{have}\n"));
    write!(child.stdin.take().unwrap(), "{tip}\n{not}").unwrap();
    assert!(child.wait().unwrap().success());
    file
}

fn rewound(mut file: &File) -> File {
    file.rewind().unwrap();
    file.try_clone().unwrap()
}

/// Returns bytes and packs below `dir`.
fn size(dir: &Path) -> (u64, usize) {
    let (mut bytes, mut packs) = (0, 0);
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        let (more, also) = match path.is_dir() {
            true => size(&path),
            false => {
                (entry.metadata().unwrap().len(), usize::from(path.extension().is_some_and(|e| e == "pack")))
            }
        };
        bytes += more;
        packs += also;
    }
    (bytes, packs)
}

pub async fn measure(dir: &Path, long: bool) -> Vec<Row> {
    let fetches = if long { LONG } else { QUICK };
    let repo = Repo::init(&dir.join("growth.git"), "sha1");
    let first: Oid = repo.commit("main", &[("flake.nix", b"{ }\n")]).parse().unwrap();
    let mut pusher = Pusher::with_key(&repo.path, Key::plain(9));
    let mut taker = Taker::new(&dir.join("growth"), &first, &Key::plain(9));
    let theirs = Repo::init(&dir.join("theirs.git"), "sha1");
    let (mut have, mut packs_most, mut bytes_most) = (None, 0, 0);
    for _ in 0..fetches {
        let tip = pusher.push();
        let file = pack(&repo, &tip, have.as_ref());
        taker.take(&tip, rewound(&file).into()).await;
        let mut index = command(&theirs.path);
        index.args(["index-pack", "--stdin", "--fix-thin"]).stdin(rewound(&file)).stdout(Stdio::null());
        assert!(index.status().unwrap().success());
        let (bytes, packs) = size(taker.store().git_dir());
        (packs_most, bytes_most) = (packs_most.max(packs), bytes_most.max(bytes));
        repack_if_needed(&taker.store(), &Limits::default()).await.unwrap();
        have = Some(tip);
    }
    let tip = have.unwrap();
    git(&theirs.path, &["update-ref", "refs/heads/main", tip.as_str()], b"");
    let objects = |repo: &Repo| size(&repo.path.join("objects"));
    let unkempt = objects(&theirs);
    theirs.git(&["gc", "-q", "--prune=now"]);
    let kempt = objects(&theirs);
    let (bytes, packs) = size(&taker.store().git_dir().join("objects"));
    assert!(packs_most <= Store::PACKS_MAX + 1, "{packs_most} packs");
    let kib = |bytes: u64| bytes as f64 / 1024.0;
    vec![
        Row::new(format!("growth: store after {fetches} fetches"), "KiB", kib(bytes))
            .floor(kib(kempt.0))
            .git(kib(unkempt.0)),
        Row::new("growth: store at its largest", "KiB", kib(bytes_most))
            .floor(kib(kempt.0))
            .git(kib(unkempt.0)),
        Row::new("growth: packs", "", packs as f64).floor(kempt.1 as f64).git(unkempt.1 as f64),
        Row::new("growth: packs at most", "", packs_most as f64)
            .git(unkempt.1 as f64)
            .at_most((Store::PACKS_MAX + 1) as f64),
    ]
}
