//! Real Nix on a private store: from a source tree to a profile, and every kind of failure.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]
#![expect(clippy::disallowed_methods, reason = "a test looks at the clock itself")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use pullagent::host::command::{self, Command};
use pullagent::host::manager::Manager;
use pullagent::host::nix::{Cause, EvalLimits, FlakeSource, Nix, NixError};
use pullagent::model::StorePath;

const LIMIT: Duration = Duration::from_secs(60);
const REVISION: &str = "0123456789abcdef0123456789abcdef01234567";
const FLAKE: &str = r#"{
  outputs = { self }: let
    system = builtins.currentSystem or "x86_64-linux";
    build = name: script: derivation { inherit name; system = "@SYSTEM@"; builder = "/bin/sh"; args = [ "-c" script ]; };
  in {
    hosts."web-1".toplevel = build "system" "echo ${self.rev} >$out";
    throws = throw "this host is not supported";
    missing = self.nothing;
    fails = build "outer" "read x <${build "inner" "echo to stdout; echo to stderr >&2; exit 3"}";
    ifd = build "outer-${builtins.readFile (build "imported" "echo oops; exit 1")}" "";
    killed = build "killed" "kill -9 $$";
    slow = build "slow" "echo half >$out; echo begun; while :; do :; done";
    hangs = builtins.genericClosure { startSet = [ { key = 0; } ]; operator = x: [ { key = x.key + 1; } ]; };
    eats = builtins.length (builtins.genList (n: n) 1000000000) + self.nothing;
    download = derivation {
      name = "fetched"; system = "builtin"; builder = "builtin:fetchurl"; url = "http://127.0.0.1:9/x";
      outputHash = "0000000000000000000000000000000000000000000000000000"; outputHashAlgo = "sha256"; outputHashMode = "flat";
    };
  };
}
"#;

struct Store {
    dir: tempfile::TempDir,
    nix: Nix,
    source: StorePath,
}

impl Store {
    async fn new() -> Store {
        command::use_binary(env!("CARGO_BIN_EXE_pullagent"));
        let dir = tempfile::tempdir().unwrap();
        let nix = common::nix::private(dir.path()).await;
        let tree = dir.path().join("export/source");
        fs::create_dir_all(&tree).unwrap();
        let system = format!("{}-linux", std::env::consts::ARCH);
        fs::write(tree.join("flake.nix"), FLAKE.replace("@SYSTEM@", &system)).unwrap();
        let source = nix.add_source(&tree, &dir.path().join("roots/source")).await.unwrap();
        Store { dir, nix, source }
    }

    fn path(&self, below: &str) -> std::path::PathBuf {
        self.dir.path().join(below)
    }

    async fn eval(&self, attribute: &str) -> Result<StorePath, NixError> {
        self.eval_within(attribute, LIMIT).await
    }

    async fn eval_within(&self, attribute: &str, time: Duration) -> Result<StorePath, NixError> {
        self.eval_limited(attribute, EvalLimits { time, address_space: None }).await
    }

    async fn eval_limited(&self, attribute: &str, limits: EvalLimits) -> Result<StorePath, NixError> {
        let flake = FlakeSource {
            source: self.source.clone(),
            revision: REVISION.parse().unwrap(),
            last_modified: 1_700_000_000,
            subdir: ".".into(),
            attribute: attribute.into(),
        };
        self.nix.eval_drv(&flake, Manager::Alone, limits).await
    }

    async fn realise(&self, attribute: &str, limit: Duration) -> Result<StorePath, NixError> {
        let drv = self.eval(attribute).await.unwrap();
        self.nix.realise(&drv, &self.path("roots/toplevel"), limit).await
    }

    /// Runs a command of Nix's that the product has no use for.
    async fn ask(&self, program: &str, args: &[&str]) -> String {
        let vars = common::nix::private_store(self.dir.path());
        let output = Command::new(program).args(args).envs(vars).run().await.unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

#[tokio::test]
async fn from_a_source_tree_to_a_profile() {
    let store = Store::new().await;
    assert!(store.source.as_str().ends_with("-source"));
    let drv = store.eval("hosts.\"web-1\".toplevel").await.unwrap();
    assert!(!store.source.join("flake.lock").exists());
    let root = store.path("roots/toplevel");
    let out = store.nix.realise(&drv, &root, LIMIT).await.unwrap();
    assert_eq!(fs::read_to_string(out.as_path()).unwrap(), format!("{REVISION}\n"), "self.rev is ours");
    assert!(store.nix.is_valid(&out).await.unwrap());
    assert_eq!(store.nix.realise(&drv, &root, LIMIT).await.unwrap(), out, "repeating it changes nothing");

    let profile = store.path("profiles/system");
    store.nix.set_profile(&profile, &out).await.unwrap();
    store.nix.set_profile(&profile, &out).await.unwrap();
    assert_eq!(fs::read_link(&profile).unwrap(), Path::new("system-1-link"));
    assert_eq!(fs::read_link(store.path("profiles/system-1-link")).unwrap(), out.as_path());
}

/// What is rooted survives a garbage collection; what lost its root does not, and Nix says so.
#[tokio::test]
async fn roots_hold() {
    let store = Store::new().await;
    let out = store.realise("hosts.\"web-1\".toplevel", LIMIT).await.unwrap();
    let second = store.path("roots/deeper/second");
    store.nix.add_root(&out, &second).await.unwrap();
    fs::remove_file(store.path("roots/toplevel")).unwrap();
    store.ask("nix-store", &["--gc"]).await;
    assert!(store.nix.is_valid(&out).await.unwrap() && store.nix.is_valid(&store.source).await.unwrap());
    fs::remove_file(second).unwrap();
    fs::remove_file(store.path("roots/source")).unwrap();
    store.ask("nix-store", &["--gc"]).await;
    assert!(!store.nix.is_valid(&out).await.unwrap() && !store.nix.is_valid(&store.source).await.unwrap());
    let error = store.nix.add_root(&out, &store.path("roots/late")).await.unwrap_err();
    assert!(!error.is_deterministic(), "{error}");
}

#[tokio::test]
async fn evaluation_failures() {
    let store = Store::new().await;
    for (attribute, words) in
        [("throws", "this host is not supported"), ("missing", "nothing"), ("no.such.attribute", "attribute")]
    {
        match store.eval(attribute).await {
            Err(NixError::Evaluation { text }) => assert!(text.contains(words), "{attribute}: {text}"),
            other => panic!("{attribute}: {other:?}"),
        }
    }
    match store.eval("ifd").await {
        Err(NixError::Build { drv: Some(drv), log, .. }) => {
            assert!(drv.as_str().ends_with("-imported.drv") && log == ["oops"], "{drv} {log:?}");
        }
        other => panic!("{other:?}"),
    }
    let late = store.eval_within("hangs", Duration::from_millis(700)).await;
    assert!(matches!(&late, Err(NixError::Transient { cause: Cause::Timeout, .. })), "{late:?}");
}

/// It is the evaluation that ends, not we; and that may pass.
#[tokio::test]
async fn f03_an_evaluation_that_takes_all_memory() {
    let store = Store::new().await;
    let limits = EvalLimits { time: LIMIT, address_space: Some(2 << 30) };
    let eaten = store.eval_limited("eats", limits).await;
    assert!(matches!(&eaten, Err(NixError::Transient { cause: Cause::Memory, .. })), "{eaten:?}");
    store.eval_limited("hosts.\"web-1\".toplevel", limits).await.unwrap();
}

/// An input that the lock file does not pin would be another one at every host and at every time.
#[tokio::test]
async fn an_unlocked_input_is_refused() {
    let mut store = Store::new().await;
    let tree = store.path("export/unlocked/source");
    fs::create_dir_all(&tree).unwrap();
    let flake = format!(
        r#"{{ inputs.other = {{ url = "path:{}"; flake = false; }}; outputs = {{ self, other }}: {{ top = other; }}; }}"#,
        store.path("export/source").display()
    );
    fs::write(tree.join("flake.nix"), flake).unwrap();
    store.source = store.nix.add_source(&tree, &store.path("roots/unlocked")).await.unwrap();
    match store.eval("top").await {
        Err(NixError::Evaluation { text }) => assert!(text.contains("requires lock file changes"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert!(!store.source.join("flake.lock").exists());
}

#[tokio::test]
async fn build_failures() {
    let store = Store::new().await;
    match store.realise("fails", LIMIT).await {
        Err(error @ NixError::Build { .. }) => {
            assert!(error.is_deterministic());
            let NixError::Build { drv: Some(drv), log, .. } = error else { panic!("no derivation named") };
            assert!(drv.as_str().ends_with("-inner.drv"), "{drv}");
            assert_eq!(log, ["to stdout", "to stderr"]);
        }
        other => panic!("{other:?}"),
    }
    for (attribute, expected) in [("killed", Cause::Killed), ("download", Cause::Network)] {
        match store.realise(attribute, LIMIT).await {
            Err(error @ NixError::Transient { .. }) => {
                assert!(!error.is_deterministic());
                assert!(matches!(error, NixError::Transient { cause, .. } if cause == expected), "{error:?}");
            }
            other => panic!("{attribute}: {other:?}"),
        }
    }
}

/// The build has written to its output when its time is over: the path exists, and is not valid. Nor does
/// anything of the build run on.
#[tokio::test]
async fn an_interrupted_build_is_not_valid() {
    let store = Store::new().await;
    let drv = store.eval("slow").await.unwrap();
    let out: StorePath =
        store.ask("nix-store", &["--query", "--outputs", drv.as_str()]).await.parse().unwrap();
    let start = Instant::now();
    let root = store.path("roots/slow");
    let error = store.nix.realise(&drv, &root, Duration::from_secs(2)).await.unwrap_err();
    assert!(matches!(error, NixError::Transient { cause: Cause::Timeout, .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(out.as_path().exists(), "otherwise this proves nothing");
    assert!(!store.nix.is_valid(&out).await.unwrap());
    assert!(!root.exists());
    let script = OsStr::from_bytes(b"echo half >$out; echo begun; while :; do :; done");
    let here = |pid: &i32| {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environ).contains(out.as_str())
    };
    common::processes::wait_until("the end of the builder", || {
        !common::processes::with_arguments(&[script]).iter().any(here)
    });
}

/// As a power cut may leave them: Nix calls both valid.
#[tokio::test]
async fn what_is_damaged_is_told_and_made_anew() {
    let store = Store::new().await;
    let (flake, whole) = (store.source.join("flake.nix"), "hosts.\"web-1\".toplevel");
    let drv = store.eval(whole).await.unwrap();
    assert_eq!(store.nix.damaged(&[&store.source, &drv]).await.unwrap(), None);
    for file in [flake.as_path(), drv.as_path()] {
        fs::set_permissions(file, PermissionsExt::from_mode(0o644)).unwrap();
        fs::write(file, "").unwrap();
    }
    for path in [&store.source, &drv] {
        let said = store.nix.damaged(&[path]).await.unwrap().unwrap();
        assert!(said.contains("was modified"), "{said}");
    }
    let error = store.eval(whole).await.unwrap_err();
    assert_eq!(error.suspects(), [], "{error}");
    let error = store.nix.delete(&store.source).await.unwrap_err().to_string();
    assert!(error.contains("still alive"), "what is needed stays: {error}");
    fs::remove_file(store.path("roots/source")).unwrap();
    store.nix.delete(&store.source).await.unwrap();
    let added = store.nix.add_source(&store.path("export/source"), &store.path("roots/source")).await;
    assert_eq!(added.unwrap(), store.source);

    let error = store.realise(whole, LIMIT).await.unwrap_err();
    assert_eq!(error.suspects(), [drv.clone()], "{error}");
    store.nix.delete(&drv).await.unwrap();
    store.realise(whole, LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_nix_that_is_not_there_is_said() {
    command::use_binary(env!("CARGO_BIN_EXE_pullagent"));
    let error = Nix::detect([("PATH".into(), "/no/such/place".into())]).await.unwrap_err();
    assert!(matches!(error, NixError::Command(command::CommandError::NotFound { .. })), "{error:?}");
}
