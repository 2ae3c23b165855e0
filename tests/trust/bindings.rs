//! Rows R13 to R15: a commit is signed for one branch and shown as another.

use pullagent::model::Oid;
use pullagent::trust::{self, Accepted, Code, Context, Policy, RefBinding, Refusal, Rules};

use super::forge::{Forge, MAIN, TEST};
use super::ranges::{TRY, after, code};

fn strict(forge: &Forge) -> Policy {
    let rules = Rules { ref_binding: RefBinding::Strict, ..Rules::default() };
    Policy::new(forge.policy().signers().to_vec(), vec![], rules).unwrap()
}

fn test(forge: &Forge, tip: &Oid, context: &Context<'_>) -> Result<Accepted, Refusal> {
    trust::verify_test(&mut forge.read(), tip, &forge.anchor(), None, &forge.policy(), context)
}

fn main_strictly(forge: &Forge, tip: &Oid) -> Result<Accepted, Refusal> {
    trust::verify_main(&mut forge.read(), tip, &forge.anchor(), &strict(forge), &MAIN)
}

/// Makes a commit as people do: with a trailer, in the words of the advice.
fn bound(forge: &Forge, to: &str) -> Oid {
    let trailer = format!("Deploy-To: {to}");
    let key = ["-c", "user.signingkey=alice"];
    let commit = ["commit", "-q", "--allow-empty", "-S", "-m", "Work", "--trailer", trailer.as_str()];
    forge.git(&[&key[..], &commit].concat());
    forge.id("HEAD")
}

#[test]
fn r13_unfinished_work_shown_as_main() {
    let forge = Forge::new();
    let said = bound(&forge, "wip");
    let refusal = forge.offer(&said).unwrap_err();
    assert_eq!((refusal.code, refusal.commit.as_ref()), (Code::WrongTarget, Some(&said)));
    assert!(refusal.text.ends_with("says 'Deploy-To: wip', and this is 'main'"), "{refusal}");
    assert!(Code::WrongTarget.is_final());
    // Work that says nothing can be shown as main; that is what strict is for.
    forge.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let unsaid = forge.signed("alice", "Work");
    assert_eq!(code(forge.offer(&unsaid)), Ok(1));
    let refusal = main_strictly(&forge, &unsaid).unwrap_err();
    assert_eq!(refusal.code, Code::WrongTarget);
    assert!(refusal.text.ends_with("has no line 'Deploy-To: main' in its message"), "{refusal}");
    let meant = bound(&forge, "main");
    assert_eq!(code(main_strictly(&forge, &meant)), Ok(2), "only the tip has to say so");
    let unmoved = trust::verify_main(&mut forge.read(), &unsaid, &after(&unsaid), &strict(&forge), &MAIN);
    assert_eq!(code(unmoved), Ok(0), "what was accepted stays so");
}

#[test]
fn r14_test_commit_as_main_and_main_commit_as_test() {
    let forge = Forge::new();
    let tried = forge.signed("alice", TRY);
    assert_eq!(code(test(&forge, &tried, &TEST)), Ok(1));
    assert_eq!(code(forge.offer(&tried)), Err(Code::WrongTarget));
    // Merged, or with a signed commit on top, it becomes main.
    let on_top = forge.signed("alice", "Take it");
    assert_eq!(code(forge.offer(&on_top)), Ok(2));
    assert_eq!(code(test(&forge, &on_top, &TEST)), Err(Code::WrongTarget));
    forge.git(&["checkout", "-q", "-b", "side", forge.introduction.as_str()]);
    forge.signed("alice", "Meanwhile");
    let merge = ["merge", "-q", "--no-ff", "-S", "-m", "Merge", tried.as_str()];
    forge.git(&[&["-c", "user.signingkey=alice"], &merge[..]].concat());
    assert_eq!(code(forge.offer(&forge.id("HEAD"))), Ok(3));
    // One commit can be meant for both.
    let both = bound(&forge, "main test-web1");
    assert_eq!((code(forge.offer(&both)), code(test(&forge, &both, &TEST))), (Ok(4), Ok(4)));
    // The accepted main itself on the test branch is nothing to try, and nothing to refuse.
    let main = after(&on_top);
    let verdict = trust::verify_test(&mut forge.read(), &on_top, &main, None, &forge.policy(), &TEST);
    assert_eq!(code(verdict), Ok(0));
}

#[test]
fn r15_test_tip_of_another_host() {
    let forge = Forge::new();
    let tried = forge.signed("alice", TRY);
    let web2 = Context { host: "web2", branch: "test-web2", ..TEST };
    let refusal = test(&forge, &tried, &web2).unwrap_err();
    assert_eq!(refusal.code, Code::WrongTarget);
    assert!(refusal.text.ends_with("says 'Deploy-To: test-web1', and this is 'test-web2'"), "{refusal}");
    // A prefix is another branch.
    let web10 = Context { host: "web10", branch: "test-web10", ..TEST };
    assert_eq!(code(test(&forge, &tried, &web10)), Err(Code::WrongTarget));
}

#[test]
fn a_binding_to_nothing_goes_nowhere() {
    let forge = Forge::new();
    let parked = forge.signed("alice", "Parked\n\nDeploy-To:");
    assert_eq!(code(forge.offer(&parked)), Err(Code::WrongTarget));
    assert_eq!(code(test(&forge, &parked, &TEST)), Err(Code::WrongTarget));
}

#[test]
fn a_report_judges_the_tip_for_its_branch() {
    let forge = Forge::new();
    forge.signed("alice", "One");
    let tip = forge.signed("alice", TRY);
    let (anchor, policy) = (forge.anchor(), forge.policy());
    let codes = |report: &trust::RangeReport| -> Vec<Option<Code>> {
        report.lines.iter().map(|l| l.verdict.as_ref().err().map(|r| r.code)).collect()
    };
    let main = trust::verify_range_report(&mut forge.read(), &tip, &anchor, &policy, &MAIN).unwrap();
    assert_eq!(codes(&main), [Some(Code::WrongTarget), None]);
    let test = trust::verify_test_report(&mut forge.read(), &tip, &anchor, &policy, &TEST).unwrap();
    assert_eq!((codes(&test), test.refused), (vec![None, None], 0));
    let signed = test.lines[0].verdict.as_ref().unwrap();
    assert_eq!(serde_json::to_string(signed).unwrap(), r#"{"signer":"alice","roles":["deployer"]}"#);
    let begin = &forge.introduction;
    let behind = trust::verify_test_report(&mut forge.read(), begin, &after(&tip), &policy, &TEST);
    assert_eq!(behind.unwrap_err().code, Code::NotOnMain);
}
