//! The host's programs, for real: real processes, real kills. Nix has `tests/nix_store.rs`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]
#![expect(clippy::disallowed_methods, reason = "a test starts processes and looks at the clock itself")]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use common::processes::{is_alive, kill, pid_in, wait_until, with_arguments};
use common::toplevel::{Host, Misbehave};
use pullagent::host::command::{self, Command, CommandError, Ending, Limits};
use pullagent::host::job::{self, JobError, JobResult, JobSpec, JobState};
use pullagent::host::manager::Manager;
use pullagent::host::switch;

const LIMIT: Duration = Duration::from_secs(20);

fn sh(script: &str) -> Command {
    command::use_binary(env!("CARGO_BIN_EXE_pullagent"));
    Command::new("sh").args(["-c", script])
}

fn spec(dir: &Path, script: &str, limit: Duration) -> JobSpec {
    command::use_binary(env!("CARGO_BIN_EXE_pullagent"));
    let argv = vec!["sh".into(), "-c".into(), script.into()];
    JobSpec { dir: dir.to_owned(), argv, env: Vec::new(), limit, unit: None }
}

async fn ended(dir: &Path) -> JobResult {
    match job::wait(dir, LIMIT).await.unwrap() {
        JobState::Ended(record) => record.result,
        other => panic!("{other:?}"),
    }
}

/// The process that keeps the job in `dir`.
fn keeper(dir: &Path) -> i32 {
    let mut keepers = Vec::new();
    wait_until("one keeper", || {
        keepers = with_arguments(&[OsStr::new("record-exit"), dir.as_os_str()]);
        keepers.retain(|pid| is_alive(*pid));
        keepers.len() == 1
    });
    keepers[0]
}

#[tokio::test]
async fn a_program_gets_what_it_was_given_and_nothing_else() {
    let file = tempfile::tempdir().unwrap().path().join("in");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "from a file").unwrap();
    let output = sh("cat; pwd; echo $0 $1 $GIVEN").args(["zero", "one"]).env("GIVEN", "given").dir("/usr");
    let output = output.stdin(fs::File::open(&file).unwrap()).run().await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "from a file/usr\nzero one given\n");
    let output = sh("readlink /proc/self/fd/0").run().await.unwrap();
    assert_eq!(output.stdout, b"/dev/null\n");
}

/// cargo gives tests a lot of variables (`CARGO_…`); none of them may arrive.
#[tokio::test]
async fn the_environment_is_cleared() {
    assert!(std::env::vars().any(|(name, _)| name.starts_with("CARGO")));
    let output = sh("env").run().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    assert!(names.contains(&"PATH") && text.contains("LC_ALL=C\n"), "{text}");
    assert!(!text.contains("CARGO"), "{text}");
}

#[tokio::test]
async fn failures_are_told_apart() {
    let error = sh("echo first >&2; echo '\u{1b}[31mlast\u{1b}[0m' >&2; exit 7").run().await.unwrap_err();
    assert_eq!(error.to_string(), "'sh' failed with exit code 7: last");
    let error = sh("kill -9 $$").run().await.unwrap_err();
    assert!(matches!(error, CommandError::Failed { end: Ending::Signal(9), .. }), "{error}");
    let error = sh("kill -TERM $$").run().await.unwrap_err();
    assert!(matches!(error, CommandError::Failed { end: Ending::Code(143), .. }), "{error}");
    for missing in ["no-such-program-here", "/no/such/program", "/etc/passwd", "/usr"] {
        let error = Command::new(missing).run().await.unwrap_err();
        assert!(matches!(error, CommandError::NotFound { .. }), "{missing}: {error}");
    }
}

#[tokio::test]
async fn at_the_time_limit_the_whole_group_is_killed() {
    let temp = tempfile::tempdir().unwrap();
    let (child, leader) = (temp.path().join("child"), temp.path().join("leader"));
    let script = format!(
        "trap '' TERM; sleep 300 & echo $! >{}; echo $$ >{}; echo waiting >&2; wait; wait",
        child.display(),
        leader.display()
    );
    let start = Instant::now();
    let error = sh(&script).time_limit(Duration::from_millis(500)).run().await.unwrap_err();
    assert!(matches!(&error, CommandError::TimedOut { stderr, .. } if stderr == "waiting\n"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20));
    // The signal was sent; a busy machine may need a moment to carry it out.
    wait_until("the leader's end", || !is_alive(pid_in(&leader)));
    wait_until("the child's end", || !is_alive(pid_in(&child)));
}

#[tokio::test]
async fn a_run_that_is_dropped_takes_its_processes_along() {
    let temp = tempfile::tempdir().unwrap();
    let (child, leader) = (temp.path().join("child"), temp.path().join("leader"));
    let script = format!(
        "trap '' TERM; sleep 300 & echo $! >{}; echo $$ >{}; wait; wait",
        child.display(),
        leader.display()
    );
    let dropped = tokio::time::timeout(Duration::from_millis(500), sh(&script).run()).await;
    assert!(dropped.is_err());
    let (child, leader) = (pid_in(&child), pid_in(&leader));
    let start = Instant::now();
    while is_alive(child) || is_alive(leader) {
        assert!(start.elapsed() < Duration::from_secs(20), "they live on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_a_program_leaves_behind_in_its_group_is_swept() {
    let temp = tempfile::tempdir().unwrap();
    let child = temp.path().join("child");
    let start = Instant::now();
    let output = sh(&format!("sleep 300 & echo $! >{}; echo done", child.display())).run().await.unwrap();
    assert_eq!(output.stdout, b"done\n");
    wait_until("the child's end", || !is_alive(pid_in(&child)));
    // One that left the group cannot be found, but it cannot hold us up either.
    let stray = temp.path().join("stray");
    let script = format!("setsid sleep 300 & echo $! >{}; echo done", stray.display());
    let output = sh(&script).run().await.unwrap();
    assert_eq!(output.stdout, b"done\n");
    assert!(start.elapsed() < Duration::from_secs(20));
    kill(pid_in(&stray));
}

#[tokio::test]
async fn output_is_bounded() {
    let error = sh("yes").stdout_max(100_000).run().await.unwrap_err();
    assert!(matches!(error, CommandError::TooMuchOutput { limit: 100_000, .. }), "{error}");
    let output = sh("head -c 100000 /dev/zero").stdout_max(100_000).run().await.unwrap();
    assert_eq!(output.stdout.len(), 100_000);
    let output = sh("yes | head -c 3000000 >&2; echo end >&2").stderr_tail(1000).run().await.unwrap();
    assert!(output.stderr.len() == 1000 && output.stderr.ends_with("y\nend\n"));
    // A program that is run for its effect may print whatever it wants, and both outputs count as messages.
    let error = sh("yes | head -c 3000000; echo why; exit 1").run_for_effect().await.unwrap_err();
    assert_eq!(error.to_string(), "'sh' failed with exit code 1: why");
}

#[tokio::test]
async fn limits_are_the_kernel_s() {
    let temp = tempfile::tempdir().unwrap();
    let limits = Limits { address_space: Some(512 << 20), cpu_secs: Some(1), file_size: Some(1000) };
    let output = sh("ulimit -v; ulimit -t; ulimit -f").limits(limits).run().await.unwrap();
    assert_eq!(output.stdout, b"524288\n1\n1\n");
    let big = sh("exec head -c 2000 /dev/zero >$TMPDIR/big").limits(limits).env("TMPDIR", temp.path());
    let error = big.run().await.unwrap_err();
    assert!(matches!(error, CommandError::Failed { end: Ending::Signal(25), .. }), "{error}");
    assert_eq!(fs::metadata(temp.path().join("big")).unwrap().len(), 1000);
    let spin = Command::new("sh").args(["-c", "while :; do :; done"]);
    let error = spin.limits(Limits { cpu_secs: Some(1), ..Limits::default() }).run().await.unwrap_err();
    assert!(matches!(error, CommandError::Failed { end: Ending::Signal(9 | 24), .. }), "{error}");
}

/// Whoever starts a program and is gone before it could say "die with me" must not get a program.
#[test]
fn a_program_does_not_start_without_its_parent() {
    for role in ["supervise", "exec-child"] {
        let args = [role, "--parent", "1", "--", "echo", "started"];
        let output = Process::new(env!("CARGO_BIN_EXE_pullagent")).args(args).output().unwrap();
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(126), b"".as_slice()));
        assert!(String::from_utf8_lossy(&output.stderr).contains("the parent is gone"));
    }
}

#[tokio::test]
async fn a_job_s_end_is_recorded() {
    let temp = tempfile::tempdir().unwrap();
    let dir = |name: &str| temp.path().join("jobs").join(name);
    assert_eq!(job::state(&dir("none")).await.unwrap(), JobState::Absent);
    let table = [
        ("good", "echo said; exit 0", JobResult::ExitCode { code: 0 }),
        ("bad", "echo said; exit 4", JobResult::ExitCode { code: 4 }),
        ("killed", "echo said; kill -9 $$", JobResult::Signal { signal: 9 }),
    ];
    for (name, script, expected) in table {
        job::start(&spec(&dir(name), script, LIMIT)).await.unwrap();
        assert_eq!(ended(&dir(name)).await, expected, "{name}");
        assert_eq!(job::log_tail(&dir(name), 100).await.unwrap(), "said\n");
    }
    let missing = JobSpec { argv: vec!["/no/such/program".into()], ..spec(&dir("missing"), "", LIMIT) };
    job::start(&missing).await.unwrap();
    assert!(
        matches!(ended(&dir("missing")).await, JobResult::NotStarted { text } if text.contains("not found"))
    );
}

#[tokio::test]
async fn a_job_is_started_once_however_often_it_is_tried() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, count) = (temp.path().join("job"), temp.path().join("count"));
    let script = format!("echo ran >>{}; sleep 0.3", count.display());
    let spec = spec(&dir, &script, LIMIT);
    let started = futures_util::future::join_all((0..4).map(|_| job::start(&spec))).await;
    assert_eq!(started.iter().filter(|s| s.is_ok()).count(), 1);
    assert!(started.iter().all(|s| matches!(s, Ok(()) | Err(JobError::AlreadyStarted(_)))));
    assert_eq!(ended(&dir).await, JobResult::ExitCode { code: 0 });
    assert!(matches!(job::start(&spec).await, Err(JobError::AlreadyStarted(_))));
    assert_eq!(fs::read_to_string(&count).unwrap(), "ran\n");
}

#[tokio::test]
async fn a_job_s_time_is_limited_and_it_can_be_stopped() {
    let temp = tempfile::tempdir().unwrap();
    let (late, stopped) = (temp.path().join("late"), temp.path().join("stopped"));
    let pid = temp.path().join("pid");
    job::start(&spec(&late, "sleep 300 & wait", Duration::from_millis(300))).await.unwrap();
    let script = format!("trap '' TERM; echo $$ >{}; while :; do sleep 60; done", pid.display());
    job::start(&spec(&stopped, &script, LIMIT)).await.unwrap();
    assert_eq!(ended(&late).await, JobResult::Timeout);
    assert_eq!(job::state(&stopped).await.unwrap(), JobState::Running);
    let pid = pid_in(&pid);
    job::request_stop(&stopped).await.unwrap();
    assert_eq!(ended(&stopped).await, JobResult::Stopped);
    assert!(!is_alive(pid));
    job::request_stop(&temp.path().join("none")).await.unwrap();
}

/// Not a test: the process that the next test kills. It starts a job and waits to be killed.
#[tokio::test]
#[ignore = "a role that another test plays"]
async fn role_job_starter() {
    let dir = std::env::var_os("PULLAGENT_TEST_DIR").unwrap();
    let dir = Path::new(&dir);
    let script = format!("echo $$ >{0}/pid; sleep 2; echo survived >{0}/proof", dir.display());
    job::start(&spec(&dir.join("job"), &script, LIMIT)).await.unwrap();
    fs::write(dir.join("started"), "").unwrap();
    tokio::time::sleep(LIMIT).await;
}

#[tokio::test]
async fn a_job_survives_the_kill_of_its_starter() {
    let temp = tempfile::tempdir().unwrap();
    let mut starter = Process::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "role_job_starter"])
        .env("PULLAGENT_TEST_DIR", temp.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the job's start", || temp.path().join("started").exists());
    starter.kill().unwrap();
    starter.wait().unwrap();
    let dir = temp.path().join("job");
    assert_eq!(job::state(&dir).await.unwrap(), JobState::Running);
    assert!(is_alive(pid_in(&temp.path().join("pid"))));
    assert_eq!(ended(&dir).await, JobResult::ExitCode { code: 0 });
    assert!(temp.path().join("proof").exists());
}

#[tokio::test]
async fn a_job_whose_program_is_killed_from_outside_is_recorded() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, pid) = (temp.path().join("job"), temp.path().join("pid"));
    job::start(&spec(&dir, &format!("echo $$ >{}; sleep 300", pid.display()), LIMIT)).await.unwrap();
    kill(pid_in(&pid));
    assert_eq!(ended(&dir).await, JobResult::Signal { signal: 9 });
}

/// The keeper's program must not run on unseen, and a job found lost must stay lost.
#[tokio::test]
async fn a_job_whose_keeper_is_killed_is_lost_for_good() {
    let temp = tempfile::tempdir().unwrap();
    let (dir, pid) = (temp.path().join("job"), temp.path().join("pid"));
    let child = temp.path().join("child");
    let script = format!("sleep 300 & echo $! >{}; echo $$ >{}; wait", child.display(), pid.display());
    job::start(&spec(&dir, &script, LIMIT)).await.unwrap();
    let (program, child) = (pid_in(&pid), pid_in(&child));
    kill(keeper(&dir));
    wait_until("the program's end", || !is_alive(program));
    wait_until("its child's end", || !is_alive(child));
    assert_eq!(job::wait(&dir, LIMIT).await.unwrap(), JobState::Lost);
    // A keeper that comes too late gives up.
    let late = Process::new(env!("CARGO_BIN_EXE_pullagent"))
        .args(["record-exit", "--dir"])
        .arg(&dir)
        .args(["--limit-ms", "1000", "--", "true"])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&late.stdout).starts_with("failed: "), "{late:?}");
    assert_eq!(job::state(&dir).await.unwrap(), JobState::Lost);
}

#[tokio::test]
async fn a_switch_is_run_as_it_must_be() {
    command::use_binary(env!("CARGO_BIN_EXE_pullagent"));
    let host = Host::new();
    let (old, new) = (host.toplevel("old"), host.toplevel("new"));
    host.install(&old);
    switch::check(&new, Manager::Alone, LIMIT).await.unwrap();
    let job = host.root().join("job");
    switch::start_test(&new, Manager::Alone, "7-aaaaaaa", &job, LIMIT, vec![]).await.unwrap();
    assert_eq!(ended(&job).await, JobResult::ExitCode { code: 0 });
    let facts = host.facts();
    assert_eq!(
        (facts.running.as_ref(), facts.is_torn(), facts.profile.as_ref()),
        (Some(&new), false, Some(&old))
    );
    host.misbehave(&old, "test", &[Misbehave::FailLate]);
    let error = switch::roll_back(&old, LIMIT).await.unwrap_err();
    assert!(matches!(error, CommandError::Failed { end: Ending::Code(4), .. }), "{error}");
    switch::boot(&new, Manager::Alone, LIMIT).await.unwrap();
    let calls = ["new check check=on", "new test check=on", "old test check=1", "new boot check=on"]
        .map(|c| c.to_owned() + " loader=0");
    assert_eq!(host.calls(), calls);
}

#[tokio::test]
async fn a_switch_that_dies_leaves_a_torn_host() {
    command::use_binary(env!("CARGO_BIN_EXE_pullagent"));
    let host = Host::new();
    let (old, new) = (host.toplevel("old"), host.toplevel("new"));
    host.install(&old);
    host.misbehave(&new, "test", &[Misbehave::Die]);
    let job = host.root().join("job");
    switch::start_test(&new, Manager::Alone, "7-aaaaaaa", &job, LIMIT, vec![]).await.unwrap();
    assert_eq!(ended(&job).await, JobResult::Signal { signal: 9 });
    let facts = host.facts();
    assert!(facts.is_torn() && facts.leftover_lists);
    assert_eq!((facts.running, facts.etc), (Some(old), Some(new)));
}
