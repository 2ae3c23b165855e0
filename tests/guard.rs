//! The dead man's switch, for real: its own processes, real kills, a host in a directory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]
#![expect(clippy::disallowed_methods, reason = "a test starts processes and reads its environment itself")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::Barrier;
use std::time::Duration;

use common::processes::{is_alive, kill, pid_in, wait_until, with_arguments};
use common::toplevel::{Host, Misbehave};
use pullagent::guard::{self, Fired, GuardError, GuardPlan};
use pullagent::host::manager::Manager;
use pullagent::host::{clock, command, job, switch};
use pullagent::model::{Arbiter, Class, Decision, DeploymentId, GuardResult, StorePath};

const LIMIT: Duration = Duration::from_secs(30);

/// A host that runs OLD, with the guard of a deployment of NEW ready but for its timers.
struct Probation {
    host: Host,
    old: StorePath,
    new: StorePath,
}

impl Probation {
    fn new() -> Probation {
        command::use_binary(env!("CARGO_BIN_EXE_pullagent"));
        let host = Host::new();
        let (old, new) = (host.toplevel("old"), host.toplevel("new"));
        host.install(&old);
        Probation { host, old, new }
    }

    async fn prepared() -> Probation {
        let this = Probation::new();
        this.prepare().await;
        this
    }

    async fn prepare(&self) {
        guard::write_plan(&self.dir(), &self.plan()).unwrap();
        guard::pin(&self.dir(), &self.old, None).await.unwrap();
        guard::selftest(&self.dir()).await.unwrap();
    }

    fn dir(&self) -> PathBuf {
        dir(self.host.root())
    }

    fn plan(&self) -> GuardPlan {
        plan(self.host.root(), &self.old, &self.new)
    }

    /// Switches to NEW, however that ends.
    async fn switch(&self) {
        let job = self.plan().switch_job;
        switch::start_test(&self.new, Manager::Alone, "7-aaaaaaa", &job, LIMIT, vec![]).await.unwrap();
        job::wait(&job, LIMIT).await.unwrap();
    }

    async fn roll_back(&self) -> Fired {
        let reason = "unhealthy".to_owned();
        guard::decide(&self.dir(), &Decision::RollBack { reason, by: Arbiter::Agent, class: Class::Target })
            .unwrap();
        guard::fire_now(&self.dir(), Manager::Alone, LIMIT).await.unwrap()
    }

    fn assert_runs(&self, toplevel: &StorePath) {
        let facts = self.host.facts();
        assert_eq!((facts.running.as_ref(), facts.is_torn()), (Some(toplevel), false), "{facts:?}");
        assert_eq!(facts.profile.as_ref(), Some(&self.old), "the profile is never touched");
    }

    /// How often OLD's activation was tried; its checks must have been off.
    fn tries(&self) -> usize {
        let calls = self.host.calls();
        let tries: Vec<_> = calls.iter().filter(|call| call.starts_with("old test")).collect();
        assert!(tries.iter().all(|call| *call == "old test check=1 loader=0"), "{calls:?}");
        tries.len()
    }

    fn timers(&self) -> Vec<i32> {
        let mut timers = with_arguments(&[OsStr::new("--wait"), self.dir().as_os_str()]);
        timers.retain(|pid| is_alive(*pid));
        timers
    }

    fn wait_for_result(&self) -> GuardResult {
        let mut result = None;
        wait_until("a result", || {
            result = guard::read_result(&self.dir()).unwrap();
            result.is_some()
        });
        result.unwrap()
    }
}

fn dir(root: &Path) -> PathBuf {
    root.join("guard/7-aaaaaaa")
}

fn plan(root: &Path, old: &StorePath, new: &StorePath) -> GuardPlan {
    let revision = "a".repeat(40).parse().unwrap();
    GuardPlan {
        schema: guard::SCHEMA,
        deployment: DeploymentId::new(7, &revision),
        old: old.clone(),
        new: new.clone(),
        revision,
        branch: "main".into(),
        operation: "switch".into(),
        root: root.to_owned(),
        switch_job: root.join("jobs/7-aaaaaaa/switch"),
        boot_id: "boot-1".into(),
        deadline_boottime_ms: clock::boottime_ms() + 60_000,
        switch_limit_ms: 5_000,
        old_checks: serde_json::json!({}),
        agent_version: "0.1.0".into(),
        baseline_units: Vec::new(),
        failing_units: Vec::new(),
        trial_limit_ms: None,
        may_reboot: false,
        answer_within_ms: None,
    }
}

/// Not a test: an agent that prepares the guard of `PULLAGENT_TEST_ROOT`, arms it, switches, and then waits to
/// be killed. `PULLAGENT_TEST_BINARY` is the binary that it runs from.
#[tokio::test]
#[ignore = "a role that other tests play"]
async fn role_agent() {
    let var = |name: &str| std::env::var(name).unwrap();
    command::use_binary(var("PULLAGENT_TEST_BINARY"));
    let root = PathBuf::from(var("PULLAGENT_TEST_ROOT"));
    let (old, new) = (var("PULLAGENT_TEST_OLD").parse().unwrap(), var("PULLAGENT_TEST_NEW").parse().unwrap());
    let plan = plan(&root, &old, &new);
    let dir = dir(&root);
    guard::write_plan(&dir, &plan).unwrap();
    guard::pin(&dir, &old, None).await.unwrap();
    guard::selftest(&dir).await.unwrap();
    guard::arm(&dir, Manager::Alone, var("PULLAGENT_TEST_DEADLINE").parse().unwrap()).await.unwrap();
    switch::start_test(&new, Manager::Alone, "7-aaaaaaa", &plan.switch_job, LIMIT, vec![]).await.unwrap();
    job::wait(&plan.switch_job, LIMIT).await.unwrap();
    fs::write(root.join("switched"), "").unwrap();
    tokio::time::sleep(LIMIT).await;
}

fn start_agent(probation: &Probation, binary: &Path, deadline: u64) -> Child {
    let agent = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "role_agent"])
        .env("PULLAGENT_TEST_BINARY", binary)
        .env("PULLAGENT_TEST_ROOT", probation.host.root())
        .env("PULLAGENT_TEST_OLD", probation.old.as_str())
        .env("PULLAGENT_TEST_NEW", probation.new.as_str())
        .env("PULLAGENT_TEST_DEADLINE", deadline.to_string())
        .stdout(Stdio::null())
        .spawn();
    agent.unwrap()
}

/// The agent dies right after the switch, and with it the file of its binary: the guard is on its own.
#[test]
fn it_fires_at_its_deadline_although_the_agent_and_its_binary_are_gone() {
    let probation = Probation::new();
    let binary = probation.host.root().join("pullagent");
    fs::copy(env!("CARGO_BIN_EXE_pullagent"), &binary).unwrap();
    let deadline = clock::boottime_ms() + 8_000;
    let mut agent = start_agent(&probation, &binary, deadline);
    wait_until("the switch", || probation.host.root().join("switched").exists());
    agent.kill().unwrap();
    agent.wait().unwrap();
    fs::remove_file(&binary).unwrap();
    assert!(clock::boottime_ms() < deadline, "this machine is too slow for this test");
    probation.assert_runs(&probation.new);

    assert_eq!(probation.wait_for_result(), GuardResult::RolledBack);
    let late = clock::boottime_ms().checked_sub(deadline);
    assert!(late.is_some_and(|ms| ms < 8_000), "fired {late:?} ms after its deadline");
    probation.assert_runs(&probation.old);
    let decision = guard::read_decision(&probation.dir()).unwrap();
    assert!(matches!(decision, Some(Decision::RollBack { by: Arbiter::Guard, .. })), "{decision:?}");
    wait_until("the timer's end", || probation.timers().is_empty());
}

#[tokio::test]
async fn of_many_decisions_one_holds() {
    let probation = Probation::new();
    guard::write_plan(&probation.dir(), &probation.plan()).unwrap();
    let (dir, start) = (probation.dir(), Barrier::new(24));
    let decide = |n: usize| {
        let decision = match n % 3 {
            0 => Decision::Confirm,
            1 => Decision::Superseded,
            _ => Decision::RollBack {
                reason: format!("arbiter {n}"),
                by: Arbiter::Agent,
                class: Class::Target,
            },
        };
        start.wait();
        guard::decide(&dir, &decision).unwrap()
    };
    let held: Vec<Decision> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..24).map(|n| scope.spawn(move || decide(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let stands = guard::read_decision(&probation.dir()).unwrap().unwrap();
    assert!(held.iter().all(|decision| *decision == stands), "{held:?}");
}

/// The guard's processes and the agent's confirmation at the same moment: whoever wins, all act on it.
#[tokio::test]
async fn confirming_and_firing_at_once_ends_in_one_way() {
    for _ in 0..5 {
        let probation = Probation::prepared().await;
        probation.switch().await;
        let dir = probation.dir();
        let fire = || {
            let fire = Process::new(dir.join("agent")).args(["guard", "--fire"]).arg(&dir).spawn();
            fire.unwrap()
        };
        let mut fires = [fire(), fire(), fire()];
        let held = guard::decide(&dir, &Decision::Confirm).unwrap();
        assert!(fires.iter_mut().all(|fire| fire.wait().unwrap().success()));
        match held {
            Decision::Confirm => {
                probation.assert_runs(&probation.new);
                assert_eq!((probation.tries(), guard::read_result(&dir).unwrap()), (0, None));
            }
            _ => {
                probation.assert_runs(&probation.old);
                assert_eq!(guard::read_result(&dir).unwrap(), Some(GuardResult::RolledBack));
                assert_eq!(probation.tries(), 1);
            }
        }
    }
}

#[tokio::test]
async fn a_confirmed_system_stays() {
    let probation = Probation::prepared().await;
    let deadline = clock::boottime_ms() + 1_500;
    guard::arm(&probation.dir(), Manager::Alone, deadline + 60_000).await.unwrap();
    guard::arm(&probation.dir(), Manager::Alone, deadline).await.unwrap();
    probation.switch().await;
    assert_eq!(guard::decide(&probation.dir(), &Decision::Confirm).unwrap(), Decision::Confirm);
    wait_until("the timers' end", || probation.timers().is_empty());
    assert_eq!(
        guard::fire_now(&probation.dir(), Manager::Alone, LIMIT).await.unwrap(),
        Fired::Stands(Decision::Confirm)
    );
    assert_eq!(guard::fire(&probation.dir()).await.unwrap(), Fired::Stands(Decision::Confirm));
    probation.assert_runs(&probation.new);
    assert_eq!((probation.tries(), guard::read_result(&probation.dir()).unwrap()), (0, None));
}

#[tokio::test]
async fn firing_again_finds_the_result() {
    let probation = Probation::prepared().await;
    probation.switch().await;
    let ended = Fired::Ended(GuardResult::RolledBack);
    assert_eq!(probation.roll_back().await, ended);
    assert_eq!(guard::fire_now(&probation.dir(), Manager::Alone, LIMIT).await.unwrap(), ended);
    assert_eq!(guard::fire(&probation.dir()).await.unwrap(), ended);
    assert_eq!(probation.tries(), 1);
    probation.assert_runs(&probation.old);
}

#[tokio::test]
async fn torn_activations_are_rolled_back() {
    for how in [Misbehave::Tear, Misbehave::Die, Misbehave::LeaveLists, Misbehave::FailLate] {
        let probation = Probation::prepared().await;
        probation.host.misbehave(&probation.new, "test", &[how]);
        probation.switch().await;
        assert_eq!(probation.roll_back().await, Fired::Ended(GuardResult::RolledBack), "{how:?}");
        probation.assert_runs(&probation.old);
    }
}

/// The switch hangs and holds the lock that switching back needs.
#[tokio::test]
async fn a_switch_that_hangs_is_ended_and_rolled_back() {
    let probation = Probation::prepared().await;
    probation.host.misbehave(&probation.new, "test", &[Misbehave::Hang]);
    let job = probation.plan().switch_job;
    switch::start_test(&probation.new, Manager::Alone, "7-aaaaaaa", &job, LIMIT, vec![]).await.unwrap();
    let hanging = pid_in(&probation.host.hanging());
    assert_eq!(probation.roll_back().await, Fired::Ended(GuardResult::RolledBack));
    probation.assert_runs(&probation.old);
    assert!(!is_alive(hanging));
    assert_eq!(probation.tries(), 1);
}

#[tokio::test]
async fn somebody_else_s_switch_is_not_undone() {
    let probation = Probation::prepared().await;
    probation.switch().await;
    let third = probation.host.toplevel("third");
    probation.host.operator_switches_to(&third);
    assert_eq!(probation.roll_back().await, Fired::Ended(GuardResult::Superseded));
    probation.assert_runs(&third);
    assert_eq!(probation.tries(), 0);
}

#[tokio::test]
async fn where_nothing_has_changed_nothing_is_done() {
    let unswitched = Probation::prepared().await;
    assert_eq!(unswitched.roll_back().await, Fired::Ended(GuardResult::NothingToDo));
    unswitched.assert_runs(&unswitched.old);
    let rebooted = Probation::prepared().await;
    rebooted.switch().await;
    rebooted.host.install(&rebooted.old);
    rebooted.host.reboot("boot-2");
    assert_eq!(rebooted.roll_back().await, Fired::Ended(GuardResult::NothingToDo));
    assert_eq!((unswitched.tries(), rebooted.tries()), (0, 0));
}

#[tokio::test]
async fn switching_back_is_tried_twice_and_judged_by_what_runs() {
    let table = [
        (vec![Misbehave::FailEarly], 2, true),
        (vec![Misbehave::Tear], 2, true),
        (vec![Misbehave::LeaveLists], 2, true),
        (vec![Misbehave::FailLate], 1, true),
        (vec![Misbehave::FailEarly, Misbehave::FailEarly], 2, false),
    ];
    for (how, tries, works) in table {
        let probation = Probation::prepared().await;
        probation.switch().await;
        probation.host.misbehave(&probation.old, "test", &how);
        let fired = probation.roll_back().await;
        assert_eq!(probation.tries(), tries, "{how:?}");
        if works {
            assert_eq!(fired, Fired::Ended(GuardResult::RolledBack), "{how:?}");
            probation.assert_runs(&probation.old);
        } else {
            let Fired::Ended(GuardResult::Failed { text }) = fired else { panic!("{fired:?}") };
            assert!(text.contains("old: refused"), "{text}");
            probation.assert_runs(&probation.new);
        }
    }
}

/// Whoever carries out a rollback may be killed over it; what it began is finished by the next.
#[tokio::test]
async fn a_rollback_that_is_killed_is_carried_out_anew() {
    let probation = Probation::prepared().await;
    probation.switch().await;
    probation.host.misbehave(&probation.old, "test", &[Misbehave::Hang]);
    let killing = async {
        while !probation.host.hanging().exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let fires = with_arguments(&[OsStr::new("--fire"), probation.dir().as_os_str()]);
        let agent = probation.dir().join("agent");
        let runs = |pid: &&i32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == agent);
        kill(*fires.iter().find(runs).unwrap());
    };
    let (fired, ()) = tokio::join!(probation.roll_back(), killing);
    assert_eq!(fired, Fired::Ended(GuardResult::RolledBack));
    probation.assert_runs(&probation.old);
    assert_eq!(probation.tries(), 2);
}

/// The agent decides to roll back and is killed before it can see to it: the timer does.
#[tokio::test]
async fn a_rollback_that_nobody_sees_to_is_carried_out_at_the_deadline() {
    let probation = Probation::prepared().await;
    guard::arm(&probation.dir(), Manager::Alone, clock::boottime_ms() + 2_000).await.unwrap();
    probation.switch().await;
    let decision =
        Decision::RollBack { reason: "unhealthy".into(), by: Arbiter::Agent, class: Class::Target };
    guard::decide(&probation.dir(), &decision).unwrap();
    assert_eq!(probation.wait_for_result(), GuardResult::RolledBack);
    probation.assert_runs(&probation.old);
    assert_eq!(guard::read_decision(&probation.dir()).unwrap(), Some(decision));
}

#[tokio::test]
async fn arming_again_adds_no_timer_and_a_past_deadline_fires_at_once() {
    let probation = Probation::prepared().await;
    let deadline = clock::boottime_ms() + 60_000;
    for _ in 0..3 {
        guard::arm(&probation.dir(), Manager::Alone, deadline).await.unwrap();
    }
    wait_until("one timer", || probation.timers().len() == 1);
    probation.switch().await;
    guard::arm(&probation.dir(), Manager::Alone, clock::boottime_ms() - 1_000).await.unwrap();
    assert_eq!(probation.wait_for_result(), GuardResult::RolledBack);
    wait_until("the other timer's end", || probation.timers().is_empty());
}

#[tokio::test]
async fn the_self_test_finds_what_would_prevent_a_rollback() {
    let no_script = Probation::prepared().await;
    fs::remove_file(switch::program(&no_script.old)).unwrap();
    let error = guard::selftest(&no_script.dir()).await.unwrap_err();
    assert!(chain(&error).contains("no executable bin/switch-to-configuration"), "{}", chain(&error));

    let no_plan = Probation::prepared().await;
    fs::write(no_plan.dir().join("plan.json"), "{").unwrap();
    let error = guard::selftest(&no_plan.dir()).await.unwrap_err();
    assert!(chain(&error).contains("cannot be understood"), "{}", chain(&error));
    let error = guard::arm(&no_plan.dir(), Manager::Alone, 1).await.unwrap_err();
    assert!(chain(&error).contains("cannot be understood"), "{}", chain(&error));

    let no_agent = Probation::prepared().await;
    fs::write(no_agent.dir().join("agent"), "not a program").unwrap();
    assert!(matches!(guard::selftest(&no_agent.dir()).await, Err(GuardError::Selftest(_))));
}

fn chain(error: &GuardError) -> String {
    pullagent::host::chain(error)
}

/// Not a test: pins the binary named by `PULLAGENT_TEST_BINARY`, which lies in a store.
#[tokio::test]
#[ignore = "a role that another test plays"]
async fn role_pin() {
    let var = |name: &str| PathBuf::from(std::env::var(name).unwrap());
    command::use_binary(var("PULLAGENT_TEST_BINARY"));
    let (base, dir) = (var("PULLAGENT_TEST_BASE"), var("PULLAGENT_TEST_DIR"));
    let old = var("PULLAGENT_TEST_OLD").to_str().unwrap().parse().unwrap();
    let nix = common::nix::private(&base).await;
    guard::pin(&dir, &old, Some(&nix)).await.unwrap();
}

/// A binary in a store is not copied: it and OLD are protected from the garbage collector until the guard's
/// directory is gone.
#[tokio::test]
async fn a_binary_in_a_store_is_pinned_by_a_root() {
    command::use_binary(env!("CARGO_BIN_EXE_pullagent"));
    let base = tempfile::tempdir().unwrap();
    let nix = common::nix::private(base.path()).await;
    let root = base.path().join("root");
    let add = async |name: &str, file: &str, content: &Path| {
        let tree = base.path().join("trees").join(name);
        fs::create_dir_all(tree.join("bin")).unwrap();
        fs::copy(content, tree.join("bin").join(file)).unwrap();
        nix.add_source(&tree, &root).await.unwrap()
    };
    let package = add("pullagent", "pullagent", Path::new(env!("CARGO_BIN_EXE_pullagent"))).await;
    let kept = base.path().join("kept");
    nix.add_root(&package, &kept).await.unwrap();
    let old = add("old", "switch-to-configuration", Path::new("/bin/true")).await;
    let dir = base.path().join("guard");
    fs::create_dir(&dir).unwrap();
    let pinned = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "role_pin"])
        .env("PULLAGENT_TEST_BINARY", package.join("bin/pullagent"))
        .env("PULLAGENT_TEST_BASE", base.path())
        .env("PULLAGENT_TEST_DIR", &dir)
        .env("PULLAGENT_TEST_OLD", old.as_str())
        .status();
    assert!(pinned.unwrap().success());
    assert_eq!(fs::read_link(dir.join("agent")).unwrap(), package.join("bin/pullagent"));

    let collect = async || {
        let gc = command::Command::new("nix-store").arg("--gc");
        gc.envs(common::nix::private_store(base.path())).run().await.unwrap();
        (nix.is_valid(&package).await.unwrap(), nix.is_valid(&old).await.unwrap())
    };
    fs::remove_file(&root).unwrap();
    fs::remove_file(&kept).unwrap();
    assert_eq!(collect().await, (true, true));
    fs::remove_dir_all(&dir).unwrap();
    assert_eq!(collect().await, (false, false));
}
