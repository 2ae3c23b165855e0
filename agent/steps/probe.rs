//! One try of one check, in a short-lived process: a hanging check is killed with all it started, and the reconciler
//! itself opens no network socket. Where systemd runs the host, it is a unit: an unprivileged, sandboxed user, unless the
//! check asks for root.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::Check;
use crate::host::command::{self, Command, CommandError};
use crate::host::manager::Manager;
use crate::host::units::Kind;

/// The hidden verb.
pub const VERB: &str = "probe";
/// How long a probe may take beyond the check's own limit.
const MARGIN: Duration = Duration::from_secs(2);
/// How much a probe may say.
const SAID_MAX: usize = 16 << 10;
/// What a command exits with to say "not yet" (sysexits.h: EX_TEMPFAIL).
const EXIT_NOT_YET: i32 = 75;
/// How long a reason may be.
const REASON_MAX: usize = 300;

/// What the child is to do: the check, as JSON in its one argument.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeSpec {
    /// The address to ask.
    pub http: String,
    /// How long that may take, in milliseconds.
    pub timeout_ms: u64,
}

/// What one try came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Whether it was healthy.
    pub ok: bool,
    /// Whether the check asked for patience: neither a success nor a failure.
    #[serde(default)]
    pub not_yet: bool,
    /// Whether the probe itself could not do its work, so that nothing is known of what it was to look at.
    #[serde(default)]
    pub broken: bool,
    /// The reason, for people; empty where all is well.
    #[serde(default)]
    pub text: String,
}

impl CheckResult {
    pub(super) fn bad(text: impl Into<String>) -> CheckResult {
        let text: String = text.into();
        CheckResult {
            ok: false,
            not_yet: false,
            broken: false,
            text: text.chars().take(REASON_MAX).collect(),
        }
    }

    pub(super) fn broken(text: impl Into<String>) -> CheckResult {
        CheckResult { broken: true, ..CheckResult::bad(text) }
    }

    pub(super) fn good() -> CheckResult {
        CheckResult { ok: true, not_yet: false, broken: false, text: String::new() }
    }
}

/// Tries a check once.
pub(super) async fn run(check: &Check, manager: Manager) -> CheckResult {
    let kind = if check.privileged { Kind::PrivilegedProbe } else { Kind::Probe };
    match (&check.http, &check.command) {
        (Some(url), _) => run_http(url, manager, check.timeout.0).await,
        (None, Some(argv)) => run_command(argv, manager, kind, check.timeout.0).await,
        (None, None) => CheckResult::bad("the check has neither 'http' nor 'command'"),
    }
}

async fn run_command(argv: &[String], manager: Manager, kind: Kind, limit: Duration) -> CheckResult {
    let Some((program, args)) = argv.split_first() else { return CheckResult::bad("the command is empty") };
    let command = Command::new(program).args(args.iter().map(OsString::from)).time_limit(limit);
    match manager.run_for_effect(kind, command).await {
        Ok(()) => CheckResult::good(),
        Err(CommandError::Failed { end: command::Ending::Code(EXIT_NOT_YET), .. }) => {
            CheckResult { ok: false, not_yet: true, broken: false, text: "not yet".to_owned() }
        }
        Err(e) => CheckResult::bad(crate::host::chain(&e)),
    }
}

async fn run_http(url: &str, manager: Manager, limit: Duration) -> CheckResult {
    let timeout_ms = super::millis(limit);
    let spec = match serde_json::to_string(&ProbeSpec { http: url.to_owned(), timeout_ms }) {
        Ok(spec) => spec,
        Err(e) => return CheckResult::broken(e.to_string()),
    };
    let child = Command::new(command::own_binary())
        .arg(VERB)
        .arg(spec)
        .time_limit(limit + MARGIN)
        .stdout_max(SAID_MAX);
    match manager.run(Kind::Probe, child).await {
        Ok(output) => serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| CheckResult::broken(format!("the probe's answer can't be read: {e}"))),
        Err(e) => CheckResult::broken(crate::host::chain(&e)),
    }
}

/// The child: asks, and prints a [`CheckResult`].
pub fn probe_main(spec: &str) -> ExitCode {
    let result = match serde_json::from_str::<ProbeSpec>(spec) {
        Ok(spec) => ask(&spec),
        Err(e) => CheckResult::bad(format!("the probe's order can't be read: {e}")),
    };
    match serde_json::to_string(&result) {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(_) => ExitCode::FAILURE,
    }
}

fn ask(spec: &ProbeSpec) -> CheckResult {
    // An error only says that some provider is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let limit = Duration::from_millis(spec.timeout_ms);
    // What answers is this host's own service: no proxy, and a redirect is an answer, too.
    let client = reqwest::Client::builder()
        .timeout(limit)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("pullagent/", env!("CARGO_PKG_VERSION")))
        .build();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let (client, runtime) = match (client, runtime) {
        (Ok(client), Ok(runtime)) => (client, runtime),
        (Err(e), _) => return CheckResult::broken(crate::host::chain(&e)),
        (_, Err(e)) => return CheckResult::broken(e.to_string()),
    };
    // Sending sets a timer, which only works inside of the runtime.
    match runtime.block_on(async { client.get(&spec.http).send().await }) {
        Ok(answer) if answer.status().is_success() => CheckResult::good(),
        Ok(answer) => CheckResult::bad(format!("{} answers {}", spec.http, answer.status())),
        Err(e) if e.is_timeout() => CheckResult::bad(format!(
            "{} does not answer within {}",
            spec.http,
            humantime::format_duration(limit)
        )),
        Err(e) => CheckResult::bad(format!("{} can't be reached: {}", spec.http, innermost(&e))),
    }
}

/// The last cause, which is the one that says something ("connection refused").
fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
