//! What `verify` says: who signed, as which host, for which branch, and what to do about it.

use serde_json::json;

use super::desk::Desk;

#[test]
fn there_is_one_line_for_each_commit() {
    let mut desk = Desk::new();
    desk.trust("renovate", json!({ "keys": [desk.key("bot")], "roles": ["contributor"] }));
    let begin = desk.git(&["rev-parse", "HEAD"]);
    desk.commit("bot", "Update");
    let endorsed = desk.commit("alice", "Endorse");
    let range = format!("{begin}..HEAD");
    let ran = desk.verify(&[&range]);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(ran.code == 0 && lines.len() == 3, "{ran:?}");
    assert!(
        lines[0].starts_with('✔') && lines[0].ends_with("signed by alice (deployer)  \"Endorse\""),
        "{ran:?}"
    );
    assert!(lines[1].ends_with("signed by renovate (contributor)  \"Update\""), "{ran:?}");
    assert!(
        lines[2].ends_with(&format!("is good for main on web1: 2 commits since {}", &begin[..7])),
        "{ran:?}"
    );

    desk.commit("mallory", "Backdoor");
    desk.git(&["commit", "-q", "--no-gpg-sign", "--allow-empty", "-m", "Forgot"]);
    desk.commit("bot", "Last");
    let ran = desk.verify(&[&range]);
    let lines: Vec<&str> = ran.out.lines().collect();
    assert!(ran.code == 3 && lines.len() == 7, "{ran:?}");
    for (line, code, subject) in
        [(0, "unauthorised", "Last"), (1, "unsigned", "Forgot"), (2, "unknown-key", "Backdoor")]
    {
        let parts = [code, &format!("\"{subject}\""), "; next: "];
        assert!(
            lines[line].starts_with('✖') && parts.iter().all(|p| lines[line].contains(p)),
            "{}",
            lines[line]
        );
    }
    assert!(lines[5].contains("would be refused for main on web1: 3 of 5 commits"), "{ran:?}");
    assert!(lines[6].contains("deploy") && lines[6].contains(&endorsed[..7]), "{ran:?}");
}

#[test]
fn json_has_a_layout_that_scripts_can_rely_on() {
    let desk = Desk::new();
    let begin = desk.git(&["rev-parse", "HEAD"]);
    let good = desk.commit("alice", "Good");
    let range = format!("{begin}..{good}");
    let expected = json!({
        "schema": 1, "host": "web1", "branch": "main", "operation": "switch", "from": begin, "tip": good,
        "accepted": true, "refusal": null, "refused": 0, "leftOff": 0, "tree": "whole",
        "lines": [
            { "revision": good, "subject": "Good", "accepted": true, "signer": "alice", "roles": ["deployer"] }
        ]
    });
    assert_eq!(desk.verify_json(&[&range]), expected);

    let bad = desk.commit("mallory", "Bad");
    let told = desk.verify_json(&[&format!("{good}..{bad}")]);
    let line = &told["lines"][0];
    assert_eq!(
        (&told["accepted"], &told["refused"], &told["tree"]),
        (&false.into(), &1.into(), &json!(null))
    );
    assert_eq!(
        (&line["accepted"], &line["code"], &line["commit"]),
        (&false.into(), &"unknown-key".into(), &bad.as_str().into())
    );
    assert!(line["advice"].as_str().unwrap().contains("listed key") && line["text"].is_string(), "{line}");
    assert_eq!(&told["refusal"]["code"], "unknown-key");
}

#[test]
fn a_test_branch_is_judged_as_its_host_would() {
    let mut desk = Desk::new();
    desk.trust("bot", json!({ "keys": [desk.key("bot")], "roles": ["contributor"], "testHosts": ["web2"] }));
    desk.git(&["switch", "-q", "-c", "trial"]);
    let check = |args: &[&str], code: i32, word: &str| {
        let ran = desk.verify(args);
        assert!(ran.code == code && (ran.out.clone() + &ran.err).contains(word), "{args:?} {word}: {ran:?}");
    };
    desk.commit("alice", "Try it");
    check(&["--branch", "test-web1", "main..HEAD"], 3, "wrong-target");
    check(&["main..HEAD"], 0, "good for main on web1");
    desk.commit("alice", "Try it\n\nDeploy-To: test-web1");
    check(&["--branch", "test-web1", "main..HEAD"], 0, "good for test-web1 on web1");
    check(&["main..HEAD"], 3, "wrong-target");
    check(&["--as-host", "web2", "--branch", "test-web2", "main..HEAD"], 3, "wrong-target");
    desk.commit("bot", "Try it\n\nDeploy-To: test-web2");
    check(&["--as-host", "web2", "--branch", "test-web2", "main..HEAD"], 0, "signed by bot (contributor)");
    desk.commit("bot", "Try it\n\nDeploy-To: test-web1");
    check(&["--branch", "test-web1", "main..HEAD"], 3, "unauthorised");
    check(&["--branch", "test-web2", "main..HEAD"], 2, "does not follow a branch 'test-web2'");
    check(&["--as-host", "web 2", "main..HEAD"], 2, "'web 2' is not a host name");
    desk.git(&["branch", "-q", "test-web1", "HEAD~2"]);
    check(&["main..test-web1"], 0, "good for test-web1 on web1");
    check(&["main..refs/heads/test-web1"], 0, "good for test-web1 on web1");
    check(&["test-web1..main"], 3, "not-fast-forward");
}

#[test]
fn a_strict_host_wants_every_tip_bound() {
    let mut desk = Desk::new();
    desk.config["trust"]["refBinding"] = "strict".into();
    desk.write_config();
    desk.install_hooks("prepare-commit-msg commit-msg");
    let begin = desk.git(&["rev-parse", "HEAD"]);
    desk.commit("alice", "Unbound");
    assert_eq!(desk.verify_json(&[&format!("{begin}..HEAD")])["refusal"]["code"], "wrong-target");
    desk.git(&["config", "--add", "pullagent.bindBranch", "main"]);
    desk.commit("alice", "Bound");
    let ran = desk.verify(&[&format!("{begin}..HEAD")]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn the_files_of_the_tip_are_held_to_the_rules() {
    let mut desk = Desk::new();
    let begin = desk.git(&["rev-parse", "HEAD"]);
    let range = format!("{begin}..HEAD");
    desk.sh("mkdir -p a/b; echo x > a/b/c; git add a; git commit -qm Files");
    assert_eq!(desk.verify_json(&[&range])["tree"], "whole");
    desk.sh(&format!("git update-index --add --cacheinfo 160000,{begin},a/module; git commit -qm Submodule"));
    let told = desk.verify_json(&[&range]);
    assert_eq!(
        (&told["refusal"]["code"], &told["lines"][0]["code"]),
        (&"submodule".into(), &"submodule".into())
    );
    assert!(told["refusal"]["text"].as_str().unwrap().contains("a/module"), "{told}");
    assert_eq!(desk.verify(&[&range]).code, 3);
    for (path, code) in [("module", 3), ("a/module", 0)] {
        let url = "https://git.example.org/me/module.git";
        desk.config["source"] = serde_json::json!({ "submodules": { path: { "url": url } } });
        desk.write_config();
        assert_eq!(desk.verify(&[&range]).code, code, "{path}");
        assert_eq!(desk.verify(&["--as-host", "web2", "--branch", "main", &range]).code, code, "{path}");
    }
    desk.sh("git rm -q --cached a/module; git commit -qm Without");
    assert_eq!(desk.verify(&[&range]).code, 0, "only the tip's files are deployed");
    let entry = format!("100644 blob {}\t.GIT\n", desk.sh("git hash-object -w a/b/c"));
    std::fs::write(desk.home.join("entry"), entry).unwrap();
    desk.sh("git reset -q --soft $(git commit-tree -S -p HEAD -m Name $(git mktree < ~/entry))");
    assert_eq!(desk.verify_json(&[&range])["refusal"]["code"], "bad-path");
}

#[test]
fn what_was_asked_wrongly_is_explained() {
    let desk = Desk::new();
    for (args, code, words) in [
        (&["main..nowhere"][..], 2, &["no branch", "hint: "][..]),
        (&[], 2, &["nothing to start from", "FROM..TIP"]),
        (&["--repo", "/nonexistent", "HEAD"], 1, &["failed to open", "--repo"]),
        (&["--config", "/nonexistent", "HEAD"], 1, &["failed to read configuration", "nix eval --json"]),
    ] {
        let ran = desk.verify(args);
        assert!(ran.code == code && words.iter().all(|word| ran.err.contains(word)), "{args:?}: {ran:?}");
    }
}
