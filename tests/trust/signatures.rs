//! The `S` rows: what is wrong with one signature.

use pullagent::trust::{Code, KeyError, PublicKey};

use super::forge::{Forge, Git, insert, replace};
use super::sshsig::{Bend, Key, PLAIN, SK, Sshsig, armor, dearmor, strings, with_header};

/// Returns a repository and a commit in it that git signed with alice's plain key.
fn real() -> (Forge, Vec<u8>) {
    let forge = Forge::new();
    let id = forge.signed("alice", "Open the door");
    let raw = forge.raw(&id);
    (forge, raw)
}

/// Checks one signature made by hand: alice's plain key over the usual commit.
fn by_hand(sig: Sshsig, code: Code, git: Git) {
    let forge = Forge::new();
    forge.refuses(&forge.by_hand(&forge.alice, &sig), code, git);
}

/// Checks a second way to write the real signature `armor` of the usual commit.
fn rewritten(code: Code, git: Git, rewrite: fn(&str) -> String) {
    let (forge, raw) = real();
    let (payload, armor) = forge.split(&raw);
    forge.refuses(&with_header(&payload, "gpgsig", &rewrite(&armor)), code, git);
}

#[test]
fn s01_control_ed25519() {
    let (forge, raw) = real();
    let accepted = forge.accepts(&raw);
    assert_eq!((accepted.commits, accepted.subject.as_str()), (1, "Open the door"));
    forge.accepts(&forge.by_hand(&forge.alice, &Sshsig::default()));
}

#[test]
fn s02_control_sk_ed25519() {
    let forge = Forge::new();
    forge.accepts(&forge.by_hand(&forge.alice_sk, &Sshsig::default()));
    forge.accepts(&forge.by_hand(&forge.alice_sk, &Sshsig { flags: 5, ..Sshsig::default() }));
}

#[test]
fn s03_tampered_byte() {
    let (forge, raw) = real();
    let refusal = forge.refuses(&replace(&raw, "the door", "the gate"), Code::BadSignature, Git::Rejects);
    let fingerprint = forge.alice.public().fingerprint();
    assert!(refusal.text.ends_with(&format!("does not match its signature by 'alice' ({fingerprint})")));
}

#[test]
fn s04_unsigned() {
    let forge = Forge::new();
    let id = forge.unsigned("Open the door");
    let refusal = forge.refuses(&forge.raw(&id), Code::Unsigned, Git::Rejects);
    assert_eq!(refusal.to_string(), format!("commit {} is not signed", id.short()));
}

#[test]
fn s05_unlisted_key() {
    let forge = Forge::new();
    let id = forge.signed("mallory", "Open the door");
    let refusal = forge.refuses(&forge.raw(&id), Code::UnknownKey, Git::Rejects);
    let printed = forge.run("ssh-keygen", &["-l", "-f", "mallory.pub"], &[], b"").stdout;
    let fingerprint = String::from_utf8(printed).unwrap().split(' ').nth(1).unwrap().to_owned();
    assert!(refusal.text.ends_with(&format!("ssh-ed25519 {fingerprint}")), "{refusal}");
}

#[test]
fn s06_two_signatures_good_first() {
    let (forge, raw) = real();
    let junk = "gpgsig -----BEGIN SSH SIGNATURE-----\n AAAA\n -----END SSH SIGNATURE-----\n";
    forge.refuses(&insert(&raw, true, junk), Code::GpgsigNotLast, Git::Accepts);
}

#[test]
fn s07_two_signatures_good_second() {
    let (forge, raw) = real();
    forge.refuses(&insert(&raw, false, "gpgsig junk\n more\n"), Code::GpgsigNotLast, Git::Rejects);
}

#[test]
fn s08_extra_gpgsig_sha256() {
    let (forge, raw) = real();
    forge.refuses(&insert(&raw, true, "gpgsig-sha256 x\n y\n"), Code::GpgsigNotLast, Git::Accepts);
    forge.refuses(&insert(&raw, false, "gpgsig-sha256 x\n y\n"), Code::ForeignGpgsigHeader, Git::Accepts);
}

#[test]
fn s09_header_that_git_drops() {
    let (forge, raw) = real();
    forge.refuses(&insert(&raw, true, "gpgsig-evil x\n y\n"), Code::GpgsigNotLast, Git::Accepts);
    forge.refuses(&insert(&raw, false, "gpgsig-evil x\n y\n"), Code::ForeignGpgsigHeader, Git::Accepts);
}

#[test]
fn s10_signature_before_author() {
    let (forge, raw) = real();
    let (payload, armor) = forge.split(&raw);
    let header = format!("gpgsig {}\n", armor.replace('\n', "\n "));
    let moved = replace(&payload, "author ", &format!("{header}author "));
    forge.refuses(&moved, Code::GpgsigNotLast, Git::Accepts);
}

#[test]
fn s11_text_after_end() {
    rewritten(Code::ArmorEnd, Git::Accepts, |armor| format!("{armor}\njunk"));
    rewritten(Code::ArmorEnd, Git::Accepts, |armor| format!("{armor}\n\n"));
}

#[test]
fn s12_other_line_width() {
    rewritten(Code::ArmorNotCanonical, Git::Accepts, |sig| armor(&dearmor(sig), 40));
    rewritten(Code::ArmorNotCanonical, Git::OldAccepts, |sig| armor(&dearmor(sig), 1000));
}

#[test]
fn s13_blank_line_in_armor() {
    let rewrite = |armor: &str| armor.replace("\n-----END", "\n\n-----END");
    rewritten(Code::ArmorNotCanonical, Git::Accepts, rewrite);
}

#[test]
fn s13_one_empty_line_after_end_is_a_second_id_of_the_same_content() {
    let (forge, raw) = real();
    let (payload, armor) = forge.split(&raw);
    let variant = forge.accepts(&with_header(&payload, "gpgsig", &format!("{armor}\n")));
    let plain = forge.accepts(&raw);
    assert_ne!(variant.revision, plain.revision);
    assert_eq!(variant.payload_sha256, plain.payload_sha256);
}

#[test]
fn s14_crlf_armor() {
    rewritten(Code::CrInHeader, Git::Rejects, |armor| armor.replace('\n', "\r\n"));
}

#[test]
fn s15_base64_with_spare_bits() {
    let forge = Forge::new();
    let payload = forge.payload();
    // An Ed25519 SSHSIG has 173 bytes: one padding symbol, two spare bits before it.
    let sig = Sshsig::default().sign(&forge.alice, &payload);
    let at = sig.find("=\n").unwrap() - 1;
    let last = sig.as_bytes()[at];
    let bumped = format!("{}{}{}", &sig[..at], (last + 1) as char, &sig[at + 1..]);
    forge.refuses(&with_header(&payload, "gpgsig", &bumped), Code::ArmorBase64, Git::Rejects);
    let unpadded = sig.replace("=\n", "\n");
    forge.refuses(&with_header(&payload, "gpgsig", &unpadded), Code::ArmorBase64, Git::Rejects);
}

#[test]
fn s16_other_version() {
    by_hand(Sshsig { version: 0, ..Sshsig::default() }, Code::Version, Git::OldAccepts);
    by_hand(Sshsig { version: 2, ..Sshsig::default() }, Code::Version, Git::Rejects);
}

#[test]
fn s17_reserved_in_use() {
    by_hand(Sshsig { reserved: b"x", ..Sshsig::default() }, Code::Reserved, Git::Rejects);
    let (forge, raw) = real();
    let (payload, armored) = forge.split(&raw);
    let blob = dearmor(&armored);
    // The reserved field is the empty string after the namespace, and not what is signed.
    let at = blob.windows(7).position(|w| w == b"\0\0\0\x03git").unwrap() + 7;
    let filled = [&blob[..at], &strings(&[b"x"]), &blob[at + 4..]].concat();
    let raw = with_header(&payload, "gpgsig", &armor(&filled, 70));
    forge.refuses(&raw, Code::Reserved, Git::OldAccepts);
}

#[test]
fn s18_signature_for_files() {
    let forge = Forge::new();
    let payload = forge.payload();
    std::fs::write(forge.path("payload"), &payload).unwrap();
    forge.run("ssh-keygen", &["-Y", "sign", "-n", "file", "-f", "alice", "payload"], &[], b"");
    let armor = std::fs::read_to_string(forge.path("payload.sig")).unwrap();
    forge.refuses(&with_header(&payload, "gpgsig", armor.trim_end()), Code::Namespace, Git::Rejects);
}

#[test]
fn s19_other_namespaces() {
    for namespace in [&b""[..], b"git\0x", b"gi", b"Git"] {
        by_hand(Sshsig { namespace, ..Sshsig::default() }, Code::Namespace, Git::Rejects);
    }
}

#[test]
fn s20_other_hashes() {
    let sig = |written, used| Sshsig { hash: (written, used), ..Sshsig::default() };
    by_hand(sig("sha1", "sha512"), Code::HashAlg, Git::Rejects);
    by_hand(sig("", "sha512"), Code::HashAlg, Git::Rejects);
    by_hand(sig("sha256", "sha512"), Code::BadSignature, Git::Rejects);
    let (forge, raw) = real();
    let (payload, armored) = forge.split(&raw);
    let mut blob = dearmor(&armored);
    let at = blob.windows(6).position(|w| w == b"sha512").unwrap();
    blob[at..at + 6].copy_from_slice(b"sha256");
    let raw = with_header(&payload, "gpgsig", &armor(&blob, 70));
    forge.refuses(&raw, Code::BadSignature, Git::Rejects);
}

#[test]
fn s21_sha256_genuine() {
    let forge = Forge::new();
    let payload = forge.payload();
    std::fs::write(forge.path("payload"), &payload).unwrap();
    let args = ["-Y", "sign", "-n", "git", "-Ohashalg=sha256", "-f", "alice", "payload"];
    forge.run("ssh-keygen", &args, &[], b"");
    let armor = std::fs::read_to_string(forge.path("payload.sig")).unwrap();
    forge.accepts(&with_header(&payload, "gpgsig", armor.trim_end()));
    forge.accepts(&forge.by_hand(&forge.alice, &Sshsig { hash: ("sha256", "sha256"), ..Sshsig::default() }));
}

#[test]
fn s22_bytes_after_the_signature() {
    by_hand(Sshsig { trailing: b"junk", ..Sshsig::default() }, Code::TrailingData, Git::Rejects);
    let inner = |_: &mut Vec<u8>, user: &mut Vec<u8>| user.push(0);
    by_hand(Sshsig { bend: inner, ..Sshsig::default() }, Code::TrailingData, Git::Rejects);
}

#[test]
fn s22_a_signature_cut_short_anywhere() {
    let forge = Forge::new();
    let payload = forge.payload();
    let policy = forge.policy();
    let blob = Sshsig::default().blob(&forge.alice, &payload);
    for end in 0..blob.len() {
        let armored = armor(&blob[..end], 70);
        let verdict = pullagent::trust::sshsig::verify(&payload, armored.as_bytes(), &policy);
        let code = verdict.unwrap_err().code;
        assert!(matches!(code, Code::BadSshsig | Code::ArmorNotCanonical), "{end}: {code}");
    }
}

#[test]
fn s23_scalar_plus_group_order() {
    /// The order of the group, little endian (RFC 8032 §5.1).
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let add = |signature: &mut Vec<u8>, _: &mut Vec<u8>| {
        let mut carry = 0;
        for (s, l) in signature[32..].iter_mut().zip(ORDER) {
            let sum = u16::from(*s) + u16::from(l) + carry;
            (*s, carry) = (sum as u8, sum >> 8);
        }
    };
    by_hand(Sshsig { bend: add, ..Sshsig::default() }, Code::BadSignature, Git::OldAccepts);
}

/// The wire form of the key whose point is the neutral element.
fn identity_blob() -> Vec<u8> {
    let mut identity = [0; 32];
    identity[0] = 1;
    strings(&[b"ssh-ed25519", &identity])
}

/// The same as the line of a file.
pub fn identity_key() -> String {
    use base64::Engine as _;
    format!("ssh-ed25519 {}", base64::engine::general_purpose::STANDARD.encode(identity_blob()))
}

#[test]
fn s24_small_order() {
    assert!(matches!(PublicKey::parse(&identity_key()), Err(KeyError::Weak(_))));
    // Listed, git accepts a signature that nobody made; here nobody can list it.
    let forge = Forge::new();
    let zero = |signature: &mut Vec<u8>, _: &mut Vec<u8>| {
        signature.fill(0);
        signature[0] = 1;
    };
    let good = Sshsig { bend: zero, ..Sshsig::default() }.blob(&forge.alice, &forge.payload());
    let key = forge.alice.blob();
    let at = good.windows(key.len()).position(|w| w == key).unwrap();
    let forged = [&good[..at], &identity_blob(), &good[at + key.len()..]].concat();
    let raw = with_header(&forge.payload(), "gpgsig", &armor(&forged, 70));
    forge.allow("alice", &identity_key());
    forge.refuses(&raw, Code::WeakKey, Git::OldAccepts);
    // The signature that fits such a key for every message, under a good key.
    let zero = |signature: &mut Vec<u8>, _: &mut Vec<u8>| {
        signature.fill(0);
        signature[0] = 1;
    };
    by_hand(Sshsig { bend: zero, ..Sshsig::default() }, Code::BadSignature, Git::Rejects);
}

#[test]
fn s25_security_key_not_touched() {
    let forge = Forge::new();
    for flags in [0, 4] {
        let raw = forge.by_hand(&forge.alice_sk, &Sshsig { flags, ..Sshsig::default() });
        forge.refuses(&raw, Code::SkNoUserPresence, Git::OldAccepts);
    }
}

#[test]
fn s26_security_key_without_pin() {
    let forge = Forge::new();
    let policy = forge.policy_with(&[], true);
    let offer = |key: &Key, flags| {
        let raw = forge.by_hand(key, &Sshsig { flags, ..Sshsig::default() });
        let id = forge.store("commit", &raw);
        let verdict = pullagent::trust::verify_main(
            &mut forge.read(),
            &id,
            &forge.anchor(),
            &policy,
            &super::forge::MAIN,
        );
        verdict.map(|a| a.commits).map_err(|r| r.code)
    };
    assert_eq!(offer(&forge.alice_sk, 1), Err(Code::SkNoUserVerification));
    assert_eq!(offer(&forge.alice_sk, 5), Ok(1));
    assert_eq!(offer(&forge.alice_sk, 4), Err(Code::SkNoUserPresence));
    assert_eq!(offer(&forge.alice, 0), Ok(1), "a key in a file has no PIN to ask for");
}

#[test]
fn s27_flags_or_counter_altered() {
    let bends: [Bend; 2] = [|_, user| user[0] ^= 4, |_, user| user[4] ^= 1];
    let forge = Forge::new();
    for bend in bends {
        let raw = forge.by_hand(&forge.alice_sk, &Sshsig { bend, ..Sshsig::default() });
        forge.refuses(&raw, Code::BadSignature, Git::Rejects);
    }
}

/// Signs with a key of another type that git accepts, made by ssh-keygen.
fn other_type(args: &[&str]) {
    let forge = Forge::new();
    let output = forge.run("ssh-keygen", &[&["-q", "-N", "", "-f", "other"], args].concat(), &[], b"");
    assert!(output.status.success());
    forge.allow("alice", std::fs::read_to_string(forge.path("other.pub")).unwrap().trim());
    let id = forge.signed("other", "Open the door");
    forge.refuses(&forge.raw(&id), Code::AlgorithmNotAllowed, Git::Accepts);
}

#[test]
fn s28_ecdsa() {
    other_type(&["-t", "ecdsa"]);
}

#[test]
fn s29_rsa() {
    other_type(&["-t", "rsa", "-b", "2048"]);
}

#[test]
fn s30_certificate() {
    let forge = Forge::new();
    let made = forge.run("ssh-keygen", &["-q", "-s", "bob", "-I", "x", "-n", "alice", "alice.pub"], &[], b"");
    assert!(made.status.success());
    std::fs::write(forge.path("allowed"), format!("alice cert-authority {}\n", forge.bob.line())).unwrap();
    let id = forge.signed("alice-cert.pub", "Open the door");
    forge.refuses(&forge.raw(&id), Code::AlgorithmNotAllowed, Git::Accepts);
}

#[test]
fn s31_key_and_signature_of_different_types() {
    let forge = Forge::new();
    let sig = |algorithm| Sshsig { algorithm: Some(algorithm), ..Sshsig::default() };
    forge.refuses(&forge.by_hand(&forge.alice_sk, &sig(PLAIN)), Code::SigAlgMismatch, Git::Rejects);
    forge.refuses(&forge.by_hand(&forge.alice, &sig(SK)), Code::SigAlgMismatch, Git::Rejects);
    forge.refuses(&forge.by_hand(&forge.alice, &sig("ssh-rsa")), Code::SigAlgMismatch, Git::Rejects);
}

#[test]
fn s32_openpgp_and_x509() {
    let forge = Forge::new();
    for label in ["PGP SIGNATURE", "SIGNED MESSAGE", "PGP MESSAGE"] {
        let armor = format!("-----BEGIN {label}-----\n\niQEz\n-----END {label}-----");
        let raw = with_header(&forge.payload(), "gpgsig", &armor);
        forge.refuses(&raw, Code::FormatNotAllowed, Git::Rejects);
    }
}

#[test]
fn s33_signature_only_in_the_message_or_empty() {
    let (forge, raw) = real();
    let (payload, armor) = forge.split(&raw);
    let header = format!("gpgsig {}\n", armor.replace('\n', "\n "));
    let in_message = [&payload[..], header.as_bytes()].concat();
    forge.refuses(&in_message, Code::Unsigned, Git::Rejects);
    forge.refuses(&with_header(&payload, "gpgsig", ""), Code::ArmorBegin, Git::Rejects);
    forge.refuses(
        &with_header(&payload, "gpgsig", "-----BEGIN SSH SIGNATURE-----"),
        Code::ArmorBegin,
        Git::Rejects,
    );
    let endless = armor.replace("-----END SSH SIGNATURE-----", "");
    forge.refuses(&with_header(&payload, "gpgsig", &endless), Code::ArmorEnd, Git::Rejects);
}

#[test]
fn sha256_repositories_have_their_own_header() {
    let forge = Forge::of_format("sha256");
    let id = forge.signed("alice", "Open the door");
    let raw = forge.raw(&id);
    assert!(String::from_utf8(raw.clone()).unwrap().contains("\ngpgsig-sha256 "));
    forge.accepts(&raw);
    forge.refuses(&replace(&raw, "gpgsig-sha256 ", "gpgsig "), Code::ForeignGpgsigHeader, Git::Rejects);
}
