//! Why a revision is refused: the closed list of codes, and the refusal itself. It knows no object and no key;
//! whoever refuses brings the words.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::Oid;

/// Declares the codes, once: what each means, its name, whether the verdict lasts, and what the administrator can do.
macro_rules! codes {
    ($(#[doc = $meaning:literal] $variant:ident = $name:literal, $lasts:ident, $advice:literal;)+) => {
        /// A stable, machine-readable reason. The text form never changes its meaning between versions.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Code {
            $(#[doc = $meaning] #[serde(rename = $name)] $variant,)+
        }

        impl Code {
            /// Every code, in the order of the documentation.
            pub const ALL: &[Code] = &[$(Code::$variant),+];

            /// Returns the stable text form, such as `unsigned`.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $name,)+ }
            }

            /// Tells whether the verdict follows from the tip, the anchor and the policy alone, so that it may be
            /// remembered until one of them changes. What depends on the network, the store or the clock does not.
            pub fn is_final(self) -> bool {
                match self { $(Code::$variant => codes!(@lasts $lasts),)+ }
            }

            /// Returns one plain sentence: what is wrong.
            pub fn meaning(self) -> &'static str {
                match self { $(Code::$variant => $meaning.trim_ascii(),)+ }
            }

            /// Returns one plain sentence: what an administrator or a signer can do about it.
            pub fn advice(self) -> &'static str {
                match self { $(Code::$variant => $advice,)+ }
            }
        }
    };
    (@lasts lasting) => { true };
    (@lasts passing) => { false };
}

codes! {
    /// The commit has no signature header.
    Unsigned = "unsigned", lasting, "Sign it with `git commit --amend -S` (or `git rebase -S` for several) and push again.";
    /// The signature is made with a key that no signer lists.
    UnknownKey = "unknown-key", lasting, "Sign with a listed key, or add this one to `trust.signers` in a commit that a listed key signs.";
    /// The key is in `revokedKeys`.
    RevokedKey = "revoked-key", lasting, "Find out where the commit came from, then sign the change again with a key that is not revoked.";
    /// The signer may not sign what is deployed.
    Unauthorised = "unauthorised", lasting, "Let somebody who may deploy here add a signed commit on top, for example `git commit --allow-empty -S`.";
    /// The commit does not say that it is meant for this branch.
    WrongTarget = "wrong-target", lasting, "Name the branch when you commit: `git commit --amend -S --trailer \"Deploy-To: <branch>\"`. Below a signed commit or merge the line does not matter.";
    /// The signature does not belong to these bytes.
    BadSignature = "bad-signature", lasting, "The commit was altered after it was signed; sign it again and check the Git server.";
    /// A header follows the signature.
    GpgsigNotLast = "gpgsig-not-last", lasting, "Make the commit again with a current Git; the signature must be its last header.";
    /// A second kind of signature header, which Git would drop before checking.
    ForeignGpgsigHeader = "foreign-gpgsig-header", lasting, "Make the commit again with a current Git; it carries a signature header of another kind.";
    /// The signature is not an SSH signature, for example OpenPGP or X.509.
    FormatNotAllowed = "format-not-allowed", lasting, "Sign with SSH: `git config gpg.format ssh` and an ssh-ed25519 key.";
    /// The signature does not begin as an SSH signature does.
    ArmorBegin = "armor-begin", lasting, "Sign the commit again; its signature does not begin as an SSH signature does.";
    /// The signature has no end line, or something follows it.
    ArmorEnd = "armor-end", lasting, "Sign the commit again; its signature does not end as an SSH signature does.";
    /// The same signature could be written differently, which would change the commit id.
    ArmorNotCanonical = "armor-not-canonical", lasting, "Sign the commit again with ssh-keygen; its signature is not laid out as ssh-keygen does.";
    /// The signature is not strict base64.
    ArmorBase64 = "armor-base64", lasting, "Sign the commit again; its signature is damaged.";
    /// A carriage return in the header.
    CrInHeader = "cr-in-header", lasting, "Make the commit again; something on its way turned line ends into CRLF.";
    /// Headers are missing, doubled or out of order.
    HeaderOrder = "header-order", lasting, "Make the commit again with a current Git; its header is malformed.";
    /// A header cannot be read.
    BadHeader = "bad-header", lasting, "Make the commit again with a current Git; its header is malformed.";
    /// A NUL byte in the commit.
    NulByte = "nul-byte", lasting, "Make the commit again without a NUL byte in its message.";
    /// The signature is cut short or is no SSH signature inside.
    BadSshsig = "bad-sshsig", lasting, "Sign the commit again; its signature is damaged.";
    /// An SSH signature of another version than 1.
    Version = "version", lasting, "Sign the commit again with a current ssh-keygen.";
    /// The reserved field of the signature is in use.
    Reserved = "reserved", lasting, "Sign the commit again with ssh-keygen; its signature was altered.";
    /// The signature was made for something else than Git.
    Namespace = "namespace", lasting, "Sign with `git commit -S`; this signature was made for another purpose.";
    /// A hash that is not SHA-256 or SHA-512.
    HashAlg = "hash-alg", lasting, "Sign the commit again with a current ssh-keygen.";
    /// Bytes follow the signature.
    TrailingData = "trailing-data", lasting, "Sign the commit again with ssh-keygen; its signature was altered.";
    /// A key of another kind than ssh-ed25519 and sk-ssh-ed25519.
    AlgorithmNotAllowed = "algorithm-not-allowed", lasting, "Sign with an ssh-ed25519 or sk-ssh-ed25519@openssh.com key.";
    /// Key and signature are of different kinds.
    SigAlgMismatch = "sig-alg-mismatch", lasting, "Sign the commit again with ssh-keygen; its signature was altered.";
    /// A security key signed without being touched.
    SkNoUserPresence = "sk-no-user-presence", lasting, "Sign again and touch the security key; keys made with `no-touch-required` are not accepted.";
    /// A security key signed without its PIN or fingerprint, which the policy requires.
    SkNoUserVerification = "sk-no-user-verification", lasting, "Sign with a key made by `ssh-keygen -t ed25519-sk -O verify-required`, or drop `trust.requireUserVerification`.";
    /// A key for which anyone can make signatures.
    WeakKey = "weak-key", lasting, "Make a new key with `ssh-keygen -t ed25519`.";
    /// The commit object is larger than any honest one.
    CommitTooLarge = "commit-too-large", lasting, "Shorten the commit message; the whole commit may have 1 MiB.";
    /// The commit has more parents than any honest one.
    TooManyParents = "too-many-parents", lasting, "Merge in several steps; a commit may have 64 parents.";
    /// The branch or a parent names an object that is not a commit.
    NotACommit = "not-a-commit", lasting, "Point the branch at a commit; something else is in its place.";
    /// More commits since the anchor than will be verified.
    RangeTooLarge = "range-too-large", lasting, "Move the branch to a commit in between, wait until the host has accepted it, then move the branch on.";
    /// The tip does not descend from the anchor.
    NotFastForward = "not-fast-forward", lasting, "Push a commit on top of the accepted revision (undo with `git revert`); a branch that was rewritten takes it in again with `git merge -S -s ours <accepted revision>`, or root names its tip on each host: `pullagent accept <commit id>`.";
    /// The tip is the accepted commit under another id.
    SameContent = "same-content", lasting, "Nothing to do on the host, which has that content; put the branch back to the accepted commit, and check the Git server.";
    /// A history of its own was merged in.
    ForeignRoot = "foreign-root", lasting, "Remove the merge of the unrelated history.";
    /// The tip of a test branch does not descend from the accepted main.
    NotOnMain = "not-on-main", lasting, "Rebase the test branch onto the main branch this host has accepted.";
    /// A test branch shows an older commit than it did before.
    TestRollback = "test-rollback", lasting, "Commit again on the test branch (`git commit --amend -S`), so that its date rises.";
    /// A forbidden name in the tree.
    BadPath = "bad-path", lasting, "Rename the file; its name is not safe on every system.";
    /// A tree that Git would not have written.
    BadTree = "bad-tree", lasting, "Make the commit again with a current Git; one of its directories is malformed.";
    /// A file mode that Git does not write.
    BadMode = "bad-mode", lasting, "Make the commit again with a current Git; one of its files has a mode Git does not write.";
    /// A submodule that this host's configuration does not name.
    Submodule = "submodule", lasting, "Name it in `source.submodules` in a commit of its own, and add it once that runs on the host; or replace it by a flake input or by the files themselves.";
    /// More files, bytes or levels than will be exported.
    TreeTooLarge = "tree-too-large", lasting, "Take large files out of the repository.";
    /// The tip claims to be from the future.
    FutureCommit = "future-commit", passing, "Check the clocks of this host and of the signer; the revision is tried again by itself.";
    /// The key's time is over.
    KeyExpired = "key-expired", passing, "Sign with a key that still counts, and check this host's clock.";
    /// The key's time has not come yet.
    KeyNotYetValid = "key-not-yet-valid", passing, "Wait for the key's `validFrom`, or sign with another key; check this host's clock.";
    /// The anchor is not in what the remote sent.
    AnchorMissing = "anchor-missing", passing, "Check that the remote is the repository this host was installed from, with its full history.";
    /// An object was not sent.
    MissingObject = "missing-object", passing, "Nothing to do if it happens once; else check the Git server with `git fsck`.";
    /// An object is not what its id says.
    HashMismatch = "hash-mismatch", passing, "Check the Git server with `git fsck`, and this host's disk.";
    /// An object made to collide with another one.
    Sha1Collision = "sha1-collision", passing, "Treat the Git server as compromised until the object is explained.";
    /// The remote sent more, or slower, than the limits allow.
    FetchLimit = "fetch-limit", passing, "If the repository is that large, or the way to it that slow, raise the bounds under `fetch`; else check the Git server.";
    /// The remote has no complete history.
    ShallowRemote = "shallow-remote", passing, "Give the remote the full history with `git fetch --unshallow`.";
    /// The remote uses another hash function than the anchor.
    ObjectFormat = "object-format", passing, "Check that the remote is the repository this host was installed from.";
    /// The host does not know a revision to start from.
    NoIntroduction = "no-introduction", passing, "Build the system from a committed revision, or set `trust.introduction`.";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A revision is refused. Its text is a whole sentence for people, without full stop; it names the key and the
/// signer where they are known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The reason.
    pub code: Code,
    /// The commit at fault; it may lie below the tip.
    pub commit: Option<Oid>,
    /// What to tell people, such as `commit 1a2b3c4 is not signed`.
    pub text: String,
    /// The newest commit below the refused tip of main that would be accepted in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stepping_stone: Option<Oid>,
}

impl Refusal {
    /// Returns a refusal in the caller's own words.
    pub fn new(code: Code, commit: Option<&Oid>, text: impl Into<String>) -> Refusal {
        Refusal { code, commit: commit.cloned(), text: text.into(), stepping_stone: None }
    }
}

/// What is wrong with a commit whose id the finder does not know; `says` continues the words "commit 1a2b3c4".
#[derive(Debug)]
pub(super) struct Fault {
    pub code: Code,
    pub says: String,
}

impl Fault {
    pub fn new(code: Code, says: impl Into<String>) -> Fault {
        Fault { code, says: says.into() }
    }

    /// Names the commit at fault.
    pub fn at(self, commit: &Oid) -> Refusal {
        Refusal::new(self.code, Some(commit), format!("commit {} {}", commit.short(), self.says))
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Refusal {
        Refusal::new(fault.code, None, format!("the commit {}", fault.says))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_kebab_case_unique_and_advise() {
        let mut names: Vec<_> = Code::ALL.iter().map(|c| c.as_str()).collect();
        for code in Code::ALL {
            let name = code.as_str();
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
                "{name}"
            );
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{name}\""));
            assert_eq!(serde_json::from_str::<Code>(&format!("\"{name}\"")).unwrap(), *code);
            assert!(code.advice().ends_with('.') && code.advice().len() > 20, "{name}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
    }

    #[test]
    fn what_may_change_by_itself_is_never_final() {
        let passing: Vec<_> = Code::ALL.iter().filter(|c| !c.is_final()).map(|c| c.as_str()).collect();
        let expected = [
            "future-commit",
            "key-expired",
            "key-not-yet-valid",
            "anchor-missing",
            "missing-object",
            "hash-mismatch",
            "sha1-collision",
            "fetch-limit",
            "shallow-remote",
            "object-format",
            "no-introduction",
        ];
        assert_eq!(passing, expected);
    }
}
