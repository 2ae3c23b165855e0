//! Ends what outlives the agent by design: the guard's timers and a switch under way. Only processes whose
//! program, or whose script, is a file below the demo's directory are touched.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// Kills all processes that run a program of the world in `dir`.
pub fn kill(dir: &Path) {
    for pid in processes().filter(|pid| belongs(*pid, dir)) {
        // It may have ended a moment ago.
        kill_process(pid, Signal::KILL).ok();
    }
}

/// Returns how many processes run a program of the world in `dir`.
pub fn count(dir: &Path) -> usize {
    processes().filter(|pid| belongs(*pid, dir)).count()
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}

fn belongs(pid: Pid, dir: &Path) -> bool {
    let process = Path::new("/proc").join(pid.as_raw_nonzero().to_string());
    let program = std::fs::read_link(process.join("exe"));
    program.is_ok_and(|program| program.starts_with(dir)) || runs_script(&process, dir)
}

/// Tells whether a shell runs a `switch-to-configuration` of the world's store.
fn runs_script(process: &Path, dir: &Path) -> bool {
    let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
    let script = line.split(|byte| *byte == 0).nth(1).unwrap_or_default();
    let script = Path::new(std::str::from_utf8(script).unwrap_or_default());
    script.starts_with(dir) && script.ends_with("bin/switch-to-configuration")
}
