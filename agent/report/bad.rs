//! What came to nothing, as `status` lists it: refused tips and targets that are not tried again by themselves.

use super::status::{Bad, BadKind};
use super::{Entry, Fate, Snapshot};
use crate::model::{Ended, Oid, Quarantined, Refusal};

pub(super) fn set_aside(snapshot: &Snapshot) -> Vec<Bad> {
    let refused = snapshot.state.refused.iter().map(bad_of_refusal);
    let quarantine = snapshot.state.quarantine.iter().filter_map(|q| bad_of_quarantine(snapshot, q));
    let mut all: Vec<Bad> = refused.chain(quarantine).collect();
    all.sort_by_key(|b| b.at);
    all
}

fn bad_of_refusal(r: &Refusal) -> Bad {
    Bad {
        revision: r.revision.clone(),
        kind: BadKind::Refused,
        subject: String::new(),
        signer: None,
        branch: r.branch.clone(),
        remote: Some(r.remote.clone()),
        id: None,
        commit: r.commit.clone(),
        code: r.code.clone(),
        text: r.text.clone(),
        details: vec![],
        advice: r.advice.clone(),
        at: r.at,
    }
}

/// Joins a quarantine entry with its end in the history, which has the names.
fn bad_of_quarantine(snapshot: &Snapshot, q: &Quarantined) -> Option<Bad> {
    let revision = q.target.revision()?;
    let same = |e: &&Ended| e.revision == *revision && e.at == q.at;
    if let Some(e) = snapshot.state.history.iter().rev().find(same) {
        return Some(bad_of_entry(&Entry::of(e)));
    }
    Some(Bad {
        revision: revision.clone(),
        kind: BadKind::CalledOff,
        subject: String::new(),
        signer: None,
        branch: String::new(),
        remote: None,
        id: None,
        commit: None,
        code: q.failure.code.clone(),
        text: q.failure.text.clone(),
        details: vec![],
        advice: advice(BadKind::CalledOff, revision),
        at: q.at,
    })
}

pub(super) fn bad_of_entry(e: &Entry) -> Bad {
    let kind = match e.outcome {
        Fate::RolledBack => BadKind::RolledBack,
        Fate::RollbackFailed => BadKind::RollbackFailed,
        Fate::Refused => BadKind::Refused,
        Fate::BuildFailed => BadKind::BuildFailed,
        Fate::Confirmed
        | Fate::Tested
        | Fate::Superseded
        | Fate::Abandoned
        | Fate::TestLost
        | Fate::RebootAwaited => BadKind::CalledOff,
    };
    Bad {
        revision: e.revision.clone(),
        kind,
        subject: e.subject.clone(),
        signer: e.signer.clone(),
        branch: e.branch.clone(),
        remote: None,
        id: e.id.clone(),
        commit: None,
        code: e.code.clone().unwrap_or_default(),
        text: e.text.clone().unwrap_or_default(),
        details: e.details.clone(),
        advice: advice(kind, &e.revision),
        at: e.at,
    }
}

pub(super) fn advice(kind: BadKind, revision: &Oid) -> String {
    let retry = format!("pullagent retry {}", revision.short());
    match kind {
        BadKind::RollbackFailed => {
            "look at the host now: neither system may be whole. A reboot starts the one at 'boot'".to_owned()
        }
        BadKind::Refused | BadKind::BuildFailed | BadKind::RolledBack | BadKind::CalledOff => {
            format!("push a fix; or try the same again: {retry}")
        }
    }
}
