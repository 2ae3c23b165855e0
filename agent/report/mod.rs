//! State as people and machines read it.

mod snapshot;

pub use snapshot::{Doing, Snapshot};
