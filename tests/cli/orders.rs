//! Verbs that give the agent an order, and the socket that they go through.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use pullagent::control::server::{self, Ordered};
use pullagent::control::{client, protocol};
use pullagent::host::clock;
use pullagent::model;
use pullagent::report::Snapshot;
use tokio::sync::{mpsc, watch};

use super::host::{Host, PATIENCE, Ran, mode, publish_at, settings};
use super::worlds::{in_sync, refused, rev};

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
    // Whoever may command, as the admin group may, still is not root.
    std::fs::set_permissions(protocol::socket_path(&host.root), std::fs::Permissions::from_mode(0o666))
        .unwrap();
    let ran = as_nobody(&["accept", rev("d4e5f6a").as_str()]);
    assert!(
        ran.code == 7 && ran.err.contains("only root") && ran.err.contains("hint: run it as root"),
        "{ran:?}"
    );
    assert_eq!(agent.stop(), []);
    // To go on without what a newer version left in the journal is for root, too; an ordinary resume is not.
    let mut left = in_sync();
    left.state.foreign =
        Some(model::Foreign { event: "later".to_owned(), phase: model::Phase::Idle, seq: 1 });
    for (snapshot, code) in [(left, 7), (in_sync(), 0)] {
        let agent = Agent::start_with(&host, snapshot, |_| Ok("resumed".to_owned()));
        std::fs::set_permissions(protocol::socket_path(&host.root), std::fs::Permissions::from_mode(0o666))
            .unwrap();
        let ran = as_nobody(&["resume"]);
        assert_eq!((ran.code, ran.err.contains("only root")), (code, code == 7), "{ran:?}");
        assert_eq!(agent.stop().len(), usize::from(code == 0));
    }
}

#[test]
fn a_commit_is_accepted_by_its_whole_id_only() {
    let host = Host::new();
    host.publish(&refused());
    let agent = Agent::start(&host, |_| Ok("it comes next".to_owned()));
    let ran = host.run(&["accept", "d4e5f6a"]);
    assert!(
        ran.code == 2 && ran.err.contains("not a whole commit id") && ran.err.contains("hint: give all 40"),
        "{ran:?}"
    );
    let ran = host.run(&["accept", rev("d4e5f6a").as_str(), "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&ran.out).unwrap()["message"], "it comes next");
    assert_eq!(agent.stop(), [model::Command::Accept { revision: rev("d4e5f6a"), by: me() }]);
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
        Agent::start_with(host, in_sync(), answer)
    }

    fn start_with(
        host: &Host,
        snapshot: Snapshot,
        answer: impl Fn(&model::Command) -> Result<String, String> + Send + 'static,
    ) -> Agent {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = {
            let _in = runtime.enter();
            server::bind(&host.root).unwrap()
        };
        let (end, mut ended) = tokio::sync::oneshot::channel();
        let (orders, mut inbox) = mpsc::channel::<Ordered>(4);
        let (_show, shown) = watch::channel(Arc::new(snapshot));
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

fn me() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
