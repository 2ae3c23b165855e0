//! SSH signatures: there is exactly one accepted text for each thing that a key can say, and the `ssh-key` crate accepts
//! it as well. The bodies know the secret keys, so they know every signature that may be accepted.

use std::sync::LazyLock;

use pullagent::trust::{Policy, sshsig};

use super::sign::{self, Key, PLAIN, SK, Sshsig, armor, strings};
use super::{Dice, fit_for_people};
use ed25519_dalek::Signer as _;
use sha2::{Digest as _, Sha256, Sha512};

const PAYLOAD: &[u8] = b"tree 1\n\nOpen the door\n";
/// The order of the curve's prime subgroup, little-endian: S and S + L sign the same.
const L: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

static POLICY: LazyLock<Policy> = LazyLock::new(super::policy);

/// The first byte chooses how the armor is made of the rest.
pub fn check(data: &[u8]) -> bool {
    let mut dice = Dice(data);
    let armor = match dice.below(4) {
        0 => dice.0.to_vec(),
        1 => laid_out(&mut Dice(&[]), &dice.0[..dice.0.len().min(4096)]),
        2 => {
            let blob = field_by_field(&mut dice);
            laid_out(&mut dice, &blob)
        }
        _ => damaged(&mut dice),
    };
    verdict(&armor)
}

fn verdict(armor: &[u8]) -> bool {
    let signed = match sshsig::verify(PAYLOAD, armor, &POLICY) {
        Ok(signed) => signed,
        Err(refusal) => {
            fit_for_people(&refusal.text, 1200);
            let known = keys().iter().filter(|key| key.1).any(|key| is_canonical(armor, &key.0));
            assert!(!known, "refused what ssh-keygen would have written: {refusal}");
            return false;
        }
    };
    let (key, may_sign) = keys().into_iter().find(|key| key.0.public() == signed.key.public).unwrap();
    assert!(may_sign && signed.signer.name == if key.secret.to_bytes()[0] == 3 { "bob" } else { "alice" });
    assert!(is_canonical(armor, &key), "accepted a second text of one signature");
    let signature = ssh_key::SshSig::from_pem(armor.strip_suffix(b"\n").unwrap_or(armor)).unwrap();
    ssh_key::PublicKey::from_openssh(&key.line()).unwrap().verify("git", PAYLOAD, &signature).unwrap();
    true
}

/// The keys of the policy, a stranger's, and whether their signatures count.
fn keys() -> [(Key, bool); 5] {
    [
        (Key::plain(1), true),
        (Key::sk(2), true),
        (Key::plain(3), true),
        (Key::plain(4), false),
        (Key::plain(5), false),
    ]
}

/// Tells whether `armor` is what `ssh-keygen` writes for `key`, but for one empty line that may follow.
fn is_canonical(armor: &[u8], key: &Key) -> bool {
    let text = armor.strip_suffix(b"\n").unwrap_or(armor);
    let said = match key.algorithm {
        SK => {
            let body: Vec<u8> =
                text.split(|b| *b == b'\n').filter(|l| !l.starts_with(b"-")).flatten().copied().collect();
            let Ok(blob) = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body) else {
                return false;
            };
            blob.len().checked_sub(5).map_or(Vec::new(), |at| blob[at..].to_vec())
        }
        _ => Vec::new(),
    };
    let touched = key.algorithm != SK || said.first().is_some_and(|flags| flags & 1 == 1);
    let wrote = |hash: &str| {
        let fields = Fields { hash: hash.as_bytes().to_vec(), said: said.clone(), ..Fields::of(key) };
        sign::armor(&fields.blob(key), 70).into_bytes()
    };
    touched && (text == wrote("sha512") || text == wrote("sha256"))
}

/// Everything that a signature holds beside what is computed.
struct Fields {
    magic: Vec<u8>,
    version: u32,
    namespace: Vec<u8>,
    reserved: Vec<u8>,
    hash: Vec<u8>,
    algorithm: Vec<u8>,
    /// Flags and counter of a security key.
    said: Vec<u8>,
    trailing: Vec<u8>,
    inner_trailing: Vec<u8>,
    /// Whether L is added to S.
    second_s: bool,
}

impl Fields {
    fn of(key: &Key) -> Fields {
        Fields {
            magic: b"SSHSIG".to_vec(),
            version: 1,
            namespace: b"git".to_vec(),
            reserved: Vec::new(),
            hash: b"sha512".to_vec(),
            algorithm: key.algorithm.as_bytes().to_vec(),
            said: if key.algorithm == SK { vec![1, 0, 0, 0, 9] } else { Vec::new() },
            trailing: Vec::new(),
            inner_trailing: Vec::new(),
            second_s: false,
        }
    }

    /// Signs as OpenSSH does, over whatever the fields say.
    fn blob(&self, key: &Key) -> Vec<u8> {
        let digest = if self.hash == b"sha256" {
            Sha256::digest(PAYLOAD).to_vec()
        } else {
            Sha512::digest(PAYLOAD).to_vec()
        };
        let mut message = b"SSHSIG".to_vec();
        message.extend(strings(&[&self.namespace, &self.reserved, &self.hash, &digest]));
        if key.algorithm == SK {
            message = [&Sha256::digest(b"ssh:")[..], &self.said, &Sha256::digest(&message)[..]].concat();
        }
        let mut signature = key.secret.sign(&message).to_bytes().to_vec();
        if self.second_s {
            let mut carry = 0;
            for (s, l) in signature[32..].iter_mut().zip(L) {
                let sum = u16::from(*s) + u16::from(l) + carry;
                *s = sum as u8;
                carry = sum >> 8;
            }
        }
        let mut inner = strings(&[&self.algorithm, &signature]);
        inner.extend_from_slice(&self.said);
        inner.extend_from_slice(&self.inner_trailing);
        let mut blob = [&self.magic, &self.version.to_be_bytes()[..]].concat();
        blob.extend(strings(&[&key.blob(), &self.namespace, &self.reserved, &self.hash, &inner]));
        blob.extend_from_slice(&self.trailing);
        blob
    }
}

/// A signature of which each field may be odd.
fn field_by_field(dice: &mut Dice<'_>) -> Vec<u8> {
    let (key, _) = &keys()[dice.below(5)];
    let mut fields = Fields::of(key);
    if dice.odd() {
        fields.hash = dice.pick(&[&b"sha256"[..], b"sha384", b"SHA512", b""]).to_vec();
    }
    if dice.odd() {
        fields.version = dice.u32();
    }
    if dice.odd() {
        fields.namespace = dice.short().to_vec();
    }
    if dice.odd() {
        fields.reserved = dice.short().to_vec();
    }
    if dice.odd() {
        fields.algorithm = dice.pick(&[PLAIN.as_bytes(), SK.as_bytes(), b"ssh-rsa", b""]).to_vec();
    }
    if dice.odd() {
        fields.said = dice.short().to_vec();
    }
    if key.algorithm == SK && dice.odd() {
        fields.said = [&[dice.byte()], &dice.u32().to_be_bytes()[..]].concat();
    }
    if dice.odd() {
        fields.trailing = dice.short().to_vec();
    }
    if dice.odd() {
        fields.inner_trailing = dice.short().to_vec();
    }
    fields.second_s = dice.odd();
    if dice.odd() {
        fields.magic = dice.short().to_vec();
    }
    fields.blob(key)
}

/// Armor, perhaps not laid out as usual.
fn laid_out(dice: &mut Dice<'_>, blob: &[u8]) -> Vec<u8> {
    let width = if dice.odd() { dice.below(100) + 1 } else { 70 };
    let mut text = armor(blob, width).into_bytes();
    if dice.odd() {
        text.extend_from_slice(dice.short());
    }
    text
}

/// A good signature, with some bytes changed, removed or put in.
fn damaged(dice: &mut Dice<'_>) -> Vec<u8> {
    let (key, _) = &keys()[dice.below(5)];
    let mut text = armor(&Fields::of(key).blob(key), 70).into_bytes();
    while !dice.is_over() {
        let at = usize::from(dice.u16()) % (text.len() + 1);
        match dice.below(4) {
            0 if at < text.len() => text[at] ^= dice.byte(),
            1 if at < text.len() => drop(text.remove(at)),
            2 => text.insert(at, dice.byte()),
            _ => text.truncate(text.len() - usize::from(dice.byte() == 255) * (text.len() - at)),
        }
    }
    text
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (n, (key, _)) in keys().iter().enumerate() {
        let sig = Sshsig::default();
        seeds.push([&[0], sig.sign(key, PAYLOAD).as_bytes()].concat());
        seeds.push([&[1], &sig.blob(key, PAYLOAD)[..]].concat());
        seeds.push(vec![2, n as u8]);
        seeds.push(vec![3, n as u8]);
        seeds.push([&[2, n as u8], &[0; 9][..], &[7, 0, 0, 7, 1, b'\n']].concat());
    }
    // Each field odd once; the last two are the second S and the magic word.
    for odd in 0..11 {
        let mut seed = vec![2, 1];
        for field in 0..11 {
            seed.extend_from_slice(if field == odd { &[7, 1, 2, 0, 0, 1] } else { &[0] });
        }
        seeds.push(seed);
    }
    // A security key that nobody touched, and one that was touched by somebody it knows.
    seeds.push([&[2, 1], &[0; 6][..], &[7, 0, 0, 0, 0, 9]].concat());
    seeds.push([&[2, 1], &[0; 6][..], &[7, 5, 0, 0, 0, 9]].concat());
    seeds.push([&[0], &b"-----BEGIN PGP SIGNATURE-----\n\n-----END PGP SIGNATURE-----"[..]].concat());
    seeds
}
