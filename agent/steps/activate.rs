//! The guarded switch. What it came to is read from the host, never from an exit code alone.

use std::time::Duration;

use super::{Built, GUARD_MARGIN, Steps, failed_step, millis};
use crate::guard;
use crate::host::job::{self, ExitRecord, JobError, JobResult, JobState};
use crate::host::{clock, facts, switch};
use crate::model::{Class, Deployment, Event, Failure, Happened, Stage, SwitchEnd};

/// The switch's directory in the guard's.
pub(super) const JOB: &str = "switch";
/// `switch-to-configuration` says this when another switch holds its lock (nixpkgs: EAGAIN as exit code).
const EXIT_LOCKED: i32 = 11;
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
        let built = Built::journaled(d);
        let dir = self.guard_dir(&d.id).join(JOB);
        let limit = self.settings.activation.switch_timeout.0;
        if let Err(error) = self.outlive_removal(d).await {
            return failed_step(d, "switch", &*error);
        }
        match switch::start_test(built.toplevel(), self.manager, d.id.as_str(), &dir, limit).await {
            Ok(()) | Err(JobError::AlreadyStarted(_)) => {}
            Err(error) => return failed_step(d, "switch", &error),
        }
        let ended = match job::wait(&dir, limit + GUARD_MARGIN).await {
            Ok(state) => state,
            Err(error) => return failed_step(d, "switch", &error),
        };
        let log = job::log_tail(&dir, LOG_BYTES).await.unwrap_or_default();
        match self.judge(d, &ended, &log) {
            Ok(ended) => Happened::Event(Event::Switched { id: d.id.clone(), ended }),
            Err(error) => failed_step(d, "host", &error),
        }
    }

    fn judge(
        &self,
        d: &Deployment,
        ended: &JobState,
        log: &str,
    ) -> Result<SwitchEnd, crate::host::files::FileError> {
        let Stage::Probation { trial, .. } = &d.stage else {
            return Ok(SwitchEnd::Torn { text: "the switch ran without a plan".to_owned() });
        };
        let known = [trial.old.clone(), d.toplevel.clone()];
        let facts = facts::observe_knowing(&self.host, &known)?;
        let text = describe(ended, log);
        Ok(match facts.running.as_ref() {
            _ if facts.is_torn() => SwitchEnd::Torn { text },
            Some(running) if *running == d.toplevel => SwitchEnd::Complete { exit: exit_code(ended) },
            _ => {
                let class = if blames_target(ended) { Class::Target } else { Class::Transient };
                let text = format!("the switch changed nothing: {text}");
                SwitchEnd::Unchanged { failure: Failure { class, code: "activation".to_owned(), text } }
            }
        })
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

fn exit_code(state: &JobState) -> Option<i32> {
    match state {
        JobState::Ended(ExitRecord { result: JobResult::ExitCode { code }, .. }) => Some(*code),
        JobState::Ended(_) | JobState::Absent | JobState::Running | JobState::Lost => None,
    }
}

/// Tells whether a switch that changed nothing did so for a reason that lies in the new system.
fn blames_target(state: &JobState) -> bool {
    match state {
        JobState::Ended(record) => match &record.result {
            JobResult::ExitCode { code } => *code != EXIT_LOCKED,
            JobResult::NotStarted { .. } | JobResult::Timeout => true,
            JobResult::Signal { .. } | JobResult::Stopped => false,
        },
        JobState::Absent | JobState::Running | JobState::Lost => false,
    }
}

fn describe(state: &JobState, log: &str) -> String {
    let end = match state {
        JobState::Absent => "it never ran".to_owned(),
        JobState::Running => "it still runs".to_owned(),
        JobState::Lost => "it was killed".to_owned(),
        JobState::Ended(record) => match &record.result {
            JobResult::ExitCode { code } => format!("it exited with {code}"),
            JobResult::Signal { signal } => format!("signal {signal} ended it"),
            JobResult::Timeout => "it took too long and was ended".to_owned(),
            JobResult::Stopped => "the rollback ended it".to_owned(),
            JobResult::NotStarted { text } => format!("it could not be started: {text}"),
        },
    };
    match log.trim().lines().last() {
        Some(last) if !last.is_empty() => format!("{end}; it said last: {last}"),
        _ => end,
    }
}
