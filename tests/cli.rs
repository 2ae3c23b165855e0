//! The command line, as a shell uses it: the real program against published files and a real control socket. What the
//! loop would answer is scripted; everything else is as on a host.

#![expect(clippy::unwrap_used, reason = "this is a test")]
#![expect(clippy::disallowed_methods, reason = "a test runs the program, and git, itself")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pullagent::config::{self, Settings};
use pullagent::control::server::{self, Ordered};
use pullagent::control::{client, protocol};
use pullagent::host::clock;
use pullagent::model::{self, HostFacts, Oid, Operation, Refusal, Settled, StorePath, Suspension, Tip};
use pullagent::plan::RemoteFacts;
use pullagent::report::{self, Publisher, Snapshot, Status};
use tokio::sync::{mpsc, watch};

const GOLDEN: &str = include_str!("fixtures/config.json");
/// Longer than anything here takes; only a test that fails waits for it.
const PATIENCE: &str = "20s";

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
fn without_an_agent_the_files_are_missed_politely() {
    let host = Host::new();
    for args in [&["status"][..], &["history"], &["explain"], &["suspend"], &["sync"]] {
        let ran = host.run(args);
        assert_eq!((ran.code, ran.out.as_str()), (6, ""), "{args:?}: {ran:?}");
        assert!(ran.err.starts_with("pullagent: ") && ran.err.contains("\nhint: "), "{args:?}: {ran:?}");
    }
    let ran = host.run(&["wait", "--timeout", "600ms"]);
    assert!(ran.code == 124 && ran.err.contains("no agent"), "{ran:?}");
}

#[test]
fn status_is_read_from_the_file() {
    let host = Host::new();
    host.publish(&in_sync());
    let ran = host.run(&["status"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    assert!(ran.out.starts_with("✔ web1 is up to date\n"), "{}", ran.out);
    assert!(host.run(&["status", "--oneline"]).out.starts_with("✔ 42 a1b2c3d in-sync"));
    let bright = host.run(&["status", "--color", "always"]).out;
    assert!(bright.contains('\u{1b}'), "{bright}");
    let forced = host.command(&["status"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(String::from_utf8(forced.stdout).unwrap().contains('\u{1b}'));
    let dull = host.command(&["status"]).env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").output().unwrap();
    assert_eq!(String::from_utf8(dull.stdout).unwrap(), ran.out);
    let json: serde_json::Value = serde_json::from_str(&host.run(&["status", "--json"]).out).unwrap();
    let told = (&json["schema"], &json["state"], &json["life"], &json["running"]["generation"]);
    assert_eq!(told, (&1.into(), &"in-sync".into(), &"running".into(), &42.into()), "{json}");
    assert_eq!(mode(&report::status_path(&host.root)), 0o644);
}

#[test]
fn a_status_in_a_foreign_layout_is_no_status() {
    let host = Host::new();
    host.publish(&in_sync());
    std::fs::write(report::status_path(&host.root), "{\"schema\": 9}").unwrap();
    let ran = host.run(&["status"]);
    assert!(
        ran.code == 1 && ran.err.contains("failed to understand") && ran.err.contains("hint: "),
        "{ran:?}"
    );
    std::fs::write(report::status_path(&host.root), vec![b' '; 5 << 20]).unwrap();
    let ran = host.run(&["status"]);
    assert!(ran.code == 1 && ran.err.contains("larger than"), "{ran:?}");
}

#[test]
fn the_exit_code_says_how_the_host_is_only_if_asked() {
    let host = Host::new();
    let mut waiting = in_sync();
    push(&mut waiting, &rev("d4e5f6a"));
    let mut suspended = waiting.clone();
    suspended.state.suspension =
        Some(Suspension { by: "root".to_owned(), reason: None, until: None, at: clock::unix_secs() });
    let held = Snapshot { trouble: Some("failed to read the journal".to_owned()), ..in_sync() };
    for (snapshot, code) in [(in_sync(), 0), (waiting, 4), (refused(), 3), (suspended, 5), (held, 1)] {
        host.publish(&snapshot);
        assert_eq!(host.run(&["status"]).code, 0);
        let ran = host.run(&["status", "--exit-code"]);
        assert_eq!(ran.code, code, "{ran:?}");
    }
}

#[test]
fn a_dead_agent_is_told_from_its_file() {
    let host = Host::new();
    host.publish(&in_sync());
    let path = report::status_path(&host.root);
    let mut status: Status = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    // A process of our own that has ended and was waited for.
    let mut child = Command::new("true").spawn().unwrap();
    status.agent.pid = child.id();
    child.wait().unwrap();
    std::fs::write(&path, serde_json::to_vec(&status).unwrap()).unwrap();
    let ran = host.run(&["status"]);
    assert!(ran.out.starts_with("✖ pullagent is not running on web1\n"), "{}", ran.out);
    assert!(ran.out.contains("systemctl start pullagent"), "{}", ran.out);
    assert_eq!(host.run(&["status", "--exit-code"]).code, 6);
    assert!(host.run(&["status", "--json"]).out.contains("\"life\": \"dead\""));
    let ran = host.run(&["explain"]);
    assert!(ran.code == 0 && ran.err.contains("not running"), "{ran:?}");
}

#[test]
fn a_file_is_only_written_when_something_changed() {
    let host = Host::new();
    let mut publisher = Publisher::open(&host.root).unwrap();
    let written = |p: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(p).unwrap());
    let (status, history) = (report::status_path(&host.root), report::history_path(&host.root));
    publisher.publish(&in_sync(), &settings(), 1000).unwrap();
    let first = (written(&status), written(&history));
    publisher.publish(&in_sync_at(&in_sync()), &settings(), 2000).unwrap();
    assert_eq!((written(&status), written(&history)), first, "nothing but the time had changed");
    publisher.publish(&refused(), &settings(), 3000).unwrap();
    assert!(written(&status) != first.0 && written(&history) != first.1);
    let read = report::read_status(&host.root).unwrap();
    assert_eq!((read.agent.written_at, read.agent.pid), (3000, std::process::id()));
    assert_eq!(read.agent.due_at, Some(3000 + 3 * 60 + 120));
    assert_eq!(
        std::fs::read_dir(report::run_dir(&host.root)).unwrap().count(),
        2,
        "no temporary file is left"
    );
}

#[test]
fn history_and_explain_read_the_files() {
    let host = Host::new();
    host.publish(&refused());
    let ran = host.run(&["history", "-n", "1"]);
    assert!(ran.out.contains("✖ refused (unsigned)") && ran.out.lines().count() == 2, "{}", ran.out);
    assert!(ran.err.contains("1 older"), "{}", ran.err);
    let json: serde_json::Value = serde_json::from_str(&host.run(&["history", "--json"]).out).unwrap();
    assert_eq!((&json["schema"], &json["entries"][1]["outcome"]), (&1.into(), &"refused".into()), "{json}");
    for args in [&["explain"][..], &["explain", "d4e5"]] {
        let ran = host.run(args);
        assert!(ran.out.contains("(unsigned)") && ran.out.contains("next: "), "{args:?}: {}", ran.out);
    }
    let json: serde_json::Value =
        serde_json::from_str(&host.run(&["explain", "a1b2", "--json"]).out).unwrap();
    assert_eq!((&json["schema"], &json["verdict"]), (&1.into(), &"running".into()), "{json}");
}

#[test]
fn wait_ends_with_what_became_of_the_revision() {
    let host = Host::new();
    host.publish(&refused());
    let wait = |rev: &str, timeout: &str| host.run(&["wait", "--rev", rev, "--timeout", timeout]).code;
    assert_eq!(wait("a1b2c3d", PATIENCE), 0, "it runs");
    assert_eq!(wait("d4e5f6a", PATIENCE), 3, "it was refused");
    assert_eq!(wait("f00d", "500ms"), 124, "nobody has heard of it");
    assert_eq!(
        host.run(&["wait", "--timeout", PATIENCE]).code,
        3,
        "nothing is left to do, and not all is well"
    );
    host.publish(&in_sync());
    assert_eq!(host.run(&["wait", "--timeout", PATIENCE]).code, 0);
}

#[test]
fn wait_sees_a_revision_arrive() {
    let host = Host::new();
    let mut arriving = in_sync();
    push(&mut arriving, &rev("d4e5f6a"));
    host.publish(&arriving);
    let mut waiting = host
        .command(&["wait", "--rev", "d4e5f6a", "--timeout", PATIENCE])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Its first word shows that it has looked and found the revision not running.
    let mut first = [0; 64];
    let count = waiting.stderr.as_mut().unwrap().read(&mut first).unwrap();
    assert!(String::from_utf8_lossy(&first[..count]).contains("has seen d4e5f6a"));
    host.publish(&settled_at(&rev("d4e5f6a"), 43));
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
}

#[test]
fn orders_reach_the_loop_with_the_name_of_who_gave_them() {
    let host = Host::new();
    host.publish(&refused());
    let agent = Agent::start(&host, |command| match command {
        model::Command::Retry { .. } => Err("nothing is remembered against it".to_owned()),
        _ => Ok("done, as ordered".to_owned()),
    });
    let ran = host.run(&["suspend", "--for", "2h", "--reason", "disk swap"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "done, as ordered\n"), "{ran:?}");
    let ran = host.run(&["resume", "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&ran.out).unwrap()["ok"], true);
    assert_eq!(host.run(&["sync", "-q"]).out, "");
    let ran = host.run(&["retry", "d4e5"]);
    assert!(ran.code == 1 && ran.err.contains("nothing is remembered"), "{ran:?}");

    let by = me();
    let orders = agent.stop();
    let model::Command::Suspend { reason, until: Some(until), by: who } = &orders[0] else {
        unreachable!("{orders:?}")
    };
    assert_eq!((reason.as_deref(), who), (Some("disk swap"), &by));
    assert!(until.abs_diff(clock::unix_secs() + 7200) < 60, "{until}");
    let rest = [
        model::Command::Resume { by: by.clone() },
        model::Command::Sync,
        model::Command::Retry { revision: Some(rev("d4e5f6a")), by },
    ];
    assert_eq!(orders[1..], rest);
}

#[test]
fn sync_waits_for_answers_that_are_newer_than_the_question() {
    let host = Host::new();
    host.publish(&in_sync());
    let root = host.root.clone();
    let agent = Agent::start(&host, move |_| {
        let mut polled = refused();
        polled.facts.remotes.get_mut("origin").unwrap().answered_at = Some(clock::unix_secs() + 1);
        publish_at(&root, &polled);
        Ok("asked the remotes".to_owned())
    });
    let ran = host.run(&["sync", "--wait", "--timeout", PATIENCE]);
    assert_eq!(ran.code, 3, "the poll brought a revision that was refused: {ran:?}");
    drop(agent.stop());
    // Without a newer answer it goes on waiting, although the old one looks settled.
    host.publish(&in_sync());
    let agent = Agent::start(&host, |_| Ok("asked the remotes".to_owned()));
    assert_eq!(host.run(&["sync", "--wait", "--timeout", "600ms"]).code, 124);
    drop(agent.stop());
}

#[test]
fn the_socket_serves_status_and_bounds_what_it_reads() {
    let host = Host::new();
    let agent = Agent::start(&host, |_| Ok(String::new()));
    assert_eq!(mode(&protocol::socket_path(&host.root)), 0o660);
    let status = host.http("GET /v1/status HTTP/1.1", b"");
    assert!(status.contains("200 OK") && status.contains("\"state\":\"in-sync\""), "{status}");
    assert!(host.http("GET /v1/history HTTP/1.1", b"").contains("\"entries\":["));
    assert!(host.http("GET /etc/passwd HTTP/1.1", b"").contains("404 Not Found"));
    let post = "POST /v1/command HTTP/1.1\r\nContent-Type: application/json";
    assert!(host.http(post, &vec![b' '; 20_000]).contains("413 Payload Too Large"));
    assert!(host.http(post, b"{\"command\":\"explode\"}").contains("422 Unprocessable"));
    assert!(host.http(post, b"{\"command\":\"resume\",\"by\":\"the king\"}").contains("200 OK"));
    let long = format!("{{\"command\":\"suspend\",\"reason\":\"{}\"}}", "x".repeat(501));
    assert!(host.http(post, long.as_bytes()).contains("400 Bad Request"));
    let heard = agent.stop();
    assert_eq!(heard, [model::Command::Resume { by: me() }], "nobody says himself who he is");
}

#[test]
fn idle_connections_cannot_pile_up() {
    let host = Host::new();
    let agent = Agent::start(&host, |_| Ok("heard".to_owned()));
    let socket = protocol::socket_path(&host.root);
    let mut idle: Vec<UnixStream> = (0..16).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let sync = client::give(&host.root, &protocol::Order::Sync);
        let blocked = tokio::time::timeout(Duration::from_millis(300), sync).await;
        assert!(blocked.is_err(), "the seventeenth has to wait: {blocked:?}");
        // The one that was given up still stands in the kernel's queue; it ends by itself when its turn comes.
        idle.truncate(8);
        assert_eq!(client::give(&host.root, &protocol::Order::Sync).await.unwrap(), "heard");
    });
    drop(agent.stop());
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let host = Host::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _in = runtime.enter();
    let first = server::bind(&host.root).unwrap();
    let taken = server::bind(&host.root).unwrap_err();
    assert!(taken.to_string().contains("another agent answers"), "{taken}");
    drop(first);
    let ran = host.run(&["resume"]);
    assert!(ran.code == 6 && ran.err.contains("failed to reach pullagent"), "{ran:?}");
    let second = server::bind(&host.root).unwrap();
    assert!(UnixStream::connect(protocol::socket_path(&host.root)).is_ok());
    drop(second);
}

#[test]
fn other_users_may_read_and_not_command() {
    if me() != "root" {
        eprintln!("not run: only root can be somebody else");
        return;
    }
    let host = Host::new();
    host.publish(&in_sync());
    let agent = Agent::start(&host, |_| Ok("it should not have come to this".to_owned()));
    // The program may lie where nobody else can reach it.
    let program = host.root.join("pullagent");
    std::fs::copy(env!("CARGO_BIN_EXE_pullagent"), &program).unwrap();
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
        Ran::of(command.arg("--root").arg(&host.root).args(args).output().unwrap())
    };
    assert!(as_nobody(&["status"]).out.starts_with("✔ web1 is up to date"));
    let ran = as_nobody(&["suspend"]);
    assert!(
        ran.code == 7 && ran.err.contains("not permitted") && ran.err.contains("pullagent-admin"),
        "{ran:?}"
    );
    assert_eq!(agent.stop(), []);
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
    assert!(ran.code == 0 && ran.out.contains("signed by alice  \"signed well\""), "{ran:?}");
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

/// A host's file system with a configuration, and no agent yet.
struct Host {
    _dir: tempfile::TempDir,
    root: PathBuf,
}

#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Host {
    fn new() -> Host {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let host = Host { root: dir.path().to_owned(), _dir: dir };
        std::fs::create_dir_all(host.root.join("etc/pullagent")).unwrap();
        std::fs::write(host.config(), GOLDEN).unwrap();
        host
    }

    fn config(&self) -> PathBuf {
        self.root.join("etc/pullagent/config.json")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pullagent"));
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "PULLAGENT_CONFIG"] {
            command.env_remove(name);
        }
        command.env("PULLAGENT_ROOT", &self.root).args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    fn publish(&self, snapshot: &Snapshot) {
        publish_at(&self.root, snapshot);
    }

    /// Sends one request and returns the whole answer.
    fn http(&self, head: &str, body: &[u8]) -> String {
        let mut stream = UnixStream::connect(protocol::socket_path(&self.root)).unwrap();
        let head =
            format!("{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        // A server that has read enough may hang up before the end.
        stream.write_all(body).ok();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok();
        answer
    }
}

impl Ran {
    fn of(output: Output) -> Ran {
        Ran {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn publish_at(root: &Path, snapshot: &Snapshot) {
    Publisher::open(root).unwrap().publish(snapshot, &settings(), clock::unix_secs()).unwrap();
}

/// The agent's end of the control socket in a thread, with a scripted loop behind it.
struct Agent {
    end: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<Vec<model::Command>>,
}

impl Agent {
    fn start(
        host: &Host,
        answer: impl Fn(&model::Command) -> Result<String, String> + Send + 'static,
    ) -> Agent {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = {
            let _in = runtime.enter();
            server::bind(&host.root).unwrap()
        };
        let (end, mut ended) = tokio::sync::oneshot::channel();
        let (orders, mut inbox) = mpsc::channel::<Ordered>(4);
        let (_show, shown) = watch::channel(Arc::new(in_sync()));
        let work = async move {
            let serve = tokio::spawn(server::serve(listener, orders, shown, Arc::new(settings())));
            let mut heard = Vec::new();
            loop {
                tokio::select! {
                    _ = &mut ended => break,
                    Some((command, reply)) = inbox.recv() => {
                        reply.send(answer(&command)).unwrap();
                        heard.push(command);
                    }
                }
            }
            serve.abort();
            heard
        };
        Agent { end, thread: std::thread::spawn(move || runtime.block_on(work)) }
    }

    /// Ends the agent and returns what it was ordered to do.
    fn stop(self) -> Vec<model::Command> {
        self.end.send(()).unwrap();
        self.thread.join().unwrap()
    }
}

fn settings() -> Settings {
    config::parse(GOLDEN.as_bytes()).unwrap().settings
}

fn me() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o777
}

fn rev(start: &str) -> Oid {
    format!("{start:0<40}").parse().unwrap()
}

fn in_sync() -> Snapshot {
    settled_at(&rev("a1b2c3d"), 42)
}

/// The same world, looked at later.
fn in_sync_at(snapshot: &Snapshot) -> Snapshot {
    let mut later = snapshot.clone();
    later.facts.now += 1000;
    later
}

/// A host that runs `revision`, confirmed, as `generation`.
fn settled_at(revision: &Oid, generation: u64) -> Snapshot {
    let toplevel: StorePath = format!("/nix/store/{}-nixos-system-web1", "1".repeat(32)).parse().unwrap();
    let tip = Tip {
        revision: revision.clone(),
        tree: rev("eeee"),
        payload_sha256: String::new(),
        committer_time: 0,
        signer: Some("alice".to_owned()),
        subject: "nginx: raise limits".to_owned(),
        branch: "main".to_owned(),
        remote: "origin".to_owned(),
        accepted_at: 1000,
    };
    let id = model::DeploymentId::new(1, revision);
    let settled = Settled {
        tip: tip.clone(),
        toplevel: toplevel.clone(),
        generation: Some(generation),
        id: id.clone(),
        at: 1000,
    };
    let deployed = model::Ended {
        id: Some(id),
        revision: revision.clone(),
        subject: tip.subject.clone(),
        signer: tip.signer.clone(),
        branch: "main".to_owned(),
        operation: Operation::Switch,
        why: model::Why::NewRevision,
        toplevel: Some(toplevel.clone()),
        outcome: model::Outcome::Confirmed { generation: Some(generation) },
        began: 900,
        at: 1000,
    };
    let mut snapshot = Snapshot::default();
    snapshot.state.main = Some(tip);
    snapshot.state.settled = Some(settled);
    snapshot.state.history.push_back(deployed);
    snapshot.facts.host = Some(HostFacts {
        running: Some(toplevel.clone()),
        profile: Some(toplevel.clone()),
        boot_default: Some(toplevel),
        generation: Some(generation),
        running_revision: Some(revision.clone()),
        ..HostFacts::default()
    });
    let heads = Some(BTreeMap::from([("main".to_owned(), revision.clone())]));
    let origin = RemoteFacts { heads, answered_at: Some(1000), trouble: None };
    snapshot.facts.remotes.insert("origin".to_owned(), origin);
    snapshot
}

fn push(snapshot: &mut Snapshot, revision: &Oid) {
    let heads = snapshot.facts.remotes.get_mut("origin").unwrap().heads.as_mut().unwrap();
    heads.insert("main".to_owned(), revision.clone());
}

/// A host that refused `d4e5f6a`.
fn refused() -> Snapshot {
    let mut snapshot = in_sync();
    push(&mut snapshot, &rev("d4e5f6a"));
    let refusal = Refusal {
        revision: rev("d4e5f6a"),
        branch: "main".to_owned(),
        remote: "origin".to_owned(),
        operation: Operation::Switch,
        commit: Some(rev("d4e5f6a")),
        code: "unsigned".to_owned(),
        text: "commit d4e5f6a is not signed".to_owned(),
        advice: "Sign it.".to_owned(),
        judged_by: "p@a".to_owned(),
        at: 2000,
    };
    snapshot.state.apply(&model::Event::Refused { refusal }).unwrap();
    snapshot
}
