//! Below a refused tip, the newest commit that would be accepted; and merges that vouch for what they bring in.

use std::cell::Cell;
use std::collections::HashMap;

use pullagent::model::Oid;
use pullagent::trust::{self, Accepted, AnchorFacts, Code, Context, Merges, Policy, Refusal, Rules};
use sha2::{Digest as _, Sha256};

use super::forge::{Forge, MAIN, NOW, TEST};
use super::ranges::{TRY, after, code, offer_after};
use super::sshsig::{Key, Sshsig, with_header};

/// Expects a refusal with this code, and returns its stepping stone.
#[track_caller]
fn stone(verdict: Result<Accepted, Refusal>, expected: Code) -> Option<Oid> {
    let refusal = verdict.unwrap_err();
    assert_eq!(refusal.code, expected, "{refusal}");
    refusal.stepping_stone
}

fn merge(forge: &Forge, key: &str, branch: &str) -> Oid {
    let key = format!("user.signingkey={key}");
    forge.git(&["-c", &key, "merge", "-q", "--no-ff", "-S", "-m", "Merge", branch]);
    forge.id("HEAD")
}

#[test]
fn what_a_poll_in_between_would_have_accepted_comes_first() {
    // Each way in which the last commit can be refused; the one before it is good.
    type Last = fn(&Forge) -> Oid;
    let table: &[(Code, Last)] = &[
        (Code::UnknownKey, |f| f.signed("mallory", "By a key that the next system may list")),
        (Code::Unauthorised, |f| f.signed("bob", "By a contributor")),
        (Code::Unsigned, |f| f.unsigned("By nobody")),
        (Code::WrongTarget, |f| f.signed("alice", TRY)),
        (Code::FutureCommit, |f| f.signed_at(NOW + 10 * 86_400, "alice", "Far ahead")),
    ];
    for (expected, last) in table {
        let forge = Forge::new();
        forge.signed("alice", "One");
        let good = forge.signed("alice", "Two");
        let tip = last(&forge);
        assert_eq!(stone(forge.offer(&tip), *expected), Some(good.clone()));
        // It is accepted, and above it there is nothing to step on.
        assert_eq!(code(forge.offer(&good)), Ok(2));
        assert_eq!(stone(offer_after(&forge, &after(&good), &tip), *expected), None);
    }
}

/// A clock that is wrong must not make the verdict over a tip last: below it something will be acceptable.
#[test]
fn a_stone_that_only_the_clock_refuses_is_waited_for() {
    let forge = Forge::new();
    forge.signed_at(NOW, "alice", "Lists mallory's key");
    let tip = forge.signed_at(NOW, "mallory", "Signed with it");
    let at = |now| {
        let context = Context { now, ..MAIN };
        trust::verify_main(&mut forge.read(), &tip, &forge.anchor(), &forge.policy(), &context).unwrap_err()
    };
    let refusal = at(0);
    assert_eq!((refusal.code, &refusal.stepping_stone), (Code::FutureCommit, &None));
    assert!(!refusal.code.is_final() && refusal.text.contains("; and below it, commit "), "{refusal}");
    let refusal = at(NOW);
    assert_eq!((refusal.code, refusal.stepping_stone.is_some()), (Code::UnknownKey, true));
    // What can't become one does not keep the verdict from lasting, wherever the clock is.
    let forge = Forge::new();
    forge.signed_at(NOW, "bob", "By a contributor");
    let tip = forge.unsigned("By nobody");
    let context = Context { now: 0, ..MAIN };
    let verdict = trust::verify_main(&mut forge.read(), &tip, &forge.anchor(), &forge.policy(), &context);
    assert_eq!(stone(verdict, Code::Unsigned), None);
}

#[test]
fn a_rotation_pushed_in_one_go_is_accepted_in_two_steps() {
    let forge = Forge::new();
    let lists_the_key = forge.signed("alice", "trust: list carol");
    let carols = forge.signed("mallory", "By carol");
    let tip = forge.signed("mallory", "By carol again");
    let old = forge.policy();
    let first = trust::verify_main(&mut forge.read(), &tip, &forge.anchor(), &old, &MAIN);
    let refusal = first.unwrap_err();
    assert_eq!((refusal.code, refusal.commit), (Code::UnknownKey, Some(carols)));
    assert_eq!(refusal.stepping_stone, Some(lists_the_key.clone()));
    let mut signers = old.signers().to_vec();
    signers[0].keys.push(forge.mallory.public().into());
    let new = Policy::new(signers, vec![], Rules::default()).unwrap();
    let anchor = after(&lists_the_key);
    assert_eq!(code(trust::verify_main(&mut forge.read(), &tip, &anchor, &new, &MAIN)), Ok(2));
}

#[test]
fn a_stone_lies_on_the_line_of_first_parents() {
    let forge = Forge::new();
    // Bob contributes only, so none of his commits is a stone, and alice's on the side is none either.
    forge.signed("bob", "Bob's");
    forge.git(&["checkout", "-q", "-b", "side"]);
    let on_the_side = forge.signed("alice", "Alice's, on the side");
    forge.git(&["checkout", "-q", "main"]);
    forge.signed("bob", "Bob's, too");
    let merged = merge(&forge, "bob", "side");
    assert_eq!(stone(forge.offer(&merged), Code::Unauthorised), None);
    assert_eq!(code(forge.offer(&on_the_side)), Ok(2), "though by itself it would be fine");
    // An unsigned commit makes all above it unfit, however they are signed.
    let good = forge.signed("alice", "Good");
    forge.unsigned("Slipped in");
    forge.signed("alice", "On top");
    let tip = forge.signed("alice", "And again");
    assert_eq!(stone(forge.offer(&tip), Code::Unsigned), Some(good));
}

#[test]
fn a_side_branch_that_is_not_signed_spoils_its_merge_and_nothing_below() {
    let forge = Forge::new();
    let good = forge.signed("alice", "Good");
    forge.git(&["checkout", "-q", "-b", "side", forge.introduction.as_str()]);
    forge.unsigned("Unsigned, on the side");
    forge.git(&["checkout", "-q", "main"]);
    merge(&forge, "alice", "side");
    let tip = forge.signed("alice", "On top");
    assert_eq!(stone(forge.offer(&tip), Code::Unsigned), Some(good));
}

#[test]
fn a_stone_descends_from_the_anchor() {
    // First parents lead past the anchor, so what stands on them below the merge was never on top of it.
    let forge = Forge::new();
    let anchor = forge.signed("alice", "Accepted");
    forge.git(&["checkout", "-q", "-b", "other", forge.introduction.as_str()]);
    let beside = forge.signed("alice", "Beside it");
    let joined = merge(&forge, "alice", "main");
    let tip = forge.unsigned("On top");
    assert_eq!(stone(offer_after(&forge, &after(&anchor), &tip), Code::Unsigned), Some(joined));
    forge.git(&["reset", "-q", "--hard", beside.as_str()]);
    let joined = merge(&forge, "bob", "main");
    assert_eq!(stone(offer_after(&forge, &after(&anchor), &joined), Code::Unauthorised), None);
}

#[test]
fn what_has_no_range_and_what_is_on_trial_has_no_stone() {
    let forge = Forge::new();
    let anchor = forge.signed("alice", "Accepted");
    forge.git(&["reset", "-q", "--hard", "HEAD~1"]);
    forge.signed("alice", "Beside it");
    let tip = forge.unsigned("On top");
    assert_eq!(stone(offer_after(&forge, &after(&anchor), &tip), Code::NotFastForward), None);
    let (main, policy) = (forge.anchor(), forge.policy());
    let tried = trust::verify_test(&mut forge.read(), &tip, &main, None, &policy, &TEST);
    assert_eq!(stone(tried, Code::Unsigned), None);
}

/// A straight history in memory with SHA-256 ids: `signed` commits by alice above the first, then one by nobody.
fn long(signed: usize) -> (HashMap<Oid, Vec<u8>>, Vec<Oid>) {
    let id = |raw: &[u8]| -> Oid {
        let digest = Sha256::digest([format!("commit {}\0", raw.len()).as_bytes(), raw].concat());
        digest.iter().map(|b| format!("{b:02x}")).collect::<String>().parse().unwrap()
    };
    let (alice, tree) = (Key::plain(1), "ab".repeat(32));
    let (mut objects, mut ids) = (HashMap::new(), Vec::<Oid>::new());
    for n in 0..signed + 2 {
        let parent = ids.last().map(|p| format!("parent {p}\n")).unwrap_or_default();
        let people = format!("A <a@x> {} +0000", 1_700_000_000 + n);
        let payload = format!("tree {tree}\n{parent}author {people}\ncommitter {people}\n\n{n}\n");
        let armor = Sshsig::default().sign(&alice, payload.as_bytes());
        let raw = match n <= signed {
            true => with_header(payload.as_bytes(), "gpgsig-sha256", &armor),
            false => payload.into_bytes(),
        };
        ids.push(id(&raw));
        objects.insert(id(&raw), raw);
    }
    (objects, ids)
}

#[test]
fn the_search_for_a_stone_reads_each_commit_once_more() {
    const SIGNED: usize = 200;
    let (objects, ids) = long(SIGNED);
    let reads = Cell::new(0);
    let mut read = |id: &Oid| {
        reads.set(reads.get() + 1);
        Ok(objects[id].clone())
    };
    let anchor = AnchorFacts::introduction(ids[0].clone());
    let policy = Forge::new().policy();
    let tip = &ids[SIGNED + 1];
    let verdict = trust::verify_main(&mut read, tip, &anchor, &policy, &MAIN);
    assert_eq!(stone(verdict, Code::Unsigned), Some(ids[SIGNED].clone()));
    // The anchor once, for its date; all others for the walk, for the verdict, for the stone.
    assert_eq!(reads.get(), 1 + 3 * (SIGNED + 1));
}

fn vouch(forge: &Forge) -> Policy {
    let rules = Rules { merges: Merges::Vouch, ..Rules::default() };
    Policy::new(forge.policy().signers().to_vec(), vec![], rules).unwrap()
}

fn offer_vouched(forge: &Forge, anchor: &AnchorFacts, tip: &Oid) -> Result<Accepted, Refusal> {
    trust::verify_main(&mut forge.read(), tip, anchor, &vouch(forge), &MAIN)
}

#[test]
fn a_signed_merge_vouches_for_its_side_branch_only_where_that_is_allowed() {
    let forge = Forge::new();
    forge.signed("alice", "One");
    forge.git(&["checkout", "-q", "-b", "pull-request", "main~1"]);
    forge.unsigned("By somebody without a key");
    forge.unsigned("And another");
    forge.git(&["checkout", "-q", "main"]);
    let merged = merge(&forge, "alice", "pull-request");
    assert_eq!(code(forge.offer(&merged)), Err(Code::Unsigned));
    assert_eq!(code(offer_vouched(&forge, &forge.anchor(), &merged)), Ok(2));
    // The line itself is verified as ever.
    forge.unsigned("On the line");
    let tip = forge.signed("alice", "On top");
    let verdict = offer_vouched(&forge, &forge.anchor(), &tip);
    assert_eq!(stone(verdict, Code::Unsigned), Some(merged));
}

#[test]
fn a_merge_that_is_not_signed_vouches_for_nothing() {
    let forge = Forge::new();
    forge.git(&["checkout", "-q", "-b", "side"]);
    forge.signed("alice", "Side");
    forge.git(&["checkout", "-q", "main"]);
    forge.git(&["merge", "-q", "--no-ff", "-m", "Merge", "side"]);
    assert_eq!(code(offer_vouched(&forge, &forge.anchor(), &forge.id("main"))), Err(Code::Unsigned));
}

#[test]
fn the_anchor_must_be_on_the_line_of_first_parents() {
    // Alice pulls into a branch of hers, so that main becomes the second parent: with every commit signed that is fine,
    // but a merge that vouches for main vouches for whatever the server had put there.
    let forge = Forge::new();
    let anchor = forge.signed("alice", "Accepted");
    forge.git(&["checkout", "-q", "-b", "hers", forge.introduction.as_str()]);
    forge.signed("alice", "Hers");
    let pulled = merge(&forge, "alice", "main");
    assert_eq!(code(offer_after(&forge, &after(&anchor), &pulled)), Ok(2));
    let refusal = offer_vouched(&forge, &after(&anchor), &pulled).unwrap_err();
    assert_eq!(refusal.code, Code::NotFastForward);
    assert!(refusal.text.contains("does not descend by first parents from"), "{refusal}");
    // On trial the same holds.
    let tried = forge.signed("alice", TRY);
    let policy = vouch(&forge);
    let verdict = trust::verify_test(&mut forge.read(), &tried, &after(&anchor), None, &policy, &TEST);
    assert_eq!(code(verdict), Err(Code::NotOnMain));
}

#[test]
fn a_history_of_its_own_is_foreign_unless_a_merge_vouches_for_it() {
    let forge = Forge::new();
    forge.git(&["checkout", "-q", "--orphan", "other"]);
    forge.unsigned("Elsewhere");
    forge.git(&["checkout", "-q", "main"]);
    let merge = ["merge", "-q", "--allow-unrelated-histories", "-S", "-m", "Merge", "other"];
    forge.git(&[&["-c", "user.signingkey=alice"], &merge[..]].concat());
    let tip = forge.id("main");
    assert_eq!(code(forge.offer(&tip)), Err(Code::ForeignRoot));
    assert_eq!(code(offer_vouched(&forge, &forge.anchor(), &tip)), Ok(1));
}
