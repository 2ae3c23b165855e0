//! Owns how a toplevel's `switch-to-configuration` is run.
//!
//! `switch` is never run: it rewrites the boot loader before it activates anything. Exit codes do not tell
//! healthy from unhealthy (1 comes both before anything changed and after activation): ask
//! [`facts`](super::facts) what the host runs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::{Command, CommandError};
use super::job::{self, JobError, JobSpec};
use super::manager::Manager;
use super::units::Kind;
use crate::model::StorePath;

/// Tells `switch-to-configuration` to update the boot loader, not to install it anew.
const UPDATE_LOADER: (&str, &str) = ("NIXOS_INSTALL_BOOTLOADER", "0");
/// Skips the pre-switch checks of a system that is to be rescued.
const NO_CHECK: (&str, &str) = ("NIXOS_NO_CHECK", "1");

/// Returns the program of `toplevel` that switches the host to it.
pub fn program(toplevel: &StorePath) -> PathBuf {
    toplevel.join("bin/switch-to-configuration")
}

/// Runs the pre-switch checks of `toplevel`; changes nothing.
pub async fn check(toplevel: &StorePath, manager: Manager, limit: Duration) -> Result<(), CommandError> {
    manager.run_for_effect(Kind::Root, command(toplevel, "check", limit)).await
}

/// Makes `toplevel` what the next boot starts; changes nothing that runs.
pub async fn boot(toplevel: &StorePath, manager: Manager, limit: Duration) -> Result<(), CommandError> {
    manager.run_for_effect(Kind::Root, command(toplevel, "boot", limit)).await
}

/// Starts to activate `toplevel` without making it permanent, as a job that outlives us; `name` tells its unit apart. Where
/// systemd keeps the job, `then` is run when it has ended, whatever it died of.
pub async fn start_test(
    toplevel: &StorePath,
    manager: Manager,
    name: &str,
    job_dir: &Path,
    limit: Duration,
    then: Vec<OsString>,
) -> Result<(), JobError> {
    let mut unit = manager.unit(Kind::Switch, name);
    if let Some(unit) = &mut unit {
        unit.then = then;
    }
    let spec = JobSpec {
        dir: job_dir.to_owned(),
        argv: vec![program(toplevel).into(), "test".into()],
        env: vec![owned(UPDATE_LOADER)],
        limit,
        unit,
    };
    job::start(&spec).await
}

/// Activates `toplevel`, which ran before, to get away from a system that failed. Its own checks may not
/// veto that. To be used by a process that is on its own already: it waits for the end.
pub async fn roll_back(toplevel: &StorePath, limit: Duration) -> Result<(), CommandError> {
    command(toplevel, "test", limit).envs([owned(NO_CHECK)]).run_for_effect().await
}

fn command(toplevel: &StorePath, action: &str, limit: Duration) -> Command {
    Command::new(program(toplevel)).arg(action).envs([owned(UPDATE_LOADER)]).dir("/").time_limit(limit)
}

fn owned((name, value): (&str, &str)) -> (OsString, OsString) {
    (name.into(), value.into())
}
