//! `pullagent run`: the agent itself.

use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::Options;
use super::exit::{Fail, config_hint};
use crate::config::ConfigError;
use crate::daemon;
use crate::host::command::variable;
use crate::host::journald::{self, Journal};
use crate::report;

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

/// Logs what `level` lets through, unless PULLAGENT_LOG says otherwise: to the journal with its fields where stderr leads there,
/// else to stderr, with the time.
pub(super) fn start_logging(level: &str) {
    let filter = EnvFilter::try_from_env("PULLAGENT_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let stderr = io::stderr();
    if journald::is_stderr(variable("JOURNAL_STREAM").as_deref())
        && let Ok(stderr) = stderr.as_fd().try_clone_to_owned()
    {
        let journal = Journal::open(journald::SOCKET.into(), stderr, report::message_id);
        return tracing_subscriber::registry().with(filter).with(journal).init();
    }
    let to_terminal = anstream::AutoStream::choice(&stderr) != anstream::ColorChoice::Never;
    // What a field only repeats for programs is not shown to people twice.
    let fields = format::debug_fn(|to, field, value| match field.name() {
        "message" => write!(to, "{value:?}"),
        name if journald::is_said(name) => Ok(()),
        name => write!(to, " {name}={value:?}"),
    });
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(to_terminal)
        .with_target(false)
        .fmt_fields(fields)
        .init();
}
