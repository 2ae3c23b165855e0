//! Submodules, made by real Git: what is exported is what a recursive checkout has; what a tree does not name, the
//! configuration does not allow or the limits forbid does not come in.

use std::fs;
use std::io::{Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use pullagent::model::Oid;
use pullagent::repo::export::{ExportError, missing};
use pullagent::repo::import::{Verdict, pin};
use pullagent::repo::submodules::Gitlink;
use pullagent::repo::{Failure, FailureClass};
use pullagent::trust::Code;
use pullagent::trust::tree::{DEPTH_MAX, Submodules};

use crate::bytes;
use crate::git::{self, Repo};
use crate::host::{Host, block_on};

impl Host {
    /// Names these paths in the configuration.
    fn allow(&mut self, paths: &[&str]) {
        self.submodules = paths.iter().map(|path| (*path).to_owned()).collect();
    }

    fn missing(&self) -> Result<Vec<Gitlink>, ExportError> {
        missing(&self.store(), &self.submodule_stores(), &self.main.revision, &self.limits)
    }

    /// Takes the tip of `repo` in as what the submodule at `path` needs.
    fn bring(&self, path: &str, repo: &Repo) {
        let tip = repo.tip();
        self.take_in(path, &tip, &repo.pack(&tip, &[])).unwrap();
    }

    /// Takes a pack in; whatever comes of it, no quarantine stays.
    fn take_in(&self, path: &str, commit: &Oid, pack: &[u8]) -> Result<(), Failure> {
        let link = Gitlink { path: path.to_owned(), commit: commit.clone() };
        let store = self.submodule_stores().open_or_create(&link).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(pack).unwrap();
        file.rewind().unwrap();
        let done = block_on(pin(&store, commit, self.limits, OwnedFd::from(file)));
        let quarantine = store.git_dir().with_file_name("quarantine");
        assert_eq!(fs::read_dir(quarantine).map_or(0, Iterator::count), 0, "a quarantine was left behind");
        done
    }

    fn stored(&self, path: &str, oid: &Oid) -> bool {
        let store = self.submodule_stores().store(path).unwrap();
        store.is_some_and(|store| store.has(oid).unwrap())
    }

    #[track_caller]
    fn refused(&self) -> (Code, String) {
        match self.missing() {
            Err(ExportError::Refused(_, refusal)) => (refusal.code, refusal.text),
            other => panic!("not refused: {other:?}"),
        }
    }
}

/// Adds `module` to `repo` at `path` as people do, and commits.
fn add(repo: &mut Repo, module: &Repo, path: &str) -> Oid {
    let from = module.path().to_str().unwrap();
    repo.git(&["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", from, path]);
    repo.commit(&format!("add {path}"))
}

/// A repository with one file.
fn library(file: &str, content: &str) -> Repo {
    let mut repo = Repo::new();
    repo.change(file, content);
    repo
}

/// A host that follows a repository with the submodule `lib`, which has a submodule `inner` of its own.
fn nested() -> (Repo, Repo, Repo, Host) {
    let inner = library("inner.nix", "{ inner = 1; }\n");
    let mut lib = library("lib.nix", "{ lib = 1; }\n");
    add(&mut lib, &inner, "deep/inner");
    let mut repo = library("flake.nix", "{ outputs = _: { }; }\n");
    let first = repo.tip();
    add(&mut repo, &lib, "modules/lib");
    let mut host = Host::new(&first);
    host.allow(&["modules/lib", "modules/lib/deep/inner", "not/there"]);
    host.follow(&repo);
    (repo, lib, inner, host)
}

/// The hash that Nix has for a directory.
fn nar_hash(path: &Path) -> String {
    let mut nix = Command::new("nix");
    nix.args(["--extra-experimental-features", "nix-command", "hash", "path", "--type", "sha256"]).arg(path);
    String::from_utf8(git::run(&mut nix, b"")).unwrap().trim().to_owned()
}

#[test]
fn an_export_hashes_as_a_recursive_checkout_and_as_nix_fetches_it() {
    let (repo, lib, inner, host) = nested();
    let link = |path: &str, repo: &Repo| vec![Gitlink { path: path.to_owned(), commit: repo.tip() }];
    assert_eq!(host.missing().unwrap(), link("modules/lib", &lib));
    host.bring("modules/lib", &lib);
    assert_eq!(host.missing().unwrap(), link("modules/lib/deep/inner", &inner));
    let work = tempfile::tempdir().unwrap();
    assert!(matches!(host.export(work.path()), Err(ExportError::Absent(link)) if link.commit == inner.tip()));
    assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0, "half an export was left behind");
    host.bring("modules/lib/deep/inner", &inner);
    assert_eq!(host.missing().unwrap(), []);
    let exported = host.export(work.path()).unwrap();

    let clone = work.path().join("clone");
    let (from, to) = (repo.path().to_str().unwrap(), clone.to_str().unwrap());
    repo.git(&["-c", "protocol.file.allow=always", "clone", "-q", "--recurse-submodules", from, to]);
    for git in [".git", "modules/lib/.git", "modules/lib/deep/inner/.git"] {
        let git = clone.join(git);
        if git.is_dir() { fs::remove_dir_all(git).unwrap() } else { fs::remove_file(git).unwrap() }
    }
    assert!(clone.join("modules/lib/deep/inner/inner.nix").is_file());
    assert_eq!(nar_hash(&exported.path()), nar_hash(&clone));

    let tree = format!(
        r#"(builtins.fetchTree {{ type = "git"; url = "file://{from}"; rev = "{}"; submodules = true; }}).narHash"#,
        repo.tip()
    );
    let store = tempfile::tempdir().unwrap();
    let mut nix = Command::new("nix");
    nix.args(["--extra-experimental-features", "nix-command flakes", "--store"]).arg(store.path());
    nix.args(["eval", "--raw", "--expr", &tree]).env("HOME", work.path()).env("XDG_CACHE_HOME", work.path());
    nix.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "protocol.file.allow");
    nix.env("GIT_CONFIG_VALUE_0", "always");
    assert_eq!(nar_hash(&exported.path()), String::from_utf8(git::run(&mut nix, b"")).unwrap());
}

#[test]
fn what_is_not_configured_is_refused_with_what_to_set() {
    let (repo, lib, _, mut host) = nested();
    host.bring("modules/lib", &lib);
    host.allow(&["modules/lib"]);
    let (code, text) = host.refused();
    assert_eq!(code, Code::Submodule);
    assert!(text.contains("source.submodules.\"modules/lib/deep/inner\""), "{text}");
    // The path counts from the root, whatever the name and wherever else it is allowed.
    for other in
        [&[][..], &["lib"], &["modules"], &["modules/lib/"], &["deep/inner"], &["modules/lib/deep/inner"]]
    {
        let mut stranger = Host::new(&repo.oid("HEAD~"));
        stranger.allow(other);
        stranger.refuse(&repo.tip(), Some(&repo.pack(&repo.tip(), &[])), Code::Submodule);
    }
}

/// The configuration that names a submodule may come from below the commit that adds it.
#[test]
fn the_newest_commit_without_the_submodule_is_the_stepping_stone() {
    let lib = library("lib.nix", "{ lib = 1; }\n");
    let mut repo = library("flake.nix", "{ outputs = _: { }; }\n");
    let first = repo.tip();
    let named = repo.change("machine.json", "{}\n");
    let added = add(&mut repo, &lib, "modules/lib");
    let later = repo.change("flake.nix", "{ outputs = _: { x = 1; }; }\n");
    let mut host = Host::new(&first);
    host.accept(&first, Some(&repo.pack(&first, &[])));
    let stone = |host: &Host, tip: &Oid| {
        let verdict = host.import(tip, Some(&repo.pack(tip, &[&host.main.revision]))).unwrap();
        let Verdict::Refused(refusal) = verdict else { panic!("{verdict:?}") };
        assert_eq!((refusal.code, refusal.commit.as_ref()), (Code::Submodule, Some(tip)));
        refusal.stepping_stone
    };
    assert_eq!(stone(&host, &added).as_ref(), Some(&named));
    assert_eq!(stone(&host, &later).as_ref(), Some(&named));
    host.accept(&named, Some(&repo.pack(&named, &[&first])));
    assert_eq!(stone(&host, &later), None, "there is nothing new without it");
}

#[test]
fn nothing_comes_in_but_what_the_tree_names() {
    let (_, mut lib, inner, host) = nested();
    let (path, named) = ("modules/lib", lib.tip());
    let stray = lib.object("blob", b"a stray file");
    let whole = lib.objects(&[named.as_str()]);
    let without = |kind: &str| {
        let kept = whole.iter().filter(|id| lib.git(&["cat-file", "-t", id]) != kind);
        kept.map(String::as_str).collect::<Vec<_>>()
    };
    let beside = whole.iter().map(String::as_str).chain([stray.as_str()]).collect::<Vec<_>>();
    let packs = [
        ("another repository", inner.pack(&inner.tip(), &[]), FailureClass::Missing),
        ("no files", lib.pack_of(&without("blob")), FailureClass::Missing),
        ("no trees", lib.pack_of(&without("tree")), FailureClass::Missing),
        ("more than the commit needs", lib.pack_of(&beside), FailureClass::Incomplete),
        ("no pack", b"hello".to_vec(), FailureClass::Incomplete),
        ("half a pack", lib.pack(&named, &[])[..200].to_vec(), FailureClass::Incomplete),
    ];
    for (what, pack, class) in packs {
        let failure = host.take_in(path, &named, &pack).expect_err(what);
        assert_eq!(failure.class, class, "{what}: {failure}");
        let store = host.submodule_stores().store(path).unwrap().unwrap();
        assert_eq!(fs::read_dir(store.git_dir().join("objects/pack")).unwrap().count(), 0, "{what} was kept");
        assert!(host.missing().unwrap().iter().any(|link| link.commit == named), "{what}");
    }
    // A later commit brings the one that is named along, and is not what was asked for.
    let later = lib.change("lib.nix", "{ lib = 2; }\n");
    let failure = host.take_in(path, &named, &lib.pack(&later, &[])).unwrap_err();
    assert_eq!(failure.class, FailureClass::Incomplete, "{failure}");
    assert!(!host.stored(path, &later) && !host.stored(path, &named));

    host.take_in(path, &named, &lib.pack(&named, &[])).unwrap();
    // The next one comes as a thin pack.
    host.take_in(path, &later, &lib.pack(&later, &[&named])).unwrap();
    assert!(host.stored(path, &later) && host.stored(path, &named));
    assert!(!host.store().has(&later).unwrap(), "what no one signed is not in the trusted store");
}

#[test]
fn a_gitlink_is_a_commit_and_has_a_name_that_is_its_own() {
    let mut repo = library("flake.nix", "{ }\n");
    let first = repo.tip();
    let lib = library("lib.nix", "{ }\n");
    let (commit, tree) = (lib.tip(), lib.oid("HEAD^{tree}"));
    let (commit, tree) = (commit.as_str(), tree.as_str());
    let (link, dir) = (repo.object("blob", b"/etc"), repo.object("tree", b""));
    type Entries<'a> = &'a [(&'a str, &'a str, &'a str)];
    let entries: [(Entries<'_>, Code); 5] = [
        (&[("160000", ".git", commit)], Code::BadPath),
        (&[("160000", ".GIT", commit)], Code::BadPath),
        (&[("160000", "..", commit)], Code::BadPath),
        (&[("120000", "lib", &link), ("160000", "lib", commit)], Code::BadTree),
        (&[("160000", "lib", commit), ("40000", "lib", &dir)], Code::BadTree),
    ];
    for (entries, code) in entries {
        let raw: Vec<u8> =
            entries.iter().flat_map(|(mode, name, id)| bytes::tree_entry(mode, name, id)).collect();
        let tree = repo.object("tree", &raw);
        let bad = repo.commit_tree(&tree);
        let mut host = Host::new(&first);
        host.allow(&["lib", ".git", ".GIT", ".."]);
        host.refuse(&bad, Some(&repo.pack(&bad, &[])), code);
        repo.git(&["update-ref", "refs/heads/main", first.as_str()]);
    }
    // A tree in the place of a commit, from the submodule's own store.
    let raw = repo.object("tree", &bytes::tree_entry("160000", "lib", tree));
    repo.commit_tree(&raw);
    let mut host = Host::new(&first);
    host.allow(&["lib"]);
    host.follow(&repo);
    host.bring("lib", &lib);
    let (code, text) = host.refused();
    assert!(code == Code::BadTree && text.contains("which is a tree"), "{text}");
}

#[test]
fn bytes_and_depth_are_counted_over_all_repositories() {
    const MIB_60: usize = 60 << 20;
    let mut lib = Repo::new();
    let mut repo = library("flake.nix", "{ }\n");
    let first = repo.tip();
    let big = vec![0; MIB_60];
    let many = |repo: &Repo, n: usize| {
        let blob = repo.object("blob", &big);
        let names = (0..n).map(|i| format!("big{i:02}"));
        names.flat_map(|name| bytes::tree_entry("100644", &name, &blob)).collect::<Vec<u8>>()
    };
    // 9 here and 9 there are 1080 MiB, and 1024 are the limit.
    let tree = lib.object("tree", &many(&lib, 9));
    lib.commit("root");
    let commit = lib.commit_tree(&tree);
    let mut raw = many(&repo, 9);
    raw.extend(bytes::tree_entry("160000", "lib", commit.as_str()));
    let tree = repo.object("tree", &raw);
    repo.commit_tree(&tree);
    let mut host = Host::new(&first);
    host.allow(&["lib"]);
    host.follow(&repo);
    assert_eq!(host.missing().unwrap().len(), 1, "the outer one is not too large");
    host.bring("lib", &lib);
    assert_eq!(host.refused().0, Code::TreeTooLarge);

    let deep = vec!["d"; DEPTH_MAX / 2].join("/");
    let mut lib = library(&format!("{deep}/file"), "deep");
    let mut repo = library("flake.nix", "{ }\n");
    let first = repo.tip();
    add(&mut repo, &lib, &deep);
    let follow = |repo: &Repo, lib: &Repo| {
        let mut host = Host::new(&first);
        host.allow(&[&deep]);
        host.follow(repo);
        host.bring(&deep, lib);
        host
    };
    assert_eq!(follow(&repo, &lib).refused().0, Code::TreeTooLarge);
    lib.git(&["mv", "-k", "d/d", "e"]);
    lib.commit("less deep");
    repo.git(&["-C", &deep, "-c", "protocol.file.allow=always", "pull", "-q"]);
    repo.commit("less deep");
    assert_eq!(follow(&repo, &lib).missing().unwrap(), []);
}

#[test]
fn a_store_that_is_of_no_use_is_known_and_can_go() {
    let (_, lib, inner, mut host) = nested();
    host.bring("modules/lib", &lib);
    host.bring("modules/lib/deep/inner", &inner);
    let stores = host.submodule_stores();
    let git_dir = stores.store("modules/lib").unwrap().unwrap().git_dir().to_owned();
    let mut files = fs::read_dir(git_dir.join("objects/pack")).unwrap().map(|e| e.unwrap().path());
    let pack = files.find(|path| path.extension().is_some_and(|e| e == "pack")).unwrap();
    let mut damaged = fs::read(&pack).unwrap();
    let trailer = damaged.len() - 20;
    damaged[100..trailer].fill(0xff);
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, damaged).unwrap();
    let work = tempfile::tempdir().unwrap();
    match host.export(work.path()) {
        Err(ExportError::Submodule { path, source }) => {
            assert_eq!((path.as_str(), source.class), ("modules/lib", FailureClass::Corrupt));
        }
        other => panic!("{other:?}"),
    }
    stores.discard("modules/lib").unwrap();
    assert_eq!(host.missing().unwrap().len(), 1, "the other store is not needed before this one is back");
    host.bring("modules/lib", &lib);
    host.export(work.path()).unwrap();

    // The other hash function.
    stores.discard("modules/lib").unwrap();
    let mut other = Repo::with_format("sha256");
    other.change("lib.nix", "{ }\n");
    host.bring("modules/lib", &other);
    match host.missing() {
        Err(ExportError::Submodule { path, source }) => {
            assert_eq!((path.as_str(), source.class), ("modules/lib", FailureClass::Corrupt));
            assert!(source.text.contains("sha256"), "{source}");
        }
        other => panic!("{other:?}"),
    }
    stores.discard("modules/lib").unwrap();

    // What a process that was killed leaves, and what is configured no longer.
    host.bring("modules/lib", &lib);
    let left = [git_dir.with_file_name("quarantine").join("0123"), git_dir.join("objects/pack/pack-x.pack")];
    fs::create_dir_all(&left[0]).unwrap();
    fs::write(&left[1], "half").unwrap();
    host.submodules = Submodules::from(["modules/lib".to_owned()]);
    host.submodule_stores().sweep().unwrap();
    assert!(left.iter().all(|path| !path.exists()) && host.stored("modules/lib", &lib.tip()));
    assert_eq!(fs::read_dir(host.state().join("submodules")).unwrap().count(), 1);
    host.submodules = Submodules::new();
    host.submodule_stores().sweep().unwrap();
    assert_eq!(fs::read_dir(host.state().join("submodules")).unwrap().count(), 0);
}
