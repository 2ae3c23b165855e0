//! The golden file, and each kind of nonsense.

use super::*;

const GOLDEN: &str = include_str!("../../tests/fixtures/config.json");

fn with(edit: impl FnOnce(&mut serde_json::Value)) -> Result<Loaded, String> {
    let mut json: serde_json::Value = serde_json::from_str(GOLDEN).unwrap();
    edit(&mut json);
    parse(json.to_string().as_bytes()).map_err(|e| e.to_string())
}

fn ssh(config: &mut serde_json::Value, key: Option<&str>, hosts: Option<&str>) {
    let remote = &mut config["remotes"][0];
    remote["url"] = "git@git.example.org:me/infra.git".into();
    remote["sshKeyFile"] = key.into();
    remote["knownHostsFile"] = hosts.into();
}

#[test]
fn an_ssh_remote_with_both_its_files_is_right() {
    let remote = with(|c| ssh(c, Some("/run/keys/deploy"), Some("/etc/ssh/ssh_known_hosts"))).unwrap();
    assert_eq!(remote.settings.remotes[0].ssh_key_file, Some("/run/keys/deploy".into()));
}

#[test]
fn the_golden_file_is_read_whole() {
    let loaded = with(|_| ()).unwrap();
    assert_eq!(loaded.unknown, Vec::<String>::new());
    assert_eq!(loaded.settings.branches()[1], ("test-web1".to_owned(), Operation::Test));
    assert_eq!(loaded.settings.activation.soak, Span::secs(60));
    assert_eq!(loaded.settings.attribute(), "nixosConfigurations.\"web1\".config.system.build.toplevel");
}

#[test]
fn what_is_read_is_written_back_the_same() {
    let settings = with(|_| ()).unwrap().settings;
    let again = parse(serde_json::to_string(&settings).unwrap().as_bytes()).unwrap();
    assert_eq!(again.settings, settings);
}

#[test]
fn unknown_keys_are_named_with_their_path() {
    let loaded = with(|c| c["activation"]["sok"] = "1s".into()).unwrap();
    assert_eq!(loaded.unknown, ["activation.sok"]);
}

#[test]
fn nonsense_is_refused_with_its_key() {
    type Edit = fn(&mut serde_json::Value);
    let table: &[(&str, Edit)] = &[
        ("schema", |c| c["schema"] = 2.into()),
        ("hostname", |c| c["hostname"] = "web 1".into()),
        ("fetch.packBytesMax", |c| c["fetch"] = serde_json::json!({ "packBytesMax": 1000 })),
        ("fetch.objectsMax", |c| c["fetch"] = serde_json::json!({ "objectsMax": 0 })),
        ("fetch.timeout", |c| c["fetch"] = serde_json::json!({ "timeout": "10ms" })),
        ("exporter", |c| c["exporter"] = serde_json::json!({})),
        ("exporter.listen", |c| c["exporter"] = serde_json::json!({ "listen": "127.0.0.1:0" })),
        ("exporter.textfile", |c| c["exporter"] = serde_json::json!({ "textfile": "metrics.prom" })),
        ("exporter.textfile", |c| c["exporter"] = serde_json::json!({ "textfile": "/run/metrics.txt" })),
        ("stateDirectory", |c| c["stateDirectory"] = "var".into()),
        ("remotes", |c| c["remotes"] = serde_json::json!([])),
        ("remotes[0].url", |c| c["remotes"][0]["url"] = "http://git.example.org/x".into()),
        ("remotes[0].url", |c| c["remotes"][0]["url"] = "http://127.0.0.1.evil.org/x".into()),
        ("remotes[0].url", |c| c["remotes"][0]["url"] = "https://me:secret@git.example.org/x".into()),
        ("remotes[0].url", |c| c["remotes"][0]["url"] = "ext::sh -c id".into()),
        ("remotes[0].url", |c| c["remotes"][0]["url"] = "ssh://git:secret@git.example.org/x".into()),
        ("remotes[0].url", |c| c["remotes"][0]["url"] = "git@-oProxyCommand=id:x".into()),
        ("remotes[0].sshKeyFile", |c| ssh(c, None, Some("/h"))),
        ("remotes[0].knownHostsFile", |c| ssh(c, Some("/k"), None)),
        ("remotes[0].sshKeyFile", |c| ssh(c, Some("~/.ssh/id_ed25519"), Some("/h"))),
        ("remotes[0].sshKeyFile", |c| ssh(c, Some("/a b"), Some("/h"))),
        ("remotes[0].knownHostsFile", |c| ssh(c, Some("/k"), Some("/%h"))),
        ("remotes[0].interval", |c| c["remotes"][0]["interval"] = "10ms".into()),
        ("remotes[0].tokenFile", |c| c["remotes"][0]["tokenFile"] = "token".into()),
        ("branches", |c| c["branches"] = serde_json::json!([{ "pattern": "a..b", "operation": "switch" }])),
        ("branches", |c| c["branches"] = serde_json::json!([{ "pattern": "t", "operation": "test" }])),
        ("source.subdir", |c| c["source"]["subdir"] = "../x".into()),
        ("trust.signers", |c| c["trust"]["signers"] = serde_json::json!({})),
        ("activation.window", |c| c["activation"]["window"] = "60s".into()),
        ("activation.reboot.window", |c| c["activation"]["reboot"]["policy"] = "window".into()),
        ("health.checks.web", |c| c["health"]["checks"]["web"]["http"] = "ftp://x".into()),
        ("health.checks.updatable", |c| {
            c["health"]["checks"]["updatable"] = c["health"]["checks"]["web"].clone();
        }),
        ("health.checks.web", |c| c["health"]["checks"]["web"]["command"] = serde_json::json!(["/bin/true"])),
    ];
    for (key, edit) in table {
        let error = with(*edit).unwrap_err();
        assert!(error.contains(&format!("'{key}'")), "{key}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
    assert!(with(|c| c["activation"]["soak"] = "soon".into()).is_err());
    assert!(with(|c| c["activation"]["reboot"]["policy"] = "later".into()).is_err());
    let error = with(|c| c["activation"]["reboot"]["window"] = serde_json::json!(["2-5"])).unwrap_err();
    assert!(error.contains("parse"), "{error}");
    assert!(with(|c| c["trust"]["mode"] = "managed".into()).is_err());
}

#[test]
fn windows_are_read() {
    let loaded = with(|c| {
        c["activation"]["reboot"] =
            serde_json::json!({ "policy": "window", "window": ["Sat,Sun 22:00-04:00"] });
    });
    let reboot = loaded.unwrap().settings.activation.reboot;
    assert_eq!(reboot.window[0].to_string(), "Sat,Sun 22:00-04:00");
    assert_eq!(reboot.policy, crate::model::RebootPolicy::Window);
}
