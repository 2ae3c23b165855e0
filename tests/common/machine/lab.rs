//! The place of one machine and its forge: namespaces, a directory and control groups of their own. Knows how to get
//! programs in there and how to take everything away; not what runs in it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use super::image::Image;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/host");

/// What a directory of machines and a control group are called: `<prefix><process id>-<number>`.
const GROUP_PREFIX: &str = "pullagent-test-";

/// Namespaces, directory and control groups; all of it goes with the value, or with the test's process.
#[derive(Debug)]
pub struct Lab {
    /// Below it: `root` is the machine's `/`, `srv` the forge's `/srv`.
    pub dir: PathBuf,
    /// The control groups that the machine's own are below, one of each hierarchy.
    pub groups: Vec<PathBuf>,
    keeper: Child,
    init: i32,
    _image: Image,
}

impl Lab {
    /// Makes the place of a machine that has never been on.
    pub fn new() -> Lab {
        let image = Image::get();
        sweep(&image.cache);
        let name = unique_name();
        let dir = image.cache.join("machines").join(&name);
        for below in ["root", "upper", "work", "forge", "srv"] {
            fs::create_dir_all(dir.join(below)).unwrap();
        }
        let groups = hierarchies().into_iter().map(|h| h.join(format!("{GROUP_PREFIX}{name}"))).collect();
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--net", "--ipc", "--pid", "--fork", "--mount-proc"])
            .arg(format!("{SCRIPTS}/lab"))
            .args([&image.root, &dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.join("lab.log")).unwrap())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let log = fs::read_to_string(dir.join("lab.log")).unwrap();
        assert_eq!(ready, "ready\n", "the test machine has no place to be: {log}");
        let init = children(keeper.id().cast_signed())[0];
        let lab = Lab { dir, groups, keeper, init, _image: image };
        lab.groups.iter().for_each(|group| fs::create_dir(group).unwrap());
        lab
    }

    /// Returns a program of this machine, run in the lab.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-m", "-n", "-i", "-p", "--", program]);
        command.stdin(Stdio::null());
        command
    }

    /// Returns a program of the forge, run there.
    pub fn forge_command(&self, program: &str) -> Command {
        let mut command = self.command("chroot");
        command.arg(self.dir.join("forge")).args(["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin", program]);
        command
    }

    /// Returns a program of the test machine, run in its root directory while it is off.
    pub fn offline_command(&self, program: &str) -> Command {
        let mut command = self.command("chroot");
        command.arg(self.dir.join("root")).args(["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin", program]);
        command
    }

    /// Boots the machine; the child lives until the machine is off, through all its reboots.
    pub fn power_on(&self) -> Child {
        let console = fs::File::options().append(true).create(true).open(self.console()).unwrap();
        let mut power = self.command(&format!("{SCRIPTS}/power"));
        power.arg(self.dir.join("root")).args(&self.groups);
        power.stdout(console.try_clone().unwrap()).stderr(console).spawn().unwrap()
    }

    /// Returns the file that the machine's console is written to.
    pub fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// Says whether something in the lab or the forge listens on a TCP port, over IPv4.
    pub fn listens(&self, port: u16) -> bool {
        let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", self.init)).unwrap();
        let (port, listening) = (format!(":{port:04X}"), "0A");
        sockets.lines().any(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            words.len() > 3 && words[1].ends_with(&port) && words[3] == listening
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _gone = kill_process(Pid::from_raw(self.init).unwrap(), Signal::KILL).is_err();
        let _reaped = self.keeper.wait().is_ok();
        self.groups.iter().for_each(|group| remove_group(group));
        drop(fs::remove_dir_all(&self.dir));
    }
}

/// Returns the process ids of a process's children.
pub fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists =
        tasks.flatten().map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

fn unique_name() -> String {
    static MACHINES: AtomicU32 = AtomicU32::new(0);
    format!("{}-{}", std::process::id(), MACHINES.fetch_add(1, Ordering::Relaxed))
}

/// Returns where processes are put into groups: version 2, and systemd's own of version 1 beside it. Where those are
/// not to be had, systemd-nspawn could not run either.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let ours = mounts
        .filter(|m| m[2] == "cgroup2" || (m[2] == "cgroup" && m[3].split(',').any(|o| o == "name=systemd")));
    ours.map(|m| PathBuf::from(m[1])).collect()
}

/// Removes what tests left behind that were killed.
fn sweep(cache: &Path) {
    let gone = |name: &str| {
        let pid = name.split('-').next().and_then(|pid| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    };
    for (name, path) in entries(&cache.join("machines")) {
        if gone(&name) {
            drop(fs::remove_dir_all(path));
        }
    }
    for (name, path) in hierarchies().iter().flat_map(|hierarchy| entries(hierarchy)) {
        if name.strip_prefix(GROUP_PREFIX).is_some_and(gone) {
            remove_group(&path);
        }
    }
}

fn entries(dir: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().map(|e| (e.file_name().to_string_lossy().into_owned(), e.path())).collect()
}

/// Control groups are removed from the leaves up; their files cannot be.
fn remove_group(group: &Path) {
    for (_, path) in entries(group) {
        if path.is_dir() {
            remove_group(&path);
        }
    }
    drop(fs::remove_dir(group));
}
