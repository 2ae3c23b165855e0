//! What needs no agent: usage, configuration, signatures, completions, manual pages.

use std::process::Command;

use pullagent::config::Settings;

use super::host::{GOLDEN, Host, settings};
use super::worlds::in_sync;

#[test]
fn wrong_usage_exits_with_2() {
    let host = Host::new();
    for args in [&["fly"][..], &[], &["wait", "--timeout", "soon"], &["status", "--oneline", "--json"]] {
        assert_eq!(host.run(args).code, 2, "{args:?}");
    }
    host.publish(&in_sync());
    for (args, text) in [
        (&["explain", "main"][..], "'main' is not a revision"),
        (&["explain", "beef"], "not heard of a revision 'beef'"),
        (&["wait", "--rev", "zz"], "'zz' is not a revision"),
        (&["suspend", "--until", "teatime"], "'teatime' is not a time"),
    ] {
        let ran = host.run(args);
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(ran.err.contains(text) && ran.err.contains("hint: "), "{args:?}: {ran:?}");
    }
}

#[test]
fn a_good_configuration_is_right_and_shown_with_its_defaults() {
    let host = Host::new();
    let ran = host.run(&["config", "check"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{ran:?}");
    let shown: Settings = serde_json::from_str(&host.run(&["config", "show"]).out).unwrap();
    assert_eq!(shown, settings());
    let schema: serde_json::Value = serde_json::from_str(&host.run(&["config", "schema"]).out).unwrap();
    assert!(schema["properties"]["remotes"].is_object(), "{schema}");
}

#[test]
fn the_next_polls_by_the_calendar_are_told() {
    let host = Host::new();
    let check = |interval: &str, args: &[&str]| {
        let written = GOLDEN.replacen("\"60s\"", &format!("\"{interval}\""), 1);
        std::fs::write(host.config(), written).unwrap();
        host.run(&[&["config", "check"], args].concat())
    };
    let ran = check("Mon *-*-* 04:40:00 Europe/Berlin", &[]);
    let told = format!("{}{}", ran.out, ran.err);
    assert!(ran.code == 0 && told.contains("remote 'origin' is asked by 'Mon *-*-* 04:40:00"), "{ran:?}");
    assert_eq!(told.matches(" 04:40:00 CE").count(), 3, "{told}");
    // A week is longer than a day, after which a host that can't reach a remote is stale.
    assert!(ran.err.contains("warning: remotes[0].interval: up to 7days"), "{ran:?}");
    let ran = check("hourly", &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let next = json["polls"][0]["next"].as_array().unwrap().clone();
    assert!(next.len() == 3 && next.iter().all(|at| at.as_u64().unwrap() % 1800 == 0), "{json}");
    assert_eq!((&json["ok"], &json["warnings"]), (&true.into(), &serde_json::json!([])));
    for (interval, problem) in [
        ("04:40 Europe/Berln", "'remotes[0].interval': there is no time zone 'Europe/Berln'"),
        ("*-02-31", "'remotes[0].interval': '*-02-31' never comes again"),
        ("60x", "'60x' is neither a duration such as \"60s\" nor a calendar expression: '60x' is neither"),
        ("25:00", "calendar expression: '25' is no hour (0 to 23)"),
    ] {
        let ran = check(interval, &[]);
        assert!(ran.code == 1 && ran.err.contains(problem), "{interval}: {ran:?}");
    }
}

#[test]
fn a_broken_configuration_is_told_with_every_problem() {
    let host = Host::new();
    let table: &[(&str, &str, &[&str])] = &[
        ("\"soak\": \"60s\"", "\"sok\": \"60s\"", &["unknown key 'activation.sok'"]),
        ("\"hostname\": \"web1\"", "\"hostname\": \"web 1\"", &["'hostname'", "'web 1' is not a host name"]),
        (
            "\"schema\": 1,",
            "\"schema\": 7, \"colour\": \"red\",",
            &["unknown key 'colour'", "reads schema 1, the file has 7"],
        ),
        ("\"drift\": \"hold\"", "\"drift\": \"panic\"", &["failed to parse", "panic", "line "]),
        ("ssh-ed25519 AAAAC3", "ssh-ed25519 BBBBC3", &["trust.signers.alice.keys"]),
        ("{", "", &["failed to parse"]),
    ];
    for (good, bad, words) in table {
        assert!(GOLDEN.contains(good), "{good}");
        std::fs::write(host.config(), GOLDEN.replacen(good, bad, 1)).unwrap();
        let ran = host.run(&["config", "check"]);
        assert_eq!(ran.code, 1, "{bad}: {ran:?}");
        for word in *words {
            assert!(ran.err.contains(word), "{bad}: '{word}' is not in {}", ran.err);
        }
        let json: serde_json::Value =
            serde_json::from_str(&host.run(&["config", "check", "--json"]).out).unwrap();
        assert_eq!((&json["schema"], &json["ok"]), (&1.into(), &false.into()), "{json}");
    }
    std::fs::remove_file(host.config()).unwrap();
    let ran = host.run(&["config", "check"]);
    assert!(ran.code == 1 && ran.err.contains("failed to read configuration"), "{ran:?}");
}

#[test]
fn verify_judges_a_local_repository() {
    let host = Host::new();
    let repo = host.root.join("repo");
    std::fs::create_dir(&repo).unwrap();
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(&repo).env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        command.args(["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "gpg.format=ssh"]);
        let output = command.args(["-c", "user.signingkey=../key"]).args(args).output().unwrap();
        assert!(output.status.success(), "git {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let key = host.root.join("key");
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status().unwrap();
    assert!(made.success());
    let line = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(GOLDEN).unwrap();
    config["trust"]["signers"]["alice"]["keys"] = serde_json::json!([line.trim()]);
    std::fs::write(host.config(), config.to_string()).unwrap();
    git(&["init", "-q", "-b", "main", "."]);
    git(&["commit", "-q", "--allow-empty", "-m", "begin"]);
    let begin = git(&["rev-parse", "HEAD"]);
    git(&["commit", "-q", "--allow-empty", "-S", "-m", "signed well"]);

    let repo_arg = repo.to_str().unwrap();
    let range = format!("{begin}..main");
    let ran = host.run(&["verify", "--repo", repo_arg, &range]);
    assert!(ran.code == 0 && ran.out.contains("signed by alice (deployer)  \"signed well\""), "{ran:?}");
    git(&["commit", "-q", "--allow-empty", "-m", "forgot to sign"]);
    let ran = host.run(&["verify", "--repo", repo_arg, &range]);
    assert!(ran.code == 3 && ran.out.contains("unsigned") && ran.out.contains("would be refused"), "{ran:?}");
    let json = host.run(&["verify", "--json", "--repo", repo_arg, &range]).out;
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["refused"], 1, "{json}");

    let ran = host.run(&["verify", "--repo", repo_arg]);
    assert!(ran.code == 2 && ran.err.contains("nothing to start from"), "{ran:?}");
    config["trust"]["introduction"] = begin.as_str().into();
    std::fs::write(host.config(), config.to_string()).unwrap();
    assert_eq!(host.run(&["verify", "--repo", repo_arg, "--branch", "main"]).code, 3);
    let ran = host.run(&["verify", "--repo", repo_arg, "nowhere"]);
    assert!(ran.code == 2 && ran.err.contains("'nowhere'"), "{ran:?}");
    let ran = host.run(&["verify", "--repo", "/nonexistent", &range]);
    assert!(ran.code == 1 && ran.err.contains("failed to open"), "{ran:?}");
}

#[test]
fn completions_know_the_verbs() {
    let host = Host::new();
    for shell in ["bash", "zsh", "fish"] {
        let ran = host.run(&["completions", shell]);
        assert!(ran.code == 0 && ran.out.contains("suspend") && !ran.out.contains("record-exit"), "{shell}");
    }
}

/// What a package does: `default.nix` calls the same verb.
#[test]
fn there_is_a_manual_page_for_every_verb() {
    let host = Host::new();
    let help = host.run(&["--help"]).out;
    let listed = help.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty());
    let verbs: Vec<&str> = listed
        .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert!(verbs.contains(&"status") && !verbs.contains(&"man"), "{help}");
    let dir = host.root.join("manual");
    std::fs::create_dir(&dir).unwrap();
    let ran = host.run(&["man", dir.to_str().unwrap()]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "", ""));
    let page = |name: &str| std::fs::read_to_string(dir.join(format!("{name}.1"))).unwrap();
    for verb in verbs.iter().filter(|verb| **verb != "help") {
        assert!(page(&format!("pullagent-{verb}")).contains("PULLAGENT_ROOT"), "{verb}");
    }
    assert!(page("pullagent").contains("pullagent\\-status(1)") && page("pullagent").contains("Exit codes"));
    assert!(page("pullagent-config-check").contains("unknown keys"));
    assert!(!dir.join("pullagent-man.1").exists());
}
