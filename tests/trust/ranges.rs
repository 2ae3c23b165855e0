//! The `R` rows that a history decides: what is wrong with where a tip stands.

use std::cell::Cell;

use pullagent::model::Oid;
use pullagent::trust::{self, Accepted, AnchorFacts, Code, LINES_MAX, Refusal};

use super::forge::{Forge, MAIN, TEST, insert};
use super::sshsig::with_header;

/// The message of a tip that says where it is to be tried.
pub const TRY: &str = "Try\n\nDeploy-To: test-web1";

pub fn code(verdict: Result<Accepted, Refusal>) -> Result<u32, Code> {
    verdict.map(|a| a.commits).map_err(|r| r.code)
}

/// Offers `tip` to a host that has accepted `anchor`.
pub fn offer_after(forge: &Forge, anchor: &AnchorFacts, tip: &Oid) -> Result<Accepted, Refusal> {
    trust::verify_main(&mut forge.read(), tip, anchor, &forge.policy(), &MAIN)
}

pub fn after(id: &Oid) -> AnchorFacts {
    AnchorFacts::introduction(id.clone())
}

#[test]
fn a_chain_is_accepted_and_listed_newest_first() {
    let forge = Forge::new();
    let ids = ["One", "Two", "Three"].map(|subject| forge.signed("alice", subject));
    let accepted = forge.offer(&ids[2]).unwrap();
    let subjects: Vec<_> = accepted.lines.iter().map(|l| l.subject.as_str()).collect();
    assert_eq!(subjects, ["Three", "Two", "One"]);
    assert_eq!((accepted.commits, accepted.committer_time), (3, 1_700_000_000));
    assert_eq!(accepted.tree, forge.id("HEAD^{tree}"));
    assert_eq!((&accepted.anchor.revision, &accepted.anchor.tree), (&ids[2], &Some(accepted.tree.clone())));
    let json = serde_json::to_string(&accepted).unwrap();
    assert!(json.contains("\"payloadSha256\""));
    assert_eq!(serde_json::from_str::<Accepted>(&json).unwrap(), accepted);
}

#[test]
fn the_introduction_itself_needs_no_signature() {
    let forge = Forge::new();
    let accepted = forge.offer(&forge.introduction).unwrap();
    assert_eq!((accepted.commits, accepted.signer.as_deref(), accepted.lines.len()), (0, None, 0));
    let next = forge.signed("alice", "One");
    assert_eq!(code(offer_after(&forge, &accepted.anchor, &next)), Ok(1));
}

#[test]
fn lines_are_bounded_but_every_commit_is_verified() {
    let forge = Forge::new();
    let first = forge.unsigned("not signed");
    let mut raw = forge.raw(&forge.signed("alice", "2"));
    let signed_by_hand = |parent: &Oid| {
        let payload = String::from_utf8(forge.payload()).unwrap();
        let payload = payload.replace(forge.introduction.as_str(), parent.as_str());
        let armor = super::sshsig::Sshsig::default().sign(&forge.alice, payload.as_bytes());
        with_header(payload.as_bytes(), "gpgsig", &armor)
    };
    let mut tip = forge.store("commit", &raw);
    for _ in 0..LINES_MAX {
        raw = signed_by_hand(&tip);
        tip = forge.store("commit", &raw);
    }
    let accepted = offer_after(&forge, &after(&first), &tip).unwrap();
    assert_eq!((accepted.commits as usize, accepted.lines.len()), (LINES_MAX + 1, LINES_MAX));
    assert_eq!(code(forge.offer(&tip)), Err(Code::Unsigned));
}

#[test]
fn nothing_below_the_anchor_is_read_on_a_straight_line() {
    let forge = Forge::new();
    let anchor = forge.signed("alice", "One");
    let tip = forge.signed("alice", "Two");
    let mut read = forge.read();
    let introduction = forge.introduction.clone();
    let mut watched = |id: &Oid| {
        assert_ne!(*id, introduction);
        read(id)
    };
    let verdict = trust::verify_main(&mut watched, &tip, &after(&anchor), &forge.policy(), &MAIN);
    assert_eq!(code(verdict), Ok(1));
}

#[test]
fn a_merge_of_a_branch_from_below_the_anchor_needs_its_new_commits_signed() {
    for (key, expected) in [(Some("alice"), Ok(2)), (None, Err(Code::Unsigned))] {
        let forge = Forge::new();
        let anchor = forge.signed("alice", "One");
        forge.git(&["checkout", "-q", "-b", "side", "main~1"]);
        match key {
            Some(key) => forge.signed(key, "Side"),
            None => forge.unsigned("Side"),
        };
        forge.git(&["checkout", "-q", "main"]);
        forge.git(&["-c", "user.signingkey=alice", "merge", "-q", "--no-ff", "-S", "-m", "Merge", "side"]);
        assert_eq!(code(offer_after(&forge, &after(&anchor), &forge.id("main"))), expected);
    }
}

#[test]
fn what_the_anchor_already_holds_is_trusted_by_hash() {
    let forge = Forge::new();
    forge.git(&["checkout", "-q", "-b", "old"]);
    let old = forge.unsigned("Old and unsigned");
    forge.git(&["checkout", "-q", "main"]);
    forge.signed("alice", "One");
    forge.git(&["-c", "user.signingkey=alice", "merge", "-q", "--no-ff", "-S", "-m", "Merge", "old"]);
    let anchor = forge.id("main");
    forge.git(&["checkout", "-q", "-b", "more", old.as_str()]);
    forge.signed("alice", "More");
    forge.git(&["checkout", "-q", "main"]);
    forge.git(&["-c", "user.signingkey=alice", "merge", "-q", "--no-ff", "-S", "-m", "Again", "more"]);
    assert_eq!(code(offer_after(&forge, &after(&anchor), &forge.id("main"))), Ok(2));
    assert_eq!(code(forge.offer(&forge.id("main"))), Err(Code::Unsigned));
}

#[test]
fn r08_a_missing_object_is_named_and_not_final() {
    let forge = Forge::new();
    let gone = forge.signed("alice", "One");
    let tip = forge.signed("alice", "Two");
    let mut read = forge.read();
    let mut incomplete = |id: &Oid| match *id == gone {
        true => Err(Refusal::new(Code::MissingObject, Some(id), "gone")),
        false => read(id),
    };
    let verdict = trust::verify_main(&mut incomplete, &tip, &forge.anchor(), &forge.policy(), &MAIN);
    assert_eq!(verdict.as_ref().unwrap_err().commit, Some(gone.clone()));
    assert_eq!(code(verdict), Err(Code::MissingObject));
    let verdict = trust::verify_main(&mut incomplete, &tip, &after(&gone), &forge.policy(), &MAIN);
    assert_eq!(code(verdict), Err(Code::AnchorMissing));
    assert!(!Code::MissingObject.is_final() && !Code::AnchorMissing.is_final());
}

#[test]
fn r10_rollback() {
    let forge = Forge::new();
    let old = forge.signed("alice", "One");
    let anchor = forge.signed("alice", "Two");
    let refusal = offer_after(&forge, &after(&anchor), &old).unwrap_err();
    assert_eq!(refusal.code, Code::NotFastForward);
    assert!(refusal.text.contains("is older than"), "{refusal}");
}

#[test]
fn r11_force_push() {
    let forge = Forge::new();
    let anchor = forge.signed("alice", "One");
    forge.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let sibling = forge.signed("alice", "Another");
    let refusal = offer_after(&forge, &after(&anchor), &sibling).unwrap_err();
    assert_eq!(refusal.code, Code::NotFastForward);
    assert!(refusal.text.contains("does not descend from"), "{refusal}");
}

#[test]
fn r12_a_second_id_of_the_anchor_does_not_wedge_the_host() {
    let forge = Forge::new();
    let honest = forge.signed("alice", "One");
    let (payload, armor) = forge.split(&forge.raw(&honest));
    let variant = with_header(&payload, "gpgsig", &format!("{armor}\n"));
    let (variant, accepted) = forge.offer_raw(&variant);
    let anchor = accepted.unwrap().anchor;
    assert_eq!(anchor.revision, variant);
    let child = forge.signed("alice", "Two");
    assert_eq!(code(offer_after(&forge, &anchor, &child)), Ok(1));
    assert_eq!(code(offer_after(&forge, &anchor, &honest)), Err(Code::SameContent), "nothing new to deploy");
    assert_eq!(code(offer_after(&forge, &anchor, &variant)), Ok(0));
    // Anybody can make such ids, without any key; none of them is another revision to deploy.
    let (forged, verdict) = forge.offer_raw(&with_header(&payload, "gpgsig", "garbage"));
    assert!(verdict.is_err());
    assert_eq!(code(offer_after(&forge, &anchor, &forged)), Err(Code::SameContent));
    let tested = trust::verify_test(&mut forge.read(), &forged, &anchor, None, &forge.policy(), &TEST);
    assert_eq!(code(tested), Err(Code::SameContent));
    assert_eq!(code(offer_after(&forge, &after(&variant), &child)), Ok(1), "an introduction heals too");
    let trial = forge.signed("alice", TRY);
    let verdict = trust::verify_test(&mut forge.read(), &trial, &anchor, None, &forge.policy(), &TEST);
    assert_eq!(code(verdict), Ok(2));
    let unsigned = forge.unsigned("Three");
    assert_eq!(code(offer_after(&forge, &anchor, &unsigned)), Err(Code::Unsigned));
    // The same tree and words signed anew are another commit, not the anchor.
    forge.git(&["reset", "-q", "--hard", "main~4"]);
    let again = forge.signed_at(1_700_000_001, "alice", "One");
    assert_eq!(code(offer_after(&forge, &anchor, &again)), Err(Code::NotFastForward));
}

#[test]
fn r16_an_older_test_tip() {
    let forge = Forge::new();
    let first = forge.signed_at(1_700_000_100, "alice", TRY);
    forge.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let second = forge.signed_at(1_700_000_200, "alice", TRY);
    let offer = |tip: &Oid, previous: Option<(&Oid, i64)>| {
        let main = forge.anchor();
        code(trust::verify_test(&mut forge.read(), tip, &main, previous, &forge.policy(), &TEST))
    };
    assert_eq!(offer(&first, None), Ok(1));
    assert_eq!(offer(&second, Some((&first, 1_700_000_100))), Ok(1));
    assert_eq!(offer(&second, Some((&second, 1_700_000_200))), Ok(1), "the same tip again");
    assert_eq!(offer(&first, Some((&second, 1_700_000_200))), Err(Code::TestRollback));
    assert_eq!(offer(&first, Some((&second, 1_700_000_100))), Err(Code::TestRollback), "no rise");
}

#[test]
fn r17_a_test_branch_from_elsewhere() {
    let forge = Forge::new();
    let main = forge.signed("alice", "Main");
    forge.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let tip = forge.signed("alice", "Beside");
    let verdict = trust::verify_test(&mut forge.read(), &tip, &after(&main), None, &forge.policy(), &TEST);
    assert_eq!(code(verdict), Err(Code::NotOnMain));
    let behind = trust::verify_test(
        &mut forge.read(),
        &forge.introduction,
        &after(&main),
        None,
        &forge.policy(),
        &TEST,
    );
    assert_eq!(code(behind), Err(Code::NotOnMain));
}

#[test]
fn r18_another_repository_with_the_same_key() {
    let forge = Forge::new();
    forge.git(&["checkout", "-q", "--orphan", "other"]);
    let other = forge.signed("alice", "Elsewhere");
    assert_eq!(code(forge.offer(&other)), Err(Code::NotFastForward));
    forge.git(&["checkout", "-q", "main"]);
    let merge = ["merge", "-q", "--allow-unrelated-histories", "-S", "-m", "Merge", "other"];
    forge.git(&[&["-c", "user.signingkey=alice"], &merge[..]].concat());
    let refusal = forge.offer(&forge.id("main")).unwrap_err();
    assert_eq!((refusal.code, refusal.commit), (Code::ForeignRoot, Some(other)));
}

#[test]
fn o12_ids_of_another_hash_function() {
    let forge = Forge::new();
    let foreign = "ab".repeat(32).parse().unwrap();
    assert_eq!(code(forge.offer(&foreign)), Err(Code::ObjectFormat));
}

#[test]
fn a_report_judges_every_commit() {
    let forge = Forge::new();
    forge.signed("alice", "One");
    forge.unsigned("Two");
    forge.signed("mallory", "Three");
    let tip = forge.signed("bob", "Four");
    let report =
        trust::verify_range_report(&mut forge.read(), &tip, &forge.anchor(), &forge.policy(), &MAIN).unwrap();
    let said = |line: &trust::CommitLine| {
        let verdict = line.verdict.as_ref().map(|s| s.signer.clone()).map_err(|r| r.code);
        (line.subject.clone(), verdict)
    };
    let expected = [
        ("Four".to_owned(), Err(Code::Unauthorised)),
        ("Three".to_owned(), Err(Code::UnknownKey)),
        ("Two".to_owned(), Err(Code::Unsigned)),
        ("One".to_owned(), Ok("alice".to_owned())),
    ];
    assert_eq!(report.lines.iter().map(said).collect::<Vec<_>>(), expected);
    assert_eq!((report.refused, report.left_off), (3, 0));
    forge.git(&["checkout", "-q", "--orphan", "other"]);
    let other = forge.signed("alice", "Elsewhere");
    let none = trust::verify_range_report(&mut forge.read(), &other, &forge.anchor(), &forge.policy(), &MAIN);
    assert_eq!(none.unwrap_err().code, Code::NotFastForward);
}

#[test]
fn an_anchor_that_breaks_every_rule_is_still_trusted_by_hash() {
    let forge = Forge::new();
    let odd = insert(&forge.raw(&forge.signed("mallory", "Odd")), true, "gpgsig-evil x\n");
    let odd = forge.store("commit", &odd);
    forge.git(&["reset", "-q", "--hard", odd.as_str()]);
    let tip = forge.signed("alice", "One");
    assert_eq!(code(offer_after(&forge, &after(&odd), &tip)), Ok(1));
    let reads = Cell::new(0);
    let mut read = forge.read();
    let mut counted = |id: &Oid| {
        reads.set(reads.get() + 1);
        read(id)
    };
    trust::verify_main(&mut counted, &tip, &after(&odd), &forge.policy(), &MAIN).unwrap();
    assert_eq!(reads.get(), 3, "the anchor, and the tip for the walk and for the verdict");
}
