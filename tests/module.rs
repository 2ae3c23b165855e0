//! What `module.nix` makes of a host: the rendered configuration, the units, the assertions. Evaluated by
//! `nix-instantiate` with the stand-in `lib` of `tests/nix/`, so that no nixpkgs is needed; the flake's checks read
//! the same cases with the real `lib`.
#![expect(clippy::disallowed_methods, reason = "a test may start programs")]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pullagent::config::{self, Loaded, Span};
use pullagent::trust;
use serde_json::{Value, json};

const GOLDEN: &str = include_str!("fixtures/config.json");

/// Runs `nix-instantiate` in the repository, without substituters and without asking a configuration of the user.
fn nix_instantiate(args: &[&str]) -> Output {
    Command::new("nix-instantiate")
        .args(args)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("NIX_CONFIG", "substitute = false")
        .output()
        .expect("nix-instantiate is installed (tests/setup does it)")
}

fn try_eval(attribute: &str, args: &[(&str, &str)]) -> Result<Value, String> {
    let mut argv = vec!["--eval", "--strict", "--json", "tests/nix/eval.nix", "-A", attribute];
    for (name, value) in args {
        argv.extend(["--argstr", name, value]);
    }
    let output = nix_instantiate(&argv);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

fn eval(attribute: &str) -> Value {
    try_eval(attribute, &[]).unwrap()
}

fn read(rendered: &Value) -> Loaded {
    config::parse(rendered.to_string().as_bytes()).unwrap()
}

fn nix_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            nix_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "nix") {
            found.push(path);
        }
    }
}

#[test]
fn every_nix_file_parses() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = ["default.nix", "flake.nix", "module.nix"].map(|f| root.join(f)).into();
    nix_files(&root.join("tests"), &mut files);
    assert!(files.len() >= 7, "{files:?}");
    for file in files {
        let output = nix_instantiate(&["--parse", file.to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_lock_file_names_a_whole_nixpkgs() {
    let lock = include_str!("../flake.lock");
    let lock: Value = serde_json::from_str(lock).unwrap();
    let locked = &lock["nodes"]["nixpkgs"]["locked"];
    assert_eq!(locked["rev"].as_str().unwrap().len(), 40);
    assert!(locked["narHash"].as_str().unwrap().starts_with("sha256-"));
}

#[test]
fn the_rendered_configuration_says_what_the_golden_file_says() {
    let rendered = eval("rendered");
    let (ours, golden) = (read(&rendered), config::parse(GOLDEN.as_bytes()).unwrap());
    assert_eq!(ours.unknown, Vec::<String>::new());
    assert_eq!(ours.settings, golden.settings);
    assert_eq!(eval("crossRendered"), rendered);
    assert_eq!(eval("evaluated"), rendered, "people who sign can do without the build");
}

/// The module and the agent each have their defaults; this keeps them the same.
#[test]
fn the_defaults_are_those_of_the_agent() {
    let least = json!({
        "schema": 1,
        "hostname": "web1",
        "remotes": [{ "name": "origin", "url": "https://git.example.org/me/infra.git" }],
        "trust": { "signers": { "alice": { "keys": eval("rendered")["trust"]["signers"]["alice"]["keys"] } } },
        "health": { "checks": { "web": { "http": "http://127.0.0.1/healthz" } } },
    });
    assert_eq!(read(&eval("rendered")).settings, read(&least).settings);
}

/// Returns the paths of the keys of `whole` that `part` lacks.
fn lacking(whole: &Value, part: &Value, path: &str) -> Vec<String> {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => whole
            .iter()
            .flat_map(|(key, value)| match part.get(key) {
                Some(there) => lacking(value, there, &below(key)),
                None => vec![below(key)],
            })
            .collect(),
        (Value::Array(whole), Value::Array(part)) => {
            whole.iter().zip(part).flat_map(|(w, p)| lacking(w, p, path)).collect()
        }
        _ => vec![],
    }
}

/// Every key that the agent reads is an option with a description, but for those that mean nothing yet.
#[test]
fn every_key_that_means_something_is_an_option() {
    let rendered = eval("rendered");
    let whole = serde_json::to_value(read(&rendered).settings).unwrap();
    let mut missing = lacking(&whole, &rendered, "");
    missing.sort();
    let reserved = ["hooks"];
    assert_eq!(missing, reserved);
    let schema = config::schema().to_string();
    let said = schema.matches("\"Reserved").count();
    assert_eq!(said, reserved.len(), "the schema calls those keys reserved, and no others");
}

#[test]
fn what_a_user_sets_arrives() {
    let settings = read(&eval("changed")).settings;
    assert_eq!(settings.branches().len(), 1);
    assert_eq!(settings.branches()[0].0, "production");
    assert_eq!(settings.source.subdir, "hosts");
    let submodule = &settings.source.submodules["modules/lib"];
    assert_eq!(
        (submodule.url.as_str(), submodule.username.as_str()),
        ("https://git.example.org/me/lib.git", "pullagent")
    );
    let bob = &settings.trust.signers["bob"];
    assert_eq!(bob.roles, [config::Role::Contributor]);
    assert_eq!(bob.test_hosts, Some(vec!["web1".to_owned()]));
    assert_eq!(bob.keys[0].valid_until, Some(config::Moment(1_801_353_600)));
    assert_eq!(settings.trust.ref_binding, trust::RefBinding::Strict);
    assert_eq!(settings.trust.merges, trust::Merges::Vouch);
    assert_eq!(settings.build.eval_memory_max, Some(1 << 31));
}

/// A host that can be logged in to has to stay so, unless its administrators say otherwise.
#[test]
fn a_host_with_ssh_is_checked_for_it() {
    let check = |name: &str| read(&eval(name)).settings.health.checks.get("ssh").cloned();
    let usual = check("ssh.usual").unwrap();
    assert_eq!((usual.tcp.as_deref(), usual.expect.as_deref()), (Some("127.0.0.1:2222"), Some("SSH-")));
    let own = check("ssh.own").unwrap();
    assert_eq!((own.tcp, own.unit.as_deref()), (None, Some("sshd.service")));
    assert_eq!((check("ssh.bound"), check("rendered")), (None, None));
}

/// Keys that the module does not declare pass through, and the check at build time names them.
#[test]
fn undeclared_keys_reach_the_check_at_build_time() {
    let mut unknown = read(&eval("freeform")).unknown;
    unknown.sort();
    assert_eq!(unknown, ["activation.typo", "futureKey"]);
}

/// The line that the build runs, run here: the program of this build, the module's own arguments.
#[test]
fn the_check_at_build_time_accepts_the_good_and_names_the_bad() {
    let script = eval("configCheck");
    let line = script.as_str().unwrap().lines().next().unwrap().to_owned();
    let (_, args) = line.split_once("/bin/pullagent ").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str| {
        let file = dir.path().join(name);
        std::fs::write(&file, eval(name).to_string()).unwrap();
        let line = format!("\"$program\" {args}");
        let mut shell = Command::new("sh");
        shell.args(["-ec", &line]).env("program", env!("CARGO_BIN_EXE_pullagent")).env("config", &file);
        shell.output().unwrap()
    };
    let good = check("rendered");
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    let bad = check("freeform");
    assert!(!bad.status.success());
    assert!(String::from_utf8_lossy(&bad.stderr).contains("activation.typo"), "{bad:?}");
}

#[test]
fn durations_are_those_that_the_agent_reads() {
    let soak = |text: &str| try_eval("changed.activation.soak", &[("duration", text)]);
    for text in ["90s", "500ms", "1h 30m", "1h30m", "2 days", "1 week 2d", "15min", "3 hours", "10sec"] {
        assert_eq!(soak(text), Ok(json!(text)));
        serde_json::from_value::<Span>(json!(text)).unwrap();
    }
    for text in ["", "90", "soon", "s", "1h,30m", "-5s", "1.5x", "90s ", "5 fortnights"] {
        let error = soak(text).unwrap_err();
        assert!(error.contains("activation.soak' is not of type `duration"), "'{text}': {error}");
    }
}

#[test]
fn an_interval_is_a_duration_or_a_calendar() {
    let interval = |text: &str| try_eval("rendered", &[("interval", text)]);
    for text in [
        "90s",
        "hourly",
        "*-*-* 04:40:00",
        "Mon..Fri 08..18:00/15",
        "Sat,Sun 02:00 Europe/Berlin",
        "*-*~1 23:30",
    ] {
        let rendered = interval(text).unwrap();
        assert_eq!(rendered["remotes"][0]["interval"], text);
        assert_eq!(
            read(&rendered).settings.remotes[0].interval,
            serde_json::from_value(json!(text)).unwrap()
        );
    }
    // What only looks like one is refused by the agent's own check, at the build.
    for text in ["", "*:0/10; reboot", "$(date)", "täglich"] {
        let error = interval(text).unwrap_err();
        assert!(error.contains("interval' is not of type `duration"), "'{text}': {error}");
    }
    let zones = try_eval("configEnvironment", &[]).unwrap();
    assert!(zones["TZDIR"].as_str().unwrap().ends_with("-tzdata/share/zoneinfo"), "{zones}");
}

#[test]
fn keys_are_ssh_ed25519() {
    let keys = |key: &str| try_eval("rendered.trust.signers.alice.keys", &[("key", key)]);
    assert!(keys("sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29t").is_ok());
    for key in ["ssh-rsa AAAAB3NzaC1yc2E", "AAAAC3NzaC1lZDI1NTE5", "ssh-ed25519", "/etc/alice.pub"] {
        let error = keys(key).unwrap_err();
        assert!(error.contains("is not of type"), "'{key}': {error}");
    }
}

const UNITS: &str = include_str!("../agent/host/units.json");

/// What the module adds to the units, by itself.
const ADDED: [&str; 3] = ["path", "environment", "restartTriggers"];

/// Returns the units of a host, by file name, as `units.json` describes them: what NixOS has options for is put back
/// under the keys that NixOS makes of them.
fn described(units: &Value) -> Value {
    let mut all = serde_json::Map::new();
    for (kind, suffix) in [("services", "service"), ("sockets", "socket")] {
        for (name, unit) in units[kind].as_object().unwrap() {
            all.insert(format!("{name}.{suffix}"), sections(unit));
        }
    }
    Value::Object(all)
}

fn sections(unit: &Value) -> Value {
    let mut sections = json!({ "Unit": {} });
    for (option, value) in unit.as_object().unwrap() {
        let words =
            || value.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect::<Vec<_>>();
        match option.as_str() {
            "unitConfig" => {
                sections["Unit"].as_object_mut().unwrap().extend(value.as_object().unwrap().clone())
            }
            "description" => sections["Unit"]["Description"] = value.clone(),
            "after" | "wants" | "partOf" | "wantedBy" if words().is_empty() => {}
            "after" => sections["Unit"]["After"] = json!(words().join(" ")),
            "wants" => sections["Unit"]["Wants"] = json!(words().join(" ")),
            "partOf" => sections["Unit"]["PartOf"] = json!(words().join(" ")),
            "serviceConfig" => sections["Service"] = value.clone(),
            "socketConfig" => sections["Socket"] = value.clone(),
            "wantedBy" => sections["Install"] = json!({ "WantedBy": value }),
            added => assert!(ADDED.contains(&added), "{added}"),
        }
    }
    sections
}

#[test]
fn the_units_are_those_of_the_data_file() {
    let mut made = described(&eval("units"));
    let secrets =
        made["pullagent-gateway.service"]["Service"].as_object_mut().unwrap().remove("LoadCredential");
    assert_eq!(secrets, Some(json!([])), "the only key that the module adds");
    let program = made["pullagent.service"]["Service"]["ExecStart"].as_str().unwrap().to_owned();
    let (program, _) = program.split_once(" run ").unwrap();
    assert!(program.starts_with("/nix/store/") && program.ends_with("-pullagent/bin/pullagent"), "{program}");
    let expected: Value = serde_json::from_str(&UNITS.replace("@program@", program)).unwrap();
    assert_eq!(made, expected["installed"]);
    let users = eval("users");
    let names = |of: &str| users[of].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(json!(names("users")), expected["users"]);
    for name in
        [&expected["users"], &expected["groups"]].into_iter().flat_map(|names| names.as_array().unwrap())
    {
        assert!(names("groups").contains(&name.as_str().unwrap().to_owned()), "{name}");
    }
    assert_eq!(users["users"]["pullagent-gateway"]["isSystemUser"], true);
    assert_eq!(users["users"]["pullagent-gateway"]["group"], "pullagent-gateway");
}

/// What must hold of the units whatever else is changed in them, because a switch restarts the agent that made it.
#[test]
fn the_units_survive_a_switch() {
    let units: Value = serde_json::from_str(UNITS).unwrap();
    for (name, unit) in units["installed"].as_object().unwrap() {
        assert_eq!(
            unit["Unit"]["X-StopOnRemoval"], "false",
            "{name}: who removes it must not be stopped by that"
        );
        let Some(service) = unit.get("Service") else { continue };
        assert_eq!(
            service["X-StopIfChanged"], "false",
            "{name}: a restart at the end, not a stop at the beginning"
        );
        assert_eq!(service.get("X-RestartIfChanged"), None, "{name}: it is restarted by default");
        assert_eq!(service["Restart"], "always", "{name}");
        assert_eq!(
            unit["Unit"]["StartLimitIntervalSec"], "0",
            "{name}: who gives up can't fetch its own repair"
        );
    }
    for kind in ["switch", "guard", "guardTimer"] {
        assert_eq!(units["transient"][kind]["IgnoreOnIsolate"], "yes", "{kind}");
    }
}

#[test]
fn proxy_and_certificates_go_to_whoever_reaches_out() {
    let units = eval("units");
    for name in ["pullagent", "pullagent-gateway"] {
        let environment = &units["services"][name]["environment"];
        assert_eq!(environment["https_proxy"], "http://proxy.example.org:3128", "{name}");
        assert_eq!(environment["SSL_CERT_FILE"], "/etc/ssl/certs/ca-certificates.crt", "{name}");
        let nix = if name == "pullagent" { json!("daemon") } else { Value::Null };
        assert_eq!(environment["NIX_REMOTE"], nix, "{name}");
    }
    let path = |name: &str| units["services"][name]["path"].to_string();
    assert!(["git-minimal", "openssh"].iter().all(|tool| path("pullagent-gateway").contains(tool)));
    assert!(["nix", "git-minimal", "openssh"].iter().all(|tool| path("pullagent").contains(tool)));
}

/// A change of the configuration restarts the reconciler only (and systemd the gateway with it), one of a secret's place both:
/// the reconciler looks whether it is renewed.
#[test]
fn a_change_restarts_whom_it_concerns() {
    let (before, after) = (eval("before"), eval("after"));
    let differ = |after: &Value| -> Vec<String> {
        let names = ["services", "sockets"].iter().flat_map(|kind| {
            let units = before[kind].as_object().unwrap().iter();
            units
                .filter(move |(name, unit)| after[kind][name.as_str()] != **unit)
                .map(|(name, _)| name.clone())
        });
        names.collect()
    };
    assert_eq!(differ(&after["configuration"]), ["pullagent"]);
    assert_eq!(differ(&after["secret"]), ["pullagent", "pullagent-gateway"]);
}

#[test]
fn a_host_can_add_to_the_units() {
    let gateway = eval("extended")["services"]["pullagent-gateway"].clone();
    let after = gateway["after"].as_array().unwrap();
    assert!(
        after.contains(&json!("unbound.service")) && after.contains(&json!("pullagent.socket")),
        "{after:?}"
    );
    assert_eq!(gateway["serviceConfig"]["IPAddressDeny"], "10.0.0.0/8");
    assert_eq!(gateway["serviceConfig"]["ProtectSystem"], "strict");
}

/// The gateway may listen and write where it is told to, and nowhere else.
#[test]
fn metrics_widen_the_sandbox_by_as_much_as_they_need() {
    let metrics = eval("metrics");
    let of = |case: &str| {
        let service = &metrics[case]["serviceConfig"];
        let key = |key: &str| service.get(key).cloned().unwrap_or_default();
        assert_eq!(service["SocketBindDeny"], "any", "{case}");
        let filter = service["SystemCallFilter"].as_array().unwrap();
        let last = if key("SocketBindAllow").is_null() { "~listen" } else { "listen" };
        assert_eq!(filter.last().unwrap(), last, "{case}");
        assert!(filter.contains(&json!("~@privileged @resources")), "{case}: {filter:?}");
        (key("SocketBindAllow"), key("ReadWritePaths"), metrics[case]["tmpfiles"].clone())
    };
    assert_eq!(of("none"), (Value::Null, Value::Null, json!({})));
    assert_eq!(of("loopback"), (json!("ipv4:tcp:9175"), Value::Null, json!({})));
    assert_eq!(of("six"), (json!("ipv6:tcp:9176"), Value::Null, json!({})));
    let may_write = json!({ "/var/lib/node": { "a+": { "argument": "u:pullagent-gateway:rwx" } } });
    let tmpfiles = json!({ "10-pullagent": may_write });
    assert_eq!(of("file"), (Value::Null, json!(["-/var/lib/node"]), tmpfiles));
    for (case, listen) in [("loopback", "127.0.0.1:9175"), ("six", "[::1]:9176")] {
        let mut settings = eval("rendered");
        settings["exporter"] = metrics[case]["rendered"].clone();
        assert_eq!(read(&settings).settings.exporter.unwrap().listen, Some(listen.parse().unwrap()));
    }
    assert_eq!(metrics["none"]["rendered"], Value::Null);
}

/// systemd listens for webhooks, not the gateway, and a secret that is missing does not keep the gateway from starting.
#[test]
fn webhooks_come_in_through_a_socket_of_systemd() {
    let webhooks = eval("webhooks");
    assert_eq!(webhooks["failures"], json!([]));
    let mut made = described(&webhooks["units"]);
    let mut socket = made["pullagent-webhook.socket"].take();
    assert_eq!(socket["Socket"].as_object_mut().unwrap().remove("ListenStream"), Some(json!("[::1]:9000")));
    let expected: Value = serde_json::from_str(UNITS).unwrap();
    assert_eq!(socket, expected["optional"]["pullagent-webhook.socket"]);
    let gateway = &made["pullagent-gateway.service"]["Service"];
    assert_eq!(gateway["Sockets"], "pullagent-webhook.socket");
    assert_eq!(gateway["SocketBindAllow"], "ipv4:tcp:9175", "for metrics only");
    let files = ["forge.0:/run/keys/forge", "forge.1:/run/keys/forge-old", "other.0:/run/keys/other"];
    assert_eq!(gateway["LoadCredential"], json!(files.map(|file| format!("webhook.{file}"))));
    let names = ["forge.0", "forge.1", "other.0"];
    assert_eq!(gateway["SetCredential"], json!(names.map(|name| format!("webhook.{name}:missing"))));
    let without = eval("units");
    assert!(without["sockets"].get("pullagent-webhook").is_none());
    assert!(without["services"]["pullagent-gateway"]["serviceConfig"].get("Sockets").is_none());
    let Loaded { settings, unknown } = read(&webhooks["rendered"]);
    assert_eq!(unknown, Vec::<String>::new());
    assert!(!webhooks["rendered"]["webhooks"].to_string().contains("/run/keys"));
    let hooks = &settings.webhooks.hooks;
    let place = "/run/credentials/pullagent-gateway.service/webhook.";
    assert_eq!(hooks["forge"].kind, config::HookKind::Forgejo);
    assert_eq!(
        hooks["forge"].secret_files,
        ["forge.0", "forge.1"].map(|name| PathBuf::from(format!("{place}{name}")))
    );
    assert_eq!(hooks["other"].header.as_deref(), Some("X-Signature"));
    assert_eq!(
        (settings.webhooks.listen.port(), &hooks["other"].remotes),
        (9000, &vec!["origin".to_owned()])
    );
    let store = "/nix/store/00000000000000000000000000000000-secret";
    let failures = try_eval("webhooks.failures", &[("hookSecret", store)]).unwrap();
    assert!(failures.to_string().contains("forge.secretFiles lies in the Nix store"), "{failures}");
}

#[test]
fn secrets_are_credentials_and_stay_out_of_the_file() {
    let secret = eval("secret");
    assert_eq!(secret["failures"], json!([]));
    let credentials = [
        "origin.tokenFile:/run/keys/token",
        "deploy.sshKeyFile:/run/keys/deploy",
        "hint@nchan.tokenFile:/run/keys/push",
        "submodule@2c48b930f28d7ac5cd1091e2a9cd656f.tokenFile:/run/keys/lib",
    ];
    let services = &secret["units"]["services"];
    assert_eq!(services["pullagent-gateway"]["serviceConfig"]["LoadCredential"], json!(credentials));
    assert_eq!(
        services["pullagent"]["serviceConfig"].get("LoadCredential"),
        None,
        "the reconciler has no secrets"
    );
    let mut rendered = secret["rendered"].clone();
    // Where they come from is said once: whoever renews one need not restart anything.
    let originals = rendered.as_object_mut().unwrap().remove("copiedSecrets");
    assert_eq!(
        originals,
        Some(json!(["/run/keys/token", "/run/keys/deploy", "/run/keys/push", "/run/keys/lib"]))
    );
    assert!(!rendered.to_string().contains("/run/keys"));
    let settings = read(&rendered).settings;
    let token = settings.remotes[0].token_file.as_deref();
    assert_eq!(token, Some(Path::new("/run/credentials/pullagent-gateway.service/origin.tokenFile")));
    assert_eq!(settings.remotes[1].token_file, None);
    let [key, hosts] = [&settings.remotes[2].ssh_key_file, &settings.remotes[2].known_hosts_file];
    assert_eq!(
        key.as_deref(),
        Some(Path::new("/run/credentials/pullagent-gateway.service/deploy.sshKeyFile"))
    );
    assert_eq!(hosts.as_deref(), Some(Path::new("/etc/ssh/ssh_known_hosts")), "no secret");
    let submodule = settings.source.submodules["modules/lib"].token_file.as_ref().unwrap();
    assert_eq!(
        submodule,
        Path::new(
            "/run/credentials/pullagent-gateway.service/submodule@2c48b930f28d7ac5cd1091e2a9cd656f.tokenFile"
        )
    );
    let [nchan, broker] = &settings.hints[..] else { unreachable!("{:?}", settings.hints) };
    let token = Path::new("/run/credentials/pullagent-gateway.service/hint@nchan.tokenFile");
    assert_eq!(nchan.token_file.as_deref(), Some(token));
    assert_eq!((nchan.splay, nchan.idle_timeout), (Span::secs(2), Span::secs(90)));
    assert_eq!((broker.kind, broker.splay), (config::HintKind::Exec, Span::secs(30)));
    assert_eq!(broker.command, ["/bin/mosquitto_sub"]);
}

#[test]
fn a_secret_in_the_store_is_refused() {
    let path = "/nix/store/00000000000000000000000000000000-secret";
    for (argument, key) in [
        ("tokenFile", "tokenFile"),
        ("sshKeyFile", "sshKeyFile"),
        ("hintTokenFile", "hints (nchan).tokenFile"),
        ("submoduleTokenFile", r#"source.submodules.\"modules/lib\".tokenFile"#),
    ] {
        let failures = try_eval("secret.failures", &[(argument, path)]).unwrap();
        assert!(failures.to_string().contains(&format!("{key} lies in the Nix store")), "{failures}");
    }
}

#[test]
fn each_assertion_fires_alone() {
    let failures = eval("failures");
    let table = [
        ("autoUpgrade", "system.autoUpgrade"),
        ("comin", "services.comin"),
        ("noNix", "nix.enable"),
        ("noHostName", "needs a host name"),
        ("noRemote", "nothing to follow"),
        ("noSigner", "trusts nobody"),
        ("noKey", "trusts nobody"),
        ("noDeployer", "trusts nobody"),
    ];
    assert_eq!(failures["none"], json!([]));
    assert_eq!(failures.as_object().unwrap().len(), table.len() + 1);
    for (case, text) in table {
        let messages = failures[case].as_array().unwrap();
        assert_eq!(messages.len(), 1, "{case}: {messages:?}");
        assert!(messages[0].as_str().unwrap().contains(text), "{case}: {messages:?}");
    }
}

#[test]
fn nonsense_is_refused_with_the_name_of_the_option() {
    let table = [
        ("operation", "operation' is not of type"),
        ("stateDirectory", "stateDirectory' is read-only"),
        ("machineId", "expectedMachineId' is not of type"),
        ("revision", "services.pullagent.revision' is not of type"),
        ("undeclared", "services.pullagent.branch' does not exist"),
        ("textfile", "exporter.textfile' is not of type"),
        ("listen", "exporter.listen' is not of type"),
        ("hookKind", "kind' is not of type"),
        ("hookWithoutSecret", "secretFiles' was accessed but has no value"),
        ("remoteWithoutUrl", "url' was accessed but has no value"),
    ];
    for (case, text) in table {
        let error = try_eval(&format!("refused.{case}"), &[]).unwrap_err();
        assert!(error.contains(text), "{case}: {error}");
    }
}

#[test]
fn the_revision_is_a_file_that_no_unit_depends_on() {
    let commit = "0123456789abcdef0123456789abcdef01234567\n";
    let expected = json!({
        "unknown": null,
        "dirtySystem": null,
        "fromSystem": commit,
        "own": commit,
        "unitsAreTheSame": true,
    });
    assert_eq!(eval("revision"), expected);
}

#[test]
fn switched_off_it_leaves_no_trace() {
    for (what, is) in eval("disabled").as_object().unwrap() {
        assert!(*is == json!({}) || *is == json!([]), "{what}: {is}");
    }
}
