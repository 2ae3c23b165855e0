//! A host with a trusted store: imports as the agent does, through a real child process.

use std::fs::File;
use std::io::{Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use pullagent::host::command::use_binary;
use pullagent::model::Oid;
use pullagent::repo::export::{Export, ExportError, export};
use pullagent::repo::import::{Against, ImportRequest, Verdict, import, look, repack_if_needed};
use pullagent::repo::store::{Reference, Store};
use pullagent::repo::submodules::SubmoduleStores;
use pullagent::repo::{Failure, FailureClass, Limits};
use pullagent::trust::tree::Submodules;
use pullagent::trust::{AnchorFacts, Code};

use crate::git::{self, FIRST_COMMIT, Repo};

/// Long after every commit of the tests.
pub const NOW: u64 = FIRST_COMMIT + 1_000_000;

pub struct Host {
    _dir: Option<tempfile::TempDir>,
    state: PathBuf,
    pub main: AnchorFacts,
    pub limits: Limits,
    /// Where the configuration names submodules.
    pub submodules: Submodules,
}

impl Host {
    /// A host that was introduced to `anchor` and has fetched nothing yet.
    pub fn new(anchor: &Oid) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        Host { _dir: Some(dir), ..Host::at(state, anchor) }
    }

    /// The same with its state in a directory that exists already.
    pub fn at(state: PathBuf, anchor: &Oid) -> Host {
        use_binary(env!("CARGO_BIN_EXE_pullagent"));
        let main = AnchorFacts::introduction(anchor.clone());
        Host { _dir: None, state, main, limits: Limits::default(), submodules: Submodules::new() }
    }

    pub fn state(&self) -> &Path {
        &self.state
    }

    pub fn store(&self) -> Store {
        Store::open_or_create(&self.state, &self.main.revision).unwrap()
    }

    pub fn request(&self, tip: &Oid) -> ImportRequest {
        let against = Against::Main { anchor: self.main.clone() };
        let (host, branch) = ("web1".into(), "main".into());
        let (policy, now, limits, submodules) = (git::policy(), NOW, self.limits, self.submodules.clone());
        ImportRequest { tip: tip.clone(), against, policy, host, branch, now, submodules, limits }
    }

    pub fn submodule_stores(&self) -> SubmoduleStores {
        SubmoduleStores::new(&self.state, self.submodules.clone())
    }

    /// Exports the tip of the main line.
    pub fn export(&self, work: &Path) -> Result<Export, ExportError> {
        export(&self.store(), &self.submodule_stores(), &self.main.revision, work, &self.limits)
    }

    /// Imports a tip of the main line; `pack` comes as a file.
    pub fn import(&self, tip: &Oid, pack: Option<&[u8]>) -> Result<Verdict, Failure> {
        self.ask(&self.request(tip), pack)
    }

    pub fn ask(&self, request: &ImportRequest, pack: Option<&[u8]>) -> Result<Verdict, Failure> {
        let file = pack.map(|bytes| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            file.rewind().unwrap();
            file
        });
        self.ask_file(request, file)
    }

    pub fn ask_file(&self, request: &ImportRequest, file: Option<File>) -> Result<Verdict, Failure> {
        let store = self.store();
        let outcome = block_on(import(&store, request, file.map(Into::into)));
        assert_eq!(self.quarantines(), 0, "a quarantine was left behind");
        outcome
    }

    /// Imports and expects success; the tip is the new anchor.
    pub fn accept(&mut self, tip: &Oid, pack: Option<&[u8]>) {
        match self.import(tip, pack) {
            Ok(Verdict::Accepted(accepted)) => self.main = accepted.anchor,
            other => panic!("{tip} was not accepted: {other:?}"),
        }
        assert_eq!(self.store().tip(Reference::Main).as_ref(), Some(tip));
    }

    /// Imports what `repo` has at its tip, with the anchor as the have, and checks the store with git.
    pub fn follow(&mut self, repo: &Repo) {
        let (tip, anchor) = (repo.tip(), self.main.revision.clone());
        let haves: Vec<&Oid> = if self.store().has(&anchor).unwrap() { vec![&anchor] } else { Vec::new() };
        self.accept(&tip, Some(&repo.pack(&tip, &haves)));
    }

    /// Imports, expects a refusal with this code, and that nothing was kept.
    #[track_caller]
    pub fn refuse(&self, tip: &Oid, pack: Option<&[u8]>, code: Code) {
        let before = self.files();
        match self.import(tip, pack) {
            Ok(Verdict::Refused(refusal)) => assert_eq!(refusal.code, code, "{refusal}"),
            other => panic!("{tip} was not refused: {other:?}"),
        }
        assert_eq!(self.files(), before);
    }

    /// Imports, expects a failure of this class whose text has `words` in it, and that nothing was kept.
    #[track_caller]
    pub fn fail(&self, tip: &Oid, pack: &[u8], class: FailureClass, words: &str) {
        let before = self.files();
        let failure = self.import(tip, Some(pack)).expect_err("the import must fail");
        assert_eq!(failure.class, class, "{failure}");
        assert!(failure.text.contains(words), "{failure}");
        assert_eq!(self.files(), before);
    }

    /// Looks whether `pack` brings `oid`; whatever comes of it, nothing may be kept.
    #[track_caller]
    pub fn look(&self, oid: &Oid, pack: impl Into<OwnedFd>) -> Result<(), Failure> {
        let before = self.files();
        let found = block_on(look(&self.store(), oid, self.limits, pack.into()));
        assert_eq!((self.files(), self.quarantines()), (before, 0), "a look leaves nothing behind");
        found
    }

    pub fn repack(&self) -> Result<(), Failure> {
        block_on(repack_if_needed(&self.store(), &self.limits))
    }

    /// The store's files, without what only describes it.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        let mut todo = vec![self.store().git_dir().to_owned()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => todo.push(path),
                    false => found.push((path.clone(), path.metadata().unwrap().len())),
                }
            }
        }
        found.sort();
        found
    }

    pub fn packs(&self) -> usize {
        self.files().iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "pack")).count()
    }

    /// How many quarantines there are.
    pub fn quarantines(&self) -> usize {
        std::fs::read_dir(self.state.join("quarantine")).map_or(0, Iterator::count)
    }

    /// Lets git look for anything wrong with the store, unreachable objects included.
    #[track_caller]
    pub fn fsck(&self) {
        let output = self.git(&["fsck", "--strict", "--full", "--no-progress", "--no-dangling"]);
        assert_eq!(output, "notice: HEAD points to an unborn branch (main)");
    }

    /// Runs git on the store and returns both its outputs; it must succeed.
    #[track_caller]
    pub fn git(&self, args: &[&str]) -> String {
        let store = self.store();
        let mut git = Command::new("git");
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", self.state()).arg("--git-dir").arg(store.git_dir());
        let output = git.args(args).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).unwrap().trim().to_owned();
        assert!(output.status.success(), "git {args:?}: {text}");
        text
    }
}

/// Runs a future as the agent does: on one thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
