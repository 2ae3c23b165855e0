//! One try of one check, in a short-lived process: a hanging check is killed with all it started, and the reconciler
//! itself opens no network socket. Where systemd runs the host, it is a unit: an unprivileged, sandboxed user, unless the
//! check asks for root.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt as _;

use crate::config::{Check, Kind as CheckKind};
use crate::host::command::{self, Command, CommandError};
use crate::host::manager::Manager;
use crate::host::systemd;
use crate::host::units::Kind;

/// The hidden verb.
pub const VERB: &str = "probe";
/// How long a probe may take beyond the check's own limit.
const MARGIN: Duration = Duration::from_secs(2);
/// How much a probe may say.
const SAID_MAX: usize = 16 << 10;
/// What a command exits with to say "not yet" (sysexits.h: EX_TEMPFAIL).
const EXIT_NOT_YET: i32 = 75;
/// How much of a page is looked through.
const BODY_MAX: usize = 1 << 20;
/// How long a reason may be.
const REASON_MAX: usize = 300;

/// What the child is to do: one look at the network of this host, as JSON in its one argument.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProbeSpec {
    /// What to look at.
    pub look: Look,
    /// How long that may take, in milliseconds.
    pub timeout_ms: u64,
}

/// What to look at.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Look {
    /// Ask for a page.
    Http {
        /// Its address.
        url: String,
        /// The status that must come; `None`: any 2xx.
        status: Option<u16>,
        /// What its body must contain.
        expect: Option<String>,
    },
    /// Open a connection.
    Tcp {
        /// Where to.
        address: String,
        /// How what the other side says first must begin.
        expect: Option<String>,
    },
    /// Resolve a name.
    Dns {
        /// The name.
        name: String,
    },
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

    fn not_yet(text: impl Into<String>) -> CheckResult {
        CheckResult { not_yet: true, ..CheckResult::bad(text) }
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
    let limit = check.timeout.0;
    let expect = || check.expect.clone();
    let look = match check.kind() {
        Some(CheckKind::Command(argv)) => {
            let kind = if check.privileged { Kind::PrivilegedProbe } else { Kind::Probe };
            return run_command(argv, manager, kind, limit).await;
        }
        Some(CheckKind::Unit(unit)) => return look_at_unit(unit, manager).await,
        Some(CheckKind::Http(url)) => {
            Look::Http { url: url.to_owned(), status: check.status, expect: expect() }
        }
        Some(CheckKind::Tcp(address)) => Look::Tcp { address: address.to_owned(), expect: expect() },
        Some(CheckKind::Dns(name)) => Look::Dns { name: name.to_owned() },
        None => return CheckResult::bad("the check does not say what to look at"),
    };
    run_look(look, manager, limit).await
}

async fn look_at_unit(unit: &str, manager: Manager) -> CheckResult {
    if manager == Manager::Alone {
        return CheckResult::broken("no systemd runs this host");
    }
    match systemd::active_state(unit).await.as_deref() {
        Ok("active" | "reloading" | "refreshing") => CheckResult::good(),
        Ok("activating") => CheckResult::not_yet(format!("{unit} is starting")),
        Ok(state) => CheckResult::bad(format!("{unit} is {state}")),
        Err(error) => CheckResult::broken(crate::host::chain(error)),
    }
}

async fn run_command(argv: &[String], manager: Manager, kind: Kind, limit: Duration) -> CheckResult {
    let Some((program, args)) = argv.split_first() else { return CheckResult::bad("the command is empty") };
    let command = Command::new(program).args(args.iter().map(OsString::from)).time_limit(limit);
    match manager.run_for_effect(kind, command).await {
        Ok(()) => CheckResult::good(),
        Err(CommandError::Failed { end: command::Ending::Code(EXIT_NOT_YET), .. }) => {
            CheckResult::not_yet("not yet")
        }
        Err(e) => CheckResult::bad(crate::host::chain(&e)),
    }
}

async fn run_look(look: Look, manager: Manager, limit: Duration) -> CheckResult {
    let timeout_ms = super::millis(limit);
    let spec = match serde_json::to_string(&ProbeSpec { look, timeout_ms }) {
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
        Ok(spec) => look_once(spec),
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

fn look_once(spec: ProbeSpec) -> CheckResult {
    let limit = Duration::from_millis(spec.timeout_ms);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return CheckResult::broken(e.to_string()),
    };
    let looked = runtime.block_on(async {
        let look = async {
            match &spec.look {
                Look::Http { url, status, expect } => ask(url, *status, expect.as_deref(), limit).await,
                Look::Tcp { address, expect } => connect(address, expect.as_deref()).await,
                Look::Dns { name } => resolve(name).await,
            }
        };
        tokio::time::timeout(limit, look).await
    });
    // A name that is being resolved holds up a thread, which is not waited for.
    runtime.shutdown_background();
    looked.unwrap_or_else(|_| {
        CheckResult::bad(format!(
            "{} does not answer within {}",
            spec.look,
            humantime::format_duration(limit)
        ))
    })
}

impl std::fmt::Display for Look {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Look::Http { url, .. } => f.write_str(url),
            Look::Tcp { address, .. } => f.write_str(address),
            Look::Dns { name } => write!(f, "the resolver asked for {name}"),
        }
    }
}

async fn ask(url: &str, status: Option<u16>, expect: Option<&str>, limit: Duration) -> CheckResult {
    // An error only says that some provider is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    // What answers is this host's own service: no proxy, and a redirect is an answer, too.
    let client = reqwest::Client::builder()
        .timeout(limit)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("pullagent/", env!("CARGO_PKG_VERSION")))
        .build();
    let client = match client {
        Ok(client) => client,
        Err(e) => return CheckResult::broken(crate::host::chain(&e)),
    };
    let mut answer = match client.get(url).send().await {
        Ok(answer) => answer,
        Err(e) if e.is_timeout() => {
            let limit = humantime::format_duration(limit);
            return CheckResult::bad(format!("{url} does not answer within {limit}"));
        }
        Err(e) => return CheckResult::bad(format!("{url} can't be reached: {}", innermost(&e))),
    };
    let got = answer.status();
    if status.map_or(!got.is_success(), |wanted| got.as_u16() != wanted) {
        return CheckResult::bad(format!("{url} answers {got}"));
    }
    let Some(expect) = expect else { return CheckResult::good() };
    let mut body = Vec::new();
    // Looked through as it comes: a page may go on for ever.
    while !String::from_utf8_lossy(&body).contains(expect) {
        let chunk = if body.len() < BODY_MAX { answer.chunk().await } else { Ok(None) };
        match chunk {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return CheckResult::bad(format!("{url} answers without '{expect}' in it")),
            Err(e) => return CheckResult::bad(format!("{url} breaks off: {}", innermost(&e))),
        }
    }
    CheckResult::good()
}

async fn connect(address: &str, expect: Option<&str>) -> CheckResult {
    let mut stream = match tokio::net::TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(e) => return CheckResult::bad(format!("{address} can't be reached: {e}")),
    };
    let Some(expect) = expect else { return CheckResult::good() };
    let mut said = vec![0; expect.len()];
    match stream.read_exact(&mut said).await {
        Ok(_) if said == expect.as_bytes() => CheckResult::good(),
        Ok(_) => {
            let said = String::from_utf8_lossy(&said).into_owned();
            CheckResult::bad(format!("{address} begins with {said:?}, not with '{expect}'"))
        }
        Err(e) => CheckResult::bad(format!("{address} does not say '{expect}': {e}")),
    }
}

async fn resolve(name: &str) -> CheckResult {
    match tokio::net::lookup_host((name, 0)).await.map(|mut addresses| addresses.next()) {
        Ok(Some(_)) => CheckResult::good(),
        Ok(None) => CheckResult::bad(format!("{name} has no address")),
        Err(e) => CheckResult::bad(format!("{name} can't be resolved: {e}")),
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
