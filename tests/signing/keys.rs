//! Goal: key by key, `git verify-commit` with the printed files accepts what the host accepts and refuses what it refuses.
//! Method: a commit by each kind of key, judged by both.

use serde_json::json;

use super::desk::Desk;

fn print_files(desk: &Desk) {
    let allowed = desk.pullagent(&["allowed-signers"]);
    assert_eq!((allowed.code, allowed.err.as_str()), (0, ""), "{allowed:?}");
    std::fs::write(desk.home.join("allowed"), allowed.out).unwrap();
    std::fs::write(desk.home.join("revoked"), desk.pullagent(&["allowed-signers", "--revoked"]).out).unwrap();
    desk.sh("git config gpg.ssh.allowedSignersFile ~/allowed; git config gpg.ssh.revocationFile ~/revoked");
}

/// Makes a commit by `name`, dated `date`, on top of the first one.
fn commit_at(desk: &Desk, name: &str, date: &str) -> String {
    desk.sh("git switch -q --detach main");
    desk.sh(&format!(
        "export GIT_COMMITTER_DATE={date}T12:00:00Z
         git -c user.signingKey=$HOME/{name}.pub commit -q --allow-empty -m {name}; git rev-parse HEAD"
    ))
}

/// Returns whether Git, and whether a host, accept the key of `commit`. An endorsement by alice lies above it, so that
/// nothing but the key and the date is judged.
fn verdicts(desk: &Desk, commit: &str) -> (bool, bool) {
    desk.git(&["switch", "-q", "--detach", commit]);
    desk.commit("alice", "Endorse");
    let told = desk.verify_json(&["main..HEAD"]);
    let line = told["lines"].as_array().unwrap().iter().find(|line| line["revision"] == commit).unwrap();
    (desk.try_git(&["verify-commit", commit]).code == 0, line["accepted"] == true)
}

#[test]
fn git_accepts_the_keys_that_a_host_accepts() {
    let mut desk = Desk::new();
    for name in ["retired", "stolen", "next", "odd"] {
        desk.sh(&format!("ssh-keygen -q -t ed25519 -N '' -C {name} -f ~/{name}"));
    }
    desk.trust("bot*, of !ours", json!({ "keys": [desk.key("bot")], "roles": ["contributor"] }));
    desk.trust(
        "bob",
        json!({ "keys": [
        { "key": desk.key("retired"), "validUntil": "2024-06-01" },
        { "key": desk.key("next"), "validFrom": "2024-06-01T00:00:00Z" },
        desk.key("stolen"),
    ] }),
    );
    desk.config["trust"]["revokedKeys"] = json!([desk.key("stolen")]);
    desk.write_config();
    print_files(&desk);
    for (name, date, good) in [
        ("alice", "2024-05-31", true),
        ("bot", "2024-05-31", true),
        ("retired", "2024-05-31", true),
        ("retired", "2024-06-01", false),
        ("next", "2024-05-31", false),
        ("next", "2024-06-01", true),
        ("stolen", "2024-05-31", false),
        ("mallory", "2024-05-31", false),
        ("odd", "2024-05-31", false),
    ] {
        let commit = commit_at(&desk, name, date);
        assert_eq!(verdicts(&desk, &commit), (good, good), "{name} on {date} (git, pullagent)");
    }
}

#[test]
fn the_ends_of_a_window_agree_to_the_second() {
    let mut desk = Desk::new();
    let window = json!({ "key": desk.key("bot"), "validFrom": "2024-05-31T12:00:00Z", "validUntil": "2024-06-02T12:00:00Z" });
    desk.trust("bob", json!({ "keys": [window] }));
    print_files(&desk);
    for (date, good) in [
        ("2024-05-31T11:59:59Z", false),
        ("2024-05-31T12:00:00Z", true),
        ("2024-06-02T11:59:59Z", true),
        ("2024-06-02T12:00:00Z", false),
    ] {
        desk.sh("git switch -q --detach main");
        let commit = desk.sh(&format!(
            "export GIT_COMMITTER_DATE={date}
             git -c user.signingKey=$HOME/bot.pub commit -q --allow-empty -m Edge; git rev-parse HEAD"
        ));
        assert_eq!(verdicts(&desk, &commit), (good, good), "{date} (git, pullagent)");
    }
}

#[test]
fn a_revoked_key_is_refused_by_either_file_alone() {
    let mut desk = Desk::new();
    desk.trust("bob", json!({ "keys": [desk.key("bot")] }));
    print_files(&desk);
    let commit = commit_at(&desk, "bot", "2024-05-31");
    assert_eq!(verdicts(&desk, &commit), (true, true));
    desk.config["trust"]["revokedKeys"] = json!([desk.key("bot")]);
    desk.write_config();
    let verify = |desk: &Desk| desk.try_git(&["verify-commit", &commit]).code == 0;
    let revoked = desk.pullagent(&["allowed-signers", "--revoked"]).out;
    std::fs::write(desk.home.join("revoked"), revoked).unwrap();
    assert!(!verify(&desk), "the key is still allowed, and revoked");
    print_files(&desk);
    desk.git(&["config", "--unset", "gpg.ssh.revocationFile"]);
    assert!(!verify(&desk), "the key is no longer allowed");
}

#[test]
fn json_lists_both() {
    let mut desk = Desk::new();
    desk.trust("bob", json!({ "keys": [{ "key": desk.key("bot"), "validUntil": "2024-06-01" }] }));
    desk.config["trust"]["revokedKeys"] = json!([desk.key("mallory")]);
    desk.write_config();
    let told: serde_json::Value =
        serde_json::from_str(&desk.pullagent(&["allowed-signers", "--json"]).out).unwrap();
    let bare = |name: &str| desk.key(name).rsplit_once(' ').unwrap().0.to_owned();
    let expected = json!({
        "schema": 1,
        "allowed": [
            { "signer": "alice", "key": bare("alice"), "validFrom": null, "validUntil": null },
            { "signer": "bob", "key": bare("bot"), "validFrom": null, "validUntil": 1_717_200_000 },
        ],
        "revoked": [bare("mallory")],
    });
    assert_eq!(told, expected);
}
