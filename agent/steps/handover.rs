//! Who may judge the new system: its own agent only. A switch restarts the agent's unit when it has changed; where that did
//! not happen, the agent asks systemd for it, once. A system without pullagent is judged by the agent that deploys it, which
//! then ends for good.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Steps, failed_step};
use crate::config;
use crate::host::command::own_program;
use crate::host::files::{self, FileError};
use crate::host::manager::Manager;
use crate::host::systemd::{self, SystemdError};
use crate::host::units;
use crate::model::{Arbiter, Class, Decision, Deployment, Happened, Stage, StorePath};

/// Where a system keeps the unit of its agent.
const UNITS_IN_SYSTEM: &str = "etc/systemd/system";
/// How long a unit file may be, in bytes.
const UNIT_FILE_MAX: u64 = 64 << 10;
/// How long systemd may take to stop us after it was asked to.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
/// Says, in the guard's directory, that the agent was restarted for this deployment already.
const MARKER: &str = "handed-over";

impl Steps {
    /// Tells whether we are the agent of the system that runs now, or how we differ from it.
    pub(super) fn is_new_agent(&self, d: &Deployment) -> Result<(), String> {
        if self.manager == Manager::Alone {
            return Ok(());
        }
        if has_agent(&d.toplevel) {
            let configuration = d.toplevel.join(super::prepare::CONFIG_IN_SYSTEM);
            let new = config::load(&configuration).map_err(|e| crate::host::chain(&e))?;
            if new.settings != self.settings {
                return Err("it has another configuration".to_owned());
            }
        }
        let Some(new) = program_of(&d.toplevel).map_err(|e| crate::host::chain(&e))? else { return Ok(()) };
        let ours = own_program().map_err(|e| crate::host::chain(&e))?;
        // A package may wrap its program, so that what runs is another file of it.
        match (StorePath::containing(&ours), StorePath::containing(&new)) {
            (Some(ours), Some(new)) if ours == new => Ok(()),
            (None, None) if ours == new => Ok(()),
            _ => Err(format!("it has the program '{}'", new.display())),
        }
    }

    /// Says what of us the running system has and the new one lacks: a unit that is not there, or is masked, or that nothing
    /// starts. Without it nothing of us would come up with the next boot.
    pub(super) fn missing_unit(&self, toplevel: &StorePath) -> Option<String> {
        let ours: &[_] = match (self.manager, self.gateway_unit) {
            (Manager::Alone, _) => return None,
            (Manager::Systemd, None) => &[units::RECONCILER],
            (Manager::Systemd, Some(gateway)) => &[units::RECONCILER, units::SOCKET, gateway],
        };
        let units = toplevel.join(UNITS_IN_SYSTEM);
        // A unit is masked by a link to /dev/null, which is no file.
        let missing = ours.iter().find(|unit| !units.join(unit).is_file()).map(|unit| format!("no {unit}"));
        // The agent's unit wants the other two.
        let nobody = || !is_wanted(&units, units::RECONCILER);
        missing.or_else(|| nobody().then(|| format!("nothing that starts {}", units::RECONCILER)))
    }

    /// Sees to it that our units can still be watched and restarted while a system is tried that has none of them: systemd
    /// forgets units whose files are gone.
    pub(super) async fn outlive_removal(&self, d: &Deployment) -> Result<(), Box<dyn Error + Send + Sync>> {
        let Stage::Probation { trial, .. } = &d.stage else { return Ok(()) };
        if self.manager == Manager::Alone || has_agent(&d.toplevel) {
            return Ok(());
        }
        let old = trial.old.join(UNITS_IN_SYSTEM);
        let file = |unit| old.join(unit).canonicalize().map_err(files::io_error("find", &old.join(unit)));
        let units = [units::RECONCILER, units::GATEWAY, units::SOCKET];
        let units: Vec<PathBuf> = units.into_iter().map(file).collect::<Result<_, _>>()?;
        Ok(systemd::link_until_reboot(&units).await?)
    }

    /// Has systemd replace us by the new system's agent. The second time it is the new system's fault.
    pub(super) async fn hand_over(&self, d: &Deployment, why: &str) -> Happened {
        let marker = self.guard_dir(&d.id).join(MARKER);
        if marker.exists() {
            let reason = format!("the new system's agent does not take over: {why}");
            return self.decide(
                d,
                &Decision::RollBack { reason, by: Arbiter::Agent, class: Class::Target },
                vec![],
            );
        }
        tracing::info!(deployment = d.id.as_str(), "handing over to the new system's agent: {why}");
        if let Err(error) = files::write_atomic(&marker, b"", files::PRIVATE) {
            return failed_step(d, "hand-over", &error);
        }
        if let Err(error) = systemd::restart_soon(units::RECONCILER).await {
            return failed_step(d, "hand-over", &error);
        }
        tokio::time::sleep(STOPPED_WITHIN).await;
        failed_step(d, "hand-over", &std::io::Error::other("systemd does not restart this unit"))
    }
}

/// Tells whether a unit in this directory is started along with another one (systemd.unit(5), "Requires=").
fn is_wanted(units: &Path, unit: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(units) else { return false };
    let mut others = entries.flatten().map(|entry| entry.path()).filter(|path| {
        path.extension().is_some_and(|kind| ["wants", "requires", "upholds"].iter().any(|k| kind == *k))
    });
    others.any(|directory| directory.join(unit).exists())
}

/// Tells whether a system has a pullagent that is configured.
pub fn has_agent(toplevel: &StorePath) -> bool {
    toplevel.join(super::prepare::CONFIG_IN_SYSTEM).exists()
}

/// Stops our own units, for as long as the host is up.
pub async fn retire() -> Result<(), SystemdError> {
    for unit in [units::SOCKET, units::GATEWAY, units::RECONCILER] {
        systemd::stop(unit).await?;
    }
    Ok(())
}

/// Returns the program that a system's unit of the agent starts; `None` if it has no such unit.
fn program_of(toplevel: &StorePath) -> Result<Option<PathBuf>, FileError> {
    let path = toplevel.join(UNITS_IN_SYSTEM).join(units::RECONCILER);
    let bytes = files::read_if_exists(&path, UNIT_FILE_MAX)?;
    Ok(bytes.and_then(|bytes| program_in(&String::from_utf8_lossy(&bytes))))
}

/// Reads the program off a unit file: the first word of `ExecStart=`, without the prefixes of systemd.service(5).
fn program_in(unit: &str) -> Option<PathBuf> {
    let line = unit.lines().find_map(|line| line.trim().strip_prefix("ExecStart="))?;
    let word = line.trim_start_matches(['@', '-', ':', '+', '!']).split_whitespace().next()?;
    Some(Path::new(word.trim_matches('"')).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_has_to_be_wanted_by_something() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = || is_wanted(dir.path(), "a.service");
        std::fs::write(dir.path().join("a.service"), "").unwrap();
        assert!(!wanted());
        std::fs::create_dir(dir.path().join("multi-user.target.wants")).unwrap();
        std::fs::create_dir(dir.path().join("a.service.d")).unwrap();
        std::fs::write(dir.path().join("a.service.d/a.service"), "").unwrap();
        assert!(!wanted());
        std::os::unix::fs::symlink("../a.service", dir.path().join("multi-user.target.wants/a.service"))
            .unwrap();
        assert!(wanted());
    }

    #[test]
    fn the_program_is_read_off_the_unit() {
        let table = [
            (
                "[Service]\nExecStart=/nix/store/x/bin/pullagent run --config c\n",
                Some("/nix/store/x/bin/pullagent"),
            ),
            ("ExecStart=-/bin/a\n", Some("/bin/a")),
            ("ExecStart=\"/bin/a\" b", Some("/bin/a")),
            ("ExecStartPre=/bin/b\n", None),
            ("", None),
        ];
        for (unit, expected) in table {
            assert_eq!(program_in(unit), expected.map(PathBuf::from), "{unit}");
        }
    }
}
