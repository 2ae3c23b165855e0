//! SSH signatures (OpenSSH PROTOCOL.sshsig and PROTOCOL.u2f): one canonical armor, one version, one namespace,
//! two kinds of key. It knows no commit; the payload is just bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signature;
use sha2::{Digest as _, Sha256, Sha512};

use super::blob::{Blob, put_string};
use super::escape;
use super::key::{self, Algorithm, Kind};
use super::policy::{ListedKey, Policy, Signer};
use super::refusal::{Code, Fault, Refusal};

const BEGIN: &[u8] = b"-----BEGIN SSH SIGNATURE-----\n";
const END: &[u8] = b"-----END SSH SIGNATURE-----";
/// How many base64 characters `ssh-keygen` puts on a line.
const LINE_LEN: usize = 70;
const MAGIC: &[u8] = b"SSHSIG";
const VERSION: u32 = 1;
/// What git signs under; signatures made for files or logins have another one.
const NAMESPACE: &[u8] = b"git";
/// Flags of a security key: it was touched; it asked for PIN or fingerprint.
const USER_PRESENT: u8 = 0x01;
const USER_VERIFIED: u8 = 0x04;

/// Whose good signature it is.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'p> {
    /// The signer.
    pub signer: &'p Signer,
    /// The key used, with its window, which nobody has looked at yet.
    pub key: &'p ListedKey,
}

/// Checks that `armor` is a signature over `payload` by a listed key that is not revoked, and says whose.
pub fn verify<'p>(payload: &[u8], armor: &[u8], policy: &'p Policy) -> Result<Signed<'p>, Refusal> {
    verify_raw(payload, armor, policy).map_err(Refusal::from)
}

pub(super) fn verify_raw<'p>(payload: &[u8], armor: &[u8], policy: &'p Policy) -> Result<Signed<'p>, Fault> {
    let blob = dearmor(armor)?;
    let sig = Sshsig::parse(&blob)?;
    let signed = look_up(sig.public_key, policy)?;
    let message = sig.signed_message(payload);
    sig.check(&signed, &message, policy.require_user_verification())?;
    Ok(signed)
}

/// Returns the bytes inside the armor, which must be laid out as `ssh-keygen` lays it out. One empty line after
/// the end is allowed: 24 of 31,370 real signatures have it, and the payload hash heals the second id it gives.
fn dearmor(armor: &[u8]) -> Result<Vec<u8>, Fault> {
    let body = armor.strip_prefix(BEGIN).ok_or_else(|| not_ssh(armor))?;
    let end = body.windows(END.len()).position(|w| w == END);
    let end = end.ok_or_else(|| Fault::new(Code::ArmorEnd, "has a signature without an end line"))?;
    let (body, tail) = (&body[..end], &body[end + END.len()..]);
    if !matches!(tail, b"" | b"\n") {
        return Err(Fault::new(Code::ArmorEnd, "has something after the end of its signature"));
    }
    let joined: Vec<u8> = body.iter().copied().filter(|b| *b != b'\n').collect();
    let blob = STANDARD.decode(&joined);
    let blob =
        blob.map_err(|_| Fault::new(Code::ArmorBase64, "has a signature that is not strict base64"))?;
    // Decoding was strict, so encoding gives `joined` back; what is left to check are the line ends.
    let canonical = joined.chunks(LINE_LEN).flat_map(|l| l.iter().copied().chain([b'\n']));
    if !canonical.eq(body.iter().copied()) {
        let says = format!("has a signature that is not written in lines of {LINE_LEN} characters");
        return Err(Fault::new(Code::ArmorNotCanonical, says));
    }
    Ok(blob)
}

fn not_ssh(armor: &[u8]) -> Fault {
    let foreign = [("PGP SIGNATURE", "OpenPGP"), ("PGP MESSAGE", "OpenPGP"), ("SIGNED MESSAGE", "X.509")];
    for (label, kind) in foreign {
        if armor.starts_with(format!("-----BEGIN {label}-----").as_bytes()) {
            let says = format!("is signed with {kind}, only SSH signatures are accepted");
            return Fault::new(Code::FormatNotAllowed, says);
        }
    }
    Fault::new(Code::ArmorBegin, "has a signature that does not begin as an SSH signature does")
}

/// The fields of a signature that matter once version, namespace and reserved field are as they must be.
struct Sshsig<'a> {
    public_key: &'a [u8],
    hash: Hash,
    signature: &'a [u8],
}

enum Hash {
    Sha256,
    Sha512,
}

impl<'a> Sshsig<'a> {
    fn parse(blob: &'a [u8]) -> Result<Sshsig<'a>, Fault> {
        let cut = || Fault::new(Code::BadSshsig, "has a signature that is cut short or damaged");
        let mut blob = Blob::new(blob);
        if blob.take(MAGIC.len()) != Some(MAGIC) {
            return Err(cut());
        }
        let version = blob.u32().ok_or_else(cut)?;
        if version != VERSION {
            return Err(Fault::new(Code::Version, format!("has a signature of version {version}")));
        }
        let mut string = || blob.string().ok_or_else(cut);
        let (public_key, namespace, reserved, hash, signature) =
            (string()?, string()?, string()?, string()?, string()?);
        if !blob.is_empty() {
            return Err(Fault::new(Code::TrailingData, "has bytes after its signature"));
        }
        if namespace != NAMESPACE {
            let says = format!("has a signature made for '{}', not for 'git'", escape::line(namespace));
            return Err(Fault::new(Code::Namespace, says));
        }
        if !reserved.is_empty() {
            return Err(Fault::new(Code::Reserved, "has a signature with something in its reserved field"));
        }
        Ok(Sshsig { public_key, hash: Hash::from_name(hash)?, signature })
    }

    /// Returns what the key signed: everything that gives the payload its meaning, and its hash.
    fn signed_message(&self, payload: &[u8]) -> Vec<u8> {
        let mut message = MAGIC.to_vec();
        put_string(&mut message, NAMESPACE);
        put_string(&mut message, b"");
        match self.hash {
            Hash::Sha256 => {
                put_string(&mut message, b"sha256");
                put_string(&mut message, &Sha256::digest(payload));
            }
            Hash::Sha512 => {
                put_string(&mut message, b"sha512");
                put_string(&mut message, &Sha512::digest(payload));
            }
        }
        message
    }

    /// Checks the signature proper: kind, then what a security key says of its user, then the curve.
    fn check(&self, signed: &Signed<'_>, message: &[u8], require_uv: bool) -> Result<(), Fault> {
        let cut = || Fault::new(Code::BadSshsig, "has a signature that is cut short or damaged");
        let mut blob = Blob::new(self.signature);
        let algorithm = blob.string().ok_or_else(cut)?;
        if algorithm != signed.key.public.algorithm().as_str().as_bytes() {
            let says = format!("has a signature of type '{}' by a key of another", escape::line(algorithm));
            return Err(Fault::new(Code::SigAlgMismatch, says));
        }
        let signature = blob.string().and_then(|s| s.try_into().ok()).ok_or_else(cut)?;
        let message = match &signed.key.public.kind {
            Kind::Ed25519 => message.to_vec(),
            Kind::SkEd25519 { application } => {
                let (flags, counter) = blob.byte().zip(blob.take(4)).ok_or_else(cut)?;
                check_user(flags, require_uv, signed)?;
                let hashes = (Sha256::digest(application), Sha256::digest(message));
                [&hashes.0[..], &[flags], counter, &hashes.1[..]].concat()
            }
        };
        if !blob.is_empty() {
            return Err(Fault::new(Code::TrailingData, "has bytes after its signature"));
        }
        let good = signed.key.public.key.verify_strict(&message, &Signature::from_bytes(signature));
        let says = || format!("does not match its signature by {}", whose(signed));
        good.map_err(|_| Fault::new(Code::BadSignature, says()))
    }
}

impl Hash {
    fn from_name(name: &[u8]) -> Result<Hash, Fault> {
        match name {
            b"sha256" => Ok(Hash::Sha256),
            b"sha512" => Ok(Hash::Sha512),
            _ => {
                let says = format!("has a signature over the hash '{}'", escape::line(name));
                Err(Fault::new(Code::HashAlg, says))
            }
        }
    }
}

fn check_user(flags: u8, require_uv: bool, signed: &Signed<'_>) -> Result<(), Fault> {
    if flags & USER_PRESENT == 0 {
        let says = format!("was signed without touching the security key of {}", whose(signed));
        return Err(Fault::new(Code::SkNoUserPresence, says));
    }
    if require_uv && flags & USER_VERIFIED == 0 {
        let says = format!("was signed without PIN or fingerprint on the security key of {}", whose(signed));
        return Err(Fault::new(Code::SkNoUserVerification, says));
    }
    Ok(())
}

/// Finds the key by its exact bytes, before anything is computed with it.
fn look_up<'p>(public_key: &[u8], policy: &'p Policy) -> Result<Signed<'p>, Fault> {
    let cut = || Fault::new(Code::BadSshsig, "has a signature without a key");
    let algorithm = Blob::new(public_key).string().ok_or_else(cut)?;
    if Algorithm::from_name(algorithm).is_none() {
        let says = format!("is signed with a key of type '{}'", escape::line(algorithm));
        return Err(Fault::new(Code::AlgorithmNotAllowed, says));
    }
    let shown = format!("{} {}", escape::line(algorithm), key::fingerprint(public_key));
    let found = policy.find(public_key);
    if policy.is_revoked(public_key) {
        let whose = found.map(|(s, _)| format!(" of '{}'", s.name)).unwrap_or_default();
        return Err(Fault::new(Code::RevokedKey, format!("is signed with the revoked key {shown}{whose}")));
    }
    match found {
        Some((signer, key)) => Ok(Signed { signer, key }),
        None if key::is_weak(public_key) => {
            let says = format!("is signed with a weak key, for which anyone can sign, {shown}");
            Err(Fault::new(Code::WeakKey, says))
        }
        None => {
            Err(Fault::new(Code::UnknownKey, format!("is signed with a key that is not listed, {shown}")))
        }
    }
}

fn whose(signed: &Signed<'_>) -> String {
    format!("'{}' ({})", signed.signer.name, signed.key.public.fingerprint())
}

#[cfg(test)]
mod tests {
    use super::super::key::PublicKey;
    use super::super::key::tests::REAL;
    use super::super::policy::{Role, Rules};
    use super::*;

    /// `ssh-keygen -Y sign -n git` over "payload\n" with the key [`REAL`].
    const ARMOR: &str = "\
-----BEGIN SSH SIGNATURE-----
U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAgx+tsej9apY3ENfgAkvUGmLaNPo
axSjfs5WhsqguRnmoAAAADZ2l0AAAAAAAAAAZzaGE1MTIAAABTAAAAC3NzaC1lZDI1NTE5
AAAAQIWFpcmLwTg1OMbb4gKIcWvvBmXjdhZchGFPDmgUon+KoCSITZ0C96g5YHosspZMXg
LIDh9mME6inMzLiuHmZAA=
-----END SSH SIGNATURE-----";

    fn code(payload: &str, armor: &str) -> Option<Code> {
        let keys = vec![PublicKey::parse(REAL).unwrap().into()];
        let alice = Signer { name: "alice".into(), keys, roles: [Role::Deployer].into(), test_hosts: None };
        let policy = Policy::new(vec![alice], vec![], Rules::default()).unwrap();
        verify(payload.as_bytes(), armor.as_bytes(), &policy).err().map(|r| r.code)
    }

    #[test]
    fn a_real_signature_fits_its_payload_only() {
        assert_eq!(code("payload\n", ARMOR), None);
        assert_eq!(code("payload\n", &format!("{ARMOR}\n")), None);
        assert_eq!(code("payload", ARMOR), Some(Code::BadSignature));
    }

    #[test]
    fn there_is_one_way_to_write_it() {
        let check =
            |armor: String, expected| assert_eq!(code("payload\n", &armor), Some(expected), "{armor}");
        check(String::new(), Code::ArmorBegin);
        check(format!("\n{ARMOR}"), Code::ArmorBegin);
        check(ARMOR.replace("BEGIN SSH", "BEGIN PGP"), Code::FormatNotAllowed);
        check(ARMOR.replace("END", "ENDE"), Code::ArmorEnd);
        check(format!("{ARMOR}\n\n"), Code::ArmorEnd);
        check(format!("{ARMOR} "), Code::ArmorEnd);
        check(ARMOR.replace("\n-----END", "-----END"), Code::ArmorNotCanonical);
        check(ARMOR.replace("\n-----END", "\n\n-----END"), Code::ArmorNotCanonical);
        check(ARMOR.replacen("SIGNATURE-----\n", "SIGNATURE-----\n\n", 1), Code::ArmorNotCanonical);
        check(ARMOR.replacen('U', " U", 1), Code::ArmorBegin);
        check(ARMOR.replace("\nU1NI", "\n U1NI"), Code::ArmorBase64);
        check(ARMOR.replace("\nU1NI", "\nU1NJ"), Code::BadSshsig);
    }
}
