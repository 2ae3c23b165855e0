//! SSH remotes against a real `sshd` and a real `git-shell`: what comes through, what each way to be turned away says,
//! and what `ssh` is given and touches.
#![allow(clippy::disallowed_methods, reason = "tests start servers and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::Command;

use common::client::{ask, expect, plain};
use pullagent::model::SshAddress;
use pullagent::repo::net::Class;
use pullagent::repo::remote::Remote;

const MAIN: &str = "refs/heads/main";

/// What Git itself makes of an address: the arguments it gives to `ssh`, option by option.
fn as_git_has_it(dir: &Path, url: &str) -> Vec<String> {
    let (script, seen) = (dir.join("ssh"), dir.join("seen"));
    std::fs::write(&script, format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >'{}'\nexit 1\n", seen.display()))
        .unwrap();
    let mut git = common::git::command(dir);
    git.args(["-c", "core.hooksPath=/dev/null", "ls-remote", url]);
    git.env("GIT_SSH_VARIANT", "ssh").env("GIT_SSH_COMMAND", format!("sh {}", script.display()));
    assert!(!git.output().unwrap().status.success());
    std::fs::read_to_string(seen).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn addresses_mean_what_they_mean_to_git() {
    let dir = tempfile::tempdir().unwrap();
    for url in [
        "ssh://git@h.example.org/me/infra.git",
        "ssh://git@h:2222/x",
        "ssh://git@[::1]:2222/x",
        "ssh://git@[::1]/x",
        "ssh://git@h/~alice/x",
        "ssh://git@h/a%2Bb%zz%",
        "git@h:me/infra.git",
        "git@h:/srv/infra.git",
        "git@h:/~alice/x",
        "git@h:~/x",
        "git@h:22/x",
        "git@h:v3/a%20b",
        "git@[::1]:x",
        "git@h:it's!$(id)`id`\\;x",
    ] {
        let address: SshAddress = url.parse().unwrap();
        let mut theirs = as_git_has_it(dir.path(), url);
        assert_eq!(theirs.pop(), Some(address.upload_pack()), "{url}");
        assert_eq!(theirs.pop(), Some(format!("{}@{}", address.user(), address.host())), "{url}");
        let port = theirs.iter().position(|a| a == "-p").map_or("22", |at| &theirs[at + 1]);
        assert_eq!(port, address.port().to_string(), "{url}");
    }
}

#[test]
fn hostile_addresses_start_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let touch = format!("-oProxyCommand=touch${{IFS}}{}", mark.display());
    let files = ["key", "known_hosts"].map(|name| dir.path().join(name));
    files.iter().for_each(|file| std::fs::write(file, "").unwrap());
    for url in [
        format!("ssh://{touch}/x"),
        format!("{touch}:x"),
        format!("git@{touch}:x"),
        format!("{touch}@127.0.0.1:x"),
        "git@127.0.0.1:-x".to_owned(),
        "git@127.0.0.1:a b".to_owned(),
        "git@127.0.0.1:a\nb".to_owned(),
        "ssh://git:s3cret@127.0.0.1/x".to_owned(),
    ] {
        let [key, hosts] = files.clone().map(Some);
        let remote = Remote { ssh_key_file: key, known_hosts_file: hosts, ..plain(&url) };
        let failure = ask(&remote, &[MAIN]).unwrap_err();
        assert_eq!(failure.class, Class::Local, "{failure}");
        assert!(failure.text.starts_with("the remote's url is not usable"), "{failure}");
        assert!(!failure.text.contains("s3cret") && !failure.text.contains("touch"), "{failure}");
    }
    assert!(!mark.exists());
    let good = "git@127.0.0.1:x";
    expect(ask(&plain(good), &[MAIN]), Class::Local, "no private key file");
    let odd = Remote { ssh_key_file: Some("/%d/id".into()), ..plain(good) };
    expect(ask(&odd, &[MAIN]), Class::Local, "private key file is not one that ssh takes");
    let half = Remote { ssh_key_file: Some(files[0].clone()), ..plain(good) };
    expect(ask(&half, &[MAIN]), Class::Local, "no known_hosts file");
}

/// What needs a login. A name of its own, so that it can be left out where users have no shell to log in with.
mod sshd {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::PermissionsExt;
    use std::rc::Rc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::common::client::{SECOND, fetch, limits, net, noise, oid};
    use crate::common::git::Repo;
    use crate::common::processes;
    use crate::common::sshd::{Sshd, keygen};
    use pullagent::gateway;
    use pullagent::model::Https;
    use pullagent::repo::net::{Net, Stop};
    use pullagent::repo::remote::{Limits, Link};
    use pullagent::wire::{self, Notice, Ref, Request, Source};

    fn remote(server: &Sshd, repo: &str) -> Remote {
        Remote {
            ssh_key_file: Some(server.path("key")),
            known_hosts_file: Some(server.path("known_hosts")),
            ..plain(&server.url(repo))
        }
    }

    /// The `ssh` processes that talk to `server`.
    fn running(server: &Sshd) -> Vec<i32> {
        let port = server.port().to_string();
        let mut all = processes::with_arguments(&["ssh".as_ref(), "-p".as_ref(), port.as_ref()]);
        all.retain(|pid| processes::is_alive(*pid));
        all
    }

    #[test]
    fn refs_and_packs_come_by_version_2_one_process_each() {
        let server = Sshd::start();
        let repo = server.repo("infra.git");
        let first = repo.commit("main", &[("big", &noise(3 << 20, 1)), ("a", b"1")]);
        repo.git(&["update-ref", "refs/heads/main2", &first]);
        let remote = remote(&server, "infra.git");
        let (refs, link) = Link::open(&remote, &net()).unwrap().ls_refs(&[MAIN]).unwrap();
        assert_eq!(refs, [(MAIN.to_owned(), oid(&first))]);
        assert!(link.is_none(), "a process that saw the refs once would never see them move");

        let second = repo.commit("main", &[("big", &noise(3 << 20, 1)), ("a", b"2")]);
        assert_eq!(ask(&remote, &[MAIN]), Ok(vec![(MAIN.to_owned(), oid(&second))]));
        let (full, done) = fetch(&remote, &first, &[]);
        assert_eq!(done, Ok(full.len() as u64));
        let copy = Repo::init(&server.path("copy.git"), "sha1");
        copy.index(&full);
        let (thin, done) = fetch(&remote, &second, &[&first]);
        assert_eq!(done, Ok(thin.len() as u64));
        assert!(thin.len() < 2000, "{} bytes", thin.len());
        copy.index(&thin);
        assert_eq!(copy.git(&["rev-list", "--objects", "--count", &second]), "7");
        expect(fetch(&remote, &"e".repeat(40), &[]).1, Class::Refused, "not our ref");

        let login = format!("version=2 git-upload-pack '{}'", server.path("infra.git").display());
        assert_eq!(server.logins(), vec![login; 5]);
        assert_eq!(running(&server), Vec::<i32>::new());
    }

    /// `git-shell` takes the command apart by Git's rules; any shell would do so too.
    #[test]
    fn odd_paths_reach_the_server_as_they_are() {
        let server = Sshd::start();
        for name in ["it's!.git", "$(id).git", "a;b|c&d>e.git", "back\\slash\"`.git", "ü%20.git"] {
            let tip = server.repo(name).commit("main", &[("a", b"1")]);
            let url = server.url(name).replace('%', "%25");
            let remote = Remote { url, ..remote(&server, name) };
            assert_eq!(ask(&remote, &[MAIN]), Ok(vec![(MAIN.to_owned(), oid(&tip))]), "{name}");
        }
    }

    #[test]
    fn each_way_to_be_turned_away_has_its_class_and_reason() {
        let server = Sshd::start();
        server.repo("infra.git").commit("main", &[("a", b"1")]);
        let good = remote(&server, "infra.git");
        let with_key = |name: &str| Remote { ssh_key_file: Some(server.path(name)), ..good.clone() };
        let with_hosts = |file| Remote { known_hosts_file: Some(file), ..good.clone() };
        let with_url = |url: String| Remote { url, ..good.clone() };
        let write = |name: &str, content: &[u8], mode| {
            std::fs::write(server.path(name), content).unwrap();
            std::fs::set_permissions(server.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let key = std::fs::read(server.path("key")).unwrap();
        write("open_key", &key, 0o644);
        write("no_key", b"token\n", 0o600);
        write("empty", b"", 0o600);
        keygen(&server.path("locked_key"), "secret");
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let elsewhere = |port: &str| server.url("infra.git").replace(&server.port().to_string(), port);
        let table = [
            (with_hosts(server.path("empty")), Class::Tls, "No ED25519 host key is known for [127.0.0.1]:"),
            (with_hosts(server.path("empty")), Class::Tls, "'; verify its key (ssh-keyscan) before you"),
            (
                with_hosts(server.known_hosts("changed", "", "other_host_key")),
                Class::Tls,
                "has changed.'; verify",
            ),
            (with_hosts(server.known_hosts("revoked", "@revoked ", "host_key")), Class::Tls, "ost key"),
            (
                with_hosts("/nonexistent".into()),
                Class::Local,
                "the host keys in '/nonexistent' cannot be read",
            ),
            (with_key("other_key"), Class::Auth, "Permission denied (publickey).'; is the public key"),
            (with_key("locked_key"), Class::Auth, "a passphrase can't be asked for"),
            (with_key("missing_key"), Class::Local, "no such identity: "),
            (with_key("open_key"), Class::Local, "bad permissions"),
            (with_key("no_key"), Class::Local, "Load key "),
            (with_url(server.url("missing.git")), Class::NotFound, "does not appear to be a git repository"),
            (with_url(server.url("../x.git")), Class::NotFound, "does not appear to be a git repository"),
            (with_url(elsewhere(&free.to_string())), Class::Network, "Connection refused"),
            (with_url("ssh://git@nowhere.invalid/x".to_owned()), Class::Dns, "nowhere.invalid"),
        ];
        for (remote, class, words) in table {
            expect(ask(&remote, &[MAIN]), class, words);
        }
        let forge = format!("ssh://{}@127.0.0.1:{}/else.git", crate::common::sshd::user(), server.port());
        expect(
            ask(&with_url(forge), &[MAIN]),
            Class::NotFound,
            "the server says 'ERROR: Repository not found.'",
        );
        assert!(ask(&good, &[MAIN]).is_ok(), "nothing of it was learnt");
    }

    #[test]
    fn a_server_that_hides_version_2_gets_a_hint() {
        let server = Sshd::start_with("");
        server.repo("infra.git").commit("main", &[("a", b"1")]);
        let failure = ask(&remote(&server, "infra.git"), &[MAIN]).unwrap_err();
        assert_eq!(failure.class, Class::Protocol, "{failure}");
        assert!(failure.text.ends_with("version 2 is needed; does its sshd have 'AcceptEnv GIT_PROTOCOL'?"));
        assert!(failure.text.len() <= wire::TEXT_BYTES_MAX, "{failure}");
    }

    /// The kernel accepts for it.
    #[test]
    fn a_silent_server_is_given_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Sshd::start();
        let url = format!("ssh://git@{}/x", listener.local_addr().unwrap());
        let silent =
            Remote { limits: Limits { poll_within: 40 * SECOND, ..limits() }, url, ..remote(&server, "x") };
        let impatient = || Rc::new(Net::new(Stop::default(), SECOND).unwrap());
        let began = Instant::now();
        expect(Link::open(&silent, &impatient()).map(drop), Class::Timeout, "nothing happened for 1s");
        assert!(began.elapsed() < 3 * SECOND, "{:?}", began.elapsed());
        // Left to itself, ssh gives up before we would, and says at what.
        let patient = Rc::new(Net::new(Stop::default(), 30 * SECOND).unwrap());
        expect(Link::open(&silent, &patient).map(drop), Class::Timeout, "timed out");
    }

    /// Opens a link and asks for a pack of which only the beginning comes.
    fn stalled(
        server: &Sshd,
        net: &Rc<Net>,
        id: &str,
        pipe: OwnedFd,
    ) -> Result<(), pullagent::repo::net::Failure> {
        let link = Link::open(&remote(server, "stalls.git"), net)?;
        link.pack(&oid(id), &[], move || Ok(pipe)).map(drop)
    }

    #[test]
    fn a_pack_that_stalls_ends_in_each_way_it_can() {
        let server = Sshd::start();
        let tip = server.repo("stalls.git").commit("main", &[("big", &noise(1 << 20, 3))]);
        let drained = || {
            let (mut reader, writer) = std::io::pipe().unwrap();
            let drain = std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()).unwrap());
            (drain, OwnedFd::from(writer))
        };
        // By the idle limit.
        let (drain, writer) = drained();
        let net = Rc::new(Net::new(Stop::default(), 2 * SECOND).unwrap());
        expect(stalled(&server, &net, &tip, writer), Class::Timeout, "nothing happened for 2s");
        let passed_on = drain.join().unwrap();
        assert!((10_000..100_000).contains(&passed_on), "{passed_on} bytes");
        assert_eq!(running(&server), Vec::<i32>::new());

        // By being called off.
        let (_drain, writer) = drained();
        let stop = Stop::default();
        let net = Rc::new(Net::new(stop.clone(), 20 * SECOND).unwrap());
        let caller = std::thread::spawn(move || {
            std::thread::sleep(2 * SECOND);
            let called = Instant::now();
            stop.stop();
            called
        });
        expect(stalled(&server, &net, &tip, writer), Class::Cancelled, "called off");
        let late = caller.join().unwrap().elapsed();
        assert!(late < SECOND, "{late:?}");
        assert_eq!(running(&server), Vec::<i32>::new());

        // By its reader going away.
        let (reader, writer) = std::io::pipe().unwrap();
        std::thread::spawn(move || {
            std::thread::sleep(SECOND);
            drop(reader);
        });
        expect(
            stalled(&server, &crate::common::client::net(), &tip, writer.into()),
            Class::Cancelled,
            "went away",
        );
        assert_eq!(running(&server), Vec::<i32>::new());
    }

    #[test]
    fn the_process_ends_with_its_link() {
        let server = Sshd::start();
        server.repo("infra.git").commit("main", &[("a", b"1")]);
        let net = net();
        let link = Link::open(&remote(&server, "infra.git"), &net).unwrap();
        assert_eq!(running(&server).len(), 1);
        drop(link);
        assert_eq!(running(&server), Vec::<i32>::new());
        // One that ends first says so to whoever asks next.
        let link = Link::open(&remote(&server, "infra.git"), &net).unwrap();
        running(&server).into_iter().for_each(processes::kill);
        processes::wait_until("the end of ssh", || running(&server).is_empty());
        expect(link.ls_refs(&[MAIN]), Class::Network, "ssh ended without a word");
    }

    const REMOTE: &str = "PULLAGENT_TEST_REMOTE";

    /// Polls the remote that the test below names; by itself it has nothing to do.
    #[test]
    #[ignore = "a part of the test below, which runs it under strace"]
    fn a_poll_under_strace() {
        let Ok(named) = std::env::var(REMOTE) else { return };
        let [url, key, hosts]: [&str; 3] = named.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let [ssh_key_file, known_hosts_file] = [key, hosts].map(|file| Some(file.into()));
        ask(&Remote { ssh_key_file, known_hosts_file, ..plain(url) }, &[MAIN]).unwrap();
    }

    /// Method: the home directory in the environment holds what would break the poll, and `strace` lists what `ssh`
    /// was given and what it touched there and in the real one.
    #[test]
    fn ssh_knows_what_it_is_told_and_nothing_else() {
        let server = Sshd::start();
        server.repo("infra.git").commit("main", &[("a", b"1")]);
        let home = server.path("home");
        std::fs::create_dir_all(home.join(".ssh")).unwrap();
        std::fs::write(home.join(".ssh/config"), "Host *\nProxyCommand false\n").unwrap();
        let (key, hosts) = (server.path("key"), server.path("known_hosts"));
        let named = format!("{} {} {}", server.url("infra.git"), key.display(), hosts.display());
        let this = std::env::current_exe().unwrap();
        let mut strace = Command::new("strace");
        strace
            .args(["-ff", "-v", "-s", "4096", "-e", "trace=%file,execve,connect", "-o"])
            .arg(server.path("trace"));
        strace.arg(this).args(["--exact", "--ignored", "sshd::a_poll_under_strace"]);
        strace.env(REMOTE, named).env("HOME", &home).env("SSH_AUTH_SOCK", server.path("agent"));
        strace.env("GIT_SSH_COMMAND", "false").env("GIT_TRACE", "1").env("LANG", "de_DE.UTF-8");
        let output = strace.output().expect("strace is installed (tests/setup does it)");
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");

        let traces = std::fs::read_dir(server.path("")).unwrap().map(|entry| entry.unwrap().path());
        let traces = traces.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("trace."));
        let all: Vec<String> = traces.map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let ssh: Vec<&String> =
            all.iter().filter(|trace| trace.contains("/ssh\", [\"ssh\", \"-F\"")).collect();
        assert_eq!(ssh.len(), 1, "{all:?}");
        let ran: Vec<&str> = all
            .iter()
            .flat_map(|trace| trace.lines())
            .filter(|line| line.starts_with("execve(") && line.ends_with(" = 0"))
            .collect();
        assert_eq!(ran.len(), 2, "the test and ssh, no shell and no second ssh: {ran:?}");
        let exec = ran.iter().find(|line| line.contains("[\"ssh\", ")).unwrap();
        let environment = exec.rsplit_once("], [").unwrap().1.trim_end_matches("]) = 0");
        let names = environment.split("\", \"").map(|v| v.split('=').next().unwrap().trim_start_matches('"'));
        assert_eq!(names.collect::<Vec<_>>(), ["GIT_PROTOCOL", "LC_ALL", "PATH"]);

        let trace = ssh[0];
        assert!(trace.contains("known_hosts\"") && trace.contains("/key\""), "{trace}");
        let real = Command::new("getent").args(["passwd", &crate::common::sshd::user()]).output().unwrap();
        let real = String::from_utf8(real.stdout).unwrap().split(':').nth(5).unwrap().to_owned();
        for place in [home.to_str().unwrap(), &format!("{real}/."), "/etc/ssh", "agent\"", "/sh\""] {
            let touched: Vec<&str> =
                trace.lines().filter(|l| l.contains(place) && !l.starts_with("execve")).collect();
            assert!(touched.is_empty(), "{touched:?}");
        }
    }

    /// From the reconciler's question to the pack in its pipe.
    #[test]
    fn the_gateway_watches_an_ssh_remote() {
        let server = Sshd::start();
        let repo = server.repo("infra.git");
        let tip = repo.commit("main", &[("a", b"1")]);
        let source = Source {
            name: "origin".to_owned(),
            url: server.url("infra.git"),
            refs: vec![MAIN.to_owned()],
            interval_ms: 500,
            username: "pullagent".to_owned(),
            token_file: None,
            https: Https::default(),
            ssh_key_file: Some(server.path("key")),
            known_hosts_file: Some(server.path("known_hosts")),
            limits: wire::Limits::default(),
        };
        let seen = |tip: &str| Notice::Seen {
            source: "origin".to_owned(),
            refs: vec![Ref { name: MAIN.to_owned(), oid: oid(tip) }],
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let test = async {
            let (ours, theirs) = wire::pair().unwrap();
            let gateway = tokio::spawn(gateway::run(theirs, Default::default()));
            ours.send(&Request::Watch { sources: vec![source] }, None).await.unwrap();
            assert_eq!(ours.recv().await.unwrap().unwrap().0, seen(&tip));
            let want = Request::Want { want: 1, source: "origin".to_owned(), oid: oid(&tip), haves: vec![] };
            ours.send(&want, None).await.unwrap();
            let pipe = loop {
                match ours.recv().await.unwrap().unwrap() {
                    (Notice::Pack { want: 1 }, pipe) => break pipe.unwrap(),
                    (notice, _) => assert_eq!(notice, seen(&tip)),
                }
            };
            let read = move || {
                let mut pack = Vec::new();
                std::io::Read::read_to_end(&mut std::fs::File::from(pipe), &mut pack).unwrap();
                pack
            };
            let copy = Repo::init(&server.path("copy.git"), "sha1");
            copy.index(&tokio::task::spawn_blocking(read).await.unwrap());
            assert_eq!(copy.git(&["rev-list", "--objects", "--count", &tip]), "3");

            // A push is seen, by a process that did not see the ref before.
            let second = repo.commit("main", &[("a", b"2")]);
            loop {
                match ours.recv().await.unwrap().unwrap().0 {
                    notice if notice == seen(&second) => break,
                    notice => assert_eq!(notice, seen(&tip)),
                }
            }
            // The server's key changes under our feet.
            server.known_hosts("known_hosts", "", "other_host_key");
            let (class, text) = loop {
                match ours.recv().await.unwrap().unwrap().0 {
                    Notice::Failed { want: None, class, text, .. } => break (class, text),
                    notice => assert_eq!(notice, seen(&second)),
                }
            };
            assert_eq!(class, wire::Class::Tls, "{text}");
            assert!(
                text.contains("Host key for [127.0.0.1]:") && text.ends_with("in knownHostsFile"),
                "{text}"
            );
            drop(ours);
            gateway.await.unwrap().unwrap();
            assert_eq!(running(&server), Vec::<i32>::new());
        };
        runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test).await.unwrap() });
    }
}
