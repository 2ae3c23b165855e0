//! Hosts in every situation, put together from the types that the loop shows.

use std::collections::{BTreeMap, VecDeque};

use pullagent::config::{self, Settings};
use pullagent::model::*;
use pullagent::plan::*;
use pullagent::report::*;

use crate::{HOUR, MINUTE, NOW};

pub fn settings() -> Settings {
    config::parse(include_bytes!("../fixtures/config.json")).unwrap().settings
}

pub fn oid(start: &str) -> Oid {
    format!("{start:0<40}").parse().unwrap()
}

pub fn old_rev() -> Oid {
    oid("a1b2c3d")
}

pub fn new_rev() -> Oid {
    oid("d4e5f6a")
}

pub fn path(digit: &str, name: &str) -> StorePath {
    format!("/nix/store/{}-{name}", digit.repeat(32)).parse().unwrap()
}

pub fn old_path() -> StorePath {
    path("1", "nixos-system-web1-26.05")
}

pub fn new_path() -> StorePath {
    path("2", "nixos-system-web1-26.05")
}

pub fn tip(revision: &Oid, subject: &str, signer: &str, accepted_at: u64) -> Tip {
    Tip {
        revision: revision.clone(),
        tree: oid("eeee"),
        payload_sha256: String::new(),
        committer_time: 0,
        signer: Some(signer.to_owned()),
        subject: subject.to_owned(),
        branch: "main".to_owned(),
        remote: "origin".to_owned(),
        accepted_at,
    }
}

pub fn new_tip() -> Tip {
    tip(&new_rev(), "nixpkgs: bump", "bob", NOW - 2 * MINUTE)
}

pub fn host_in_sync() -> Snapshot {
    let tip = tip(&old_rev(), "nginx: raise limits", "alice", NOW - 3 * HOUR - 5 * MINUTE);
    let id = DeploymentId::new(11, &old_rev());
    let deployed = Ended {
        id: Some(id.clone()),
        toplevel: Some(old_path()),
        outcome: Outcome::Confirmed { generation: Some(42), removed: vec![] },
        began: NOW - 3 * HOUR - 4 * MINUTE,
        ..ended(&tip, NOW - 3 * HOUR)
    };
    let settled = Settled {
        tip: tip.clone(),
        toplevel: old_path(),
        generation: Some(42),
        id: Some(id),
        at: NOW - 3 * HOUR,
    };
    let state = State {
        main: Some(tip),
        settled: Some(settled),
        history: VecDeque::from([deployed]),
        deployments_begun: 11,
        ..State::default()
    };
    let host = HostFacts {
        running: Some(old_path()),
        etc: Some(old_path()),
        booted: Some(old_path()),
        profile: Some(old_path()),
        generation: Some(42),
        boot_default: Some(old_path()),
        running_revision: Some(old_rev()),
        boottime_ms: 1_000_000,
        ..HostFacts::default()
    };
    let origin = RemoteFacts {
        heads: Some(BTreeMap::from([("main".to_owned(), old_rev())])),
        old: None,
        answered_at: Some(NOW - 12),
        trouble: None,
    };
    let remotes = BTreeMap::from([("origin".to_owned(), origin)]);
    let facts = Facts { now: NOW, host: Some(host), remotes, ..Facts::default() };
    Snapshot { state, facts, doing: None, trouble: None }
}

pub fn ended(tip: &Tip, at: u64) -> Ended {
    Ended {
        id: None,
        revision: tip.revision.clone(),
        subject: tip.subject.clone(),
        signer: tip.signer.clone(),
        branch: tip.branch.clone(),
        operation: Operation::Switch,
        why: Why::NewRevision,
        toplevel: None,
        outcome: Outcome::Superseded,
        began: at - 2 * MINUTE,
        at,
    }
}

/// A remote names `revision` as the tip of `branch`.
pub fn push(s: &mut Snapshot, branch: &str, revision: &Oid) {
    let heads = s.facts.remotes.get_mut("origin").unwrap().heads.as_mut().unwrap();
    heads.insert(branch.to_owned(), revision.clone());
}

/// The new revision was pushed and verified.
pub fn accept(s: &mut Snapshot) {
    push(s, "main", &new_rev());
    s.state.main = Some(new_tip());
}

/// The host runs `toplevel`; profile and boot entry stay.
pub fn run(s: &mut Snapshot, toplevel: &StorePath) {
    let host = s.facts.host.as_mut().unwrap();
    host.running = Some(toplevel.clone());
    host.etc = Some(toplevel.clone());
}

pub fn on_probation(step: Step, operation: Operation) -> Snapshot {
    let mut s = host_in_sync();
    accept(&mut s);
    let trial = Trial {
        old: old_path(),
        boot_id: "b".to_owned(),
        deadline_boottime_ms: 1_082_000,
        red_before: vec![],
        reboot: None,
        switch_repeats: 0,
    };
    s.state.deployment = Some(Deployment {
        id: DeploymentId::new(12, &new_rev()),
        desired: Desired { tip: new_tip(), operation, why: Why::NewRevision },
        drv: None,
        toplevel: new_path(),
        at: NOW - MINUTE,
        stage: Stage::Probation { trial, step },
    });
    s
}

pub fn failure(code: &str, text: &str) -> Failure {
    Failure { class: Class::Target, code: code.to_owned(), text: text.to_owned() }
}

pub fn quarantine(s: &mut Snapshot, toplevel: Option<StorePath>, failure: Failure, outcome: Outcome) {
    let at = NOW - 6 * MINUTE;
    let id = toplevel.as_ref().map(|_| DeploymentId::new(12, &new_rev()));
    let ended = Ended { id, toplevel: toplevel.clone(), outcome, ..ended(&new_tip(), at) };
    s.state.history.push_back(ended);
    let target = Target::config(new_rev());
    s.state.quarantine.push_back(Quarantined { target, toplevel, failure, at });
}

pub fn rolled_back_host() -> Snapshot {
    let mut s = host_in_sync();
    accept(&mut s);
    let reason = "check 'web' failed 3 times in a row: http://127.0.0.1/healthz answers 502".to_owned();
    let failures = vec![
        "web: http://127.0.0.1/healthz answers 502".to_owned(),
        "ping: 10.0.0.1 does not answer within 2s".to_owned(),
    ];
    let outcome = Outcome::RolledBack { reason: reason.clone(), failures, class: Class::Target, code: None };
    quarantine(&mut s, Some(new_path()), failure("health", &reason), outcome);
    s
}

pub fn refused_host(code: &str, branch: &str) -> Snapshot {
    let mut s = host_in_sync();
    push(&mut s, branch, &new_rev());
    let (text, advice) = match code {
        "unsigned" => (
            "commit d4e5f6a is not signed",
            "Sign it with `git commit --amend -S` (or `git rebase -S` for several) and push again.",
        ),
        _ => (
            "commit d4e5f6a does not descend from the accepted main",
            "Rebase the test branch onto the main branch this host has accepted.",
        ),
    };
    let refusal = Refusal {
        revision: new_rev(),
        branch: branch.to_owned(),
        remote: "origin".to_owned(),
        operation: Operation::Switch,
        commit: Some(new_rev()),
        code: code.to_owned(),
        text: text.to_owned(),
        advice: advice.to_owned(),
        judged_by: String::new(),
        at: NOW - 2 * MINUTE,
    };
    let outcome = Outcome::Refused { code: code.to_owned(), text: text.to_owned() };
    let nobody = Tip { signer: None, subject: String::new(), ..new_tip() };
    s.state.history.push_back(Ended { outcome, began: refusal.at, ..ended(&nobody, refusal.at) });
    s.state.refused.push_back(refusal);
    s
}

pub fn unreachable_host() -> Snapshot {
    let mut s = host_in_sync();
    let origin = s.facts.remotes.get_mut("origin").unwrap();
    origin.answered_at = Some(NOW - 2 * HOUR - 10 * MINUTE);
    origin.trouble = Some(Trouble {
        class: "tls".to_owned(),
        text: "the certificate of git.example.org expired on 2027-01-14".to_owned(),
        tries: 9,
        since: NOW - 2 * HOUR - 9 * MINUTE,
        at: NOW - 12,
    });
    s
}

pub fn status_written(mut status: Status, age: u64) -> Status {
    status.agent.written_at = NOW - age;
    status
}

pub fn check_facts(name: &str, green: bool) -> CheckFacts {
    CheckFacts {
        name: name.to_owned(),
        hard: true,
        green: Some(green),
        failures: 0,
        failures_max: 3,
        text: String::new(),
    }
}
