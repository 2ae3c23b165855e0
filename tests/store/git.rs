//! Real repositories, signed with real keys by the real `git` and `ssh-keygen`, and the packs a real server would send.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::product::model::Oid;
use super::product::trust::{Policy, PublicKey, Role, Rules, Signer};

/// Seconds of the first commit; each one is a minute later than the one before.
pub const FIRST_COMMIT: u64 = 1_700_000_000;

/// A repository with a work tree, as a person has one.
pub struct Repo {
    dir: tempfile::TempDir,
    commits: u64,
}

impl Repo {
    /// An empty SHA-1 repository.
    pub fn new() -> Repo {
        Repo::with_format("sha1")
    }

    /// An empty repository with ids of this hash function.
    pub fn with_format(format: &str) -> Repo {
        let repo = Repo { dir: tempfile::tempdir().unwrap(), commits: 0 };
        repo.git(&["init", "-q", "-b", "main", &format!("--object-format={format}")]);
        repo.git(&["config", "user.name", "Alice"]);
        repo.git(&["config", "user.email", "alice@example.org"]);
        repo.git(&["config", "gpg.format", "ssh"]);
        let key = repo.path().join(".git/alice");
        std::fs::write(&key, &keys()[0]).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        repo.git(&["config", "user.signingkey", key.to_str().unwrap()]);
        repo.git(&["config", "commit.gpgsign", "true"]);
        repo
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs git and returns what it printed.
    pub fn git(&self, args: &[&str]) -> String {
        let out = self.pipe(args, b"");
        String::from_utf8(out).unwrap().trim().to_owned()
    }

    /// Runs git with `input` and returns the bytes it printed.
    pub fn pipe(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let date = format!("{} +0000", FIRST_COMMIT + 60 * self.commits);
        let mut git = Command::new("git");
        git.arg("-C").arg(self.path()).args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        git.env("HOME", self.path()).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_COMMITTER_DATE", &date);
        run(git.env("GIT_AUTHOR_DATE", &date), input)
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Commits all files, signed.
    pub fn commit(&mut self, message: &str) -> Oid {
        self.commits += 1;
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.tip()
    }

    /// Writes one file and commits it, signed.
    pub fn change(&mut self, path: &str, content: impl AsRef<[u8]>) -> Oid {
        self.write(path, content);
        self.commit(&format!("change {path}"))
    }

    /// Commits a tree that lies in the object database, signed, on top of `main`, and makes it the tip.
    pub fn commit_tree(&mut self, tree: &str) -> Oid {
        self.commits += 1;
        let id = self.git(&["commit-tree", "-S", "-p", "HEAD", "-m", "by hand", tree]);
        self.git(&["update-ref", "refs/heads/main", &id]);
        id.parse().unwrap()
    }

    /// Puts any bytes into the object database, well-formed or not.
    pub fn object(&self, kind: &str, bytes: &[u8]) -> String {
        let id = self.pipe(&["hash-object", "-t", kind, "-w", "--stdin", "--literally"], bytes);
        String::from_utf8(id).unwrap().trim().to_owned()
    }

    pub fn tip(&self) -> Oid {
        self.oid("HEAD")
    }

    pub fn oid(&self, revision: &str) -> Oid {
        self.git(&["rev-parse", "--verify", revision]).parse().unwrap()
    }

    /// The pack that git's server sends to who wants `want` and has `haves`: thin, with offset deltas.
    pub fn pack(&self, want: &Oid, haves: &[&Oid]) -> Vec<u8> {
        let mut revs = format!("{want}\n");
        for have in haves {
            revs.push_str(&format!("^{have}\n"));
        }
        self.pipe(
            &["pack-objects", "-q", "--revs", "--thin", "--delta-base-offset", "--stdout"],
            revs.as_bytes(),
        )
    }

    /// A pack of exactly these objects.
    pub fn pack_of(&self, ids: &[&str]) -> Vec<u8> {
        self.pipe(&["pack-objects", "-q", "--stdout"], ids.join("\n").as_bytes())
    }

    /// All objects reachable from `revisions` (`A`, `^B`), as ids.
    pub fn objects(&self, revisions: &[&str]) -> Vec<String> {
        let args = [&["rev-list", "--objects", "--no-object-names"], revisions].concat();
        self.git(&args).lines().map(str::to_owned).collect()
    }
}

/// Runs a program with `input`; it must succeed.
pub fn run(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).ok());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Alice's private and public key, made once and kept in memory.
fn keys() -> &'static [String; 2] {
    static KEYS: OnceLock<[String; 2]> = OnceLock::new();
    KEYS.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("alice");
        let mut keygen = Command::new("ssh-keygen");
        run(keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "alice", "-f"]).arg(&path), b"");
        [path.clone(), path.with_extension("pub")].map(|file| std::fs::read_to_string(file).unwrap())
    })
}

/// Alice's private key, as in `~/.ssh/id_ed25519`.
#[allow(dead_code, reason = "each test takes the part it needs")]
pub fn private_key() -> &'static str {
    &keys()[0]
}

/// Alice's public key, as in `~/.ssh/id_ed25519.pub`.
#[allow(dead_code, reason = "each test takes the part it needs")]
pub fn public_key() -> &'static str {
    keys()[1].trim()
}

/// Alice may deploy, nobody else.
pub fn policy() -> Policy {
    let key: PublicKey = keys()[1].trim().parse().unwrap();
    let keys = vec![key.into()];
    let alice = Signer { name: "alice".into(), keys, roles: [Role::Deployer].into(), test_hosts: None };
    Policy::new(vec![alice], Vec::new(), Rules::default()).unwrap()
}

/// The same bytes with the trailing hash put right: what a hostile server would send.
pub fn with_trailer(mut pack: Vec<u8>) -> Vec<u8> {
    let body = pack.len() - 20;
    let mut hasher = gix::hash::hasher(gix::hash::Kind::Sha1);
    hasher.update(&pack[..body]);
    pack[body..].copy_from_slice(hasher.try_finalize().unwrap().as_slice());
    pack
}
