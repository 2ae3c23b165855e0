//! Where `verify` must work: subdirectories, worktrees, partial and shallow clones, SHA-256, hooks on both ends of a push.

use super::desk::Desk;

/// Makes a bare repository `~/server`, with what the desk has on `main`.
fn server(desk: &Desk) {
    desk.sh("git init -q --bare --object-format=$(git rev-parse --show-object-format) ~/server
             git -C ~/server config uploadpack.allowFilter true
             git remote add origin ~/server; git push -q -u origin main");
}

fn install_server_hook(desk: &Desk) {
    desk.sh("pullagent hook pre-receive > ~/server/hooks/pre-receive; chmod +x ~/server/hooks/pre-receive
             git -C ~/server config pullagent.config ~/web1.json");
}

#[test]
fn subdirectories_worktrees_and_both_hash_functions() {
    for format in ["sha1", "sha256"] {
        let desk = Desk::with_format(format);
        let begin = desk.git(&["rev-parse", "HEAD"]);
        desk.sh("mkdir -p a/b; echo x > a/b/c; git add a; git commit -qm Files");
        desk.sh("git worktree add -q ~/other -b side; cd ~/other; git commit -q --allow-empty -m Side");
        for dir in [desk.repo.join("a/b"), desk.repo.join(".git"), desk.home.join("other")] {
            let ran = desk.verify(&["--repo", dir.to_str().unwrap(), &format!("{begin}..HEAD")]);
            let commits = if dir.ends_with("other") { "2 commits" } else { "1 commit " };
            assert!(ran.code == 0 && ran.out.contains(commits), "{format} {dir:?}: {ran:?}");
        }
    }
}

#[test]
fn remote_tracking_branches_and_ancestors_have_names() {
    let desk = Desk::new();
    server(&desk);
    desk.commit("alice", "Ahead");
    desk.commit("alice", "Further");
    for (range, commits) in [("origin/main..HEAD", 2), ("origin/main..HEAD~", 1), ("HEAD^~1..HEAD", 2)] {
        let told = desk.verify_json(&[range]);
        let seen = (&told["accepted"], told["lines"].as_array().unwrap().len());
        assert_eq!(seen, (&true.into(), commits), "{range}");
    }
}

#[test]
fn a_shallow_clone_says_how_to_get_the_rest() {
    let desk = Desk::new();
    let begin = desk.git(&["rev-parse", "HEAD"]);
    desk.commit("alice", "One");
    desk.commit("alice", "Two");
    server(&desk);
    desk.sh("git clone -q --depth 1 file://$HOME/server ~/shallow");
    let shallow = desk.home.join("shallow");
    let verify = |range: &str| desk.verify(&["--repo", shallow.to_str().unwrap(), range]);
    let tip = desk.git(&["rev-parse", "HEAD"]);
    for range in [format!("{begin}..HEAD"), format!("{tip}~1..HEAD"), "origin/next..HEAD".to_owned()] {
        let ran = verify(&range);
        assert!(ran.code == 1 || ran.code == 2, "{range}: {ran:?}");
        assert!(ran.err.contains("git fetch --unshallow") && ran.err.contains("fetch-depth: 0"), "{ran:?}");
    }
    desk.sh("git -C ~/shallow fetch -q --unshallow");
    assert_eq!(verify(&format!("{begin}..HEAD")).code, 0);
}

#[test]
fn a_partial_clone_is_judged_by_what_it_has() {
    let desk = Desk::new();
    let begin = desk.git(&["rev-parse", "HEAD"]);
    desk.sh("mkdir a; echo x > a/b; git add a; git commit -qm Files");
    server(&desk);
    for (filter, tree) in [("blob:none", "without-some-files".into()), ("tree:0", serde_json::Value::Null)] {
        desk.sh(&format!(
            "rm -rf ~/partial; git clone -q --bare --filter={filter} file://$HOME/server ~/partial"
        ));
        let partial = desk.home.join("partial");
        let told = desk.verify_json(&["--repo", partial.to_str().unwrap(), &format!("{begin}..main")]);
        assert_eq!((&told["accepted"], &told["tree"]), (&true.into(), &tree), "{filter}: {told}");
    }
}

#[test]
fn a_server_refuses_a_push_that_hosts_would_refuse() {
    for format in ["sha1", "sha256"] {
        let desk = Desk::with_format(format);
        server(&desk);
        install_server_hook(&desk);
        let begin = desk.git(&["rev-parse", "HEAD"]);
        desk.commit("mallory", "Backdoor");
        let ran = desk.try_git(&["push", "-q", "origin", "main"]);
        assert!(ran.code != 0 && ran.err.contains("unknown-key"), "{ran:?}");
        assert_eq!(desk.git(&["ls-remote", "origin", "refs/heads/main"])[..begin.len()], begin);
        desk.git(&["reset", "-q", "--hard", &begin]);
        // Large enough for a pack, and small enough for loose objects.
        for (count, limit) in [(3, "1"), (3, "1000")] {
            desk.sh(&format!("git -C ~/server config receive.unpackLimit {limit}"));
            for n in 0..count {
                desk.sh(&format!("echo {limit} {n} > file; git add file; git commit -qm 'Change {n}'"));
            }
            desk.git(&["push", "-q", "origin", "main"]);
        }
        desk.git(&["push", "-q", "origin", "main:feature"]);
        desk.commit("alice", "Try\n\nDeploy-To: test-web2");
        let ran = desk.try_git(&["push", "-q", "origin", "HEAD:test-web1"]);
        assert!(ran.code != 0 && ran.err.contains("wrong-target"), "{ran:?}");
        desk.git(&["push", "-q", "origin", "HEAD:test-web2"]);
        desk.git(&["push", "-q", "origin", ":test-web2"]);
        let ran = desk.try_git(&["push", "-q", "--force", "origin", &format!("{begin}:main")]);
        assert!(ran.code != 0 && ran.err.contains("not-fast-forward"), "{ran:?}");
    }
}

#[test]
fn a_clone_keeps_commits_at_home_that_hosts_would_refuse() {
    let desk = Desk::new();
    server(&desk);
    desk.install_hooks("pre-push");
    let ran = desk.try_git(&["push", "-q", "origin", "HEAD:other"]);
    assert!(ran.code != 0 && ran.err.contains("git config pullagent.config"), "{ran:?}");
    desk.sh("git config pullagent.config ~/web1.json; git push -q origin HEAD:other");
    let good = desk.commit("alice", "Good");
    desk.git(&["push", "-q", "origin", "main"]);
    desk.git(&["commit", "-q", "--no-gpg-sign", "--allow-empty", "-m", "Forgot"]);
    let ran = desk.try_git(&["push", "-q", "origin", "main"]);
    assert!(ran.code != 0 && ran.err.contains("unsigned") && ran.err.contains("next: "), "{ran:?}");
    assert!(desk.git(&["ls-remote", "origin", "refs/heads/main"]).starts_with(&good));
    desk.git(&["commit", "-q", "--amend", "--allow-empty", "-m", "Signed\n\nDeploy-To: test-web1"]);
    desk.git(&["push", "-q", "origin", "HEAD:test-web1"]);
    let ran = desk.try_git(&["push", "-q", "origin", "HEAD:test-web2"]);
    assert!(ran.code != 0 && ran.err.contains("wrong-target"), "{ran:?}");
}
