//! What is counted between two starts of the agent, and since when the host has lagged: what metrics are made of besides
//! the state itself. It lies in `status.json` under `counters`, and goes there with what else changed: counting alone never
//! has a file written that a poll would not have had written anyway.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::{Entry, Fate, Snapshot, Status};
use crate::model::{Action, Ended, Happened, Oid, Sighting};

/// The upper bounds of the buckets that durations are counted in, in milliseconds; above the last there is one more.
pub const BUCKETS_MS: [u64; 10] =
    [100, 500, 1_000, 5_000, 15_000, 60_000, 300_000, 900_000, 1_800_000, 3_600_000];
/// What a poll that was answered is counted as; others are counted by the class of their failure.
pub const ANSWERED: &str = "success";

/// The steps whose durations are counted.
pub const PHASES: [&str; 8] =
    ["verify", "eval", "build", "prepare", "switch", "health", "confirm", "roll-back"];

/// What was counted since the agent started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counters {
    /// Polls, by remote and result: `success`, or the class of the failure.
    pub fetches: BTreeMap<String, BTreeMap<String, u64>>,
    /// Tips that were refused, by code.
    pub refusals: BTreeMap<String, u64>,
    /// Deployments that ended, by what was to be done and how they ended.
    pub deployments: BTreeMap<String, BTreeMap<String, u64>>,
    /// Actions that failed in a way that may pass.
    pub transient_failures: u64,
    /// How long the steps of [`PHASES`] took.
    pub phases: BTreeMap<String, Durations>,
    /// Since when the host has not run what its branches name, unix seconds; `null`: it does.
    pub behind_since: Option<u64>,
    /// The deployment that ended last, also before the start.
    pub last_deployment: Option<LastDeployment>,
}

/// How long something took, each time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Durations {
    /// How often it took as long as each of [`BUCKETS_MS`] says and longer than the one before; then: longer than the last.
    pub buckets: Vec<u64>,
    /// All of it together, in milliseconds.
    pub sum_ms: u64,
}

/// The end of a deployment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastDeployment {
    /// How it ended.
    pub result: Fate,
    /// When, unix seconds.
    pub at: u64,
}

/// Counts. Whoever does something and whoever publishes share one.
#[derive(Debug, Clone, Default)]
pub struct Tally(Rc<RefCell<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    counters: Counters,
    /// The newest end that was counted, once there was a first look at the history.
    counted: Option<Option<(u64, Oid)>>,
}

impl Tally {
    /// Returns a tally that goes on from the time that an earlier agent wrote down, if it did: a restart ends no lag.
    pub fn after(earlier: Option<&Status>) -> Tally {
        let tally = Tally::default();
        tally.0.borrow_mut().counters.behind_since = earlier.and_then(|s| s.counters.behind_since);
        tally
    }

    /// Counts what a remote had to say.
    pub fn saw(&self, sighting: &Sighting) {
        let (remote, result) = match sighting {
            Sighting::Heads { remote, .. } => (remote, ANSWERED),
            Sighting::Unreachable { remote, class, .. } => (remote, class.as_str()),
            Sighting::Host { .. }
            | Sighting::Blind { .. }
            | Sighting::Related { .. }
            | Sighting::Failed { .. }
            | Sighting::Checked { .. }
            | Sighting::Hint { .. }
            | Sighting::Woke => return,
        };
        let counters = &mut self.0.borrow_mut().counters;
        count(count_in(&mut counters.fetches, remote), result);
    }

    /// Counts an action that was brought to its end, and how long it took.
    pub fn performed(&self, phase: Option<&str>, took_ms: u64, happened: &Happened) {
        if let Some(phase) = phase {
            self.took(phase, took_ms);
        }
        if matches!(happened, Happened::Saw(Sighting::Failed { .. })) {
            self.0.borrow_mut().counters.transient_failures += 1;
        }
    }

    /// Counts how long one of [`PHASES`] took.
    pub fn took(&self, phase: &str, took_ms: u64) {
        count_in(&mut self.0.borrow_mut().counters.phases, phase).add(took_ms);
    }

    /// Takes note of what has become durable since the last time, and returns everything that was counted.
    pub(super) fn read(&self, snapshot: &Snapshot, status: &Status) -> Counters {
        let kept = &mut *self.0.borrow_mut();
        kept.follow(snapshot);
        let counters = &mut kept.counters;
        // Before any remote has answered, nobody knows that the lag of before the start is over.
        let heard = status.remotes.iter().any(|r| r.checked_at.is_some());
        if lags(status) {
            counters.behind_since.get_or_insert_with(|| lag_began(snapshot, status));
        } else if heard {
            counters.behind_since = None;
        }
        counters.clone()
    }
}

impl Kept {
    /// Counts the ends that are new in the history; those of before the start are not.
    fn follow(&mut self, snapshot: &Snapshot) {
        let history = &snapshot.state.history;
        let key = |e: &Ended| (e.at, e.revision.clone());
        if let Some(counted) = &self.counted {
            let is_new = |e: &&Ended| counted.as_ref().is_none_or(|c| key(e) != *c && e.at >= c.0);
            history.iter().rev().take_while(is_new).for_each(|e| self.counters.ended(&Entry::of(e)));
        }
        self.counted = Some(history.back().map(key));
        let deployment = history.iter().map(Entry::of).rfind(|e| e.outcome != Fate::Refused);
        self.counters.last_deployment = deployment.map(|e| LastDeployment { result: e.outcome, at: e.at });
    }
}

impl Counters {
    /// Tells whether there is nothing to be said.
    pub(super) fn are_empty(&self) -> bool {
        *self == Counters::default()
    }

    fn ended(&mut self, entry: &Entry) {
        if entry.outcome == Fate::Refused {
            count(&mut self.refusals, entry.code.as_deref().unwrap_or("unknown"));
        } else {
            count(count_in(&mut self.deployments, &entry.operation.to_string()), entry.outcome.word());
        }
    }
}

impl Durations {
    fn add(&mut self, took_ms: u64) {
        self.buckets.resize(BUCKETS_MS.len() + 1, 0);
        let at = BUCKETS_MS.iter().position(|bound| took_ms <= *bound).unwrap_or(BUCKETS_MS.len());
        self.buckets[at] += 1;
        self.sum_ms += took_ms;
    }
}

/// Returns which of [`PHASES`] an action is. What is fetched is verified as it comes, so verifying includes that; an
/// evaluation and a build are one action, which counts each by itself.
pub fn phase(action: &Action) -> Option<&'static str> {
    match action {
        Action::Verify(_) => Some("verify"),
        Action::Prepare(_) => Some("prepare"),
        Action::Switch(_) => Some("switch"),
        Action::CheckHealth(_) => Some("health"),
        Action::Confirm(_) => Some("confirm"),
        Action::RollBack(_) => Some("roll-back"),
        Action::Build(..)
        | Action::Observe(_)
        | Action::Wait { .. }
        | Action::Relate { .. }
        | Action::Arm(_)
        | Action::Stage(_)
        | Action::Reboot(_)
        | Action::EnterTrial(_)
        | Action::Shorten(_)
        | Action::AwaitAnswer(_)
        | Action::CheckOld(_)
        | Action::ChooseGenerations(_)
        | Action::RemoveGenerations(_)
        | Action::Decide(..)
        | Action::Abandon(..)
        | Action::AwaitReboot(..)
        | Action::Record(_) => None,
    }
}

/// Tells whether a branch names something that the host does not run for good, whatever the reason.
fn lags(status: &Status) -> bool {
    let blocked = status.reboot_pending.as_ref().is_some_and(|r| r.blocked);
    !status.pending.is_empty() || status.problem.is_some() || status.deployment.is_some() || blocked
}

/// Says since when the host lags, where nobody took it down: since what is known to have gone wrong, else since now.
fn lag_began(snapshot: &Snapshot, status: &Status) -> u64 {
    let problem = status.problem.as_ref().map(|p| p.at);
    let under_way = status.deployment.as_ref().map(|d| d.commit.at);
    let now = snapshot.facts.now;
    [problem, under_way].into_iter().flatten().min().unwrap_or(now).min(now)
}

fn count(counts: &mut BTreeMap<String, u64>, what: &str) {
    *count_in(counts, what) += 1;
}

fn count_in<'a, T: Default>(counts: &'a mut BTreeMap<String, T>, what: &str) -> &'a mut T {
    counts.entry(what.to_owned()).or_default()
}
