//! An export is what `nix` sees in a checkout, byte for byte.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use pullagent::repo::local::{LocalError, open_for_verify};

use crate::git::{self, FIRST_COMMIT, Repo};
use crate::host::Host;

/// A tree with everything that a checkout could get wrong.
fn motley() -> Repo {
    let mut repo = Repo::new();
    repo.write("flake.nix", "{ outputs = _: { }; }\n");
    repo.write("empty", "");
    repo.write("windows.txt", "one\r\ntwo\r\n");
    repo.write("unix.txt", "one\ntwo\n");
    repo.write("version", "$Format:%H$ $Id$\n");
    repo.write("secret", "not exported by git archive\n");
    repo.write("deep/er/and/deeper/file", [0, 1, 2, 255]);
    repo.write("a name with spaces, ünïcode and \u{1}", "x");
    repo.write("run.sh", "#!/bin/sh\n");
    fs::set_permissions(repo.path().join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("../outside/../../etc/passwd", repo.path().join("deep/link")).unwrap();
    symlink("er", repo.path().join("deep/link-to-dir")).unwrap();
    repo.commit("motley");
    repo
}

/// The hash of a directory as Nix archives it, without a store.
fn nar_hash(path: &Path) -> String {
    let hash = git::run(Command::new("nix-hash").args(["--type", "sha256", "--base32"]).arg(path), b"");
    String::from_utf8(hash).unwrap()
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

#[test]
fn an_export_hashes_as_a_checkout_does() {
    let mut repo = motley();
    let mut host = Host::new(&repo.tip());
    host.follow(&repo);
    let work = tempfile::tempdir().unwrap();

    let plain = host.export(work.path()).unwrap();
    let checkout = tempfile::tempdir().unwrap();
    let tree = checkout.path().join("source");
    repo.git(&["worktree", "add", "-q", "--detach", tree.to_str().unwrap()]);
    fs::remove_file(tree.join(".git")).unwrap();
    assert_eq!(nar_hash(&plain.path()), nar_hash(&tree));
    assert_eq!(plain.path().file_name().unwrap(), "source");

    // Attributes change what git checks out and archives, but not what is exported.
    let attributes = "*.txt text eol=crlf\nversion export-subst ident\nsecret export-ignore\n";
    let blob = repo.object("blob", attributes.as_bytes());
    repo.git(&["update-index", "--add", "--cacheinfo", &format!("100644,{blob},.gitattributes")]);
    let with_attributes = repo.git(&["write-tree"]);
    repo.commit_tree(&with_attributes);
    host.follow(&repo);
    let attributed = host.export(work.path()).unwrap();
    fs::write(tree.join(".gitattributes"), attributes).unwrap();
    assert_eq!(nar_hash(&attributed.path()), nar_hash(&tree));
    drop((plain, attributed));
    assert_eq!(count(work.path()), 0, "exports were left behind");
}

#[test]
fn every_file_has_the_time_of_the_commit() {
    let repo = motley();
    let mut host = Host::new(&repo.tip());
    host.follow(&repo);
    let work = tempfile::tempdir().unwrap();
    let exported = host.export(work.path()).unwrap();
    assert_eq!(exported.commit_time(), FIRST_COMMIT as i64 + 60);
    let mut todo = vec![exported.path()];
    let mut seen = 0;
    while let Some(path) = todo.pop() {
        let metadata = path.symlink_metadata().unwrap();
        assert_eq!(
            (metadata.mtime(), metadata.mtime_nsec()),
            (exported.commit_time(), 0),
            "{}",
            path.display()
        );
        seen += 1;
        if metadata.is_dir() {
            todo.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    assert_eq!(seen, 1 + 8 + 4 + 1 + 2, "the root, files, directories, the nested file, links");
}

#[test]
fn what_is_not_trusted_is_not_exported() {
    let mut repo = motley();
    let mut host = Host::new(&repo.tip());
    host.follow(&repo);
    let work = tempfile::tempdir().unwrap();
    host.main.revision = repo.change("flake.nix", "{ }");
    let exported = host.export(work.path());
    assert!(exported.is_err());
    assert_eq!(count(work.path()), 0);
}

#[test]
fn commits_of_an_ordinary_repository_can_be_read() {
    let mut repo = motley();
    let packed = repo.tip();
    repo.git(&["gc", "-q"]);
    let loose = repo.change("a", "b");
    repo.git(&["tag", "v1"]);
    let bare = tempfile::tempdir().unwrap();
    let clone = bare.path().join("clone.git");
    let url = format!("file://{}", repo.path().display());
    repo.git(&["clone", "-q", "--bare", &url, clone.to_str().unwrap()]);
    let linked = bare.path().join("linked");
    repo.git(&["worktree", "add", "-q", "-b", "side", linked.to_str().unwrap()]);
    let shared = bare.path().join("shared");
    repo.git(&["clone", "-q", "-s", ".", shared.to_str().unwrap()]);
    repo.git(&["replace", loose.as_str(), packed.as_str()]);

    for dir in [repo.path(), &repo.path().join(".git"), &clone, &linked, &shared] {
        let local = open_for_verify(dir, &[]).unwrap();
        for name in ["main", "HEAD", "refs/heads/main", "refs/tags/v1", loose.as_str()] {
            if dir == shared && name == "refs/heads/main" {
                continue;
            }
            assert_eq!(local.resolve(name).unwrap(), loose, "{name} in {}", dir.display());
        }
        for oid in [&packed, &loose] {
            let raw = local.commit(oid).unwrap();
            assert_eq!(repo.pipe(&["--no-replace-objects", "cat-file", "commit", oid.as_str()], b""), raw);
        }
        assert!(
            matches!(local.resolve("v1"), Err(LocalError::NoSuchRevision { .. })),
            "tags need their full name"
        );
        assert!(matches!(local.resolve(loose.short()), Err(LocalError::NoSuchRevision { .. })));
    }
    let local = open_for_verify(repo.path(), &[]).unwrap();
    let tree = repo.oid("HEAD^{tree}");
    assert!(matches!(local.commit(&tree), Err(LocalError::WrongKind(..))));
    assert!(matches!(local.commit(&"1".repeat(40).parse().unwrap()), Err(LocalError::Missing(_))));
    assert!(matches!(open_for_verify(bare.path(), &[]), Err(LocalError::Open { .. })));
    // A loose object whose bytes were changed on disk.
    let file = repo.path().join(".git/objects").join(&loose.as_str()[..2]).join(&loose.as_str()[2..]);
    let other = repo.object("blob", b"something else");
    let bytes = fs::read(repo.path().join(".git/objects").join(&other[..2]).join(&other[2..])).unwrap();
    fs::remove_file(&file).unwrap();
    fs::write(&file, bytes).unwrap();
    assert!(open_for_verify(repo.path(), &[]).unwrap().commit(&loose).is_err());
}
