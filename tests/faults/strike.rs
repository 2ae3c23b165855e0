//! Strikes a machine at the moment that a case names: it reads the journal from outside as it grows, and kills by control
//! group, so that nothing on the machine has a say in it.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::machine::{Machine, Step, Verb};
use crate::edges::Fault;
use crate::host::LIMIT;

/// The pause between two looks at the journal; a record takes longer to be synced.
const LOOK: Duration = Duration::from_micros(300);
/// Whatever of the agent's runs on the host for a deployment, by the beginning of its unit's name.
const WORK: [&str; 3] = ["pullagent-switch-", "pullagent-root-", "pullagent-guard-"];

/// What has been read of a machine's journal.
#[derive(Debug, Default)]
pub struct Journal {
    offset: u64,
    /// All records, oldest first.
    pub records: Vec<Value>,
}

impl Journal {
    /// Reads what was added since the last look. What is no whole line yet is left for the next.
    pub fn look(&mut self, machine: &Machine) {
        let path = machine.outside("/var/lib/pullagent/journal");
        let Ok(mut file) = File::open(path) else { return };
        if file.metadata().unwrap().len() < self.offset {
            *self = Journal::default();
        }
        file.seek(SeekFrom::Start(self.offset)).unwrap();
        let mut text = Vec::new();
        file.read_to_end(&mut text).unwrap();
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            // Eight digits of a checksum and a space come first.
            self.records.push(serde_json::from_slice(&line[9..]).unwrap());
        }
        self.offset += whole as u64;
    }

    /// Returns the number of the last record.
    pub fn last(&self) -> u64 {
        self.records.last().map_or(0, |record| record["seq"].as_u64().unwrap())
    }

    /// Returns the names of the events after a record, and what they say.
    pub fn since(&self, seq: u64) -> impl Iterator<Item = (&str, &Value)> {
        let later = self.records.iter().filter(move |record| record["seq"].as_u64() > Some(seq));
        later.map(|record| (record["event"]["event"].as_str().unwrap_or_default(), &record["event"]))
    }

    /// Waits for an event of this name after a record, and returns it.
    pub fn wait_for(&mut self, machine: &Machine, seq: u64, name: &str) -> Value {
        let begun = Instant::now();
        loop {
            self.look(machine);
            if let Some((_, event)) = self.since(seq).find(|(event, _)| *event == name) {
                return event.clone();
            }
            assert!(begun.elapsed() < LIMIT, "no '{name}' but {:?}", self.names(seq));
            std::thread::sleep(LOOK);
        }
    }

    /// Returns the names of the events after a record.
    pub fn names(&self, seq: u64) -> Vec<&str> {
        self.since(seq).map(|(name, _)| name).collect()
    }
}

/// Returns how often a step was begun, of all systems.
pub fn steps_begun(machine: &Machine, verb: Verb, step: Step) -> usize {
    let log = fs::read_to_string(machine.outside("/var/log/switch.log")).unwrap_or_default();
    let words = |line: &str| {
        let mut words = line.split(' ').skip(1);
        (words.next() == Some(verb.word()) && words.next() == Some(step.word())).then_some(())
    };
    log.lines().filter_map(words).count()
}

/// The control groups of the agent and of what it starts, on a machine that is on.
#[derive(Debug)]
pub struct Groups {
    slice: PathBuf,
}

impl Groups {
    /// Finds them.
    pub fn of(machine: &Machine) -> Groups {
        let groups = machine.control_groups().iter();
        let slice = groups.filter_map(|group| find(group, "pullagent.service")).find(|found| is_v2(found));
        Groups { slice: slice.expect("the agent runs").parent().unwrap().to_owned() }
    }

    /// Kills all processes of the agent's unit.
    fn kill_agent(&self) {
        kill(&self.slice.join("pullagent.service"));
    }

    /// Returns the groups in which something runs for a deployment.
    fn work(&self) -> Vec<PathBuf> {
        let units = fs::read_dir(&self.slice).unwrap().flatten().map(|entry| entry.path());
        let ours = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy();
            WORK.iter().any(|prefix| name.starts_with(prefix)) && name.ends_with(".service")
        };
        units.filter(ours).filter(|group| runs(group)).collect()
    }

    /// Waits until something runs for a deployment; nothing if the journal goes on before.
    fn wait_for_work(&self, machine: &Machine, journal: &mut Journal) -> Vec<PathBuf> {
        let seq = journal.last();
        loop {
            let work = self.work();
            journal.look(machine);
            if !work.is_empty() || journal.last() != seq {
                return work;
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Strikes at once, or as soon as there is something to be killed; returns whether there was.
pub fn strike(machine: &Machine, groups: &Groups, journal: &mut Journal, fault: Fault) -> bool {
    match fault {
        // What keeps it dead is slower than systemd is willing to wait before it starts it again.
        Fault::KillAgent | Fault::NoAgent => groups.kill_agent(),
        Fault::KillSwitch | Fault::KillBoth => {
            let work = groups.wait_for_work(machine, journal);
            if fault == Fault::KillBoth {
                groups.kill_agent();
            }
            work.iter().for_each(|group| kill(group));
            return !work.is_empty();
        }
        Fault::PowerCut => machine.power_cut(),
    }
    true
}

/// Kills every process of a group and of those below it, at once.
fn kill(group: &Path) {
    // It may have ended by itself.
    drop(fs::write(group.join("cgroup.kill"), "1"));
}

fn runs(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}

fn is_v2(group: &Path) -> bool {
    group.join("cgroup.kill").exists()
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let below = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let below: Vec<PathBuf> = below.collect();
    let here = below.iter().find(|path| path.file_name().is_some_and(|n| n == name)).cloned();
    here.or_else(|| below.iter().find_map(|path| find(path, name)))
}
