//! What `module.nix` makes of a host: the rendered configuration, the unit, the assertions. Evaluated by
//! `nix-instantiate` with the stand-in `lib` of `tests/nix/`, so that no nixpkgs is needed; the flake's checks read
//! the same cases with the real `lib`.
#![expect(clippy::disallowed_methods, reason = "a test may start programs")]
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pullagent::config::{self, Loaded, Span};
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
    let reserved = [
        "activation.reboot",
        "exporter",
        "health.ignoreUnits",
        "hints",
        "hooks",
        "trust.refBinding",
        "webhooks",
    ];
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
    assert_eq!(settings.trust.signers["bob"].roles, [config::Role::Contributor]);
    assert_eq!(settings.build.eval_memory_max, Some(1 << 31));
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
fn keys_are_ssh_ed25519() {
    let keys = |key: &str| try_eval("rendered.trust.signers.alice.keys", &[("key", key)]);
    assert!(keys("sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29t").is_ok());
    for key in ["ssh-rsa AAAAB3NzaC1yc2E", "AAAAC3NzaC1lZDI1NTE5", "ssh-ed25519", "/etc/alice.pub"] {
        let error = keys(key).unwrap_err();
        assert!(error.contains("is not of type"), "'{key}': {error}");
    }
}

#[test]
fn the_unit_lets_the_switch_outlive_the_agent() {
    let unit = eval("unit");
    let service = &unit["serviceConfig"];
    assert_eq!(service["KillMode"], "process");
    assert_eq!(service["Type"], "notify");
    assert_eq!(service["Restart"], "always");
    assert_eq!(service["StateDirectoryMode"], "0700");
    assert_eq!(service["RuntimeDirectoryPreserve"], true);
    assert_eq!(unit["unitConfig"]["X-StopOnRemoval"], false);
    assert_eq!(unit["restartIfChanged"], true);
    assert_eq!(unit["stopIfChanged"], false);
    assert_eq!(unit["startLimitIntervalSec"], 0);
    assert_eq!(unit["wantedBy"], json!(["multi-user.target"]));
    let start = service["ExecStart"].as_str().unwrap();
    assert!(start.ends_with("/bin/pullagent run --config /etc/pullagent/config.json"), "{start}");
}

/// Whatever the unit takes away, its children lose too, and one of them is `switch-to-configuration`.
#[test]
fn the_unit_takes_nothing_away_that_an_activation_needs() {
    let unit = eval("unit");
    for key in unit["serviceConfig"].as_object().unwrap().keys() {
        let takes =
            ["Protect", "Private", "Restrict", "Capability", "SystemCall", "ReadOnly", "Inaccessible"];
        let also = ["NoNewPrivileges", "UMask", "MemoryDenyWriteExecute", "User", "DynamicUser"];
        let bad = takes.iter().any(|t| key.starts_with(t)) || also.contains(&key.as_str());
        assert!(!bad, "{key}");
    }
}

#[test]
fn the_unit_knows_the_hosts_proxy_and_certificates() {
    let environment = &eval("unit")["environment"];
    assert_eq!(environment["https_proxy"], "http://proxy.example.org:3128");
    assert_eq!(environment["SSL_CERT_FILE"], "/etc/ssl/certs/ca-certificates.crt");
    assert_eq!(environment["NIX_REMOTE"], "daemon");
}

#[test]
fn secrets_are_credentials_and_stay_out_of_the_file() {
    let secret = eval("secret");
    assert_eq!(secret["failures"], json!([]));
    let credentials = ["origin.tokenFile:/run/keys/token", "deploy.sshKeyFile:/run/keys/deploy"];
    assert_eq!(secret["credentials"], json!(credentials));
    assert!(!secret["rendered"].to_string().contains("/run/keys"));
    let settings = read(&secret["rendered"]).settings;
    let token = settings.remotes[0].token_file.as_deref();
    assert_eq!(token, Some(Path::new("/run/credentials/pullagent.service/origin.tokenFile")));
    assert_eq!(settings.remotes[1].token_file, None);
    let [key, hosts] = [&settings.remotes[2].ssh_key_file, &settings.remotes[2].known_hosts_file];
    assert_eq!(key.as_deref(), Some(Path::new("/run/credentials/pullagent.service/deploy.sshKeyFile")));
    assert_eq!(hosts.as_deref(), Some(Path::new("/etc/ssh/ssh_known_hosts")), "no secret");
}

#[test]
fn a_secret_in_the_store_is_refused() {
    let path = "/nix/store/00000000000000000000000000000000-secret";
    for key in ["tokenFile", "sshKeyFile"] {
        let failures = try_eval("secret.failures", &[(key, path)]).unwrap();
        assert!(failures.to_string().contains(&format!("{key} lies in the Nix store")), "{failures}");
    }
}

#[test]
fn the_unit_finds_ssh() {
    let path = eval("unit")["path"].to_string();
    assert!(path.contains("openssh"), "{path}");
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
        "unitIsTheSame": true,
    });
    assert_eq!(eval("revision"), expected);
}

#[test]
fn switched_off_it_leaves_no_trace() {
    let nothing = json!({ "assertions": [], "etc": {}, "groups": {}, "services": {}, "systemPackages": [] });
    assert_eq!(eval("disabled"), nothing);
}
