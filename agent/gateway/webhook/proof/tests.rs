//! Proofs as senders make them, by their own examples; whatever else looks like one; and that secrets are of use.

use hyper::header::HeaderValue;
use proptest::prelude::*;

use super::*;

const NOW: u64 = 1_614_265_330;
/// The example of docs.github.com ("Validating webhook deliveries") and of Bitbucket's pages.
const EXAMPLE: &str = "It's a Secret to Everybody";
const GITHUB: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
const BITBUCKET: &str = "a4771c39fbe90f317c7824e83ddef3caae9cb3d976c214ace1f2937e133263c9";
/// The example of standardwebhooks.com and its libraries.
const STANDARD: [&str; 5] = [
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "1614265330",
    r#"{"test": 2432232314}"#,
    "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
];

fn scheme(kind: HookKind) -> Scheme {
    Scheme::of(&Hook { kind, header: None, secret_files: Vec::new(), remotes: Vec::new() })
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let name: HeaderName = name.parse().unwrap();
        headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

/// Returns "yes", "no", or what is missing.
fn judge(kind: HookKind, secrets: &[&str], pairs: &[(&str, &str)], rest: Option<&str>, body: &str) -> String {
    let scheme = scheme(kind);
    let secrets: Vec<Secret> = secrets.iter().map(|s| scheme.secret(s.as_bytes()).unwrap()).collect();
    match Proof::begin(&scheme, &headers(pairs), rest, &secrets, NOW) {
        Ok(mut proof) => {
            body.as_bytes().chunks(3).for_each(|chunk| proof.update(chunk));
            if proof.holds() { "yes".to_owned() } else { "no".to_owned() }
        }
        Err(why) => why,
    }
}

#[test]
fn the_examples_of_the_forges_hold() {
    let github = format!("sha256={GITHUB}");
    let bitbucket = format!("sha256={BITBUCKET}");
    let upper = GITHUB.to_uppercase();
    let hello = "Hello, World!";
    let table: &[(HookKind, (&str, &str), &str)] = &[
        (HookKind::Github, ("X-Hub-Signature-256", &github), hello),
        (HookKind::Forgejo, ("X-Forgejo-Signature", GITHUB), hello),
        (HookKind::Gitea, ("X-Gitea-Signature", GITHUB), hello),
        (HookKind::Bitbucket, ("X-Hub-Signature", &bitbucket), "Hello World!"),
        (HookKind::HmacSha256, ("x-hub-signature-256", &upper), hello),
        (HookKind::Gitlab, ("X-Gitlab-Token", EXAMPLE), "anything"),
        (HookKind::Bearer, ("Authorization", "bearer It's a Secret to Everybody"), "anything"),
    ];
    for (kind, pair, body) in table {
        let judge = |secrets: &[&str], body: &str| judge(*kind, secrets, &[*pair], None, body);
        assert_eq!(judge(&[EXAMPLE], body), "yes", "{kind:?}");
        assert_eq!(judge(&["another secret of us"], body), "no", "{kind:?}");
        assert_eq!(judge(&["another secret of us", EXAMPLE], body), "yes", "{kind:?}");
        assert_eq!(judge(&[EXAMPLE, "another secret of us"], body), "yes", "{kind:?}");
        let signed = matches!(scheme(*kind), Scheme::Signed(_));
        assert_eq!(judge(&[EXAMPLE], "another body"), if signed { "no" } else { "yes" }, "{kind:?}");
    }
    let own = Hook {
        kind: HookKind::HmacSha256,
        header: Some("X-My-Signature".to_owned()),
        secret_files: Vec::new(),
        remotes: Vec::new(),
    };
    assert_eq!(Scheme::of(&own), Scheme::Signed(HeaderName::from_static("x-my-signature")));
}

#[test]
fn what_is_no_proof_is_named() {
    let sha1 = ("X-Hub-Signature-256", "sha1=757107ea0eb2509fc211221cce984b8a37570b6d");
    let twice = [("X-Hub-Signature-256", GITHUB), ("X-Hub-Signature-256", GITHUB)];
    let (short, odd, other) = (&GITHUB[..62], &GITHUB[..63], GITHUB.replace('e', "g"));
    let not_hex = "its signature is not HMAC-SHA-256 in hexadecimal";
    type Row<'a> = (HookKind, &'a [(&'a str, &'a str)], &'a str);
    let table: &[Row<'_>] = &[
        (HookKind::Github, &[], "it has no header 'x-hub-signature-256'"),
        (HookKind::Github, &[("X-Hub-Signature", GITHUB)], "it has no header 'x-hub-signature-256'"),
        (HookKind::Github, &twice, "it has more than one header 'x-hub-signature-256'"),
        (HookKind::Github, &[sha1], not_hex),
        (HookKind::Github, &[("X-Hub-Signature-256", short)], not_hex),
        (HookKind::Github, &[("X-Hub-Signature-256", odd)], not_hex),
        (HookKind::Github, &[("X-Hub-Signature-256", &other)], not_hex),
        (HookKind::Github, &[("X-Hub-Signature-256", "")], not_hex),
        (HookKind::Github, &[("X-Hub-Signature-256", "é")], "its header 'x-hub-signature-256' is no text"),
        (HookKind::Bearer, &[], "it has no header 'authorization'"),
        (HookKind::Bearer, &[("Authorization", EXAMPLE)], "its header 'authorization' is not 'Bearer …'"),
        (HookKind::Bearer, &[("Authorization", "Bearer ")], "no"),
        (HookKind::Gitlab, &[("X-Gitlab-Token", "")], "no"),
        (HookKind::Gitlab, &[("X-Gitlab-Token", "It's a Secret to Everybod")], "no"),
        (HookKind::StandardWebhooks, &[], "it has no header 'webhook-id'"),
    ];
    for (kind, pairs, expected) in table {
        let secret = if *kind == HookKind::StandardWebhooks { STANDARD[0] } else { EXAMPLE };
        assert_eq!(judge(*kind, &[secret], pairs, None, "Hello, World!"), *expected, "{kind:?} {pairs:?}");
    }
}

#[test]
fn a_path_ends_with_the_secret() {
    let judge = |rest| judge(HookKind::Path, &["0123456789abcdef", "fedcba9876543210"], &[], rest, "");
    assert_eq!(judge(Some("0123456789abcdef")), "yes");
    assert_eq!(judge(Some("fedcba9876543210")), "yes");
    for wrong in
        [None, Some(""), Some("0123456789abcde"), Some("0123456789abcdef/"), Some("0123456789abcdeF")]
    {
        assert_eq!(judge(wrong), "no", "{wrong:?}");
    }
}

/// Standard Webhooks: some of several signatures, other versions, times within five minutes, and nothing else.
#[test]
fn standard_webhooks_hold_in_their_time() {
    let [secret, id, time, body, signature] = STANDARD;
    let judge = |secrets: &[&str], id: &str, time: &str, signature: &str, body: &str| {
        let pairs = [("webhook-id", id), ("webhook-timestamp", time), ("webhook-signature", signature)];
        judge(HookKind::StandardWebhooks, secrets, &pairs, None, body)
    };
    assert_eq!(judge(&[secret], id, time, signature, body), "yes");
    assert_eq!(judge(&[secret.trim_start_matches("whsec_")], id, time, signature, body), "yes");
    let second = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
    assert_eq!(judge(&[second, secret], id, time, signature, body), "yes");
    assert_eq!(judge(&[second], id, time, signature, body), "no");
    let zeros = format!("v1,{}=", "A".repeat(43));
    for listed in
        [format!("{zeros} {signature}"), format!("v1a,xyz {signature}"), format!("{signature} v9,!")]
    {
        assert_eq!(judge(&[secret], id, time, &listed, body), "yes", "{listed}");
    }
    assert_eq!(judge(&[secret], id, time, &zeros, body), "no");
    assert_eq!(judge(&[secret], "msg_other", time, signature, body), "no");
    assert_eq!(judge(&[secret], id, "1614265331", signature, body), "no", "the time is signed");
    assert_eq!(judge(&[secret], id, time, signature, "{}"), "no");
    let table = [
        ("1614265030", "no"),
        ("1614265630", "no"),
        ("1614265029", "its time is 301 s off this host's clock, and may be 300 s off"),
        ("1614265631", "its time is 301 s off this host's clock, and may be 300 s off"),
        ("+1614265330", "its header 'webhook-timestamp' is no time"),
        ("99999999999999999999", "its header 'webhook-timestamp' is no time"),
        ("", "its header 'webhook-timestamp' is no time"),
    ];
    for (time, expected) in table {
        assert_eq!(judge(&[secret], id, time, signature, body), expected, "{time}");
    }
    let many = [signature; 9].join(" ");
    assert_eq!(
        judge(&[secret], id, time, &many, body),
        "its header 'webhook-signature' has too many signatures"
    );
    for (listed, expected) in [
        ("", "its header 'webhook-signature' has no signature of version 1"),
        ("v1a,xyz", "its header 'webhook-signature' has no signature of version 1"),
        ("v1,AAAA", "its header 'webhook-signature' has no HMAC-SHA-256 in base64"),
        ("v1,!", "its header 'webhook-signature' has no HMAC-SHA-256 in base64"),
    ] {
        assert_eq!(judge(&[secret], id, time, listed, body), expected, "{listed}");
    }
    assert_eq!(
        judge(&[secret], &"x".repeat(257), time, signature, body),
        "its header 'webhook-id' is too long"
    );
}

#[test]
fn secrets_that_are_none_are_refused_and_none_is_ever_shown() {
    let secret = |kind, text: &str| scheme(kind).secret(text.as_bytes()).map(|secret| secret.0);
    assert_eq!(secret(HookKind::Github, " 0123456789abcdef\n"), Ok(b"0123456789abcdef".to_vec()));
    assert!(secret(HookKind::Github, "").unwrap_err().contains("missing"));
    assert!(secret(HookKind::Github, "0123456789abcde\n").unwrap_err().contains("16 bytes"));
    assert!(secret(HookKind::Github, "0123456789abcdef\n0123456789abcdef").unwrap_err().contains("one line"));
    assert!(secret(HookKind::Path, "0123456789abcdef/").unwrap_err().contains("in a path"));
    assert!(secret(HookKind::StandardWebhooks, "whsec_it's no base64").unwrap_err().contains("whsec_"));
    assert!(secret(HookKind::StandardWebhooks, "whsec_AAECAwQFBgcICQoL").unwrap_err().contains("16 bytes"));
    assert_eq!(format!("{:?}", Secret(b"0123456789abcdef".to_vec())), "Secret");
}

/// A clock can't show that a comparison looks at every byte. That it does is `subtle`'s promise, and [`Sum`] has no other
/// comparison: it derives none. What a test can show is that each single bit counts, wherever it is.
#[test]
fn each_bit_of_a_signature_counts() {
    for bit in 0..256 {
        let mut bytes = hexadecimal(GITHUB).unwrap().0;
        bytes[bit / 8] ^= 1 << (bit % 8);
        let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let pairs = [("X-Hub-Signature-256", digits.as_str())];
        assert_eq!(judge(HookKind::Github, &[EXAMPLE], &pairs, None, "Hello, World!"), "no", "bit {bit}");
    }
}

fn kinds() -> impl Strategy<Value = HookKind> {
    prop::sample::select(vec![
        HookKind::Github,
        HookKind::Forgejo,
        HookKind::Gitea,
        HookKind::Bitbucket,
        HookKind::Gitlab,
        HookKind::StandardWebhooks,
        HookKind::HmacSha256,
        HookKind::Bearer,
        HookKind::Path,
    ])
}

const NAMES: [&str; 8] = [
    "x-hub-signature-256",
    "x-forgejo-signature",
    "x-gitea-signature",
    "x-hub-signature",
    "x-gitlab-token",
    "authorization",
    "webhook-id",
    "webhook-signature",
];

proptest! {
    /// Whatever the headers are, nothing panics, and who does not have the secret is refused.
    #[test]
    fn no_headers_stand_for_the_secret(
        kind in kinds(),
        values in prop::collection::vec(
            (prop::sample::select(NAMES.to_vec()), "(sha256=|Bearer |v1,|)[0-9a-zA-Z+/=, é]{0,70}"), 0..6),
        rest in prop::option::of("[a-z0-9/%]{0,40}"),
        body in ".{0,40}",
    ) {
        let pairs: Vec<(&str, &str)> = values.iter().map(|(name, value)| (*name, value.as_str()))
            .chain([("webhook-timestamp", STANDARD[2])]).collect();
        let secret = match kind {
            HookKind::StandardWebhooks => STANDARD[0],
            HookKind::Path => "0123456789ABCDEF-._~",
            _ => EXAMPLE,
        };
        prop_assert_ne!(judge(kind, &[secret], &pairs, rest.as_deref(), &body), "yes");
    }

    #[test]
    fn hexadecimal_is_read_as_it_is_written(bytes in any::<[u8; 32]>(), upper: bool, prefix: bool, at in 0..64usize) {
        let digits: String = bytes.iter().map(|b| if upper { format!("{b:02X}") } else { format!("{b:02x}") }).collect();
        let text = if prefix { format!("sha256={digits}") } else { digits.clone() };
        prop_assert_eq!(hexadecimal(&text).unwrap().0, bytes);
        let mut broken = digits.into_bytes();
        broken[at] = b'x';
        prop_assert!(hexadecimal(&String::from_utf8(broken).unwrap()).is_err());
    }
}
