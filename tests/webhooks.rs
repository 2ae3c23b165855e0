//! Webhooks, end to end: the gateway as a process of its own, requests as forges send them (curl sends, openssl signs), and
//! whatever else may come. A request is good for a poll, and many are good for few.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]
#![expect(clippy::disallowed_methods, reason = "a test runs programs and looks at the clock")]

#[path = "common/peer.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod peer;
#[path = "common/scripted.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod scripted;

mod webhooks {
    mod forge;
    mod gateway;

    mod floods;
    mod heard;
    mod refused;
}
