//! Goal: where trust starts, and that it never goes back: a lost memory, a rollback, a test, a hand at the switch and a lying
//! remote each leave the host with the keys and the anchor that were accepted last, or standing still and saying why.
//!
//! Method: tables over the pure plan, then the real agent on the demo's host. Names begin with the row of the attack
//! catalogue that they are about.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test looks at the clock")]

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};

use pullagent::config::{self, Settings};
use pullagent::journal::{Journal, JournalError};
use pullagent::model::{
    Action, AdoptedTrust, Class, Decision, DeploymentId, Desired, Event, GuardFacts, HostFacts, Keys, Kin,
    Line, Oid, Operation, Refusal, Sighting, State, StorePath, Tip, TrustSettings, Why,
};
use pullagent::plan::{self, AlarmCode, Facts, Policy, Standing};
use pullagent::report::{self, Snapshot, Status};

mod trust_root {
    #[allow(dead_code, reason = "each test takes the part it needs")]
    #[path = "../common/git.rs"]
    mod git;
    #[allow(dead_code, reason = "each test takes the part it needs")]
    #[path = "../common/git_server.rs"]
    mod git_server;
    mod hosts;
    #[allow(dead_code, reason = "each test takes the part it needs")]
    #[path = "../common/relay.rs"]
    mod relay;
    mod remotes;
    mod settings;
    mod two_remotes;
    #[path = "../common/world.rs"]
    mod world;
}

const NOW: u64 = 1_800_000_000;
const HOUR: u64 = 3600;

fn settings() -> Settings {
    let mut settings = config::parse(include_bytes!("fixtures/config.json")).unwrap().settings;
    let mirror = config::Remote { name: "mirror".to_owned(), ..settings.remotes[0].clone() };
    settings.remotes.push(mirror);
    settings
}

fn policy() -> Policy {
    report::policy(&settings())
}

fn oid(digit: char) -> Oid {
    digit.to_string().repeat(40).parse().unwrap()
}

fn system(digit: char) -> StorePath {
    // A store path's hash has no e.
    let digit = if digit == 'e' { 'z' } else { digit };
    format!("/nix/store/{}-nixos-system-web1", digit.to_string().repeat(32)).parse().unwrap()
}

fn tip(digit: char) -> Tip {
    Tip {
        revision: oid(digit),
        tree: oid('f'),
        payload_sha256: String::new(),
        committer_time: 0,
        signer: Some("alice".to_owned()),
        subject: String::new(),
        branch: "main".to_owned(),
        remote: "origin".to_owned(),
        accepted_at: NOW,
    }
}

fn trust(revoked: &[&str]) -> TrustSettings {
    TrustSettings::new(serde_json::json!({ "signers": { "carol": { "keys": [] } }, "revokedKeys": revoked }))
}

/// What a host says that runs one system and boots another.
fn host(running: char, profile: char) -> HostFacts {
    HostFacts {
        running: Some(system(running)),
        etc: Some(system(running)),
        profile: Some(system(profile)),
        running_revision: Some(oid(running)),
        boot_id: "boot".to_owned(),
        ..HostFacts::default()
    }
}

fn looked(host: HostFacts) -> Facts {
    let introduction = host.running_revision.clone();
    let (host, guard, trust) = (Box::new(host), GuardFacts::default(), Some(trust(&[])));
    let mut facts = Facts::default();
    facts.see(Sighting::Host { now: NOW, host, guard, introduction, trust });
    facts
}

fn heads(facts: &mut Facts, remote: &str, branches: &[(&str, char)]) {
    let heads =
        branches.iter().map(|(name, tip)| ((*name).to_owned(), oid(*tip))).collect::<BTreeMap<_, _>>();
    facts.see(Sighting::Heads { remote: remote.to_owned(), heads, old: None, at: NOW });
}

fn apply(state: &mut State, events: &[Event]) {
    events.iter().for_each(|event| state.apply(event).unwrap());
}

/// A host that runs `a`, accepted and installed.
fn settled() -> State {
    let mut state = State::default();
    let adopted = AdoptedTrust { revision: Some(oid('a')), settings: trust(&[]), at: NOW };
    let events = [
        Event::MainAccepted { tip: tip('a') },
        Event::Adopted { toplevel: system('a'), generation: Some(1), at: NOW },
        Event::TrustAdopted { trust: adopted },
    ];
    apply(&mut state, &events);
    state
}

fn built(digit: char, operation: Operation, trust: TrustSettings) -> Event {
    Event::Built {
        id: DeploymentId::new(1, &oid(digit)),
        desired: Desired { tip: tip(digit), operation, why: Why::NewRevision },
        drv: None,
        toplevel: system(digit),
        trust: Some(trust),
        revoked: vec![],
        nonce: None,
        at: NOW,
    }
}

/// From the built system to its rollback.
fn rolled_back(digit: char) -> Vec<Event> {
    let id = DeploymentId::new(1, &oid(digit));
    let decision = Decision::RollBack {
        reason: "unhealthy".to_owned(),
        by: pullagent::model::Arbiter::Agent,
        class: Class::Target,
    };
    let (old, boot_id) = (system('a'), "boot".to_owned());
    vec![
        Event::Prepared {
            id: id.clone(),
            old,
            boot_id,
            deadline_boottime_ms: 1,
            red_before: vec![],
            reboot: None,
        },
        Event::Armed { id: id.clone() },
        Event::Decided { id: id.clone(), decision, failures: vec![], red: None },
        Event::RolledBack { id, how: String::new(), at: NOW },
    ]
}

fn refused(digit: char, code: &str) -> Event {
    Event::Refused {
        refusal: Refusal {
            revision: oid(digit),
            branch: "main".to_owned(),
            remote: "mirror".to_owned(),
            operation: Operation::Switch,
            commit: None,
            code: code.to_owned(),
            text: String::new(),
            advice: String::new(),
            judged_by: String::new(),
            at: NOW,
        },
    }
}

fn code(state: &State, facts: &Facts) -> Option<&'static str> {
    plan::held(state, facts, &policy())
        .or_else(|| plan::withheld(state, facts, &policy()))
        .map(|held| held.code)
}

#[test]
fn p16_without_memory_a_host_starts_from_what_it_runs_and_never_from_what_it_sees() {
    let mut facts = looked(host('a', 'a'));
    heads(&mut facts, "origin", &[("main", 'b')]);
    let adopted = plan::next(&State::default(), &facts, &policy());
    let Action::Record(event @ Event::TrustAdopted { .. }) = adopted else { panic!("{adopted:?}") };
    let mut state = State::default();
    state.apply(&event).unwrap();
    let next = plan::next(&state, &facts, &policy());
    let Action::Verify(v) = next else { panic!("{next:?}") };
    assert_eq!((v.line, v.candidate.revision), (Line::Introduction(oid('a')), oid('b')));

    let mut dirty = host('a', 'a');
    dirty.running_revision = None;
    let mut facts = looked(dirty);
    heads(&mut facts, "origin", &[("main", 'b')]);
    assert_eq!(code(&State::default(), &facts), Some("no-introduction"));
    assert_eq!(plan::next(&State::default(), &facts, &policy()), Action::Wait { until: None });
}

#[test]
fn p21_memory_lost_while_a_test_or_an_older_system_runs_is_a_conflict() {
    let mut facts = looked(host('b', 'a'));
    heads(&mut facts, "origin", &[("main", 'c')]);
    assert_eq!(code(&State::default(), &facts), Some("anchor-conflict"));
    assert_eq!(plan::next(&State::default(), &facts, &policy()), Action::Wait { until: None });
    let mut state = State::default();
    apply(&mut state, &[Event::RootAccepted { revision: oid('c'), by: "root".to_owned(), at: NOW }]);
    let Action::Verify(v) = plan::next(&state, &facts, &policy()) else { panic!("root is the way out") };
    assert_eq!((v.line, v.keys), (Line::Root(oid('c')), Keys::default()));
}

#[test]
fn p21_the_keys_of_a_test_branch_count_for_nothing() {
    let mut state = settled();
    let accepted = Event::TestAccepted { tip: tip('b'), main: oid('a') };
    let confirmed = Event::Confirmed { id: DeploymentId::new(1, &oid('b')), generation: None, at: NOW };
    apply(&mut state, &[accepted, built('b', Operation::Test, trust(&["ssh-ed25519 MAIN"])), confirmed]);
    assert_eq!((plan::counting(&state).settings, state.revoked.len()), (Some(trust(&[])), 0));
    // Its system runs, and is not taken for one that root installed.
    let facts = looked(host('b', 'b'));
    assert!(!matches!(plan::next(&state, &facts, &policy()), Action::Record(_)), "nothing is adopted");
}

#[test]
fn p17_a_rollback_brings_neither_old_keys_nor_an_old_anchor_back() {
    let mut state = settled();
    apply(&mut state, &[Event::MainAccepted { tip: tip('b') }]);
    apply(&mut state, &[built('b', Operation::Switch, trust(&["ssh-ed25519 THIEF thief@x"]))]);
    apply(&mut state, &rolled_back('b'));
    let mut facts = looked(host('a', 'a'));
    heads(&mut facts, "origin", &[("main", 'c')]);
    let Action::Verify(v) = plan::next(&state, &facts, &policy()) else { panic!() };
    assert_eq!(v.line, Line::Main(tip('b')), "the anchor has not gone back");
    assert_eq!(v.keys.settings, Some(trust(&["ssh-ed25519 THIEF thief@x"])));
    assert_eq!(v.keys.revoked, ["ssh-ed25519 THIEF"]);
    let judged_by = |s: &State| plan::judged_by(&policy(), &plan::counting(s), &Line::Main(tip('b')));
    assert_ne!(judged_by(&state), judged_by(&settled()), "what other keys refused is judged afresh");
}

/// The way back to an older system builds it, too; it must not bring its keys along.
#[test]
fn p17_the_way_back_from_a_test_adopts_no_older_keys() {
    let mut state = settled();
    apply(&mut state, &[Event::MainAccepted { tip: tip('b') }]);
    apply(&mut state, &[built('b', Operation::Switch, trust(&["ssh-ed25519 THIEF"]))]);
    apply(&mut state, &rolled_back('b'));
    let newer = plan::counting(&state);
    apply(&mut state, &[built('a', Operation::Switch, trust(&[]))]);
    assert_eq!(plan::counting(&state), newer);
}

#[test]
fn what_was_revoked_once_stays_so_even_if_root_goes_back_behind_it() {
    let mut state = settled();
    apply(&mut state, &[Event::MainAccepted { tip: tip('b') }]);
    apply(&mut state, &[built('b', Operation::Switch, trust(&["ssh-ed25519 THIEF"]))]);
    apply(&mut state, &rolled_back('b'));
    apply(&mut state, &[Event::RootAccepted { revision: oid('a'), by: "root".to_owned(), at: NOW }]);
    apply(&mut state, &[Event::MainAccepted { tip: Tip { signer: None, ..tip('a') } }]);
    apply(&mut state, &[built('a', Operation::Switch, trust(&[]))]);
    assert_eq!(
        plan::counting(&state),
        Keys { settings: Some(trust(&[])), revoked: vec!["ssh-ed25519 THIEF".to_owned()] }
    );

    let real = settings();
    let key = real.trust.signers.values().next().unwrap();
    let line = serde_json::to_value(key).unwrap()["keys"][0].as_str().unwrap().to_owned();
    let keys = Keys { settings: None, revoked: vec![pullagent::model::without_comment(&line)] };
    assert_eq!(real.policy_with(&keys).unwrap().revoked().len(), real.policy().unwrap().revoked().len() + 1);
    let broken =
        Keys { settings: Some(TrustSettings::new(serde_json::json!({ "mode": "later" }))), revoked: vec![] };
    assert!(real.policy_with(&broken).is_err(), "what can't be understood permits nothing");
}

#[test]
fn p18_a_state_directory_that_others_could_write_to_proves_nothing() {
    let refused = |dir: &std::path::Path| match Journal::open(dir, "boot") {
        Err(JournalError::Untrusted { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let chmod = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("state");
    drop(Journal::open(&dir, "boot").unwrap());
    chmod(&dir, 0o770);
    assert!(refused(&dir).contains("0770"));
    chmod(&dir, 0o700);
    chmod(&dir.join("journal"), 0o666);
    assert!(refused(&dir).contains("0666"));
    chmod(&dir.join("journal"), 0o600);
    drop(Journal::open(&dir, "boot").unwrap());

    let link = outer.path().join("link");
    symlink(&dir, &link).unwrap();
    assert!(refused(&link).contains("symbolic link"));
    std::fs::rename(dir.join("journal"), outer.path().join("journal")).unwrap();
    symlink(outer.path().join("journal"), dir.join("journal")).unwrap();
    assert!(refused(&dir).contains("symbolic link"));
    std::fs::remove_file(dir.join("journal")).unwrap();
    if std::os::unix::fs::chown(&dir, Some(65534), None).is_ok() {
        assert!(refused(&dir).contains("uid 65534"));
    }
}

#[test]
fn r16_a_test_tip_is_held_against_the_one_accepted_before_it() {
    let mut state = settled();
    apply(&mut state, &[Event::TestAccepted { tip: tip('b'), main: oid('a') }]);
    let mut facts = looked(host('a', 'a'));
    heads(&mut facts, "origin", &[("main", 'a'), ("test-web1", 'c')]);
    for _ in 0..2 {
        let Action::Verify(v) = plan::next(&state, &facts, &policy()) else { panic!() };
        let Line::Test { previous, .. } = v.line else { panic!() };
        assert_eq!(previous.map(|p| p.revision), Some(oid('b')));
        // A refusal does not make it forget.
        apply(&mut state, &[refused('d', "test-rollback")]);
    }
}

#[test]
fn r20_remotes_that_contradict_each_other_are_an_alarm_and_one_that_lags_is_not() {
    let mut state = settled();
    let mut facts = looked(host('a', 'a'));
    heads(&mut facts, "origin", &[("main", 'a')]);
    heads(&mut facts, "mirror", &[("main", 'e')]);
    let relate = Action::Relate { revision: oid('e'), to: oid('a') };
    assert_eq!(plan::next(&state, &facts, &policy()), relate);
    facts.see(Sighting::Related { revision: oid('e'), to: oid('a'), kin: Kin::Older });
    assert_eq!(plan::next(&state, &facts, &policy()), Action::Wait { until: None }, "not even looked at");
    assert_eq!(plan::alarms(&state, &facts, &policy()), []);
    assert_eq!(plan::standing_of_remote("mirror", &state, &facts, &policy()), Standing::Behind);

    heads(&mut facts, "mirror", &[("main", 'b')]);
    facts.see(Sighting::Related { revision: oid('b'), to: oid('a'), kin: Kin::Unknown });
    let Action::Verify(v) = plan::next(&state, &facts, &policy()) else { panic!() };
    assert_eq!((v.candidate.remote.as_str(), &v.candidate.revision), ("mirror", &oid('b')));
    let Event::Refused { refusal } = refused('b', "not-fast-forward") else { panic!() };
    apply(&mut state, &[Event::Refused { refusal: Refusal { judged_by: v.judged_by, ..refusal } }]);
    let alarms = plan::alarms(&state, &facts, &policy());
    assert_eq!(alarms[0].code, AlarmCode::SplitView);
    assert!(alarms[0].text.contains("origin has aaaaaaa and mirror has bbbbbbb"), "{}", alarms[0].text);
    assert_eq!(plan::next(&state, &facts, &policy()), Action::Wait { until: None });

    let snapshot = Snapshot { state, facts, doing: None, trouble: None };
    let status = Status::from_snapshot(&snapshot, &settings());
    assert_eq!(status.alarms[0].code, "split-view");
    assert_eq!(status.state, report::Headline::InSync, "an alarm is no failure of this host");
    let page = report::page(&status, report::Life::Running, NOW, &report::Style::plain());
    assert!(page.contains("alarm      split-view: origin has aaaaaaa"), "{page}");
}

#[test]
fn r20_remotes_that_are_silent_for_too_long_are_stale() {
    let state = settled();
    let mut facts = looked(host('a', 'a'));
    heads(&mut facts, "origin", &[("main", 'a')]);
    heads(&mut facts, "mirror", &[("main", 'a')]);
    let silent = |facts: &mut Facts, remote: &str| {
        let (class, text) = ("timeout".to_owned(), "nothing came".to_owned());
        facts.see(Sighting::Unreachable { remote: remote.to_owned(), class, text, at: NOW });
    };
    silent(&mut facts, "origin");
    facts.now = NOW + 25 * HOUR;
    assert!(plan::is_stale("origin", &facts, &policy()) && !plan::is_stale("mirror", &facts, &policy()));
    assert_eq!(plan::alarms(&state, &facts, &policy()), [], "the other one answers");
    silent(&mut facts, "mirror");
    assert_eq!(plan::alarms(&state, &facts, &policy())[0].code, AlarmCode::Stale);
}

/// Of several remotes the newest tip that verifies wins, and none can keep another one's tip waiting.
#[test]
fn the_newest_verified_descendant_wins_and_failures_are_held_against_who_caused_them() {
    let state = settled();
    let mut facts = looked(host('a', 'a'));
    heads(&mut facts, "origin", &[("main", 'b')]);
    heads(&mut facts, "mirror", &[("main", 'c')]);
    for tip in ['b', 'c'] {
        facts.see(Sighting::Related { revision: oid(tip), to: oid('a'), kin: Kin::Unknown });
    }
    let first = |facts: &Facts| match plan::next(&state, facts, &policy()) {
        Action::Verify(v) => (v.candidate.remote, v.candidate.revision),
        other => panic!("{other:?}"),
    };
    assert_eq!(first(&facts), ("origin".to_owned(), oid('b')));
    let failure = pullagent::model::Failure {
        class: Class::Transient,
        code: "incomplete".to_owned(),
        text: String::new(),
    };
    facts.see(Sighting::Failed {
        revision: oid('b'),
        remote: Some("origin".to_owned()),
        failure: failure.clone(),
        at: NOW,
    });
    heads(&mut facts, "origin", &[("main", 'd')]);
    facts.see(Sighting::Related { revision: oid('d'), to: oid('a'), kin: Kin::Unknown });
    assert_eq!(first(&facts), ("mirror".to_owned(), oid('c')), "always something new: the other one's turn");

    heads(&mut facts, "origin", &[("main", 'c')]);
    assert_eq!(first(&facts).1, oid('c'));
    facts.see(Sighting::Failed { revision: oid('c'), remote: Some("origin".to_owned()), failure, at: NOW });
    facts.now = NOW + 60;
    let (again, _) = first(&facts);
    assert_eq!(again, "mirror", "of two that name it, the other one is asked after a failure");
}

#[test]
fn a_test_branch_that_a_second_remote_lacks_is_not_deleted() {
    let mut state = settled();
    apply(&mut state, &[Event::TestAccepted { tip: tip('b'), main: oid('a') }]);
    let mut facts = looked(host('a', 'a'));
    heads(&mut facts, "origin", &[("main", 'a'), ("test-web1", 'b')]);
    heads(&mut facts, "mirror", &[("main", 'a')]);
    let standing =
        |facts: &Facts| plan::standing_of_test(state.test.as_ref().unwrap(), &state, facts, &policy());
    assert_eq!(standing(&facts), plan::TestStanding::Wins);
    let (class, text) = ("timeout".to_owned(), String::new());
    facts.see(Sighting::Unreachable { remote: "origin".to_owned(), class, text, at: NOW });
    assert_eq!(standing(&facts), plan::TestStanding::Unknown, "the first remote's last word stands");
    heads(&mut facts, "origin", &[("main", 'a')]);
    assert_eq!(standing(&facts), plan::TestStanding::Deleted);
}

/// An ancestor of what runs is never deployed, unless root names it.
#[test]
fn a_host_that_was_switched_by_hand_never_goes_back_by_itself() {
    let mut state = settled();
    let mut facts = looked(host('c', 'c'));
    heads(&mut facts, "origin", &[("main", 'b')]);
    let relate = Action::Relate { revision: oid('c'), to: oid('a') };
    assert_eq!(plan::next(&state, &facts, &policy()), relate);
    let related = |kin| Sighting::Related { revision: oid('c'), to: oid('a'), kin };
    facts.see(related(Kin::Newer));
    let Action::Verify(v) = plan::next(&state, &facts, &policy()) else { panic!() };
    assert!(
        matches!(v.line, Line::Installed { revision, .. } if revision == oid('c')),
        "the anchor moves there first"
    );
    // To an ancestor, or to something unrelated: the anchor stays, and the branch is followed.
    for kin in [Kin::Older, Kin::Apart] {
        facts.see(related(kin));
        let Action::Verify(v) = plan::next(&state, &facts, &policy()) else { panic!() };
        assert_eq!((v.line, v.candidate.revision), (Line::Main(tip('a')), oid('b')));
    }
    // The same for what root only tries: the branch may be accepted, but nothing is deployed over it.
    let mut facts = looked(host('c', 'a'));
    heads(&mut facts, "origin", &[("main", 'b')]);
    apply(&mut state, &[Event::MainAccepted { tip: tip('b') }]);
    for (kin, said) in
        [(Kin::Newer, Some("runs-newer")), (Kin::Unknown, Some("anchor-conflict")), (Kin::Apart, None)]
    {
        facts.see(Sighting::Related { revision: oid('c'), to: oid('b'), kin });
        assert_eq!(code(&state, &facts), said, "{kin:?}");
        let next = plan::next(&state, &facts, &policy());
        assert_eq!(matches!(next, Action::Build(..)), said.is_none(), "{kin:?}: {next:?}");
    }
    apply(&mut state, &[Event::RootAccepted { revision: oid('b'), by: "root".to_owned(), at: NOW }]);
    apply(&mut state, &[Event::MainAccepted { tip: tip('b') }]);
    facts.see(Sighting::Related { revision: oid('c'), to: oid('b'), kin: Kin::Newer });
    assert!(matches!(plan::next(&state, &facts, &policy()), Action::Build(..)), "root named it");
}

#[test]
fn state_running_system_and_remote_that_have_nothing_in_common_are_a_conflict() {
    let mut state = settled();
    apply(&mut state, &[refused('e', "not-fast-forward")]);
    let mut facts = looked(host('c', 'c'));
    heads(&mut facts, "origin", &[("main", 'e')]);
    facts.see(Sighting::Related { revision: oid('c'), to: oid('a'), kin: Kin::Apart });
    let held = plan::withheld(&state, &facts, &policy()).unwrap();
    assert_eq!(held.code, "anchor-conflict");
    for revision in [oid('a'), oid('c'), oid('e')] {
        assert!(held.text.contains(revision.short()), "{}", held.text);
    }
    assert!(held.advice.contains(&format!("pullagent accept {}", oid('c'))), "{}", held.advice);
}

#[test]
fn what_root_names_comes_next_whatever_is_under_way_and_then_is_a_revision_like_any_other() {
    let mut state = settled();
    let mut facts = looked(host('a', 'a'));
    heads(&mut facts, "origin", &[("main", 'b')]);
    apply(
        &mut state,
        &[
            refused('b', "unsigned"),
            Event::RootAccepted { revision: oid('e'), by: "root".to_owned(), at: NOW },
        ],
    );
    let Action::Verify(v) = plan::next(&state, &facts, &policy()) else { panic!() };
    assert_eq!((v.line, v.candidate.revision), (Line::Root(oid('e')), oid('e')));
    apply(&mut state, &[Event::MainAccepted { tip: Tip { signer: None, ..tip('e') } }]);
    assert_eq!(state.refused.len(), 0, "verdicts under the old anchor are forgotten");
    let Action::Build(id, desired) = plan::next(&state, &facts, &policy()) else {
        panic!("before the branch's tip")
    };
    assert_eq!(desired.tip.revision, oid('e'));
    state
        .apply(&Event::Built {
            id: id.clone(),
            desired,
            drv: None,
            toplevel: system('e'),
            trust: None,
            revoked: vec![],
            nonce: None,
            at: NOW,
        })
        .unwrap();
    let mut done = state.clone();
    done.deployment = None;
    done.settled = None;
    apply(&mut done, &[Event::Adopted { toplevel: system('e'), generation: None, at: NOW }]);
    assert_eq!(done.vouched, None);
    // What can't be exported is refused whoever names it, and the anchor stays.
    let mut state = settled();
    apply(
        &mut state,
        &[
            Event::RootAccepted { revision: oid('e'), by: "root".to_owned(), at: NOW },
            refused('e', "bad-path"),
        ],
    );
    assert_eq!((state.vouched, state.main.unwrap().revision), (None, oid('a')));
}

/// A host that remembers nothing of keys, from before they were remembered.
#[test]
fn older_journals_still_replay() {
    let old = serde_json::json!({ "main": null, "test": null, "deploymentsBegun": 3 });
    let state: State = serde_json::from_value(old).unwrap();
    assert_eq!((state.trust, state.vouched, state.revoked.len()), (None, None, 0));
    let newer = serde_json::json!({ "main": tip('a'), "policyVersion": 7 });
    let state: State = serde_json::from_value(newer).unwrap();
    assert_eq!(serde_json::to_value(&state).unwrap()["policyVersion"], 7, "it is not ours to forget");
    let mut event = serde_json::to_value(built('b', Operation::Switch, trust(&[]))).unwrap();
    event.as_object_mut().unwrap().remove("trust");
    assert!(matches!(serde_json::from_value::<Event>(event).unwrap(), Event::Built { trust: None, .. }));
}
