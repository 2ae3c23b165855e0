//! Owns the binary that will roll back: it is put out of everybody's reach and tested before anything
//! changes, and it is what every timer and every rollback runs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;

use super::plan::{plan_path, read_decision, read_plan, read_result};
use super::{Fired, GuardArgs, GuardError};
use crate::host::command::{self, Command};
use crate::host::detach;
use crate::host::files::{self, Created, FileError, io_error};
use crate::host::job::{self, JobError, JobSpec, JobState};
use crate::host::manager::Manager;
use crate::host::nix::Nix;
use crate::host::systemd::{self, Transient};
use crate::host::units::{self, Kind};
use crate::host::{self, clock, facts, switch};
use crate::model::{Decision, StorePath};

const SELFTEST_TIME: Duration = Duration::from_secs(20);
/// How often a rollback whose process died is started anew by one [`fire_now`].
const RUNS_MAX: u32 = 3;
/// How long to wait before another try to start one.
const BETWEEN_STARTS: Duration = Duration::from_secs(5);
/// How often the timers' result is looked for.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// How many rollback processes of one deployment are recorded before we give up.
const RECORDS_MAX: u32 = 30;

/// Puts the running binary and the way back to `old` out of the garbage collector's and everybody else's
/// reach. Safe to repeat.
///
/// A binary in a store is linked and rooted, any other is copied. Without `nix`, nothing can be rooted, and
/// the binary is copied wherever it lies.
pub async fn pin(dir: &Path, old: &StorePath, nix: Option<&Nix>) -> Result<(), GuardError> {
    let agent = agent_path(dir);
    if let Some(nix) = nix {
        protect(nix, old, &dir.join("old-root")).await?;
        if let Some((package, binary)) = packaged(nix).await {
            protect(nix, &package, &dir.join("agent-root")).await?;
            return Ok(files::replace_symlink(&binary, &agent)?);
        }
    }
    if !agent.exists() {
        // It may have a hundred megabytes.
        let copied = tokio::task::spawn_blocking({
            let agent = agent.clone();
            move || files::copy_program(command::own_binary(), &agent)
        });
        copied.await.map_err(|e| io_error("copy", &agent)(e.into()))??;
    }
    Ok(())
}

/// Has the pinned binary find out whether it could roll back.
pub async fn selftest(dir: &Path) -> Result<(), GuardError> {
    let args = GuardArgs::Selftest { dir: absolute(dir)? };
    let run = Command::new(agent_path(dir)).args(args.to_argv()).time_limit(SELFTEST_TIME).run();
    run.await.map(drop).map_err(GuardError::Selftest)
}

/// Adds a timer that fires at `until_boottime_ms`, and returns when it runs. Repeating it adds nothing.
pub async fn arm(dir: &Path, manager: Manager, until_boottime_ms: u64) -> Result<(), GuardError> {
    let dir = absolute(dir)?;
    match manager {
        Manager::Alone => {
            let argv = pinned_argv(&dir, &GuardArgs::Wait { dir: dir.clone(), until_boottime_ms });
            detach::detach(argv, []).await.map_err(GuardError::Arm)
        }
        Manager::Systemd => {
            let argv: Vec<_> = pinned_argv(&dir, &GuardArgs::Fire { dir: dir.clone() }).collect();
            let unit = format!("{}guard-{}-{until_boottime_ms}.service", units::PREFIX, name(&dir));
            // Once its work is done, the directory is removed, and this timer has nothing to fire any more.
            let mut needed = OsString::from("ConditionPathExists=");
            needed.push(plan_path(&dir));
            let (kind, properties) = (Kind::Guard, vec![needed]);
            let fires = Transient { unit: &unit, kind, properties, env: &[], argv: &argv };
            systemd::start_at(&fires, until_boottime_ms).await.map_err(GuardError::Timer)
        }
    }
}

/// Has the pinned binary do what was decided (roll back, if nothing was), and waits for it at most `limit`.
///
/// It is started in a process that outlives us, unless one runs already; if that dies, once more. Where none can be
/// started (the disk is full, for one), a timer may still do it, so that is waited for.
pub async fn fire_now(dir: &Path, manager: Manager, limit: Duration) -> Result<Fired, GuardError> {
    let dir = absolute(dir)?;
    let until = clock::boottime_ms().saturating_add(limit.as_millis() as u64);
    let mut runs = 0;
    loop {
        if let Some(fired) = outcome(&dir)? {
            return Ok(fired);
        }
        let over = clock::boottime_ms() >= until;
        let run = match next_run(&dir, manager, limit).await {
            Ok(run) => run,
            Err(error) if over => return Err(error),
            Err(error) => {
                tracing::warn!("the rollback can't be started: {}", host::chain(&error));
                tokio::time::sleep(BETWEEN_STARTS).await;
                continue;
            }
        };
        let state = job::wait(&run, limit).await?;
        runs += 1;
        if runs < RUNS_MAX && state != JobState::Running {
            continue;
        }
        return match outcome(&dir)? {
            Some(fired) => Ok(fired),
            None => Err(GuardError::NoResult(match state {
                JobState::Running => "it still runs".into(),
                JobState::Ended(record) => format!("{:?}", record.result),
                JobState::Absent | JobState::Lost => "its process was killed".into(),
            })),
        };
    }
}

/// Waits, at most until a moment after boot, for what the timers come to.
pub async fn await_timers(dir: &Path, until_boottime_ms: u64) -> Result<Option<Fired>, GuardError> {
    loop {
        let fired = outcome(dir)?;
        if fired.is_some() || clock::boottime_ms() >= until_boottime_ms {
            return Ok(fired);
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Returns the program that adds the trial's timer when the switch has ended, with its arguments.
pub fn after_switch(dir: &Path) -> Result<Vec<OsString>, GuardError> {
    let dir = absolute(dir)?;
    Ok(pinned_argv(&dir, &GuardArgs::Shorten { dir: dir.clone() }).collect())
}

/// Returns the record of the rollback process that runs, or starts the next one.
async fn next_run(dir: &Path, manager: Manager, limit: Duration) -> Result<PathBuf, GuardError> {
    for number in 1..=RECORDS_MAX {
        let run = dir.join(format!("fire-{number}"));
        match job::state(&run).await? {
            JobState::Ended(_) | JobState::Lost => continue,
            JobState::Running => return Ok(run),
            JobState::Absent => {}
        }
        let argv = pinned_argv(dir, &GuardArgs::Fire { dir: dir.to_owned() }).collect();
        let mut unit = manager.unit(Kind::Guard, &format!("{}-fire-{number}", name(dir)));
        if let Some(unit) = &mut unit {
            // It is us who look after this one, and a second try is a record of its own.
            unit.properties.push("Restart=no".into());
        }
        let spec = JobSpec { dir: run.clone(), argv, env: Vec::new(), limit, unit };
        return match job::start(&spec).await {
            Ok(()) | Err(JobError::AlreadyStarted(_)) => Ok(run),
            Err(e) => Err(e.into()),
        };
    }
    Err(GuardError::NoResult(format!("{RECORDS_MAX} processes were killed over it")))
}

fn outcome(dir: &Path) -> Result<Option<Fired>, GuardError> {
    if let Some(result) = read_result(dir)? {
        return Ok(Some(Fired::Ended(result)));
    }
    Ok(match read_decision(dir)? {
        Some(Decision::RollBack { .. }) | None => None,
        Some(stands @ (Decision::Confirm | Decision::Superseded)) => Some(Fired::Stands(stands)),
    })
}

/// The pinned binary's part of [`selftest`].
pub(super) fn test_here(dir: &Path) -> Result<(), GuardError> {
    let plan = read_plan(dir)?;
    let program = switch::program(&plan.old);
    if !program.is_file() || rustix::fs::access(&program, Access::EXEC_OK).is_err() {
        return Err(GuardError::NoWayBack(plan.old));
    }
    facts::observe(&plan.host())?;
    try_to_create(&dir.join("selftest"))?;
    Ok(())
}

/// Tries whether a decision could be created, on a name that decides nothing.
fn try_to_create(trial: &Path) -> Result<(), FileError> {
    match files::create_once(trial, b"", 1)? {
        Created::Won | Created::Lost(_) => std::fs::remove_file(trial).map_err(io_error("remove", trial)),
    }
}

async fn protect(nix: &Nix, path: &StorePath, root: &Path) -> Result<(), GuardError> {
    let rooted = nix.add_root(path, root).await;
    rooted.map_err(|source| GuardError::Root { path: path.clone(), source })
}

/// Returns the running binary and the package it belongs to, if it lies in a store.
async fn packaged(nix: &Nix) -> Option<(StorePath, PathBuf)> {
    // A binary whose file is gone lies nowhere any more.
    let binary = command::own_binary().canonicalize().ok()?;
    let package = StorePath::containing(&binary)?;
    // A path that only looks like one in a store is none of Nix's.
    nix.is_valid(&package).await.unwrap_or(false).then_some((package, binary))
}

fn pinned_argv(dir: &Path, args: &GuardArgs) -> impl Iterator<Item = OsString> + use<> {
    std::iter::once(agent_path(dir).into()).chain(args.to_argv())
}

/// The guard's directory is named after its deployment.
fn name(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn agent_path(dir: &Path) -> PathBuf {
    dir.join("agent")
}

fn absolute(dir: &Path) -> Result<PathBuf, FileError> {
    std::path::absolute(dir).map_err(io_error("find", dir))
}
