//! Who signs, as the configuration says it: names, keys, the time in which each key counts, roles. What the signatures
//! are good for is decided in [`crate::trust`].

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ConfigError;
use super::check::is_hostname;
use crate::trust;

/// One person or machine that signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Signer {
    /// Public keys as in `~/.ssh/id_ed25519.pub`: type, base64, optional comment; each bare, or with the time in which
    /// it counts.
    pub keys: Vec<SigningKey>,
    /// What the signatures are good for.
    #[serde(default = "default_roles")]
    pub roles: Vec<Role>,
    /// The hosts whose test branch this signer may move; `null`: every host's for a deployer, none for a contributor.
    #[serde(default)]
    pub test_hosts: Option<Vec<String>>,
}

/// What a signature is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// May sign the commit that is deployed.
    Deployer,
    /// May sign commits below it.
    Contributor,
}

/// A public key, and the time in which its signatures count. Without a window it is written as a bare text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// Type, base64, optional comment.
    pub key: String,
    /// When it begins to count.
    pub valid_from: Option<Moment>,
    /// When it ceases to count.
    pub valid_until: Option<Moment>,
}

/// [`SigningKey`] as a JSON object.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Windowed {
    /// Type, base64, optional comment.
    key: String,
    /// When it begins to count; `null`: it always did.
    #[serde(default)]
    valid_from: Option<Moment>,
    /// When it ceases to count; `null`: never.
    #[serde(default)]
    valid_until: Option<Moment>,
}

/// A point in time, unix seconds; written `"2027-01-31"` (its first second, UTC) or `"2027-01-31T12:00:00Z"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Signer {
    /// Returns the signer called `name` with its keys read.
    pub(super) fn checked(&self, name: &str) -> Result<trust::Signer, ConfigError> {
        let wrong = |key: &str, text| ConfigError::Value { key: format!("trust.signers.{name}.{key}"), text };
        let key = |k: &SigningKey| {
            let public = public(&format!("trust.signers.{name}.keys"), &k.key)?;
            let (valid_from, valid_until) = (k.valid_from.map(|m| m.0), k.valid_until.map(|m| m.0));
            Ok(trust::ListedKey { public, valid_from, valid_until })
        };
        let role = |role: &Role| match role {
            Role::Deployer => trust::Role::Deployer,
            Role::Contributor => trust::Role::Contributor,
        };
        if let Some(odd) = self.test_hosts.iter().flatten().find(|host| !is_hostname(host)) {
            return Err(wrong("testHosts", format!("'{odd}' is not a host name (letters, digits, hyphens)")));
        }
        Ok(trust::Signer {
            name: name.to_owned(),
            keys: self.keys.iter().map(key).collect::<Result<_, ConfigError>>()?,
            roles: self.roles.iter().map(role).collect(),
            test_hosts: self.test_hosts.as_ref().map(|hosts| hosts.iter().cloned().collect()),
        })
    }
}

/// Reads the public key `line`, which the configuration has under `key`.
pub(super) fn public(key: &str, line: &str) -> Result<trust::PublicKey, ConfigError> {
    let wrong = |e: trust::KeyError| ConfigError::Value { key: key.to_owned(), text: e.to_string() };
    trust::PublicKey::parse(line).map_err(wrong)
}

fn default_roles() -> Vec<Role> {
    vec![Role::Deployer]
}

impl Serialize for SigningKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.valid_from.is_none() && self.valid_until.is_none() {
            return s.serialize_str(&self.key);
        }
        let SigningKey { key, valid_from, valid_until } = self.clone();
        Windowed { key, valid_from, valid_until }.serialize(s)
    }
}

impl<'de> Deserialize<'de> for SigningKey {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<SigningKey, D::Error> {
        d.deserialize_any(EitherForm)
    }
}

/// Reads a [`SigningKey`] from a text or an object, so that an error speaks of the one that was meant.
struct EitherForm;

impl<'de> Visitor<'de> for EitherForm {
    type Value = SigningKey;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a public key, or an object with 'key', 'validFrom' and 'validUntil'")
    }

    fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<SigningKey, E> {
        Ok(SigningKey { key: line.to_owned(), valid_from: None, valid_until: None })
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SigningKey, A::Error> {
        let Windowed { key, valid_from, valid_until } =
            Windowed::deserialize(MapAccessDeserializer::new(map))?;
        Ok(SigningKey { key, valid_from, valid_until })
    }
}

impl JsonSchema for SigningKey {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SigningKey".into()
    }
    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let windowed = generator.subschema_for::<Windowed>();
        schemars::json_schema!({ "anyOf": [{ "type": "string" }, windowed] })
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.0)))
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Moment, D::Error> {
        let text = String::deserialize(d)?;
        let whole = if text.len() == "2027-01-31".len() { format!("{text}T00:00:00Z") } else { text.clone() };
        let wrong = || {
            D::Error::custom(format!(
                "'{text}' is not a time such as \"2027-01-31\" or \"2027-01-31T12:00:00Z\" (UTC)"
            ))
        };
        let time = humantime::parse_rfc3339(&whole).map_err(|_| wrong())?;
        time.duration_since(UNIX_EPOCH).map(|d| Moment(d.as_secs())).map_err(|_| wrong())
    }
}

impl JsonSchema for Moment {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Moment".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "a point in time such as \"2027-01-31\" (its first second, UTC) or \"2027-01-31T12:00:00Z\""
        })
    }
}
