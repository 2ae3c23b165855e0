//! Which trust settings of a system count, and that what is revoked stays revoked. Pure tables.

use pullagent::config;
use pullagent::model::{
    AdoptedTrust, DeploymentId, Desired, Event, Keys, Operation, REVOKED_BYTES_MAX, Why, without_comment,
};
use pullagent::plan::{self, AlarmCode};
use serde_json::{Value, json};

use crate::{NOW, apply, host, looked, oid, policy, settings, settled, system, tip, trust};

fn fixture() -> Value {
    serde_json::from_slice(include_bytes!("../fixtures/config.json")).unwrap()
}

fn trust_in(file: &Value) -> config::TrustIn {
    config::trust_in(file.to_string().as_bytes()).unwrap()
}

/// Some key that the fixture lists.
fn listed_key() -> String {
    let signers = settings().trust.signers;
    signers.values().flat_map(|s| &s.keys).map(|key| key.key.clone()).next().unwrap()
}

/// The rest of the file may be of a later version; then its keys count all the same.
#[test]
fn trust_settings_are_read_without_the_rest_of_the_file() {
    let mut file = fixture();
    file["schema"] = json!(2);
    file["remotes"] = json!("of another layout");
    config::parse(file.to_string().as_bytes()).unwrap_err();
    let found = trust_in(&file);
    assert_eq!(found.settings.unwrap().section(), &file["trust"]);
    assert_eq!(found.hostname.as_deref(), Some(settings().hostname.as_str()));
}

/// A mode that is not known may accept less than it seems, so nothing of it is taken over but what it revokes.
#[test]
fn of_settings_that_cannot_be_used_the_revocations_count() {
    let key = listed_key();
    let mut file = fixture();
    file["trust"]["revokedKeys"] = json!([key, "not a key", 7]);
    for (at, value) in [("mode", json!("quorum")), ("signers", json!({})), ("refBinding", json!("?"))] {
        let mut file = file.clone();
        file["trust"][at] = value;
        let found = trust_in(&file);
        found.settings.unwrap_err();
        assert_eq!(found.revoked, [without_comment(&key)], "{at}");
    }
    let mut file = fixture();
    file.as_object_mut().unwrap().remove("trust");
    let found = trust_in(&file);
    assert!(found.settings.is_err() && found.revoked.is_empty());
    assert!(config::trust_in(b"{").is_err());
}

fn built(trust: Option<pullagent::model::TrustSettings>, revoked: &[&str]) -> Event {
    Event::Built {
        id: DeploymentId::new(1, &oid('b')),
        desired: Desired { tip: tip('b'), operation: Operation::Switch, why: Why::NewRevision },
        drv: None,
        toplevel: system('b'),
        trust,
        revoked: revoked.iter().map(|k| (*k).to_owned()).collect(),
        nonce: None,
        at: NOW,
    }
}

#[test]
fn a_revocation_counts_with_the_settings_of_before_until_others_can_be_used() {
    let mut state = settled();
    apply(&mut state, &[Event::MainAccepted { tip: tip('b') }, built(None, &["ssh-ed25519 AAAA"])]);
    let keys = plan::counting(&state);
    assert_eq!(keys.settings, Some(trust(&[])));
    assert_eq!(keys.revoked, ["ssh-ed25519 AAAA"]);
    // A system that is not the newest accepted one revokes nothing: a test branch must not.
    let mut state = settled();
    apply(&mut state, &[built(None, &["ssh-ed25519 AAAA"])]);
    assert_eq!(plan::counting(&state).revoked, [""; 0]);
}

/// A key of a kind that this version can't read makes no signature good, and must not make the others useless.
#[test]
fn a_revoked_key_that_cannot_be_read_is_passed_over() {
    let keys = Keys { settings: None, revoked: vec!["ssh-later AAAA".to_owned(), listed_key()] };
    let policy = settings().policy_with(&keys).unwrap();
    assert_eq!(policy.revoked().len(), settings().trust.revoked_keys.len() + 1);
}

/// When there is no more room the first ones stay, and somebody is told.
#[test]
fn the_memory_of_revoked_keys_is_bounded_and_says_so() {
    let key = |n: usize| format!("ssh-ed25519 {n:0>80}");
    let room = REVOKED_BYTES_MAX / key(0).len();
    let keys: Vec<String> = (0..=room).map(key).collect();
    let adopt = |keys: &[String]| {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let settings = trust(&keys);
        Event::TrustAdopted { trust: AdoptedTrust { revision: Some(oid('a')), settings, at: NOW } }
    };
    let mut state = settled();
    let facts = looked(host('a', 'a'));
    apply(&mut state, &[adopt(&keys[..room])]);
    assert_eq!((state.revoked.len(), plan::alarms(&state, &facts, &policy()).len()), (room, 0));
    apply(&mut state, &[adopt(&keys[room..])]);
    assert_eq!(state.revoked.iter().collect::<Vec<_>>(), keys[..room].iter().collect::<Vec<_>>());
    assert_eq!(plan::alarms(&state, &facts, &policy())[0].code, AlarmCode::RevokedFull);
}

/// Whoever may push could make as many of them as there are polls.
#[test]
fn refused_tips_do_not_make_the_host_forget_what_ran_on_it() {
    use pullagent::model::{Outcome, REFUSALS_IN_HISTORY_MAX};
    let mut state = settled();
    let failure = pullagent::model::Failure {
        class: pullagent::model::Class::Target,
        code: "build".to_owned(),
        text: String::new(),
    };
    let desired = Desired { tip: tip('b'), operation: Operation::Switch, why: Why::NewRevision };
    apply(&mut state, &[Event::BuildFailed { desired, failure, at: NOW }]);
    for n in 0..1000_u32 {
        let mut event = crate::refused('c', "unsigned");
        if let Event::Refused { refusal } = &mut event {
            refusal.revision = format!("{n:040x}").parse().unwrap();
        }
        apply(&mut state, &[event]);
    }
    let (refusals, others): (Vec<_>, Vec<_>) =
        state.history.iter().partition(|e| matches!(e.outcome, Outcome::Refused { .. }));
    assert_eq!((refusals.len(), others.len()), (REFUSALS_IN_HISTORY_MAX, 1));
    assert_eq!(refusals.last().unwrap().revision, format!("{:040x}", 999).parse().unwrap());
}
