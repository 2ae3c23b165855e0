//! Goal: `kill -9` of the agent at any moment never leaves a wrong final state, and an agent that stays dead never
//! leaves an unconfirmed system. Method: the demo's world with real programs; good, bad, unsigned and test commits
//! are pushed, and the agent is killed and started again at random moments on the way. The seed is printed;
//! `PULLAGENT_SEED` repeats a run, `PULLAGENT_KILLS` sets how many kills there are.
#![expect(clippy::unwrap_used, clippy::panic, reason = "this is a test")]
#![expect(clippy::disallowed_methods, reason = "a test reads its own settings from the environment")]

use std::path::PathBuf;
use std::time::Duration;

use pullagent::cli::demo::flake::{TEST_BRANCH, Tempo, page, with_migration};
use pullagent::cli::demo::host::View;
use pullagent::cli::demo::people::{Change, Person};
use pullagent::cli::demo::{Setup, World};
use pullagent::model::{Oid, ROLLBACKS_MAX};
use pullagent::plan::BREAKER;
use pullagent::report::{BadKind, Headline, StageWord, Status};

const KILLS_QUICK: u32 = 15;
const KILLS_LONG: u32 = 400;
const KILLS_PER_PUSH: u32 = 2;

/// How long the agent may stay dead between two lives, in milliseconds.
const DEATH_MS: u64 = 500;

/// How long the host may take to end right after the last kill.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(60);

/// How much later than announced the guard may be: it has to start a process and a switch.
const GUARD_LATE_SECS_MAX: u64 = 3;

/// A window that no series of kills fills: what ends right must end right by health and not by the clock.
const PATIENT: Tempo =
    Tempo { interval: Duration::from_secs(1), soak: Duration::from_secs(1), window: Duration::from_secs(45) };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    Bad,
    Unsigned,
    Trial,
}

/// What is known to be right so far.
struct Run {
    world: World,
    random: fastrand::Rng,
    accepted: Oid,
    settled: View,
    kills: Vec<String>,
    rollbacks: usize,
}

#[tokio::test]
async fn no_kill_leaves_a_wrong_state() {
    let seed = number("PULLAGENT_SEED").unwrap_or_else(|| fastrand::u64(..));
    let kills = number("PULLAGENT_KILLS").map_or_else(default_kills, |n| u32::try_from(n).unwrap());
    println!("kill test: {kills} kills, PULLAGENT_SEED={seed}");
    let mut run = Run::begin("kill", PATIENT, seed).await;
    for round in 0..kills.div_ceil(KILLS_PER_PUSH) {
        let kind = [Kind::Good, Kind::Bad, Kind::Trial, Kind::Unsigned][round as usize % 4];
        let left = kills - u32::try_from(run.kills.len()).unwrap();
        run.round(round, kind, left.min(KILLS_PER_PUSH)).await;
    }
    assert_eq!(run.kills.len(), kills as usize);
    run.check_everything_is_over().await;
    println!("kill test: {} kills, every final state right, PULLAGENT_SEED={seed}", run.kills.len());
}

/// Nobody is left but the guard: it brings the old system back by the deadline that the status announced.
#[tokio::test]
async fn the_guard_alone_rolls_back_what_nobody_confirmed() {
    let tempo = Tempo { soak: Duration::from_secs(3), window: Duration::from_secs(4), ..PATIENT };
    let mut run = Run::begin("guard", tempo, 0).await;
    let tip = run.push(0, Kind::Good).await;
    // Only then does the status tell the deadline of the health phase.
    let soaking = |status: &Status| status.deployment.as_ref().is_some_and(|d| d.stage == StageWord::Soaking);
    let deadline = run.await_status(soaking).await.deployment.unwrap().deadline.unwrap();
    run.world.agent.kill_9().await.unwrap();
    let view = run.world.host.view().await.unwrap();
    assert_ne!(view.running, run.settled.running, "the new system runs, unconfirmed: {view:?}");

    while run.world.host.view().await.unwrap() != run.settled {
        assert!(unix_secs() <= deadline + GUARD_LATE_SECS_MAX, "the guard does not keep its deadline");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(unix_secs() + 1 >= deadline, "the guard rolled back before its time");

    // The agent learns what happened without it, and does not try the same again.
    run.world.agent.start().await.unwrap();
    run.await_bad(&tip, BadKind::RolledBack).await;
    run.check_everything_is_over().await;
}

fn unix_secs() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn default_kills() -> u32 {
    if std::env::var_os("PULLAGENT_TEST_LONG").is_some_and(|long| long == "1") {
        KILLS_LONG
    } else {
        KILLS_QUICK
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

impl Run {
    async fn begin(name: &str, tempo: Tempo, seed: u64) -> Run {
        let dir = std::env::temp_dir().join(format!("pullagent-{name}-{}", std::process::id()));
        let agent = PathBuf::from(env!("CARGO_BIN_EXE_pullagent"));
        pullagent::host::command::use_binary(&agent);
        let mut world =
            World::build(&Setup { dir, keep: false, own_store: true, agent, tempo }).await.unwrap();
        let settled = world.host.view().await.unwrap();
        world.agent.start().await.unwrap();
        let accepted = world.first.0.clone();
        let mut run = Run {
            world,
            random: fastrand::Rng::with_seed(seed),
            accepted,
            settled,
            kills: Vec::new(),
            rollbacks: 0,
        };
        run.await_in_sync().await;
        run
    }

    /// Pushes one commit, kills the agent on the way to its end, and checks that it ends right all the same.
    async fn round(&mut self, round: u32, kind: Kind, kills: u32) {
        let before = self.world.store.systems().unwrap();
        let tip = self.push(round, kind).await;
        self.suffer(kind, kills.saturating_sub(u32::from(kind == Kind::Trial))).await;
        match kind {
            Kind::Good => self.expect_deployed(&tip, round).await,
            Kind::Bad => {
                self.await_bad(&tip, BadKind::RolledBack).await;
                self.accepted = tip;
                self.mend().await;
            }
            Kind::Unsigned => {
                self.await_bad(&tip, BadKind::Refused).await;
                assert_eq!(self.world.store.systems().unwrap(), before, "something was built");
                self.world.alice.check_out(&self.accepted).await.unwrap();
                self.world.alice.force_push("main").await.unwrap();
                self.await_in_sync().await;
            }
            Kind::Trial => {
                self.expect_on_trial(&tip, round).await;
                self.world.alice.delete(TEST_BRANCH).await.unwrap();
                self.suffer(kind, kills.min(1)).await;
                self.await_in_sync().await;
            }
        }
        self.expect_unchanged().await;
        self.world.store.verify(self.settled.running.as_ref().unwrap()).await.unwrap();
    }

    async fn push(&mut self, round: u32, kind: Kind) -> Oid {
        let (content, healthz) = (page(&title(round)), format!("ok {round}\n"));
        // Every other switch is slow enough to be hit in its middle.
        let flake = with_migration(self.random.u32(0..2));
        let mut write = vec![("site/index.html", content.as_str()), ("flake.nix", flake.as_str())];
        if kind != Kind::Bad {
            write.push(("site/healthz", healthz.as_str()));
        }
        let remove: &[&str] = if kind == Kind::Bad { &["site/healthz"] } else { &[] };
        let message = format!("{kind:?} {round}\n\nDeploy-To: {}", branch(kind));
        let change = Change { message: &message, write: &write, remove, signed: kind != Kind::Unsigned };
        let person: &Person = &self.world.alice;
        person.check_out(&self.accepted).await.unwrap();
        let tip = person.commit(change).await.unwrap();
        person.push(branch(kind)).await.unwrap();
        tip
    }

    /// Kills the agent `kills` times at random moments, each time starting it again.
    async fn suffer(&mut self, kind: Kind, kills: u32) {
        for _ in 0..kills {
            let moment =
                Duration::from_millis(self.random.u64(0..course_ms(kind) / u64::from(KILLS_PER_PUSH)));
            tokio::time::sleep(moment).await;
            self.world.agent.kill_9().await.unwrap();
            let said = self.world.agent.status().await.map_or("nothing".to_owned(), |status| said(&status));
            let torn = if self.world.host.is_torn() { ", in the middle of a switch" } else { "" };
            let death = Duration::from_millis(self.random.u64(0..DEATH_MS));
            self.kills.push(format!("{kind:?}: after {moment:?}, '{said}'{torn}, dead for {death:?}"));
            println!("kill {:>2}  {}", self.kills.len(), self.kills[self.kills.len() - 1]);
            tokio::time::sleep(death).await;
            self.world.agent.spawn().unwrap();
        }
    }

    async fn expect_deployed(&mut self, tip: &Oid, round: u32) {
        self.accepted = tip.clone();
        self.await_in_sync().await;
        let view = self.expect_title(round).await;
        assert_ne!(view.running, self.settled.running);
        for link in [&view.etc, &view.profile, &view.boot] {
            assert_eq!(*link, view.running, "the host's links disagree: {view:?}");
        }
        let generation = self.settled.generation.map(|generation| generation + 1);
        assert_eq!((view.generation, view.health), (generation, 200), "{view:?}");
        self.settled = view;
    }

    async fn expect_on_trial(&mut self, tip: &Oid, round: u32) {
        let testing = |status: &Status| status.state == Headline::Testing && runs(status, tip);
        let status = self.await_status(testing).await;
        assert!(status.bad(tip).is_none(), "{status:?}");
        let view = self.expect_title(round).await;
        assert_ne!(view.running, self.settled.running);
        assert_eq!(view.etc, view.running);
        assert_eq!((&view.profile, &view.boot), (&self.settled.profile, &self.settled.boot));
    }

    /// Brings the health page back on top of a bad commit, without kills, so that the next round stands on good ground.
    async fn mend(&mut self) {
        let round = 1000 + u32::try_from(self.kills.len()).unwrap();
        self.expect_unchanged().await;
        self.rollbacks += 1;
        if self.rollbacks.is_multiple_of(ROLLBACKS_MAX) {
            // However often the agent was killed meanwhile, it counts right.
            let by_itself = |s: &Status| s.suspension.as_ref().is_some_and(|s| s.by == BREAKER);
            self.await_status(by_itself).await;
            self.world.agent.ask(&["resume"]).await.unwrap();
        }
        let tip = self.push(round, Kind::Good).await;
        self.expect_deployed(&tip, round).await;
    }

    async fn expect_title(&self, round: u32) -> View {
        let title = format!("<h1>{}</h1>", title(round));
        self.world.host.await_view(|view| view.title == title).await.unwrap()
    }

    async fn expect_unchanged(&self) {
        let look = self.world.host.await_view(|view| *view == self.settled).await;
        assert!(look.is_ok(), "{look:?}\nand it was {:?}", self.settled);
    }

    async fn await_bad(&mut self, tip: &Oid, kind: BadKind) {
        let judged = |status: &Status| status.bad(tip).is_some() && !status.state.is_passing();
        let status = self.await_status(judged).await;
        let bad = status.bad(tip).unwrap();
        assert_eq!(bad.kind, kind, "{bad:?}");
    }

    async fn await_in_sync(&mut self) {
        let accepted = self.accepted.clone();
        self.await_status(|status| status.state == Headline::InSync && runs(status, &accepted)).await;
    }

    async fn await_status(&mut self, wanted: impl Fn(&Status) -> bool) -> Status {
        match self.world.agent.await_status(SETTLE_TIME_MAX, wanted).await {
            Ok(status) => status,
            Err(e) => panic!(
                "{e:#}\nkills so far:\n{}\nlog:\n{}",
                self.kills.join("\n"),
                std::fs::read_to_string(&self.world.agent.log).unwrap_or_default()
            ),
        }
    }

    /// Nothing is under way any more: no deployment, no decision that nobody took, no guard, no broken store object.
    async fn check_everything_is_over(&mut self) {
        let status = self.world.agent.status().await.unwrap();
        assert_eq!(status.deployment, None);
        self.expect_unchanged().await;
        let guards = self.world.host.root.join("var/lib/pullagent/guard");
        for guard in std::fs::read_dir(&guards).unwrap() {
            let guard = guard.unwrap().path();
            let decided = guard.join("decision").exists() || !guard.join("plan.json").exists();
            assert!(decided, "'{}' waits for a decision that nobody will take", guard.display());
        }
        for system in [&self.world.first.1, self.settled.running.as_ref().unwrap()] {
            self.world.store.verify(system).await.unwrap();
        }
    }
}

/// The state in one word, and what is tried again.
fn said(status: &Status) -> String {
    let retries = status.retries.iter().map(|retry| format!(": {}", retry.text)).collect::<String>();
    format!("{}{retries}", status.state.word())
}

/// About how long it takes from push to verdict if nobody is killed, in milliseconds.
fn course_ms(kind: Kind) -> u64 {
    match kind {
        Kind::Good | Kind::Bad | Kind::Trial => 3500,
        Kind::Unsigned => 1000,
    }
}

fn branch(kind: Kind) -> &'static str {
    match kind {
        Kind::Good | Kind::Bad | Kind::Unsigned => "main",
        Kind::Trial => TEST_BRANCH,
    }
}

fn title(round: u32) -> String {
    format!("Round {round}")
}

fn runs(status: &Status, tip: &Oid) -> bool {
    status.running.as_ref().and_then(|system| system.revision.as_ref()) == Some(tip)
}
