//! Public keys as one line of an `id_ed25519.pub` file. Only Ed25519, plain or on a security key; a key for
//! which anyone can make signatures never becomes a [`PublicKey`].

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ed25519_dalek::VerifyingKey;
use sha2::{Digest as _, Sha256};

use super::blob::Blob;
use super::escape;

/// The longest key line that is looked at, in bytes. A key of ours with a long comment has a few hundred.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// Says why a line is not a key that can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not `type base64 comment`.
    #[error("'{0}' is not a public key line (type, base64, comment)")]
    Shape(String),
    /// RSA, ECDSA, certificates, …
    #[error("keys of type '{0}' are not accepted, use ssh-ed25519 or sk-ssh-ed25519@openssh.com")]
    Algorithm(String),
    /// The middle is damaged or belongs to another type.
    #[error("the base64 part of '{0}' is not a key of that type")]
    Damaged(String),
    /// Small order: there are signatures by it that fit almost any message.
    #[error("the key {0} is weak, anyone can sign for it (weak-key)")]
    Weak(String),
}

/// The kinds of key that may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `ssh-ed25519`
    Ed25519,
    /// `sk-ssh-ed25519@openssh.com`: Ed25519 on a FIDO security key.
    SkEd25519,
}

impl Algorithm {
    /// Returns the name that OpenSSH uses on the wire and in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Ed25519 => "ssh-ed25519",
            Algorithm::SkEd25519 => "sk-ssh-ed25519@openssh.com",
        }
    }

    /// Returns the algorithm of that name, if it is one of ours.
    pub(super) fn from_name(name: &[u8]) -> Option<Algorithm> {
        [Algorithm::Ed25519, Algorithm::SkEd25519].into_iter().find(|a| a.as_str().as_bytes() == name)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A public key. Two are equal if their wire form is; the comment does not count.
#[derive(Clone)]
pub struct PublicKey {
    pub(super) kind: Kind,
    pub(super) key: VerifyingKey,
    blob: Vec<u8>,
    comment: String,
}

/// What checking a signature needs beside the curve point.
#[derive(Clone)]
pub(super) enum Kind {
    Ed25519,
    SkEd25519 { application: Vec<u8> },
}

impl PublicKey {
    /// Parses one line: type, base64, optional comment; options and certificates are refused.
    pub fn parse(line: &str) -> Result<PublicKey, KeyError> {
        let shown = || escape::line(line.as_bytes());
        let mut words = line.trim().splitn(3, [' ', '\t']);
        let (name, base64) = words.next().zip(words.next()).ok_or_else(|| KeyError::Shape(shown()))?;
        if line.len() > LINE_BYTES_MAX || line.trim().chars().any(|c| c.is_control() && c != '\t') {
            return Err(KeyError::Shape(shown()));
        }
        let algorithm = Algorithm::from_name(name.as_bytes())
            .ok_or_else(|| KeyError::Algorithm(escape::line(name.as_bytes())))?;
        let blob = STANDARD.decode(base64).map_err(|_| KeyError::Damaged(shown()))?;
        let (kind, key) = read(algorithm, &blob).ok_or_else(|| KeyError::Damaged(shown()))?;
        if key.is_weak() {
            return Err(KeyError::Weak(fingerprint(&blob)));
        }
        Ok(PublicKey { kind, key, blob, comment: words.next().unwrap_or("").trim().to_owned() })
    }

    /// Returns `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.blob)
    }

    /// Returns the kind of the key.
    pub fn algorithm(&self) -> Algorithm {
        match self.kind {
            Kind::Ed25519 => Algorithm::Ed25519,
            Kind::SkEd25519 { .. } => Algorithm::SkEd25519,
        }
    }

    /// Returns what followed the key on its line; it means nothing.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// Returns the wire form that signatures carry.
    pub(super) fn blob(&self) -> &[u8] {
        &self.blob
    }
}

/// Reads the wire form of a key of type `algorithm`: its name again, the point, and for a security key the
/// application, which OpenSSH always begins with `ssh:` (PROTOCOL.u2f).
fn read(algorithm: Algorithm, blob: &[u8]) -> Option<(Kind, VerifyingKey)> {
    let mut fields = Blob::new(blob);
    let named = fields.string()? == algorithm.as_str().as_bytes();
    let key = VerifyingKey::from_bytes(fields.string()?.try_into().ok()?).ok()?;
    let kind = match algorithm {
        Algorithm::Ed25519 => Kind::Ed25519,
        Algorithm::SkEd25519 => Kind::SkEd25519 { application: fields.string()?.to_vec() },
    };
    let ours = match &kind {
        Kind::Ed25519 => true,
        Kind::SkEd25519 { application } => is_application(application),
    };
    (named && ours && fields.is_empty()).then_some((kind, key))
}

/// Tells whether OpenSSH would take this for the application of a key: text that begins with `ssh:`, without a NUL.
fn is_application(application: &[u8]) -> bool {
    std::str::from_utf8(application).is_ok_and(|a| a.starts_with("ssh:") && !a.contains(char::is_control))
}

/// Tells whether a key in its wire form is of ours but of small order.
pub(super) fn is_weak(blob: &[u8]) -> bool {
    let algorithm = Blob::new(blob).string().and_then(Algorithm::from_name);
    algorithm.and_then(|algorithm| read(algorithm, blob)).is_some_and(|(_, key)| key.is_weak())
}

/// Returns the fingerprint of a key in its wire form.
pub(super) fn fingerprint(blob: &[u8]) -> String {
    format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(blob)))
}

impl FromStr for PublicKey {
    type Err = KeyError;
    fn from_str(line: &str) -> Result<PublicKey, KeyError> {
        PublicKey::parse(line)
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &PublicKey) -> bool {
        self.blob == other.blob
    }
}

impl Eq for PublicKey {}

/// Type and base64, without the comment: what `authorized_keys` and allowed-signers files hold.
impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.algorithm(), STANDARD.encode(&self.blob))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({} {})", self.algorithm(), self.fingerprint())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::blob::put_string;
    use super::*;

    /// `ssh-keygen -t ed25519 -C me@laptop`, and what `ssh-keygen -l` says of it.
    pub const REAL: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMfrbHo/WqWNxDX4AJL1Bpi2jT6GsUo37OVobKoLkZ5q me@laptop";
    const REAL_FINGERPRINT: &str = "SHA256:YM5s0l02mLjlDL2UWHeSq1NhLjCkDqZS0c3gFtoETpM";

    /// Returns a key line with these fields in its wire form.
    pub fn line(name: &str, fields: &[&[u8]]) -> String {
        let mut blob = Vec::new();
        for field in fields {
            put_string(&mut blob, field);
        }
        format!("{name} {}", STANDARD.encode(blob))
    }

    #[test]
    fn a_real_key_is_read_and_written_back() {
        let key = PublicKey::parse(REAL).unwrap();
        assert_eq!((key.algorithm(), key.comment()), (Algorithm::Ed25519, "me@laptop"));
        assert_eq!(key.fingerprint(), REAL_FINGERPRINT);
        assert_eq!(format!("{key} me@laptop"), REAL);
        assert_eq!(PublicKey::parse(&format!("  {REAL}\n")).unwrap(), key);
    }

    #[test]
    fn security_keys_carry_their_application() {
        let point = PublicKey::parse(REAL).unwrap().key.to_bytes();
        let sk = |fields: &[&[u8]]| PublicKey::parse(&line("sk-ssh-ed25519@openssh.com", fields));
        let name = b"sk-ssh-ed25519@openssh.com";
        assert_eq!(sk(&[name, &point, b"ssh:"]).unwrap().algorithm(), Algorithm::SkEd25519);
        for odd in [&b"https://a"[..], b"ssh:a\0b", b"ssh:\xff"] {
            assert!(matches!(sk(&[name, &point, odd]), Err(KeyError::Damaged(_))));
        }
        assert!(matches!(sk(&[name, &point]), Err(KeyError::Damaged(_))));
        assert!(matches!(sk(&[name, &point, b"ssh:", b""]), Err(KeyError::Damaged(_))));
        assert!(matches!(sk(&[b"ssh-ed25519", &point, b"ssh:"]), Err(KeyError::Damaged(_))));
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        let check = |text: &str, expected: fn(&KeyError) -> bool| {
            let error = PublicKey::parse(text).unwrap_err();
            assert!(expected(&error), "{text}: {error}");
        };
        let body = REAL.split(' ').nth(1).unwrap();
        check("", |e| matches!(e, KeyError::Shape(_)));
        check("ssh-ed25519", |e| matches!(e, KeyError::Shape(_)));
        check(&format!("{REAL}\n{REAL}"), |e| matches!(e, KeyError::Shape(_)));
        check(&format!("{REAL}{}", "x".repeat(LINE_BYTES_MAX)), |e| matches!(e, KeyError::Shape(_)));
        check(&format!("no-pty {REAL}"), |e| matches!(e, KeyError::Algorithm(_)));
        check(&format!("ssh-rsa {body}"), |e| matches!(e, KeyError::Algorithm(_)));
        check(&format!("ssh-ed25519-cert-v01@openssh.com {body}"), |e| matches!(e, KeyError::Algorithm(_)));
        check("ssh-ed25519 !!!!", |e| matches!(e, KeyError::Damaged(_)));
        check(&format!("ssh-ed25519 {}", &body[..body.len() - 4]), |e| matches!(e, KeyError::Damaged(_)));
        check(&line("ssh-ed25519", &[b"ssh-ed25519", &[1; 31]]), |e| matches!(e, KeyError::Damaged(_)));
        check(&line("ssh-ed25519", &[b"ssh-ed25519", &[2; 32]]), |e| matches!(e, KeyError::Damaged(_)));
    }

    #[test]
    fn keys_of_small_order_are_weak() {
        // The eight points of small order, by y; each with both signs, and the two that can be written a second way.
        const Y: [&str; 7] = [
            "0100000000000000000000000000000000000000000000000000000000000000",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ];
        let mut weak = 0;
        for y in Y {
            for sign in [0, 0x80] {
                let digits = y.as_bytes().chunks(2);
                let byte = |d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap();
                let mut point: Vec<u8> = digits.map(byte).collect();
                point[31] |= sign;
                let error = PublicKey::parse(&line("ssh-ed25519", &[b"ssh-ed25519", &point])).unwrap_err();
                assert!(matches!(error, KeyError::Weak(_) | KeyError::Damaged(_)), "{y} {sign}: {error}");
                weak += usize::from(matches!(error, KeyError::Weak(_)));
            }
        }
        assert!(weak >= 8, "{weak}");
    }
}
