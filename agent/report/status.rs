//! What `status --json` shows and `status.json` holds. The types only; [`super::judge`] fills them in.
//!
//! Keys are camelCase, times unix seconds. A reader must ignore keys that it does not know: new ones may come
//! under the same schema number, the meaning of one that is here never changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Agent, Counters, HintStatus};
use crate::model::{
    Answer, CheckFacts, DeploymentId, Oid, OldProtocol, Operation, RebootPolicy, StorePath, Suspension, Why,
};

/// Everything that is said about one host at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the layout; [`super::SCHEMA`].
    pub schema: u32,
    /// The host's name in its configuration.
    pub host: String,
    /// The one word that says how things are.
    pub state: Headline,
    /// Who wrote this, and when.
    pub agent: Agent,
    /// The system that runs; `null` before the first look.
    pub running: Option<System>,
    /// The system that the next boot starts.
    pub boot: Option<System>,
    /// The system that was booted.
    pub booted: Option<System>,
    /// Whether somebody else switched the host to what runs now.
    pub drift: bool,
    /// The remotes, in the order of the configuration.
    pub remotes: Vec<RemoteStatus>,
    /// Who says that something was pushed, in the order of the configuration.
    #[serde(default)]
    pub hints: Vec<HintStatus>,
    /// After how many seconds without any answer the host counts as stale.
    pub stale_after_secs: u64,
    /// The action under way, if it is one that takes time.
    pub doing: Option<Act>,
    /// The deployment under way.
    pub deployment: Option<DeploymentStatus>,
    /// How the checks of that deployment fare, or how those of what runs fared; empty if that is not known.
    pub health: Vec<CheckFacts>,
    /// The accepted tip of the main line; only its descendants are accepted next.
    pub accepted: Option<Commit>,
    /// What the remotes name and this host has not dealt with yet.
    pub pending: Vec<Pending>,
    /// The test line.
    pub test: Option<TestStatus>,
    /// What the headline complains about.
    pub problem: Option<Bad>,
    /// Every revision that is remembered as bad, oldest first. None is tried again by itself.
    pub set_aside: Vec<Bad>,
    /// Failures that are tried again by themselves.
    pub retries: Vec<RetryStatus>,
    /// Deployments are stopped.
    pub suspension: Option<Suspension>,
    /// Why nothing is changed although something could be.
    pub trouble: Option<String>,
    /// A stable word for that.
    #[serde(default)]
    pub trouble_code: Option<String>,
    /// What the admin can do about it.
    #[serde(default)]
    pub trouble_advice: Option<String>,
    /// A reboot that would change what the host runs, and that has not been done.
    #[serde(default)]
    pub reboot_pending: Option<RebootStatus>,
    /// What a Git server may be hiding.
    #[serde(default)]
    pub alarms: Vec<AlarmStatus>,
    /// Whose signatures count.
    #[serde(default)]
    pub trust: TrustStatus,
    /// What was counted since the agent started; in the file only.
    #[serde(default, skip_serializing_if = "Counters::are_empty")]
    pub counters: Counters,
}

/// How things are, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Headline {
    /// The host runs what the main branch says, confirmed.
    InSync,
    /// The host runs the test branch.
    Testing,
    /// The agent has not looked at the host or heard from a remote yet.
    Starting,
    /// A newer revision is known and about to be dealt with.
    Waiting,
    /// A revision is fetched and its signatures are checked.
    Verifying,
    /// A revision is evaluated and built.
    Building,
    /// A built system is made ready: roots, space, checks, guard. The host is untouched.
    Preparing,
    /// The new system is being activated.
    Switching,
    /// The new system runs on probation.
    CheckingHealth,
    /// The host is being rebooted into the new system, which is not what it boots by default.
    Rebooting,
    /// The new system proved healthy, and waits for somebody to confirm it.
    AwaitingConfirmation,
    /// The new system is being made permanent.
    Confirming,
    /// The old system is being brought back.
    RollingBack,
    /// The newest revision was tried and the old system came back.
    RolledBack,
    /// The old system could not be brought back.
    RollbackFailed,
    /// The newest revision's signature or history was not acceptable.
    Refused,
    /// The newest revision can't be built.
    BuildFailed,
    /// The newest revision was given up before it touched the host, or was undone by resets or by somebody else.
    CalledOff,
    /// Something failed that may pass; it is tried again.
    Retrying,
    /// An operator stopped deployments.
    Suspended,
    /// No remote answers.
    Unreachable,
    /// The newest revision takes a reboot to be run at all, and the agent does not do it, or not yet.
    RebootPending,
    /// Somebody else switched the host.
    Drift,
    /// The agent changes nothing, because it can't remember or doesn't understand what was done before.
    Held,
}

/// A system, and the commit that it was built from as far as that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct System {
    /// Its store path.
    pub toplevel: StorePath,
    /// The `system` profile's generation with that path; `null`: unconfirmed.
    pub generation: Option<u64>,
    /// The commit.
    pub revision: Option<Oid>,
    /// First line of the commit's message.
    pub subject: Option<String>,
    /// Who signed the commit.
    pub signer: Option<String>,
    /// When the commit was made, by its committer's word.
    #[serde(default)]
    pub committed_at: Option<u64>,
    /// Since when it is what it is: deployed, entered, restored, or begun.
    pub since: Option<u64>,
}

/// A verified commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    /// The commit.
    pub revision: Oid,
    /// First line of its message.
    pub subject: String,
    /// Who signed it; `null`: root pinned it by id.
    pub signer: Option<String>,
    /// Its branch.
    pub branch: String,
    /// When this host accepted it.
    pub at: u64,
}

/// One remote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoteStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Its address, without user name and password.
    pub url: String,
    /// Branch to tip at its last answer; empty if it has not answered.
    pub heads: BTreeMap<String, Oid>,
    /// When it last answered; `null`: not since the agent started.
    pub checked_at: Option<u64>,
    /// How often it is asked at present, in seconds; where it is asked by the calendar, the longest time in between. 0 in a
    /// status of an older version.
    #[serde(default)]
    pub interval: u64,
    /// The calendar by which it is asked; `null`: it is asked at even intervals.
    #[serde(default)]
    pub calendar: Option<String>,
    /// When it is asked next by its calendar; `null`: it has none, or that does not come again.
    #[serde(default)]
    pub next_poll_at: Option<u64>,
    /// Why it does not answer now.
    pub trouble: Option<TroubleStatus>,
    /// How its main branch stands to the accepted revision.
    #[serde(default)]
    pub standing: StandingWord,
    /// Whether it has not answered for longer than `trust.staleAfter`.
    #[serde(default)]
    pub stale: bool,
    /// What each poll costs if the remote speaks an old version of Git's protocol; not there if it speaks version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_protocol: Option<OldProtocol>,
}

/// How the main branch of a remote stands to the accepted revision.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StandingWord {
    /// It is at it.
    Current,
    /// It is at an ancestor of it.
    Behind,
    /// It does not continue it.
    Diverged,
    /// It was refused for another reason.
    Refused,
    /// That is not known, or not yet.
    #[default]
    Unknown,
}

/// Something that somebody should look at; it changes nothing on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AlarmStatus {
    /// A stable word: `stale`, `split-view`.
    pub code: String,
    /// What is wrong.
    pub text: String,
}

/// Whose signatures count, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrustStatus {
    /// The revision whose trust settings count; `null`: the running system's do, whatever it was built from.
    pub revision: Option<Oid>,
    /// Whether those are other ones than the running system has: it was rolled back, or is a test.
    pub differs: bool,
    /// Who may sign by them.
    pub signers: Vec<String>,
    /// How many keys are revoked, whatever the settings say now.
    pub revoked: usize,
    /// The commit that root named as the next anchor and that is not deployed yet.
    pub vouched: Option<Oid>,
}

/// A reboot that has not been done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RebootStatus {
    /// What the boot would start.
    pub toplevel: StorePath,
    /// What it would change, in words.
    pub reasons: Vec<String>,
    /// `activation.reboot.policy`.
    pub policy: RebootPolicy,
    /// Why it has not been done, in words.
    pub why: String,
    /// When the agent does it; `null`: not, or not known.
    pub not_before: Option<u64>,
    /// Whether the system does not run yet because it can't be switched to.
    pub blocked: bool,
}

/// Why a remote does not answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TroubleStatus {
    /// Stable word for the kind of failure.
    pub class: String,
    /// What it said.
    pub text: String,
    /// Failures in a row.
    pub tries: u32,
    /// Since when.
    pub since: u64,
    /// When it failed last.
    pub at: u64,
}

/// An action under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Act {
    /// Its name: `verify`, `build`, `switch`, `check-health`, …
    pub action: String,
    /// The commit it is about.
    pub revision: Option<Oid>,
    /// Since when.
    pub since: u64,
}

/// The deployment under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeploymentStatus {
    /// Its name.
    pub id: DeploymentId,
    /// The commit.
    pub commit: Commit,
    /// What is to be done with it.
    pub operation: Operation,
    /// Why it was begun.
    pub why: Why,
    /// The system it built.
    pub toplevel: StorePath,
    /// When the build was done.
    pub built_at: u64,
    /// How far it got.
    pub stage: StageWord,
    /// The system to come back to.
    pub old: Option<System>,
    /// When the host rolls back unless it proved healthy before.
    pub deadline: Option<u64>,
    /// The checks that must be green.
    pub checks: Vec<String>,
    /// How long they must be green in one go, in seconds.
    pub soak_secs: u64,
    /// Checks that were red before and do not count.
    pub red_before: Vec<String>,
    /// What went wrong, where it is rolled back.
    pub failures: Vec<String>,
    /// Until when `pullagent confirm` is waited for; `null` where it is not.
    #[serde(default)]
    pub answer_until: Option<u64>,
    /// What somebody said about it.
    #[serde(default)]
    pub answer: Option<Answer>,
}

/// How far a deployment got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageWord {
    /// Built; the host is untouched.
    Built,
    /// A rollback is possible; the host is untouched.
    Prepared,
    /// The guard runs; the switch may have begun.
    Armed,
    /// The switch ended.
    Activated,
    /// The host is being rebooted into the new system, once.
    Rebooting,
    /// The new system was booted; its health is being proven.
    BootTrial,
    /// Health is being proven.
    Soaking,
    /// It proved healthy, and somebody has to confirm it.
    AwaitingConfirmation,
    /// The new system stays.
    Confirming,
    /// The old system comes back.
    RollingBack,
}

/// A tip that this host has not dealt with yet, or a line that it has to return to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pending {
    /// The branch.
    pub branch: String,
    /// The tip.
    pub revision: Oid,
    /// First line of its message; `null` until it is verified.
    pub subject: Option<String>,
    /// What comes next.
    pub owed: Owed,
}

/// What comes next for a pending tip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owed {
    /// It has not been looked at.
    Verify,
    /// It was accepted and does not run.
    Deploy,
    /// The test is over; the host goes back to this.
    Return,
}

/// The test line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TestStatus {
    /// The tip.
    pub commit: Commit,
    /// How far it got.
    pub progress: TestProgressWord,
    /// Since when it runs.
    pub since: Option<u64>,
    /// Why it is over.
    pub why: Option<String>,
    /// Whether a remote still names it.
    pub on_remote: bool,
}

/// How far a test got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestProgressWord {
    /// Verified, not entered yet.
    Accepted,
    /// It was entered.
    Entered,
    /// It ran or was tried, and does not come back by itself.
    Over,
}

/// A revision that is not tried again by itself, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bad {
    /// The tip.
    pub revision: Oid,
    /// How it failed.
    pub kind: BadKind,
    /// First line of its message; empty where it was refused, for then nobody vouches for the text.
    pub subject: String,
    /// Who signed it.
    pub signer: Option<String>,
    /// Its branch.
    pub branch: String,
    /// The remote that named it, where that is known.
    pub remote: Option<String>,
    /// The deployment, if it became one.
    pub id: Option<DeploymentId>,
    /// The commit that a refusal is about; often one below the tip.
    pub commit: Option<Oid>,
    /// A stable word.
    pub code: String,
    /// What happened, in words.
    pub text: String,
    /// Checks that failed, with their last words.
    pub details: Vec<String>,
    /// What the admin can do.
    pub advice: String,
    /// When.
    pub at: u64,
}

/// How a revision failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BadKind {
    /// Its signature or history was not acceptable.
    Refused,
    /// It can't be built.
    BuildFailed,
    /// It was activated, and the old system came back.
    RolledBack,
    /// It was activated, and the old system could not be brought back.
    RollbackFailed,
    /// It was given up for another reason.
    CalledOff,
}

/// A failure that is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryStatus {
    /// The commit.
    pub revision: Oid,
    /// A stable word.
    pub code: String,
    /// What happened.
    pub text: String,
    /// Failures in a row.
    pub tries: u32,
    /// Not before this second.
    pub not_before: u64,
}

impl Headline {
    /// All there are.
    pub const ALL: [Headline; 24] = [
        Headline::InSync,
        Headline::Testing,
        Headline::Starting,
        Headline::Waiting,
        Headline::Verifying,
        Headline::Building,
        Headline::Preparing,
        Headline::Switching,
        Headline::CheckingHealth,
        Headline::Rebooting,
        Headline::AwaitingConfirmation,
        Headline::Confirming,
        Headline::RollingBack,
        Headline::RolledBack,
        Headline::RollbackFailed,
        Headline::Refused,
        Headline::BuildFailed,
        Headline::CalledOff,
        Headline::Retrying,
        Headline::Suspended,
        Headline::Unreachable,
        Headline::RebootPending,
        Headline::Drift,
        Headline::Held,
    ];

    /// Returns the word as JSON spells it.
    pub fn word(self) -> &'static str {
        match self {
            Headline::InSync => "in-sync",
            Headline::Testing => "testing",
            Headline::Starting => "starting",
            Headline::Waiting => "waiting",
            Headline::Verifying => "verifying",
            Headline::Building => "building",
            Headline::Preparing => "preparing",
            Headline::Switching => "switching",
            Headline::CheckingHealth => "checking-health",
            Headline::Rebooting => "rebooting",
            Headline::AwaitingConfirmation => "awaiting-confirmation",
            Headline::Confirming => "confirming",
            Headline::RollingBack => "rolling-back",
            Headline::RolledBack => "rolled-back",
            Headline::RollbackFailed => "rollback-failed",
            Headline::Refused => "refused",
            Headline::BuildFailed => "build-failed",
            Headline::CalledOff => "called-off",
            Headline::Retrying => "retrying",
            Headline::Suspended => "suspended",
            Headline::Unreachable => "unreachable",
            Headline::RebootPending => "reboot-pending",
            Headline::Drift => "drift",
            Headline::Held => "held",
        }
    }

    /// Tells whether the agent is busy, or is about to be without anybody's help.
    pub fn is_passing(self) -> bool {
        match self {
            Headline::Starting
            | Headline::Waiting
            | Headline::Verifying
            | Headline::Building
            | Headline::Preparing
            | Headline::Switching
            | Headline::CheckingHealth
            | Headline::Rebooting
            | Headline::AwaitingConfirmation
            | Headline::Confirming
            | Headline::RollingBack
            | Headline::Retrying
            | Headline::Unreachable => true,
            Headline::InSync
            | Headline::Testing
            | Headline::RolledBack
            | Headline::RollbackFailed
            | Headline::Refused
            | Headline::BuildFailed
            | Headline::CalledOff
            | Headline::Suspended
            | Headline::RebootPending
            | Headline::Drift
            | Headline::Held => false,
        }
    }
}

impl Status {
    /// Returns what failed about `revision` in a way that may pass.
    pub fn retry(&self, revision: &Oid) -> Option<&RetryStatus> {
        self.retries.iter().find(|r| r.revision == *revision)
    }

    /// Returns the entry of `revision` among those set aside.
    pub fn bad(&self, revision: &Oid) -> Option<&Bad> {
        self.set_aside.iter().rev().find(|b| b.revision == *revision)
    }
}
