//! Who may sign. Identity is the key, never a name or address in a commit. A policy with a doubt in it does not
//! come to be: OpenSSH skips a line it cannot read, this refuses the whole.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::key::PublicKey;

/// Says why a set of signers is not a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Nobody could ever sign anything.
    #[error("no signer is listed")]
    NoSigner,
    /// A signer without a name.
    #[error("a signer has no name")]
    NoName,
    /// One name, two signers.
    #[error("the signer '{0}' is listed twice")]
    DuplicateName(String),
    /// A signer that can sign nothing.
    #[error("the signer '{0}' has no key")]
    NoKey(String),
    /// A signer that may do nothing.
    #[error("the signer '{0}' has no role")]
    NoRole(String),
    /// One key, two names, or the same key twice under one.
    #[error("the key {fingerprint} is listed for '{first}' and again for '{second}'")]
    DuplicateKey {
        /// The key.
        fingerprint: String,
        /// Who has it.
        first: String,
        /// Who has it too.
        second: String,
    },
    /// Contributors only: nothing could ever be deployed.
    #[error("no signer has the role 'deployer'")]
    NoDeployer,
}

/// What a signer may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// May sign the commit that is deployed.
    Deployer,
    /// May sign commits below it, but never the one that is deployed.
    Contributor,
}

/// A person or machine, with the keys it signs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The name used in messages; it has no other meaning.
    pub name: String,
    /// At least one.
    pub keys: Vec<PublicKey>,
    /// At least one.
    pub roles: BTreeSet<Role>,
}

impl Signer {
    /// Tells whether a commit signed by this signer may be deployed.
    pub fn may_deploy(&self) -> bool {
        self.roles.contains(&Role::Deployer)
    }
}

/// The signers of this host, checked. Roles that need history (policy files, thresholds) join here later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    signers: Vec<Signer>,
    revoked: Vec<PublicKey>,
    require_user_verification: bool,
}

impl Policy {
    /// Checks and returns a policy. Weak keys cannot occur, [`PublicKey::parse`] refuses them.
    ///
    /// `revoked` beats every listing: a commit by such a key is refused whatever its date.
    /// `require_user_verification` asks security keys for PIN or fingerprint besides the touch; it says nothing
    /// about keys in files.
    pub fn new(
        signers: Vec<Signer>,
        revoked: Vec<PublicKey>,
        require_user_verification: bool,
    ) -> Result<Policy, PolicyError> {
        if signers.is_empty() {
            return Err(PolicyError::NoSigner);
        }
        for signer in &signers {
            complete(signer)?;
        }
        distinct(&signers)?;
        if !signers.iter().any(Signer::may_deploy) {
            return Err(PolicyError::NoDeployer);
        }
        Ok(Policy { signers, revoked, require_user_verification })
    }

    /// Returns the signers, in the order given.
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }

    /// Returns the revoked keys.
    pub fn revoked(&self) -> &[PublicKey] {
        &self.revoked
    }

    /// Tells whether security keys must have asked for PIN or fingerprint.
    pub fn require_user_verification(&self) -> bool {
        self.require_user_verification
    }

    /// Returns the key with this wire form, and whose it is.
    pub(super) fn find(&self, blob: &[u8]) -> Option<(&Signer, &PublicKey)> {
        self.signers.iter().find_map(|s| s.keys.iter().find(|k| k.blob() == blob).map(|k| (s, k)))
    }

    /// Tells whether the key with this wire form is revoked.
    pub(super) fn is_revoked(&self, blob: &[u8]) -> bool {
        self.revoked.iter().any(|k| k.blob() == blob)
    }
}

fn complete(signer: &Signer) -> Result<(), PolicyError> {
    let name = || signer.name.clone();
    match signer {
        Signer { name, .. } if name.trim().is_empty() => Err(PolicyError::NoName),
        Signer { keys, .. } if keys.is_empty() => Err(PolicyError::NoKey(name())),
        Signer { roles, .. } if roles.is_empty() => Err(PolicyError::NoRole(name())),
        Signer { .. } => Ok(()),
    }
}

fn distinct(signers: &[Signer]) -> Result<(), PolicyError> {
    let mut names = BTreeSet::new();
    let mut owners = BTreeMap::new();
    for signer in signers {
        if !names.insert(&signer.name) {
            return Err(PolicyError::DuplicateName(signer.name.clone()));
        }
        for key in &signer.keys {
            if let Some(first) = owners.insert(key.blob(), signer) {
                return Err(PolicyError::DuplicateKey {
                    fingerprint: key.fingerprint(),
                    first: first.name.clone(),
                    second: signer.name.clone(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::key::tests::{REAL, line};
    use super::*;

    fn key(n: u8) -> PublicKey {
        let secret = ed25519_dalek::SigningKey::from_bytes(&[n; 32]);
        let point = secret.verifying_key().to_bytes();
        PublicKey::parse(&line("ssh-ed25519", &[b"ssh-ed25519", &point])).unwrap()
    }

    fn signer(name: &str, keys: &[u8], roles: &[Role]) -> Signer {
        let keys = keys.iter().map(|n| key(*n)).collect();
        Signer { name: name.into(), keys, roles: roles.iter().copied().collect() }
    }

    #[test]
    fn a_policy_without_doubt_is_accepted_and_finds_keys_by_their_bytes() {
        let all = [Role::Deployer, Role::Contributor];
        let signers = vec![signer("alice", &[1, 2], &all), signer("bot", &[3], &[Role::Contributor])];
        let policy = Policy::new(signers, vec![key(3)], false).unwrap();
        let found = |n: u8| policy.find(key(n).blob()).map(|(s, _)| s.name.as_str());
        assert_eq!(
            (found(1), found(2), found(3), found(4)),
            (Some("alice"), Some("alice"), Some("bot"), None)
        );
        assert!(policy.is_revoked(key(3).blob()) && !policy.is_revoked(key(1).blob()));
        assert!(PublicKey::parse(REAL).is_ok_and(|k| policy.find(k.blob()).is_none()));
    }

    #[test]
    fn a_policy_with_a_doubt_is_refused_whole() {
        let deployer = [Role::Deployer];
        let check = |signers: Vec<Signer>, expected: &str| {
            assert_eq!(Policy::new(signers, vec![], false).unwrap_err().to_string(), expected);
        };
        check(vec![], "no signer is listed");
        check(vec![signer(" ", &[1], &deployer)], "a signer has no name");
        check(vec![signer("a", &[], &deployer)], "the signer 'a' has no key");
        check(vec![signer("a", &[1], &[])], "the signer 'a' has no role");
        check(vec![signer("a", &[1], &[Role::Contributor])], "no signer has the role 'deployer'");
        check(
            vec![signer("a", &[1], &deployer), signer("a", &[2], &deployer)],
            "the signer 'a' is listed twice",
        );
        let twice = |second: &str| {
            format!("the key {} is listed for 'a' and again for '{second}'", key(1).fingerprint())
        };
        check(vec![signer("a", &[1], &deployer), signer("b", &[1], &deployer)], &twice("b"));
        check(vec![signer("a", &[1, 1], &deployer)], &twice("a"));
    }
}
