//! Goal: nothing that keeps a host from being updated goes by in silence. Method: the demo's world, with the real agent, a
//! real Git server and real Nix; for each of the ways in which a host may stop, what the exporter says while it lasts makes
//! the expression of an alert true, and that goes when it is mended.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use pullagent::cli::demo::people::Change;
use pullagent::cli::demo::{Tempo, World, flake};
use pullagent::host::clock;
use pullagent::model::Oid;
use pullagent::report::metrics::Seen;
use pullagent::report::{self, BadKind, Headline, Status};
use rustix::process::{Pid, Signal, kill_process};

use super::exporter::Exporter;
use super::promtool::{promtool, true_alerts, value};
use super::world::{self, runs};

const LIMIT: Duration = Duration::from_secs(300);
const TEMPO: Tempo =
    Tempo { interval: Duration::from_secs(1), soak: Duration::from_secs(1), window: Duration::from_secs(10) };

struct Scene {
    world: World,
    exporter: Exporter,
}

impl Scene {
    async fn begin(name: &str) -> Scene {
        let world = world::begin(name, TEMPO, LIMIT).await;
        let exporter = Exporter::start(&world.host.root, None);
        Scene { world, exporter }
    }

    async fn settle(&mut self, wanted: impl Fn(&Status) -> bool) -> Status {
        world::settle(&mut self.world, LIMIT, wanted).await
    }

    async fn deployed(&mut self, revision: &Oid) {
        self.settle(|s| s.state == Headline::InSync && runs(s, revision)).await;
    }

    async fn commit(&self, write: &[(&str, &str)], remove: &[&str], signed: bool) -> Oid {
        let change = Change { message: "a change", write, remove, signed };
        let commit = self.world.alice.commit(change).await.unwrap();
        self.world.alice.push("main").await.unwrap();
        commit
    }

    /// Returns the alerts whose expression is true by what the exporter says now.
    fn alerts(&self) -> BTreeSet<String> {
        true_alerts(&self.exporter.scrape(), clock::unix_secs())
    }

    #[track_caller]
    fn raises(&self, alert: &str) {
        let alerts = self.alerts();
        assert!(alerts.contains(alert), "not '{alert}' but {alerts:?}\n{}", self.exporter.scrape());
    }

    #[track_caller]
    fn is_quiet(&self) {
        assert_eq!(self.alerts(), BTreeSet::new(), "{}", self.exporter.scrape());
    }

    fn forge(&self) -> PathBuf {
        self.world.host.root.parent().unwrap().join("forge")
    }

    /// Has the server's workers stand still, or go on.
    fn signal_server(&self, signal: Signal) {
        let master = std::fs::read_to_string(self.forge().join("nginx.pid")).unwrap();
        let children = format!("/proc/{0}/task/{0}/children", master.trim());
        for worker in std::fs::read_to_string(children).unwrap().split_whitespace() {
            kill_process(Pid::from_raw(worker.parse().unwrap()).unwrap(), signal).unwrap();
        }
    }
}

#[tokio::test]
async fn what_git_servers_and_commits_may_stop() {
    let mut scene = Scene::begin("metrics-1").await;
    let first = scene.world.first.0.clone();
    scene.is_quiet();
    let page = scene.exporter.scrape();
    assert_eq!(promtool(&["check", "metrics"], &page), (true, String::new()));
    assert_eq!(value(&page, "pullagent_up"), Some(1.0));
    assert!(value(&page, "nixos_current_generation").is_some_and(|n| n > 0.0), "{page}");
    assert!(value(&page, "nixos_config_age_seconds").is_some_and(|age| age < 600.0), "{page}");

    // A commit that proves unhealthy.
    let bad = scene.commit(&[], &["site/healthz"], true).await;
    let rolled_back = |s: &Status| s.bad(&bad).is_some_and(|b| b.kind == BadKind::RolledBack);
    scene.settle(|s| rolled_back(s) && !s.state.is_passing()).await;
    scene.raises("DeploymentFailed");
    let page = scene.exporter.scrape();
    let rollbacks = "pullagent_deployments_total{operation=\"switch\",result=\"rolled-back\"}";
    assert_eq!(value(&page, rollbacks), Some(1.0));
    assert!(value(&page, "pullagent_pending_commit_age_seconds").is_some_and(|age| age > 0.0));
    let fix = scene.commit(&[("site/healthz", "ok\n")], &[], true).await;
    scene.deployed(&fix).await;
    scene.is_quiet();
    let page = scene.exporter.scrape();
    for phase in ["verify", "eval", "build", "prepare", "switch", "health", "confirm", "roll-back"] {
        let count = value(&page, &format!("pullagent_phase_duration_seconds_count{{phase=\"{phase}\"}}"));
        assert!(count.is_some_and(|n| n > 0.0), "{phase}: {count:?}");
    }

    // A commit that nobody signed, then a branch that was rewritten.
    let unsigned = scene.commit(&[("site/note.html", "mine")], &[], false).await;
    let refused = |s: &Status, tip: &Oid| s.bad(tip).is_some_and(|b| b.kind == BadKind::Refused);
    scene.settle(|s| refused(s, &unsigned)).await;
    scene.raises("VerificationFailed");
    scene.world.alice.check_out(&first).await.unwrap();
    let change =
        Change { message: "elsewhere", write: &[("site/note.html", "new line")], remove: &[], signed: true };
    let elsewhere = scene.world.alice.commit(change).await.unwrap();
    scene.world.alice.force_push("main").await.unwrap();
    scene.settle(|s| refused(s, &elsewhere)).await;
    scene.raises("VerificationFailed");
    let page = scene.exporter.scrape();
    assert_eq!(value(&page, "pullagent_remote_standing{remote=\"origin\",standing=\"diverged\"}"), Some(1.0));
    assert_eq!(value(&page, "pullagent_verification_failures_total{reason=\"not-fast-forward\"}"), Some(1.0));
    scene.world.alice.check_out(&fix).await.unwrap();
    scene.world.alice.force_push("main").await.unwrap();
    scene.deployed(&fix).await;
    scene.is_quiet();

    // A build that fails for want of something out there.
    let fetch = "kernel = builtins.fetchurl { url = \"http://127.0.0.1:9/kernel\"; \
                 sha256 = \"0000000000000000000000000000000000000000000000000000\"; };";
    let needs_network: String = flake::FLAKE
        .lines()
        .map(|l| if l.trim_start().starts_with("kernel =") { format!("{fetch}\n") } else { format!("{l}\n") })
        .collect();
    let waits = scene.commit(&[("flake.nix", &needs_network)], &[], true).await;
    scene.settle(|s| s.retry(&waits).is_some()).await;
    scene.raises("Retrying");
    assert!(value(&scene.exporter.scrape(), "pullagent_transient_failures_total").is_some_and(|n| n > 0.0));
    let mended = scene.commit(&[("flake.nix", flake::FLAKE)], &[], true).await;
    scene.deployed(&mended).await;
    scene.is_quiet();
    scene.world.tear_down().await.unwrap();
}

#[tokio::test]
async fn what_may_stop_on_the_way_and_on_the_host() {
    let mut scene = Scene::begin("metrics-2").await;
    scene.is_quiet();

    // An idle poll writes the status once, in memory, and not once more to count itself.
    let polls = |scene: &Scene| {
        let series = "pullagent_fetches_total{remote=\"origin\",result=\"success\"}";
        value(&scene.exporter.scrape(), series).unwrap() as usize
    };
    let path = report::status_path(&scene.world.host.root);
    let (mut written, before) = (BTreeSet::new(), polls(&scene));
    for _ in 0..120 {
        let file = std::fs::metadata(&path).unwrap();
        written.insert((file.mtime(), file.mtime_nsec()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let polled = polls(&scene) - before;
    println!("{polled} polls, {} writes of the status", written.len());
    assert!(polled >= 2 && written.len() <= polled + 2, "{polled} polls, {} writes", written.len());

    // Nobody deploys.
    scene.world.agent.ask(&["suspend", "--reason", "a test"]).await.unwrap();
    scene.settle(|s| s.suspension.is_some()).await;
    scene.raises("Suspended");
    scene.world.agent.ask(&["resume"]).await.unwrap();
    scene.settle(|s| s.state == Headline::InSync).await;

    // The repository is gone.
    let (there, away) = (scene.forge().join("repositories/infra.git"), scene.forge().join("away"));
    std::fs::rename(&there, &away).unwrap();
    let failing = |s: &Status, class: &str| s.remotes[0].trouble.as_ref().is_some_and(|t| t.class == class);
    scene.settle(|s| failing(s, "not-found")).await;
    scene.raises("RemoteFailing");
    std::fs::rename(&away, &there).unwrap();
    scene.world.agent.ask(&["sync"]).await.unwrap();
    scene.settle(|s| s.state == Headline::InSync && s.remotes[0].trouble.is_none()).await;
    scene.is_quiet();

    // The server accepts connections and says nothing; by the way, time passes.
    scene.signal_server(Signal::STOP);
    scene.settle(|s| failing(s, "timeout")).await;
    scene.raises("RemoteFailing");
    let later = Seen::at(&scene.world.host.root, clock::unix_secs() + 900);
    assert!(true_alerts(&later.page(), later.now).contains("NotFetching"), "{}", later.page());
    scene.signal_server(Signal::CONT);
    scene.world.agent.ask(&["sync"]).await.unwrap();
    scene.settle(|s| s.state == Headline::InSync && s.remotes[0].trouble.is_none()).await;

    // What was fetched is destroyed, and somebody pushes: it is said until it is mended.
    let store = scene.world.host.root.join("var/lib/pullagent/git");
    for file in files(&store.join("objects")) {
        std::fs::write(file, "garbage").unwrap();
    }
    let tip = scene.commit(&[("site/note.html", "after the damage")], &[], true).await;
    let status = scene.settle(|s| s.retry(&tip).is_some()).await;
    println!("a destroyed store: {:?}", status.retry(&tip));
    scene.raises("Retrying");
    scene.deployed(&tip).await;
    scene.is_quiet();

    hang_and_die(scene).await;
}

async fn hang_and_die(mut scene: Scene) {
    // It hangs. Nobody can know before it should have spoken; then everybody does.
    let pid = Pid::from_raw(scene.world.agent.status().await.unwrap().agent.pid.cast_signed()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();
    let due = report::read_status(&scene.world.host.root).unwrap().agent.due_at.unwrap();
    let later = Seen::at(&scene.world.host.root, due + 1);
    assert!(true_alerts(&later.page(), later.now).contains("Down"), "{}", later.page());
    kill_process(pid, Signal::CONT).unwrap();

    // It is dead.
    scene.world.agent.kill_9().await.unwrap();
    scene.raises("Down");

    // It can't read what it remembers.
    let journal = scene.world.host.root.join("var/lib/pullagent/journal");
    let kept = std::fs::read(&journal).unwrap();
    let mut broken = kept.clone();
    broken[10] ^= 1;
    std::fs::write(&journal, broken).unwrap();
    scene.world.agent.start().await.unwrap();
    scene.settle(|s| s.state == Headline::Held).await;
    scene.raises("Held");
    assert!(scene.exporter.lives());
    scene.world.tear_down().await.unwrap();
}

fn files(dir: &std::path::Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
