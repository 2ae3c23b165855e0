//! What `pullagent status` says, in every situation it has words for: each page is compared, character by character,
//! with a file in `tests/fixtures/status/`. `UPDATE_FIXTURES=1` writes the files anew; read them before committing.
//!
//! The snapshots are made of the same types that the loop shows, so a page can't promise what the agent doesn't know.

#![expect(clippy::unwrap_used, reason = "this is a test")]
#![expect(clippy::disallowed_methods, reason = "a test reads its own settings from the environment")]

use std::path::Path;

use pullagent::model::{
    Action, Answer, AwaitedReboot, Cause, CheckFacts, Class, Ended, Entered, Event, Failure, HintCounts,
    HintWord, Oid, OldProtocol, Operation, Outcome, RebootNeed, Setback, Sighting, Step, Suspension, Target,
    TestLine, TestProgress, Tip, Word,
};
use pullagent::plan::{self, Policy, Retry};
use pullagent::report::{self, Doing, Fate, Headline, History, Life, Snapshot, Status, Style, Verdict};
use pullagent::steps::Steps;
use serde_json::json;

mod status {
    pub mod hosts;
    mod summary;
}
use status::hosts::*;

/// The time of every page: 2027-01-15, 08:00:00 UTC.
const NOW: u64 = 1_800_000_000;
const MINUTE: u64 = 60;
const HOUR: u64 = 3600;

#[test]
fn up_to_date() {
    let mut s = host_in_sync();
    s.facts.checks = Some((
        s.state.history.back().unwrap().id.clone().unwrap(),
        vec![check_facts("web", true), check_facts("db", true)],
    ));
    let status = check("up-to-date", &s);
    assert_eq!(status.state, Headline::InSync);
    assert_eq!(status.running.unwrap().generation, Some(42));
}

#[test]
fn verifying() {
    let mut s = host_in_sync();
    push(&mut s, "main", &new_rev());
    s.doing = Some(Doing { action: "verify", revision: Some(new_rev()), since: NOW - 2 });
    assert_eq!(check("verifying", &s).state, Headline::Verifying);
}

#[test]
fn building() {
    let mut s = host_in_sync();
    accept(&mut s);
    s.doing = Some(Doing { action: "build", revision: Some(new_rev()), since: NOW - 102 });
    assert_eq!(check("building", &s).state, Headline::Building);
}

/// Whoever waits for a push to arrive sees whether anybody can be heard who would say so.
#[test]
fn hints_are_heard_or_not() {
    let mut s = host_in_sync();
    let mut settings = settings();
    settings.hints = ["nchan", "ntfy", "broker", "new"]
        .map(|name| {
            let hint = json!({ "name": name, "kind": "sse", "url": "https://push.example.org/infra" });
            serde_json::from_value(hint).unwrap()
        })
        .to_vec();
    let mut say = |name: &str, connected: bool, text: &str, accepted: u64, ago: u64| {
        let counts = HintCounts { accepted, ..HintCounts::default() };
        let word = HintWord { connected, text: text.to_owned(), counts };
        s.facts.see(Sighting::Hint { name: name.to_owned(), word, at: NOW - ago });
    };
    say("nchan", true, "", 1, 11_400);
    say("nchan", true, "", 2, 130);
    say("ntfy", true, "", 0, 40);
    say("broker", true, "", 3, 7300);
    say("broker", false, "the server answered 429 Too Many Requests", 3, 310);
    say("broker", false, "nothing came for 90s", 3, 20);
    let status = Status::from_snapshot(&s, &settings);
    assert_eq!(status.state, Headline::InSync, "no hint is missed so badly that the headline would say it");
    compare("hints", &report::page(&status, Life::Running, NOW, &Style::plain()));
    let json = serde_json::to_value(&status).unwrap();
    let expected = json!({
        "name": "broker", "connected": false, "since": NOW - 310, "trouble": "nothing came for 90s",
        "heardAt": NOW - 7300, "events": { "accepted": 3, "coalesced": 0, "ignored": 0, "tooLong": 0 },
    });
    assert_eq!(json["hints"][2], expected);
}

#[test]
fn switching() {
    let s = on_probation(Step::Armed, Operation::Switch);
    assert_eq!(check("switching", &s).state, Headline::Switching);
}

/// What each poll costs, and what to do about it.
#[test]
fn a_remote_that_speaks_an_old_protocol() {
    let mut s = host_in_sync();
    let heads = s.facts.remotes["origin"].heads.clone().unwrap();
    let old = Some(OldProtocol { refs: 10_002, bytes: 612_345 });
    s.facts.see(Sighting::Heads { remote: "origin".to_owned(), heads, old, at: NOW - 12 });
    let status = check("old-protocol", &s);
    assert_eq!(status.state, Headline::InSync);
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["remotes"][0]["oldProtocol"], json!({ "refs": 10_002, "bytes": 612_345 }));
}

#[test]
fn checking_health() {
    let mut s = on_probation(Step::Soaking, Operation::Switch);
    run(&mut s, &new_path());
    s.doing = Some(Doing { action: "check-health", revision: Some(new_rev()), since: NOW - 38 });
    let red = CheckFacts {
        failures: 2,
        text: "http://127.0.0.1/healthz answers 502".to_owned(),
        ..check_facts("web", false)
    };
    let waiting = CheckFacts { green: None, ..check_facts("site", false) };
    let checks = vec![check_facts("db", true), red, waiting];
    s.facts.checks = Some((s.state.deployment.as_ref().unwrap().id.clone(), checks));
    let status = check("checking-health", &s);
    assert_eq!(status.state, Headline::CheckingHealth);
    assert_eq!(status.running.unwrap().generation, None, "a system on probation has no generation");
    assert_eq!(status.deployment.unwrap().deadline, Some(NOW + 82));
}

/// Whoever is asked learns until when, and what to say; whoever asks why learns who spoke.
#[test]
fn awaiting_confirmation() {
    let mut s = on_probation(Step::Proven { until_boottime_ms: 1_300_000 }, Operation::Switch);
    run(&mut s, &new_path());
    let id = s.state.deployment.as_ref().unwrap().id.clone();
    s.facts.checks = Some((id.clone(), vec![check_facts("web", true)]));
    let status = check("awaiting-confirmation", &s);
    assert_eq!(status.state, Headline::AwaitingConfirmation);
    assert_eq!(status.deployment.as_ref().unwrap().answer_until, Some(NOW + 300));
    let why = report::explain(&new_rev(), &status, &History::of(&s.state, "web1"), NOW);
    assert!(why.advice.unwrap().contains("pullagent confirm"));
    let answer = Answer {
        id,
        word: Word::Reject,
        by: "bob".to_owned(),
        reason: Some("the menu is gone".to_owned()),
        at: NOW,
    };
    s.state.apply(&Event::Answered { answer }).unwrap();
    s.facts.host.as_mut().unwrap().boot_id = "b".to_owned();
    let status = Status::from_snapshot(&s, &settings());
    let why = report::explain(&new_rev(), &status, &History::of(&s.state, "web1"), NOW);
    assert!(why.text.contains(&"bob rejected it: the menu is gone.".to_owned()), "{:?}", why.text);
    let next = plan::next(&s.state, &s.facts, &Steps::policy(&settings()));
    let Action::Decide(_, decision) = next else { unreachable!("{next:?}") };
    let id = s.state.deployment.as_ref().unwrap().id.clone();
    s.state.apply(&Event::Decided { id: id.clone(), decision, failures: vec![], red: None }).unwrap();
    s.state.apply(&Event::RolledBack { id, how: String::new(), at: NOW }).unwrap();
    run(&mut s, &old_path());
    let status = check("rejected", &s);
    assert_eq!(status.problem.unwrap().code, "rejected");
}

#[test]
fn rolling_back() {
    let step = Step::RollingBack {
        reason: "check 'web' failed 3 times in a row: http://127.0.0.1/healthz answers 502".to_owned(),
        failures: vec![
            "web: http://127.0.0.1/healthz answers 502".to_owned(),
            "ping: 10.0.0.1 does not answer within 2s".to_owned(),
        ],
        class: Class::Target,
        code: None,
        red: None,
    };
    let mut s = on_probation(step, Operation::Switch);
    run(&mut s, &new_path());
    assert_eq!(check("rolling-back", &s).state, Headline::RollingBack);
}

#[test]
fn rolled_back() {
    assert_eq!(check("rolled-back", &rolled_back_host()).state, Headline::RolledBack);
}

/// Nothing is held against the commit: the host waits, says for how long, and what cuts that short.
#[test]
fn rolled_back_because_no_remote_answered() {
    let mut s = host_in_sync();
    accept(&mut s);
    let text = "check 'updatable' failed 6 times in a row: origin: its name does not resolve".to_owned();
    let (target, at) = (Target::config(new_rev()), NOW - 4 * MINUTE);
    let (reason, failures, code) = (text.clone(), vec![], None);
    let outcome = Outcome::RolledBack { reason, failures, class: Class::Transient, code };
    s.state.history.push_back(Ended { outcome, ..ended(&new_tip(), at) });
    s.state.setback = Some(Setback { target, count: 1, text, at, cause: Cause::UpdatePath });
    let status = check("setback", &s);
    assert_eq!(status.state, Headline::Retrying);
    assert_eq!(status.retries[0].not_before, at + 600);
    let why = report::explain(&new_rev(), &status, &History::of(&s.state, "web1"), NOW);
    assert_eq!(why.verdict, Verdict::Waiting);
    assert!(why.advice.unwrap().contains("pullagent retry"), "'sync' does not cut it short");
}

#[test]
fn suspended_by_too_many_rollbacks() {
    let mut s = rolled_back_host();
    s.state.rollbacks = [3, 2, 1].map(|hours| NOW - hours * HOUR).into();
    let next = |s: &Snapshot| plan::next(&s.state, &s.facts, &Steps::policy(&settings()));
    let Action::Record(suspended) = next(&s) else { unreachable!("it goes on") };
    s.state.apply(&suspended).unwrap();
    assert_eq!(check("suspended-itself", &s).state, Headline::Suspended);
    s.state.apply(&Event::Resumed { by: "alice".to_owned(), at: NOW }).unwrap();
    assert_eq!(s.state.rollbacks.len(), 0);
    s.state.rollbacks = [25, 2, 1].map(|hours| NOW - hours * HOUR).into();
    assert!(!matches!(next(&s), Action::Record(_)), "one was yesterday");
}

#[test]
fn rollback_failed() {
    let mut s = rolled_back_host();
    s.state.history.back_mut().unwrap().outcome = Outcome::RollbackFailed {
        reason: "check 'web' failed 3 times in a row".to_owned(),
        text: "'switch-to-configuration test' of the old system exited with 4".to_owned(),
        class: Class::Target,
    };
    run(&mut s, &new_path());
    assert_eq!(check("rollback-failed", &s).state, Headline::RollbackFailed);
    run(&mut s, &old_path());
    assert_eq!(Status::from_snapshot(&s, &settings()).state, Headline::RolledBack, "somebody mended it");
}

#[test]
fn suspended() {
    let mut s = host_in_sync();
    accept(&mut s);
    s.state.suspension = Some(Suspension {
        by: "root".to_owned(),
        reason: Some("disk swap".to_owned()),
        until: Some(NOW + 2 * HOUR),
        at: NOW - 10 * MINUTE,
    });
    assert_eq!(check("suspended", &s).state, Headline::Suspended);
    s.facts.now = NOW + 2 * HOUR;
    let over = Status::from_snapshot(&s, &settings());
    assert_eq!((over.state, over.suspension), (Headline::Waiting, None), "a suspension ends by itself");
}

#[test]
fn unreachable() {
    assert_eq!(check("unreachable", &unreachable_host()).state, Headline::Unreachable);
}

#[test]
fn stale() {
    let mut s = unreachable_host();
    s.facts.remotes.get_mut("origin").unwrap().answered_at = Some(NOW - 26 * HOUR);
    assert_eq!(check("stale", &s).state, Headline::Unreachable);
}

#[test]
fn refused() {
    assert_eq!(check("refused", &refused_host("unsigned", "main")).state, Headline::Refused);
}

#[test]
fn what_was_refused_by_other_keys_and_is_accepted_now_is_no_headline() {
    let mut s = refused_host("unknown-key", "main");
    let tip = tip(&new_rev(), "trust: a new key", "bob", NOW);
    s.state.apply(&Event::MainAccepted { tip }).unwrap();
    assert_eq!(Status::from_snapshot(&s, &settings()).state, Headline::Waiting);
}

#[test]
fn a_test_branch_that_main_has_overtaken_is_no_alarm() {
    let s = refused_host("not-on-main", "test-web1");
    assert_eq!(check("overtaken", &s).state, Headline::InSync);
}

#[test]
fn build_failed() {
    let mut s = host_in_sync();
    accept(&mut s);
    let failure = failure("eval", "attribute 'web1' missing at flake.nix:12:9");
    quarantine(&mut s, None, failure.clone(), Outcome::BuildFailed { failure });
    assert_eq!(check("build-failed", &s).state, Headline::BuildFailed);
}

#[test]
fn quarantined_and_then_pushed_again() {
    let mut s = rolled_back_host();
    let fix = oid("f00dfeed");
    push(&mut s, "main", &fix);
    let status = check("quarantined-then-fixed", &s);
    assert_eq!(status.state, Headline::Waiting, "the old failure is no longer the headline");
    assert_eq!(status.set_aside.len(), 1, "and is still remembered");
}

#[test]
fn drift() {
    let mut s = host_in_sync();
    run(&mut s, &path("9", "nixos-system-web1-26.05.dirty"));
    s.facts.host.as_mut().unwrap().running_revision = None;
    assert_eq!(check("drift", &s).state, Headline::Drift);
    let host = s.facts.host.as_mut().unwrap();
    (host.profile, host.running_revision) = (host.running.clone(), Some(old_rev()));
    let status = Status::from_snapshot(&s, &settings());
    assert_eq!(status.state, Headline::InSync, "somebody installed the accepted revision by hand");
}

#[test]
fn what_a_reboot_would_change() {
    let mut s = host_in_sync();
    s.facts.host.as_mut().unwrap().reboot_reasons = vec!["kernel linux-6.6.1 → linux-6.6.2".to_owned()];
    let status = check("reboot-pending", &s);
    assert_eq!(status.state, Headline::InSync);
    let reboot = status.reboot_pending.unwrap();
    assert_eq!((reboot.why.as_str(), reboot.blocked, reboot.not_before), ("policy never", false, None));
}

#[test]
fn what_only_a_reboot_can_bring() {
    let mut s = on_probation(Step::Prepared, Operation::Switch);
    let id = s.state.deployment.as_ref().unwrap().id.clone();
    let reasons = vec!["init interface 1 → systemd-2".to_owned()];
    let need = RebootNeed { forbids_switch: reasons.clone(), reasons, no_trial: None };
    let reboot = AwaitedReboot { need, why: "policy never".to_owned(), given_up: false };
    s.state.apply(&Event::RebootAwaited { id, reboot, at: NOW - 5 * MINUTE }).unwrap();
    let status = check("reboot-needed", &s);
    assert_eq!(status.state, Headline::RebootPending);
    assert!(status.set_aside.is_empty() && status.pending.is_empty() && status.problem.is_none());
    assert_eq!(History::of(&s.state, "web1").entries.last().unwrap().outcome, Fate::RebootAwaited);
    // Neither is it begun again, nor does it stand in the way of a newer one.
    let policy = Steps::policy(&settings());
    assert!(matches!(plan::next(&s.state, &s.facts, &policy), Action::Wait { until: None }));
    let mut booted = s.clone();
    run(&mut booted, &new_path());
    assert!(matches!(plan::next(&booted.state, &booted.facts, &policy), Action::Build(..)));
}

#[test]
fn testing() {
    let mut s = host_in_sync();
    let tip =
        Tip { branch: "test-web1".to_owned(), ..tip(&new_rev(), "nixpkgs: bump", "bob", NOW - 9 * MINUTE) };
    push(&mut s, "test-web1", &new_rev());
    s.state.entered = Some(Entered { tip: tip.clone(), toplevel: new_path(), at: NOW - 5 * MINUTE });
    s.state.test = Some(TestLine { tip, main: old_rev(), progress: TestProgress::Entered });
    run(&mut s, &new_path());
    let status = check("testing", &s);
    assert_eq!(status.state, Headline::Testing);
    assert_eq!(status.running.unwrap().generation, None, "a test has no generation");
}

#[test]
fn retrying() {
    let mut s = host_in_sync();
    accept(&mut s);
    let failure = Failure {
        class: Class::Transient,
        code: "space".to_owned(),
        text: "'/' has 12 MiB free, 64 MiB are needed to switch safely".to_owned(),
    };
    s.facts.retries.insert(new_rev(), Retry { failure, tries: 4, not_before: NOW + 14 });
    assert_eq!(check("retrying", &s).state, Headline::Retrying);
    push(&mut s, "main", &old_rev());
    s.state.main = s.state.settled.as_ref().map(|settled| settled.tip.clone());
    let status = Status::from_snapshot(&s, &settings());
    assert_eq!((status.state, status.retries), (Headline::InSync, vec![]), "nobody wants it any more");
}

#[test]
fn what_is_healthy_but_cannot_be_made_permanent() {
    let mut s = on_probation(Step::Confirming, Operation::Switch);
    run(&mut s, &new_path());
    let failure = Failure {
        class: Class::Transient,
        code: "bootloader".to_owned(),
        text: "'switch-to-configuration boot' failed with exit code 1: no room on /boot".to_owned(),
    };
    s.facts.retries.insert(new_rev(), Retry { failure, tries: 3, not_before: NOW + 8 });
    s.doing = None;
    assert_eq!(check("confirm-failed", &s).state, Headline::Retrying);
    s.doing = Some(Doing { action: "confirm", revision: Some(new_rev()), since: NOW });
    assert_eq!(Status::from_snapshot(&s, &settings()).state, Headline::Confirming, "while it tries again");
}

#[test]
fn a_refusal_that_may_pass_says_what_helps() {
    let mut s = host_in_sync();
    push(&mut s, "main", &new_rev());
    let (code, text) = ("anchor-missing".to_owned(), "a1b2c3d is not in what 'origin' sent".to_owned());
    let failure = Failure { class: Class::Transient, code, text };
    s.facts.retries.insert(new_rev(), Retry { failure, tries: 1, not_before: NOW + 2 });
    assert_eq!(check("anchor-missing", &s).state, Headline::Retrying);
}

#[test]
fn held() {
    let mut s = host_in_sync();
    s.facts.host.as_mut().unwrap().machine_id = Some("another".to_owned());
    let policy = Policy { expected_machine_id: Some("this".to_owned()), ..report::policy(&settings()) };
    s.trouble = plan::held(&s.state, &s.facts, &policy);
    assert_eq!(check("held", &s).state, Headline::Held);
}

#[test]
fn starting() {
    let mut s = host_in_sync();
    s.facts.remotes.clear();
    assert_eq!(check("starting", &s).state, Headline::Starting);
}

#[test]
fn the_agent_is_dead() {
    let status = Status::from_snapshot(&host_in_sync(), &settings());
    compare("dead", &report::page(&status_written(status, 2 * HOUR), Life::Dead, NOW, &Style::plain()));
}

#[test]
fn the_agent_is_silent() {
    let mut s = host_in_sync();
    accept(&mut s);
    s.doing = Some(Doing { action: "build", revision: Some(new_rev()), since: NOW - 3 * HOUR });
    let status = Status::from_snapshot(&s, &settings());
    compare("silent", &report::page(&status_written(status, 2 * HOUR), Life::Silent, NOW, &Style::plain()));
}

#[test]
fn a_narrow_terminal_wraps_under_the_column() {
    let status = Status::from_snapshot(&rolled_back_host(), &settings());
    let narrow = Style { width: 60, ..Style::plain() };
    let text = report::page(&status, Life::Running, NOW, &narrow);
    assert!(text.lines().all(|l| l.chars().count() <= 60), "{text}");
    compare("narrow", &text);
}

#[test]
fn one_line() {
    let mut lines = String::new();
    let dead = status_written(Status::from_snapshot(&host_in_sync(), &settings()), 2 * HOUR);
    let worlds = [host_in_sync(), rolled_back_host(), refused_host("unsigned", "main"), unreachable_host()];
    for s in &worlds {
        let status = Status::from_snapshot(s, &settings());
        lines.push_str(&report::oneline(&status, Life::Running, NOW, &Style::plain()));
    }
    lines.push_str(&report::oneline(&dead, Life::Dead, NOW, &Style::plain()));
    compare("oneline", &lines);
}

#[test]
fn history_is_a_table() {
    let history = History::of(&refused_host("unsigned", "main").state, "web1");
    let mut both = report::history_text(&history, 20, &Style::plain());
    let history = History::of(&rolled_back_host().state, "web1");
    both.push_str(&report::history_text(&history, 20, &Style::plain()));
    compare("history", &both);
    let one = report::history_text(&history, 1, &Style::plain());
    assert_eq!(one.lines().count(), 2, "a head and one line: {one}");
}

#[test]
fn colours_only_where_they_are_wanted() {
    let status = Status::from_snapshot(&rolled_back_host(), &settings());
    let plain = report::page(&status, Life::Running, NOW, &Style::plain());
    let bright = report::page(&status, Life::Running, NOW, &Style { color: true, ..Style::plain() });
    assert!(!plain.contains('\u{1b}'));
    assert!(bright.contains("\u{1b}["));
    assert_eq!(
        anstream::adapter::strip_str(&bright).to_string(),
        plain,
        "colours carry no meaning of their own"
    );
}

#[test]
fn every_status_survives_json() {
    let worlds = [host_in_sync(), rolled_back_host(), refused_host("unsigned", "main"), unreachable_host()];
    for s in worlds {
        let status = Status::from_snapshot(&s, &settings());
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["state"], status.state.word());
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status);
        let history = History::of(&s.state, "web1");
        let json = serde_json::to_string(&history).unwrap();
        assert_eq!(serde_json::from_str::<History>(&json).unwrap(), history);
    }
}

#[test]
fn what_the_network_says_cannot_move_the_cursor() {
    let mut s = unreachable_host();
    let trouble = s.facts.remotes.get_mut("origin").unwrap().trouble.as_mut().unwrap();
    trouble.text = "\u{1b}[2J\u{1b}[1;1H✔ web1 is up to date\n  running".to_owned();
    let text = report::page(&Status::from_snapshot(&s, &settings()), Life::Running, NOW, &Style::plain());
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(!text.lines().any(|l| l.starts_with('✔')), "{text}");
}

#[test]
fn explanations() {
    let mut text = String::new();
    let mut tell = |s: &Snapshot, revision: &Oid| {
        let status = Status::from_snapshot(s, &settings());
        let e = report::explain(revision, &status, &History::of(&s.state, "web1"), NOW);
        text.push_str(&format!("{:?}\n", e.verdict));
        e.text.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
        e.advice.iter().for_each(|line| text.push_str(&format!("  next: {line}\n")));
        e.verdict
    };
    assert_eq!(tell(&host_in_sync(), &old_rev()), Verdict::Running);
    assert_eq!(tell(&host_in_sync(), &oid("5eed")), Verdict::Unknown);
    assert_eq!(tell(&refused_host("unsigned", "main"), &new_rev()), Verdict::Refused);
    assert_eq!(tell(&rolled_back_host(), &new_rev()), Verdict::Failed);
    let mut s = on_probation(Step::Soaking, Operation::Switch);
    run(&mut s, &new_path());
    assert_eq!(tell(&s, &new_rev()), Verdict::UnderWay);
    let mut s = host_in_sync();
    accept(&mut s);
    assert_eq!(tell(&s, &new_rev()), Verdict::Waiting);
    s.state.suspension =
        Some(Suspension { by: "alice".to_owned(), reason: None, until: None, at: NOW - 2 * MINUTE });
    assert_eq!(tell(&s, &new_rev()), Verdict::Waiting);
    assert_eq!(tell(&unreachable_host(), &oid("5eed")), Verdict::Unknown);
    let mut s = refused_host("unsigned", "main");
    s.state.refused.back_mut().unwrap().commit = Some(oid("bad"));
    assert_eq!(tell(&s, &oid("bad")), Verdict::Refused);
    let mut s = on_probation(Step::Confirming, Operation::Switch);
    run(&mut s, &new_path());
    let failure = failure("bootloader", "no room on /boot");
    s.facts.retries.insert(new_rev(), Retry { failure, tries: 3, not_before: NOW + 8 });
    assert_eq!(tell(&s, &new_rev()), Verdict::UnderWay);
    let mut s = rolled_back_host();
    run(&mut s, &new_path());
    let (reason, said) = ("check 'web' failed".to_owned(), "it exited with 4".to_owned());
    s.state.history.back_mut().unwrap().outcome =
        Outcome::RollbackFailed { reason, text: said, class: Class::Target };
    assert_eq!(tell(&s, &new_rev()), Verdict::Failed, "although it runs");
    compare("explain", &text);
}

#[test]
fn abbreviations_mean_one_known_revision() {
    let s = rolled_back_host();
    let status = Status::from_snapshot(&s, &settings());
    let history = History::of(&s.state, "web1");
    let resolve = |text: &str| report::resolve(text, &status, &history).map_err(|e| e.to_string());
    assert_eq!(resolve("a1b2"), Ok(old_rev()));
    assert_eq!(resolve("D4E5F6A"), Ok(new_rev()));
    assert_eq!(resolve(oid("abcd").as_str()), Ok(oid("abcd")), "a full id needs no introduction");
    assert!(resolve("a1b").unwrap_err().contains("4 to 64"));
    assert!(resolve("main").unwrap_err().contains("not a revision"));
    assert!(resolve("ffff").unwrap_err().contains("not heard of"));
    let mut twin = history.clone();
    let second: Oid = format!("a1b2{}", "f".repeat(36)).parse().unwrap();
    twin.entries[0].revision = second.clone();
    let error = report::resolve("a1b2", &status, &twin).unwrap_err().to_string();
    assert!(error.contains("ambiguous") && error.contains(second.as_str()), "{error}");
}

/// Renders a snapshot and compares it with the file of that name.
fn check(name: &str, snapshot: &Snapshot) -> Status {
    let status = Status::from_snapshot(snapshot, &settings());
    compare(name, &report::page(&status, Life::Running, NOW, &Style::plain()));
    status
}

fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/status/{name}.txt"));
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, golden, "\n--- is:\n{text}\n--- {}:\n{golden}", path.display());
}
