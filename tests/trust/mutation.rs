//! Random damage to real signed commits: nothing panics, and whatever is still accepted is accepted by
//! `git verify-commit` and by the `ssh-key` crate too, and says the same as the original.

use std::sync::LazyLock;

use proptest::prelude::*;
use pullagent::trust::{Commit, ObjectFormat, PublicKey};
use pullagent::trust::{Policy, commit, sshsig};

use super::forge::Forge;
use super::sshsig::Sshsig;

/// Real commits by git, made once: plain, with an unknown header, by a security key; and their policy.
struct Corpus {
    forge: Forge,
    commits: Vec<Vec<u8>>,
    policy: Policy,
}

static CORPUS: LazyLock<Corpus> = LazyLock::new(|| {
    let forge = Forge::new();
    let plain = forge.raw(&forge.signed("alice", "Open the door\n\nIt was closed."));
    forge.git(&["checkout", "-q", "-b", "side", "main~1"]);
    forge.signed("bob", "Side");
    forge.git(&["checkout", "-q", "main"]);
    forge.git(&["-c", "user.signingkey=alice", "merge", "-q", "--no-ff", "-S", "-m", "Merge", "side"]);
    let merge = forge.raw(&forge.id("main"));
    let sk = forge.by_hand(&forge.alice_sk, &Sshsig::default());
    let policy = forge.policy();
    Corpus { forge, commits: vec![plain, merge, sk], policy }
});

#[derive(Debug, Clone)]
enum Damage {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index, usize),
    Insert(prop::sample::Index, &'static str),
    Double(prop::sample::Index),
    Swap(prop::sample::Index, prop::sample::Index),
    /// Behind the end of the armor, where one way to write more is allowed.
    AfterEnd(&'static str),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<prop::sample::Index>;
    let word = || {
        prop::sample::select(vec![
            "\n",
            " ",
            "\n ",
            "\n \n",
            "\0",
            "\r\n",
            "=",
            "gpgsig x\n",
            "\ngpgsig-sha256 y",
            "\n\n",
            "\n parent",
            "author ",
            "A",
            "-----END SSH SIGNATURE-----",
            "\nchange-id abc",
            "\n  ",
        ])
    };
    prop_oneof![
        (at(), 1_u8..).prop_map(|(i, x)| Damage::Flip(i, x)),
        (at(), 1..80_usize).prop_map(|(i, n)| Damage::Cut(i, n)),
        (at(), word()).prop_map(|(i, w)| Damage::Insert(i, w)),
        at().prop_map(Damage::Double),
        (at(), at()).prop_map(|(a, b)| Damage::Swap(a, b)),
        word().prop_map(Damage::AfterEnd),
    ]
}

fn apply(raw: &mut Vec<u8>, damage: &Damage) {
    let lines = |raw: &[u8]| raw.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>();
    match damage {
        Damage::Flip(at, x) => {
            let at = at.index(raw.len());
            raw[at] ^= x;
        }
        Damage::Cut(at, n) => {
            let at = at.index(raw.len());
            raw.drain(at..(at + n).min(raw.len()).max(at));
            raw.push(b'\n');
        }
        Damage::Insert(at, word) => {
            let at = at.index(raw.len());
            raw.splice(at..at, word.bytes());
        }
        Damage::Double(at) => {
            let mut all = lines(raw);
            let at = at.index(all.len());
            all.insert(at, all[at].clone());
            *raw = all.concat();
        }
        Damage::Swap(a, b) => {
            let mut all = lines(raw);
            let (a, b) = (a.index(all.len()), b.index(all.len()));
            all.swap(a, b);
            *raw = all.concat();
        }
        Damage::AfterEnd(word) => {
            let mark = b"-----END SSH SIGNATURE-----";
            if let Some(at) = raw.windows(mark.len()).position(|w| w == mark) {
                let at = at + mark.len();
                raw.splice(at..at, word.bytes());
            }
        }
    }
}

/// Checks form and signature; returns the payload if both are good.
fn accepts(raw: &[u8], corpus: &Corpus) -> Option<Vec<u8>> {
    let split = commit::split(raw, ObjectFormat::Sha1).ok()?;
    sshsig::verify(&split.payload, &split.armor, &corpus.policy).ok()?;
    let id = "ab".repeat(20).parse().unwrap();
    Commit::parse(&id, raw).ok()?;
    Some(split.payload)
}

/// Asks the second oracle: the `ssh-key` crate.
fn ssh_key_accepts(raw: &[u8], keys: &[PublicKey]) -> bool {
    let split = commit::split(raw, ObjectFormat::Sha1).unwrap();
    let signature = ssh_key::SshSig::from_pem(split.armor.trim_ascii_end()).unwrap();
    keys.iter().any(|key| {
        let key = ssh_key::PublicKey::from_openssh(&key.to_string()).unwrap();
        key.verify("git", &split.payload, &signature).is_ok()
    })
}

fn all_keys(corpus: &Corpus) -> Vec<PublicKey> {
    corpus.policy.signers().iter().flat_map(|s| &s.keys).map(|k| k.public.clone()).collect()
}

#[test]
fn the_undamaged_corpus_is_accepted_by_all_three() {
    let corpus = &*CORPUS;
    for raw in &corpus.commits {
        assert!(accepts(raw, corpus).is_some());
        assert!(corpus.forge.git_accepts(&corpus.forge.store("commit", raw)));
        assert!(ssh_key_accepts(raw, &all_keys(corpus)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn what_survives_damage_is_accepted_by_git_too(
        which in 0..3_usize,
        damage in prop::collection::vec(damage(), 1..3),
    ) {
        let corpus = &*CORPUS;
        let original = &corpus.commits[which];
        let mut raw = original.clone();
        damage.iter().for_each(|d| apply(&mut raw, d));
        if let Some(payload) = accepts(&raw, corpus).filter(|_| raw != *original) {
            prop_assert_eq!(Some(payload), accepts(original, corpus));
            prop_assert!(corpus.forge.git_accepts(&corpus.forge.store("commit", &raw)));
            prop_assert!(ssh_key_accepts(&raw, &all_keys(corpus)));
        }
    }

    #[test]
    fn any_bytes_are_a_commit_or_a_refusal(raw in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(commit::split(&raw, ObjectFormat::Sha1).is_err());
        prop_assert!(sshsig::verify(b"", &raw, &CORPUS.policy).is_err());
    }
}
