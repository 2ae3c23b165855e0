//! A throw-away repository driven by the real git and ssh-keygen, away from anybody's configuration.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pullagent::model::Oid;
use pullagent::trust::{
    self, Accepted, AnchorFacts, Code, Context, ObjectFormat, Policy, PublicKey, Refusal, Role, Rules, Signer,
};

use super::sshsig::{Key, Sshsig, with_header};

/// The host's clock in these tests.
pub const NOW: u64 = 1_800_000_000;

/// Where a tip of the main line is judged in these tests.
pub const MAIN: Context<'static> = Context { host: "web1", branch: "main", now: NOW };

/// Where a tip of the test branch is judged in these tests.
pub const TEST: Context<'static> = Context { host: "web1", branch: "test-web1", now: NOW };

/// What `git verify-commit` says of the same object.
#[derive(Debug, PartialEq, Eq)]
pub enum Git {
    Accepts,
    Rejects,
    /// It depends on the version of OpenSSH or git; 9.2p1 with git 2.47 accepts, and is held to it.
    OldAccepts,
}

/// A repository with an unsigned commit, the introduction, on `main`.
///
/// Alice is a deployer with a plain key (on disk as `alice`) and a security key; bob contributes; mallory is
/// nobody.
pub struct Forge {
    dir: tempfile::TempDir,
    pub introduction: Oid,
    pub alice: Key,
    pub alice_sk: Key,
    pub bob: Key,
    pub mallory: Key,
}

impl Forge {
    pub fn new() -> Forge {
        Forge::of_format("sha1")
    }

    pub fn of_format(format: &str) -> Forge {
        let mut forge = Forge {
            dir: tempfile::tempdir().unwrap(),
            introduction: "0".repeat(40).parse().unwrap(),
            alice: Key::plain(1),
            alice_sk: Key::sk(2),
            bob: Key::plain(3),
            mallory: Key::plain(4),
        };
        for (name, key) in [("alice", &forge.alice), ("bob", &forge.bob), ("mallory", &forge.mallory)] {
            forge.private_file(name, &key.file());
            std::fs::write(forge.path(&format!("{name}.pub")), key.line()).unwrap();
        }
        let keys = [(&forge.alice, "alice"), (&forge.alice_sk, "alice"), (&forge.bob, "bob")];
        for (key, name) in keys {
            forge.allow(name, &key.line());
        }
        forge.git(&["init", "-q", "-b", "main", &format!("--object-format={format}"), "."]);
        std::fs::write(forge.path("host.nix"), "{ }\n").unwrap();
        forge.git(&["add", "host.nix"]);
        forge.git(&["commit", "-q", "-m", "Begin"]);
        forge.introduction = forge.id("HEAD");
        forge
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn private_file(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(self.path(name), text).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Adds a line to the allowed-signers file that git uses.
    pub fn allow(&self, name: &str, key: &str) {
        let mut file =
            std::fs::OpenOptions::new().append(true).create(true).open(self.path("allowed")).unwrap();
        writeln!(file, "{name} namespaces=\"git\" {key}").unwrap();
    }

    /// Runs a program in the repository with an empty environment.
    pub fn run(&self, program: &str, args: &[&str], env: &[(&str, &str)], stdin: &[u8]) -> Output {
        let mut child = Command::new(program)
            .args(args)
            .current_dir(self.dir.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs([("HOME", self.dir.path()), ("GIT_CONFIG_GLOBAL", Path::new("/dev/null"))])
            .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("LC_ALL", "C"), ("TZ", "UTC")])
            .envs([("GIT_AUTHOR_NAME", "A U Thor"), ("GIT_AUTHOR_EMAIL", "a@example.org")])
            .envs([("GIT_COMMITTER_NAME", "A U Thor"), ("GIT_COMMITTER_EMAIL", "a@example.org")])
            .envs([("GIT_AUTHOR_DATE", "1700000000 +0000"), ("GIT_COMMITTER_DATE", "1700000000 +0000")])
            .envs(env.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Runs git, which must succeed, and returns its output without the last line end.
    pub fn git(&self, args: &[&str]) -> String {
        self.git_at(1_700_000_000, args)
    }

    /// The same at another time.
    pub fn git_at(&self, seconds: u64, args: &[&str]) -> String {
        let date = format!("{seconds} +0000");
        let env = [("GIT_COMMITTER_DATE", date.as_str())];
        let ssh = ["-c", "gpg.format=ssh", "-c", "gpg.ssh.allowedSignersFile=allowed"];
        let output = self.run("git", &[&ssh, args].concat(), &env, b"");
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    pub fn id(&self, name: &str) -> Oid {
        self.git(&["rev-parse", name]).parse().unwrap()
    }

    /// Makes an empty commit signed with the key file `key`, on what is checked out.
    pub fn signed(&self, key: &str, message: &str) -> Oid {
        self.signed_at(1_700_000_000, key, message)
    }

    pub fn signed_at(&self, seconds: u64, key: &str, message: &str) -> Oid {
        let user = format!("user.signingkey={key}");
        self.git_at(seconds, &["-c", &user, "commit", "-q", "--allow-empty", "-S", "-m", message]);
        self.id("HEAD")
    }

    /// Makes an empty commit without a signature.
    pub fn unsigned(&self, message: &str) -> Oid {
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self.id("HEAD")
    }

    /// Returns the raw bytes of an object, or `None` if there is none of this kind.
    pub fn object(&self, kind: &str, id: &Oid) -> Option<Vec<u8>> {
        let output = self.run("git", &["cat-file", kind, id.as_str()], &[], b"");
        output.status.success().then_some(output.stdout)
    }

    pub fn raw(&self, id: &Oid) -> Vec<u8> {
        self.object("commit", id).unwrap()
    }

    /// Stores bytes as an object, whatever they are.
    pub fn store(&self, kind: &str, raw: &[u8]) -> Oid {
        let args = ["hash-object", "-t", kind, "-w", "--stdin", "--literally"];
        let output = self.run("git", &args, &[], raw);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }

    /// Returns an unsigned commit on top of the introduction, to be signed by hand.
    pub fn payload(&self) -> Vec<u8> {
        let tree = self.id("main^{tree}");
        let people = "A U Thor <a@example.org> 1700000000 +0000";
        let parent = &self.introduction;
        format!("tree {tree}\nparent {parent}\nauthor {people}\ncommitter {people}\n\nOpen the door\n").into()
    }

    /// Signs [`Forge::payload`] by hand and returns the commit.
    pub fn by_hand(&self, key: &Key, sig: &Sshsig) -> Vec<u8> {
        let payload = self.payload();
        with_header(&payload, "gpgsig", &sig.sign(key, &payload))
    }

    pub fn policy(&self) -> Policy {
        self.policy_with(&[], false)
    }

    pub fn policy_with(&self, revoked: &[&Key], require_uv: bool) -> Policy {
        let signer = |name: &str, keys: &[&Key], role| Signer {
            name: name.into(),
            keys: keys.iter().map(|k| k.public().into()).collect(),
            roles: [role].into(),
            test_hosts: None,
        };
        let alice = signer("alice", &[&self.alice, &self.alice_sk], Role::Deployer);
        let bob = signer("bob", &[&self.bob], Role::Contributor);
        let revoked: Vec<PublicKey> = revoked.iter().map(|k| k.public()).collect();
        let rules = Rules { require_user_verification: require_uv, ..Rules::default() };
        Policy::new(vec![alice, bob], revoked, rules).unwrap()
    }

    /// Reads a commit as the caller of the room does.
    pub fn read(&self) -> impl FnMut(&Oid) -> Result<Vec<u8>, Refusal> + '_ {
        |id| {
            let missing = || Refusal::new(Code::MissingObject, Some(id), format!("commit {id} is missing"));
            self.object("commit", id).ok_or_else(missing)
        }
    }

    pub fn anchor(&self) -> AnchorFacts {
        AnchorFacts::introduction(self.introduction.clone())
    }

    /// Offers `tip` to a host that has accepted the introduction.
    pub fn offer(&self, tip: &Oid) -> Result<Accepted, Refusal> {
        trust::verify_main(&mut self.read(), tip, &self.anchor(), &self.policy(), &MAIN)
    }

    /// Stores a commit and offers it.
    pub fn offer_raw(&self, raw: &[u8]) -> (Oid, Result<Accepted, Refusal>) {
        let id = self.store("commit", raw);
        let verdict = self.offer(&id);
        (id, verdict)
    }

    /// Checks that a commit is accepted as alice's, here and by git.
    pub fn accepts(&self, raw: &[u8]) -> Accepted {
        let (id, verdict) = self.offer_raw(raw);
        let accepted = verdict.unwrap();
        assert_eq!(accepted.signer.as_deref(), Some("alice"));
        assert!(self.git_accepts(&id), "git rejects what we accept");
        accepted
    }

    /// Checks that a commit is refused with `code`, and that git says what the catalogue says, so that the
    /// forgery is known to be the one that was meant.
    pub fn refuses(&self, raw: &[u8], code: Code, git: Git) -> Refusal {
        let (id, verdict) = self.offer_raw(raw);
        let refusal = verdict.unwrap_err();
        assert_eq!(refusal.code, code, "{refusal}");
        assert_eq!(refusal.commit.as_ref(), Some(&id));
        match git {
            Git::Accepts => assert!(self.git_accepts(&id), "git rejects: the forgery is not the one meant"),
            Git::Rejects => assert!(!self.git_accepts(&id), "git accepts: the forgery is not the one meant"),
            Git::OldAccepts => assert!(
                self.git_accepts(&id) || !self.is_old(),
                "git rejects: the forgery is not the one meant"
            ),
        }
        refusal
    }

    /// Tells whether git and OpenSSH are of the versions with which the catalogue was measured.
    fn is_old(&self) -> bool {
        let said = |program: &str, flag: &str| {
            let output = self.run(program, &[flag], &[], b"");
            String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
        };
        said("ssh", "-V").contains("OpenSSH_9.2p1") && said("git", "--version").contains(" 2.47.")
    }

    /// Asks the oracle.
    pub fn git_accepts(&self, id: &Oid) -> bool {
        let args = [
            "-c",
            "gpg.ssh.allowedSignersFile=allowed",
            "-c",
            "gpg.format=ssh",
            "verify-commit",
            id.as_str(),
        ];
        self.run("git", &args, &[], b"").status.success()
    }

    /// Returns the armor of a commit's signature and the bytes it signs.
    pub fn split(&self, raw: &[u8]) -> (Vec<u8>, String) {
        let split = trust::commit::split(raw, ObjectFormat::Sha1).unwrap();
        (split.payload, String::from_utf8(split.armor).unwrap())
    }
}

/// Replaces the only occurrence of `from`.
pub fn replace(raw: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(raw.to_vec()).unwrap();
    assert_eq!(text.matches(from).count(), 1, "'{from}' in {text}");
    text.replace(from, to).into()
}

/// Puts header lines before or behind the signature of a signed commit.
pub fn insert(raw: &[u8], behind_signature: bool, lines: &str) -> Vec<u8> {
    let mark = if behind_signature { "-----END SSH SIGNATURE-----\n" } else { "gpgsig -----BEGIN" };
    let with = if behind_signature { format!("{mark}{lines}") } else { format!("{lines}{mark}") };
    replace(raw, mark, &with)
}
