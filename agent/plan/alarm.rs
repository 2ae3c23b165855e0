//! What a Git server could be hiding: remotes that have not answered for too long, and remotes that contradict each other;
//! and what a host will not remember. An alarm changes nothing on the host; it is for people.

use std::collections::HashSet;

use crate::model::{Kin, Oid, State};

use super::{Facts, Policy};

/// What an alarm is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AlarmCode {
    /// No remote has answered for too long.
    Stale,
    /// Remotes name tips of the main branch of which none is an ancestor of the other.
    SplitView,
    /// There is no room to remember another revoked key.
    RevokedFull,
    /// What the agent remembers does not survive a reboot.
    VolatileState,
}

impl AlarmCode {
    /// Returns the stable word.
    pub fn as_str(self) -> &'static str {
        match self {
            AlarmCode::Stale => "stale",
            AlarmCode::SplitView => "split-view",
            AlarmCode::RevokedFull => "revoked-full",
            AlarmCode::VolatileState => "volatile-state",
        }
    }
}

/// Something that somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alarm {
    /// What it is about.
    pub code: AlarmCode,
    /// What is wrong; the same as long as it is the same alarm.
    pub text: String,
}

/// How a remote's main branch stands to what this host accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It names the accepted tip.
    Current,
    /// It names an ancestor of it: it lags.
    Behind,
    /// It names a tip that does not continue the accepted line.
    Diverged,
    /// It names a tip that was refused for another reason.
    Refused,
    /// It names a tip that was not judged yet, or it names none, or it has not answered.
    Unknown,
}

/// Returns how the main branch of `remote` stands, by its last answer.
pub fn standing_of_remote(remote: &str, state: &State, facts: &Facts, policy: &Policy) -> Standing {
    let (Some(tip), Some(main)) = (tip_of(remote, facts, policy), &state.main) else {
        return Standing::Unknown;
    };
    if *tip == main.revision {
        return Standing::Current;
    }
    let refusal = state.refused.iter().rev().find(|r| r.revision == *tip && r.branch == policy.main_branch);
    match (facts.kin(tip, &main.revision), refusal) {
        (Some(Kin::Older), _) => Standing::Behind,
        (_, Some(r)) if r.code == "not-fast-forward" => Standing::Diverged,
        (_, Some(_)) => Standing::Refused,
        (_, None) => Standing::Unknown,
    }
}

/// Tells whether `remote` has not answered for longer than it may.
pub fn is_stale(remote: &str, facts: &Facts, policy: &Policy) -> bool {
    let Some(facts_of) = facts.remotes.get(remote) else { return false };
    // What was before the agent started, nobody knows.
    let since = facts_of.answered_at.or(facts_of.trouble.as_ref().map(|t| t.since));
    facts_of.trouble.is_some()
        && since.is_some_and(|since| facts.now.saturating_sub(since) > policy.stale_after_secs)
}

/// Returns every alarm that stands now.
pub fn alarms(state: &State, facts: &Facts, policy: &Policy) -> Vec<Alarm> {
    let stale = stale(facts, policy).into_iter();
    let remembered = revoked_full(state).into_iter().chain(volatile_state(facts));
    stale.chain(split_view(state, facts, policy)).chain(remembered).collect()
}

/// What the settings revoke counts as long as they say so, and beyond that only what is remembered.
fn revoked_full(state: &State) -> Option<Alarm> {
    let remembered: HashSet<&String> = state.revoked.iter().collect();
    let lost = state.trust.as_ref()?.settings.revoked_keys().iter().any(|key| !remembered.contains(key));
    let text =
        "there is no room to remember all of trust.revokedKeys: never take a key out of that list".to_owned();
    lost.then_some(Alarm { code: AlarmCode::RevokedFull, text })
}

/// Every boot would start anew, with the commit that the booted system was built from: what was revoked, refused and set aside
/// since is forgotten.
fn volatile_state(facts: &Facts) -> Option<Alarm> {
    let text = "the state directory is in memory, and all that was learned is forgotten with a reboot; \
                keep /var/lib/pullagent on a disk that persists"
        .to_owned();
    let volatile = facts.host.as_ref().is_some_and(|host| host.volatile_state);
    volatile.then_some(Alarm { code: AlarmCode::VolatileState, text })
}

fn stale(facts: &Facts, policy: &Policy) -> Option<Alarm> {
    let all = !policy.remotes.is_empty() && policy.remotes.iter().all(|name| is_stale(name, facts, policy));
    let text = "no remote has answered for longer than trust.staleAfter".to_owned();
    all.then_some(Alarm { code: AlarmCode::Stale, text })
}

/// One remote off the accepted line is a force-push, or an attack, and is refused. That another one is still on it makes it
/// a split view: the two can't both be shown the same branch.
fn split_view(state: &State, facts: &Facts, policy: &Policy) -> Option<Alarm> {
    let of = |wanted: &[Standing]| {
        let names = policy.remotes.iter();
        names
            .filter(|name| wanted.contains(&standing_of_remote(name, state, facts, policy)))
            .collect::<Vec<_>>()
    };
    let (off, on) = (of(&[Standing::Diverged]), of(&[Standing::Current, Standing::Behind]));
    let (off, on) = (off.first()?, on.first()?);
    let said = |name: &str| tip_of(name, facts, policy).map_or("nothing", Oid::short).to_owned();
    let text = format!(
        "{on} has {} and {off} has {} on {}, and neither is an ancestor of the other",
        said(on),
        said(off),
        policy.main_branch
    );
    Some(Alarm { code: AlarmCode::SplitView, text })
}

fn tip_of<'a>(remote: &str, facts: &'a Facts, policy: &Policy) -> Option<&'a Oid> {
    facts.remotes.get(remote)?.heads.as_ref()?.get(&policy.main_branch)
}
