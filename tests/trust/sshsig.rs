//! Keys and SSH signatures made by hand, so that every field can be wrong on purpose.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signer as _, SigningKey};
use pullagent::trust::PublicKey;
use sha2::{Digest as _, Sha256, Sha512};

pub const SK: &str = "sk-ssh-ed25519@openssh.com";
pub const PLAIN: &str = "ssh-ed25519";

/// A key whose secret the test knows. A security key is simulated: same curve, and the fields of PROTOCOL.u2f.
pub struct Key {
    pub secret: SigningKey,
    pub algorithm: &'static str,
}

impl Key {
    pub fn plain(seed: u8) -> Key {
        Key { secret: SigningKey::from_bytes(&[seed; 32]), algorithm: PLAIN }
    }

    pub fn sk(seed: u8) -> Key {
        Key { secret: SigningKey::from_bytes(&[seed; 32]), algorithm: SK }
    }

    /// Returns the wire form.
    pub fn blob(&self) -> Vec<u8> {
        let point = self.secret.verifying_key().to_bytes();
        let mut blob = strings(&[self.algorithm.as_bytes(), &point]);
        if self.algorithm == SK {
            blob.extend(strings(&[b"ssh:"]));
        }
        blob
    }

    /// Returns the line of a `.pub` file.
    pub fn line(&self) -> String {
        format!("{} {}", self.algorithm, STANDARD.encode(self.blob()))
    }

    pub fn public(&self) -> PublicKey {
        PublicKey::parse(&self.line()).unwrap()
    }

    /// Returns the private key file that `ssh-keygen` reads.
    pub fn file(&self) -> String {
        let pair = ssh_key::private::Ed25519Keypair::from_seed(&self.secret.to_bytes());
        let key = ssh_key::PrivateKey::new(pair.into(), "test").unwrap();
        key.to_openssh(ssh_key::LineEnding::LF).unwrap().to_string()
    }
}

/// What happens to the signature, and to flags and counter of a security key, after signing.
pub type Bend = fn(&mut Vec<u8>, &mut Vec<u8>);

/// One signature, field by field. The default is what `ssh-keygen -Y sign -n git` makes.
pub struct Sshsig {
    pub version: u32,
    pub namespace: &'static [u8],
    pub reserved: &'static [u8],
    /// The name that is written, and that of the hash that is used.
    pub hash: (&'static str, &'static str),
    /// The type named in the signature; the key's own if `None`.
    pub algorithm: Option<&'static str>,
    pub flags: u8,
    pub trailing: &'static [u8],
    /// Damage, after signing.
    pub bend: Bend,
}

impl Default for Sshsig {
    fn default() -> Sshsig {
        Sshsig {
            version: 1,
            namespace: b"git",
            reserved: b"",
            hash: ("sha512", "sha512"),
            algorithm: None,
            flags: 1,
            trailing: b"",
            bend: |_, _| (),
        }
    }
}

impl Sshsig {
    /// Signs `payload` and returns the armored signature.
    pub fn sign(&self, key: &Key, payload: &[u8]) -> String {
        armor(&self.blob(key, payload), 70)
    }

    /// Signs `payload` and returns what is inside the armor.
    pub fn blob(&self, key: &Key, payload: &[u8]) -> Vec<u8> {
        let digest = if self.hash.1 == "sha256" {
            Sha256::digest(payload).to_vec()
        } else {
            Sha512::digest(payload).to_vec()
        };
        let mut message = b"SSHSIG".to_vec();
        message.extend(strings(&[self.namespace, self.reserved, self.hash.0.as_bytes(), &digest]));
        let mut user = if key.algorithm == SK { vec![self.flags, 0, 0, 0, 9] } else { vec![] };
        if key.algorithm == SK {
            message = [&Sha256::digest(b"ssh:")[..], &user, &Sha256::digest(&message)[..]].concat();
        }
        let mut signature = key.secret.sign(&message).to_bytes().to_vec();
        (self.bend)(&mut signature, &mut user);
        let algorithm = self.algorithm.unwrap_or(key.algorithm);
        let mut inner = strings(&[algorithm.as_bytes(), &signature]);
        inner.extend(user);
        let mut blob = [b"SSHSIG", &self.version.to_be_bytes()[..]].concat();
        blob.extend(strings(&[&key.blob(), self.namespace, self.reserved, self.hash.0.as_bytes(), &inner]));
        blob.extend_from_slice(self.trailing);
        blob
    }
}

/// Returns `fields`, each with its length before it.
pub fn strings(fields: &[&[u8]]) -> Vec<u8> {
    let with_length = |f: &&[u8]| [&(f.len() as u32).to_be_bytes()[..], f].concat();
    fields.iter().flat_map(with_length).collect()
}

/// Returns `blob` in armor with lines of `width`, without the last line end.
pub fn armor(blob: &[u8], width: usize) -> String {
    let base64 = STANDARD.encode(blob);
    let lines: Vec<_> =
        base64.as_bytes().chunks(width).map(|l| String::from_utf8_lossy(l).into_owned()).collect();
    format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----", lines.join("\n"))
}

/// Returns the bytes inside an armor.
pub fn dearmor(armor: &str) -> Vec<u8> {
    let base64: String = armor.lines().filter(|l| !l.starts_with("-----")).collect();
    STANDARD.decode(base64).unwrap()
}

/// Puts `armor` into an unsigned commit, as its last header named `name`.
pub fn with_header(payload: &[u8], name: &str, armor: &str) -> Vec<u8> {
    let end = payload.windows(2).position(|w| w == b"\n\n").unwrap() + 1;
    let header = format!("{name} {}\n", armor.replace('\n', "\n "));
    [&payload[..end], header.as_bytes(), &payload[end..]].concat()
}
