//! Looking at, and killing, an import child that runs meanwhile. Finds it by its arguments.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How often a child is looked at.
const PERIOD: Duration = Duration::from_millis(1);

/// A thread that watches until it is dropped or asked.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Watch {
    /// Watches the memory of the child that works below `state`.
    pub fn memory(state: &Path) -> Watch {
        Watch::start(state, |pid, peak| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = line.and_then(|text| text.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0);
            peak.max(1024 * kib)
        })
    }

    /// Kills the child `delay` after it began.
    pub fn kill(state: &Path, delay: Duration) -> Watch {
        Watch::start(state, move |pid, killed| {
            if killed == 0 {
                std::thread::sleep(delay);
            }
            let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            killed + u64::from(kill_process(pid, Signal::KILL).is_ok())
        })
    }

    fn start(state: &Path, look: impl Fn(u32, u64) -> u64 + Send + 'static) -> Watch {
        let (stop, state) = (Arc::new(AtomicBool::new(false)), state.to_owned());
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = 0;
            while !stopped.load(Ordering::Relaxed) {
                seen = child(&state).map_or(seen, |pid| look(pid, seen));
                std::thread::sleep(PERIOD);
            }
            seen
        });
        Watch { stop, thread: Some(thread) }
    }

    /// Returns the most memory that was resident at once.
    pub fn peak_bytes(mut self) -> u64 {
        self.end()
    }

    fn end(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(0, |thread| thread.join().unwrap())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns the process whose arguments are `import` and a job below `state`.
fn child(state: &Path) -> Option<u32> {
    std::fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let cmdline = std::fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = cmdline.split(|byte| *byte == 0).collect();
        let job = PathBuf::from(String::from_utf8(words.get(2)?.to_vec()).ok()?);
        (words[1] == b"import" && job.starts_with(state)).then_some(pid)
    })
}
