//! The journal on real files: torn tails, damage, compaction, the journal from the future.

use super::*;
use crate::model::{Operation, Refusal, Suspension};

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn open(dir: &tempfile::TempDir) -> Result<Journal, JournalError> {
    Journal::open(dir.path(), "boot-1")
}

fn suspended(n: u64) -> Event {
    let suspension =
        Suspension { by: "root".to_owned(), reason: Some(format!("reason {n}")), until: None, at: n };
    Event::Suspended { suspension }
}

fn refused(n: u64) -> Event {
    let refusal = Refusal {
        revision: format!("{n:040x}").parse().unwrap(),
        branch: "main".to_owned(),
        remote: "origin".to_owned(),
        operation: Operation::Switch,
        commit: None,
        code: "unsigned".to_owned(),
        text: "x".repeat(2000),
        advice: String::new(),
        judged_by: String::new(),
        at: n,
    };
    Event::Refused { refusal }
}

/// Appends a record as another version would have written it.
fn append_raw(dir: &tempfile::TempDir, json: &str) {
    let mut file = OpenOptions::new().append(true).open(dir.path().join(FILE)).unwrap();
    file.write_all(seal(json).as_bytes()).unwrap();
}

#[test]
fn what_was_appended_is_there_after_a_restart() {
    let dir = dir();
    let mut journal = open(&dir).unwrap();
    journal.append(&refused(1)).unwrap();
    journal.append(&suspended(2)).unwrap();
    let state = journal.state().clone();
    drop(journal);
    assert_eq!(*open(&dir).unwrap().state(), state);
}

#[test]
fn only_one_agent_has_it() {
    let dir = dir();
    let first = open(&dir).unwrap();
    assert!(matches!(open(&dir), Err(JournalError::Locked(_))));
    drop(first);
    assert!(open(&dir).is_ok());
}

#[test]
fn a_torn_last_line_is_dropped_wherever_it_was_cut() {
    let dir = dir();
    let path = dir.path().join(FILE);
    let mut journal = open(&dir).unwrap();
    journal.append(&suspended(1)).unwrap();
    let before = journal.state().clone();
    let whole = std::fs::metadata(&path).unwrap().len();
    journal.append(&suspended(2)).unwrap();
    drop(journal);
    let all = std::fs::read(&path).unwrap();
    for cut in whole..all.len() as u64 {
        std::fs::write(&path, &all[..cut as usize]).unwrap();
        let mut journal = open(&dir).unwrap();
        assert_eq!(*journal.state(), before, "cut at {cut}");
        journal.append(&suspended(3)).unwrap();
        drop(journal);
        assert_eq!(open(&dir).unwrap().state().suspension.as_ref().unwrap().at, 3);
    }
}

#[test]
fn zeros_and_garbage_after_the_last_record_are_dropped() {
    for tail in [&[0u8; 512][..], b"garbage", b"00000000 {}\n", b"\n"] {
        let dir = dir();
        let mut journal = open(&dir).unwrap();
        journal.append(&suspended(1)).unwrap();
        drop(journal);
        let mut file = OpenOptions::new().append(true).open(dir.path().join(FILE)).unwrap();
        file.write_all(tail).unwrap();
        assert_eq!(open(&dir).unwrap().state().suspension.as_ref().unwrap().at, 1);
    }
}

#[test]
fn damage_in_the_middle_is_an_error_and_changes_nothing() {
    let dir = dir();
    let path = dir.path().join(FILE);
    let mut journal = open(&dir).unwrap();
    (1..4).for_each(|n| journal.append(&suspended(n)).unwrap());
    drop(journal);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[40] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = open(&dir).unwrap_err();
    assert!(matches!(error, JournalError::Damaged { line: 1, .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

/// A host that forgot everything in silence would deploy what it had refused.
#[test]
fn a_journal_that_lost_everything_is_not_a_new_one() {
    for left in [&[][..], &[0; 4096], b"1234abcd {\"v\":1,\"seq\""] {
        let dir = dir();
        let path = dir.path().join(FILE);
        let mut journal = open(&dir).unwrap();
        assert!(journal.is_new());
        journal.append(&suspended(1)).unwrap();
        drop(journal);
        std::fs::write(&path, left).unwrap();
        assert!(matches!(open(&dir), Err(JournalError::Damaged { line: 1, .. })));
        assert_eq!(std::fs::read(&path).unwrap(), left);
        std::fs::remove_file(&path).unwrap();
        assert!(open(&dir).unwrap().is_new(), "whoever removes it wants a new one");
        assert!(!open(&dir).unwrap().is_new());
    }
}

#[test]
fn a_record_that_went_missing_is_noticed() {
    let dir = dir();
    let path = dir.path().join(FILE);
    let mut journal = open(&dir).unwrap();
    (1..4).for_each(|n| journal.append(&suspended(n)).unwrap());
    drop(journal);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    std::fs::write(&path, format!("{}\n{}\n", lines[0], lines[2])).unwrap();
    assert!(matches!(open(&dir), Err(JournalError::Damaged { line: 2, .. })));
}

#[test]
fn compaction_bounds_the_file_and_keeps_the_state() {
    let dir = dir();
    let mut journal = open(&dir).unwrap();
    let mut largest = 0;
    for n in 0..1000 {
        journal.append(&refused(n)).unwrap();
        largest = largest.max(std::fs::metadata(dir.path().join(FILE)).unwrap().len());
    }
    let state = journal.state().clone();
    drop(journal);
    assert!(largest < COMPACT_BYTES + (1 << 16), "{largest}");
    assert!(state.refused.len() == crate::model::REFUSED_MAX);
    assert_eq!(*open(&dir).unwrap().state(), state);
}

#[test]
fn a_crash_between_the_two_files_of_a_compaction_loses_nothing() {
    let dir = dir();
    let mut journal = open(&dir).unwrap();
    journal.append(&suspended(7)).unwrap();
    drop(journal);
    std::fs::write(dir.path().join("journal.new"), b"half a snap").unwrap();
    let mut journal = open(&dir).unwrap();
    assert_eq!(journal.state().suspension.as_ref().unwrap().at, 7);
    journal.compact().unwrap();
    journal.append(&suspended(8)).unwrap();
    drop(journal);
    assert_eq!(open(&dir).unwrap().state().suspension.as_ref().unwrap().at, 8);
}

#[test]
fn from_the_future_an_event_that_only_informs_is_carried_through() {
    let dir = dir();
    let mut journal = open(&dir).unwrap();
    journal.append(&suspended(1)).unwrap();
    drop(journal);
    let news = r#"{"v":1,"seq":3,"bootId":"b","phase":"idle","mustUnderstand":false,"event":{"event":"sang","song":"x"}}"#;
    append_raw(&dir, news);
    let mut journal = open(&dir).unwrap();
    assert_eq!(journal.state().foreign, None);
    journal.compact().unwrap();
    drop(journal);
    let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
    assert!(text.contains("\"song\":\"x\""), "carried through the compaction");
    assert!(open(&dir).is_ok());
}

#[test]
fn from_the_future_an_event_that_matters_leaves_the_phase_to_act_on() {
    let dir = dir();
    let mut journal = open(&dir).unwrap();
    journal.append(&suspended(1)).unwrap();
    drop(journal);
    append_raw(
        &dir,
        r#"{"v":1,"seq":3,"bootId":"b","phase":"soaking","mustUnderstand":true,"event":{"event":"levitated"}}"#,
    );
    append_raw(
        &dir,
        r#"{"v":1,"seq":4,"bootId":"b","phase":"confirming","mustUnderstand":true,"event":{"event":"armed","id":"9-abc"}}"#,
    );
    let journal = open(&dir).unwrap();
    let foreign = journal.state().foreign.clone().unwrap();
    assert_eq!((foreign.event.as_str(), foreign.phase), ("levitated", Phase::Confirming));
}

#[test]
fn from_the_future_a_new_frame_version_is_not_guessed_at() {
    let dir = dir();
    drop(open(&dir).unwrap());
    append_raw(
        &dir,
        r#"{"v":2,"seq":2,"bootId":"b","phase":"orbiting","mustUnderstand":true,"event":{"event":"resumed","by":"x","at":1}}"#,
    );
    let journal = open(&dir).unwrap();
    let foreign = journal.state().foreign.clone().unwrap();
    assert_eq!((foreign.event.as_str(), foreign.phase), ("resumed", Phase::Idle));
}

#[test]
fn an_event_that_does_not_fit_is_not_written() {
    let dir = dir();
    let mut journal = open(&dir).unwrap();
    let before = std::fs::read(dir.path().join(FILE)).unwrap();
    let id = crate::model::DeploymentId::new(1, &"0".repeat(40).parse().unwrap());
    assert!(matches!(journal.append(&Event::Armed { id }), Err(JournalError::Refused(_))));
    assert_eq!(std::fs::read(dir.path().join(FILE)).unwrap(), before);
}

/// Versions before this one did not say whose fault a rollback was: it was always the target's. What they wrote is read so,
/// and written as they would.
#[test]
fn a_rollback_without_a_class_is_the_target_s_fault() {
    use crate::model::{Class, Decision, Outcome, Step};
    fn check<T: serde::Serialize + serde::de::DeserializeOwned>(json: &str, class: impl Fn(&T) -> Class) {
        let old: T = serde_json::from_str(json).unwrap();
        assert_eq!((class(&old), serde_json::to_string(&old).unwrap().as_str()), (Class::Target, json));
        let json = json.replace(r#""reason":"#, r#""class":"transient","reason":"#);
        assert_eq!(class(&serde_json::from_str(&json).unwrap()), Class::Transient);
    }
    check(r#"{"decision":"roll-back","reason":"r","by":"guard"}"#, |d| match d {
        Decision::RollBack { class, .. } => *class,
        other => panic!("{other:?}"),
    });
    check(r#"{"step":"rolling-back","reason":"r","failures":[]}"#, |s| match s {
        Step::RollingBack { class, .. } => *class,
        other => panic!("{other:?}"),
    });
    for json in [
        r#"{"outcome":"rolled-back","reason":"r","failures":[]}"#,
        r#"{"outcome":"rollback-failed","reason":"r","text":"t"}"#,
    ] {
        check(json, |o| match o {
            Outcome::RolledBack { class, .. } | Outcome::RollbackFailed { class, .. } => *class,
            other => panic!("{other:?}"),
        });
    }
    let state: State = serde_json::from_str("{}").unwrap();
    assert_eq!((state.setback, state.rollbacks.len()), (None, 0));
}
