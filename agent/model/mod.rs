//! The nouns. No effects: no clock, no file, no process, no task.

mod id;

pub use id::{DeploymentId, IdError, Oid, StorePath};
