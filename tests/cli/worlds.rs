//! What an agent might know: a few worlds, as the loop shows them.

use std::collections::BTreeMap;

use pullagent::model::{self, HostFacts, Oid, Operation, Refusal, Settled, StorePath, Tip};
use pullagent::plan::RemoteFacts;
use pullagent::report::Snapshot;

pub fn rev(start: &str) -> Oid {
    format!("{start:0<40}").parse().unwrap()
}

pub fn in_sync() -> Snapshot {
    settled_at(&rev("a1b2c3d"), 42)
}

/// The same world, looked at later.
pub fn in_sync_at(snapshot: &Snapshot) -> Snapshot {
    let mut later = snapshot.clone();
    later.facts.now += 1000;
    later
}

/// A host that runs `revision`, confirmed, as `generation`.
pub fn settled_at(revision: &Oid, generation: u64) -> Snapshot {
    let toplevel: StorePath = format!("/nix/store/{}-nixos-system-web1", "1".repeat(32)).parse().unwrap();
    let tip = Tip {
        revision: revision.clone(),
        tree: rev("eeee"),
        payload_sha256: String::new(),
        committer_time: 0,
        signer: Some("alice".to_owned()),
        subject: "nginx: raise limits".to_owned(),
        branch: "main".to_owned(),
        remote: "origin".to_owned(),
        accepted_at: 1000,
    };
    let id = model::DeploymentId::new(1, revision);
    let settled = Settled {
        tip: tip.clone(),
        toplevel: toplevel.clone(),
        generation: Some(generation),
        id: Some(id.clone()),
        at: 1000,
    };
    let deployed = model::Ended {
        id: Some(id),
        revision: revision.clone(),
        subject: tip.subject.clone(),
        signer: tip.signer.clone(),
        branch: "main".to_owned(),
        operation: Operation::Switch,
        why: model::Why::NewRevision,
        toplevel: Some(toplevel.clone()),
        outcome: model::Outcome::Confirmed { generation: Some(generation), removed: vec![] },
        began: 900,
        at: 1000,
    };
    let mut snapshot = Snapshot::default();
    snapshot.state.main = Some(tip);
    snapshot.state.settled = Some(settled);
    snapshot.state.history.push_back(deployed);
    snapshot.facts.host = Some(HostFacts {
        running: Some(toplevel.clone()),
        profile: Some(toplevel.clone()),
        boot_default: Some(toplevel),
        generation: Some(generation),
        running_revision: Some(revision.clone()),
        ..HostFacts::default()
    });
    let heads = Some(BTreeMap::from([("main".to_owned(), revision.clone())]));
    let origin = RemoteFacts { heads, answered_at: Some(1000), ..RemoteFacts::default() };
    snapshot.facts.remotes.insert("origin".to_owned(), origin);
    snapshot
}

pub fn push(snapshot: &mut Snapshot, revision: &Oid) {
    let heads = snapshot.facts.remotes.get_mut("origin").unwrap().heads.as_mut().unwrap();
    heads.insert("main".to_owned(), revision.clone());
}

/// A host that refused `d4e5f6a`.
pub fn refused() -> Snapshot {
    let mut snapshot = in_sync();
    push(&mut snapshot, &rev("d4e5f6a"));
    let refusal = Refusal {
        revision: rev("d4e5f6a"),
        branch: "main".to_owned(),
        remote: "origin".to_owned(),
        operation: Operation::Switch,
        commit: Some(rev("d4e5f6a")),
        code: "unsigned".to_owned(),
        text: "commit d4e5f6a is not signed".to_owned(),
        advice: "Sign it.".to_owned(),
        judged_by: "p@a".to_owned(),
        at: 2000,
    };
    snapshot.state.apply(&model::Event::Refused { refusal }).unwrap();
    snapshot
}
