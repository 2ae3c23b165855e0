//! Owns how the host's journal is read: by `journalctl`, as JSON. What is asked and what it means is decided elsewhere.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use super::command::{Command, CommandError, Output};

/// How long `journalctl` may search; a large journal on a slow disk takes its time.
const READ_TIME: Duration = Duration::from_secs(60);
/// How long it is followed at most.
pub const FOLLOW_TIME: Duration = Duration::from_secs(24 * 3600);
/// How much it may print.
const SAID_MAX: usize = 32 << 20;
/// The longest record that is understood while it is followed, in bytes.
const RECORD_MAX: usize = 1 << 20;
/// What is asked of each record.
const FIELDS: &str =
    "MESSAGE,PRIORITY,_SYSTEMD_UNIT,_PID,UNIT,PULLAGENT_EVENT,PULLAGENT_DEPLOYMENT,PULLAGENT_REVISION";
/// What `journalctl` says to a user who may not read what other users and the system log (systemd 252 and 257).
const BLIND: [&str; 2] = ["not seeing messages from other users", "insufficient permissions"];

/// One record of the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// When it was taken down, microseconds since 1970.
    pub at_us: u64,
    /// As in syslog(3): 3 is an error, 4 a warning, 6 information.
    pub priority: u8,
    /// The unit whose process said it, by the journal's own word.
    pub unit: String,
    /// The unit that it is about, where systemd says it.
    pub about: Option<String>,
    /// What was said.
    pub message: String,
    /// `PULLAGENT_EVENT`.
    pub event: Option<String>,
    /// `PULLAGENT_DEPLOYMENT`.
    pub deployment: Option<String>,
    /// `PULLAGENT_REVISION`.
    pub revision: Option<String>,
}

/// What to look for.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// `FIELD=value`, all of which must hold, or those after the next `+` (journalctl(1)).
    pub matches: Vec<String>,
    /// From when on, unix seconds.
    pub since: Option<u64>,
    /// Until when, unix seconds, that second included.
    pub until: Option<u64>,
    /// How many records at most; the newest.
    pub lines: usize,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Oldest first.
    pub records: Vec<Record>,
    /// Whether this user does not see all there is.
    pub is_partial: bool,
}

/// Looks into the journal of the host at `root`.
///
/// # Errors
/// There is no `journalctl`, it took too long, or it can't read the journal.
pub async fn read(root: &Path, query: &Query) -> Result<Found, CommandError> {
    let mut command = journalctl(root).arg(format!("--lines={}", query.lines));
    command = command.args(query.since.map(|at| format!("--since=@{at}")));
    // It stops at the beginning of the second.
    command = command.args(query.until.map(|at| format!("--until=@{}", at.saturating_add(1))));
    let command = command.args(&query.matches).time_limit(READ_TIME).stdout_max(SAID_MAX);
    match command.run().await {
        Ok(Output { stdout, stderr }) => {
            let records = stdout.split(|b| *b == b'\n').filter_map(parse).collect();
            Ok(Found { records, is_partial: is_blind(&stderr) })
        }
        Err(CommandError::Failed { stderr, .. }) if is_blind(&stderr) => {
            Ok(Found { records: Vec::new(), is_partial: true })
        }
        Err(error) => Err(error),
    }
}

/// Hands each record that matches to `hear`, from the second `since` on and as it comes, until `hear` returns `false` or
/// [`FOLLOW_TIME`] is over.
///
/// # Errors
/// As [`read`].
pub async fn follow(
    root: &Path,
    matches: &[&str],
    since: u64,
    mut hear: impl FnMut(Record) -> bool,
) -> Result<(), CommandError> {
    let command = journalctl(root).args(["--follow".to_owned(), format!("--since=@{since}")]).args(matches);
    let (mut line, mut goes_on) = (Vec::new(), true);
    let ended = command.time_limit(FOLLOW_TIME).run_heard(|piece| {
        for byte in piece {
            match byte {
                b'\n' => {
                    goes_on = goes_on && parse(&line).is_none_or(&mut hear);
                    line.clear();
                }
                byte if line.len() < RECORD_MAX => line.push(*byte),
                _ => {}
            }
        }
        goes_on
    });
    match ended.await {
        Err(CommandError::TooMuchOutput { .. } | CommandError::TimedOut { .. }) => Ok(()),
        other => other,
    }
}

fn journalctl(root: &Path) -> Command {
    let command = Command::new("journalctl")
        .args(["--no-pager", "--all", "--output=json"])
        .arg(format!("--output-fields={FIELDS}"));
    if root == Path::new("/") { command } else { command.arg(format!("--root={}", root.display())) }
}

fn is_blind(stderr: &str) -> bool {
    BLIND.iter().any(|said| stderr.contains(said))
}

/// Takes one record apart; `None`: it is none.
fn parse(line: &[u8]) -> Option<Record> {
    let fields: Map<String, Value> = serde_json::from_slice(line).ok()?;
    let text = |name: &str| fields.get(name).and_then(text);
    Some(Record {
        at_us: text("__REALTIME_TIMESTAMP")?.parse().ok()?,
        priority: text("PRIORITY").and_then(|p| p.parse().ok()).unwrap_or(6),
        unit: text("_SYSTEMD_UNIT").unwrap_or_default(),
        about: text("UNIT").filter(|_| text("_PID").as_deref() == Some("1")),
        message: text("MESSAGE").unwrap_or_default(),
        event: text("PULLAGENT_EVENT"),
        deployment: text("PULLAGENT_DEPLOYMENT"),
        revision: text("PULLAGENT_REVISION"),
    })
}

/// A field is a text, a list of bytes where it is no UTF-8, or a list of those where it was given several times.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) if parts.iter().all(Value::is_u64) => {
            let bytes: Vec<u8> = parts.iter().filter_map(|b| u8::try_from(b.as_u64()?).ok()).collect();
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        Value::Array(several) => several.first().and_then(text),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As systemd 257 prints them.
    #[test]
    fn records_are_taken_apart() {
        let line = br#"{"__CURSOR":"s=4","__REALTIME_TIMESTAMP":"1795201331123456","__MONOTONIC_TIMESTAMP":"7","_BOOT_ID":"5","PRIORITY":"4","_PID":"321","_SYSTEMD_UNIT":"pullagent.service","PULLAGENT_EVENT":"rolled-back","PULLAGENT_DEPLOYMENT":"7-d4e5f6a","MESSAGE":"rolled back d4e5f6a"}"#;
        let record = parse(line).unwrap();
        assert_eq!((record.at_us, record.priority), (1_795_201_331_123_456, 4));
        assert_eq!(
            (record.unit.as_str(), record.message.as_str()),
            ("pullagent.service", "rolled back d4e5f6a")
        );
        assert_eq!(
            (record.event.as_deref(), record.deployment.as_deref()),
            (Some("rolled-back"), Some("7-d4e5f6a"))
        );
        let init = br#"{"__REALTIME_TIMESTAMP":"5","_PID":"1","UNIT":"web.service","_SYSTEMD_UNIT":"init.scope","MESSAGE":"web.service: Failed with result 'exit-code'."}"#;
        assert_eq!(parse(init).unwrap().about.as_deref(), Some("web.service"));
        let forged = br#"{"__REALTIME_TIMESTAMP":"5","_PID":"99","UNIT":"web.service","MESSAGE":"x"}"#;
        assert_eq!(parse(forged).unwrap().about, None, "only systemd speaks about units");
        let bytes = br#"{"__REALTIME_TIMESTAMP":"5","MESSAGE":[104,255,105],"PRIORITY":["3","4"]}"#;
        let record = parse(bytes).unwrap();
        assert_eq!((record.message.as_str(), record.priority), ("h\u{fffd}i", 3));
        for none in [&b""[..], b"-- No entries --", b"{}", b"[1]", br#"{"__REALTIME_TIMESTAMP":"x"}"#] {
            assert_eq!(parse(none), None);
        }
    }
}
