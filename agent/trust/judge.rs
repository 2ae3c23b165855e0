//! One commit and the rules: what holds for every new commit, and what holds for the one that is deployed only. It knows
//! no history; the fold puts the single verdicts together.

use std::collections::BTreeSet;
use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use super::anchor::AnchorFacts;
use super::commit::{self, Commit, ObjectFormat};
use super::escape;
use super::policy::{ListedKey, Policy, RefBinding, Role, Signer};
use super::refusal::{Code, Fault, Refusal};
use super::sshsig::{self, Signed};
use crate::model::Oid;

/// How far a tip of main may be ahead of the host's clock, in seconds.
pub const FUTURE_SECS_MAX: u64 = 24 * 60 * 60;

/// How far a tip of a test branch may be ahead, in seconds. Its date must rise with every move, so a date far
/// ahead would lock the branch.
pub const TEST_FUTURE_SECS_MAX: u64 = 10 * 60;

/// The last second of the year 9999; later ones are shown as a number.
const SHOWN_SECS_MAX: u64 = 253_402_300_799;

/// Where and when a tip is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context<'a> {
    /// The host's name, as its configuration says it.
    pub host: &'a str,
    /// The branch that is followed, below `refs/heads/`.
    pub branch: &'a str,
    /// The host's clock, unix seconds, without a floor: where one is needed it is taken from the anchor's signed date.
    pub now: u64,
}

/// Whose good signature a commit carries, and what that is worth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SignedBy {
    /// The signer's name.
    pub signer: String,
    /// The signer's roles.
    pub roles: BTreeSet<Role>,
}

/// A commit with a good signature by a listed key, dated within the key's window.
pub(super) struct Judged<'p> {
    pub commit: Commit,
    pub signer: &'p Signer,
    key: &'p ListedKey,
}

/// Judges one new commit by itself.
pub(super) fn judge<'p>(id: &Oid, raw: &[u8], policy: &'p Policy) -> Result<Judged<'p>, Refusal> {
    let judged = || {
        let format = ObjectFormat::of(id);
        if commit::link(raw, format)?.parents.is_empty() {
            return Err(Fault::new(Code::ForeignRoot, "begins a history of its own"));
        }
        let split = commit::split_raw(raw, format)?;
        let Signed { signer, key } = sshsig::verify_raw(&split.payload, &split.armor, policy)?;
        let judged = Judged { commit: Commit::from_split(id, split)?, signer, key };
        judged.in_window(u64::try_from(judged.commit.committer_time).unwrap_or(0), "and is dated")?;
        Ok(judged)
    };
    judged().map_err(|fault: Fault| fault.at(id))
}

impl Judged<'_> {
    pub fn signed_by(&self) -> SignedBy {
        SignedBy { signer: self.signer.name.clone(), roles: self.signer.roles.clone() }
    }

    /// Refuses a key that does not count at `time`, which `what` names.
    fn in_window(&self, time: u64, what: &str) -> Result<(), Fault> {
        let whose = || format!("'{}' ({})", self.signer.name, self.key.public.fingerprint());
        match (self.key.valid_from, self.key.valid_until) {
            (Some(from), _) if time < from => {
                let says = format!(
                    "is signed by {}, a key that counts from {}, {what} earlier",
                    whose(),
                    date(from)
                );
                Err(Fault::new(Code::KeyNotYetValid, says))
            }
            (_, Some(until)) if time >= until => {
                let says = format!(
                    "is signed by {}, a key that counted until {}, {what} later",
                    whose(),
                    date(until)
                );
                Err(Fault::new(Code::KeyExpired, says))
            }
            (Some(_) | None, Some(_) | None) => Ok(()),
        }
    }
}

/// Which line a tip is offered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    Main,
    Test,
}

/// What holds for a tip only.
pub(super) struct TipRules<'a> {
    pub policy: &'a Policy,
    context: &'a Context<'a>,
    line: Line,
    /// The host's clock, but never before the anchor's signed date. It comes from signed dates only: a floor taken from
    /// the clock would let one forged answer of a time server expire every key for ever.
    floored: u64,
}

impl<'a> TipRules<'a> {
    pub fn new(
        policy: &'a Policy,
        context: &'a Context<'a>,
        line: Line,
        anchor: &AnchorFacts,
    ) -> TipRules<'a> {
        let signed = anchor.committer_time.and_then(|t| u64::try_from(t).ok()).unwrap_or(0);
        TipRules { policy, context, line, floored: context.now.max(signed) }
    }

    /// Refuses what may not be deployed. Verdicts that last come before those that time may heal.
    pub fn check(&self, judged: &Judged<'_>) -> Result<(), Refusal> {
        let checked = || {
            self.authorised(judged.signer)?;
            self.on_target(&judged.commit)?;
            judged.in_window(self.floored, "and it is")?;
            self.not_ahead(judged.commit.committer_time)
        };
        checked().map_err(|fault: Fault| fault.at(&judged.commit.id))
    }

    fn authorised(&self, signer: &Signer) -> Result<(), Fault> {
        let (name, host) = (&signer.name, self.context.host);
        let says = match self.line {
            Line::Main if signer.may_deploy() => return Ok(()),
            Line::Test if signer.may_test(host) => return Ok(()),
            Line::Main => format!("is signed by '{name}', who may contribute but not deploy"),
            Line::Test => format!("is signed by '{name}', who may not move the test branch of '{host}'"),
        };
        Err(Fault::new(Code::Unauthorised, says))
    }

    /// A signature does not cover the branch, but the message can: a tip goes where it says, and nowhere else.
    fn on_target(&self, commit: &Commit) -> Result<(), Fault> {
        let branch = self.context.branch;
        let must = self.line == Line::Test || self.policy.ref_binding() == RefBinding::Strict;
        let says = match &commit.deploy_to {
            Some(named) if named.iter().any(|name| name == branch) => return Ok(()),
            None if !must => return Ok(()),
            Some(named) => {
                let named = escape::line(named.join(", ").as_bytes());
                format!("says 'Deploy-To: {named}', and this is '{branch}'")
            }
            None => format!("has no line 'Deploy-To: {branch}' in its message"),
        };
        Err(Fault::new(Code::WrongTarget, says))
    }

    /// Refuses a date far ahead of the host's own clock. There is no floor here: one taken from signed dates would let
    /// each tip move the limit for the next.
    fn not_ahead(&self, committer_time: i64) -> Result<(), Fault> {
        let limit = match self.line {
            Line::Main => FUTURE_SECS_MAX,
            Line::Test => TEST_FUTURE_SECS_MAX,
        };
        let ahead = u64::try_from(committer_time).unwrap_or(0).saturating_sub(self.context.now);
        if ahead <= limit {
            return Ok(());
        }
        let says = format!("is dated {} hours ahead of this host's clock", ahead.div_ceil(60 * 60));
        Err(Fault::new(Code::FutureCommit, says))
    }
}

/// Returns unix seconds as people read them.
fn date(secs: u64) -> String {
    match secs {
        0..=SHOWN_SECS_MAX => {
            humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(secs)).to_string()
        }
        _ => format!("{secs} (unix seconds)"),
    }
}
