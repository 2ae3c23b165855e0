//! Which tip of the main branch to look at next, where several remotes name one each. The newest that verifies wins: a
//! remote that lags is passed over, and none can do what it could not do alone.

use crate::model::{Action, Candidate, Keys, Kin, Line, Oid, Operation, State, Tip, Verification};

use super::{Facts, Policy, judged_by};

/// Returns the tip of `branch` that people should be told about. Of the main branch: the accepted one if a remote that
/// answers names it, else the first that is not known to be older. Of any other: that of the remote whose word counts.
pub fn head<'a>(state: &State, facts: &'a Facts, policy: &'a Policy, branch: &str) -> Option<&'a Oid> {
    let heard = facts.heard(&policy.remotes);
    let named: Vec<&Oid> = if branch == policy.main_branch {
        heard.iter().filter_map(|(_, heads)| heads.get(branch)).collect()
    } else {
        heard.first()?.1.get(branch).into_iter().collect()
    };
    let main = state.main.as_ref().map(|m| &m.revision);
    let newer = |tip: &Oid| main.is_none_or(|m| facts.kin(tip, m) != Some(Kin::Older));
    let refused = |tip: &Oid| state.refused.iter().any(|r| r.revision == *tip);
    let waiting = |tip: &&&Oid| newer(tip) && !refused(tip) && Some(**tip) != main;
    named
        .iter()
        .find(waiting)
        .or_else(|| named.iter().find(|tip| Some(**tip) == main))
        .or_else(|| named.iter().find(|tip| newer(tip)))
        .or_else(|| named.first())
        .copied()
}

/// Returns what to do next about the main branch, as far as the remotes are `heeded` that name a tip: find out how it
/// stands to the accepted one, or verify it.
pub(super) fn next(
    state: &State,
    facts: &Facts,
    policy: &Policy,
    keys: &Keys,
    heeded: &dyn Fn(&str) -> bool,
) -> Option<Action> {
    let heard = facts.heard(&policy.remotes);
    let tips: Vec<(&str, &Oid)> =
        heard.iter().filter_map(|(name, heads)| Some((*name, heads.get(&policy.main_branch)?))).collect();
    let line = match &state.main {
        Some(tip) => Line::Main(tip.clone()),
        None => Line::Introduction(facts.introduction.clone()?),
    };
    let judged_by = judged_by(policy, keys, &line);
    let open: Vec<(&str, &Oid)> = by_failures(&tips, facts)
        .into_iter()
        .filter(|(name, tip)| heeded(name) && is_open(state, facts, policy, tip, &judged_by))
        .collect();
    let main = state.main.as_ref();
    for (_, tip) in &open {
        let older = match main.filter(|_| tips.len() > 1) {
            None => false,
            Some(main) => match facts.kin(tip, &main.revision) {
                None => return Some(Action::Relate { revision: (*tip).clone(), to: main.revision.clone() }),
                Some(kin) => kin == Kin::Older && is_named(&tips, main),
            },
        };
        if !older {
            let remote = remote_for(tip, &tips, facts)?;
            let candidate = candidate(remote, &policy.main_branch, tip);
            return Some(Action::Verify(Verification { candidate, line, judged_by, keys: keys.clone() }));
        }
    }
    None
}

/// Returns what to do next about the commit that root named.
pub(super) fn named_by_root(state: &State, facts: &Facts, policy: &Policy, keys: &Keys) -> Option<Action> {
    let revision = &state.vouched.as_ref().filter(|v| !v.anchored)?.revision;
    fetch_by_id(revision, Line::Root(revision.clone()), facts, policy, keys)
}

/// Returns what to do next about a system that root switched to by hand.
pub(super) fn by_hand(state: &State, facts: &Facts, policy: &Policy, keys: &Keys) -> Option<Action> {
    let host = facts.host.as_ref()?;
    let main = state.main.as_ref()?;
    if state.vouched.as_ref().is_some_and(|v| v.anchored && v.revision == main.revision) {
        return None;
    }
    let revision = super::held::by_hand(state, host)?;
    // What was refused once stays refused; the line is judged without it.
    if state.refused.iter().any(|r| r.revision == *revision && r.judged_by.starts_with("installed@")) {
        return None;
    }
    let permanent = host.profile == host.running;
    match facts.kin(revision, &main.revision) {
        None => Some(Action::Relate { revision: revision.clone(), to: main.revision.clone() }),
        Some(Kin::Newer | Kin::Unknown) if permanent => {
            let line = Line::Installed { revision: revision.clone(), main: main.clone() };
            fetch_by_id(revision, line, facts, policy, keys)
        }
        Some(Kin::Older | Kin::Apart | Kin::Newer | Kin::Unknown) => None,
    }
}

/// Fetches a commit by its id, from one remote after the other.
fn fetch_by_id(revision: &Oid, line: Line, facts: &Facts, policy: &Policy, keys: &Keys) -> Option<Action> {
    let heard = facts.heard(&policy.remotes);
    let tries = facts.retries.get(revision);
    if tries.is_some_and(|r| r.is_early(facts.now)) || heard.is_empty() {
        return None;
    }
    let naming = heard.iter().position(|(_, heads)| heads.values().any(|tip| tip == revision)).unwrap_or(0);
    let turn = naming + tries.map_or(0, |r| r.tries as usize);
    let (remote, _) = heard.get(turn % heard.len())?;
    let candidate = candidate(remote, &policy.main_branch, revision);
    let judged_by = judged_by(policy, keys, &line);
    // No signature counts here, so a host whose settings are broken can be helped.
    Some(Action::Verify(Verification { candidate, line, judged_by, keys: Keys::default() }))
}

fn candidate(remote: &str, branch: &str, revision: &Oid) -> Candidate {
    Candidate {
        remote: remote.to_owned(),
        branch: branch.to_owned(),
        revision: revision.clone(),
        operation: Operation::Switch,
    }
}

/// Tells whether a tip is still to be judged, and may be by now.
fn is_open(state: &State, facts: &Facts, policy: &Policy, tip: &Oid, judged_by: &str) -> bool {
    let accepted = state.main.as_ref().is_some_and(|m| m.revision == *tip);
    let branch = &policy.main_branch;
    let same =
        |r: &crate::model::Refusal| r.revision == *tip && r.branch == *branch && r.judged_by == judged_by;
    let early = facts.retries.get(tip).is_some_and(|r| r.is_early(facts.now));
    !accepted && !early && !state.refused.iter().any(same)
}

fn is_named(tips: &[(&str, &Oid)], main: &Tip) -> bool {
    tips.iter().any(|(_, tip)| **tip == main.revision)
}

/// Puts the remotes whose tips came to nothing least often first, else in their order.
fn by_failures<'a>(tips: &[(&'a str, &'a Oid)], facts: &Facts) -> Vec<(&'a str, &'a Oid)> {
    let mut tips = tips.to_vec();
    tips.sort_by_key(|(name, _)| facts.failures_of(name));
    tips
}

/// Returns whom to ask for `tip`: of those that name it, another one after each failure.
fn remote_for<'a>(tip: &Oid, tips: &[(&'a str, &Oid)], facts: &Facts) -> Option<&'a str> {
    let naming: Vec<&str> = tips.iter().filter(|(_, t)| *t == tip).map(|(name, _)| *name).collect();
    let turn = facts.retries.get(tip).map_or(0, |r| r.tries as usize);
    naming.get(turn % naming.len().max(1)).copied()
}
