//! The nouns: revisions, targets and deployments; what may be done ([`Action`]), what may happen ([`Event`]), and what all
//! of it adds up to ([`State`]). No effects: no clock, no file, no process, no task.

mod acceptance;
mod action;
mod answer;
mod calendar;
mod event;
mod facts;
mod generation;
mod hint;
mod https;
mod id;
mod keys;
mod nonce;
mod reboot;
mod recheck;
mod remote;
mod ssh;
mod state;
mod target;
mod transition;
mod verdict;

pub use action::{Action, Line, Verification};
pub use answer::{Answer, REJECTED, UNCONFIRMED, Word};
pub use calendar::{CALENDAR_BYTES_MAX, Calendar, CalendarError, CalendarZone, Dates, Times};
pub use event::{Command, Event, Happened, Sighting, SwitchEnd};
pub use facts::{Arbiter, CheckFacts, Decision, GuardFacts, GuardResult, HostFacts, UNITS, UPDATABLE};
pub use generation::{Generation, RETENTION, Tidying};
pub use hint::{HintCounts, HintWord};
pub use https::Https;
pub use id::{DeploymentId, IdError, Oid, StorePath};
pub use keys::{AdoptedTrust, Keys, Kin, REVOKED_BYTES_MAX, TrustSettings, Vouched, without_comment};
pub use nonce::{BREAKER, Nonce};
pub use reboot::{AwaitedReboot, LOADER, NEEDS_REBOOT, RebootNeed, RebootPolicy, Window, WindowError};
pub use recheck::{Cause, ENVIRONMENT, INTERRUPTED, NETWORK, Recheck, Red};
pub use remote::{OldProtocol, RemoteFailure};
pub use ssh::{SshAddress, SshAddressError, is_plain_file};
pub use state::{
    Awaiting, Deployment, Ended, Entered, Foreign, HISTORY_MAX, Outcome, Phase, QUARANTINE_MAX,
    REFUSALS_IN_HISTORY_MAX, REFUSED_MAX, ROLLBACKS_MAX, Resets, SWITCH_REPEATS_MAX, Setback, Settled, Stage,
    State, Step, TestLine, TestProgress, Trial,
};
pub use target::{CONFIG_SOURCE, Candidate, Desired, Operation, Target, Tip, Why};
pub use transition::IllegalTransition;
pub use verdict::{Class, Failure, Quarantined, Refusal, SUBMODULE_MISSING, Suspension};
