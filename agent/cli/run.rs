//! `pullagent run`: the agent itself.

use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

use super::Options;
use super::exit::{Fail, config_hint};
use crate::config::ConfigError;
use crate::daemon;

/// Runs the agent until it is told to end.
pub fn run(options: &Options) -> Result<ExitCode, Fail> {
    start_logging(match (options.quiet, options.verbose) {
        (true, _) => "warn",
        (false, 0) => "info",
        (false, 1) => "pullagent=debug,info",
        (false, _) => "pullagent=trace,debug",
    });
    let daemon = daemon::Options { root: options.root.clone(), config: options.config_path() };
    daemon::run(&daemon).map_err(|error| {
        let hint = error.downcast_ref::<ConfigError>().map(|e| config_hint(e).to_owned());
        Fail { hint, ..Fail::from(error) }
    })
}

/// Logs to stderr what `level` lets through, unless PULLAGENT_LOG says otherwise; the journal adds the time, so the time is
/// left out there.
pub(super) fn start_logging(level: &str) {
    let filter = EnvFilter::try_from_env("PULLAGENT_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let to_terminal = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(to_terminal)
        .with_target(false);
    let in_journal = std::env::vars_os().any(|(name, _)| name == "JOURNAL_STREAM");
    if in_journal {
        log.without_time().init();
    } else {
        log.init();
    }
}
