//! Looks at processes from outside, and finds those that a test started by a word that only they have.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The processes that have all of `words` among their arguments. One of them must be unique to the test.
pub fn with_arguments(words: &[&OsStr]) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let cmdline = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments: Vec<&[u8]> = cmdline.split(|b| *b == 0).collect();
        if words.iter().all(|word| arguments.contains(&word.as_bytes())) {
            found.push(pid);
        }
    }
    found
}

/// Tells whether a process runs; one that ended and was not reaped does not.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim().is_empty() && !rest.trim().starts_with('Z'))
}

/// Kills one process as `kill -9` does.
pub fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

/// Waits until `holds`, at most half a minute; `what` is said if it never does.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(30), "never happened: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Reads the process id that a script has written to `path`, as soon as it has.
pub fn pid_in(path: &Path) -> i32 {
    let mut pid = None;
    wait_until(&format!("a process id in {}", path.display()), || {
        pid = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
        pid.is_some()
    });
    pid.unwrap()
}
