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

/// A hint that is right but for what `changes` changes.
fn hint(kind: &str, changes: serde_json::Value) -> serde_json::Value {
    let mut hint = serde_json::json!({ "name": "push", "kind": kind, "url": "https://push.example.org/sse?topic=infra" });
    for (key, value) in changes.as_object().unwrap() {
        hint[key] = value.clone();
    }
    hint
}

fn hint_is(config: &mut serde_json::Value, kind: &str, changes: serde_json::Value) {
    config["hints"] = vec![hint(kind, changes)].into();
}

#[test]
fn hints_are_read_and_slow_polling_down_within_bounds() {
    let program =
        serde_json::json!({ "url": null, "command": ["/bin/sh", "-c", "true"], "remotes": ["origin"] });
    for (kind, changes) in
        [("sse", serde_json::json!({})), ("long-poll", serde_json::json!({})), ("exec", program)]
    {
        let loaded = with(|c| hint_is(c, kind, changes.clone())).unwrap();
        assert_eq!(loaded.unknown, Vec::<String>::new());
        assert_eq!(loaded.settings.hints[0].idle_timeout, Span::secs(90));
    }
    let hinted = |interval: &str, hinted: Option<&str>| {
        let loaded = with(|c| {
            c["remotes"][0]["interval"] = interval.into();
            c["remotes"][0]["intervalWhileHinted"] = hinted.into();
        });
        loaded.unwrap().settings.remotes[0].hinted_interval().unwrap().as_secs()
    };
    assert_eq!(hinted("30s", None), 300);
    assert_eq!(hinted("5m", None), 900, "no more than 15 min");
    assert_eq!(hinted("1h", None), 3600, "never more often than without");
    assert_eq!(hinted("30s", Some("1h")), 3600, "as somebody wants it");
}

/// Names a submodule that is right but for what `changes` changes.
fn submodule(config: &mut serde_json::Value, path: &str, changes: serde_json::Value) {
    let mut submodule = serde_json::json!({ "url": "https://git.example.org/me/lib.git" });
    for (key, value) in changes.as_object().unwrap() {
        submodule[key] = value.clone();
    }
    config["source"]["submodules"][path] = submodule;
}

#[test]
fn submodules_are_named_by_paths_as_git_writes_them() {
    let named = |path: &str| with(|c| submodule(c, path, serde_json::json!({}))).map(|l| l.settings.source);
    for path in ["lib", "modules/common", "ä b/c", "..a/.b", "d/".repeat(100).trim_end_matches('/')] {
        assert_eq!(named(path).unwrap().submodule_paths(), [path.to_owned()].into());
    }
    let long = "x".repeat(201);
    for path in [
        "", "/lib", "lib/", "a//b", ".", "..", "a/../b", "./a", "a/.git", ".GIT/x", "git~1", "a%2fb", "a\nb",
        &long,
    ] {
        let error = named(path).unwrap_err();
        assert!(error.contains(&format!("source.submodules.{path:?}")), "{path}: {error}");
    }
    let loaded = with(|c| submodule(c, "lib", serde_json::json!({ "interval": "1s" }))).unwrap();
    assert_eq!(loaded.unknown, ["source.submodules.lib.interval"]);
}

#[test]
fn a_verdict_is_not_for_other_submodules() {
    let digest = |paths: &[&str], url: &str| {
        let loaded =
            with(|c| paths.iter().for_each(|path| submodule(c, path, serde_json::json!({ "url": url }))));
        loaded.unwrap().settings.trust_digest()
    };
    let here = digest(&["lib"], "https://git.example.org/lib.git");
    assert_ne!(here, digest(&[], ""));
    assert_ne!(here, digest(&["lib", "more"], "https://git.example.org/lib.git"));
    assert_eq!(
        here,
        digest(&["lib"], "https://elsewhere.example.org/lib.git"),
        "where it comes from is no matter"
    );
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
fn an_interval_is_a_duration_or_a_calendar() {
    let interval = |text: &str| {
        let loaded = with(|c| c["remotes"][0]["interval"] = text.into());
        loaded.map(|loaded| loaded.settings.remotes[0].interval.clone())
    };
    assert_eq!(interval("5m"), Ok(Interval::Every(Span::secs(300))));
    let text = "Mon..Fri 08..18:00/15 Europe/Berlin";
    let calendar = interval(text).unwrap();
    assert_eq!(calendar, Interval::Calendar(text.parse().unwrap()));
    assert_eq!(serde_json::to_string(&calendar).unwrap(), format!("\"{text}\""));
    let remote = with(|c| c["remotes"][0]["interval"] = text.into()).unwrap().settings.remotes.remove(0);
    assert_eq!((remote.interval.every(), remote.hinted_interval()), (None, None));
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
        ("webhooks.hooks.forge.secretFiles", |c| hook(c, serde_json::json!({ "secretFiles": [] }))),
        ("webhooks.hooks.forge.secretFiles", |c| hook(c, serde_json::json!({ "secretFiles": ["key"] }))),
        ("webhooks.hooks.forge.secretFiles", |c| {
            hook(c, serde_json::json!({ "secretFiles": vec!["/k"; 5] }))
        }),
        ("webhooks.hooks.forge.header", |c| hook(c, serde_json::json!({ "header": "X-Signature" }))),
        ("webhooks.hooks.forge.header", |c| {
            hook(c, serde_json::json!({ "kind": "hmac-sha256", "header": "X Signature" }));
        }),
        ("webhooks.hooks.forge.remotes", |c| hook(c, serde_json::json!({ "remotes": ["elsewhere"] }))),
        ("webhooks.hooks", |c| c["webhooks"]["hooks"]["a/b"] = hook_of(serde_json::json!({}))),
        ("webhooks.listen", |c| {
            hook(c, serde_json::json!({}));
            c["exporter"] = serde_json::json!({ "listen": "127.0.0.1:9176" });
        }),
        ("source.submodules.\"a\".url", |c| {
            submodule(c, "a", serde_json::json!({ "url": "http://example.org/x" }))
        }),
        ("source.submodules.\"a\".tokenFile", |c| {
            submodule(c, "a", serde_json::json!({ "tokenFile": "token" }))
        }),
        ("source.submodules.\"a\".sshKeyFile", |c| {
            submodule(c, "a", serde_json::json!({ "url": "git@git.example.org:lib.git" }));
        }),
        ("source.submodules", |c| {
            (0..33).for_each(|n| submodule(c, &format!("modules/{n}"), serde_json::json!({})));
        }),
        ("source.submodules", |c| {
            let url = format!("https://git.example.org/{}", "x".repeat(2000));
            (0..16).for_each(|n| submodule(c, &format!("modules/{n}"), serde_json::json!({ "url": url })));
        }),
        ("stateDirectory", |c| c["stateDirectory"] = "var".into()),
        ("remotes", |c| c["remotes"] = serde_json::json!([])),
        ("remotes[0].url", |c| c["remotes"][0]["url"] = "http://git.example.org/x".into()),
        ("remotes[0].url", |c| c["remotes"][0]["url"] = "http://127.0.0.1.evil.org/x".into()),
        ("remotes[0].url", |c| c["remotes"][0]["url"] = "https://me:hunter2@git.example.org/x".into()),
        ("remotes[0].url", |c| c["remotes"][0]["url"] = "ext::sh -c id".into()),
        ("remotes[0].url", |c| c["remotes"][0]["url"] = "ssh://git:hunter2@git.example.org/x".into()),
        ("remotes[0].url", |c| c["remotes"][0]["url"] = "git@-oProxyCommand=id:x".into()),
        ("remotes[0].sshKeyFile", |c| ssh(c, None, Some("/h"))),
        ("remotes[0].knownHostsFile", |c| ssh(c, Some("/k"), None)),
        ("remotes[0].sshKeyFile", |c| ssh(c, Some("~/.ssh/id_ed25519"), Some("/h"))),
        ("remotes[0].sshKeyFile", |c| ssh(c, Some("/a b"), Some("/h"))),
        ("remotes[0].knownHostsFile", |c| ssh(c, Some("/k"), Some("/%h"))),
        ("remotes[0].interval", |c| c["remotes"][0]["interval"] = "10ms".into()),
        ("remotes[0].tokenFile", |c| c["remotes"][0]["tokenFile"] = "token".into()),
        ("remotes[0].intervalWhileHinted", |c| {
            c["remotes"][0]["interval"] = "hourly".into();
            c["remotes"][0]["intervalWhileHinted"] = "1h".into();
        }),
        ("remotes[0].clientKeyFile", |c| c["remotes"][0]["clientCertFile"] = "/c".into()),
        ("remotes[0].clientCertFile", |c| c["remotes"][0]["clientKeyFile"] = "/k".into()),
        ("remotes[0].clientCertFile", |c| c["remotes"][0]["clientCertFile"] = "c".into()),
        ("remotes[0].proxyCredentialsFile", |c| c["remotes"][0]["proxyCredentialsFile"] = "/p".into()),
        ("remotes[0].proxy", |c| c["remotes"][0]["proxy"] = "http://web1:hunter2@proxy:3128".into()),
        ("remotes[0].proxy", |c| c["remotes"][0]["proxy"] = "https://proxy:3128".into()),
        ("remotes[0].proxy", |c| c["remotes"][0]["proxy"] = "http://proxy".into()),
        ("remotes[0].proxy", |c| c["remotes"][0]["proxy"] = "http://proxy:3128/x".into()),
        ("remotes[0].proxy", |c| c["remotes"][0]["proxy"] = "socks5h://:1080".into()),
        ("remotes[0].proxy", |c| {
            c["remotes"][0]["url"] = "/srv/infra.git".into();
            c["remotes"][0]["proxy"] = "http://proxy:3128".into();
        }),
        ("hints[0].proxy", |c| hint_is(c, "sse", serde_json::json!({ "proxy": "proxy" }))),
        ("hints[0].clientKeyFile", |c| hint_is(c, "sse", serde_json::json!({ "clientCertFile": "/c" }))),
        ("hints[0].command", |c| {
            hint_is(c, "exec", serde_json::json!({ "url": null, "command": ["/x"], "proxy": "http://p:1" }));
        }),
        ("remotes[0].intervalWhileHinted", |c| c["remotes"][0]["intervalWhileHinted"] = "59s".into()),
        ("hints", |c| c["hints"] = vec![hint("sse", serde_json::json!({})); 9].into()),
        ("hints[1].name", |c| c["hints"] = vec![hint("sse", serde_json::json!({})); 2].into()),
        ("hints[0].name", |c| hint_is(c, "sse", serde_json::json!({ "name": "a b" }))),
        ("hints[0].url", |c| hint_is(c, "sse", serde_json::json!({ "url": null }))),
        ("hints[0].url", |c| hint_is(c, "sse", serde_json::json!({ "url": "http://push.example.org/x" }))),
        ("hints[0].url", |c| {
            hint_is(c, "sse", serde_json::json!({ "url": "https://me:secret@push.example.org/x" }))
        }),
        ("hints[0].url", |c| hint_is(c, "long-poll", serde_json::json!({ "url": "/run/x" }))),
        ("hints[0].command", |c| hint_is(c, "sse", serde_json::json!({ "command": ["/bin/true"] }))),
        ("hints[0].url", |c| hint_is(c, "exec", serde_json::json!({ "command": ["/bin/true"] }))),
        ("hints[0].command", |c| hint_is(c, "exec", serde_json::json!({ "url": null }))),
        ("hints[0].command", |c| hint_is(c, "exec", serde_json::json!({ "url": null, "command": ["true"] }))),
        ("hints[0].remotes", |c| hint_is(c, "sse", serde_json::json!({ "remotes": ["elsewhere"] }))),
        ("hints[0].tokenFile", |c| hint_is(c, "sse", serde_json::json!({ "tokenFile": "token" }))),
        ("hints[0].filter", |c| hint_is(c, "sse", serde_json::json!({ "filter": "x".repeat(256) }))),
        ("hints[0].splay", |c| hint_is(c, "sse", serde_json::json!({ "splay": "11m" }))),
        ("hints[0].idleTimeout", |c| hint_is(c, "sse", serde_json::json!({ "idleTimeout": "10ms" }))),
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
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert!(with(|c| c["activation"]["soak"] = "soon".into()).is_err());
    assert!(with(|c| c["activation"]["reboot"]["policy"] = "later".into()).is_err());
    let error = with(|c| c["activation"]["reboot"]["window"] = serde_json::json!(["2-5"])).unwrap_err();
    assert!(error.contains("parse"), "{error}");
    assert!(with(|c| c["trust"]["mode"] = "managed".into()).is_err());
}

/// A hook that is as it should be, but for what `more` says.
fn hook_of(more: serde_json::Value) -> serde_json::Value {
    let mut hook = serde_json::json!({ "kind": "forgejo", "secretFiles": ["/run/key"] });
    hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    hook
}

fn hook(config: &mut serde_json::Value, more: serde_json::Value) {
    config["webhooks"]["hooks"]["forge"] = hook_of(more);
}

#[test]
fn webhooks_are_read() {
    let settings = with(|c| hook(c, serde_json::json!({ "remotes": ["origin"] }))).unwrap().settings;
    assert_eq!(settings.webhooks.hooks["forge"].kind, crate::config::HookKind::Forgejo);
    assert_eq!(settings.webhooks.listen, "127.0.0.1:9176".parse().unwrap());
    let bare = with(|c| c["webhooks"] = serde_json::json!({})).unwrap().settings;
    assert_eq!(bare.webhooks, crate::config::Webhooks::default(), "as files of earlier versions have it");
    assert!(with(|c| hook(c, serde_json::json!({ "kind": "sourceforge" }))).is_err());
}

#[test]
fn ways_to_a_server_are_read() {
    let loaded = with(|c| {
        for (key, value) in [
            ("clientCertFile", "/c"),
            ("clientKeyFile", "/k"),
            ("proxy", "socks5h://[2001:db8::1]:1080/"),
            ("proxyCredentialsFile", "/p"),
        ] {
            c["remotes"][0][key] = value.into();
        }
    });
    let https = loaded.unwrap().settings.remotes[0].https();
    assert_eq!(https.proxy.as_deref(), Some("socks5h://[2001:db8::1]:1080/"));
    let files = https.files().map(|file| file.and_then(|file| file.to_str()));
    assert_eq!(files, [None, Some("/c"), Some("/k"), Some("/p")]);
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
