//! Owns processes that outlive us: how one is started, and how it tells that it is on its own.
//!
//! `detach` starts the process and waits until it says that it is ready; then `detach` ends, and the process
//! is nobody's child, in a session of its own. The process calls [`leave`] first and [`say_ready`] (or
//! [`say_failed`]) when it has what it needs; so whoever asked for it knows that it runs.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use super::command::{Command, CommandError, own_binary, spawn_orphan};

/// How long a process may take to become ready.
const READY_TIME: Duration = Duration::from_secs(20);
/// How long the line may be that says ready or failed.
const ANSWER_MAX: u64 = 1000;
const READY: &str = "ready";

/// Says why a process is not running on its own.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// It could not even be started.
    #[error("failed to start a process of its own")]
    Start(#[source] CommandError),
    /// It started and gave up.
    #[error("a process of its own gave up at start: {0}")]
    GaveUp(String),
}

/// Starts `argv` so that it outlives us, and returns when it is ready. Its paths must be absolute: it runs
/// in `/`. Its environment is what [`Command`] passes on, and `env`.
pub async fn detach(
    argv: impl IntoIterator<Item = OsString>,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<(), DetachError> {
    let starter = Command::new(own_binary()).args(["detach", "--"]).args(argv).envs(env);
    let output = starter.dir("/").time_limit(READY_TIME).run().await.map_err(DetachError::Start)?;
    match String::from_utf8_lossy(&output.stdout).trim_end() {
        READY => Ok(()),
        "" => Err(DetachError::GaveUp("it said nothing".into())),
        answer => Err(DetachError::GaveUp(answer.trim_start_matches("failed: ").to_owned())),
    }
}

/// The role of the short-lived process between: starts `argv`, passes its answer on, and ends.
pub fn detach_main(argv: &[OsString]) -> ExitCode {
    match first_line_of(argv) {
        Ok(line) => print!("{line}"),
        Err(e) => println!("failed: {e}"),
    }
    ExitCode::SUCCESS
}

fn first_line_of(argv: &[OsString]) -> io::Result<String> {
    let mut orphan = spawn_orphan(argv)?;
    let mut line = String::new();
    if let Some(stdout) = orphan.stdout.take() {
        BufReader::new(stdout.take(ANSWER_MAX)).read_line(&mut line)?;
    }
    Ok(line)
}

/// Leaves the session and the process group of whoever started us, whose end then is not ours.
pub fn leave() -> io::Result<()> {
    match rustix::process::setsid() {
        // EPERM: we lead a session or a group already, started by a service manager or a shell.
        Ok(_) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Tells whoever started us that we run on our own from now on.
pub fn say_ready() {
    answer(READY);
}

/// Tells whoever started us that we give up.
pub fn say_failed(why: &dyn std::fmt::Display) {
    answer(&format!("failed: {}", why.to_string().replace('\n', " ")));
}

fn answer(line: &str) {
    let mut stdout = io::stdout().lock();
    // If nobody listens any more, we are on our own all the same.
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).ok();
}
