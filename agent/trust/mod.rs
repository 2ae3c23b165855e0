//! Bytes in, verdict out: which commits this host may deploy, and why not the others.
//!
//! Every commit between the last accepted revision (the *anchor*) and the new tip must carry an SSH signature
//! by a listed key; the anchor and everything below it are trusted by hash. The room owns the strict container
//! ([`commit`], [`sshsig`]), the keys and signers ([`Policy`]), the walk and the verdict over a range
//! ([`verify_main`], [`verify_test`]) and the rules for trees ([`tree`]). It must not know a repository, a
//! clock, a file or a process: objects arrive through a closure that has re-hashed them, time is an argument.
//!
//! ```text
//! raw bytes ─▶ commit::split ─▶ sshsig::verify ─▶ fold over the range ─▶ Accepted | Refusal
//!               one canonical     key looked up      parents first,
//!               form, no other    before any curve   fast-forward only
//! ```

mod anchor;
mod blob;
pub mod commit;
mod escape;
mod fold;
mod judge;
mod key;
mod policy;
mod range;
mod refusal;
pub mod sshsig;
mod stone;
pub mod tree;

pub use anchor::AnchorFacts;
pub use commit::{Commit, ObjectFormat};
pub use fold::{
    Accepted, CommitLine, LINES_MAX, REPORT_LINES_MAX, RangeReport, VerifiedCommit, verify_main,
    verify_range_report, verify_test, verify_test_report,
};
pub use judge::{Context, FUTURE_SECS_MAX, SignedBy, TEST_FUTURE_SECS_MAX};
pub use key::{Algorithm, KeyError, PublicKey};
pub use policy::{ListedKey, Merges, Policy, PolicyError, RefBinding, Role, Rules, Signer};
pub use range::{HISTORY_MAX, RANGE_MAX};
pub use refusal::{Code, Refusal};
