//! The guarded switch. What it came to is read from the host, never from an exit code alone.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::switched::Seen;
use super::{Built, GUARD_MARGIN, Steps, failed_step, millis};
use crate::guard;
use crate::host::files::{self, FileError};
use crate::host::job::{self, JobError, JobState};
use crate::host::manager::Manager;
use crate::host::{self, clock, facts, switch, switch_lock, systemd};
use crate::model::{Class, Deployment, Event, Failure, Happened, Stage, SwitchEnd, Trial};

/// The switch's directory in the guard's.
pub(super) const JOB: &str = "switch";
/// `switch-to-configuration` says this when another switch holds its lock (nixpkgs: EAGAIN as exit code).
pub(super) const EXIT_LOCKED: i32 = 11;
/// It says this when the init of the new system is not the running one's.
pub(super) const EXIT_NEEDS_REBOOT: i32 = 100;
/// How long another switch that is under way is waited for; nobody ends it.
const OTHER_SWITCH_MAX: Duration = Duration::from_secs(600);
/// How much of the switch's log is told.
const LOG_BYTES: usize = 600;

impl Steps {
    pub(super) async fn arm(&self, d: &Deployment) -> Happened {
        let Stage::Probation { trial, .. } = &d.stage else { return misplaced(d) };
        match guard::arm(&self.guard_dir(&d.id), self.manager, trial.deadline_boottime_ms).await {
            Ok(()) => Happened::Event(Event::Armed { id: d.id.clone() }),
            Err(error) => failed_step(d, "guard", &error),
        }
    }

    /// Starts the switch as a job that outlives this process, or attaches to it, and sees it end.
    pub(super) async fn switch(&self, d: &Deployment) -> Happened {
        let Stage::Probation { trial, .. } = &d.stage else { return misplaced(d) };
        let built = Built::journaled(d);
        let dir = self.guard_dir(&d.id).join(JOB);
        let limit = self.settings.activation.switch_timeout.0;
        if let Err(error) = self.outlive_removal(d).await {
            return failed_step(d, "switch", &*error);
        }
        let name = match make_room(&dir, d, trial) {
            Ok(name) => name,
            Err(error) => return failed_step(d, "switch", &error),
        };
        let then = match guard::after_switch(&self.guard_dir(&d.id)) {
            Ok(then) => then,
            Err(error) => return failed_step(d, "guard", &error),
        };
        match switch::start_test(built.toplevel(), self.manager, &name, &dir, limit, then).await {
            Ok(()) | Err(JobError::AlreadyStarted(_)) => {}
            Err(error) => return failed_step(d, "switch", &error),
        }
        let ended = match job::wait(&dir, limit + GUARD_MARGIN).await {
            Ok(state) => state,
            Err(error) => return failed_step(d, "switch", &error),
        };
        match self.judge(d, trial, &dir, &ended).await {
            Ok(ended) => Happened::Event(Event::Switched { id: d.id.clone(), ended }),
            Err(error) => failed_step(d, "host", &error),
        }
    }

    /// Looks at the host, once nobody else is switching it: what is half-way then would be theirs.
    async fn judge(
        &self,
        d: &Deployment,
        trial: &Trial,
        dir: &Path,
        ended: &JobState,
    ) -> Result<SwitchEnd, FileError> {
        let left = trial.deadline_boottime_ms.saturating_sub(clock::boottime_ms() + millis(GUARD_MARGIN));
        let patience = OTHER_SWITCH_MAX.min(Duration::from_millis(left));
        if *ended != JobState::Running
            && let Some(pid) = switch_lock::wait_until_free(self.host.root(), patience).await?
        {
            tracing::warn!(deployment = d.id.as_str(), "process {pid} still switches the host");
        }
        let log = job::log_tail(dir, LOG_BYTES).await.unwrap_or_default();
        let bus_error = self.bus_error().await;
        let known = [trial.old.clone(), d.toplevel.clone()];
        let facts = facts::observe_knowing(&self.host, &known)?;
        Ok(Seen { new: &d.toplevel, ended, log: &log, facts: &facts, bus_error }.judge())
    }

    /// Returns why the message bus does not answer, if that is so.
    pub(super) async fn bus_error(&self) -> Option<String> {
        match self.manager {
            Manager::Alone => None,
            Manager::Systemd => systemd::check_bus().await.err().map(|e| host::chain(&e)),
        }
    }

    /// Adds the timer that bounds the health phase.
    pub(super) async fn shorten(&self, d: &Deployment) -> Happened {
        if let Err(why) = self.is_new_agent(d) {
            return self.hand_over(d, &why).await;
        }
        let answer = self.answer_within(d).unwrap_or_default();
        let until: Duration = self.settings.activation.window.0 + answer + GUARD_MARGIN;
        let deadline_boottime_ms = clock::boottime_ms() + millis(until);
        match guard::arm(&self.guard_dir(&d.id), self.manager, deadline_boottime_ms).await {
            Ok(()) => Happened::Event(Event::SoakStarted { id: d.id.clone(), deadline_boottime_ms }),
            Err(error) => failed_step(d, "guard", &error),
        }
    }
}

/// The transition table offers this action for a deployment on probation only.
fn misplaced(d: &Deployment) -> Happened {
    let failure = Failure {
        class: Class::Transient,
        code: "internal".to_owned(),
        text: "a step was offered to a deployment that has no plan".to_owned(),
    };
    Happened::Event(Event::Abandoned { id: d.id.clone(), failure, at: clock::unix_secs() })
}

/// Puts the record of a switch that stopped half-way aside before another run, and returns the name of this one.
///
/// The guard knows one directory, where it finds the run that it has to end first. Safe to repeat.
fn make_room(dir: &Path, d: &Deployment, trial: &Trial) -> Result<String, FileError> {
    if trial.switch_repeats == 0 {
        return Ok(d.id.to_string());
    }
    let aside = dir.with_file_name(format!("{JOB}-{}", trial.switch_repeats));
    if !aside.exists() && dir.exists() {
        fs::rename(dir, &aside).map_err(files::io_error("put aside", dir))?;
        files::sync_dir(files::parent(dir))?;
    }
    Ok(format!("{}-{}", d.id, trial.switch_repeats + 1))
}
