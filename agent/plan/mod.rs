//! What to do next. Pure decisions: state and facts in, one action out.

pub mod backoff;
mod facts;

pub use facts::{Facts, RemoteFacts, Retry, Trouble};
