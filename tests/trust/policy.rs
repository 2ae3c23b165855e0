//! The `P` rows of static mode: who signed where in a history, and when; and what the configuration may not say.

use pullagent::config;
use pullagent::model::Oid;
use pullagent::trust::{
    self, Accepted, AnchorFacts, Code, Context, FUTURE_SECS_MAX, ListedKey, Policy, PublicKey, Refusal, Role,
    Rules, Signer, TEST_FUTURE_SECS_MAX,
};

use super::forge::{Forge, MAIN, NOW, TEST};
use super::ranges::{after, code, offer_after};
use super::sshsig::Key;

/// What commits are dated in these tests unless they say otherwise.
const THEN: u64 = 1_700_000_000;

const DAY: u64 = 24 * 60 * 60;

/// Alice may deploy and her key counts always; carol may, too, but her key (mallory's, on disk) counts within a window.
fn with_carol(forge: &Forge, valid_from: Option<u64>, valid_until: Option<u64>) -> Policy {
    let signer = |name: &str, key| Signer {
        name: name.into(),
        keys: vec![key],
        roles: [Role::Deployer].into(),
        test_hosts: None,
    };
    let carols = ListedKey { public: forge.mallory.public(), valid_from, valid_until };
    let signers = vec![signer("alice", forge.alice.public().into()), signer("carol", carols)];
    Policy::new(signers, vec![], Rules::default()).unwrap()
}

/// Offers `tip` on top of `anchor` to a host whose clock says `now`.
fn offer_at(
    forge: &Forge,
    policy: &Policy,
    anchor: &AnchorFacts,
    tip: &Oid,
    now: u64,
) -> Result<Accepted, Refusal> {
    trust::verify_main(&mut forge.read(), tip, anchor, policy, &Context { now, ..MAIN })
}

#[test]
fn p03_unsigned_under_a_signed_tip() {
    let forge = Forge::new();
    forge.signed("alice", "One");
    let slipped_in = forge.unsigned("Slipped in");
    let tip = forge.signed("alice", "Two");
    let refusal = forge.offer(&tip).unwrap_err();
    assert_eq!((refusal.code, refusal.commit), (Code::Unsigned, Some(slipped_in)));
}

#[test]
fn p10_expired_key_with_a_back_dated_tip() {
    let forge = Forge::new();
    // Mallory stole carol's key, which expired a year ago, and gives git a date from before.
    let until = NOW - 365 * DAY;
    let policy = with_carol(&forge, None, Some(until));
    let tip = forge.signed_at(until - DAY, "mallory", "Back-dated");
    let verdict = offer_at(&forge, &policy, &forge.anchor(), &tip, NOW);
    let refusal = verdict.unwrap_err();
    assert_eq!(refusal.code, Code::KeyExpired);
    assert!(refusal.text.contains("'carol'") && refusal.text.contains("2026-01-15T"), "{refusal}");
    assert!(!Code::KeyExpired.is_final(), "the clock may be the one that is wrong");
    // Git believes the date that the signer chose.
    let options = format!("carol namespaces=\"git\",valid-before=\"{}\"", "20260115080000Z");
    std::fs::write(forge.path("allowed"), format!("{options} {}\n", forge.mallory.line())).unwrap();
    assert!(forge.git_accepts(&tip), "git rejects: the forgery is not the one meant");
    // With an honest date the window refuses it as well, whatever the clock says.
    let honest = forge.signed_at(until, "mallory", "Not back-dated");
    for now in [NOW, until - 2 * DAY] {
        assert_eq!(code(offer_at(&forge, &policy, &after(&tip), &honest, now)), Err(Code::KeyExpired));
    }
}

#[test]
fn p11_expired_key_inside_and_a_valid_tip() {
    let forge = Forge::new();
    let policy = with_carol(&forge, Some(THEN - DAY), Some(THEN + DAY));
    forge.signed_at(THEN, "mallory", "While it counted");
    let tip = forge.signed_at(NOW, "alice", "On top");
    assert_eq!(code(offer_at(&forge, &policy, &forge.anchor(), &tip, NOW)), Ok(2));
    // The date must fit, though: inside a range, too, a key counts in its time only.
    for (at, expected) in [(THEN + DAY, Code::KeyExpired), (THEN - DAY - 1, Code::KeyNotYetValid)] {
        forge.git(&["reset", "-q", "--hard", forge.introduction.as_str()]);
        let inside = forge.signed_at(at, "mallory", "Out of its time");
        let tip = forge.signed_at(NOW, "alice", "On top");
        let refusal = offer_at(&forge, &policy, &forge.anchor(), &tip, NOW).unwrap_err();
        assert_eq!((refusal.code, refusal.commit), (expected, Some(inside)));
    }
}

#[test]
fn a_key_counts_from_its_first_second_to_the_one_before_its_last() {
    let forge = Forge::new();
    let policy = with_carol(&forge, Some(NOW), Some(NOW + 100));
    let tip = forge.signed_at(NOW + 50, "mallory", "Within");
    let offer = |now| code(offer_at(&forge, &policy, &forge.anchor(), &tip, now));
    assert_eq!(offer(NOW - 1), Err(Code::KeyNotYetValid));
    assert_eq!(offer(NOW), Ok(1));
    assert_eq!(offer(NOW + 99), Ok(1));
    assert_eq!(offer(NOW + 100), Err(Code::KeyExpired));
    assert!(!Code::KeyNotYetValid.is_final());
    assert_eq!(code(offer_at(&forge, &policy, &after(&tip), &tip, NOW + 100)), Ok(0), "what runs goes on");
}

#[test]
fn p12_revoked_key_inside() {
    let forge = Forge::new();
    let bobs = forge.signed("bob", "Bump");
    let tip = forge.signed("alice", "Endorse");
    let policy = forge.policy_with(&[&forge.bob, &forge.mallory], false);
    let refusal = trust::verify_main(&mut forge.read(), &tip, &forge.anchor(), &policy, &MAIN).unwrap_err();
    assert_eq!((refusal.code, refusal.commit.as_ref()), (Code::RevokedKey, Some(&bobs)));
    assert!(refusal.text.ends_with("of 'bob'"), "{refusal}");
    // A key that is revoked and was never listed is called revoked, and what was accepted before stays so.
    let mallorys = forge.signed("mallory", "Evil");
    let offer = |tip: &Oid, anchor: &Oid| {
        code(trust::verify_main(&mut forge.read(), tip, &after(anchor), &policy, &MAIN))
    };
    assert_eq!(offer(&mallorys, &tip), Err(Code::RevokedKey));
    assert_eq!(offer(&tip, &bobs), Ok(1));
    // No date helps: neither one from before the revocation nor a window that fits.
    forge.git(&["reset", "-q", "--hard", tip.as_str()]);
    let old = forge.signed_at(1_000_000_000, "bob", "In 2001");
    assert_eq!(offer(&old, &tip), Err(Code::RevokedKey));
    // Git's own list of revoked keys says the same of the tip.
    std::fs::write(forge.path("revoked"), forge.bob.line()).unwrap();
    assert!(forge.git_accepts(&bobs));
    forge.git(&["config", "gpg.ssh.revocationFile", "revoked"]);
    assert!(!forge.git_accepts(&bobs));
}

#[test]
fn p13_clock_before_the_anchor() {
    let forge = Forge::new();
    let anchor = after(&forge.signed_at(NOW, "alice", "Accepted"));
    let until = NOW - 30 * DAY;
    let policy = with_carol(&forge, None, Some(until));
    // A clock that was set back does not bring carol's key back to life: the anchor is signed, and newer.
    let stolen = forge.signed_at(until - DAY, "mallory", "Back-dated");
    for now in [0, until - DAY, NOW - 1] {
        assert_eq!(code(offer_at(&forge, &policy, &anchor, &stolen, now)), Err(Code::KeyExpired), "{now}");
    }
    // An honest tip is accepted by a clock that is a little behind, and waits for one that is far behind.
    forge.git(&["reset", "-q", "--hard", "HEAD~1"]);
    let honest = forge.signed_at(NOW + 60, "alice", "Next");
    assert_eq!(code(offer_at(&forge, &policy, &anchor, &honest, NOW - FUTURE_SECS_MAX + 60)), Ok(1));
    assert_eq!(code(offer_at(&forge, &policy, &anchor, &honest, 0)), Err(Code::FutureCommit));
}

#[test]
fn p19_clock_jumps_to_2099_once() {
    let forge = Forge::new();
    let policy = with_carol(&forge, None, Some(NOW + 365 * DAY));
    let tip = forge.signed_at(NOW, "mallory", "By carol");
    let in_2099 = 4_080_000_000;
    let refusal = offer_at(&forge, &policy, &forge.anchor(), &tip, in_2099).unwrap_err();
    assert_eq!(refusal.code, Code::KeyExpired);
    assert!(!refusal.code.is_final(), "nobody may remember it");
    let next = offer_at(&forge, &policy, &forge.anchor(), &tip, NOW).unwrap();
    assert_eq!(next.anchor.committer_time, Some(i64::try_from(NOW).unwrap()), "the floor is a signed date");
}

#[test]
fn p20_tip_dated_in_the_future() {
    let forge = Forge::new();
    let message = "Later\n\nDeploy-To: main test-web1";
    let ahead = |secs: u64| forge.signed_at(NOW + secs, "alice", message);
    assert_eq!(code(forge.offer(&ahead(FUTURE_SECS_MAX))), Ok(1));
    let late = ahead(FUTURE_SECS_MAX + 1);
    assert_eq!(code(forge.offer(&late)), Err(Code::FutureCommit));
    assert!(!Code::FutureCommit.is_final());
    let above = forge.signed_at(NOW, "alice", "Now");
    assert_eq!(code(forge.offer(&above)), Ok(3), "dates below the tip are their signers' business");
    let test = |tip: &Oid| {
        code(trust::verify_test(&mut forge.read(), tip, &after(&above), None, &forge.policy(), &TEST))
    };
    assert_eq!(test(&ahead(TEST_FUTURE_SECS_MAX)), Ok(1));
    assert_eq!(test(&ahead(TEST_FUTURE_SECS_MAX + 1)), Err(Code::FutureCommit));
    assert_eq!(code(offer_after(&forge, &after(&late), &late)), Ok(0), "the anchor may be from the future");
}

#[test]
fn a_contributor_may_sign_below_the_tip_but_not_the_tip() {
    let forge = Forge::new();
    let bobs = forge.signed("bob", "Bump");
    let refusal = forge.offer(&bobs).unwrap_err();
    assert_eq!(refusal.code, Code::Unauthorised);
    assert!(refusal.text.ends_with("is signed by 'bob', who may contribute but not deploy"), "{refusal}");
    let endorsed = forge.signed("alice", "Endorse");
    let accepted = forge.offer(&endorsed).unwrap();
    let signers: Vec<_> = accepted.lines.iter().map(|l| l.signer.as_str()).collect();
    assert_eq!(signers, ["alice", "bob"]);
}

#[test]
fn test_hosts_say_whose_test_branch_a_signer_may_move() {
    let forge = Forge::new();
    let tip = forge.signed("alice", "Try\n\nDeploy-To: test-web1, test-web2");
    let by = |role, hosts: Option<&[&str]>| {
        let keep = Signer {
            name: "keeper".into(),
            keys: vec![forge.bob.public().into()],
            roles: [Role::Deployer].into(),
            test_hosts: None,
        };
        let test_hosts = hosts.map(|hosts| hosts.iter().map(|h| (*h).to_owned()).collect());
        let keys = vec![forge.alice.public().into()];
        let alice = Signer { name: "alice".into(), keys, roles: [role].into(), test_hosts };
        Policy::new(vec![keep, alice], vec![], Rules::default()).unwrap()
    };
    let test = |policy: &Policy, host: &str| {
        let branch = format!("test-{host}");
        let context = Context { host, branch: &branch, now: NOW };
        trust::verify_test(&mut forge.read(), &tip, &forge.anchor(), None, policy, &context)
    };
    let main = |policy: &Policy| code(offer_at(&forge, policy, &forge.anchor(), &tip, NOW)).err();
    let everywhere = by(Role::Deployer, None);
    assert_eq!((code(test(&everywhere, "web1")), code(test(&everywhere, "web2"))), (Ok(1), Ok(1)));
    let one = by(Role::Deployer, Some(&["web1"]));
    assert_eq!(code(test(&one, "web1")), Ok(1));
    let refusal = test(&one, "web2").unwrap_err();
    assert_eq!(refusal.code, Code::Unauthorised);
    assert!(refusal.text.ends_with("'alice', who may not move the test branch of 'web2'"), "{refusal}");
    assert_eq!(code(test(&by(Role::Deployer, Some(&[])), "web1")), Err(Code::Unauthorised));
    // The main line is another matter: there the role counts, and nothing else.
    assert_eq!(
        main(&by(Role::Deployer, Some(&[]))),
        Some(Code::WrongTarget),
        "authorised, but not meant for it"
    );
    assert_eq!(code(test(&by(Role::Contributor, None), "web1")), Err(Code::Unauthorised));
    let tester = by(Role::Contributor, Some(&["web1"]));
    assert_eq!((code(test(&tester, "web1")), code(test(&tester, "web2"))), (Ok(1), Err(Code::Unauthorised)));
    assert_eq!(main(&tester), Some(Code::Unauthorised));
}

/// Returns what is wrong with the golden configuration after `edit`.
fn config_error(edit: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut json: serde_json::Value = serde_json::from_str(include_str!("../fixtures/config.json")).unwrap();
    edit(&mut json["trust"]);
    let error = config::parse(json.to_string().as_bytes()).unwrap_err();
    let mut chain = vec![error.to_string()];
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        chain.push(cause.to_string());
        source = cause.source();
    }
    chain.join(": ")
}

#[test]
fn p14_keys_as_allowed_signers_files_have_them() {
    let line = Key::plain(1).line();
    let forms = [
        format!("* {line}"),
        format!("!alice,* {line}"),
        format!("alice {line}"),
        format!("alice cert-authority {line}"),
        format!("cert-authority {line}"),
        format!("alice namespaces=\"git\" {line}"),
        format!("namespaces=\"git\" {line}"),
        format!("no-such-option {line}"),
        format!("{line}\r\n{line}"),
        format!("{line}\0"),
        format!("# {line}"),
        "garbage".to_owned(),
        String::new(),
    ];
    for form in forms {
        // A form is refused on its own, and beside a good key, which OpenSSH would go on with.
        for keys in [vec![form.clone()], vec![Key::plain(2).line(), form.clone()]] {
            let error = config_error(|t| t["signers"]["alice"]["keys"] = keys.into());
            assert!(error.contains("'trust.signers.alice.keys'"), "{form:?}: {error}");
        }
    }
    let twice = config_error(|t| t["signers"]["bob"] = t["signers"]["alice"].clone());
    assert!(twice.contains("is listed for 'alice' and again for 'bob'"), "{twice}");
    let other = Key::plain(1).line().replace("ssh-ed25519 ", "ssh-rsa ");
    let error = config_error(|t| t["signers"]["alice"]["keys"] = vec![other].into());
    assert!(error.contains("keys of type 'ssh-rsa' are not accepted"), "{error}");
}

#[test]
fn p15_a_revocation_that_cannot_be_read_stops_everything() {
    // Git warns about a missing file and accepts; a path, a fingerprint or a KRL is no key here, so nothing starts.
    let forge = Forge::new();
    let tip = forge.signed("alice", "One");
    forge.git(&["config", "gpg.ssh.revocationFile", "/nonexistent"]);
    assert!(forge.git_accepts(&tip));
    let fingerprint = Key::plain(1).public().fingerprint();
    for revoked in ["/etc/pullagent/revoked", "", "ssh-ed25519", fingerprint.as_str(), "SSHKRL\n"] {
        let error = config_error(|t| t["revokedKeys"] = vec![revoked].into());
        assert!(error.contains("'trust.revokedKeys'"), "{revoked:?}: {error}");
    }
    // The agent does not start, with a revocation that it can't read as little as without its configuration.
    let root = forge.path("root");
    std::fs::create_dir(&root).unwrap();
    let golden = include_str!("../fixtures/config.json");
    let bad = golden.replace(r#""revokedKeys": []"#, r#""revokedKeys": ["/etc/pullagent/revoked"]"#);
    assert_ne!(golden, bad);
    std::fs::write(forge.path("bad.json"), bad).unwrap();
    for (file, complaint) in
        [("bad.json", "'trust.revokedKeys'"), ("none.json", "failed to read configuration")]
    {
        let file = forge.path(file);
        let args = ["--root", root.to_str().unwrap(), "--config", file.to_str().unwrap(), "run"];
        let output = forge.run(env!("CARGO_BIN_EXE_pullagent"), &args, &[], b"");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(complaint), "{said}");
        assert_eq!(std::fs::read_dir(&root).unwrap().count(), 0, "it began nothing");
    }
}

#[test]
fn what_else_the_trust_section_may_not_say() {
    let key = Key::plain(1).line();
    let one =
        |member: &str, value: serde_json::Value| config_error(|t| t["signers"]["alice"][member] = value);
    let windowed = |from: &str, until: &str| {
        one("keys", serde_json::json!([{ "key": key, "validFrom": from, "validUntil": until }]))
    };
    let check = |error: String, words: &str| assert!(error.contains(words), "'{words}' in {error}");
    check(windowed("2027-01-01", "2027-01-01"), "is never valid");
    check(windowed("2027-02-30", "2028-01-01"), "'2027-02-30' is not a time such as");
    check(windowed("tomorrow", "2028-01-01"), "'tomorrow' is not a time such as");
    check(windowed("1969-12-31", "2028-01-01"), "'1969-12-31' is not a time such as");
    check(one("keys", serde_json::json!([7])), "a public key, or an object with 'key'");
    check(one("keys", serde_json::json!([])), "the signer 'alice' has no key");
    check(one("roles", serde_json::json!([])), "the signer 'alice' has no role");
    check(one("roles", serde_json::json!(["contributor"])), "no signer has the role 'deployer'");
    check(one("roles", serde_json::json!(["editor"])), "unknown variant `editor`");
    check(one("testHosts", serde_json::json!(["web 1"])), "'trust.signers.alice.testHosts'");
    check(config_error(|t| t["refBinding"] = "none".into()), "unknown variant `none`");
    check(config_error(|t| t["merges"] = "tip".into()), "unknown variant `tip`");
    check(config_error(|t| t["mode"] = "managed".into()), "unknown variant `managed`");
    let weak = PublicKey::parse(&super::signatures::identity_key()).unwrap_err().to_string();
    check(one("keys", vec![super::signatures::identity_key()].into()), &weak);
    check(weak, "weak-key");
}

#[test]
fn trust_bindings_of_the_configuration_reach_the_policy() {
    let mut json: serde_json::Value = serde_json::from_str(include_str!("../fixtures/config.json")).unwrap();
    json["trust"]["refBinding"] = "strict".into();
    json["trust"]["merges"] = "vouch".into();
    let line = Key::plain(1).line();
    let window = ("2027-01-31", "2027-01-31T12:00:00Z");
    let keys = serde_json::json!([{ "key": line, "validFrom": window.0, "validUntil": window.1 }]);
    json["trust"]["signers"]["carol"] = serde_json::json!({ "keys": keys, "testHosts": ["web2"] });
    let settings = config::parse(json.to_string().as_bytes()).unwrap().settings;
    let policy = settings.policy().unwrap();
    assert_eq!(policy.ref_binding(), trust::RefBinding::Strict);
    assert_eq!(policy.merges(), trust::Merges::Vouch);
    let carol = &policy.signers()[1];
    let midnight = 1_801_353_600;
    assert_eq!(carol.keys[0].valid_from, Some(midnight));
    assert_eq!(carol.keys[0].valid_until, Some(midnight + DAY / 2));
    assert_eq!((carol.may_test("web1"), carol.may_test("web2")), (false, true));
    let again = config::parse(serde_json::to_string(&settings).unwrap().as_bytes()).unwrap().settings;
    assert_eq!(again, settings);
    assert_ne!(settings.trust_digest(), config::Settings { hostname: "web2".into(), ..again }.trust_digest());
}
