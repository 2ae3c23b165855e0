//! Ends what outlives the agent by design: the guard's timers, the keeper of a switch, the switch itself. Only
//! processes that run the agent's program, a copy of it, or a system's script, on the demo's directory, are touched.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, getpid, kill_process};

/// Tells the processes of one world from all others.
#[derive(Debug)]
pub struct Leftovers {
    /// The world's directory.
    pub dir: PathBuf,
    /// The agent's program.
    pub agent: PathBuf,
}

impl Leftovers {
    /// Kills them all.
    pub fn kill(&self) {
        for pid in self.find() {
            // It may have ended a moment ago.
            kill_process(pid, Signal::KILL).ok();
        }
    }

    fn find(&self) -> impl Iterator<Item = Pid> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
        pids.filter(|pid| *pid != getpid() && self.belongs(*pid))
    }

    fn belongs(&self, pid: Pid) -> bool {
        let process = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
        let Ok(program) = std::fs::read_link(process.join("exe")) else { return false };
        let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let mut arguments =
            line.split(|byte| *byte == 0).map(|word| Path::new(std::ffi::OsStr::from_bytes(word)));
        let script =
            arguments.clone().nth(1).filter(|script| script.ends_with("bin/switch-to-configuration"));
        program.starts_with(&self.dir)
            || script.is_some_and(|script| script.starts_with(&self.dir))
            || program == self.agent && arguments.any(|argument| argument.starts_with(&self.dir))
    }
}
