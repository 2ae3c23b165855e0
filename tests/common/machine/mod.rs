//! A whole machine to test on: Debian 13 with real systemd as PID 1, a multi-user, sandboxed Nix, and a NixOS-like
//! system that is built, booted and switched in it; beside it, a forge that serves Git over HTTPS and SSH. It boots in
//! about a second from an overlay on a cached image, and goes with the value.
//!
//! ```text
//! let Some(machine) = Machine::boot() else { return };          // None for those who are not root
//! let old = machine.install(&System::new("old").service("web", "ExecStart=/usr/bin/sleep infinity"));
//! let new = machine.build(&System::new("new").fault(Verb::Test, Step::CurrentSystem, Fault::Hang));
//! machine.spawn(&format!("{new}/bin/switch-to-configuration test"));
//! machine.wait_for_step(&new, Verb::Test, Step::CurrentSystem); // `/etc` is new, `/run/current-system` is old
//! machine.power_cut();
//! assert_eq!(machine.view().running.as_deref(), Some(old.as_str()));
//! ```
//!
//! [`Managed`] is such a machine with pullagent on it, its units as the module installs them.
//!
//! The machine has a network of two: itself (10.80.0.2) and the forge (10.80.0.1, `git.example.org`). The forge runs
//! in the same place but beside the machine, not in it: it must go on serving while the machine reboots or loses its
//! power, and must not count among the machine's units and processes.
//!
//! A reboot is seen inside as on hardware: systemd-nspawn gives each boot an id of its own in
//! `/proc/sys/kernel/random/boot_id`. (A unit with `ProcSubset=pid` cannot read it.) The clocks since boot go on,
//! because they are the kernel's.

mod agent;
mod forge;
pub mod image;
mod lab;
mod signer;
mod switching;
mod system;
mod units;

use std::cell::{Cell, OnceCell, RefCell};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process, kill_process_group};

pub use agent::{Managed, Via, remote, settings};
pub use forge::{Forge, Server};
use lab::{Lab, children};
pub use signer::{Signer, commit};
pub use switching::{View, build_command, switch_command};
pub use system::{Fault, HOSTNAME, Step, System, Verb};
pub use units::{GATEWAY, RECONCILER, WEBHOOKS, described, render, transient};

/// How long a command in the machine may take unless it is given another limit.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);
/// How long the machine may take to boot or to go off; a loaded machine is slow.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// The machine, on or off.
#[derive(Debug)]
pub struct Machine {
    lab: Rc<Lab>,
    power: RefCell<Option<Child>>,
    init: Cell<i32>,
    forge: OnceCell<Forge>,
}

impl Machine {
    /// Boots a machine on which nothing is installed yet. Returns nothing where these tests are left out: for users
    /// other than root, and with `PULLAGENT_TEST_HOST=0`. Fails where the machine cannot run.
    pub fn boot() -> Option<Machine> {
        let tools = Command::new("systemd-nspawn").arg("--version").output().is_ok();
        match wanted(std::env::var("PULLAGENT_TEST_HOST").ok().as_deref(), geteuid().is_root(), tools) {
            Ok(true) => {}
            Ok(false) => {
                println!("test host: left out; it needs root and is not wanted with PULLAGENT_TEST_HOST=0");
                return None;
            }
            Err(reason) => panic!("{reason}"),
        }
        let lab = Rc::new(Lab::new());
        let (power, init) = (RefCell::new(None), Cell::new(0));
        let machine = Machine { lab, power, init, forge: OnceCell::new() };
        let id = read_text(Path::new("/proc/sys/kernel/random/uuid")).replace('-', "");
        machine.offline(&format!("rm -f /etc/machine-id; echo {} > /etc/machine-id", id.trim()));
        machine.power_on();
        Some(machine)
    }

    /// Returns the directory of the machine's disk and its forge, out here.
    pub fn directory(&self) -> &Path {
        &self.lab.dir
    }

    /// Returns the control groups that the machine's own are below, one of each hierarchy.
    pub fn control_groups(&self) -> &[PathBuf] {
        &self.lab.groups
    }

    /// Returns the forge, started when it is first asked for.
    pub fn forge(&self) -> &Forge {
        self.forge.get_or_init(|| Forge::start(&self.lab))
    }

    /// Runs a shell script as root, outside of all units, with nothing in its environment but `PATH` and `HOME`.
    pub fn run(&self, script: &str) -> Output {
        self.run_within(COMMAND_LIMIT, script, b"")
    }

    /// Runs a shell script with `input`, and fails if it takes longer than `limit`.
    pub fn run_within(&self, limit: Duration, script: &str, input: &[u8]) -> Output {
        finish(self.command(script), limit, input)
    }

    /// Runs a shell script that must succeed, and returns what it prints, trimmed.
    pub fn check(&self, script: &str) -> String {
        stdout(script, &self.run(script))
    }

    /// Says whether a shell script succeeds.
    pub fn succeeds(&self, script: &str) -> bool {
        self.run(script).status.success()
    }

    /// Starts a shell script and does not wait for it.
    pub fn spawn(&self, script: &str) -> Child {
        let mut command = self.command(script);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Returns a shell script to be run in the machine, whose ends are still to be connected.
    pub fn command(&self, script: &str) -> Command {
        assert!(self.is_on(), "the machine is off");
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.get().to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "--"]);
        command.args(["/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin", "HOME=/root", "LC_ALL=C.UTF-8"]);
        command.args(["/bin/sh", "-c", script]);
        command
    }

    /// Runs a shell script on the machine's disk while the machine is off.
    pub fn offline(&self, script: &str) -> String {
        assert!(!self.is_on(), "the machine is on");
        let mut command = self.lab.offline_command("/bin/sh");
        command.args(["-c", script]);
        stdout(script, &finish(command, COMMAND_LIMIT, b""))
    }

    /// Returns where a path of the machine is out here, while it is on. Absolute links on the way lead astray.
    pub fn outside(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init.get()))
    }

    /// Writes a file of the machine, and the directories above it.
    pub fn write_file(&self, path: &str, content: impl AsRef<[u8]>) {
        let script = format!("mkdir -p \"$(dirname '{path}')\" && cat > '{path}'");
        stdout(&script, &self.run_within(COMMAND_LIMIT, &script, content.as_ref()));
    }

    /// Reads a file of the machine; nothing if there is none.
    pub fn read_file(&self, path: &str) -> Option<String> {
        let output = self.run(&format!("cat '{path}'"));
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// Waits until a shell script succeeds, a minute at most.
    pub fn wait_for(&self, script: &str) {
        wait_until(script, COMMAND_LIMIT, || self.succeeds(script));
    }

    /// Returns the id of this boot, as processes in the machine see it.
    pub fn boot_id(&self) -> String {
        self.check("cat /proc/sys/kernel/random/boot_id")
    }

    /// Says whether the machine is on.
    pub fn is_on(&self) -> bool {
        let mut power = self.power.borrow_mut();
        power.as_mut().is_some_and(|power| power.try_wait().unwrap().is_none())
    }

    /// Turns the machine on and waits until it is up.
    pub fn power_on(&self) {
        assert!(!self.is_on(), "the machine is on");
        *self.power.borrow_mut() = Some(self.lab.power_on());
        self.wait_for_boot(0);
    }

    /// Reboots the machine in order, as `systemctl reboot` does, and waits until it is up again.
    pub fn reboot(&self) {
        let before = self.init.get();
        // The connection may be cut before the answer.
        drop(self.run("systemctl reboot"));
        self.wait_for_boot(before);
    }

    /// Waits for the end of a reboot that something in the machine has asked for since `during` was called.
    pub fn wait_for_reboot(&self, during: impl FnOnce()) {
        let before = self.init.get();
        during();
        self.wait_for_boot(before);
    }

    /// Turns the machine off in order.
    pub fn halt(&self) {
        drop(self.run("systemctl poweroff"));
        self.wait_for_off();
    }

    /// Takes the machine's power: every process dies at once. What was written stays, as if it had reached the disk.
    pub fn cut_power(&self) {
        kill_process(Pid::from_raw(self.init.get()).unwrap(), Signal::KILL).unwrap();
        self.wait_for_off();
    }

    /// Takes the machine's power, gives it back, and waits until the machine is up.
    pub fn power_cut(&self) {
        self.cut_power();
        self.power_on();
    }

    /// Returns what the machine has shown on its console, all boots one after the other.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.lab.console()).unwrap_or_default()).into_owned()
    }

    /// Waits until PID 1 is another process than `before` and has started everything. Failed units do not count.
    fn wait_for_boot(&self, before: i32) {
        wait_until("the machine's PID 1", BOOT_LIMIT, || {
            assert!(self.is_on(), "the machine went off while it booted:\n{}", self.console());
            self.find_init().filter(|init| *init != before).map(|init| self.init.set(init)).is_some()
        });
        wait_until("the machine's boot", BOOT_LIMIT, || {
            assert!(self.is_on(), "the machine went off while it booted:\n{}", self.console());
            let state = self.run_within(BOOT_LIMIT, "systemctl is-system-running --wait", b"").stdout;
            matches!(state.trim_ascii(), b"running" | b"degraded")
        });
    }

    fn wait_for_off(&self) {
        wait_until("the machine to go off", BOOT_LIMIT, || !self.is_on());
    }

    /// Returns the process id, out here, of the machine's PID 1: the first child of systemd-nspawn.
    fn find_init(&self) -> Option<i32> {
        let mut below = vec![self.power.borrow().as_ref()?.id().cast_signed()];
        while let Some(pid) = below.pop() {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let children = children(pid);
            if name.trim() == "systemd-nspawn" {
                return children.into_iter().find(|child| is_init(*child));
            }
            below.extend(children);
        }
        None
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let console = self.console();
            let from = console.len().saturating_sub(4000);
            println!("== the machine's console\n{}", String::from_utf8_lossy(&console.as_bytes()[from..]));
            if self.is_on() {
                let journal = self
                    .run("journalctl --no-pager -b -n 150; echo == switches; tail -n 60 /var/log/switch.log");
                println!("== the machine's journal\n{}", String::from_utf8_lossy(&journal.stdout));
            }
        }
        if let Some(power) = self.power.get_mut().as_mut() {
            let _gone = kill_process(Pid::from_child(power), Signal::KILL).is_err();
            let _reaped = power.wait().is_ok();
        }
    }
}

/// Decides whether machines are booted: `PULLAGENT_TEST_HOST` says `1` or `0`, otherwise root does and others don't.
/// Whoever does must be able to.
pub fn wanted(setting: Option<&str>, root: bool, tools: bool) -> Result<bool, &'static str> {
    match (setting.filter(|setting| !setting.is_empty()), root, tools) {
        (Some("0"), _, _) | (None, false, _) => Ok(false),
        (Some("1") | None, true, true) => Ok(true),
        (Some("1") | None, true, false) => Err("the test machine needs systemd-nspawn and debootstrap: \
            PULLAGENT_TEST_HOST=1 tests/setup installs them, PULLAGENT_TEST_HOST=0 leaves these tests out"),
        (Some("1"), false, _) => {
            Err("the test machine needs root; PULLAGENT_TEST_HOST=0 leaves these tests out")
        }
        (Some(_), _, _) => Err("PULLAGENT_TEST_HOST is neither 0 nor 1"),
    }
}

/// Says whether a process is the first of its own namespace, and has become what it will be.
fn is_init(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    ids.is_some_and(|ids| ids.split_whitespace().count() == 3 && ids.split_whitespace().last() == Some("1"))
        && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "systemd")
}

/// Waits until `holds`; `what` is said if it does not within `limit`.
pub fn wait_until(what: &str, limit: Duration, holds: impl FnMut() -> bool) {
    assert!(holds_within(limit, holds), "waited too long for: {what}");
}

fn holds_within(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if begun.elapsed() > limit {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Runs a command to its end. Its output goes to files, so that nothing it leaves behind can hold us up.
fn finish(mut command: Command, limit: Duration, input: &[u8]) -> Output {
    let (mut stdin, stdout, stderr) = (file(), file(), file());
    stdin.write_all(input).unwrap();
    stdin.rewind().unwrap();
    command.stdin(stdin).stdout(stdout.try_clone().unwrap()).stderr(stderr.try_clone().unwrap());
    let mut child = command.process_group(0).spawn().unwrap();
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > limit {
            let _gone = kill_process_group(Pid::from_child(&child), Signal::KILL).is_err();
            child.wait().unwrap();
            panic!("took longer than {limit:?}: {command:?}\n{}", String::from_utf8_lossy(&read(stderr)));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Output { status, stdout: read(stdout), stderr: read(stderr) }
}

/// Returns the text of a file out here.
fn read_text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn file() -> File {
    tempfile::tempfile().unwrap()
}

fn read(mut file: File) -> Vec<u8> {
    let mut content = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut content).unwrap();
    content
}

/// Returns what a script that must have succeeded has printed, trimmed.
fn stdout(script: &str, output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "'{script}' ended with {}:\n{out}\n{err}", output.status);
    out
}
