//! Whether a request was sent by somebody who has the secret. It is handed the head, the bytes of the body one after the
//! other, and the secrets; it knows no connection, and reads nothing in a body.
//!
//! Secrets and signatures are compared as [`Sum`]s, which can't be compared but in constant time, all of them whatever the
//! others came to.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, HeaderName};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use crate::config::{Hook, HookKind};

/// Fewer bytes can be guessed.
const SECRET_BYTES_MIN: usize = 16;
/// How many bytes the file of a secret may have.
pub(super) const SECRET_BYTES_MAX: u64 = 1024;
/// How far the clock of who signs a time may be off, in seconds (standardwebhooks.com; its libraries take five minutes).
const TOLERANCE_SECS: u64 = 5 * 60;
/// How many signatures a request may show: one for each secret of the sender.
const SIGNATURES_MAX: usize = 8;
/// The longest id of a message, in bytes.
const ID_BYTES_MAX: usize = 256;

/// What a hexadecimal signature may begin with: the name of the only algorithm that is accepted.
const ALGORITHM: &str = "sha256=";
/// What a signature of Standard Webhooks begins with, and its secrets.
const VERSION: &str = "v1,";
const SECRET_PREFIX: &[u8] = b"whsec_";

/// As senders have it: with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A signature, or what stands for a secret: equal only to itself, and not to be compared in any other way.
#[derive(Clone)]
struct Sum([u8; 32]);

impl Sum {
    /// Compares all bytes, whatever the first ones are.
    fn same(&self, other: &Sum) -> Choice {
        self.0.ct_eq(&other.0)
    }

    /// Of a secret: sums have one length, so a comparison does not tell the length of the secret either.
    fn of(secret: &[u8]) -> Sum {
        Sum(Sha256::digest(secret).into())
    }
}

/// How the requests of a hook prove themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheme {
    /// HMAC-SHA-256 of the body in hexadecimal, in this header.
    Signed(HeaderName),
    /// Standard Webhooks: HMAC-SHA-256 of id, time and body.
    Standard,
    /// The secret itself, in this header.
    Shown(HeaderName),
    /// The secret itself, as `Authorization: Bearer …`.
    Bearer,
    /// The secret itself, in the path.
    Path,
}

impl Scheme {
    /// Returns how the requests of `hook` prove themselves.
    pub fn of(hook: &Hook) -> Scheme {
        let signed = |name| Scheme::Signed(HeaderName::from_static(name));
        match hook.kind {
            HookKind::Github => signed("x-hub-signature-256"),
            HookKind::Forgejo => signed("x-forgejo-signature"),
            HookKind::Gitea => signed("x-gitea-signature"),
            HookKind::Bitbucket => signed("x-hub-signature"),
            HookKind::Gitlab => Scheme::Shown(HeaderName::from_static("x-gitlab-token")),
            HookKind::StandardWebhooks => Scheme::Standard,
            HookKind::HmacSha256 => {
                let name = hook.header.as_ref().and_then(|name| name.parse().ok());
                name.map_or_else(|| signed("x-hub-signature-256"), Scheme::Signed)
            }
            HookKind::Bearer => Scheme::Bearer,
            HookKind::Path => Scheme::Path,
        }
    }

    /// Makes a secret of what its file holds.
    ///
    /// # Errors
    /// It is no secret of this kind; says why, without it.
    pub fn secret(&self, content: &[u8]) -> Result<Secret, &'static str> {
        let text = content.trim_ascii();
        if text.iter().any(u8::is_ascii_control) {
            return Err("it must hold one line");
        }
        let unreserved = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
        if *self == Scheme::Path && !text.iter().all(unreserved) {
            return Err("a secret in a path has letters, digits, '-', '.', '_' and '~' only");
        }
        let bytes = match self {
            Scheme::Standard => BASE64
                .decode(text.strip_prefix(SECRET_PREFIX).unwrap_or(text))
                .map_err(|_| "a secret of Standard Webhooks is 'whsec_' and base64")?,
            Scheme::Signed(_) | Scheme::Shown(_) | Scheme::Bearer | Scheme::Path => text.to_vec(),
        };
        if bytes.len() < SECRET_BYTES_MIN {
            return Err("it is missing, or a secret of less than 16 bytes, which can be guessed");
        }
        Ok(Secret(bytes))
    }
}

/// What only the sender and this host know.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// What a request shows.
enum Shown {
    /// One of these is the signature of these bytes and the body.
    Signatures(Vec<Sum>, Vec<u8>),
    /// This is the secret's.
    Secret(Sum),
}

/// A request that is being looked at.
pub struct Proof {
    shown: Shown,
    /// One for each secret.
    known: Vec<Known>,
}

enum Known {
    Signs(Hmac<Sha256>),
    Is(Sum),
}

impl Proof {
    /// Begins with the head of a request: its headers, and what its path has beyond the hook's. `now` is in seconds since
    /// 1970.
    ///
    /// # Errors
    /// The request shows nothing that could be a proof; says what is missing.
    pub fn begin(
        scheme: &Scheme,
        headers: &HeaderMap,
        rest: Option<&str>,
        secrets: &[Secret],
        now: u64,
    ) -> Result<Proof, String> {
        let shown = match scheme {
            Scheme::Signed(name) => Shown::Signatures(vec![hexadecimal(one(headers, name)?)?], Vec::new()),
            Scheme::Standard => standard(headers, now)?,
            Scheme::Shown(name) => Shown::Secret(Sum::of(one(headers, name)?.as_bytes())),
            Scheme::Bearer => Shown::Secret(bearer(one(headers, &AUTHORIZATION)?)?),
            Scheme::Path => Shown::Secret(Sum::of(rest.unwrap_or_default().as_bytes())),
        };
        let known = secrets.iter().map(|secret| Known::of(secret, &shown)).collect();
        Ok(Proof { shown, known })
    }

    /// Takes the next bytes of the body.
    pub fn update(&mut self, chunk: &[u8]) {
        for known in &mut self.known {
            if let Known::Signs(state) = known {
                state.update(chunk);
            }
        }
    }

    /// Says whether the request was sent by somebody who has one of the secrets.
    pub fn holds(self) -> bool {
        let mut holds = Choice::from(0);
        for known in self.known {
            let sum = match known {
                Known::Signs(state) => Sum(state.finalize().into_bytes().into()),
                Known::Is(sum) => sum,
            };
            match &self.shown {
                Shown::Signatures(shown, _) => shown.iter().for_each(|shown| holds |= shown.same(&sum)),
                Shown::Secret(shown) => holds |= shown.same(&sum),
            }
        }
        holds.into()
    }
}

impl Known {
    fn of(Secret(secret): &Secret, shown: &Shown) -> Known {
        match shown {
            Shown::Secret(_) => Known::Is(Sum::of(secret)),
            Shown::Signatures(_, before) => {
                let mut state =
                    Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
                state.update(before);
                Known::Signs(state)
            }
        }
    }
}

/// Returns the one header of this name. A second one could be meant for somebody else's eyes.
fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<&'a str, String> {
    let mut all = headers.get_all(name).iter();
    match (all.next(), all.next()) {
        (None, _) => Err(format!("it has no header '{name}'")),
        (_, Some(_)) => Err(format!("it has more than one header '{name}'")),
        (Some(value), None) => value.to_str().map_err(|_| format!("its header '{name}' is no text")),
    }
}

/// Reads `sha256=<64 hexadecimal digits>`, or the digits alone.
fn hexadecimal(value: &str) -> Result<Sum, String> {
    let digits = value.strip_prefix(ALGORITHM).unwrap_or(value).as_bytes();
    let wrong = || "its signature is not HMAC-SHA-256 in hexadecimal".to_owned();
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let bytes: Option<Vec<u8>> =
        digits.chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(*pair.get(1)?)?)).collect();
    let bytes = bytes.ok_or_else(wrong)?;
    bytes.try_into().map(Sum).map_err(|_| wrong())
}

/// Reads what RFC 6750 has after `Authorization:`; the name of the scheme may be written in any case.
fn bearer(value: &str) -> Result<Sum, String> {
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            Ok(Sum::of(token.trim().as_bytes()))
        }
        _ => Err("its header 'authorization' is not 'Bearer …'".to_owned()),
    }
}

/// Reads the three headers of Standard Webhooks
/// (github.com/standard-webhooks/standard-webhooks, `spec/standard-webhooks.md`).
fn standard(headers: &HeaderMap, now: u64) -> Result<Shown, String> {
    let value = |name| one(headers, &HeaderName::from_static(name));
    let (id, time, listed) = (value("webhook-id")?, value("webhook-timestamp")?, value("webhook-signature")?);
    if id.len() > ID_BYTES_MAX {
        return Err("its header 'webhook-id' is too long".to_owned());
    }
    let sent = Some(time).filter(|time| time.bytes().all(|b| b.is_ascii_digit()));
    let sent: Option<u64> = sent.and_then(|time| time.parse().ok());
    let sent = sent.ok_or("its header 'webhook-timestamp' is no time")?;
    let off = now.abs_diff(sent);
    if off > TOLERANCE_SECS {
        return Err(format!("its time is {off} s off this host's clock, and may be {TOLERANCE_SECS} s off"));
    }
    // Other versions, such as those with public keys, are passed over, as the specification says.
    let sums = listed.split(' ').filter_map(|item| item.strip_prefix(VERSION)).map(|text| {
        let bytes = BASE64.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes
            .map(Sum)
            .ok_or_else(|| "its header 'webhook-signature' has no HMAC-SHA-256 in base64".to_owned())
    });
    let sums: Vec<Sum> = sums.take(SIGNATURES_MAX + 1).collect::<Result<_, _>>()?;
    match sums.len() {
        0 => Err("its header 'webhook-signature' has no signature of version 1".to_owned()),
        n if n > SIGNATURES_MAX => Err("its header 'webhook-signature' has too many signatures".to_owned()),
        _ => Ok(Shown::Signatures(sums, format!("{id}.{time}.").into_bytes())),
    }
}

#[cfg(test)]
mod tests;
