//! What is known of the world at one moment: the host's own word, the remotes' last answers, and what failed lately.
//! All of it is found out again after a restart.

use std::collections::BTreeMap;

use crate::model::{
    CheckFacts, Class, Command, Deployment, DeploymentId, Event, Failure, GuardFacts, HintWord, HostFacts,
    Kin, Oid, OldProtocol, RETENTION, Sighting, TrustSettings, Why,
};

use super::SUSPENDED;

/// How many tips can be waiting for another try at once.
const RETRIES_MAX: usize = 64;
/// How many commits' standing to the accepted tip is kept.
const KIN_MAX: usize = 64;

/// What is known of the world. [`Facts::see`] folds each sighting in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The wall clock at the last look, unix seconds.
    pub now: u64,
    /// What the host said; `None` before the first look.
    pub host: Option<HostFacts>,
    /// Why the host could not be looked at, the last time; the facts of it are then out of date.
    pub blind: Option<String>,
    /// What the guard of the deployment on probation said.
    pub guard: GuardFacts,
    /// The revision that root pinned for the first contact.
    pub introduction: Option<Oid>,
    /// The trust settings in the running system.
    pub trust: Option<TrustSettings>,
    /// How commits stand to another one, the second; found out with [`crate::model::Action::Relate`].
    pub kin: BTreeMap<Oid, (Oid, Kin)>,
    /// How often, by remote, what it named came to nothing since a tip of the main line was accepted.
    pub failures: BTreeMap<String, u32>,
    /// The remotes by name.
    pub remotes: BTreeMap<String, RemoteFacts>,
    /// The sources of hints by name.
    pub hints: BTreeMap<String, HintFacts>,
    /// What failed in a way that may pass.
    pub retries: BTreeMap<Oid, Retry>,
    /// How the health checks of the newest deployment fared, or fare.
    pub checks: Option<(DeploymentId, Vec<CheckFacts>)>,
}

/// What is known of one remote.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RemoteFacts {
    /// Branch to tip at its last answer; `None`: it has not answered since the start.
    pub heads: Option<BTreeMap<String, Oid>>,
    /// What that answer cost if the server speaks an old version of Git's protocol.
    pub old: Option<OldProtocol>,
    /// When it last answered.
    pub answered_at: Option<u64>,
    /// Why it does not answer now.
    pub trouble: Option<Trouble>,
}

/// What is known of one source of hints.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HintFacts {
    /// How it fares.
    pub word: HintWord,
    /// Since when it is connected, or is not.
    pub since: u64,
    /// When a hint of it led to a poll, the last time.
    pub heard_at: Option<u64>,
}

impl HintFacts {
    /// Returns what is known once `word` was said.
    fn after(before: Option<&HintFacts>, word: HintWord, at: u64) -> HintFacts {
        let same = before.filter(|b| b.word.connected == word.connected);
        let counted = before.map_or(0, |b| b.word.counts.accepted);
        // A gateway that was restarted counts from the beginning.
        let heard = word.counts.accepted != counted && word.counts.accepted > 0;
        let heard_at = if heard { Some(at) } else { before.and_then(|b| b.heard_at) };
        HintFacts { since: same.map_or(at, |b| b.since), word, heard_at }
    }
}

/// Why a remote does not answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Trouble {
    /// Stable word for the kind of failure.
    pub class: String,
    /// What it said.
    pub text: String,
    /// Failures in a row.
    pub tries: u32,
    /// Since when.
    pub since: u64,
    /// When it failed last.
    pub at: u64,
}

/// A failure that is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// What failed.
    pub failure: Failure,
    /// Failures in a row.
    pub tries: u32,
    /// Not before this second.
    pub not_before: u64,
}

/// No failure is waited for longer than this many seconds.
const PAUSE_MAX: u64 = 3600;

/// Returns how many seconds to wait after the `tries`-th failure in a row: 2, 4, 8 … up to an hour.
///
/// No jitter: each host builds for itself, and nobody else waits for it.
fn retry_pause_secs(tries: u32) -> u64 {
    2u64.checked_pow(tries).unwrap_or(PAUSE_MAX).min(PAUSE_MAX)
}

impl Retry {
    /// Tells whether it is too early for another try. A time further off than any pause is what a clock left behind
    /// that has been set back since.
    pub fn is_early(&self, now: u64) -> bool {
        now < self.not_before && self.not_before - now <= PAUSE_MAX
    }
}

impl Facts {
    /// Folds one sighting in.
    pub fn see(&mut self, sighting: Sighting) {
        match sighting {
            Sighting::Host { now, host, guard, introduction, trust } => {
                self.now = now;
                self.host = Some(*host);
                self.blind = None;
                self.guard = guard;
                self.introduction = introduction;
                self.trust = trust;
            }
            Sighting::Blind { now, text } => {
                self.now = now;
                self.blind = Some(text);
            }
            Sighting::Heads { remote, heads, old, at } => {
                let facts = RemoteFacts { heads: Some(heads), old, answered_at: Some(at), trouble: None };
                self.remotes.insert(remote, facts);
            }
            Sighting::Unreachable { remote, class, text, at } => {
                let facts = self.remotes.entry(remote).or_default();
                let before = facts.trouble.take();
                let tries = before.as_ref().map_or(0, |t| t.tries).saturating_add(1);
                let since = before.map_or(at, |t| t.since);
                facts.trouble = Some(Trouble { class, text, tries, since, at });
            }
            Sighting::Hint { name, word, at } => {
                let facts = HintFacts::after(self.hints.get(&name), word, at);
                self.hints.insert(name, facts);
            }
            Sighting::Related { revision, to, kin } => {
                if self.kin.len() >= KIN_MAX {
                    self.kin.clear();
                }
                if kin == Kin::Older {
                    self.blame_all(&revision);
                }
                self.kin.insert(revision, (to, kin));
            }
            Sighting::Failed { revision, remote, failure, at } => {
                if let Some(remote) = remote {
                    self.blame(remote);
                }
                let tries = self.retries.get(&revision).map_or(0, |r| r.tries).saturating_add(1);
                let not_before = at + retry_pause_secs(tries);
                if self.retries.len() >= RETRIES_MAX {
                    self.retries.pop_first();
                }
                self.retries.insert(revision, Retry { failure, tries, not_before });
            }
            Sighting::Checked { id, checks } => self.checks = Some((id, checks)),
            Sighting::Woke => {}
        }
    }

    /// Takes note of an event and of the deployment that it met: what succeeded or was judged needs no other
    /// try, what goes on need not wait, and what was called off for a passing reason gets another try later.
    pub fn note(&mut self, event: &Event, deployment: Option<&Deployment>) {
        match event {
            Event::Abandoned { failure, .. } if failure.code == SUSPENDED => {}
            Event::Abandoned { failure, at, .. } if failure.class == Class::Transient => {
                let Some(d) = deployment else { return };
                let (revision, failure) = (d.desired.tip.revision.clone(), failure.clone());
                self.see(Sighting::Failed { revision, remote: None, failure, at: *at });
            }
            Event::RolledBack { at, .. } => {
                let Some(d) = deployment.filter(|d| d.desired.why == Why::EndOfTest) else { return };
                let text = "the way back from the test failed".to_owned();
                let failure = Failure::transient("health", text);
                let revision = d.desired.tip.revision.clone();
                self.see(Sighting::Failed { revision, remote: None, failure, at: *at });
            }
            Event::Confirmed { .. } => {
                let Some(d) = deployment else { return };
                self.retries.remove(&d.desired.tip.revision);
            }
            Event::GenerationsRemoved { .. } => self.retries.retain(|_, r| r.failure.code != RETENTION),
            Event::BuildFailed { desired, .. } => {
                self.retries.remove(&desired.tip.revision);
            }
            Event::MainAccepted { tip } => {
                self.retries.remove(&tip.revision);
                // Everything stands to another accepted tip now, and more history may be there.
                self.kin.clear();
                self.failures.clear();
            }
            Event::TestAccepted { tip, .. } => {
                self.retries.remove(&tip.revision);
            }
            Event::RootAccepted { revision, .. } => {
                self.retries.remove(revision);
            }
            Event::Refused { refusal } => {
                self.retries.remove(&refusal.revision);
                self.blame_all(&refusal.revision);
            }
            Event::Built { desired, .. } => self.go_on(&desired.tip.revision),
            Event::Prepared { .. }
            | Event::Armed { .. }
            | Event::Switched { .. }
            | Event::SwitchRepeated { .. }
            | Event::SoakStarted { .. }
            | Event::Staged { .. }
            | Event::TrialBooted { .. }
            | Event::HealthProven { .. }
            | Event::Decided { .. } => {
                let Some(d) = deployment else { return };
                self.go_on(&d.desired.tip.revision);
            }
            Event::RetryRequested { .. } => self.retries.clear(),
            Event::RebootAwaited { .. } => {
                let Some(d) = deployment else { return };
                self.retries.remove(&d.desired.tip.revision);
            }
            Event::Abandoned { .. }
            | Event::OldChecked { .. }
            | Event::GenerationsChosen { .. }
            | Event::RollbackFailed { .. }
            | Event::Superseded { .. }
            | Event::Adopted { .. }
            | Event::TrustAdopted { .. }
            | Event::TestLost { .. }
            | Event::Answered { .. }
            | Event::Suspended { .. }
            | Event::Resumed { .. } => {}
        }
    }

    /// Holds it against a remote that what it named came to nothing: whoever always has something new that does must keep
    /// neither the other remotes nor the accepted revision waiting.
    fn blame(&mut self, remote: String) {
        let count = self.failures.entry(remote).or_default();
        *count = count.saturating_add(1);
    }

    /// Holds it against all remotes that name `revision`.
    fn blame_all(&mut self, revision: &Oid) {
        let naming: Vec<String> = self.naming(revision).map(str::to_owned).collect();
        naming.into_iter().for_each(|remote| self.blame(remote));
    }

    /// Returns the remotes that name `revision`, on any branch.
    pub(super) fn naming<'a>(&'a self, revision: &'a Oid) -> impl Iterator<Item = &'a str> {
        let names =
            move |r: &RemoteFacts| r.heads.iter().flat_map(BTreeMap::values).any(|tip| tip == revision);
        self.remotes.iter().filter(move |(_, r)| names(r)).map(|(name, _)| name.as_str())
    }

    /// Returns how often what the remote named came to nothing lately.
    pub fn failures_of(&self, remote: &str) -> u32 {
        self.failures.get(remote).copied().unwrap_or(0)
    }

    /// Returns how `revision` stands to `to`, if that was found out.
    pub fn kin(&self, revision: &Oid, to: &Oid) -> Option<Kin> {
        self.kin.get(revision).filter(|(other, _)| other == to).map(|(_, kin)| *kin)
    }

    /// One step of `revision` got through, so the next need not wait. The failures still count: it may be called off
    /// once more, and must not be begun again at once each time.
    fn go_on(&mut self, revision: &Oid) {
        if let Some(retry) = self.retries.get_mut(revision) {
            retry.not_before = 0;
        }
    }

    /// Takes note of what an operator asked for.
    pub fn heed(&mut self, command: &Command) {
        if matches!(command, Command::Sync | Command::Retry { .. }) {
            self.retries.clear();
        }
    }

    /// Returns the remotes that answer now, in the given order; if none does, those that ever did.
    pub fn heard<'a>(&'a self, order: &'a [String]) -> Vec<(&'a str, &'a BTreeMap<String, Oid>)> {
        let of = |troubled: bool| {
            let remotes = order.iter().filter_map(|name| Some((name.as_str(), self.remotes.get(name)?)));
            let heard = remotes.filter(|(_, r)| troubled || r.trouble.is_none());
            heard.filter_map(|(name, r)| Some((name, r.heads.as_ref()?))).collect::<Vec<_>>()
        };
        let answering = of(false);
        if answering.is_empty() { of(true) } else { answering }
    }

    /// Returns the last word of the first remote, in the given order, that has answered since the start.
    pub fn first_word<'a>(&'a self, order: &[String]) -> Option<&'a BTreeMap<String, Oid>> {
        order.iter().find_map(|name| self.remotes.get(name)?.heads.as_ref())
    }

    /// Returns the remote whose word counts now: the first, in the given order, that answers; if none does at
    /// the moment, the first that ever did.
    pub fn voice<'a>(&'a self, order: &'a [String]) -> Option<(&'a str, &'a BTreeMap<String, Oid>)> {
        self.heard(order).into_iter().next()
    }
}
