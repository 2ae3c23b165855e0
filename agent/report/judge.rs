//! From a snapshot to a [`Status`]: one pure function and its parts. Nothing here asks the host or the clock.

use super::bad::{advice, bad_of_entry, set_aside};
use super::pace::pace;
use super::status::{
    Act, AlarmStatus, Bad, BadKind, Commit, DeploymentStatus, Headline, Owed, Pending, RemoteStatus,
    RetryStatus, StageWord, StandingWord, Status, System, TestProgressWord, TestStatus, TroubleStatus,
    TrustStatus,
};
use super::{Agent, Counters, Doing, Entry, Fate, SCHEMA, Snapshot, health, hint, reboot};
use crate::config::Settings;
use crate::model::{
    AdoptedTrust, Deployment, HostFacts, Oid, Operation, Setback, Stage, Step, StorePath, Suspension,
    TestLine, TestProgress, Tip,
};
use crate::plan::{self, Standing, TestStanding, Trouble};

impl Status {
    /// Says how things are. [`Status::agent`] is left empty for the writer to fill in.
    pub fn from_snapshot(snapshot: &Snapshot, settings: &Settings) -> Status {
        let host = snapshot.facts.host.as_ref();
        let describe = |path: Option<&StorePath>| path.map(|p| system(snapshot, p));
        let mut status = Status {
            schema: SCHEMA,
            host: settings.hostname.clone(),
            state: Headline::Starting,
            agent: Agent::default(),
            running: describe(host.and_then(|h| h.running.as_ref())),
            boot: describe(host.and_then(|h| h.boot_default.as_ref())),
            booted: describe(host.and_then(|h| h.booted.as_ref())),
            drift: has_drifted(snapshot),
            remotes: remotes(snapshot, settings),
            hints: hint::of(snapshot, settings),
            stale_after_secs: settings.trust.stale_after.0.as_secs(),
            doing: snapshot.doing.as_ref().and_then(act),
            deployment: snapshot.state.deployment.as_ref().map(|d| deployment(snapshot, settings, d)),
            health: health::of(snapshot),
            accepted: snapshot.state.main.as_ref().map(commit),
            pending: pending(snapshot, settings),
            test: snapshot.state.test.as_ref().map(|t| test(snapshot, settings, t)),
            problem: None,
            set_aside: set_aside(snapshot),
            retries: vec![],
            suspension: suspension(snapshot),
            trouble: snapshot.trouble.as_ref().map(|t| t.text.clone()),
            trouble_code: snapshot.trouble.as_ref().map(|t| t.code.to_owned()),
            trouble_advice: snapshot.trouble.as_ref().map(|t| t.advice.clone()),
            reboot_pending: reboot::of(snapshot, settings),
            alarms: alarms(snapshot, settings),
            trust: trust(snapshot, settings),
            counters: Counters::default(),
        };
        status.retries = retries(snapshot, &status);
        status.problem = problem(snapshot, settings, &status);
        status.state = headline(snapshot, &status);
        status
    }
}

/// The one word. What an admin must know first comes first.
fn headline(snapshot: &Snapshot, status: &Status) -> Headline {
    if status.trouble.is_some() {
        return Headline::Held;
    }
    if let Some(d) = &status.deployment {
        let stuck = status.doing.is_none() && status.retry(&d.commit.revision).is_some();
        return if stuck { Headline::Retrying } else { stage_headline(d.stage, status.doing.as_ref()) };
    }
    if let Some(bad) = status.problem.as_ref().filter(|b| b.kind == BadKind::RollbackFailed) {
        return bad_headline(bad.kind);
    }
    if status.suspension.is_some() {
        return Headline::Suspended;
    }
    match status.doing.as_ref().map(|d| d.action.as_str()) {
        Some("verify") => return Headline::Verifying,
        Some("build") => return Headline::Building,
        _ => {}
    }
    if let Some(bad) = &status.problem {
        return bad_headline(bad.kind);
    }
    quiet_headline(snapshot, status)
}

/// The word while nothing is under way and nothing is known to be bad.
fn quiet_headline(snapshot: &Snapshot, status: &Status) -> Headline {
    let running = snapshot.facts.host.as_ref().and_then(|h| h.running.as_ref());
    let testing = entered(snapshot).is_some_and(|path| Some(path) == running);
    let answered = status.remotes.iter().any(|r| r.checked_at.is_some());
    if !status.remotes.is_empty() && status.remotes.iter().all(|r| r.trouble.is_some()) {
        Headline::Unreachable
    } else if !status.retries.is_empty() {
        Headline::Retrying
    } else if status.drift {
        Headline::Drift
    } else if running.is_none() || !answered {
        Headline::Starting
    } else if status.reboot_pending.as_ref().is_some_and(|r| r.blocked) {
        Headline::RebootPending
    } else if !status.pending.is_empty() || status.accepted.is_none() {
        Headline::Waiting
    } else if testing {
        Headline::Testing
    } else {
        Headline::InSync
    }
}

fn stage_headline(stage: StageWord, doing: Option<&Act>) -> Headline {
    match stage {
        StageWord::Built | StageWord::Prepared => Headline::Preparing,
        StageWord::Armed => Headline::Switching,
        StageWord::Rebooting => Headline::Rebooting,
        StageWord::Activated | StageWord::Soaking | StageWord::BootTrial => {
            match doing.map(|d| d.action.as_str()) {
                Some("roll-back") => Headline::RollingBack,
                _ => Headline::CheckingHealth,
            }
        }
        StageWord::AwaitingConfirmation => Headline::AwaitingConfirmation,
        StageWord::Confirming => Headline::Confirming,
        StageWord::RollingBack => Headline::RollingBack,
    }
}

fn bad_headline(kind: BadKind) -> Headline {
    match kind {
        BadKind::Refused => Headline::Refused,
        BadKind::BuildFailed => Headline::BuildFailed,
        BadKind::RolledBack => Headline::RolledBack,
        BadKind::RollbackFailed => Headline::RollbackFailed,
        BadKind::CalledOff => Headline::CalledOff,
    }
}

/// What the headline complains about: a failed rollback until something else ended, else the newest tip that is bad.
fn problem(snapshot: &Snapshot, settings: &Settings, status: &Status) -> Option<Bad> {
    let last = snapshot.state.history.back().map(Entry::of);
    if let Some(last) = last.filter(|e| e.outcome == Fate::RollbackFailed) {
        let known = status.bad(&last.revision).filter(|b| b.kind == BadKind::RollbackFailed);
        let bad = known.cloned().unwrap_or_else(|| bad_of_entry(&last));
        return Some(if came_back(snapshot) { rolled_back_after_all(bad) } else { bad });
    }
    let since = status.test.as_ref().and_then(|t| t.since).unwrap_or(0);
    let heads = settings.branches().into_iter().filter_map(|(branch, _)| {
        let bad = status.bad(&head(snapshot, settings, &branch)?)?;
        // A test branch that main has overtaken is no fault; its own line tells.
        let overtaken = matches!(bad.code.as_str(), "not-on-main" | "test-rollback");
        (bad.branch == branch && bad.at >= since && !overtaken).then(|| bad.clone())
    });
    heads.max_by_key(|b| b.at)
}

/// Tells whether the host runs what was confirmed last, whole: somebody else mended a failed rollback.
fn came_back(snapshot: &Snapshot) -> bool {
    let Some(host) = &snapshot.facts.host else { return false };
    let permanent = host.running.is_some() && host.running == host.profile && !host.is_torn();
    permanent && !has_drifted(snapshot)
}

fn rolled_back_after_all(bad: Bad) -> Bad {
    let kind = BadKind::RolledBack;
    Bad { kind, advice: advice(kind, &bad.revision), ..bad }
}

/// The suspension, while it is in force.
fn suspension(snapshot: &Snapshot) -> Option<Suspension> {
    let in_force = plan::suspended(&snapshot.state, snapshot.facts.now);
    snapshot.state.suspension.clone().filter(|_| in_force)
}

/// Describes a system by what is remembered of it.
fn system(snapshot: &Snapshot, path: &StorePath) -> System {
    let state = &snapshot.state;
    let host = snapshot.facts.host.as_ref();
    let of_tip = |tip: &Tip, generation, since| System {
        toplevel: path.clone(),
        generation,
        revision: Some(tip.revision.clone()),
        subject: Some(tip.subject.clone()),
        signer: tip.signer.clone(),
        committed_at: tip.committed_at(),
        since,
    };
    let on_trial = state.deployment.as_ref().filter(|d| d.toplevel == *path);
    let mut found = if let Some((tip, at)) = entered_line(snapshot, path) {
        of_tip(tip, None, Some(at))
    } else if let Some(s) = state.settled.as_ref().filter(|s| s.toplevel == *path) {
        of_tip(&s.tip, s.generation, s.id.as_ref().map(|_| s.at))
    } else if let Some(d) = on_trial {
        of_tip(&d.desired.tip, None, probation_since(snapshot))
    } else {
        remembered(snapshot, path)
    };
    if let Some(h) = host.filter(|h| h.profile.as_ref() == Some(path)) {
        found.generation = h.generation;
    }
    found
}

/// Describes a system by the history, else by its own word.
fn remembered(snapshot: &Snapshot, path: &StorePath) -> System {
    let entry = snapshot.state.history.iter().rev().find(|e| e.toplevel.as_ref() == Some(path));
    if let Some(entry) = entry {
        let e = Entry::of(entry);
        return System {
            toplevel: path.clone(),
            generation: e.generation,
            revision: Some(e.revision),
            subject: Some(e.subject),
            signer: e.signer,
            committed_at: known_tip(snapshot, &entry.revision).and_then(Tip::committed_at),
            since: Some(e.at),
        };
    }
    let says = |h: &HostFacts| h.running_revision.clone().filter(|_| h.running.as_ref() == Some(path));
    let revision = snapshot.facts.host.as_ref().and_then(says);
    let tip = snapshot.state.main.as_ref().filter(|t| Some(&t.revision) == revision.as_ref());
    System {
        toplevel: path.clone(),
        generation: None,
        subject: tip.map(|t| t.subject.clone()).filter(|s| !s.is_empty()),
        signer: tip.and_then(|t| t.signer.clone()),
        committed_at: tip.and_then(Tip::committed_at),
        revision,
        since: None,
    }
}

/// Returns what is remembered of a commit itself.
fn known_tip<'a>(snapshot: &'a Snapshot, revision: &Oid) -> Option<&'a Tip> {
    let state = &snapshot.state;
    let settled = state.settled.as_ref().map(|s| &s.tip);
    let test = state.test.as_ref().map(|t| &t.tip);
    state.main.iter().chain(settled).chain(test).find(|t| t.revision == *revision)
}

fn probation_since(snapshot: &Snapshot) -> Option<u64> {
    snapshot.doing.as_ref().filter(|d| d.action == "check-health").map(|d| d.since)
}

fn entered_line<'a>(snapshot: &'a Snapshot, path: &StorePath) -> Option<(&'a Tip, u64)> {
    snapshot.state.entered.as_ref().filter(|e| e.toplevel == *path).map(|e| (&e.tip, e.at))
}

fn entered(snapshot: &Snapshot) -> Option<&StorePath> {
    snapshot.state.entered.as_ref().map(|e| &e.toplevel)
}

/// Tells whether the host runs something that is neither permanent nor entered for a test. An agent that never saw the
/// accepted revision installed can't know.
fn has_drifted(snapshot: &Snapshot) -> bool {
    let running = snapshot.facts.host.as_ref().and_then(|h| h.running.as_ref());
    let (Some(running), Some(settled)) = (running, &snapshot.state.settled) else { return false };
    let ours = *running == settled.toplevel || entered(snapshot) == Some(running) || is_installed(snapshot);
    !ours && snapshot.state.deployment.is_none()
}

/// Tells whether the accepted revision runs for good, whoever installed it.
fn is_installed(snapshot: &Snapshot) -> bool {
    let (Some(host), Some(main)) = (&snapshot.facts.host, &snapshot.state.main) else { return false };
    host.running.is_some()
        && host.running == host.profile
        && host.running_revision.as_ref() == Some(&main.revision)
}

fn standing(standing: Standing) -> StandingWord {
    match standing {
        Standing::Current => StandingWord::Current,
        Standing::Behind => StandingWord::Behind,
        Standing::Diverged => StandingWord::Diverged,
        Standing::Refused => StandingWord::Refused,
        Standing::Unknown => StandingWord::Unknown,
    }
}

fn alarms(snapshot: &Snapshot, settings: &Settings) -> Vec<AlarmStatus> {
    let alarms = plan::alarms(&snapshot.state, &snapshot.facts, &super::policy(settings));
    alarms.into_iter().map(|a| AlarmStatus { code: a.code.as_str().to_owned(), text: a.text }).collect()
}

fn trust(snapshot: &Snapshot, settings: &Settings) -> TrustStatus {
    let state = &snapshot.state;
    let listed = |t: &AdoptedTrust| match t.settings.section()["signers"].as_object() {
        Some(signers) => signers.keys().cloned().collect(),
        None => vec![],
    };
    let own = || settings.trust.signers.keys().cloned().collect();
    let running = snapshot.facts.trust.as_ref();
    TrustStatus {
        revision: state.trust.as_ref().and_then(|t| t.revision.clone()),
        differs: state.trust.as_ref().is_some_and(|t| running.is_some_and(|r| *r != t.settings)),
        signers: state.trust.as_ref().map_or_else(own, listed),
        revoked: state.revoked.len().max(settings.trust.revoked_keys.len()),
        vouched: state.vouched.as_ref().map(|v| v.revision.clone()),
    }
}

fn remotes(snapshot: &Snapshot, settings: &Settings) -> Vec<RemoteStatus> {
    let policy = super::policy(settings);
    let trouble = |t: &Trouble| TroubleStatus {
        class: t.class.clone(),
        text: t.text.clone(),
        tries: t.tries,
        since: t.since,
        at: t.at,
    };
    let remote = |r: &crate::config::Remote| {
        let facts = snapshot.facts.remotes.get(&r.name);
        let pace = pace(r, snapshot, settings);
        RemoteStatus {
            name: r.name.clone(),
            url: without_userinfo(&r.url),
            heads: facts.and_then(|f| f.heads.clone()).unwrap_or_default(),
            checked_at: facts.and_then(|f| f.answered_at),
            interval: pace.interval,
            calendar: r.interval.calendar().map(ToString::to_string),
            next_poll_at: pace.next_poll_at,
            trouble: facts.and_then(|f| f.trouble.as_ref()).map(trouble),
            standing: standing(plan::standing_of_remote(&r.name, &snapshot.state, &snapshot.facts, &policy)),
            stale: plan::is_stale(&r.name, &snapshot.facts, &policy),
            old_protocol: facts.and_then(|f| f.old),
        }
    };
    settings.remotes.iter().map(remote).collect()
}

/// Drops `user:password@`. The configuration refuses such an address; this is the second lock on that door.
fn without_userinfo(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

fn act(doing: &Doing) -> Option<Act> {
    let shown = !matches!(doing.action, "observe" | "wait" | "record");
    shown.then(|| Act {
        action: doing.action.to_owned(),
        revision: doing.revision.clone(),
        since: doing.since,
    })
}

fn commit(tip: &Tip) -> Commit {
    Commit {
        revision: tip.revision.clone(),
        subject: tip.subject.clone(),
        signer: tip.signer.clone(),
        branch: tip.branch.clone(),
        at: tip.accepted_at,
    }
}

fn deployment(snapshot: &Snapshot, settings: &Settings, d: &Deployment) -> DeploymentStatus {
    let mut status = DeploymentStatus {
        id: d.id.clone(),
        commit: commit(&d.desired.tip),
        operation: d.desired.operation,
        why: d.desired.why,
        toplevel: d.toplevel.clone(),
        built_at: d.at,
        stage: StageWord::Built,
        old: None,
        deadline: None,
        checks: settings.health.checks.keys().cloned().collect(),
        soak_secs: settings.activation.soak.0.as_secs(),
        red_before: vec![],
        failures: vec![],
        answer_until: None,
        answer: snapshot.state.answer.clone(),
    };
    let Stage::Probation { trial, step } = &d.stage else { return status };
    status.old = Some(system(snapshot, &trial.old));
    status.deadline = deadline(snapshot, trial.deadline_boottime_ms);
    status.red_before = trial.red_before.clone();
    status.stage = match step {
        Step::Prepared => StageWord::Prepared,
        Step::Armed => StageWord::Armed,
        Step::Activated { .. } => StageWord::Activated,
        Step::Staged { .. } => StageWord::Rebooting,
        Step::BootTrial => StageWord::BootTrial,
        Step::Soaking => StageWord::Soaking,
        Step::Confirming => StageWord::Confirming,
        Step::Proven { until_boottime_ms } => {
            status.answer_until = deadline(snapshot, *until_boottime_ms);
            StageWord::AwaitingConfirmation
        }
        Step::RollingBack { reason, failures, .. } => {
            status.failures = std::iter::once(reason).chain(failures).cloned().collect();
            StageWord::RollingBack
        }
    };
    status
}

/// Converts a deadline since boot to wall-clock seconds, by the last look at both clocks.
fn deadline(snapshot: &Snapshot, boottime_ms: u64) -> Option<u64> {
    let host = snapshot.facts.host.as_ref()?;
    let shift = (i128::from(boottime_ms) - i128::from(host.boottime_ms)) / 1000;
    u64::try_from(i128::from(snapshot.facts.now) + shift).ok()
}

fn test(snapshot: &Snapshot, settings: &Settings, line: &TestLine) -> TestStatus {
    let (progress, since, why) = match &line.progress {
        TestProgress::Accepted => (TestProgressWord::Accepted, None, None),
        TestProgress::Entered => {
            let since = snapshot.state.entered.as_ref().map(|e| e.at);
            (TestProgressWord::Entered, since, None)
        }
        TestProgress::Over { why } => (TestProgressWord::Over, None, Some(why.clone())),
    };
    let on_remote = head(snapshot, settings, &line.tip.branch).as_ref() == Some(&line.tip.revision);
    TestStatus { commit: commit(&line.tip), progress, since, why, on_remote }
}

fn head(snapshot: &Snapshot, settings: &Settings, branch: &str) -> Option<Oid> {
    plan::head(&snapshot.state, &snapshot.facts, &super::policy(settings), branch).cloned()
}

/// What the remotes name and nobody has dealt with: not accepted, not refused; or accepted, and neither running nor bad.
fn pending(snapshot: &Snapshot, settings: &Settings) -> Vec<Pending> {
    let mut pending = Vec::new();
    for (branch, operation) in settings.branches() {
        let tip = head(snapshot, settings, &branch);
        let owed = match operation {
            Operation::Switch => root_owed(snapshot).or_else(|| main_owed(snapshot, tip.as_ref())),
            Operation::Test => test_owed(snapshot, settings, tip.as_ref()),
        };
        if let Some((revision, subject, owed)) = owed {
            pending.push(Pending { branch, revision, subject, owed });
        }
    }
    pending
}

type Debt = (Oid, Option<String>, Owed);

/// What root named and is still to be fetched.
fn root_owed(snapshot: &Snapshot) -> Option<Debt> {
    let vouched = snapshot.state.vouched.as_ref().filter(|v| !v.anchored)?;
    Some((vouched.revision.clone(), None, Owed::Verify))
}

fn main_owed(snapshot: &Snapshot, head: Option<&Oid>) -> Option<Debt> {
    let state = &snapshot.state;
    let accepted = state.main.as_ref();
    let is_bad = |oid: &Oid| {
        state.refused.iter().any(|r| r.revision == *oid)
            || state.quarantine.iter().any(|q| q.target.revision() == Some(oid))
    };
    if let Some(head) = head.filter(|h| accepted.is_none_or(|t| t.revision != **h) && !is_bad(h)) {
        return Some((head.clone(), None, Owed::Verify));
    }
    let tip = accepted?;
    let settled = state.is_settled(&tip.revision);
    let under_way = state.deployment.as_ref().is_some_and(|d| d.desired.tip.revision == tip.revision);
    let awaited = state.awaiting.as_ref().is_some_and(|a| a.target == tip.target());
    let tested = entered(snapshot).is_some() && state.test.as_ref().is_some_and(|t| t.main == tip.revision);
    if settled || is_installed(snapshot) || under_way || tested || awaited || is_bad(&tip.revision) {
        return None;
    }
    Some((tip.revision.clone(), Some(tip.subject.clone()), Owed::Deploy))
}

fn test_owed(snapshot: &Snapshot, settings: &Settings, head: Option<&Oid>) -> Option<Debt> {
    let state = &snapshot.state;
    let main = state.main.as_ref()?;
    let Some(head) = head else {
        let policy = super::policy(settings);
        let ended = state.test.as_ref().is_some_and(|test| {
            let standing = plan::standing_of_test(test, state, &snapshot.facts, &policy);
            !matches!(standing, TestStanding::Unknown | TestStanding::Wins)
        });
        return ended.then(|| way_back(snapshot)).flatten();
    };
    let stands = |t: &&TestLine| t.tip.revision == *head && t.main == main.revision;
    let Some(line) = state.test.as_ref().filter(stands) else {
        let refused = state.refused.iter().any(|r| r.revision == *head);
        return if refused { way_back(snapshot) } else { Some((head.clone(), None, Owed::Verify)) };
    };
    let bad = state.quarantine.iter().any(|q| q.target.revision() == Some(head));
    let under_way = state.deployment.as_ref().is_some_and(|d| d.desired.tip.revision == *head);
    match line.progress {
        TestProgress::Accepted if !bad && !under_way => {
            Some((head.clone(), Some(line.tip.subject.clone()), Owed::Deploy))
        }
        // An earlier tip of the branch may still run.
        TestProgress::Over { .. } if !under_way => way_back(snapshot),
        TestProgress::Accepted | TestProgress::Entered | TestProgress::Over { .. } => None,
    }
}

/// A test that runs without standing for it has to end.
fn way_back(snapshot: &Snapshot) -> Option<Debt> {
    entered(snapshot)?;
    let state = &snapshot.state;
    let good = |t: &&Tip| state.quarantined(&t.target(), None).is_none();
    let tip = state.main.as_ref().filter(good).or(state.settled.as_ref().map(|s| &s.tip))?;
    Some((tip.revision.clone(), Some(tip.subject.clone()), Owed::Return))
}

/// What is tried again, as far as anybody still wants it: a failure is of no interest once its branch has moved on.
fn retries(snapshot: &Snapshot, status: &Status) -> Vec<RetryStatus> {
    let accepted = status.accepted.as_ref().filter(|_| status.drift).map(|c| &c.revision);
    let under_way = status.deployment.as_ref().map(|d| &d.commit.revision);
    let wanted =
        |r: &Oid| status.pending.iter().any(|p| p.revision == *r) || [accepted, under_way].contains(&Some(r));
    let retries =
        snapshot.facts.retries.iter().filter(|(revision, _)| wanted(revision)).map(|(revision, retry)| {
            RetryStatus {
                revision: revision.clone(),
                code: retry.failure.code.clone(),
                text: retry.failure.text.clone(),
                tries: retry.tries,
                not_before: retry.not_before,
            }
        });
    let setback = snapshot.state.setback.iter().filter_map(|s| setback(snapshot, s));
    // While it is tried again, what became of it the last time is history.
    let waiting = |r: &Oid| wanted(r) && under_way != Some(r);
    setback.filter(|s| waiting(&s.revision)).chain(retries).collect()
}

/// A rollback that was not the target's fault.
fn setback(snapshot: &Snapshot, setback: &Setback) -> Option<RetryStatus> {
    let Setback { target, count, text, at, cause } = setback;
    Some(RetryStatus {
        revision: target.revision()?.clone(),
        code: cause.as_str().to_owned(),
        text: format!("it was rolled back: {text}"),
        tries: *count,
        not_before: plan::not_before(&snapshot.state, target, snapshot.facts.now).unwrap_or(*at),
    })
}
