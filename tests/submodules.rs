//! Goal: a host deploys the submodules that its configuration names, from where that says and nowhere else, at the commits
//! that the signed tree says. Method: the demo's world with its real agent; the submodules lie on a second real Git server,
//! and `.gitmodules` points to a port where somebody listens who must never be called.
#![allow(clippy::disallowed_methods, reason = "tests start programs and look at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;
#[path = "common/world.rs"]
mod world;

use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use common::git::{self, Repo};
use common::git_server::GitServer;
use pullagent::cli::demo::people::Change;
use pullagent::cli::demo::{Tempo, World};
use pullagent::model::Oid;
use pullagent::report::{Headline, Status};
use serde_json::json;
use world::{begin, runs, settle};

const SETTLE_MAX: Duration = Duration::from_secs(120);
const TEMPO: Tempo =
    Tempo { interval: Duration::from_secs(1), soak: Duration::from_secs(1), window: Duration::from_secs(30) };
const LIB: &str = "site/lib";
const INNER: &str = "site/lib/inner";

/// The world, and what its host's submodules come from.
struct Stage {
    world: World,
    dir: PathBuf,
    server: GitServer,
    /// Where commits are made, before they are pushed to the server.
    desk: tempfile::TempDir,
    never: TcpListener,
}

impl Stage {
    async fn begin(name: &str) -> Stage {
        let world = begin(name, TEMPO, SETTLE_MAX).await;
        let dir = std::env::temp_dir().join(format!("pullagent-{name}-{}", std::process::id()));
        let never = TcpListener::bind("127.0.0.1:0").unwrap();
        never.set_nonblocking(true).unwrap();
        let stage =
            Stage { world, dir, server: GitServer::start(), desk: tempfile::tempdir().unwrap(), never };
        for name in ["lib.git", "inner.git"] {
            stage.server.repo(name);
            Repo::init(&stage.desk.path().join(name), "sha1");
        }
        stage
    }

    /// Commits `files` in the repository `name`, and the commit `inner` beside them; nobody but its author has it yet.
    fn write(&self, name: &str, file: &str, content: &str, inner: Option<&str>) -> String {
        let dir = self.desk.path().join(name);
        let blob = git::git(&dir, &["hash-object", "-w", "--stdin"], content.as_bytes());
        let inner = inner.map(|commit| format!("160000 commit {commit}\tinner\n")).unwrap_or_default();
        let entries = format!("{inner}100644 blob {blob}\t{file}\n");
        let tree = git::git(&dir, &["mktree", "--missing"], entries.as_bytes());
        let commit = git::git(&dir, &["commit-tree", "-m", "change", &tree], b"");
        git::git(&dir, &["update-ref", "refs/heads/main", &commit], b"");
        commit
    }

    fn push(&self, name: &str) {
        let to = self
            .server
            .url(name)
            .replace("https://", &format!("https://{}:{}@", GitServer::USER, GitServer::TOKEN));
        let mut push = git::command(&self.desk.path().join(name));
        push.env("GIT_SSL_CAINFO", self.server.ca_file()).env("NO_PROXY", "127.0.0.1");
        let pushed = push.args(["push", "-q", "-f", &to, "main"]).output().unwrap();
        assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    }

    /// The host's configuration with these submodules.
    fn configured(&self, submodules: &[(&str, &str)]) -> String {
        let mut machine: serde_json::Value =
            serde_json::from_str(&self.world.alice.read("machine.json").unwrap()).unwrap();
        let named = submodules.iter().map(|(path, name)| {
            let access = json!({
                "url": self.server.url(name),
                "username": GitServer::USER,
                "tokenFile": self.server.token_file(),
                "caFile": self.server.ca_file(),
            });
            ((*path).to_owned(), access)
        });
        let named: serde_json::Map<_, _> = named.collect();
        machine["pullagent"]["source"] = json!({ "submodules": named });
        machine.to_string()
    }

    /// Has alice commit and push files and gitlinks.
    async fn deploy(&self, write: &[(&str, &str)], links: &[(&str, &str)]) -> Oid {
        let tip = self.commit(write, links).await;
        self.world.alice.push("main").await.unwrap();
        tip
    }

    /// Has alice commit them.
    async fn commit(&self, write: &[(&str, &str)], links: &[(&str, &str)]) -> Oid {
        let clone = self.dir.join("home/alice");
        for (path, commit) in links {
            // As in a clone whose submodules were not checked out.
            std::fs::create_dir_all(clone.join(path)).unwrap();
            git::git(
                &clone,
                &["update-index", "--add", "--cacheinfo", &format!("160000,{commit},{path}")],
                b"",
            );
        }
        let elsewhere = format!("http://{}/lib.git", self.never.local_addr().unwrap());
        let modules = format!("[submodule \"lib\"]\n\tpath = {LIB}\n\turl = {elsewhere}\n");
        let write: Vec<_> = write.iter().copied().chain([(".gitmodules", modules.as_str())]).collect();
        let change = Change { message: "a change", write: &write, remove: &[], signed: true };
        self.world.alice.commit(change).await.unwrap()
    }

    async fn deployed(&mut self, tip: &Oid) -> Status {
        settle(&mut self.world, SETTLE_MAX, |s| s.state == Headline::InSync && runs(s, tip)).await
    }

    /// The same after a change of the configuration, for which systemd would restart the agent.
    async fn reconfigured(&mut self, tip: &Oid) {
        self.deployed(tip).await;
        self.world.agent.stop().await.unwrap();
        self.world.agent.start().await.unwrap();
        self.deployed(tip).await;
    }

    /// Waits for a failure of the build; returns what it says.
    async fn fails(&mut self, tip: &Oid, code: &str) -> String {
        let said = |s: &Status| {
            let failure = s.retry(tip).filter(|f| f.code == code);
            failure.map(|f| f.text.clone())
        };
        said(&settle(&mut self.world, SETTLE_MAX, |s| said(s).is_some()).await).unwrap()
    }

    /// What the host serves.
    async fn served(&self, file: &str) -> String {
        let (status, text) = self.world.host.get(file).await.unwrap();
        assert_eq!(status, 200, "{file}: {text}");
        text
    }

    /// What is left of imports and exports below the state directory.
    fn leftovers(&self) -> Vec<PathBuf> {
        let state = self.dir.join("host/var/lib/pullagent");
        let stores = std::fs::read_dir(state.join("submodules")).into_iter().flatten().flatten();
        let quarantines = stores.map(|store| store.path().join("quarantine"));
        let all = quarantines.chain([state.join("quarantine"), state.join("export")]);
        let inside = |dir: PathBuf| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
        all.flat_map(inside).collect()
    }
}

#[tokio::test]
async fn submodules_are_deployed_as_the_signed_tree_names_them() {
    let mut stage = Stage::begin("submodules").await;
    let inner = stage.write("inner.git", "inner.html", "inner one", None);
    let lib = stage.write("lib.git", "lib.html", "lib one", Some(&inner));

    // What no configuration names is refused; the configuration comes first.
    let tip = stage.deploy(&[], &[(LIB, &lib)]).await;
    let bad = settle(&mut stage.world, SETTLE_MAX, |s| s.bad(&tip).is_some()).await;
    let refusal = bad.bad(&tip).unwrap();
    assert_eq!(refusal.code, "submodule");
    assert!(refusal.text.contains("source.submodules.\"site/lib\""), "{}", refusal.text);
    let first = stage.world.first.0.clone();
    stage.world.alice.check_out(&first).await.unwrap();
    stage.world.alice.force_push("main").await.unwrap();
    let machine = stage.configured(&[(LIB, "lib.git"), (INNER, "inner.git"), ("not/there", "none.git")]);
    // Both at once, as a host sees them that was away: it runs what names the submodule before it looks at what has it.
    let named = stage.commit(&[("machine.json", &machine)], &[]).await;
    let tip = stage.deploy(&[], &[(LIB, &lib)]).await;
    let at_rest = |s: &Status| s.bad(&tip).is_some() && runs(s, &named) && s.deployment.is_none();
    settle(&mut stage.world, SETTLE_MAX, at_rest).await;
    assert_eq!(stage.server.requests(), [], "a submodule that is not deployed costs nothing");
    stage.world.agent.stop().await.unwrap();
    stage.world.agent.start().await.unwrap();

    // The superproject is pushed, its submodules are not.
    let text = stage.fails(&tip, "submodule-missing").await;
    for words in ["submodule 'site/lib' does not have commit", &lib[..7], "not our ref", "push it there"] {
        assert!(text.contains(words), "{text}");
    }
    stage.push("lib.git");
    let text = stage.fails(&tip, "submodule-missing").await;
    let text = if text.contains(INNER) {
        text
    } else {
        let about_inner = |s: &Status| s.retry(&tip).is_some_and(|f| f.text.contains(INNER));
        settle(&mut stage.world, SETTLE_MAX, about_inner).await.retry(&tip).unwrap().text.clone()
    };
    assert!(text.contains(&inner[..7]), "{text}");
    assert_eq!(stage.leftovers(), Vec::<PathBuf>::new());
    stage.push("inner.git");
    stage.deployed(&tip).await;
    assert_eq!(stage.served("/lib/lib.html").await, "lib one");
    assert_eq!(stage.served("/lib/inner/inner.html").await, "inner one");

    // An agent that is killed while a submodule can't be fetched goes on where it was.
    stage.server.stop();
    let lib = stage.write("lib.git", "lib.html", "lib two", None);
    let tip = stage.deploy(&[], &[(LIB, &lib)]).await;
    let text = stage.fails(&tip, "network").await;
    assert!(
        text.contains("submodule 'site/lib'") && text.contains("source.submodules.\"site/lib\""),
        "{text}"
    );
    stage.world.agent.kill_9().await.unwrap();
    stage.server.restart();
    stage.push("lib.git");
    stage.world.agent.start().await.unwrap();
    stage.deployed(&tip).await;
    assert_eq!(stage.served("/lib/lib.html").await, "lib two");
    assert_eq!(stage.leftovers(), Vec::<PathBuf>::new());

    // Nobody asks the servers of submodules without need.
    let asked = stage.server.requests().len();
    let tip = stage.deploy(&[("site/note.html", "a note")], &[]).await;
    stage.deployed(&tip).await;
    assert_eq!(stage.server.requests().len(), asked);
    assert_eq!(stage.never.accept().unwrap_err().kind(), ErrorKind::WouldBlock, ".gitmodules was believed");

    // A system that names none has no use for what was fetched.
    let clone = stage.dir.join("home/alice");
    git::git(&clone, &["rm", "-q", "--cached", LIB], b"");
    std::fs::remove_dir(clone.join(LIB)).unwrap();
    let machine = stage.configured(&[]);
    let tip = stage.deploy(&[("machine.json", &machine)], &[]).await;
    stage.reconfigured(&tip).await;
    let stores = std::fs::read_dir(stage.dir.join("host/var/lib/pullagent/submodules")).unwrap();
    assert_eq!(stores.count(), 0);
    stage.world.tear_down().await.unwrap();
}
