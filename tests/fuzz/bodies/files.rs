//! Files that this program wrote, or an older or newer one, or somebody else: configuration, status, history, guard.

use std::path::Path;

use pullagent::{config, guard, report};

/// The configuration: what is accepted can be written and read again, and its policy can be made.
pub fn config(data: &[u8]) -> bool {
    let Ok(loaded) = config::parse(data) else { return false };
    let settings = loaded.settings;
    let again = config::parse(&serde_json::to_vec(&settings).unwrap()).unwrap();
    assert_eq!((&again.settings, again.unknown.len()), (&settings, 0));
    assert_eq!(again.settings.trust_digest(), settings.trust_digest());
    settings.policy().expect("a configuration that was checked has a policy");
    assert!(!settings.branches().is_empty() && !settings.attribute().is_empty());
    true
}

pub fn config_seeds() -> Vec<Vec<u8>> {
    let settings = serde_json::to_vec(&super::settings()).unwrap();
    let whole = include_bytes!("../../fixtures/config.json").to_vec();
    let wrong = br#"{"schema":1,"hostname":"web1","remotes":[],"trust":{"signers":{}}}"#.to_vec();
    vec![settings, whole, wrong]
}

/// `status.json` and `history.json`, as the command line reads them; what is read is shown.
pub fn status(data: &[u8]) -> bool {
    let Some((choice, rest)) = data.split_first() else { return false };
    let root = super::scratch();
    let path =
        if choice & 1 == 0 { report::status_path(root.path()) } else { report::history_path(root.path()) };
    put(&path, rest);
    let style = report::Style::plain();
    if choice & 1 == 0 {
        let Ok(status) = report::read_status(root.path()) else { return false };
        let life = report::life(&status.agent, 1_800_000_000);
        let now = 1_800_000_000;
        let text = report::page(&status, life, now, &style) + &report::oneline(&status, life, now, &style);
        assert!(!text.is_empty());
        let again: report::Status = serde_json::from_value(serde_json::to_value(&status).unwrap()).unwrap();
        assert_eq!(again, status);
    } else {
        let Ok(history) = report::read_history(root.path()) else { return false };
        report::history_text(&history, 10, &style);
        let again: report::History = serde_json::from_value(serde_json::to_value(&history).unwrap()).unwrap();
        assert_eq!(again, history);
    }
    true
}

/// The files of a guard.
pub fn guard(data: &[u8]) -> bool {
    let Some((choice, rest)) = data.split_first() else { return false };
    let dir = super::scratch();
    let name = ["plan.json", "decision", "result.json"][usize::from(choice % 3)];
    put(&dir.path().join(name), rest);
    match choice % 3 {
        0 => {
            let Ok(plan) = guard::read_plan(dir.path()) else { return false };
            assert_eq!(plan.schema, guard::SCHEMA);
            let copy = super::scratch();
            assert_eq!(guard::write_plan(copy.path(), &plan).unwrap(), plan);
            assert_eq!(guard::read_plan(copy.path()).unwrap(), plan);
            true
        }
        _ => {
            let facts = guard::facts(dir.path());
            facts.is_ok_and(|facts| facts.decision.is_some() || facts.result.is_some())
        }
    }
}

pub fn guard_seeds() -> Vec<Vec<u8>> {
    let (old, new) = ("1".repeat(32), "2".repeat(32));
    let plan = serde_json::json!({
        "schema": 1, "deployment": "7-abcdef0", "old": format!("/nix/store/{old}-old"),
        "new": format!("/nix/store/{new}-new"), "revision": "a".repeat(40), "branch": "main", "operation": "switch",
        "root": "/", "switchJob": "/var/lib/pullagent/jobs/7-abcdef0", "bootId": "b1", "deadlineBoottimeMs": 1000,
        "switchLimitMs": 1000, "oldChecks": [], "agentVersion": "0.1.0", "baselineUnits": ["sshd.service"],
    });
    let file = |choice: u8, json: &str| [&[choice], json.as_bytes()].concat();
    vec![
        file(0, &plan.to_string()),
        file(0, r#"{"schema":2}"#),
        file(1, r#"{"decision":"confirm"}"#),
        file(1, r#"{"decision":"roll-back","reason":"late","by":"guard","class":"target"}"#),
        file(2, r#"{"outcome":"rolled-back"}"#),
    ]
}

fn put(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}
