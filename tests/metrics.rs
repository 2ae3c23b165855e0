//! What monitoring reads: the page of metrics, how it is asked for, the rules and the dashboard made for it, and that none
//! of what may go wrong on a host goes by in silence. `promtool` (Debian: prometheus) has the word on formats and rules.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed step fails the test")]
#![expect(clippy::disallowed_methods, reason = "a test runs programs and looks at the clock")]

#[path = "cli/host.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod host;
#[path = "cli/worlds.rs"]
#[allow(dead_code, reason = "other tests need more of it")]
mod worlds;

mod metrics {
    #[path = "../common/world.rs"]
    mod world;

    mod exporter;
    mod promtool;

    mod asked;
    mod page;
    mod rules;
    mod stops;
}
