//! Owns the guard of a trial boot: a unit outside of every system, which systemd starts whatever is booted, and which
//! reboots into the old system unless the new one was confirmed in time. What boots by default is the old system, so to go
//! back is to reboot.
//!
//! ```text
//! guard/<id>/boot.json   the trial is one by a boot; when to go back, since that boot
//! guard/<id>/booted      the new system came as far as starting this guard
//! /etc/systemd/system.control/pullagent-boot-guard.service, and its link in multi-user.target.wants
//! ```
//! systemd.unit(5) has that directory before all others; a switch of NixOS does not touch it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fire::fire_until_done;
use super::plan::{GuardPlan, read_decision, read_plan};
use super::{GuardArgs, GuardError};
use crate::host::command::Command;
use crate::host::facts::HostPaths;
use crate::host::files::{self, io_error};
use crate::host::manager::Manager;
use crate::host::systemd::Force;
use crate::host::units::Kind;
use crate::host::{chain, clock, facts, systemd};
use crate::model::{Decision, GuardResult};

/// The unit's name.
const UNIT: &str = "pullagent-boot-guard.service";
/// Where systemd finds units that belong to no system, below the root.
pub const CONTROL: &str = "etc/systemd/system.control";
/// The target that starts it.
const WANTS: &str = "multi-user.target.wants";
/// How long the unit's installation may take.
const INSTALL_TIME: Duration = Duration::from_secs(20);
/// How often it looks whether something was decided.
const LOOK: Duration = Duration::from_secs(1);
/// How a reboot is asked for, and how long it may then take before it is asked for more bluntly.
const REBOOTS: [(Force, Duration); 3] = [
    (Force::Orderly, Duration::from_secs(180)),
    (Force::WithoutServices, Duration::from_secs(60)),
    (Force::AtOnce, Duration::from_secs(60)),
];
/// Every user may read units.
const UNIT_MODE: u32 = 0o644;
const FILE_MAX: u64 = 4096;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct BootTrial {
    /// When the old system is booted again, in milliseconds since the trial's own boot.
    deadline_boottime_ms: u64,
}

/// Notes that the new system of the guard in `dir` is tried by a boot, and when to go back. Safe to repeat.
pub fn mark_boot(dir: &Path, deadline_boottime_ms: u64) -> Result<(), GuardError> {
    fs::create_dir_all(dir).map_err(io_error("make directory", dir))?;
    let path = boot_path(dir);
    let json = serde_json::to_vec(&BootTrial { deadline_boottime_ms });
    let json = json.map_err(|source| GuardError::Json { path: path.clone(), source })?;
    Ok(files::write_atomic(&path, &json, files::PRIVATE)?)
}

/// Returns when the guard in `dir` goes back, in milliseconds since the trial's boot; `None` if that is no trial boot.
pub fn boot_deadline(dir: &Path) -> Result<Option<u64>, GuardError> {
    let path = boot_path(dir);
    let Some(bytes) = files::read_if_exists(&path, FILE_MAX)? else { return Ok(None) };
    let parsed = serde_json::from_slice::<BootTrial>(&bytes);
    parsed.map(|boot| Some(boot.deadline_boottime_ms)).map_err(|source| GuardError::Json { path, source })
}

/// Has the pinned binary install the unit, outside of our own sandbox.
pub async fn install_boot(dir: &Path, manager: Manager) -> Result<(), GuardError> {
    as_root(dir, manager, GuardArgs::InstallBoot { dir: dir.to_owned() }).await
}

/// Removes the unit; without effect if it is not there.
pub async fn remove_boot(dir: &Path, manager: Manager) -> Result<(), GuardError> {
    as_root(dir, manager, GuardArgs::RemoveBoot { dir: dir.to_owned() }).await
}

async fn as_root(dir: &Path, manager: Manager, args: GuardArgs) -> Result<(), GuardError> {
    let command = Command::new(dir.join("agent")).args(args.to_argv()).time_limit(INSTALL_TIME);
    manager.run_for_effect(Kind::Root, command).await.map_err(GuardError::BootGuard)
}

/// Writes the unit, and makes it durable before the reboot that needs it.
pub(super) fn install_here(dir: &Path) -> Result<(), GuardError> {
    let (unit, link) = places(&read_plan(dir)?.root);
    for place in [&unit, &link] {
        let parent = files::parent(place);
        fs::create_dir_all(parent).map_err(io_error("make directory", parent))?;
        files::sync_dir(files::parent(parent))?;
    }
    files::write_atomic(&unit, unit_text(dir).as_bytes(), UNIT_MODE)?;
    Ok(files::replace_symlink(&Path::new("..").join(UNIT), &link)?)
}

pub(super) fn remove_here(dir: &Path) -> Result<(), GuardError> {
    let (unit, link) = places(&read_plan(dir)?.root);
    for place in [link, unit] {
        match fs::remove_file(&place) {
            Ok(()) => files::sync_dir(files::parent(&place))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(io_error("remove", &place)(e).into()),
        }
    }
    Ok(())
}

fn places(root: &Path) -> (PathBuf, PathBuf) {
    let control = root.join(CONTROL);
    (control.join(UNIT), control.join(WANTS).join(UNIT))
}

/// It depends on nothing that a broken system may lack, and outlives an isolation and most of a shutdown.
fn unit_text(dir: &Path) -> String {
    let dir = dir.display().to_string().replace('%', "%%");
    format!(
        "# Written by pullagent before a trial boot, and removed after it.\n\
         [Unit]\n\
         Description=Guard of pullagent over a system that was booted for a trial\n\
         DefaultDependencies=no\n\
         IgnoreOnIsolate=yes\n\
         RequiresMountsFor=\"{dir}\"\n\
         ConditionPathExists={dir}/plan.json\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart=:\"{dir}/agent\" guard --boot \"{dir}\"\n\
         Restart=on-failure\n\
         RestartSec=5\n\
         OOMScoreAdjust=-1000\n"
    )
}

/// The unit's own work: goes on until the trial is decided, or decides it at the deadline.
pub(super) fn watch_here(dir: &Path) -> Result<(), GuardError> {
    let plan = read_plan(dir)?;
    let Some(deadline) = boot_deadline(dir)? else { return Ok(()) };
    if !is_in_trial(&plan)? {
        return Ok(());
    }
    // On a disk that is full or read-only the guard is needed all the more.
    if let Err(error) = files::write_atomic(&booted_path(dir), b"", files::PRIVATE) {
        eprintln!("pullagent guard: that the system was booted can't be noted: {}", chain(&error));
    }
    while clock::boottime_ms() < deadline {
        match read_decision(dir) {
            Ok(Some(Decision::Confirm | Decision::Superseded)) => return Ok(()),
            Ok(Some(Decision::RollBack { .. })) => break,
            Ok(None) | Err(_) => std::thread::sleep(LOOK),
        }
    }
    fire_until_done(dir)
}

/// Returns whether the new system has come as far as starting the guard in `dir`.
pub(super) fn was_booted(dir: &Path) -> bool {
    booted_path(dir).exists()
}

fn is_in_trial(plan: &GuardPlan) -> Result<bool, GuardError> {
    let facts = facts::observe(&HostPaths::under(&plan.root))?;
    Ok(facts.booted.as_ref() == Some(&plan.new) && facts.boot_id != plan.boot_id)
}

/// Reboots, if the new system is booted: then it does not return, unless that fails.
pub(super) async fn go_back(plan: &GuardPlan) -> Result<GuardResult, GuardError> {
    if !is_in_trial(plan)? {
        return Ok(GuardResult::NothingToDo);
    }
    for (force, patience) in REBOOTS {
        if let Err(error) = systemd::reboot(force).await {
            eprintln!("pullagent guard: {}", chain(&error));
        }
        tokio::time::sleep(patience).await;
    }
    Err(GuardError::StillUp(plan.new.clone()))
}

fn boot_path(dir: &Path) -> PathBuf {
    dir.join("boot.json")
}

fn booted_path(dir: &Path) -> PathBuf {
    dir.join("booted")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_frozen() {
        let text = unit_text(Path::new("/var/lib/pullagent/guard/7-aaaaaaa"));
        for line in [
            "DefaultDependencies=no",
            "ConditionPathExists=/var/lib/pullagent/guard/7-aaaaaaa/plan.json",
            "ExecStart=:\"/var/lib/pullagent/guard/7-aaaaaaa/agent\" guard --boot \"/var/lib/pullagent/guard/7-aaaaaaa\"",
        ] {
            assert!(text.lines().any(|l| l == line), "{text}");
        }
    }

    #[test]
    fn what_is_no_trial_boot_has_no_deadline() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(boot_deadline(dir.path()).unwrap(), None);
        mark_boot(dir.path(), 600_000).unwrap();
        assert_eq!(boot_deadline(dir.path()).unwrap(), Some(600_000));
        fs::write(boot_path(dir.path()), "{}").unwrap();
        assert!(boot_deadline(dir.path()).is_err());
    }
}
