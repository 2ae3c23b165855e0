//! Packs from a server, through the import child's own main function: a report always comes, nothing but one pack is
//! left, and a revision is accepted only if the pack brought all of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use pullagent::model::Oid;
use pullagent::repo::store::Store;

use super::Dice;
use super::sign::{Key, Sshsig, with_header};

#[path = "../../store/bytes.rs"]
mod bytes;

/// What `bytes` expects beside it.
mod git {
    pub use super::with_trailer;
}

use bytes::{COPY_64K, entry_header, offset, stored, tree_entry, varint, zeros};

const COMMIT: u8 = 1;
const TREE: u8 = 2;
const BLOB: u8 = 3;
const TAG: u8 = 4;
const OFS_DELTA: u8 = 6;
const REF_DELTA: u8 = 7;
const OLD: &[u8] = b"{ services.door.open = false; }\n";
const NEW: &[u8] = b"{ services.door.open = true; }\n";
const PEOPLE: &str = "A <a@x> 1700000000 +0000";

/// A host with a commit in its store, and a second one on top that a server may bring.
struct World {
    _dir: tempfile::TempDir,
    state: PathBuf,
    /// The job for the child, but for the quarantine.
    job: serde_json::Value,
    /// Blob, tree and commit; the store has the old ones.
    old: [Object; 3],
    new: [Object; 3],
}

#[derive(Clone)]
struct Object {
    kind: u8,
    id: Oid,
    data: Vec<u8>,
}

impl Object {
    fn new(kind: u8, data: Vec<u8>) -> Object {
        let name = ["", "commit", "tree", "blob", "tag"][usize::from(kind)];
        let id = sha1(&[format!("{name} {}\0", data.len()).as_bytes(), &data].concat()).to_string();
        Object { kind, id: id.parse().unwrap(), data }
    }

    fn raw_id(&self) -> Vec<u8> {
        let hex = self.id.as_str();
        (0..hex.len()).step_by(2).map(|n| u8::from_str_radix(&hex[n..n + 2], 16).unwrap()).collect()
    }

    fn entry(&self) -> Vec<u8> {
        entry(self.kind, &self.data)
    }
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let revision = |content: &[u8], parent: &str| {
        let blob = Object::new(BLOB, content.to_vec());
        let tree = Object::new(TREE, tree_entry("100644", "host.nix", blob.id.as_str()));
        let payload = format!("tree {}\n{parent}author {PEOPLE}\ncommitter {PEOPLE}\n\nChange\n", tree.id);
        let armor = Sshsig::default().sign(&Key::plain(1), payload.as_bytes());
        let commit = Object::new(COMMIT, with_header(payload.as_bytes(), "gpgsig", &armor));
        [blob, tree, commit]
    };
    let old = revision(OLD, "");
    let new = revision(NEW, &format!("parent {}\n", old[2].id));
    let dir = super::scratch();
    let state = dir.path().join("state");
    let store = Store::open_or_create(&state, &old[2].id).unwrap();
    let pack = bytes::pack(3, &old.iter().flat_map(Object::entry).collect::<Vec<_>>());
    let file = store.git_dir().join(format!("objects/pack/pack-{}.pack", sha1(&pack)));
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, pack).unwrap();
    assert!(
        Command::new("git")
            .args(["index-pack", "--no-rev-index"])
            .arg(&file)
            .output()
            .unwrap()
            .status
            .success()
    );
    let job = serde_json::json!({
        "state_directory": state,
        // The child limits itself by these; memory suffices for a fuzzer around it, and it never runs out of time.
        "limits": {
            "objects": 1_500_000, "objectBytes": 1 << 20, "basesBytes": 1 << 20, "packBytes": 2 << 20,
            "totalBytes": 8 << 20, "seconds": 10_000_000,
        },
        "task": { "import": {
            "tip": new[2].id,
            "against": { "line": "main", "anchor": { "revision": old[2].id } },
            "policy": {
                "signers": [{ "name": "alice", "keys": [{ "line": Key::plain(1).line() }], "roles": ["deployer"] }],
                "revoked": [],
                "rules": {},
            },
            "host": "web1",
            "branch": "main",
            "now": 1_800_000_000,
            "pack": true,
        } },
    });
    World { _dir: dir, state, job, old, new }
});

/// Runs the child on a job file and a pack, and returns what it prints.
pub type Run<'a> = &'a dyn Fn(&Path, &[u8]) -> Vec<u8>;

/// The first byte chooses between a whole pack and one made of entries.
pub fn check(data: &[u8], run: Run<'_>) -> bool {
    let world = &*WORLD;
    let mut dice = Dice(data);
    let (pack, complete) = match dice.byte() & 1 {
        0 => (dice.0.to_vec(), None),
        _ => {
            let (pack, complete) = made(&mut dice, world);
            (pack, Some(complete))
        }
    };
    let quarantine = tempfile::tempdir_in(world.state.parent().unwrap()).unwrap();
    let packs = quarantine.path().join("objects/pack");
    std::fs::create_dir_all(&packs).unwrap();
    let mut job = world.job.clone();
    job["quarantine"] = quarantine.path().to_str().unwrap().into();
    let file = quarantine.path().join("job.json");
    std::fs::write(&file, job.to_string()).unwrap();
    let printed = run(&file, &pack);
    let report: serde_json::Value =
        serde_json::from_slice(&printed).unwrap_or_else(|e| panic!("no report: {e}: {printed:?}"));
    if let Some(failure) = report.get("failed") {
        assert!(!matches!(failure["class"].as_str(), Some("crashed" | "io" | "corrupt")), "{failure}");
    }
    let Some(accepted) = report.get("accepted") else { return false };
    assert_eq!(accepted["accepted"]["revision"], world.new[2].id.as_str());
    assert_ne!(complete, Some(false), "accepted a revision that the pack does not bring");
    let name = accepted["pack"].as_str().unwrap();
    let left = super::files_below(&packs);
    assert_eq!(left, ["idx", "pack"].map(|extension| packs.join(format!("{name}.{extension}"))));
    true
}

/// A pack of entries, and whether it has all that the new revision needs.
fn made(dice: &mut Dice<'_>, world: &World) -> (Vec<u8>, bool) {
    let mut entries: Vec<u8> = Vec::new();
    let mut starts = Vec::new();
    let mut brought = [false; 3];
    while !dice.is_over() && starts.len() < 64 {
        let start = entries.len();
        let object = |kind: u8, data: &[u8], brought: &mut [bool; 3]| {
            for (new, brought) in world.new.iter().zip(brought) {
                *brought |= new.kind == kind && new.data == data;
            }
            entry(kind, data)
        };
        let bytes = match dice.byte() % 16 {
            n @ 0..3 => object(world.new[usize::from(n)].kind, &world.new[usize::from(n)].data, &mut brought),
            n @ 3..6 => {
                let n = usize::from(n) - 3;
                brought[n] = true;
                delta(&Base::Id(world.old[n].raw_id()), &replacing(&world.old[n].data, &world.new[n].data))
            }
            6 => object(BLOB, dice.short(), &mut brought),
            7 => object(TREE, dice.long(), &mut brought),
            8 => object(COMMIT, dice.long(), &mut brought),
            9 => object(TAG, dice.short(), &mut brought),
            10 => {
                let distance = if starts.is_empty() { 0 } else { start - starts[dice.below(starts.len())] };
                let distance = if dice.odd() { dice.u32() } else { distance as u32 };
                delta(&Base::Distance(distance), dice.long())
            }
            11 => {
                let known = [&world.old[0], &world.old[1], &world.new[0], &world.new[1]];
                let id = if dice.odd() { vec![dice.byte(); 20] } else { known[dice.below(4)].raw_id() };
                delta(&Base::Id(id), dice.long())
            }
            12 => {
                let size = u64::from(dice.u16()) << dice.below(16);
                [entry_header(dice.byte() % 8, size), stored(dice.short())].concat()
            }
            13 => {
                let size = 1 + (u64::from(dice.u16()) << dice.below(9));
                [entry_header(BLOB, size), zeros(size)].concat()
            }
            14 => {
                // A chain that grows: each copies the one before many times.
                let distance = starts.last().map_or(0, |last| (start - last) as u32);
                let times = usize::from(dice.u16() % 300);
                let said = [varint(65_536), varint(65_536 * times as u64), COPY_64K.repeat(times)].concat();
                delta(&Base::Distance(distance), &said)
            }
            _ => dice.long().to_vec(),
        };
        starts.push(start);
        entries.extend(bytes);
    }
    let count = if dice.odd() { dice.u32() } else { starts.len() as u32 };
    (bytes::pack(count, &entries), brought == [true; 3])
}

enum Base {
    Id(Vec<u8>),
    Distance(u32),
}

fn entry(kind: u8, data: &[u8]) -> Vec<u8> {
    [entry_header(kind, data.len() as u64), stored(data)].concat()
}

fn delta(base: &Base, said: &[u8]) -> Vec<u8> {
    let (kind, base) = match base {
        Base::Id(id) => (REF_DELTA, id.clone()),
        Base::Distance(distance) => (OFS_DELTA, offset(*distance)),
    };
    [entry_header(kind, said.len() as u64), base, stored(said)].concat()
}

/// A delta that keeps nothing of its base.
fn replacing(old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut said = [varint(old.len() as u64), varint(new.len() as u64)].concat();
    for part in new.chunks(127) {
        said.push(part.len() as u8);
        said.extend_from_slice(part);
    }
    said
}

/// The same bytes with the trailing hash put right.
pub fn with_trailer(mut pack: Vec<u8>) -> Vec<u8> {
    let body = pack.len() - 20;
    let hash = sha1(&pack[..body]);
    pack[body..].copy_from_slice(hash.as_slice());
    pack
}

fn sha1(bytes: &[u8]) -> gix::hash::ObjectId {
    let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
    hasher.update(bytes);
    hasher.try_finalize().unwrap()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let world = &*WORLD;
    let whole = bytes::pack(3, &world.new.iter().flat_map(Object::entry).collect::<Vec<_>>());
    vec![
        [&[0], &whole[..]].concat(),
        vec![1, 0, 1, 2],
        vec![1, 3, 4, 5],
        vec![1, 0, 1],
        vec![1, 0, 1, 2, 2, 6, 2, b'h', b'i', 9, 1, b't'],
        vec![1, 0, 10, 0, 0, 0, 4, 31, 1, 0x90, 1, 1, 2],
        vec![1, 0, 1, 2, 11, 0, 0, 0, 4, 32, 1, 0x90, 1],
        vec![1, 13, 0xff, 0xff, 8, 0, 1, 2],
        vec![1, 13, 0xff, 0xff, 0, 14, 1, 0, 14, 1, 0, 0, 1, 2],
        vec![1, 12, 1, 0, 4, 3, 2, b'h', b'i'],
        vec![1, 15, 0, 3, 1, 2, 3],
    ]
}
