//! Who may sign. Identity is the key, never a name or address in a commit. A policy with a doubt in it does not
//! come to be: OpenSSH skips a line it cannot read, this refuses the whole.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
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
    /// A window that ends before it begins.
    #[error("the key {fingerprint} of '{name}' is never valid: its end is not after its beginning")]
    EmptyWindow {
        /// The key.
        fingerprint: String,
        /// Whose it is.
        name: String,
    },
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

/// A key, and the time in which its signatures count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedKey {
    /// The key.
    pub public: PublicKey,
    /// The first second in which it counts, unix seconds; `None`: since ever.
    pub valid_from: Option<u64>,
    /// The first second in which it no longer counts, unix seconds; `None`: for ever.
    pub valid_until: Option<u64>,
}

impl From<PublicKey> for ListedKey {
    /// A key without a window.
    fn from(public: PublicKey) -> ListedKey {
        ListedKey { public, valid_from: None, valid_until: None }
    }
}

/// A person or machine, with the keys it signs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The name used in messages; it has no other meaning.
    pub name: String,
    /// At least one.
    pub keys: Vec<ListedKey>,
    /// At least one.
    pub roles: BTreeSet<Role>,
    /// The hosts whose test branch this signer may move. `None`: every host's for a deployer, none for others.
    pub test_hosts: Option<BTreeSet<String>>,
}

impl Signer {
    /// Tells whether a commit signed by this signer may be deployed from the main line.
    pub fn may_deploy(&self) -> bool {
        self.roles.contains(&Role::Deployer)
    }

    /// Tells whether a commit signed by this signer may be the tip of `host`'s test branch. Whoever may do that can
    /// run anything there.
    pub fn may_test(&self, host: &str) -> bool {
        self.test_hosts.as_ref().map_or(self.may_deploy(), |hosts| hosts.contains(host))
    }
}

/// Which tips must name their branch in a `Deploy-To:` line. Where such a line is present it always binds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RefBinding {
    /// Tips of the test branch.
    #[default]
    Test,
    /// All tips.
    Strict,
}

/// What a signed merge says of the commits that it brings in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Merges {
    /// Nothing: each of them must be signed, too.
    #[default]
    Every,
    /// It vouches for them: only the line of first parents is verified.
    Vouch,
}

/// What the policy demands beside a listed key. The default is the strictest that one person with one key can live with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rules {
    /// Asks security keys for PIN or fingerprint besides the touch; it says nothing about keys in files.
    pub require_user_verification: bool,
    /// Which tips must name their branch.
    pub ref_binding: RefBinding,
    /// Which commits of a range are verified.
    pub merges: Merges,
}

/// The signers of this host, checked. Roles that need history (policy files, thresholds) join here later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    signers: Vec<Signer>,
    revoked: Vec<PublicKey>,
    rules: Rules,
}

impl Policy {
    /// Checks and returns a policy. Weak keys cannot occur, [`PublicKey::parse`] refuses them.
    ///
    /// `revoked` beats every listing: a commit by such a key is refused whatever its date.
    pub fn new(signers: Vec<Signer>, revoked: Vec<PublicKey>, rules: Rules) -> Result<Policy, PolicyError> {
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
        Ok(Policy { signers, revoked, rules })
    }

    /// Returns the signers, in the order given.
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }

    /// Returns the revoked keys.
    pub fn revoked(&self) -> &[PublicKey] {
        &self.revoked
    }

    /// Returns what is demanded beside a listed key.
    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// Tells whether security keys must have asked for PIN or fingerprint.
    pub fn require_user_verification(&self) -> bool {
        self.rules.require_user_verification
    }

    /// Returns which tips must name their branch.
    pub fn ref_binding(&self) -> RefBinding {
        self.rules.ref_binding
    }

    /// Returns what a signed merge says of the commits that it brings in.
    pub fn merges(&self) -> Merges {
        self.rules.merges
    }

    /// Returns the key with this wire form, and whose it is.
    pub(super) fn find(&self, blob: &[u8]) -> Option<(&Signer, &ListedKey)> {
        self.signers.iter().find_map(|s| s.keys.iter().find(|k| k.public.blob() == blob).map(|k| (s, k)))
    }

    /// Tells whether the key with this wire form is revoked.
    pub(super) fn is_revoked(&self, blob: &[u8]) -> bool {
        self.revoked.iter().any(|k| k.blob() == blob)
    }
}

fn complete(signer: &Signer) -> Result<(), PolicyError> {
    let name = || signer.name.clone();
    let empty = |k: &&ListedKey| k.valid_until.is_some_and(|until| until <= k.valid_from.unwrap_or(0));
    if let Some(key) = signer.keys.iter().find(empty) {
        return Err(PolicyError::EmptyWindow { fingerprint: key.public.fingerprint(), name: name() });
    }
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
            if let Some(first) = owners.insert(key.public.blob(), signer) {
                return Err(PolicyError::DuplicateKey {
                    fingerprint: key.public.fingerprint(),
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
        let keys = keys.iter().map(|n| key(*n).into()).collect();
        Signer { name: name.into(), keys, roles: roles.iter().copied().collect(), test_hosts: None }
    }

    #[test]
    fn a_policy_without_doubt_is_accepted_and_finds_keys_by_their_bytes() {
        let all = [Role::Deployer, Role::Contributor];
        let signers = vec![signer("alice", &[1, 2], &all), signer("bot", &[3], &[Role::Contributor])];
        let policy = Policy::new(signers, vec![key(3)], Rules::default()).unwrap();
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
            assert_eq!(Policy::new(signers, vec![], Rules::default()).unwrap_err().to_string(), expected);
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
