//! Hints from programs: what they print, how they end, and that they end.

use std::time::Duration;

use pullagent::host::command;
use pullagent::wire::Way;

use super::stage::{SECOND, Stage};
use crate::common::git_server::wait_until;

fn shell(script: &str) -> Stage {
    command::use_binary(env!("CARGO_BIN_EXE_pullagent"));
    Stage::of(Way::Exec { command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec() })
}

#[test]
fn each_line_that_a_program_prints_is_a_hint_and_it_ends_with_the_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let pid_file = dir.path().join("pid");
    let script = format!("echo $$ >{}; sleep 4; echo pushed; sleep 1000", pid_file.display());
    shell(&script).run(async |agent| {
        agent.until_connected().await;
        agent.until_polls(2).await;
        agent.until_polls(3).await;
        assert_eq!(agent.word.counts.accepted + agent.word.counts.coalesced, 1);
    });
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    let process = std::path::Path::new("/proc").join(pid.trim());
    wait_until("the end of the program", || !process.join("root").exists());
}

#[test]
fn a_program_that_fails_is_said_and_started_again_without_a_poll() {
    let dir = tempfile::tempdir().unwrap();
    let starts = dir.path().join("starts");
    let stage = shell(&format!("echo x >>{}; echo 'no broker' >&2; exit 3", starts.display()));
    stage.run(async |agent| {
        agent.until_lost("'/bin/sh' failed with exit code 3: no broker").await;
        wait_until("another start", || std::fs::read_to_string(&starts).unwrap().lines().count() >= 3);
        assert_eq!(agent.listen(Duration::from_millis(100)).await, 0);
    });
    Stage::of(Way::Exec { command: vec!["/no/such/program".to_owned()] }).run(async |agent| {
        agent.until_lost("program '/no/such/program' was not found").await;
    });
}

#[test]
fn a_program_that_prints_too_much_is_ended() {
    for (script, words) in [
        ("while :; do echo xxxxxxxxxxxxxxxxxxxxxxxx; done", "printed more than anybody needs"),
        ("head -c 100000 /dev/zero; sleep 1000", "printed a line that is too long"),
    ] {
        let stage = shell(script);
        let remote = stage.remote.clone();
        stage.run(async |agent| {
            agent.until_lost(words).await;
            assert!(agent.word.counts.too_long >= 1);
            agent.listen(SECOND).await;
        });
        assert!(remote.polls() <= 4, "{}", remote.polls());
    }
}
