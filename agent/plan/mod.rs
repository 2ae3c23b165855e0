//! What to do next. Pure decisions: state and facts in, one action out.

mod facts;

pub use facts::{Facts, RemoteFacts, Retry, Trouble};
