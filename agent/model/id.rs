//! Names of things: Git object ids, store paths, deployments. Parsing is the only way to make one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Says why a text is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 40 or 64 lower-case hexadecimal digits.
    #[error("'{0}' is not a full Git object id (40 or 64 lower-case hexadecimal digits)")]
    Oid(String),
    /// Not an absolute, normal path of one object in a Nix store.
    #[error("'{0}' is not the path of a store object")]
    StorePath(String),
}

/// A full Git object id in lower-case hexadecimal: 40 digits (SHA-1) or 64 (SHA-256).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Oid(String);

impl Oid {
    /// How many digits [`Oid::short`] keeps.
    pub const SHORT: usize = 7;

    /// Returns all digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the first seven digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..Self::SHORT]
    }
}

impl FromStr for Oid {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let hex = s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if hex && (s.len() == 40 || s.len() == 64) {
            Ok(Oid(s.to_owned()))
        } else {
            Err(IdError::Oid(s.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for Oid {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        s.parse()
    }
}

impl From<Oid> for String {
    fn from(oid: Oid) -> String {
        oid.0
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The absolute path of one store object, such as `/nix/store/…-nixos-system-web1-26.05`.
///
/// The store may lie elsewhere than `/nix/store`; only the shape `<store>/<32 base-32 digits>-<name>` is checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StorePath(String);

impl StorePath {
    /// Returns the path.
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }

    /// Returns the path as text; store paths are always ASCII.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns a path below this object.
    pub fn join(&self, below: &str) -> PathBuf {
        self.as_path().join(below)
    }

    /// Parses `path`, or the store object that `path` lies in.
    pub fn containing(path: &Path) -> Option<StorePath> {
        path.ancestors().find_map(|p| p.to_str()?.parse().ok())
    }
}

impl FromStr for StorePath {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let wrong = || IdError::StorePath(s.chars().take(200).collect());
        let name = s.rsplit('/').next().filter(|_| s.starts_with('/')).ok_or_else(wrong)?;
        let normal = s.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..");
        let (hash, rest) = name.split_once('-').ok_or_else(wrong)?;
        // nix: src/libstore/path.cc, base-32 alphabet without e, o, t, u.
        let base32 = |b: u8| b"0123456789abcdfghijklmnpqrsvwxyz".contains(&b);
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"+-._?=".contains(&b);
        let shaped =
            hash.len() == 32 && hash.bytes().all(base32) && !rest.is_empty() && rest.bytes().all(legal);
        if normal && shaped && s.is_ascii() { Ok(StorePath(s.to_owned())) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for StorePath {
    type Error = IdError;
    fn try_from(s: String) -> Result<Self, IdError> {
        s.parse()
    }
}

impl From<StorePath> for String {
    fn from(p: StorePath) -> String {
        p.0
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of one deployment on this host: a running number and the short revision, such as `12-a1b2c3d`.
///
/// It names the guard's directory and units, so it is made of digits, letters and one hyphen only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeploymentId(String);

impl DeploymentId {
    /// Returns the name of deployment number `number` on this host.
    pub fn new(number: u64, revision: &Oid) -> DeploymentId {
        DeploymentId(format!("{number}-{}", revision.short()))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DeploymentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_ids_are_full_and_lower_case() {
        assert!("0123456789abcdef0123456789abcdef01234567".parse::<Oid>().is_ok());
        for bad in [
            "",
            "main",
            "0123456",
            "0123456789ABCDEF0123456789abcdef01234567",
            "g123456789abcdef0123456789abcdef01234567",
        ] {
            assert!(bad.parse::<Oid>().is_err(), "{bad}");
        }
    }

    #[test]
    fn store_paths_are_one_object_in_a_store() {
        let good = "/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-nixos-system-web1";
        assert_eq!(good.parse::<StorePath>().map(|p| p.to_string()), Ok(good.to_owned()));
        assert_eq!(StorePath::containing(Path::new(&format!("{good}/etc/passwd"))), good.parse().ok());
        let bad = [
            "/nix/store",
            "/etc/passwd",
            "nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-x",
            "/nix/../rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-x",
            "/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-x y",
            "/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-",
        ];
        for bad in bad {
            assert!(bad.parse::<StorePath>().is_err(), "{bad}");
        }
    }
}
