//! Several remotes, or one that anybody may write to: none can keep a host from getting something done. Pure tables.

use pullagent::model::{
    Action, Class, Event, Failure, Kin, Line, Oid, Operation, Refusal, Sighting, State, Verification,
};
use pullagent::plan::{self, Facts};

use crate::{NOW, apply, heads, host, looked, oid, policy, settled, tip};

/// The settled host of the other tables, which has accepted `b` and is to build it.
fn owes_a_build() -> State {
    let mut state = settled();
    apply(&mut state, &[Event::MainAccepted { tip: tip('b') }]);
    state
}

fn next(state: &State, facts: &Facts) -> Action {
    plan::next(state, facts, &policy())
}

fn verification(action: Action) -> Verification {
    match action {
        Action::Verify(v) => v,
        other => panic!("{other:?}"),
    }
}

/// What the loop makes of a verdict.
fn refuse(state: &mut State, facts: &mut Facts, v: &Verification) {
    let c = &v.candidate;
    let refusal = Refusal {
        revision: c.revision.clone(),
        branch: c.branch.clone(),
        remote: c.remote.clone(),
        operation: Operation::Switch,
        commit: None,
        code: "unsigned".to_owned(),
        text: String::new(),
        advice: String::new(),
        judged_by: v.judged_by.clone(),
        at: NOW,
    };
    let event = Event::Refused { refusal };
    state.apply(&event).unwrap();
    facts.note(&event, None);
}

fn junk(number: u32) -> Oid {
    format!("{number:040x}").parse().unwrap()
}

/// A remote names `junk(number)` as the tip of main.
fn pollute(facts: &mut Facts, remote: &str, number: u32) {
    let heads = [("main".to_owned(), junk(number))].into();
    facts.see(Sighting::Heads { remote: remote.to_owned(), heads, old: None, at: NOW });
}

/// A pusher without a key names a new commit with every poll; each is looked at while nothing else is due, and a build
/// is called off for one of them only.
#[test]
fn a_new_refused_commit_with_every_poll_does_not_keep_the_accepted_one_from_being_built() {
    let (mut state, mut facts) = (owes_a_build(), looked(host('a', 'a')));
    heads(&mut facts, "origin", &[("main", 'b')]);
    let build = next(&state, &facts);
    assert!(matches!(build, Action::Build(..)), "{build:?}");
    let mut called_off = 0;
    for number in 1..100 {
        pollute(&mut facts, "origin", number);
        let now = next(&state, &facts);
        if plan::is_moot(&build, &now, &facts) {
            called_off += 1;
            refuse(&mut state, &mut facts, &verification(now));
        }
        assert_eq!(next(&state, &facts), build, "after {number} polls");
    }
    assert_eq!(called_off, 1);
    // What waited is looked at as soon as the build is out of the way; a good tip clears the name of its remote.
    let failure = Failure { class: Class::Target, code: "build".to_owned(), text: String::new() };
    let Action::Build(_, desired) = build else { panic!() };
    apply(&mut state, &[Event::BuildFailed { desired, failure, at: NOW }]);
    assert_eq!(verification(next(&state, &facts)).candidate.revision, junk(99));
    facts.note(&Event::MainAccepted { tip: tip('c') }, None);
    assert_eq!(facts.failures_of("origin"), 0);
}

/// The same for a mirror that names one old commit after the other.
#[test]
fn a_mirror_that_names_old_commits_does_not_keep_the_accepted_one_from_being_built() {
    let (state, mut facts) = (owes_a_build(), looked(host('a', 'a')));
    heads(&mut facts, "origin", &[("main", 'b')]);
    pollute(&mut facts, "mirror", 1);
    let related = |number| Sighting::Related { revision: junk(number), to: oid('b'), kin: Kin::Older };
    assert_eq!(next(&state, &facts), Action::Relate { revision: junk(1), to: oid('b') });
    facts.see(related(1));
    let build = next(&state, &facts);
    assert!(matches!(build, Action::Build(..)), "{build:?}");
    pollute(&mut facts, "mirror", 2);
    assert_eq!(next(&state, &facts), build);
    // Another remote's new tip still comes first.
    heads(&mut facts, "origin", &[("main", 'c')]);
    assert_eq!(next(&state, &facts), Action::Relate { revision: oid('c'), to: oid('b') });
}

/// The tip moves on with each poll, and each time the fetch would have begun afresh.
#[test]
fn a_tip_that_moves_on_does_not_call_off_the_look_at_the_one_before() {
    let (state, mut facts) = (settled(), looked(host('a', 'a')));
    heads(&mut facts, "origin", &[("main", 'b')]);
    let first = next(&state, &facts);
    heads(&mut facts, "origin", &[("main", 'c')]);
    let second = next(&state, &facts);
    assert_ne!(first, second);
    assert!(!plan::is_moot(&first, &second, &facts));
    // What stalls at a remote that came to nothing before does not hold up another one's.
    pollute(&mut facts, "mirror", 1);
    facts.see(Sighting::Related { revision: junk(1), to: oid('a'), kin: Kin::Unknown });
    facts.see(Sighting::Related { revision: oid('c'), to: oid('a'), kin: Kin::Unknown });
    let failure = Failure { class: Class::Transient, code: "fetch-limit".to_owned(), text: String::new() };
    let remote = Some("mirror".to_owned());
    facts.see(Sighting::Failed { revision: junk(9), remote, failure, at: NOW });
    let candidate = pullagent::model::Candidate {
        remote: "mirror".to_owned(),
        branch: "main".to_owned(),
        revision: junk(1),
        operation: Operation::Switch,
    };
    let stalled = Action::Verify(Verification { candidate, ..verification(second.clone()) });
    assert!(plan::is_moot(&stalled, &next(&state, &facts), &facts));
    heads(&mut facts, "origin", &[("main", 'd')]);
    let relate = next(&state, &facts);
    assert!(matches!(relate, Action::Relate { .. }), "{relate:?}");
    assert!(plan::is_moot(&stalled, &relate, &facts) && !plan::is_moot(&first, &relate, &facts));
    // Root's word ends either.
    let line = Line::Root(oid('f'));
    let named = Action::Verify(Verification { line, ..verification(second) });
    assert!(plan::is_moot(&first, &named, &facts));
}
