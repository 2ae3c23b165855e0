//! The gateway as a process of its own, the real program, and whatever else may connect in its place: the reconciler's
//! end survives its death and its malice, and all that a hostile one achieves is delay.
#![allow(clippy::disallowed_methods, reason = "tests start programs and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::cell::RefCell;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::git::Repo;
use common::git_server::{GitServer, wait_until};
use common::peer::{MAIN, bind, hear, impostor, say, seen};
use common::scripted;
use pullagent::gateway::link::Link;
use pullagent::model::{Https, Oid, Sighting};
use pullagent::wire::{Limits, Listener, Source};
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::LocalSet;

const NEVER_MS: u64 = 3_600_000;
const SECOND: Duration = Duration::from_secs(1);

/// The real program in its role; killed with the value.
struct Process(Child);

impl Process {
    fn start(socket: &Path, env: &[(&str, &str)]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pullagent"));
        command.arg("gateway").arg("--socket").arg(socket).envs(env.iter().copied());
        Process(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn end(mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.0.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill().is_err();
        let _reaped = self.0.wait().is_ok();
    }
}

fn source(url: String, server: Option<&GitServer>) -> Source {
    Source {
        name: "origin".to_owned(),
        url,
        refs: vec![MAIN.to_owned()],
        interval_ms: NEVER_MS,
        username: GitServer::USER.to_owned(),
        token_file: server.map(GitServer::token_file),
        https: Https { ca_file: server.map(GitServer::ca_file), ..Https::default() },
        ssh_key_file: None,
        known_hosts_file: None,
        limits: Limits::default(),
    }
}

/// The reconciler's end, which serves whoever connects.
struct Reconciler {
    link: Rc<Link>,
    saw: Rc<RefCell<Vec<Sighting>>>,
}

impl Reconciler {
    fn new(socket: OwnedFd, sources: Vec<Source>) -> Reconciler {
        let (link, saw) = (Rc::new(Link::new(sources, vec![])), Rc::new(RefCell::new(Vec::new())));
        let (serving, seen) = (link.clone(), saw.clone());
        let door = Listener::from_fd(socket).unwrap();
        tokio::task::spawn_local(async move {
            serving.admit(&door, || 7, async |sighting| seen.borrow_mut().push(sighting)).await
        });
        Reconciler { link, saw }
    }

    /// Waits until something like this was seen, and forgets what came before it.
    async fn sees(&self, wanted: impl Fn(&Sighting) -> bool) -> Sighting {
        let began = Instant::now();
        loop {
            let found = self.saw.borrow().iter().position(&wanted);
            if let Some(n) = found {
                return self.saw.borrow_mut().drain(..=n).next_back().unwrap();
            }
            assert!(began.elapsed() < 30 * SECOND, "not seen; only {:?}", self.saw.borrow());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn sees_tip(&self, tip: &str) {
        self.sees(|s| matches!(s, Sighting::Heads { heads, .. } if heads["main"].as_str() == tip)).await;
    }
}

fn run(test: impl AsyncFnOnce(PathBuf)) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(120 * SECOND, test(dir.path().to_owned())).await.unwrap();
    });
}

fn oid(text: &str) -> Oid {
    text.parse().unwrap()
}

async fn read_to_end(pipe: OwnedFd) -> Vec<u8> {
    let read = move || {
        let mut bytes = Vec::new();
        std::fs::File::from(pipe).read_to_end(&mut bytes).unwrap();
        bytes
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

/// Everything that the service manager was told so far.
fn told(manager: &UnixDatagram) -> Vec<String> {
    manager.set_nonblocking(true).unwrap();
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n) = manager.recv(&mut buffer) {
        said.extend(String::from_utf8_lossy(&buffer[..n]).lines().map(str::to_owned));
    }
    said
}

#[test]
fn it_serves_dies_comes_back_and_ends_when_told_to() {
    let server = GitServer::start();
    let repo = server.repo("infra.git");
    let tip = repo.commit("main", &[("a", b"1")]);
    run(async |dir| {
        let (path, notify) = (dir.join("gateway.sock"), dir.join("notify.sock"));
        let manager = UnixDatagram::bind(&notify).unwrap();
        let env = [("NOTIFY_SOCKET", notify.to_str().unwrap()), ("WATCHDOG_USEC", "300000")];
        // Nobody listens yet: it says so, and waits.
        let process = Process::start(&path, &env);
        let mut said = Vec::new();
        let waits = |said: &[String]| said.iter().any(|s| s.starts_with("STATUS=waiting for the reconciler"));
        wait_until("its status", || {
            said.extend(told(&manager));
            waits(&said)
        });
        assert_eq!(said[0], "READY=1");
        let reconciler = Reconciler::new(bind(&path), vec![source(server.url("infra.git"), Some(&server))]);
        reconciler.sees_tip(&tip).await;
        let pack = reconciler.link.want("origin", &oid(&tip), vec![]).await.unwrap();
        Repo::init(&dir.join("copy"), "sha1").index(&read_to_end(pack.pack).await);
        tokio::time::sleep(SECOND).await;
        said.extend(told(&manager));
        let beats = said.iter().filter(|s| *s == "WATCHDOG=1").count();
        assert!(beats >= 5, "a beat at least every 150 ms: {said:?}");
        assert!(said.contains(&"STATUS=serving the reconciler".to_owned()), "{said:?}");

        // It is gone for a moment: whoever asks is told at once, and nobody else needs to know.
        drop(process);
        let began = Instant::now();
        while reconciler.link.poll().await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let error = reconciler.link.want("origin", &oid(&tip), vec![]).await.unwrap_err();
        assert!(error.class == "local" && error.gone && error.text.contains("gateway is gone"), "{error:?}");
        assert!(began.elapsed() < SECOND);
        let met = reconciler.link.met();
        let process = Process::start(&path, &[]);
        reconciler.link.met_another(met).await;
        // It was told again what to watch.
        reconciler.sees_tip(&tip).await;
        assert!(reconciler.saw.borrow().is_empty(), "nobody noticed: {:?}", reconciler.saw.borrow());

        // It stays away: the remotes are called unreachable until it is back.
        process.signal(Signal::KILL);
        let gone = reconciler.sees(|s| matches!(s, Sighting::Unreachable { .. })).await;
        let Sighting::Unreachable { remote, class, text, .. } = gone else { unreachable!() };
        assert_eq!((remote.as_str(), class.as_str()), ("origin", "local"));
        assert!(text.starts_with("the gateway is gone: "), "{text}");
        let process = Process::start(&path, &[]);
        reconciler.sees_tip(&tip).await;
        let began = Instant::now();
        assert_eq!(process.end(Signal::TERM).code(), Some(0));
        assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    });
}

#[test]
fn one_that_dies_in_the_middle_of_a_pack_fails_it() {
    let url = scripted::serve_a_pack_that_stalls();
    run(async |dir| {
        let path = dir.join("gateway.sock");
        let reconciler = Reconciler::new(bind(&path), vec![source(url, None)]);
        let process = Process::start(&path, &[]);
        reconciler.sees(|s| matches!(s, Sighting::Heads { .. })).await;
        let tip = oid(&"a".repeat(40));
        let incoming = reconciler.link.want("origin", &tip, vec![]).await.unwrap();
        // The next has to wait for the one under way.
        let (link, wanted) = (reconciler.link.clone(), tip.clone());
        let waiting = tokio::task::spawn_local(async move { link.probe("origin", &wanted, vec![]).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(process);
        assert_eq!(read_to_end(incoming.pack).await, b"PACK");
        let waiting = waiting.await.unwrap().unwrap_err();
        assert!(waiting.gone, "{waiting:?}");
        assert!(reconciler.link.why_broken(incoming.number).unwrap().gone);
        let _process = Process::start(&path, &[]);
        reconciler.sees(|s| matches!(s, Sighting::Heads { .. })).await;
        assert!(reconciler.link.want("origin", &tip, vec![]).await.is_ok());
    });
}

#[test]
fn what_is_no_message_costs_the_connection() {
    run(async |dir| {
        let path = dir.join("gateway.sock");
        let reconciler = Reconciler::new(bind(&path), vec![source("/srv/a.git".to_owned(), None)]);
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let unknown = seen("origin", &"a".repeat(40)).replace("refs/heads/main", "refs/heads/../x");
        let long = "x".repeat(70_000);
        let cases: [(&str, Vec<OwnedFd>); 7] = [
            ("{", vec![]),
            (r#"{"run":{"argv":["reboot"]}}"#, vec![]),
            (r#"{"watch":{"sources":[]}}"#, vec![]),
            (r#"{"pack":{"want":1}}"#, vec![]),
            (&seen("origin", &"a".repeat(40)), vec![null()]),
            (&unknown, vec![]),
            (&long, vec![]),
        ];
        for (frame, fds) in cases {
            let met = reconciler.link.met();
            let socket = impostor(&path);
            reconciler.link.met_another(met).await;
            say(&socket, frame, &fds).unwrap();
            let cut = tokio::task::spawn_blocking(move || {
                assert!(hear(&socket).unwrap().contains("watch"));
                hear(&socket)
            });
            assert_eq!(cut.await.unwrap(), None, "{frame:.60}");
        }
        // What names a source or a branch that nobody asked for is not passed on.
        let met = reconciler.link.met();
        let socket = impostor(&path);
        reconciler.link.met_another(met).await;
        say(&socket, &seen("elsewhere", &"a".repeat(40)), &[]).unwrap();
        say(&socket, &seen("origin", &"b".repeat(40)).replace("heads/main", "heads/other"), &[]).unwrap();
        say(&socket, r#"{"failed":{"source":"elsewhere","want":null,"class":"dns","text":""}}"#, &[])
            .unwrap();
        say(&socket, r#"{"failed":{"source":"origin","want":99,"class":"dns","text":"x"}}"#, &[]).unwrap();
        say(&socket, r#"{"pack":{"want":98}}"#, &[null()]).unwrap();
        say(&socket, &seen("origin", &"c".repeat(40)), &[]).unwrap();
        let empty = reconciler.sees(|s| matches!(s, Sighting::Heads { .. })).await;
        assert!(matches!(&empty, Sighting::Heads { heads, .. } if heads.is_empty()), "{empty:?}");
        reconciler.sees_tip(&"c".repeat(40)).await;
        assert_eq!(reconciler.link.why_broken(99), None, "nobody asked for that");
    });
}

#[test]
fn a_flood_is_taken_at_our_pace_and_a_deaf_gateway_is_given_up() {
    run(async |dir| {
        let path = dir.join("gateway.sock");
        let reconciler = Reconciler::new(bind(&path), vec![source("/srv/a.git".to_owned(), None)]);
        let flood = impostor(&path);
        let began = Instant::now();
        let sender = std::thread::spawn(move || {
            let mut sent = 0u32;
            // It never reads, and it is never told what to do twice.
            while say(&flood, &seen("origin", &format!("{sent:040x}")), &[]).is_ok() {
                sent += 1;
            }
            sent
        });
        tokio::time::sleep(3 * SECOND).await;
        let (taken, after) = (reconciler.saw.borrow().len() as f64, began.elapsed().as_secs_f64());
        assert!(taken >= 64.0 && taken <= 64.0 + 16.0 * (after + 1.0), "{taken} notices in {after} s");
        // Whoever asks it for something is not held up for long.
        let began = Instant::now();
        let deaf = loop {
            match tokio::time::timeout(20 * SECOND, reconciler.link.poll()).await.unwrap() {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert!(deaf.gone && deaf.text.contains("does not read"), "{deaf:?}");
        assert!(began.elapsed() < 10 * SECOND, "{:?}", began.elapsed());
        // The newest takes the place of the one before, which hears no more.
        let met = reconciler.link.met();
        let newest = impostor(&path);
        reconciler.link.met_another(met).await;
        let sent = tokio::task::spawn_blocking(move || sender.join().unwrap()).await.unwrap();
        println!("{sent} notices were sent, {} taken", reconciler.saw.borrow().len());
        say(&newest, &seen("origin", &"d".repeat(40)), &[]).unwrap();
        reconciler.sees_tip(&"d".repeat(40)).await;
        // Nor do those who come and go by the hundred keep it busy: one a second is let in.
        let (met, began) = (reconciler.link.met(), Instant::now());
        let knock = path.clone();
        let knocking = std::thread::spawn(move || {
            while began.elapsed() < 3 * SECOND {
                drop(impostor(&knock));
            }
        });
        tokio::time::sleep(3 * SECOND).await;
        let met = reconciler.link.met() - met;
        assert!((1..=5).contains(&met), "{met} in three seconds");
        tokio::task::spawn_blocking(move || knocking.join().unwrap()).await.unwrap();
    });
}
