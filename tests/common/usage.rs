//! What a process uses, read from outside: processor time, wake-ups, memory, threads, descriptors, system calls. All of it
//! from `/proc` (proc(5)), so that a test can look at the real program without a word from it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How often a process is looked at whose peak is wanted.
const PERIOD: Duration = Duration::from_millis(1);
/// strace needs a moment to attach, and says nothing when it has.
const ATTACHES_WITHIN: Duration = Duration::from_millis(500);

/// What a process has used so far, all its threads together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cpu_micros: f64,
    /// How often it went to sleep by itself: it has been woken as often.
    pub wakeups: u64,
    /// Bytes that it caused to be written to a disk.
    pub written: u64,
}

impl Usage {
    /// Returns what the process has used, without threads that have ended.
    pub fn of(pid: u32) -> Usage {
        let mut usage = Usage::default();
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
            let read = |file| fs::read_to_string(task.path().join(file)).unwrap_or_default();
            let nanos = read("schedstat").split_whitespace().next().and_then(|n| n.parse().ok());
            usage.cpu_micros += nanos.unwrap_or(0.0) / 1000.0;
            usage.wakeups += field(&read("status"), "voluntary_ctxt_switches:");
        }
        usage.written =
            field(&fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default(), "write_bytes:");
        usage
    }

    pub fn since(self, before: Usage) -> Usage {
        Usage {
            cpu_micros: self.cpu_micros - before.cpu_micros,
            wakeups: self.wakeups.saturating_sub(before.wakeups),
            written: self.written - before.written,
        }
    }
}

/// What a process holds at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holding {
    pub rss_kib: u64,
    /// Its share of what it has in common with others counted as a part.
    pub pss_kib: u64,
    /// Memory that is no file's.
    pub anonymous_kib: u64,
    pub threads: usize,
    pub files: usize,
}

impl Holding {
    pub fn of(pid: u32) -> Holding {
        let read = |file| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let rollup = read("smaps_rollup");
        let status = read("status");
        Holding {
            rss_kib: field(&rollup, "Rss:"),
            pss_kib: field(&rollup, "Pss:"),
            anonymous_kib: field(&status, "RssAnon:"),
            threads: usize::try_from(field(&status, "Threads:")).unwrap(),
            files: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count),
        }
    }
}

/// Returns the number behind `name` in a file of `/proc`; 0 if it is not there.
pub fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
    value.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Processor time of the children of this process that have ended and that it has waited for, with their own such children;
/// the kernel counts it in hundredths of a second.
pub fn children_cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    // The fields are counted from behind the name, which may hold anything; cutime and cstime are the 16th and 17th.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[13..15].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

/// The most that some processes held at once, by what was seen of them every millisecond.
#[derive(Debug, Clone, Copy, Default)]
pub struct Most {
    /// By the kernel's own count of one process, so it misses nothing.
    pub rss_kib: u64,
    pub anonymous_kib: u64,
}

/// Watches a process and those that it starts, which come and go, until it is asked.
pub struct Peak {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Most>>,
}

impl Peak {
    /// Watches each of them that `wanted` takes by its arguments; the one that held most counts.
    pub fn below(root: u32, wanted: impl Fn(&[&[u8]]) -> bool + Send + 'static) -> Peak {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut most = Most::default();
            while !stopped.load(Ordering::Relaxed) {
                for pid in family(root).into_iter().filter(|pid| is_one(*pid, &wanted)) {
                    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                    most.rss_kib = most.rss_kib.max(field(&status, "VmHWM:"));
                    most.anonymous_kib = most.anonymous_kib.max(field(&status, "RssAnon:"));
                }
                std::thread::sleep(PERIOD);
            }
            most
        });
        Peak { stop, thread: Some(thread) }
    }

    /// Watches the import children that `root` starts.
    pub fn of_imports(root: u32) -> Peak {
        Peak::below(root, |arguments| arguments.get(1) == Some(&&b"import"[..]))
    }

    pub fn end(mut self) -> Most {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Peak {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Returns a process and those that it has started, and those that they have.
fn family(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        for task in fs::read_dir(format!("/proc/{}/task", found[next])).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        next += 1;
    }
    found
}

fn is_one(pid: u32, wanted: &impl Fn(&[&[u8]]) -> bool) -> bool {
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    wanted(&cmdline.split(|b| *b == 0).collect::<Vec<_>>())
}

/// Counts the system calls of a process and its threads; `None` if there is no strace or it must not look.
pub struct Strace {
    child: Child,
    report: tempfile::NamedTempFile,
}

impl Strace {
    pub fn attach(pid: u32) -> Option<Strace> {
        let report = tempfile::NamedTempFile::new().unwrap();
        let mut strace = Command::new("strace");
        strace.args(["-c", "-f", "-q", "-p", &pid.to_string(), "-o"]).arg(report.path());
        let mut child = strace.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        std::thread::sleep(ATTACHES_WITHIN);
        let attached = child.try_wait().unwrap().is_none() && is_traced(pid);
        attached.then_some(Strace { child, report })
    }

    /// Lets the process go, and returns how many calls it made.
    pub fn end(mut self) -> u64 {
        kill_process(Pid::from_child(&self.child), Signal::INT).unwrap();
        self.child.wait().unwrap();
        let report = fs::read_to_string(self.report.path()).unwrap();
        let total =
            report.lines().find(|line| line.ends_with(" total")).unwrap_or_else(|| panic!("{report}"));
        total.split_whitespace().nth(3).unwrap().parse().unwrap()
    }
}

fn is_traced(pid: u32) -> bool {
    let status = Path::new("/proc").join(pid.to_string()).join("status");
    field(&fs::read_to_string(status).unwrap_or_default(), "TracerPid:") != 0
}
