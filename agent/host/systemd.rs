//! Owns how systemd is asked to run something beside us, and what it says about units.
//!
//! Everything goes by `systemctl` and `systemd-run`: run by root they talk to PID 1 itself and work while the
//! message bus is down. Nothing is run with `--pipe` (the reader's death would end the program) nor with
//! `--collect` (the result would be lost).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::clock;
use super::command::{Command, CommandError};
use super::units::{self, Kind};

/// How long systemd may take to answer a question.
const ASK_TIME: Duration = Duration::from_secs(20);
/// How often systemd is asked again that has not answered.
const LOOK: Duration = Duration::from_secs(1);
/// How long systemd may take to start a unit: longer than a start that times out (90 s).
const START_TIME: Duration = Duration::from_secs(120);
/// How much `journalctl` may print.
const LIST_MAX: usize = 1 << 20;
/// What of our environment each unit gets, where we have it; NixOS gives every unit both.
const PASSED_ON: [&str; 2] = ["PATH", "LOCALE_ARCHIVE"];

/// Says what systemd did not do.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// A unit could not be started.
    #[error("failed to start unit '{unit}'")]
    Start {
        /// Its name.
        unit: String,
        /// What `systemd-run` or `systemctl` said.
        source: CommandError,
    },
    /// A question was not answered.
    #[error("failed to ask systemd about '{unit}'")]
    Ask {
        /// The unit that it was about.
        unit: String,
        /// What `systemctl` said.
        source: CommandError,
    },
    /// An answer cannot be understood.
    #[error("systemd says '{answer}' about '{unit}', which cannot be understood")]
    Answer {
        /// The unit that it was about.
        unit: String,
        /// The answer, shortened.
        answer: String,
    },
    /// A timer was accepted and does not run.
    #[error("timer '{0}' does not run, although systemd has accepted it")]
    NotArmed(String),
}

/// Tells whether systemd runs the host at `root` (sd_booted(3)).
pub fn runs(root: &Path) -> bool {
    root == Path::new("/") && Path::new("/run/systemd/system").is_dir()
}

/// A unit to be started.
#[derive(Debug, Clone)]
pub struct Transient<'a> {
    /// Its name, with `.service`.
    pub unit: &'a str,
    /// What it may do.
    pub kind: Kind,
    /// Further properties, as `Name=value`.
    pub properties: Vec<OsString>,
    /// Added to its environment. Values are not shown on any command line.
    pub env: &'a [(OsString, OsString)],
    /// The program, an absolute path, and its arguments.
    pub argv: &'a [OsString],
}

/// Starts a unit, and returns when its program runs. A unit of this name that is loaded already is an error.
pub async fn start(t: &Transient<'_>) -> Result<(), SystemdError> {
    let command = run(t).args([format!("--unit={}", t.unit), "--".into()]).args(t.argv.iter().cloned());
    let source = match command.run().await {
        Ok(_) => return Ok(()),
        Err(source) => source,
    };
    Err(SystemdError::Start { unit: t.unit.to_owned(), source })
}

/// Adds a timer that starts the unit at a moment in the life of this boot, and sees that it runs. Repeating it
/// adds nothing.
///
/// The moment is given as `OnStartupSec=`, which counts from a moment that never changes. (`OnActiveSec=` begins
/// anew at each daemon-reload, `OnCalendar=` follows steps of the wall clock, and in a container systemd takes
/// `OnBootSec=` for `OnStartupSec=`: src/core/timer.c.)
pub async fn start_at(t: &Transient<'_>, until_boottime_ms: u64) -> Result<(), SystemdError> {
    let timer = format!("{}.timer", t.unit.trim_end_matches(".service"));
    if is_waiting(&timer).await? {
        return Ok(());
    }
    let left = until_boottime_ms.saturating_sub(clock::boottime_ms());
    let at = clock::monotonic_ms().saturating_add(left).saturating_sub(manager_start_ms().await?);
    let timer_properties = units::timer_properties().into_iter().map(|p| format!("--timer-property={p}"));
    let command = run(t)
        .args([format!("--unit={}", t.unit), format!("--on-startup={}ms", at.max(1))])
        .args(timer_properties)
        .arg("--")
        .args(t.argv.iter().cloned());
    let source = match command.run().await {
        // It may have fired already, which unloads it.
        Ok(_) if left == 0 || is_waiting(&timer).await? || clock::boottime_ms() >= until_boottime_ms => {
            return Ok(());
        }
        Ok(_) => return Err(SystemdError::NotArmed(timer)),
        Err(source) => source,
    };
    Err(SystemdError::Start { unit: timer, source })
}

fn run(t: &Transient<'_>) -> Command {
    let mut command = Command::new("systemd-run").envs(t.env.iter().cloned()).time_limit(START_TIME);
    command = command.args(["--quiet", "--no-ask-password", "--expand-environment=no"]);
    for property in units::properties(t.kind) {
        command = match property.strip_prefix("Type=") {
            Some(kind) => command.arg(format!("--service-type={kind}")),
            None => command.arg(format!("--property={property}")),
        };
    }
    for property in &t.properties {
        command = command.arg("--property").arg(property);
    }
    let inherited = PASSED_ON.iter().filter(|name| super::command::inherited(name).is_some());
    let names = inherited.map(OsStr::new).chain(t.env.iter().map(|(name, _)| name.as_os_str()));
    // Only the name: systemd-run takes the value from its own environment.
    let flag = |name: &OsStr| {
        let mut flag = OsString::from("--setenv=");
        flag.push(name);
        flag
    };
    command.args(names.map(flag).collect::<Vec<_>>())
}

/// Whether a unit has anything left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitState {
    /// It runs, starts, stops, or waits to be started again.
    Busy,
    /// It ended, or there is no such unit.
    Idle,
}

/// Tells whether a unit has anything left to do.
pub async fn state(unit: &str) -> Result<UnitState, SystemdError> {
    let answers = show(unit, &["ActiveState", "Job"]).await?;
    match answers.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["inactive" | "failed", "" | "0"] => Ok(UnitState::Idle),
        ["inactive" | "failed", _] => Ok(UnitState::Busy),
        ["active" | "activating" | "deactivating" | "reloading" | "refreshing" | "maintenance", _] => {
            Ok(UnitState::Busy)
        }
        _ => Err(SystemdError::Answer { unit: unit.to_owned(), answer: answers.join(" ") }),
    }
}

/// Returns the `ActiveState` of a unit; `inactive` also where there is no such unit.
pub async fn active_state(unit: &str) -> Result<String, SystemdError> {
    Ok(show(unit, &["ActiveState"]).await?.concat())
}

async fn is_waiting(timer: &str) -> Result<bool, SystemdError> {
    Ok(active_state(timer).await? == "active")
}

/// When systemd counts `OnStartupSec=` from, in milliseconds of `CLOCK_MONOTONIC`.
async fn manager_start_ms() -> Result<u64, SystemdError> {
    const MANAGER: &str = "UserspaceTimestampMonotonic";
    let asked = systemctl(["show", "--value", "--property", MANAGER]).run().await;
    let output = asked.map_err(|source| SystemdError::Ask { unit: MANAGER.to_owned(), source })?;
    let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let micros: Result<u64, _> = answer.parse();
    micros.map(|us| us / 1000).map_err(|_| SystemdError::Answer { unit: MANAGER.to_owned(), answer })
}

/// Returns the values of properties, in their order; an unknown unit has them, too.
async fn show(unit: &str, properties: &[&str]) -> Result<Vec<String>, SystemdError> {
    let asked = systemctl(["show", "--property", &properties.join(","), "--", unit]).run().await;
    let output = asked.map_err(|source| SystemdError::Ask { unit: unit.to_owned(), source })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |name: &&str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
    };
    // What has no value may not be printed at all.
    Ok(properties.iter().map(|name| value(name).unwrap_or_default()).collect())
}

/// Waits until systemd answers, at most `limit`: while it reloads, its generators may keep it from that for minutes. Tells
/// whether it did.
pub async fn wait_for_answer(limit: Duration) -> bool {
    let until = clock::boottime_ms().saturating_add(limit.as_millis() as u64);
    while manager_start_ms().await.is_err() {
        if clock::boottime_ms() >= until {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
    true
}

/// Checks that systemd can be reached over the message bus, as `switch-to-configuration` needs it.
pub async fn check_bus() -> Result<(), CommandError> {
    const MANAGER: [&str; 3] =
        ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];
    let command = Command::new("busctl").args(["--system", "--timeout=15s", "get-property"]);
    command.args(MANAGER).arg("Version").time_limit(ASK_TIME).run_for_effect().await
}

/// Asks for a unit to be stopped and does not wait for it.
pub async fn stop(unit: &str) -> Result<(), SystemdError> {
    let asked = systemctl(["stop", "--no-block", "--", unit]).run_for_effect().await;
    asked.map_err(|source| SystemdError::Ask { unit: unit.to_owned(), source })
}

/// How bluntly a reboot is asked for (systemctl(1), `--force`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// Services are stopped in order.
    Orderly,
    /// Services are killed, file systems unmounted.
    WithoutServices,
    /// Nothing is waited for, after what was written has been synced; systemd itself need not answer.
    AtOnce,
}

/// Asks for a reboot and does not wait for it.
pub async fn reboot(force: Force) -> Result<(), SystemdError> {
    if force == Force::AtOnce {
        rustix::fs::sync();
    }
    let forced: &[&str] = match force {
        Force::Orderly => &["--no-block"],
        Force::WithoutServices => &["--force"],
        Force::AtOnce => &["--force", "--force"],
    };
    // An operator's inhibitor (systemd-inhibit(1)) would leave the host on a system that nobody wants.
    let words = ["reboot", "--check-inhibitors=no", "--no-wall"].iter().chain(forced).copied();
    let asked = systemctl(words).run_for_effect().await;
    asked.map_err(|source| SystemdError::Start { unit: "reboot.target".to_owned(), source })
}

/// Returns the directories in which systemd looks for units, the first counting most.
pub async fn unit_paths() -> Result<Vec<PathBuf>, SystemdError> {
    const PATHS: &str = "UnitPath";
    let asked = systemctl(["show", "--value", "--property", PATHS]).run().await;
    let output = asked.map_err(|source| SystemdError::Ask { unit: PATHS.to_owned(), source })?;
    Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(PathBuf::from).collect())
}

/// Asks for units to be stopped, in the background, from where nothing can be waited for.
pub fn stop_in_background(unit: &str) {
    if let Err(error) = systemctl(["stop", "--no-block", "--", unit]).start_and_forget() {
        tracing::warn!(unit, %error, "the unit can't be stopped; it ends at its time limit");
    }
}

/// Stops whatever an earlier run of ours has left behind of kinds that are of no use without us, and sees them end. What
/// failed while nobody waited for it is nobody's news any more, and must not count as a failed unit of the host.
pub async fn stop_leftovers() {
    let all = |kind: Kind| format!("{}{}-*", units::PREFIX, kind.word());
    for kind in [Kind::Build, Kind::Probe] {
        // There is none, most of the time.
        drop(systemctl(["stop", "--", &all(kind)]).run_for_effect().await);
    }
    for kind in [Kind::Build, Kind::Probe, Kind::Root] {
        forget(&all(kind)).await;
    }
}

/// Lets systemd forget that a unit failed, or all whose names match a pattern; without effect on one that did not.
pub async fn forget(unit: &str) {
    // It fails for a unit that is not loaded any more, which is what is wanted.
    drop(systemctl(["reset-failed", "--", unit]).run_for_effect().await);
}

/// Restarts a unit and waits until it is up, at most `limit`.
pub async fn restart(unit: &str, limit: Duration) -> Result<(), SystemdError> {
    let asked = systemctl(["restart", "--", unit]).time_limit(limit).run_for_effect().await;
    asked.map_err(|source| SystemdError::Start { unit: unit.to_owned(), source })
}

/// Has systemd know units by these files for as long as the host is up, also when the running system has them no more.
pub async fn link_until_reboot(files: &[PathBuf]) -> Result<(), SystemdError> {
    let asked =
        systemctl(["link", "--runtime", "--"]).args(files.iter().map(OsString::from)).run_for_effect().await;
    asked.map_err(|source| SystemdError::Ask { unit: units::RECONCILER.to_owned(), source })
}

/// Asks for a unit to be restarted and does not wait for it.
pub async fn restart_soon(unit: &str) -> Result<(), SystemdError> {
    let asked = systemctl(["restart", "--no-block", "--", unit]).run_for_effect().await;
    asked.map_err(|source| SystemdError::Start { unit: unit.to_owned(), source })
}

/// Starts units and waits until they are up, at most `limit`; starting one that runs does nothing.
pub async fn start_all(names: &[String], limit: Duration) -> Result<(), CommandError> {
    let command = systemctl(["start", "--"]).args(names.iter().cloned());
    command.time_limit(limit).run_for_effect().await
}

/// Returns what systemd says of each unit that it knows by one of these patterns, as blocks of `Name=value`.
pub(super) async fn show_many(
    properties: &str,
    patterns: &[String],
    said_max: usize,
) -> Result<String, SystemdError> {
    let command = systemctl(["show", "--property", properties, "--"]).args(patterns.iter().cloned());
    let output = command.stdout_max(said_max).run().await;
    let output = output.map_err(|source| SystemdError::Ask { unit: "all units".to_owned(), source })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Returns the last lines that the programs of a unit have printed, oldest first; what systemd itself says about
/// the unit is left out.
pub async fn last_lines(unit: &str, lines: usize) -> Result<String, CommandError> {
    let journal = Command::new("journalctl").args(["--quiet", "--no-pager", "--output=cat", "--boot"]);
    let lines = format!("--lines={lines}");
    let command = journal.args([lines, format!("_SYSTEMD_UNIT={unit}")]).time_limit(ASK_TIME);
    Ok(String::from_utf8_lossy(&command.stdout_max(LIST_MAX).run().await?.stdout).into_owned())
}

fn systemctl<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    Command::new("systemctl").arg("--no-ask-password").args(args).time_limit(ASK_TIME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_plays_a_host_has_no_systemd() {
        assert!(!runs(Path::new("/tmp/host")));
    }
}
