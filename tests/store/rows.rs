//! Rows of the attack catalogue that need a store and an export: what git would believe of a repository on disk (R05,
//! R06), and what files in a tree would do to a checkout (T04 to T06). And that the child which judges is told the whole
//! policy.

use std::fs;
use std::path::Path;

use pullagent::model::Oid;
use pullagent::repo::import::{Against, ImportRequest, Verdict};
use pullagent::repo::store::{Store, StoreError};
use pullagent::trust::{Code, Merges, Policy, RefBinding, Rules, Signer};

use crate::git::{self, Repo};
use crate::host::{Host, NOW};

/// A host that runs what is at the tip of its repository.
fn following() -> (Repo, Host) {
    let mut repo = Repo::new();
    let first = repo.change("flake.nix", "{ }\n");
    let mut host = Host::new(&first);
    host.follow(&repo);
    (repo, host)
}

/// Exports what `host` has accepted, and shows the tree's directory.
fn exported(host: &Host, look: impl FnOnce(&Path)) {
    let work = tempfile::tempdir().unwrap();
    look(&host.export(work.path()).unwrap().path());
}

#[test]
fn r05_replace_refs_in_the_store_are_ignored() {
    let (mut repo, mut host) = following();
    let tip = repo.change("flake.nix", "{ honest = true; }\n");
    host.follow(&repo);
    // Somebody with access to the store makes git show other bytes under the ids of the tip and of its file.
    let blob = repo.oid("HEAD:flake.nix");
    let evil = repo.object("blob", b"{ evil = true; }\n");
    let directory = host.store().git_dir().to_owned();
    let other = host.git(&["rev-parse", &format!("{tip}~1")]);
    fs::write(directory.join("evil"), "{ evil = true; }\n").unwrap();
    host.git(&["hash-object", "-w", directory.join("evil").to_str().unwrap()]);
    fs::remove_file(directory.join("evil")).unwrap();
    host.git(&["replace", blob.as_str(), &evil]);
    host.git(&["replace", tip.as_str(), &other]);
    assert_eq!(host.git(&["cat-file", "blob", blob.as_str()]), "{ evil = true; }", "git believes it");
    exported(&host, |tree| {
        assert_eq!(fs::read_to_string(tree.join("flake.nix")).unwrap(), "{ honest = true; }\n");
    });
    // Nor does the replaced tip's other parent change what may follow.
    repo.change("flake.nix", "{ honest = 2; }\n");
    host.follow(&repo);
}

#[test]
fn r06_grafts_and_shallow_files_in_the_store_are_damage() {
    let (mut repo, mut host) = following();
    let anchor = repo.change("flake.nix", "{ second = true; }\n");
    host.follow(&repo);
    let git_dir = host.store().git_dir().to_owned();
    let old = repo.oid("HEAD~1");
    // A graft that makes the anchor a root, and a list that calls it shallow. Git would believe either; here both are
    // damage, which the store is thrown away for and fetched again.
    for (file, content) in [("info/grafts", format!("{anchor}\n")), ("shallow", format!("{anchor}\n"))] {
        fs::create_dir_all(git_dir.join("info")).unwrap();
        fs::write(git_dir.join(file), content).unwrap();
        let opened = Store::open(host.state());
        assert!(matches!(opened, Err(StoreError::Corrupt { .. })), "{file}: {opened:?}");
        Store::discard(host.state()).unwrap();
        let tip = repo.tip();
        host.accept(&tip, Some(&repo.pack(&tip, &[])));
        host.refuse(&old, None, Code::NotFastForward);
    }
}

#[test]
fn t04_links_that_lead_out_are_stored_and_never_followed() {
    let (mut repo, mut host) = following();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("file"), "untouched").unwrap();
    let absolute = outside.path().to_str().unwrap().to_owned();
    for (name, target) in [("absolute", absolute.as_str()), ("upwards", "../../../../etc"), ("itself", ".")] {
        std::os::unix::fs::symlink(target, repo.path().join(name)).unwrap();
    }
    repo.commit("links");
    host.follow(&repo);
    exported(&host, |tree| {
        assert_eq!(fs::read_link(tree.join("absolute")).unwrap(), outside.path());
        assert_eq!(fs::read_link(tree.join("upwards")).unwrap(), Path::new("../../../../etc"));
        assert_eq!(fs::read_link(tree.join("itself")).unwrap(), Path::new("."));
    });
    assert_eq!(fs::read_to_string(outside.path().join("file")).unwrap(), "untouched");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "something was written through the link");
}

#[test]
fn t05_attributes_and_pointers_change_no_byte() {
    let (mut repo, mut host) = following();
    let attributes = "*.txt text eol=crlf\n\
        version export-subst ident\n\
        secret export-ignore\n\
        latin working-tree-encoding=ISO-8859-1\n\
        *.bin filter=lfs diff=lfs merge=lfs -text\n\
        evil filter=evil\n";
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n";
    let files: [(&str, &[u8]); 7] = [
        ("a.txt", b"one\ntwo\r\n"),
        ("version", b"$Format:%H$ $Id$\n"),
        ("secret", b"still there\n"),
        ("latin", "ü\n".as_bytes()),
        ("x.bin", pointer.as_bytes()),
        ("evil", b"not filtered\n"),
        (".gitattributes", attributes.as_bytes()),
    ];
    // As blobs, past git's own conversions on the way in.
    for (name, content) in files {
        let blob = repo.object("blob", content);
        repo.git(&["update-index", "--add", "--cacheinfo", &format!("100644,{blob},{name}")]);
    }
    let tree = repo.git(&["write-tree"]);
    repo.commit_tree(&tree);
    host.git(&["config", "filter.evil.smudge", "false"]);
    host.git(&["config", "filter.evil.required", "true"]);
    host.follow(&repo);
    exported(&host, |tree| {
        for (name, content) in files {
            assert_eq!(fs::read(tree.join(name)).unwrap(), content, "{name}");
        }
    });
}

#[test]
fn t06_hooks_and_configuration_in_the_tree_run_nothing() {
    let (mut repo, mut host) = following();
    let ran = tempfile::tempdir().unwrap();
    let hook = format!("#!/bin/sh\ntouch {}/ran\n", ran.path().display());
    let config = "[core]\n\thooksPath = .githooks\n\tfsmonitor = .githooks/post-checkout\n\
        [filter \"x\"]\n\tsmudge = .githooks/post-checkout\n";
    let mut entries =
        vec![("100644", ".gitconfig".to_owned(), config), ("100644", "config".to_owned(), config)];
    entries.push(("100644", ".gitattributes".to_owned(), "* filter=x\n"));
    for name in ["post-checkout", "post-merge", "reference-transaction", "update"] {
        entries.extend([".githooks", "hooks"].map(|dir| ("100755", format!("{dir}/{name}"), hook.as_str())));
    }
    // As blobs: in the work tree of the signer some of it would run.
    for (mode, name, content) in entries {
        let blob = repo.object("blob", content.as_bytes());
        repo.git(&["update-index", "--add", "--cacheinfo", &format!("{mode},{blob},{name}")]);
    }
    let tree = repo.git(&["write-tree"]);
    repo.commit_tree(&tree);
    host.follow(&repo);
    exported(&host, |tree| {
        assert_eq!(fs::read_to_string(tree.join(".gitconfig")).unwrap(), config);
        assert_eq!(fs::read_to_string(tree.join(".githooks/post-checkout")).unwrap(), hook);
    });
    assert_eq!(fs::read_dir(ran.path()).unwrap().count(), 0, "something of the tree was run");
}

#[test]
fn the_child_judges_by_the_whole_policy() {
    let (mut repo, host) = following();
    repo.git(&["checkout", "-q", "-b", "side"]);
    repo.git(&["commit", "-q", "--no-gpg-sign", "--allow-empty", "-m", "unsigned"]);
    repo.git(&["checkout", "-q", "main"]);
    repo.change("host.nix", "{ }\n");
    repo.git(&["merge", "-q", "--no-ff", "-S", "-m", "Merge", "side"]);
    let merged = repo.tip();
    repo.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let plain = repo.commit("Plain\n\nDeploy-To: main test-web1\n");
    let unbound = repo.commit("Unbound");
    let judge = |tip: &Oid, test: bool, bend: fn(&mut Signer, &mut Rules)| {
        let (mut signers, mut rules) = (git::policy().signers().to_vec(), Rules::default());
        bend(&mut signers[0], &mut rules);
        let policy = Policy::new(signers, vec![], rules).unwrap();
        let mut request = ImportRequest { policy, ..host.request(tip) };
        if test {
            request.against = Against::Test { main: host.main.clone(), previous: None };
            request.branch = "test-web1".to_owned();
        }
        match host.ask(&request, Some(&repo.pack(tip, &[&host.main.revision]))).unwrap() {
            Verdict::Accepted(_) => None,
            Verdict::Refused(refusal) => Some(refusal.code),
        }
    };
    assert_eq!(judge(&merged, false, |_, _| ()), Some(Code::Unsigned));
    assert_eq!(judge(&unbound, false, |_, r| r.ref_binding = RefBinding::Strict), Some(Code::WrongTarget));
    assert_eq!(judge(&unbound, true, |_, _| ()), Some(Code::WrongTarget));
    assert_eq!(judge(&plain, true, |s, _| s.test_hosts = Some([].into())), Some(Code::Unauthorised));
    let expired = |s: &mut Signer, _: &mut Rules| s.keys[0].valid_until = Some(NOW);
    assert_eq!(judge(&plain, false, expired), Some(Code::KeyExpired));
    let early = |s: &mut Signer, _: &mut Rules| s.keys[0].valid_from = Some(NOW + 1);
    assert_eq!(judge(&plain, false, early), Some(Code::KeyNotYetValid));
    assert_eq!(judge(&plain, false, |_, r| r.ref_binding = RefBinding::Strict), None);
    assert_eq!(judge(&plain, true, |s, _| s.test_hosts = Some(["web1".to_owned()].into())), None);
    assert_eq!(judge(&merged, false, |_, r| r.merges = Merges::Vouch), None);
    host.fsck();
}
