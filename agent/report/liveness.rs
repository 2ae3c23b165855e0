//! Who wrote a status, and whether that process still lives. A status file outlives its writer: whoever reads it
//! has to ask.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// How much of `/proc/<pid>/stat` is read, in bytes; the line has about 400.
const STAT_MAX: u64 = 4096;

/// The process that wrote a status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// The program's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When the process started, in clock ticks since boot; tells it from a later one with the same id.
    pub started_ticks: Option<u64>,
    /// When the status was written.
    pub written_at: u64,
    /// By when a healthy agent writes again; `null`: there is nothing to write about.
    pub due_at: Option<u64>,
}

/// What became of the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Life {
    /// It lives, and speaks when it should.
    Running,
    /// The process is there but has not written for longer than it should.
    Silent,
    /// The process is gone.
    Dead,
}

impl Agent {
    /// Returns this very process.
    pub fn this_process() -> Agent {
        let pid = std::process::id();
        Agent {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid,
            started_ticks: stat(pid).map(|s| s.started_ticks),
            written_at: 0,
            due_at: None,
        }
    }
}

/// Says what became of `agent` at the time `now`.
pub fn life(agent: &Agent, now: u64) -> Life {
    if !is_alive(agent) {
        Life::Dead
    } else if agent.due_at.is_some_and(|due| now > due) {
        Life::Silent
    } else {
        Life::Running
    }
}

fn is_alive(agent: &Agent) -> bool {
    match (stat(agent.pid), agent.started_ticks) {
        (Some(stat), then) => !stat.ended && then.is_none_or(|then| stat.started_ticks == then),
        // Gone, or hidden from us by `hidepid`: a signal that isn't sent tells which.
        (None, _) => {
            let pid = i32::try_from(agent.pid).ok().and_then(rustix::process::Pid::from_raw);
            let probe = pid.map(rustix::process::test_kill_process);
            matches!(probe, Some(Ok(()) | Err(rustix::io::Errno::PERM)))
        }
    }
}

/// What the kernel says of a process.
struct Stat {
    /// It ended, and nobody has waited for it yet.
    ended: bool,
    started_ticks: u64,
}

/// Reads fields 3 and 22 of `/proc/<pid>/stat` (proc(5)); the second field may itself hold spaces and parentheses.
fn stat(pid: u32) -> Option<Stat> {
    use std::io::Read;
    let mut text = String::new();
    let file = std::fs::File::open(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    file.take(STAT_MAX).read_to_string(&mut text).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    Some(Stat { ended, started_ticks: fields.nth(18)?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test may start a process")]
    fn a_writer_is_known_by_its_id_and_its_start() {
        let me = Agent { written_at: 100, due_at: Some(200), ..Agent::this_process() };
        assert!(me.started_ticks.is_some());
        assert_eq!(life(&me, 150), Life::Running);
        assert_eq!(life(&me, 201), Life::Silent);
        let reused = Agent { started_ticks: me.started_ticks.map(|t| t + 1), ..me.clone() };
        assert_eq!(life(&reused, 150), Life::Dead);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        while stat(pid).is_some_and(|s| !s.ended) {
            std::thread::yield_now();
        }
        assert_eq!(life(&Agent { pid, started_ticks: None, ..me.clone() }, 150), Life::Dead, "a zombie");
        child.wait().unwrap();
        let never = Agent { pid: u32::MAX, ..me };
        assert_eq!(life(&never, 150), Life::Dead);
    }
}
