//! Owns jobs that systemd keeps: how one becomes a unit, and how its end becomes a record, by `ExecStopPost=`, which
//! runs whatever the program died of.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ExitRecord, JobError, JobResult, JobSpec, RECORD_MAX, read_record, write_record};
use crate::host::command::{own_program, variable};
use crate::host::files::{self, FileError};
use crate::host::systemd::{self, Transient};
use crate::host::units::Kind;
use crate::host::{chain, clock};

/// What systemd makes of a program that it cannot execute (systemd.exec(5), EXIT_EXEC).
const EXIT_EXEC: i32 = 203;
const FILE: &str = "unit";

/// The unit that a job is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitSpec {
    /// Its name, with `.service`.
    pub name: String,
    /// What it may do.
    pub kind: Kind,
    /// Further properties, as `Name=value`.
    pub properties: Vec<OsString>,
    /// What to run when the unit's program has ended, whatever it died of and once that is recorded; empty for nothing.
    pub then: Vec<OsString>,
}

/// What the job's directory says about its unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UnitFile {
    /// The unit's name.
    pub(super) unit: String,
    /// When it was asked for, in milliseconds since boot.
    started_boottime_ms: u64,
}

/// Returns what the job in `dir` says about its unit; `None` if it is none.
pub(super) fn read(dir: &Path) -> Result<Option<UnitFile>, JobError> {
    let bytes = files::read_if_exists(&dir.join(FILE), RECORD_MAX)?;
    let file = bytes.map(|bytes| serde_json::from_slice(&bytes)).transpose();
    file.map_err(|source| JobError::Record { dir: dir.to_owned(), source })
}

/// Starts the job in `spec.dir`, which was just made, as a unit.
///
/// A program that cannot be executed is no error: its record says so.
pub(super) async fn start(spec: &JobSpec, unit: &UnitSpec) -> Result<(), JobError> {
    let file = UnitFile { unit: unit.name.clone(), started_boottime_ms: clock::boottime_ms() };
    let json = serde_json::to_vec(&file);
    let json = json.map_err(|source| JobError::Record { dir: spec.dir.clone(), source })?;
    files::write_atomic(&spec.dir.join(FILE), &json, files::PRIVATE)?;
    let mut properties = unit.properties.clone();
    properties.extend(own_properties(spec)?);
    if !unit.then.is_empty() {
        let mut then = OsString::from("ExecStopPost=-+:");
        then.push(line(unit.then.iter().map(OsString::as_os_str)));
        properties.push(then);
    }
    let transient =
        Transient { unit: &unit.name, kind: unit.kind, properties, env: &spec.env, argv: &spec.argv };
    match systemd::start(&transient).await {
        Ok(()) => Ok(()),
        Err(error) => match read_record(&spec.dir)? {
            Some(_) => Ok(()),
            None => Err(JobError::Unit(error)),
        },
    }
}

fn own_properties(spec: &JobSpec) -> Result<[OsString; 3], FileError> {
    let dir = &spec.dir;
    let own = own_program()?;
    // With all privileges, whatever the unit itself may do; and nothing in it is expanded. The unit does not fail over it:
    // where nobody waits for the end any more, the directory for it may be gone.
    let mut record = OsString::from("ExecStopPost=-+:");
    record.push(line([own.as_os_str(), "record-exit".as_ref(), "--dir".as_ref(), dir.as_os_str()]));
    let limit = OsString::from(format!("RuntimeMaxSec={}ms", spec.limit.as_millis().max(1)));
    // One that was found lost, and is started late all the same, must not run any more.
    let mut not_lost = OsString::from("ConditionPathExists=!");
    not_lost.push(dir.join("lost"));
    Ok([record, limit, not_lost])
}

fn line<'a>(words: impl IntoIterator<Item = &'a OsStr>) -> OsString {
    words.into_iter().map(quoted).collect::<Vec<_>>().join(OsStr::new(" "))
}

/// Writes a word so that systemd reads it as one (systemd.syntax(7), "Quoting"), without specifiers.
fn quoted(word: &OsStr) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut quoted = vec![b'"'];
    for byte in word.as_bytes() {
        match byte {
            b'"' | b'\\' => quoted.extend([b'\\', *byte]),
            b'%' => quoted.extend(b"%%"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'"');
    OsString::from_vec(quoted)
}

/// The role that `ExecStopPost=` plays: writes down how the unit's program has ended, as systemd says in the
/// environment (systemd.exec(5), `$SERVICE_RESULT`).
pub fn record_unit_main(dir: &Path) -> ExitCode {
    match record(dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pullagent record-exit: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn record(dir: &Path) -> Result<(), JobError> {
    let var = |name| variable(name).unwrap_or_default();
    let said = Said { result: var("SERVICE_RESULT"), code: var("EXIT_CODE"), status: var("EXIT_STATUS") };
    let started_boottime_ms = read(dir)?.map_or(0, |file| file.started_boottime_ms);
    let result = said.result(dir.join("stop").exists());
    let ended_boottime_ms = clock::boottime_ms();
    write_record(dir, &ExitRecord { schema: 1, result, started_boottime_ms, ended_boottime_ms })
}

/// What systemd says about the end of a unit.
struct Said {
    result: String,
    code: String,
    status: String,
}

impl Said {
    fn result(&self, stop_was_asked: bool) -> JobResult {
        match (self.result.as_str(), self.code.as_str()) {
            ("timeout", _) => JobResult::Timeout,
            (_, "exited") => match self.status.parse() {
                Ok(EXIT_EXEC) => JobResult::NotStarted { text: "it cannot be executed".into() },
                Ok(code) => JobResult::ExitCode { code },
                Err(_) => JobResult::NotStarted { text: format!("exit status '{}'", self.status) },
            },
            (_, "killed" | "dumped") if stop_was_asked => JobResult::Stopped,
            (_, "killed" | "dumped") => JobResult::Signal { signal: signal_number(&self.status) },
            (result, _) => JobResult::NotStarted { text: format!("systemd says '{result}'") },
        }
    }
}

/// The numbers of signal(7) that end programs; 0 for others.
fn signal_number(name: &str) -> i32 {
    const NAMES: [&str; 15] = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
        "ALRM", "TERM",
    ];
    let place = NAMES.iter().position(|known| *known == name);
    place.and_then(|place| i32::try_from(place + 1).ok()).unwrap_or(0)
}

/// How much longer than its program a unit may live, so that the program's own limit comes first.
pub const MARGIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_says_becomes_a_result() {
        let not_started = |text: &str| JobResult::NotStarted { text: text.into() };
        let table = [
            ("success", "exited", "0", false, JobResult::ExitCode { code: 0 }),
            ("exit-code", "exited", "4", false, JobResult::ExitCode { code: 4 }),
            ("exit-code", "exited", "4", true, JobResult::ExitCode { code: 4 }),
            ("exit-code", "exited", "203", false, not_started("it cannot be executed")),
            ("signal", "killed", "KILL", false, JobResult::Signal { signal: 9 }),
            ("core-dump", "dumped", "SEGV", false, JobResult::Signal { signal: 11 }),
            ("oom-kill", "killed", "KILL", false, JobResult::Signal { signal: 9 }),
            ("success", "killed", "TERM", true, JobResult::Stopped),
            ("success", "killed", "TERM", false, JobResult::Signal { signal: 15 }),
            ("timeout", "killed", "TERM", false, JobResult::Timeout),
            ("timeout", "killed", "KILL", true, JobResult::Timeout),
            ("resources", "", "", false, not_started("systemd says 'resources'")),
        ];
        for (result, code, status, stopped, expected) in table {
            let said = Said { result: result.into(), code: code.into(), status: status.into() };
            assert_eq!(said.result(stopped), expected, "{result} {code} {status}");
        }
    }

    #[test]
    fn a_word_stays_one_word() {
        let table = [("/nix/store/x", r#""/nix/store/x""#), (r#"a "b" \c 5%"#, r#""a \"b\" \\c 5%%""#)];
        for (word, expected) in table {
            assert_eq!(quoted(word.as_ref()), OsString::from(expected));
        }
    }
}
