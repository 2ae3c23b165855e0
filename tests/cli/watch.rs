//! `status --watch`: told by the agent's own socket, or by the file where that is not for the user.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pullagent::control::events::STREAMS_MAX;
use pullagent::control::server::{self, Ordered};
use pullagent::control::{client, protocol};
use pullagent::report::Snapshot;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use super::host::{Host, settings};
use super::worlds::{in_sync, refused, rev, settled_at};

/// The agent's end of the control socket in a thread, which shows what it is given.
struct Agent {
    show: watch::Sender<Arc<Snapshot>>,
    end: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Agent {
    fn start(host: &Host, snapshot: Snapshot) -> Agent {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = {
            let _in = runtime.enter();
            server::bind(&host.root).unwrap()
        };
        let (end, ended) = oneshot::channel::<()>();
        let (orders, mut inbox) = mpsc::channel::<Ordered>(4);
        let (show, shown) = watch::channel(Arc::new(snapshot));
        let work = async move {
            let obey = async {
                while let Some((_, reply)) = inbox.recv().await {
                    reply.send(Ok("heard".to_owned())).unwrap();
                }
            };
            tokio::select! {
                _ = ended => {}
                _ = server::serve(listener, orders, shown, Arc::new(settings())) => {}
                () = obey => {}
            }
        };
        Agent { show, end, thread: std::thread::spawn(move || runtime.block_on(work)) }
    }

    fn show(&self, snapshot: Snapshot) {
        self.show.send_replace(Arc::new(snapshot));
    }

    /// Ends it as a crash does: the socket stays, and nobody listens.
    fn stop(self) {
        self.end.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

/// A process that a failed test takes along.
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A `status --watch` that runs.
struct Watching {
    child: Kept,
    out: BufReader<std::process::ChildStdout>,
    err: BufReader<std::process::ChildStderr>,
}

impl Watching {
    fn start(mut command: Command) -> Watching {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        Watching { child: Kept(child), out: BufReader::new(out), err: BufReader::new(err) }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    fn news(&mut self) -> String {
        let mut line = String::new();
        self.err.read_line(&mut line).unwrap();
        line
    }

    fn state(&mut self) -> String {
        let line = self.line();
        let told: Value = serde_json::from_str(&line).unwrap_or_else(|e| unreachable!("{line}: {e}"));
        assert_eq!((&told["schema"], &told["life"]), (&1.into(), &"running".into()), "{told}");
        told["state"].as_str().unwrap().to_owned()
    }

    /// Presses Ctrl-C, and returns the exit code and what else was printed.
    fn interrupt(mut self) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.child.0), Signal::INT).unwrap();
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        (self.child.0.wait().unwrap().code(), rest)
    }
}

/// Only the socket tells of these changes: the file stays as it is.
#[test]
fn each_change_is_one_line_of_json_and_a_poll_is_none() {
    let host = Host::new();
    host.publish(&in_sync());
    let agent = Agent::start(&host, in_sync());
    let mut watching = Watching::start(host.command(&["status", "--watch", "--json"]));
    assert_eq!(watching.state(), "in-sync");
    let mut polled = in_sync();
    polled.facts.remotes.get_mut("origin").unwrap().answered_at = Some(2000);
    agent.show(polled);
    agent.show(refused());
    assert_eq!(watching.state(), "refused");
    agent.show(settled_at(&rev("d4e5f6a"), 43));
    assert_eq!(watching.state(), "in-sync");
    assert_eq!(watching.interrupt(), (Some(0), String::new()));
    agent.stop();
}

#[test]
fn an_agent_that_goes_and_comes_back_is_followed_and_that_is_said() {
    let host = Host::new();
    host.publish(&in_sync());
    let mut watching = Watching::start(host.command(&["status", "--watch", "--oneline"]));
    assert!(watching.line().starts_with("✔ 42 a1b2c3d in-sync"), "what it knew last");
    assert!(watching.news().contains("does not answer"));
    let agent = Agent::start(&host, refused());
    assert!(watching.line().starts_with("✖ 42 a1b2c3d refused d4e5f6a"));
    assert_eq!(watching.news(), "pullagent is back\n");
    host.publish(&refused());
    agent.stop();
    assert!(watching.news().contains("does not answer"));
    let agent = Agent::start(&host, settled_at(&rev("d4e5f6a"), 43));
    assert!(watching.line().starts_with("✔ 43 d4e5f6a in-sync"));
    assert_eq!(watching.news(), "pullagent is back\n");
    assert_eq!(watching.interrupt(), (Some(0), String::new()));
    agent.stop();
}

#[test]
fn pages_follow_each_other_without_moving_the_cursor() {
    let host = Host::new();
    host.publish(&in_sync());
    let agent = Agent::start(&host, in_sync());
    let mut watching = Watching::start(host.command(&["status", "--watch"]));
    assert_eq!(watching.line(), "✔ web1 is up to date\n");
    agent.show(refused());
    let mut seen = String::new();
    while !seen.contains("web1 refused d4e5f6a") {
        seen.push_str(&watching.line());
    }
    assert!(seen.contains("\n\n✖ web1 refused") && !seen.contains('\u{1b}'), "{seen}");
    watching.interrupt();
    // Nobody reads it any more: it ends at the next change.
    let mut unread = Watching::start(host.command(&["status", "--watch", "--oneline"]));
    unread.line();
    let Watching { mut child, out, err: _err } = unread;
    drop(out);
    agent.show(in_sync());
    assert_eq!(child.0.wait().unwrap().code(), Some(0));
    agent.stop();
}

/// Whoever may not open the socket hears of the file.
#[test]
fn a_user_who_may_not_command_sees_changes_all_the_same() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let host = Host::new();
    host.publish(&in_sync());
    let agent = Agent::start(&host, in_sync());
    let program = host.root.join("pullagent");
    std::fs::copy(env!("CARGO_BIN_EXE_pullagent"), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    command.arg("--root").arg(&host.root).args(["status", "--watch", "--json"]);
    let mut watching = Watching::start(command);
    assert_eq!(watching.state(), "in-sync");
    host.publish(&refused());
    assert_eq!(watching.state(), "refused");
    assert_eq!(watching.interrupt(), (Some(0), String::new()));
    agent.stop();
}

#[test]
fn without_an_agent_that_ever_ran_there_is_nothing_to_watch() {
    let ran = Host::new().run(&["status", "--watch"]);
    assert!(ran.code == 6 && ran.err.contains("has not run"), "{ran:?}");
}

#[test]
fn listeners_are_few_and_orders_get_through() {
    let host = Host::new();
    let agent = Agent::start(&host, in_sync());
    let raw = host_events(&host);
    assert!(
        raw.contains("content-type: text/event-stream") && raw.contains("event: status\ndata: {"),
        "{raw}"
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut streams = Vec::new();
        for _ in 0..STREAMS_MAX {
            let mut changes = listen(&host).await;
            assert_eq!(changes.next().await.unwrap().unwrap().host, "web1");
            streams.push(changes);
        }
        let refused = client::listen(&host.root).await.unwrap_err();
        assert!(refused.to_string().contains("listen already"), "{refused}");
        assert_eq!(client::give(&host.root, &protocol::Order::Sync).await.unwrap(), "heard");
        streams.pop();
        drop(listen(&host).await);
    });
    agent.stop();
}

/// Listens as soon as there is room; a place is free once the agent has noticed that its listener is gone.
async fn listen(host: &Host) -> client::Changes {
    loop {
        match client::listen(&host.root).await {
            Ok(changes) => return changes,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Returns the first bytes of the stream as they are.
fn host_events(host: &Host) -> String {
    let mut stream = UnixStream::connect(protocol::socket_path(&host.root)).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut seen = String::new();
    let mut bytes = [0; 4096];
    while !seen.contains("data: {") {
        let count = stream.read(&mut bytes).unwrap();
        seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    seen
}

#[test]
fn where_an_older_agent_has_no_events_the_file_is_watched() {
    let host = Host::new();
    host.publish(&in_sync());
    let path = protocol::socket_path(&host.root);
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || {
        for stream in listener.incoming().take(6) {
            let mut stream = stream.unwrap();
            let mut bytes = [0; 1024];
            // An older agent has no such path.
            if stream.read(&mut bytes).unwrap() > 0 {
                let body = "{\"schema\":1,\"ok\":false,\"message\":\"there is nothing at this path\"}";
                let head = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n", body.len());
                std::io::Write::write_all(&mut stream, (head + body).as_bytes()).unwrap();
                return;
            }
        }
    });
    let mut watching = Watching::start(host.command(&["status", "--watch", "--json"]));
    assert_eq!(watching.state(), "in-sync");
    server.join().unwrap();
    host.publish(&refused());
    assert_eq!(watching.state(), "refused", "the file is followed");
    assert_eq!(watching.interrupt(), (Some(0), String::new()));
}
