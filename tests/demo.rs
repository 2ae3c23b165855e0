//! Goal: what `pullagent demo` shows is what happens. Method: first its world alone, without the agent, so that a
//! later refusal or rollback is the agent's doing and not the world's; then the verb itself.

#![expect(clippy::unwrap_used, reason = "this is a test")]
#![expect(clippy::disallowed_methods, reason = "a test runs the program as its user does")]

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use pullagent::cli::demo::flake::{Tempo, page};
use pullagent::cli::demo::host::View;
use pullagent::cli::demo::people::Change;
use pullagent::cli::demo::{Setup, World};

fn setup(name: &str) -> Setup {
    let dir = std::env::temp_dir().join(format!("pullagent-test-{name}-{}", std::process::id()));
    let agent = PathBuf::from(env!("CARGO_BIN_EXE_pullagent"));
    pullagent::host::command::use_binary(&agent);
    Setup { dir, keep: false, own_store: true, agent, tempo: Tempo::FAST }
}

/// Builds what alice has checked out, by hand.
async fn build(world: &World, name: &str) -> pullagent::model::StorePath {
    let source = world.host.root.join(name).join("source");
    world.alice.export(&source).await.unwrap();
    world.store.build_system(&source, &world.alice.head().await.unwrap()).await.unwrap()
}

#[tokio::test]
async fn the_world_is_real() {
    let setup = setup("world");
    let world = World::build(&setup).await.unwrap();
    assert!(world.store.private, "a store of one's own works wherever Nix does");

    // The host runs what was installed, and says so everywhere.
    let view = world.host.view().await.unwrap();
    let first = Some(world.first.1.clone());
    assert_eq!(
        [&view.running, &view.etc, &view.profile, &view.boot],
        [&first, &first, &first, &first],
        "{view:?}"
    );
    assert_eq!((view.title.as_str(), view.health), ("<h1>The demo host</h1>", 200));
    let revision = std::fs::read_to_string(world.host.root.join("etc/pullagent/revision")).unwrap();
    assert_eq!(revision.trim(), world.first.0.as_str());
    let config = pullagent::config::load(&world.host.root.join("etc/pullagent/config.json")).unwrap();
    assert_eq!((config.settings.hostname.as_str(), config.unknown), ("demo", vec![]));
    assert!(world.store.is_valid(&world.first.1).await.unwrap());
    world.store.verify(&world.first.1).await.unwrap();

    // The forge takes everything, over HTTPS, from everybody with the account: signed or not.
    assert_eq!(world.remote.tip("main").await.unwrap().as_deref(), Some(world.first.0.as_str()));
    world.mallory.check_out(&world.first.0).await.unwrap();
    let change = Change { message: "unsigned", write: &[("a", "b")], remove: &[], signed: false };
    let unsigned = world.mallory.commit(change).await.unwrap();
    world.mallory.push("main").await.unwrap();
    assert_eq!(world.remote.tip("main").await.unwrap().as_deref(), Some(unsigned.as_str()));
    assert!(world.alice.push("main").await.is_err(), "git refuses a step back unless forced");
    world.alice.force_push("main").await.unwrap();

    // A good commit's page is served, a bad one's is really missing, and the way back brings it back.
    let write = [("site/index.html", page("Two"))];
    let write = write.each_ref().map(|(path, text)| (*path, text.as_str()));
    let change = Change { message: "two", write: &write, remove: &[], signed: true };
    world.alice.commit(change).await.unwrap();
    let two = build(&world, "two").await;
    let change = Change { message: "three", write: &[], remove: &["site/healthz"], signed: true };
    world.alice.commit(change).await.unwrap();
    let three = build(&world, "three").await;
    for (system, health) in [(&two, 200), (&three, 404), (&two, 200)] {
        world.host.switch(system, "check").await.unwrap();
        world.host.switch(system, "test").await.unwrap();
        let served = |view: &View| view.health == health && view.title == "<h1>Two</h1>";
        let view = world.host.await_view(served).await.unwrap();
        let system = Some(system.clone());
        assert_eq!((&view.running, &view.etc, &view.profile), (&system, &system, &first));
    }
    assert!(world.store.systems().unwrap().len() >= 6, "three systems and their derivations");

    drop(world);
    assert!(!setup.dir.exists(), "nothing is left");
}

/// Where no store of its own can be had, the machine's serves, if this user may build in it.
#[tokio::test]
async fn the_machines_store_serves_as_well() {
    if rustix::fs::access("/nix/store", rustix::fs::Access::WRITE_OK).is_err() {
        println!("skipped: this user may not write to the machine's store");
        return;
    }
    let world = World::build(&Setup { own_store: false, ..setup("machine") }).await.unwrap();
    assert!(!world.store.private && world.first.1.as_path().starts_with("/nix/store"));
    let view = world.host.view().await.unwrap();
    assert_eq!((view.running, view.health, view.generation), (Some(world.first.1.clone()), 200, Some(1)));
}

#[test]
fn the_demo_ends_as_promised() {
    let dir = setup("whole").dir;
    let output = demo(&dir).output().unwrap();
    let (told, complaint) = texts(&output);
    assert!(output.status.success(), "{told}\n{complaint}");
    for expected in [
        "refused, unsigned",
        "refused, unknown-key",
        "refused, not-fast-forward",
        "rolled back and set aside",
        "kill -9",
        "$ pullagent status",
        "$ pullagent history",
        "All 8 steps ended as promised",
    ] {
        assert!(told.contains(expected), "'{expected}' is not told:\n{told}");
    }
    assert_nothing_is_left(&dir);
}

#[test]
fn an_interrupted_demo_leaves_nothing() {
    let dir = setup("interrupted").dir;
    let mut child = demo(&dir).stdout(Stdio::piped()).spawn().unwrap();
    // By then servers and agent run.
    let begun = Instant::now();
    while !dir.join("host/run/pullagent/status.json").exists() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the agent never started");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_nothing_is_left(&dir);
}

/// The commands that it prints work as they stand.
#[test]
fn a_demo_that_stays_can_be_played_with() {
    let dir = setup("stay").dir;
    let mut child = demo(&dir).arg("--stay").stdout(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(told.any(|line| line.ends_with("In another terminal:")));
    let commands: Vec<String> = told.skip_while(String::is_empty).take(4).collect();
    let (last, others) = commands.split_last().unwrap();
    assert!(last.ends_with(" status --watch"), "{commands:?}");
    let wait = "\"$0\" wait --rev \"$(git rev-parse HEAD)\" --timeout 60s";
    let script = format!("set -e\n{}\n{wait}", others.join("\n"));
    let mut shell = Command::new("sh");
    let played = shell.args(["-c", &script, env!("CARGO_BIN_EXE_pullagent")]).output().unwrap();
    assert!(played.status.success(), "{script}\n{:?}", texts(&played));

    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_nothing_is_left(&dir);
}

#[test]
fn a_directory_that_exists_is_not_touched() {
    let dir = setup("exists").dir;
    std::fs::create_dir(&dir).unwrap();
    let output = demo(&dir).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(texts(&output).1.contains("failed to create"), "{:?}", texts(&output));
    std::fs::remove_dir(&dir).unwrap();
}

fn demo(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pullagent"));
    command.args(["demo", "--fast", "--dir"]).arg(dir).stdin(Stdio::null());
    command
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// No file, and no process that was given the directory in its arguments.
fn assert_nothing_is_left(dir: &Path) {
    assert!(!dir.exists(), "'{}' is still there", dir.display());
    let dir = dir.to_str().unwrap();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        assert!(!line.contains(dir), "a process is left: {line}");
    }
}
