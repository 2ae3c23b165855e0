//! Damage to real signed commits, bytewise and by plan: nothing panics, and what is still accepted is one of the commits
//! that were signed, or one with the one empty line more that is allowed. `git verify-commit` and the `ssh-key` crate
//! accept all of it, too. Whoever signs knows every signature there is, so nothing else can be right.

use std::collections::BTreeSet;
use std::sync::{LazyLock, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::sample::Index;
use pullagent::trust::{Commit, ObjectFormat, Policy, PublicKey, commit, sshsig as room};

use super::forge::Forge;
use super::random::{self, Cases};
use super::sshsig::{Sshsig, armor, strings, with_header};

const END: &str = "-----END SSH SIGNATURE-----";
/// The order of the curve's prime subgroup, little-endian: S and S + L sign the same.
const L: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// Real commits by git, made once, two by hand with a security key; their policy; and all that may be accepted.
struct Corpus {
    forge: Forge,
    commits: Vec<Vec<u8>>,
    /// An unsigned one, to be signed.
    payload: Vec<u8>,
    policy: Policy,
    good: BTreeSet<Vec<u8>>,
    /// What both oracles have accepted already.
    confirmed: Mutex<BTreeSet<Vec<u8>>>,
}

static CORPUS: LazyLock<Corpus> = LazyLock::new(|| {
    let forge = Forge::new();
    let plain = forge.raw(&forge.signed("alice", "Open the door\n\nIt was closed."));
    forge.git(&["checkout", "-q", "-b", "side", "main~1"]);
    forge.signed("bob", "Side");
    forge.git(&["-c", "user.signingkey=mallory", "tag", "-s", "-m", "v1", "v1"]);
    forge.git(&["checkout", "-q", "main"]);
    forge.git(&["-c", "user.signingkey=alice", "merge", "-q", "--no-ff", "-S", "-m", "Merge", "v1"]);
    let merge = forge.raw(&forge.id("main"));
    let bobs = forge.raw(&forge.signed("bob", "Close the door"));
    let sk = forge.by_hand(&forge.alice_sk, &Sshsig::default());
    let short = Sshsig { hash: ("sha256", "sha256"), flags: 5, ..Sshsig::default() };
    let payload = [&forge.payload()[..], b"\nchange-id: abc\n"].concat();
    let sk_sha256 = with_header(&payload, "gpgsig", &short.sign(&forge.alice_sk, &payload));
    let commits = vec![plain, merge, bobs, sk, sk_sha256];
    let longer = |raw: &Vec<u8>| put(raw, END, &format!("{END}\n ")).unwrap();
    let good = commits.iter().cloned().chain(commits.iter().map(longer)).collect();
    let (policy, payload) = (forge.policy(), forge.payload());
    Corpus { forge, commits, payload, policy, good, confirmed: Mutex::default() }
});

#[derive(Debug, Clone)]
enum Damage {
    Flip(Index, u8),
    Cut(Index, usize),
    Insert(Index, &'static str),
    Truncate(Index),
    /// A line once more, in another place, or in the place of another.
    Double(Index),
    Move(Index, Index),
    Swap(Index, Index),
    /// Behind the end of the armor, where one way to write more is allowed.
    AfterEnd(&'static str),
    /// The header `from` is renamed.
    Rename(&'static str, &'static str),
    /// A signature header more, before or behind the real one.
    MoreSignature(&'static str, bool),
    /// The same signature in lines of another width.
    Width(usize),
    /// CRLF in the armor.
    CrLf,
    /// A field of another commit in its place.
    Foreign(Field, Index),
    Blob(Bend),
}

#[derive(Debug, Clone, Copy)]
enum Field {
    Armor,
    Message,
    Tree,
    Parent,
    Author,
    Committer,
}

/// What is done inside the armor.
#[derive(Debug, Clone)]
enum Bend {
    Flip(Index, u8),
    Cut(Index),
    Append(u8),
    Version(u32),
    Namespace(&'static str),
    Reserved(&'static str),
    Hash(&'static str),
    Algorithm(&'static str),
    /// L is added to S.
    SecondS,
    Flags(u8),
    Counter(u8),
}

fn damage() -> impl Strategy<Value = Damage> {
    let at = any::<Index>;
    let words = [
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
        END,
        "\nchange-id abc",
        "\n  ",
    ];
    let word = || prop::sample::select(words.to_vec());
    let headers = ["gpgsig", "gpgsig-sha256", "gpgsigx", "gpgsi", "encoding", "mergetag", "tree", "parent"];
    let header = || prop::sample::select(headers.to_vec());
    let field = prop::sample::select(vec![
        Field::Armor,
        Field::Message,
        Field::Tree,
        Field::Parent,
        Field::Author,
        Field::Committer,
    ]);
    let odd = |of: &'static [&'static str]| prop::sample::select(of);
    let bend = prop_oneof![
        3 => (at(), 1_u8..).prop_map(|(i, x)| Bend::Flip(i, x)),
        1 => at().prop_map(Bend::Cut),
        1 => any::<u8>().prop_map(Bend::Append),
        1 => prop_oneof![0..3_u32, any::<u32>()].prop_map(Bend::Version),
        1 => odd(&["", "file", "git\0", "Git"]).prop_map(Bend::Namespace),
        1 => odd(&["", "x", "\0"]).prop_map(Bend::Reserved),
        1 => odd(&["sha256", "sha512", "sha384", "SHA512"]).prop_map(Bend::Hash),
        1 => odd(&["ssh-ed25519", "sk-ssh-ed25519@openssh.com", "ssh-rsa", ""]).prop_map(Bend::Algorithm),
        2 => Just(Bend::SecondS),
        1 => any::<u8>().prop_map(Bend::Flags),
        1 => any::<u8>().prop_map(Bend::Counter),
    ];
    prop_oneof![
        4 => (at(), 1_u8..).prop_map(|(i, x)| Damage::Flip(i, x)),
        1 => (at(), 1..80_usize).prop_map(|(i, n)| Damage::Cut(i, n)),
        2 => (at(), word()).prop_map(|(i, w)| Damage::Insert(i, w)),
        1 => at().prop_map(Damage::Truncate),
        1 => at().prop_map(Damage::Double),
        1 => (at(), at()).prop_map(|(a, b)| Damage::Move(a, b)),
        1 => (at(), at()).prop_map(|(a, b)| Damage::Swap(a, b)),
        2 => word().prop_map(Damage::AfterEnd),
        1 => (header(), header()).prop_map(|(a, b)| Damage::Rename(a, b)),
        1 => (header(), any::<bool>()).prop_map(|(h, behind)| Damage::MoreSignature(h, behind)),
        1 => (1..100_usize).prop_map(Damage::Width),
        1 => Just(Damage::CrLf),
        4 => (field, at()).prop_map(|(f, i)| Damage::Foreign(f, i)),
        5 => bend.prop_map(Damage::Blob),
    ]
}

fn lines(raw: &[u8]) -> Vec<Vec<u8>> {
    raw.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
}

fn find(raw: &[u8], text: &str) -> Option<usize> {
    raw.windows(text.len()).rposition(|w| w == text.as_bytes())
}

/// Puts `to` in the place of the last `from`: a tag that was merged in has a signature of its own.
fn put(raw: &[u8], from: &str, to: &str) -> Option<Vec<u8>> {
    let at = find(raw, from)?;
    Some([&raw[..at], to.as_bytes(), &raw[at + from.len()..]].concat())
}

/// Returns the damaged commit, or `None` where this damage cannot be done.
fn apply(raw: &[u8], damage: &Damage) -> Option<Vec<u8>> {
    let mut out = raw.to_vec();
    let mut all = lines(raw);
    let within = |at: &Index, n: usize| (n > 0).then(|| at.index(n));
    match damage {
        Damage::Flip(at, x) => out[within(at, raw.len())?] ^= x,
        Damage::Cut(at, n) => {
            let at = within(at, raw.len())?;
            out.drain(at..(at + n).min(raw.len()));
        }
        Damage::Insert(at, word) => {
            let at = within(at, raw.len())?;
            out.splice(at..at, word.bytes());
        }
        Damage::Truncate(at) => out.truncate(within(at, raw.len())?),
        Damage::Double(at) => {
            let at = within(at, all.len())?;
            all.insert(at, all[at].clone());
            out = all.concat();
        }
        Damage::Move(a, b) => {
            let line = all.remove(within(a, all.len())?);
            let to = b.index(all.len() + 1);
            all.insert(to, line);
            out = all.concat();
        }
        Damage::Swap(a, b) => {
            let (a, b) = (within(a, all.len())?, within(b, all.len())?);
            all.swap(a, b);
            out = all.concat();
        }
        Damage::AfterEnd(word) => out = put(raw, END, &format!("{END}{word}"))?,
        Damage::Rename(from, to) => out = put(raw, &format!("\n{from} "), &format!("\n{to} "))?,
        Damage::MoreSignature(name, behind) => {
            let split = commit::split(raw, ObjectFormat::Sha1).ok()?;
            let armor = String::from_utf8(split.armor).ok()?;
            let one = with_header(&split.payload, "gpgsig", &armor);
            let more = format!("{name} {}\n", armor.replace('\n', "\n "));
            let at = if *behind { find(&one, END)? + END.len() + 1 } else { find(&one, "gpgsig -----")? };
            out = [&one[..at], more.as_bytes(), &one[at..]].concat();
        }
        Damage::Width(width) => out = rewritten(raw, |blob| Some(armor(&blob, *width)))?,
        Damage::CrLf => out = rewritten(raw, |blob| Some(armor(&blob, 70).replace('\n', "\r\n")))?,
        Damage::Foreign(field, from) => {
            let other = &CORPUS.commits[from.index(CORPUS.commits.len())];
            out = foreign(raw, other, *field)?;
        }
        Damage::Blob(bend) => out = rewritten(raw, |blob| Some(armor(&bent(&blob, bend)?, 70)))?,
    }
    Some(out)
}

/// Puts another text in the place of the armor.
fn rewritten(raw: &[u8], armor: impl Fn(Vec<u8>) -> Option<String>) -> Option<Vec<u8>> {
    let split = commit::split(raw, ObjectFormat::Sha1).ok()?;
    let body = String::from_utf8(split.armor).ok()?;
    let base64: String = body.lines().filter(|l| !l.starts_with('-')).collect();
    let blob = STANDARD.decode(base64).ok()?;
    Some(with_header(&split.payload, "gpgsig", &armor(blob)?))
}

fn foreign(raw: &[u8], other: &[u8], field: Field) -> Option<Vec<u8>> {
    let [ours, theirs] = [raw, other].map(|raw| commit::split(raw, ObjectFormat::Sha1).ok());
    let (ours, theirs) = (ours?, theirs?);
    let line = |name: &str| {
        let of = |raw| lines(raw).into_iter().position(|l| l.starts_with(name.as_bytes()));
        let mut all = lines(raw);
        all[of(raw)?] = lines(other)[of(other)?].clone();
        Some(all.concat())
    };
    match field {
        Field::Armor => Some(with_header(&ours.payload, "gpgsig", std::str::from_utf8(&theirs.armor).ok()?)),
        Field::Message => Some([&raw[..raw.len() - ours.message.len()], theirs.message].concat()),
        Field::Tree => line("tree "),
        Field::Parent => line("parent "),
        Field::Author => line("author "),
        Field::Committer => line("committer "),
    }
}

/// The fields of what is inside the armor, and of the innermost signature.
fn bent(blob: &[u8], bend: &Bend) -> Option<Vec<u8>> {
    let mut rest = blob.get(10..)?;
    let mut string = || {
        let (length, after) = rest.split_at_checked(4)?;
        let (value, after) = after.split_at_checked(u32::from_be_bytes(length.try_into().ok()?) as usize)?;
        rest = after;
        Some(value.to_vec())
    };
    let (key, mut namespace, mut reserved, mut hash, inner) =
        (string()?, string()?, string()?, string()?, string()?);
    let name = usize::try_from(u32::from_be_bytes(inner.get(..4)?.try_into().ok()?)).ok()?;
    let (mut algorithm, mut signature) =
        (inner.get(4..4 + name)?.to_vec(), inner.get(8 + name..72 + name)?.to_vec());
    let mut said = inner.get(72 + name..)?.to_vec();
    let mut version = 1;
    match bend {
        Bend::Flip(at, x) => {
            let mut blob = blob.to_vec();
            let at = at.index(blob.len());
            blob[at] ^= x;
            return Some(blob);
        }
        Bend::Cut(at) => return Some(blob[..at.index(blob.len())].to_vec()),
        Bend::Append(byte) => return Some([blob, &[*byte]].concat()),
        Bend::Version(other) => version = *other,
        Bend::Namespace(other) => namespace = other.as_bytes().to_vec(),
        Bend::Reserved(other) => reserved = other.as_bytes().to_vec(),
        Bend::Hash(other) => hash = other.as_bytes().to_vec(),
        Bend::Algorithm(other) => algorithm = other.as_bytes().to_vec(),
        Bend::SecondS => {
            let mut carry = 0;
            for (s, l) in signature[32..].iter_mut().zip(L) {
                let sum = u16::from(*s) + u16::from(l) + carry;
                *s = sum as u8;
                carry = sum >> 8;
            }
        }
        Bend::Flags(flags) => *said.first_mut()? = *flags,
        Bend::Counter(counter) => *said.last_mut()? = *counter,
    }
    let mut inner = strings(&[&algorithm, &signature]);
    inner.extend(said);
    let fields = strings(&[&key, &namespace, &reserved, &hash, &inner]);
    Some([b"SSHSIG", &u32::to_be_bytes(version)[..], &fields].concat())
}

/// Checks form and signature, as the fold does.
fn accepts(raw: &[u8]) -> bool {
    let Ok(split) = commit::split(raw, ObjectFormat::Sha1) else { return false };
    let id = "ab".repeat(20).parse().unwrap();
    room::verify(&split.payload, &split.armor, &CORPUS.policy).is_ok() && Commit::parse(&id, raw).is_ok()
}

/// Asks both oracles, once for each commit.
fn others_accept(raw: &[u8]) {
    if !CORPUS.confirmed.lock().unwrap().insert(raw.to_vec()) {
        return;
    }
    assert!(CORPUS.forge.git_accepts(&CORPUS.forge.store("commit", raw)), "git rejects what we accept");
    assert!(ssh_key_accepts(raw, &all_keys()), "the ssh-key crate rejects what we accept");
}

fn ssh_key_accepts(raw: &[u8], keys: &[PublicKey]) -> bool {
    let split = commit::split(raw, ObjectFormat::Sha1).unwrap();
    let signature = ssh_key::SshSig::from_pem(split.armor.trim_ascii_end()).unwrap();
    keys.iter().any(|key| {
        let key = ssh_key::PublicKey::from_openssh(&key.to_string()).unwrap();
        key.verify("git", &split.payload, &signature).is_ok()
    })
}

fn all_keys() -> Vec<PublicKey> {
    CORPUS.policy.signers().iter().flat_map(|s| s.keys.iter().map(|k| k.public.clone())).collect()
}

#[test]
fn what_was_signed_is_accepted_by_all_three() {
    for raw in &CORPUS.good {
        assert!(accepts(raw));
        others_accept(raw);
    }
}

#[test]
fn what_survives_damage_is_what_was_signed() {
    let survived = Mutex::new((0, BTreeSet::new()));
    let cases = Cases { short: 8_000, long: 400_000 };
    let which = any::<Index>();
    random::check("damage", cases, (which, prop::collection::vec(damage(), 1..4)), |(which, damage)| {
        let original = &CORPUS.commits[which.index(CORPUS.commits.len())];
        let damaged = damage.iter().try_fold(original.clone(), |raw, d| apply(&raw, d));
        let Some(raw) = damaged.filter(|raw| accepts(raw)) else { return };
        assert!(CORPUS.good.contains(&raw), "accepted: {}", String::from_utf8_lossy(&raw));
        others_accept(&raw);
        let mut survived = survived.lock().unwrap();
        survived.0 += 1;
        survived.1.insert(raw);
    });
    let (survived, different) = survived.into_inner().unwrap();
    println!("damage: {survived} survived, {} different ones", different.len());
    assert!(different.len() > CORPUS.commits.len(), "too little survives for this to mean anything");
}

/// Signatures are made after the damage here, as by a signer with an odd tool: the form is all that may be wrong.
#[test]
fn what_is_signed_over_an_odd_payload_is_accepted_by_git_too() {
    let accepted = Mutex::new(BTreeSet::new());
    let cases = Cases { short: 250, long: 20_000 };
    random::check("odd payloads", cases, prop::collection::vec(oddity(), 1..4), |oddities| {
        let payload = oddities.iter().fold(CORPUS.payload.clone(), |payload, o| o.apply(payload));
        if find(&payload, "\n\n").is_none() || !links_are_right(&payload) {
            return;
        }
        let raw = with_header(&payload, "gpgsig", &Sshsig::default().sign(&CORPUS.forge.alice, &payload));
        if accepts(&raw) {
            others_accept(&raw);
            accepted.lock().unwrap().insert(raw);
        }
    });
    let accepted = accepted.into_inner().unwrap().len();
    println!("odd payloads: {accepted} different ones accepted");
    assert!(accepted > 10, "too few are accepted for this to mean anything");
}

/// Tells whether trees are named as trees and commits as parents: git looks the objects up, we do that elsewhere.
fn links_are_right(payload: &[u8]) -> bool {
    let right = lines(&CORPUS.payload);
    let links = |l: &&Vec<u8>| l.starts_with(b"tree ") || l.starts_with(b"parent ");
    lines(payload).iter().filter(links).all(|line| right.contains(line))
}

/// What may be odd about the lines of a commit.
#[derive(Debug, Clone)]
enum Oddity {
    Insert(Index, &'static str),
    Double(Index),
    Move(Index, Index),
    Rename(Index, &'static str),
}

fn oddity() -> impl Strategy<Value = Oddity> {
    let lines = vec![
        "gpgsig x",
        "gpgsig-sha256 y",
        "gpgsigx z",
        "gpgsig",
        " more",
        " ",
        "encoding latin1",
        "mergetag object 1",
        "change-id abc",
        "HG:extra x",
        "author M <m@x> 1 +0000",
        "committer M <m@x> 1 +0000",
        "",
        "plain",
    ];
    let names = vec!["gpgsig", "gpgsig-sha256", "tree", "parent", "author", "committer", "encoding", "", "x"];
    let at = any::<Index>;
    prop_oneof![
        4 => (at(), prop::sample::select(lines)).prop_map(|(i, l)| Oddity::Insert(i, l)),
        1 => at().prop_map(Oddity::Double),
        1 => (at(), at()).prop_map(|(a, b)| Oddity::Move(a, b)),
        1 => (at(), prop::sample::select(names)).prop_map(|(i, n)| Oddity::Rename(i, n)),
    ]
}

impl Oddity {
    fn apply(&self, payload: Vec<u8>) -> Vec<u8> {
        let mut all = lines(&payload);
        match self {
            Oddity::Insert(at, line) => all.insert(at.index(all.len() + 1), format!("{line}\n").into()),
            Oddity::Double(at) => {
                let at = at.index(all.len());
                all.insert(at, all[at].clone());
            }
            Oddity::Move(a, b) => {
                let line = all.remove(a.index(all.len()));
                let to = b.index(all.len() + 1);
                all.insert(to, line);
            }
            Oddity::Rename(at, name) => {
                let at = at.index(all.len());
                let value = all[at].iter().position(|b| *b == b' ').map_or(0, |space| space);
                all[at].splice(..value, name.bytes());
            }
        }
        all.concat()
    }
}

#[test]
fn any_bytes_are_a_commit_or_a_refusal() {
    let bytes = prop::collection::vec(any::<u8>(), 0..400);
    random::check("bytes", Cases { short: 2_000, long: 100_000 }, bytes, |raw| {
        assert!(commit::split(&raw, ObjectFormat::Sha1).is_err());
        assert!(room::verify(b"", &raw, &CORPUS.policy).is_err());
    });
}
