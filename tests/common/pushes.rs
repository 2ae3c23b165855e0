//! Signed commits by the thousand: made and written into a repository by this process, without a program for each. They are
//! what `git commit -S` makes; git and the agent check them like any others.

#[path = "../trust/sshsig.rs"]
mod sshsig;

use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use gix::ObjectId;
use gix::objs::{Kind, Write as _};
use pullagent::model::Oid;

pub use sshsig::Key;
use sshsig::{PLAIN, Sshsig, with_header};

/// Files that pushes change in turn, below a directory of their own.
const FILES: usize = 20;
const DIRECTORY: &str = "pushes";
/// Seconds between two commits.
const APART_SECS: i64 = 1;

/// One who pushes to the branch `main` of a bare repository.
pub struct Pusher {
    repository: gix::Repository,
    key: Key,
    pub tip: Oid,
    /// The time of the tip, unix seconds.
    time: i64,
    /// The entries of the tip's tree besides [`DIRECTORY`]: mode and name, id.
    root: Vec<(String, String, ObjectId)>,
    files: Vec<ObjectId>,
    count: usize,
}

impl Pusher {
    /// Goes on from the commit that `main` points to in `repository`, as the owner of an OpenSSH private key.
    pub fn new(repository: &Path, private_key: &str) -> Pusher {
        let secret = ssh_key::PrivateKey::from_openssh(private_key).unwrap();
        let seed = secret.key_data().ed25519().unwrap().private.to_bytes();
        let key = Key { secret: SigningKey::from_bytes(&seed), algorithm: PLAIN };
        Pusher::with_key(repository, key)
    }

    pub fn with_key(repository: &Path, key: Key) -> Pusher {
        let repository = gix::open(repository).unwrap();
        let commit = repository.find_reference("refs/heads/main").unwrap().peel_to_commit().unwrap();
        let tip = commit.id().to_string().parse().unwrap();
        let time = commit.time().unwrap().seconds;
        let tree = commit.tree().unwrap();
        let entries = tree.iter().map(|entry| entry.unwrap());
        let root = entries
            .filter(|entry| entry.filename() != DIRECTORY)
            .map(|entry| {
                (format!("{:o}", entry.mode().value()), entry.filename().to_string(), entry.oid().to_owned())
            })
            .collect();
        let mut pusher =
            Pusher { repository: repository.clone(), key, tip, time, root, files: vec![], count: 0 };
        pusher.files =
            (0..FILES).map(|n| pusher.write(Kind::Blob, format!("file {n}\n").as_bytes())).collect();
        pusher
    }

    /// Puts a file into the root of what comes next, or replaces it.
    pub fn set(&mut self, name: &str, content: &str) {
        let id = self.write(Kind::Blob, content.as_bytes());
        self.root.retain(|entry| entry.1 != name);
        self.root.push(("100644".to_owned(), name.to_owned(), id));
    }

    /// Pushes a signed commit that changes one file, and returns it.
    pub fn push(&mut self) -> Oid {
        let commit = self.commit(true);
        self.tip = commit.clone();
        point(self.repository.git_dir(), "main", &commit);
        commit
    }

    /// Makes a commit as [`Pusher::push`] does, which nobody has signed, and leaves the branch as it is.
    pub fn unsigned(&mut self) -> Oid {
        self.commit(false)
    }

    fn commit(&mut self, signed: bool) -> Oid {
        self.count += 1;
        self.time += APART_SECS;
        let (count, n) = (self.count, self.count % FILES);
        self.files[n] = self.write(Kind::Blob, format!("file {n}, change {count}\n").as_bytes());
        let tree = self.tree();
        let who = format!("Alice <alice@example.org> {} +0000", self.time);
        let head = format!("tree {tree}\nparent {}\nauthor {who}\ncommitter {who}\n", self.tip);
        let payload = format!("{head}\nchange {count}\n").into_bytes();
        let raw = match signed {
            true => with_header(&payload, "gpgsig", &Sshsig::default().sign(&self.key, &payload)),
            false => payload,
        };
        self.write(Kind::Commit, &raw).to_string().parse().unwrap()
    }

    fn tree(&self) -> ObjectId {
        let files = self.files.iter().enumerate();
        let files = files.map(|(n, id)| ("100644".to_owned(), format!("file-{n}"), *id)).collect();
        let below = self.write(Kind::Tree, &tree_of(files));
        let mut root = self.root.clone();
        root.push(("40000".to_owned(), DIRECTORY.to_owned(), below));
        self.write(Kind::Tree, &tree_of(root))
    }

    fn write(&self, kind: Kind, bytes: &[u8]) -> ObjectId {
        self.repository.objects.write_buf(kind, bytes).unwrap()
    }
}

/// Returns the bytes of a tree, its entries in Git's order: a directory's name counts with a slash at its end.
fn tree_of(mut entries: Vec<(String, String, ObjectId)>) -> Vec<u8> {
    entries.sort_by_key(|(mode, name, _)| if mode == "40000" { format!("{name}/") } else { name.clone() });
    let bytes = |(mode, name, id): (String, String, ObjectId)| {
        [format!("{mode} {name}\0").as_bytes(), id.as_slice()].concat()
    };
    entries.into_iter().flat_map(bytes).collect()
}

/// Makes `branch` of the bare repository at `git_dir` point to `commit`, in one step.
pub fn point(git_dir: &Path, branch: &str, commit: &Oid) {
    let heads: PathBuf = git_dir.join("refs/heads");
    let temp = heads.join(format!("{branch}.lock"));
    std::fs::write(&temp, format!("{commit}\n")).unwrap();
    std::fs::rename(temp, heads.join(branch)).unwrap();
}

/// Lets the bare repository at `git_dir` use the objects of another one.
pub fn borrow(git_dir: &Path, from: &Path) {
    std::fs::write(git_dir.join("objects/info/alternates"), format!("{}\n", from.join("objects").display()))
        .unwrap();
}
