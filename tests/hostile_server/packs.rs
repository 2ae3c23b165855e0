//! Packs that no honest git would send, made of real objects and of forged entries.

use pullagent::model::Oid;

use crate::bytes::{COPY_64K, entry_header, offset, pack, stored, varint, zeros};
use crate::git::{Repo, with_trailer};

pub const GIB: u64 = 1 << 30;

const COMMIT: u8 = 1;
const TREE: u8 = 2;
const BLOB: u8 = 3;
const OFS_DELTA: u8 = 6;
const REF_DELTA: u8 = 7;

/// The objects that `tip` has and its parent lacks: the commit, trees, a file.
pub fn new_objects(repo: &Repo, tip: &Oid) -> Vec<String> {
    repo.objects(&[tip.as_str(), &format!("^{tip}^")])
}

/// The new objects of `tip` without those of `kind`.
pub fn without(repo: &Repo, tip: &Oid, kind: &str) -> Vec<u8> {
    let new = new_objects(repo, tip);
    let rest: Vec<&str> =
        new.iter().map(String::as_str).filter(|id| repo.git(&["cat-file", "-t", id]) != kind).collect();
    assert!(rest.len() < new.len(), "there is no {kind}");
    repo.pack_of(&rest)
}

/// The new objects of `tip`, each as one plain entry of a pack.
pub fn entries(repo: &Repo, tip: &Oid) -> Vec<Vec<u8>> {
    new_objects(repo, tip).iter().map(|id| entry(repo, id)).collect()
}

fn entry(repo: &Repo, id: &str) -> Vec<u8> {
    let kind = repo.git(&["cat-file", "-t", id]);
    let bytes = repo.pipe(&["cat-file", &kind, id], b"");
    let number = match kind.as_str() {
        "commit" => COMMIT,
        "tree" => TREE,
        _ => BLOB,
    };
    plain(number, &bytes)
}

fn plain(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [entry_header(kind, bytes.len() as u64), stored(bytes)].concat()
}

/// A blob of these bytes as an entry.
pub fn blob(bytes: &[u8]) -> Vec<u8> {
    plain(BLOB, bytes)
}

/// A blob of zeros as an entry: a thousandth of its size.
pub fn zero_blob(bytes: u64) -> Vec<u8> {
    [entry_header(BLOB, bytes), zeros(bytes)].concat()
}

/// The honest entries of `tip` and `more`, in a pack that is right about their number.
pub fn honest_and(repo: &Repo, tip: &Oid, more: &[Vec<u8>]) -> Vec<u8> {
    let all = [entries(repo, tip), more.to_vec()].concat();
    pack(u32::try_from(all.len()).unwrap(), &all.concat())
}

/// A delta that makes `result` bytes by copying 64 KiB of its base often enough.
fn copying(base: u64, result: u64) -> Vec<u8> {
    let copies = usize::try_from((result >> 16).min(60_000)).unwrap();
    [varint(base), varint(result), COPY_64K.repeat(copies)].concat()
}

fn ofs_delta(distance: u32, delta: &[u8]) -> Vec<u8> {
    [entry_header(OFS_DELTA, delta.len() as u64), offset(distance), stored(delta)].concat()
}

fn ref_delta(base: &str, delta: &[u8]) -> Vec<u8> {
    let raw = (0..base.len()).step_by(2).map(|n| u8::from_str_radix(&base[n..n + 2], 16).unwrap());
    [entry_header(REF_DELTA, delta.len() as u64), raw.collect(), stored(delta)].concat()
}

/// A base of 64 KiB and a delta on it that claims and copies up to `result` bytes.
pub fn copy_bomb(result: u64) -> Vec<u8> {
    let base = zero_blob(1 << 16);
    let distance = u32::try_from(base.len()).unwrap();
    pack(2, &[base, ofs_delta(distance, &copying(1 << 16, result))].concat())
}

/// A base and `length` deltas, each on the one before: what is to be made grows with each.
pub fn chain(length: u32) -> Vec<u8> {
    let base = plain(BLOB, b"base");
    let mut all = base.clone();
    let mut before = u32::try_from(base.len()).unwrap();
    for size in (4_u64..).take(length as usize) {
        // Copy all of the base, then one byte more.
        let copy = [0xf0 | 0x80, size as u8, (size >> 8) as u8, (size >> 16) as u8];
        let delta = [varint(size), varint(size + 1), copy.to_vec(), vec![1, b'x']].concat();
        let entry = ofs_delta(before, &delta);
        before = u32::try_from(entry.len()).unwrap();
        all.extend(entry);
    }
    pack(length + 1, &all)
}

/// A delta on an object that nobody has.
pub fn baseless(repo: &Repo, tip: &Oid) -> Vec<u8> {
    honest_and(repo, tip, &[ref_delta(&"77".repeat(20), &copying(4, 4))])
}

/// Two deltas, each on the other by a made-up id.
pub fn cyclic() -> Vec<u8> {
    let (one, two) = ("11".repeat(20), "22".repeat(20));
    pack(2, &[ref_delta(&one, &copying(4, 4)), ref_delta(&two, &copying(4, 4))].concat())
}

/// A delta whose base lies `distance` bytes before it, behind one honest blob; more than there are is before the pack.
pub fn delta_at(distance: u32) -> Vec<u8> {
    pack(2, &[plain(BLOB, b"base"), ofs_delta(distance, &copying(4, 4))].concat())
}

/// A delta that says that its base is larger than it is, and copies from beyond it.
pub fn beyond_its_base() -> Vec<u8> {
    let base = plain(BLOB, b"base");
    let distance = u32::try_from(base.len()).unwrap();
    pack(2, &[base, ofs_delta(distance, &copying(1 << 16, 1 << 16))].concat())
}

/// `pack` with another number of objects in its header.
pub fn claiming(mut pack: Vec<u8>, objects: u32) -> Vec<u8> {
    pack[8..12].copy_from_slice(&objects.to_be_bytes());
    with_trailer(pack)
}

/// A pack of `count` blobs, each of a few bytes of its own.
pub fn tiny(count: u32) -> Vec<u8> {
    let all: Vec<u8> = (0..count).flat_map(|n| blob(&n.to_be_bytes())).collect();
    pack(count, &all)
}
