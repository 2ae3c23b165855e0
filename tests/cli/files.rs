//! Verbs that read what the agent published: status, history, explain, wait.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use pullagent::config::Remote;
use pullagent::host::clock;
use pullagent::model::{HintWord, Sighting, Suspension};
use pullagent::plan::Held;
use pullagent::report::{self, Publisher, Snapshot, Status};

use super::host::{Host, PATIENCE, mode, settings};
use super::worlds::{in_sync, in_sync_at, push, refused, rev, settled_at};

#[test]
fn without_an_agent_the_files_are_missed_politely() {
    let host = Host::new();
    for args in [&["status"][..], &["history"], &["explain"], &["suspend"], &["sync"]] {
        let ran = host.run(args);
        assert_eq!((ran.code, ran.out.as_str()), (6, ""), "{args:?}: {ran:?}");
        assert!(ran.err.starts_with("pullagent: ") && ran.err.contains("\nhint: "), "{args:?}: {ran:?}");
    }
    let ran = host.run(&["wait", "--timeout", "600ms"]);
    assert!(ran.code == 124 && ran.err.contains("no agent"), "{ran:?}");
}

#[test]
fn status_is_read_from_the_file() {
    let host = Host::new();
    host.publish(&in_sync());
    let ran = host.run(&["status"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    assert!(ran.out.starts_with("✔ web1 is up to date\n"), "{}", ran.out);
    assert!(host.run(&["status", "--oneline"]).out.starts_with("✔ 42 a1b2c3d in-sync"));
    let bright = host.run(&["status", "--color", "always"]).out;
    assert!(bright.contains('\u{1b}'), "{bright}");
    let forced = host.command(&["status"]).env("CLICOLOR_FORCE", "1").output().unwrap();
    assert!(String::from_utf8(forced.stdout).unwrap().contains('\u{1b}'));
    let dull = host.command(&["status"]).env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").output().unwrap();
    assert_eq!(String::from_utf8(dull.stdout).unwrap(), ran.out);
    let json: serde_json::Value = serde_json::from_str(&host.run(&["status", "--json"]).out).unwrap();
    let told = (&json["schema"], &json["state"], &json["life"], &json["running"]["generation"]);
    assert_eq!(told, (&1.into(), &"in-sync".into(), &"running".into(), &42.into()), "{json}");
    assert_eq!(mode(&report::status_path(&host.root)), 0o644);
}

#[test]
fn a_status_in_a_foreign_layout_is_no_status() {
    let host = Host::new();
    host.publish(&in_sync());
    std::fs::write(report::status_path(&host.root), "{\"schema\": 9}").unwrap();
    let ran = host.run(&["status"]);
    assert!(
        ran.code == 1 && ran.err.contains("failed to understand") && ran.err.contains("hint: "),
        "{ran:?}"
    );
    std::fs::write(report::status_path(&host.root), vec![b' '; 5 << 20]).unwrap();
    let ran = host.run(&["status"]);
    assert!(ran.code == 1 && ran.err.contains("larger than"), "{ran:?}");
}

#[test]
fn the_exit_code_says_how_the_host_is_only_if_asked() {
    let host = Host::new();
    let mut waiting = in_sync();
    push(&mut waiting, &rev("d4e5f6a"));
    let mut suspended = waiting.clone();
    suspended.state.suspension =
        Some(Suspension { by: "root".to_owned(), reason: None, until: None, at: clock::unix_secs() });
    let held = Snapshot {
        trouble: Some(Held::new("journal", "failed to read the journal", "mend that")),
        ..in_sync()
    };
    for (snapshot, code) in [(in_sync(), 0), (waiting, 4), (refused(), 3), (suspended, 5), (held, 1)] {
        host.publish(&snapshot);
        assert_eq!(host.run(&["status"]).code, 0);
        let ran = host.run(&["status", "--exit-code"]);
        assert_eq!(ran.code, code, "{ran:?}");
    }
}

#[test]
fn a_dead_agent_is_told_from_its_file() {
    let host = Host::new();
    host.publish(&in_sync());
    let path = report::status_path(&host.root);
    let mut status: Status = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    // A process of our own that has ended and was waited for.
    let mut child = Command::new("true").spawn().unwrap();
    status.agent.pid = child.id();
    child.wait().unwrap();
    std::fs::write(&path, serde_json::to_vec(&status).unwrap()).unwrap();
    let ran = host.run(&["status"]);
    assert!(ran.out.starts_with("✖ pullagent is not running on web1\n"), "{}", ran.out);
    assert!(ran.out.contains("systemctl start pullagent"), "{}", ran.out);
    assert_eq!(host.run(&["status", "--exit-code"]).code, 6);
    assert!(host.run(&["status", "--json"]).out.contains("\"life\": \"dead\""));
    let ran = host.run(&["explain"]);
    assert!(ran.code == 0 && ran.err.contains("not running"), "{ran:?}");
}

#[test]
fn a_file_is_only_written_when_something_changed() {
    let host = Host::new();
    let mut publisher = Publisher::open(&host.root).unwrap();
    let written = |p: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(p).unwrap());
    let (status, history) = (report::status_path(&host.root), report::history_path(&host.root));
    publisher.publish(&in_sync(), &settings(), 1000).unwrap();
    let first = (written(&status), written(&history));
    publisher.publish(&in_sync_at(&in_sync()), &settings(), 2000).unwrap();
    assert_eq!((written(&status), written(&history)), first, "nothing but the time had changed");
    publisher.publish(&refused(), &settings(), 3000).unwrap();
    assert!(written(&status) != first.0 && written(&history) != first.1);
    let read = report::read_status(&host.root).unwrap();
    assert_eq!((read.agent.written_at, read.agent.pid), (3000, std::process::id()));
    assert_eq!(read.agent.due_at, Some(3000 + 3 * 60 + 120));
    assert_eq!(
        std::fs::read_dir(report::run_dir(&host.root)).unwrap().count(),
        2,
        "no temporary file is left"
    );
}

/// While hints are connected there are fewer polls, which is no reason to call the agent silent.
#[test]
fn an_agent_that_polls_less_often_may_be_silent_for_longer() {
    let host = Host::new();
    let mut publisher = Publisher::open(&host.root).unwrap();
    let mut settings = settings();
    let hint = serde_json::json!({ "name": "push", "kind": "sse", "url": "https://push.example.org/x" });
    settings.hints = vec![serde_json::from_value(hint).unwrap()];
    let mut snapshot = in_sync();
    for (connected, interval) in [(true, 600), (false, 60)] {
        let word = HintWord { connected, ..HintWord::default() };
        snapshot.facts.see(Sighting::Hint { name: "push".to_owned(), word, at: 1000 });
        publisher.publish(&snapshot, &settings, 2000).unwrap();
        let read = report::read_status(&host.root).unwrap();
        assert_eq!(read.agent.due_at, Some(2000 + 3 * interval + 120), "{connected}");
    }
}

/// By the calendar, there may be nothing to say until the next moment; and `status` says when that is.
#[test]
fn an_agent_that_polls_by_the_calendar_may_be_silent_until_then() {
    let host = Host::new();
    let mut publisher = Publisher::open(&host.root).unwrap();
    let mut settings = settings();
    let beside = Remote { name: "beside".to_owned(), ..settings.remotes[0].clone() };
    settings.remotes[0].interval = serde_json::from_str("\"Sat,Sun 02:00 UTC\"").unwrap();
    // Friday, 2026-03-06 12:00.
    let (friday, saturday) = (1_772_798_400, 1_772_848_800);
    let mut snapshot = in_sync();
    let heads = snapshot.facts.remotes["origin"].heads.clone().unwrap();
    snapshot.facts.see(Sighting::Heads { remote: "origin".to_owned(), heads, old: None, at: friday });
    publisher.publish(&snapshot, &settings, friday).unwrap();
    let read = report::read_status(&host.root).unwrap();
    assert_eq!(read.agent.due_at, Some(saturday + 1800));
    let remote = &read.remotes[0];
    assert_eq!((remote.next_poll_at, remote.interval), (Some(saturday), 6 * 86_400));
    assert_eq!(remote.calendar.as_deref(), Some("Sat,Sun 02:00 UTC"));
    let shown = host.run(&["status"]).out;
    assert!(shown.contains(", next 2026-03-07 02:00\n"), "{shown}");
    // Another remote that is asked every minute is heard of every minute.
    settings.remotes.push(beside);
    publisher.publish(&snapshot, &settings, friday).unwrap();
    let read = report::read_status(&host.root).unwrap();
    assert_eq!(read.agent.due_at, Some(friday + 3 * 60 + 120));
}

#[test]
fn history_and_explain_read_the_files() {
    let host = Host::new();
    host.publish(&refused());
    let ran = host.run(&["history", "-n", "1"]);
    assert!(ran.out.contains("✖ refused (unsigned)") && ran.out.lines().count() == 2, "{}", ran.out);
    assert!(ran.err.contains("1 older"), "{}", ran.err);
    let json: serde_json::Value = serde_json::from_str(&host.run(&["history", "--json"]).out).unwrap();
    assert_eq!((&json["schema"], &json["entries"][1]["outcome"]), (&1.into(), &"refused".into()), "{json}");
    for args in [&["explain"][..], &["explain", "d4e5"]] {
        let ran = host.run(args);
        assert!(ran.out.contains("(unsigned)") && ran.out.contains("next: "), "{args:?}: {}", ran.out);
    }
    let json: serde_json::Value =
        serde_json::from_str(&host.run(&["explain", "a1b2", "--json"]).out).unwrap();
    assert_eq!((&json["schema"], &json["verdict"]), (&1.into(), &"running".into()), "{json}");
}

#[test]
fn wait_ends_with_what_became_of_the_revision() {
    let host = Host::new();
    host.publish(&refused());
    let wait = |rev: &str, timeout: &str| host.run(&["wait", "--rev", rev, "--timeout", timeout]).code;
    assert_eq!(wait("a1b2c3d", PATIENCE), 0, "it runs");
    assert_eq!(wait("d4e5f6a", PATIENCE), 3, "it was refused");
    assert_eq!(wait("f00d", "500ms"), 124, "nobody has heard of it");
    assert_eq!(
        host.run(&["wait", "--timeout", PATIENCE]).code,
        3,
        "nothing is left to do, and not all is well"
    );
    host.publish(&in_sync());
    assert_eq!(host.run(&["wait", "--timeout", PATIENCE]).code, 0);
}

#[test]
fn wait_sees_a_revision_arrive() {
    let host = Host::new();
    let mut arriving = in_sync();
    push(&mut arriving, &rev("d4e5f6a"));
    host.publish(&arriving);
    let mut waiting = host
        .command(&["wait", "--rev", "d4e5f6a", "--timeout", PATIENCE])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Its first word shows that it has looked and found the revision not running.
    let mut first = [0; 64];
    let count = waiting.stderr.as_mut().unwrap().read(&mut first).unwrap();
    assert!(String::from_utf8_lossy(&first[..count]).contains("has seen d4e5f6a"));
    host.publish(&settled_at(&rev("d4e5f6a"), 43));
    assert_eq!(waiting.wait().unwrap().code(), Some(0));
}
