//! The nouns. No effects: no clock, no file, no process, no task.

mod facts;
mod id;

pub use facts::{Arbiter, Decision, GuardFacts, GuardResult, HostFacts};
pub use id::{DeploymentId, IdError, Oid, StorePath};
