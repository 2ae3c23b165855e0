//! What a switch came to. The host's own word decides; how the program ended only says what to make of it.

use super::activate::{EXIT_LOCKED, EXIT_NEEDS_REBOOT};
use crate::host::job::{ExitRecord, JobResult, JobState};
use crate::model::{Class, Failure, HostFacts, StorePath, SwitchEnd};

/// All that is known of a switch that is over.
pub(super) struct Seen<'a> {
    /// The system that was switched to.
    pub new: &'a StorePath,
    /// How the program ended.
    pub ended: &'a JobState,
    /// The end of what it printed.
    pub log: &'a str,
    /// What the host says now.
    pub facts: &'a HostFacts,
    /// Why the message bus, which every switch needs, does not answer.
    pub bus_error: Option<String>,
}

impl Seen<'_> {
    /// Judges it.
    ///
    /// One that found another switch at work has changed nothing, so whatever is half-way is the other one's.
    pub fn judge(&self) -> SwitchEnd {
        let exit = exit_code(self.ended);
        let text = describe(self.ended, self.log);
        let complete = self.facts.running.as_ref() == Some(self.new) && !self.facts.is_torn();
        if complete {
            let text = if exit == Some(0) { String::new() } else { text };
            SwitchEnd::Complete { exit, text }
        } else if self.facts.is_torn() && exit != Some(EXIT_LOCKED) {
            SwitchEnd::Torn { text, resumable: exit.is_some(), class: blame(self.ended) }
        } else {
            SwitchEnd::Unchanged { failure: self.failure(exit, &text) }
        }
    }

    /// Says why nothing was changed.
    fn failure(&self, exit: Option<i32>, text: &str) -> Failure {
        match (exit, &self.bus_error) {
            (Some(EXIT_LOCKED), _) => {
                Failure::transient("locked", "another switch of this host was under way".to_owned())
            }
            (Some(EXIT_NEEDS_REBOOT), _) => {
                Failure::transient("needs-reboot", format!("only a reboot leads to the new system: {text}"))
            }
            (_, Some(error)) => Failure::transient("dbus", without_bus(error)),
            (_, None) => {
                let text = format!("the switch changed nothing: {text}");
                Failure { class: blame(self.ended), code: "activation".to_owned(), text }
            }
        }
    }
}

/// Says what to do about a message bus that does not answer.
pub(super) fn without_bus(error: &str) -> String {
    format!(
        "the message bus does not answer, and no system can be switched to without it; \
         'systemctl start dbus.socket dbus.service' may help: {error}"
    )
}

fn exit_code(state: &JobState) -> Option<i32> {
    match state {
        JobState::Ended(ExitRecord { result: JobResult::ExitCode { code }, .. }) => Some(*code),
        JobState::Ended(_) | JobState::Absent | JobState::Running | JobState::Lost => None,
    }
}

/// Tells whether it lies in the new system that a switch did not get through. Whoever kills one is somebody else.
fn blame(state: &JobState) -> Class {
    match state {
        JobState::Ended(record) => match &record.result {
            JobResult::ExitCode { .. } | JobResult::NotStarted { .. } | JobResult::Timeout => Class::Target,
            JobResult::Signal { .. } | JobResult::Stopped => Class::Transient,
        },
        // Its time was over, and it did not even end when it was ended.
        JobState::Running => Class::Target,
        JobState::Absent | JobState::Lost => Class::Transient,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> StorePath {
        format!("/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-{name}").parse().unwrap()
    }

    fn ended(result: JobResult) -> JobState {
        JobState::Ended(ExitRecord { schema: 1, result, started_boottime_ms: 0, ended_boottime_ms: 1 })
    }

    fn judged(running: &str, etc: &str, lists: bool, ended: &JobState, bus: bool) -> String {
        let facts = HostFacts {
            running: Some(path(running)),
            etc: Some(path(etc)),
            leftover_lists: lists,
            ..HostFacts::default()
        };
        let new = path("new");
        let bus_error = (!bus).then(|| "no socket".to_owned());
        match (Seen { new: &new, ended, log: "a line\nthe last one\n", facts: &facts, bus_error }).judge() {
            SwitchEnd::Complete { exit, text } => {
                assert_eq!(text.contains("the last one"), exit != Some(0));
                "complete".to_owned()
            }
            SwitchEnd::Torn { resumable, class, text } => {
                assert!(text.contains("the last one"));
                format!("torn {resumable} {class:?}")
            }
            SwitchEnd::Unchanged { failure } => format!("{} {:?}", failure.code, failure.class),
        }
    }

    /// What the host runs decides, whatever the program's exit code; the code only tells reasons apart.
    #[test]
    fn facts_decide_and_codes_explain() {
        let code = |code| ended(JobResult::ExitCode { code });
        let (killed, slow) = (ended(JobResult::Signal { signal: 9 }), ended(JobResult::Timeout));
        let table = [
            ("new", "new", false, code(0), true, "complete"),
            ("new", "new", false, code(1), true, "complete"),
            ("new", "new", false, code(2), true, "complete"),
            ("new", "new", false, code(4), true, "complete"),
            ("new", "new", false, JobState::Lost, true, "complete"),
            // Services wait to be started.
            ("new", "new", true, code(1), true, "torn true Target"),
            ("new", "new", true, code(0), true, "torn true Target"),
            ("old", "new", false, code(1), true, "torn true Target"),
            ("old", "old", true, code(1), true, "torn true Target"),
            ("old", "new", true, killed.clone(), true, "torn false Transient"),
            ("old", "new", true, JobState::Lost, true, "torn false Transient"),
            ("old", "new", true, slow.clone(), true, "torn false Target"),
            ("old", "new", true, JobState::Running, true, "torn false Target"),
            ("old", "old", false, code(0), true, "activation Target"),
            ("old", "old", false, code(1), true, "activation Target"),
            ("old", "old", false, slow, true, "activation Target"),
            ("old", "old", false, killed, true, "activation Transient"),
            ("old", "old", false, JobState::Lost, true, "activation Transient"),
            // None of these is the target's fault.
            ("old", "old", false, code(1), false, "dbus Transient"),
            ("old", "old", false, code(100), true, "needs-reboot Transient"),
            ("old", "old", false, code(11), true, "locked Transient"),
            // The other switch is half-way, or broke down there.
            ("old", "old", true, code(11), true, "locked Transient"),
            ("old", "third", true, code(11), true, "locked Transient"),
            ("third", "third", false, code(11), true, "locked Transient"),
            // Somebody switched to the very same system meanwhile.
            ("new", "new", false, code(11), true, "complete"),
        ];
        for (running, etc, lists, ended, bus, expected) in table {
            let found = judged(running, etc, lists, &ended, bus);
            assert_eq!(found, expected, "{running} {etc} {lists} {ended:?} {bus}");
        }
    }
}
