//! What an idle agent does: which tip to verify, which verified tip to run.

use crate::model::{
    Action, Candidate, DeploymentId, Desired, Event, HostFacts, Keys, Line, Oid, Operation, Recheck, Refusal,
    State, Target, TestLine, TestProgress, Tip, Verification, Why,
};

use super::reboot::Permission;
use super::{
    Facts, Policy, backoff, breaker, counting, held, judged_by, keys, main_line, may_be_lifted, reboot,
    suspended, withheld,
};

/// Decides what an idle agent does.
pub(super) fn next(state: &State, facts: &Facts, host: &HostFacts, policy: &Policy) -> Action {
    if let Some(entered) = &state.entered
        && host.running.as_ref() != Some(&entered.toplevel)
        && !host.is_torn()
    {
        return Action::Record(Event::TestLost { at: facts.now });
    }
    if let Some(recheck) = &state.recheck {
        return look_into(recheck, facts, host);
    }
    if held(state, facts, policy).is_some() {
        return Action::Wait { until: None };
    }
    if let Some(action) = tidy(state, facts, host, policy) {
        return action;
    }
    let only_to_look = may_be_lifted(state, facts.now);
    if suspended(state, facts.now) && !only_to_look {
        return Action::Wait { until: state.suspension.as_ref().and_then(|s| s.until) };
    }
    if let Some(suspended) = breaker(state, facts.now).filter(|_| !only_to_look) {
        return Action::Record(suspended);
    }
    if let Some(adopted) = adoption(state, facts, host) {
        return Action::Record(adopted);
    }
    if let Some(adopted) = keys::adoption(state, facts, host) {
        return Action::Record(adopted);
    }
    // What a remote names comes before the build, unless it came to nothing before: whoever may push or stands in between
    // could name something new for ever.
    let sound = |remote: &str| facts.failures_of(remote) == 0;
    if let Some(action) = look(state, facts, policy, &sound) {
        return action;
    }
    if let Some(action) = build(state, facts, host, policy) {
        return action;
    }
    look(state, facts, policy, &|_| true)
        .unwrap_or_else(|| Action::Wait { until: next_try(state, facts, host, policy) })
}

/// Returns the build that is due, if one is.
fn build(state: &State, facts: &Facts, host: &HostFacts, policy: &Policy) -> Option<Action> {
    let desired = wanted(state, facts, host, policy)?;
    let early = not_before(state, &desired.tip.target(), facts.now).is_some();
    if early || !may_try(facts, &desired.tip.revision) {
        return None;
    }
    Some(Action::Build(DeploymentId::new(state.deployments_begun + 1, &desired.tip.revision), desired))
}

/// Returns when something that has to wait may be tried again.
fn next_try(state: &State, facts: &Facts, host: &HostFacts, policy: &Policy) -> Option<u64> {
    let early = facts.retries.values().filter(|r| r.is_early(facts.now)).map(|r| r.not_before);
    let patience =
        wanted(state, facts, host, policy).and_then(|d| not_before(state, &d.tip.target(), facts.now));
    early.chain(patience).chain(reboot::next_window(state, facts, policy)).min()
}

/// Returns what is to run instead of what runs, if it may be begun.
fn wanted(state: &State, facts: &Facts, host: &HostFacts, policy: &Policy) -> Option<Desired> {
    // What root named comes next, even if it can't be fetched at the moment.
    let root_waits = state.vouched.as_ref().is_some_and(|v| !v.anchored);
    let permission = reboot::permission(facts, policy);
    let may_begin = |d: &Desired| {
        !root_waits
            && (d.why != Why::NewRevision || withheld(state, facts, policy).is_none())
            && !reboot::waits(d, state, host, permission)
    };
    // While the breaker suspends the host, a revision is built only to see whether it lifts that.
    let only_to_look = may_be_lifted(state, facts.now);
    let is_news = |d: &Desired| d.why == Why::NewRevision && state.peeked.as_ref() != Some(&d.tip.revision);
    let may_be_built = |d: &Desired| !only_to_look || (d.operation == Operation::Switch && is_news(d));
    let desired = desired(state, facts, host, policy).or_else(|| boot(state, host, permission));
    desired.filter(may_begin).filter(may_be_built)
}

/// Returns what is to be done about old generations: only after a deployment of ours was confirmed, and as long as the system
/// that it made permanent is what runs.
fn tidy(state: &State, facts: &Facts, host: &HostFacts, policy: &Policy) -> Option<Action> {
    let tidying = state.tidying.as_ref().filter(|_| policy.retention.is_on())?;
    let runs = host.running.as_ref() == Some(&tidying.toplevel) && !host.is_torn();
    let last = state.settled.as_ref().is_some_and(|s| s.id.as_ref() == Some(&tidying.id));
    if !runs || !last || host.profile != host.running || !may_try(facts, &tidying.revision) {
        return None;
    }
    Some(match tidying.numbers {
        None => Action::ChooseGenerations(tidying.clone()),
        Some(_) => Action::RemoveGenerations(tidying.clone()),
    })
}

/// Finds out whose fault a rollback was, as long as the system that it brought back runs.
fn look_into(recheck: &Recheck, facts: &Facts, host: &HostFacts) -> Action {
    if host.running.as_ref() == Some(&recheck.old) && !host.is_torn() {
        return Action::CheckOld(recheck.clone());
    }
    Action::Record(Event::OldChecked {
        id: recheck.id.clone(),
        environment: false,
        failures: vec![],
        at: facts.now,
    })
}

/// Returns until when `target` has to wait because the host was rolled back from it for a reason that may pass; `None`:
/// it need not wait.
pub fn not_before(state: &State, target: &Target, now: u64) -> Option<u64> {
    let setback = state.setback.as_ref().filter(|s| s.target == *target)?;
    let pause = backoff::after_setback_secs(setback.cause, setback.count);
    let until = setback.at.saturating_add(pause);
    // A time further off than that is what a clock left behind that has been set back since.
    (now < until && until - now <= pause).then_some(until)
}

/// What root installed counts like a deployment of ours: whoever switches away from it means it.
fn adoption(state: &State, facts: &Facts, host: &HostFacts) -> Option<Event> {
    let main = state.main.as_ref()?;
    let running = host.running.as_ref().filter(|r| !host.is_torn() && host.profile.as_ref() == Some(*r))?;
    let known = state.is_settled(&main.revision);
    // What root named may run already; then it has run its course.
    let named = state.vouched.as_ref().is_some_and(|v| v.anchored && v.revision == main.revision);
    if (known && !named) || state.entered.is_some() || host.running_revision.as_ref() != Some(&main.revision)
    {
        return None;
    }
    let (toplevel, generation) = (running.clone(), host.generation);
    Some(Event::Adopted { toplevel, generation, at: facts.now })
}

/// Returns the next thing to find out about a branch: what root named or installed first, then the main line, then the
/// test line, as far as the remotes are `heeded` that name them.
fn look(state: &State, facts: &Facts, policy: &Policy, heeded: &dyn Fn(&str) -> bool) -> Option<Action> {
    let keys = counting(state);
    if let Some(action) = main_line::named_by_root(state, facts, policy, &keys) {
        return Some(action);
    }
    if named_by_root_is_due(state, facts) {
        return None;
    }
    main_line::by_hand(state, facts, policy, &keys)
        .or_else(|| main_line::next(state, facts, policy, &keys, heeded))
        .or_else(|| {
            let verification = test_line(state, facts, policy, keys)?;
            heeded(&verification.candidate.remote).then_some(Action::Verify(verification))
        })
}

/// Tells whether what root named comes first: it is to be fetched, or to be deployed, and nothing has failed about it yet.
fn named_by_root_is_due(state: &State, facts: &Facts) -> bool {
    let Some(vouched) = &state.vouched else { return false };
    let target = Target::config(vouched.revision.clone());
    let failed = facts.retries.contains_key(&vouched.revision)
        || state.setback.as_ref().is_some_and(|s| s.target == target)
        || state.quarantined(&target, None).is_some();
    !vouched.anchored || (!failed && !state.is_settled(&vouched.revision))
}

/// Returns the test tip to verify. The first remote that answers has the word.
fn test_line(state: &State, facts: &Facts, policy: &Policy, keys: Keys) -> Option<Verification> {
    let main = state.main.clone()?;
    let branch = policy.test_branch.as_ref()?;
    let (remote, heads) = facts.voice(&policy.remotes)?;
    let revision = heads.get(branch)?;
    let stands = state.test.as_ref().is_some_and(|t| t.tip.revision == *revision && t.main == main.revision);
    let line = Line::Test { main, previous: state.test.as_ref().map(|t| t.tip.clone()) };
    let judged_by = judged_by(policy, &keys, &line);
    let refused = |r: &Refusal| r.revision == *revision && r.branch == *branch && r.judged_by == judged_by;
    if stands || state.refused.iter().any(refused) || !may_try(facts, revision) {
        return None;
    }
    let candidate = Candidate {
        remote: remote.to_owned(),
        branch: branch.clone(),
        revision: revision.clone(),
        operation: Operation::Test,
    };
    Some(Verification { candidate, line, judged_by, keys })
}

/// Tells whether a revision may be tried now, or has to wait after a failure.
fn may_try(facts: &Facts, revision: &Oid) -> bool {
    facts.retries.get(revision).is_none_or(|r| !r.is_early(facts.now))
}

/// Whether the test line is the one to run, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TestStanding {
    /// It stands on the accepted main line, and its branch still names it.
    Wins,
    /// No remote has answered since the start, or it lacks even the main line: what runs, stays.
    Unknown,
    /// The branch is gone.
    Deleted,
    /// The main line went past it.
    Overtaken,
    /// The branch names another tip, which is not accepted.
    Moved,
    /// It was tried, and does not come back by itself.
    Over,
}

/// Judges the test line.
pub fn standing_of_test(test: &TestLine, state: &State, facts: &Facts, policy: &Policy) -> TestStanding {
    if matches!(test.progress, TestProgress::Over { .. }) {
        return TestStanding::Over;
    }
    if state.main.as_ref().is_none_or(|m| m.revision != test.main || m.revision == test.tip.revision) {
        return TestStanding::Overtaken;
    }
    let Some(branch) = &policy.test_branch else { return TestStanding::Deleted };
    let heads = facts.voice(&policy.remotes).map(|(_, heads)| heads);
    // An empty repository in the place of ours deletes nothing.
    let Some(heads) = heads.filter(|h| h.contains_key(&policy.main_branch)) else {
        return TestStanding::Unknown;
    };
    match heads.get(branch) {
        // While the first remote does not answer, another one's lack of the branch is no deletion.
        None if facts.first_word(&policy.remotes).is_some_and(|first| first.contains_key(branch)) => {
            TestStanding::Unknown
        }
        None => TestStanding::Deleted,
        Some(tip) if *tip == test.tip.revision => TestStanding::Wins,
        Some(_) => TestStanding::Moved,
    }
}

/// Returns what is to run instead of what runs, if anything.
fn desired(state: &State, facts: &Facts, host: &HostFacts, policy: &Policy) -> Option<Desired> {
    let main = state.main.as_ref()?;
    let Some(test) = &state.test else { return desired_main(main, state, host, policy) };
    // The system that runs for a test need not be this one's: a newer tip of the branch may have come to nothing.
    let entered = state.entered.is_some();
    let runs = test.progress == TestProgress::Entered;
    match standing_of_test(test, state, facts, policy) {
        // While it runs there is nothing to do; while nobody can be asked, nothing is done.
        TestStanding::Wins if runs => None,
        TestStanding::Unknown if entered => None,
        TestStanding::Wins if state.quarantined(&test.tip.target(), None).is_none() => {
            Some(Desired { tip: test.tip.clone(), operation: Operation::Test, why: Why::NewRevision })
        }
        _ if entered => end_of_test(main, state),
        _ => desired_main(main, state, host, policy),
    }
}

/// Back to the main line: to its newest revision, or to the confirmed one if that is known to be bad.
fn end_of_test(main: &Tip, state: &State) -> Option<Desired> {
    let good = |tip: &&Tip| state.quarantined(&tip.target(), None).is_none();
    let tip = std::iter::once(main).chain(state.settled.as_ref().map(|s| &s.tip)).find(good)?;
    Some(Desired { tip: tip.clone(), operation: Operation::Switch, why: Why::EndOfTest })
}

/// What runs for good and takes a reboot is booted when that is allowed.
fn boot(state: &State, host: &HostFacts, permission: Permission) -> Option<Desired> {
    let settled = state.settled.as_ref().filter(|s| host.running.as_ref() == Some(&s.toplevel))?;
    let main = state.main.as_ref().filter(|m| m.revision == settled.tip.revision)?;
    let good = state.quarantined(&main.target(), Some(&settled.toplevel)).is_none();
    let desired = Desired { tip: main.clone(), operation: Operation::Switch, why: Why::Reboot };
    (good && state.entered.is_none() && reboot::is_due(host, permission)).then_some(desired)
}

fn desired_main(main: &Tip, state: &State, host: &HostFacts, policy: &Policy) -> Option<Desired> {
    if state.quarantined(&main.target(), None).is_some() {
        return None;
    }
    let want = |why| Some(Desired { tip: main.clone(), operation: Operation::Switch, why });
    match &state.settled {
        Some(s) if s.tip.revision == main.revision && host.running.as_ref() == Some(&s.toplevel) => None,
        Some(s) if s.tip.revision == main.revision => {
            if state.vouched.as_ref().is_some_and(|v| v.anchored && v.revision == main.revision) {
                want(Why::NewRevision)
            } else if policy.enforce_drift {
                want(Why::Drift)
            } else {
                None
            }
        }
        _ => want(Why::NewRevision),
    }
}
