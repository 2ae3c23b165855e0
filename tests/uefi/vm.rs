//! A machine that really boots: UEFI firmware, systemd-boot, a kernel, and systemd 257 on a NixOS-like system.
//!
//! ```text
//! let Some(vm) = Vm::boot(257) else { return };              // None unless PULLAGENT_TEST_UEFI=1
//! let new = vm.make_system("new", "quiet");                  // the store's path of a system that is nowhere installed
//! vm.install_beside(&new);                                   // its entry is there, the old system stays the default
//! vm.check("bootctl set-oneshot nixos-pullagent-trial-generation-1.conf");
//! assert_eq!(vm.reboot().system, new);
//! vm.cut_power();                                            // at whatever instant
//! assert_eq!(vm.power_on().system, vm.old());
//! ```
//!
//! Scripts go in and come out by a serial port; a directory out here, with pullagent in it, is `/host` in there. It is
//! emulated: a boot takes 15 s to 20 s of a processor, more on a busy machine. `PULLAGENT_TEST_ACCEL=kvm` makes use of a
//! processor that can do it.
//!
//! A reset ends the emulator, and it is started anew: one that goes on still has the old kernel's code translated, and
//! takes minutes to overwrite it (QEMU 7.2).

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::process::geteuid;
use serde_json::Value;

use crate::common::machine::image::run;
use crate::common::machine::wait_until;
use crate::image::Parts;
use crate::nvram::Nvram;

/// How long the machine may take from power on, or a reset, to its shell. Emulated and on a loaded machine it is slow.
const BOOT_LIMIT: Duration = Duration::from_secs(900);
/// How long a script may take.
const SCRIPT_LIMIT: Duration = Duration::from_secs(300);
/// Where OVMF's packages put the firmware and its empty memory.
const FIRMWARE: [&str; 2] = ["/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"];
/// Where the system partition begins on its disk, and its size, in MiB.
const ESP: (u32, u32) = (1, 126);
/// Stable in long series, where other settings make the kernel crash at random.
const EMULATED: &str = "tcg,thread=single";

/// One boot of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// The kernel's id of it.
    pub id: String,
    /// The system that was booted.
    pub system: String,
    /// How long it took.
    pub took: Duration,
}

/// What a script did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// All that it printed, trimmed.
    pub text: String,
}

/// The machine, on or off.
#[derive(Debug)]
pub struct Vm {
    parts: Parts,
    dir: PathBuf,
    version: u32,
    power: RefCell<Option<Power>>,
    scripts: Cell<u32>,
    boots: RefCell<Vec<Boot>>,
    is_up: Cell<bool>,
}

/// What came from the machine.
enum Line {
    Text(String),
    /// It was reset, by itself or by its watchdog.
    Reset,
    /// Nothing in time.
    None,
}

/// What is there while the machine is on; dropping it cuts the power.
#[derive(Debug)]
struct Power {
    qemu: Child,
    port: UnixStream,
    lines: Receiver<String>,
}

impl Vm {
    /// Makes a machine with systemd-boot of a version, 0 for the newest, lets it boot its first system and waits for that.
    /// Returns nothing unless `PULLAGENT_TEST_UEFI=1`.
    pub fn boot(version: u32) -> Option<Vm> {
        wanted().then(|| Vm::start(version))
    }

    /// Does so whoever asks; it takes root's rights.
    pub fn start(version: u32) -> Vm {
        let vm = Vm::new(version);
        let boot = vm.power_on();
        println!("uefi: systemd-boot {} booted in {:.0} s", vm.version, boot.took.as_secs_f32());
        vm
    }

    /// Makes a machine that has never been on.
    fn new(version: u32) -> Vm {
        let parts = Parts::get();
        let version = if version == 0 { parts.newest() } else { version };
        let dir = parts.machines().join(format!("{}-uefi-{:08x}", std::process::id(), fastrand::u32(..)));
        fs::create_dir_all(dir.join("share")).unwrap();
        // What is there for debuggers only takes an emulated machine long to read.
        let program = dir.join("share/pullagent");
        run(Command::new("strip").arg("-o").arg(program).arg(env!("CARGO_BIN_EXE_pullagent")));
        fs::copy(FIRMWARE[1], dir.join("vars.fd")).unwrap();
        let mut overlay = Command::new("qemu-img");
        overlay.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(parts.root_disk());
        run(overlay.arg(dir.join("root.qcow2")));
        make_esp(&parts, version, &dir);
        Vm {
            parts,
            dir,
            version,
            power: RefCell::default(),
            scripts: Cell::default(),
            boots: RefCell::default(),
            is_up: Cell::default(),
        }
    }

    /// Returns the version of systemd-boot.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Returns the machine's first boot, as a measure of how fast it is.
    pub fn first_boot(&self) -> Boot {
        self.boots.borrow().first().cloned().expect("the machine has booted")
    }

    /// Returns the systems that came up, one for each boot that came so far.
    pub fn booted(&self) -> Vec<String> {
        self.boots.borrow().iter().map(|boot| boot.system.clone()).collect()
    }

    /// Returns the system that the machine booted first.
    pub fn old(&self) -> String {
        self.first_boot().system
    }

    /// Turns the machine on and waits until a system is up.
    pub fn power_on(&self) -> Boot {
        self.turn_on();
        self.wait_for_boot()
    }

    /// Turns the machine on and waits for nothing.
    pub fn turn_on(&self) {
        assert!(self.power.borrow().is_none(), "the machine is on");
        let socket = self.dir.join("rig.sock");
        drop(fs::remove_file(&socket));
        let console = File::options().append(true).create(true).open(self.dir.join("qemu.log")).unwrap();
        let mut qemu = self.qemu(&socket);
        let mut qemu =
            qemu.stdin(Stdio::null()).stdout(console.try_clone().unwrap()).stderr(console).spawn().unwrap();
        let mut port = None;
        wait_until("the machine's serial port", Duration::from_secs(20), || {
            assert!(qemu.try_wait().unwrap().is_none(), "{}", self.text("qemu.log"));
            port = UnixStream::connect(&socket).ok();
            port.is_some()
        });
        let port = port.unwrap();
        let lines = follow(port.try_clone().unwrap());
        self.power.replace(Some(Power { qemu, port, lines }));
        self.is_up.set(false);
    }

    /// Waits until a system is up that the machine boots from now on.
    pub fn wait_for_boot(&self) -> Boot {
        let began = Instant::now();
        self.boot_within(BOOT_LIMIT).unwrap_or_else(|| panic!("no system came up in {:?}", began.elapsed()))
    }

    /// Waits for a system to come up, after as many resets as it takes; `None` if none does in time.
    pub fn boot_within(&self, limit: Duration) -> Option<Boot> {
        let began = Instant::now();
        loop {
            match self.line(limit.checked_sub(began.elapsed())?) {
                Line::Text(line) => {
                    if let ["hello", id, system] = line.split(' ').collect::<Vec<_>>()[..] {
                        let (id, system) = (id.to_owned(), system.to_owned());
                        let boot = Boot { id, system, took: began.elapsed() };
                        self.boots.borrow_mut().push(boot.clone());
                        self.is_up.set(true);
                        return Some(boot);
                    }
                }
                Line::Reset => {
                    self.cut_power();
                    self.turn_on();
                }
                Line::None => return None,
            }
        }
    }

    /// Lets some time go by, through all resets.
    pub fn pass(&self, time: Duration) {
        let began = Instant::now();
        while let Some(left) = time.checked_sub(began.elapsed()) {
            self.boot_within(left);
        }
    }

    /// Runs a script as root in the machine.
    pub fn run(&self, script: &str) -> Output {
        self.run_within(SCRIPT_LIMIT, script)
    }

    /// Runs a script, and fails if it takes longer than `limit`.
    pub fn run_within(&self, limit: Duration, script: &str) -> Output {
        self.answer(limit, script).unwrap_or_else(|| panic!("the machine was reset during: {script}"))
    }

    /// Runs a script on a machine that may be reset at any time: waits until it is up, and returns nothing if it is reset
    /// before it has answered.
    pub fn ask(&self, script: &str) -> Option<Output> {
        if !self.is_up.get() {
            self.wait_for_boot();
        }
        let answer = self.answer(BOOT_LIMIT, script);
        if answer.is_none() {
            self.cut_power();
            self.turn_on();
        }
        answer
    }

    /// Runs a script; returns nothing if the machine is reset meanwhile.
    fn answer(&self, limit: Duration, script: &str) -> Option<Output> {
        let number = self.send(script).to_string();
        let began = Instant::now();
        loop {
            let line = match self.line(limit.saturating_sub(began.elapsed())) {
                Line::Text(line) => line,
                Line::Reset => return None,
                Line::None => panic!("took longer than {limit:?}: {script}"),
            };
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["done", found, code, output] if found == number => {
                    let text = BASE64_STANDARD.decode(output).unwrap();
                    let text = String::from_utf8_lossy(&text).trim().to_owned();
                    return Some(Output { code: code.parse().unwrap(), text });
                }
                _ => {}
            }
        }
    }

    /// Runs a script that must succeed, and returns what it printed.
    pub fn check(&self, script: &str) -> String {
        let output = self.run(script);
        assert_eq!(output.code, 0, "'{script}' failed:\n{}", output.text);
        output.text
    }

    /// Starts a script and does not wait for it; returns its number.
    pub fn send(&self, script: &str) -> u32 {
        let number = self.scripts.get() + 1;
        self.scripts.set(number);
        let mut power = self.power.borrow_mut();
        let power = power.as_mut().expect("the machine is on");
        // Of a machine that was reset, that is noticed when its answer is awaited.
        drop(writeln!(power.port, "{number} {}", BASE64_STANDARD.encode(script)));
        number
    }

    /// Reboots the machine in order, as `systemctl reboot` does, and waits for what comes up.
    pub fn reboot(&self) -> Boot {
        self.send("systemctl --no-block reboot");
        self.wait_for_boot()
    }

    /// Takes the machine's power, at this instant. Of what was not synced, nothing is left that the machine had not written;
    /// what it had written is there.
    pub fn cut_power(&self) {
        drop(self.power.take().expect("the machine is on"));
    }

    /// Returns what the machine has ever shown on its console, the kernel's messages included.
    pub fn console(&self) -> String {
        self.text("console.log")
    }

    /// Returns the EFI variables of the Boot Loader Interface that outlast a boot, as they are in the flash memory.
    pub fn nvram(&self) -> Nvram {
        Nvram::read(&self.dir.join("vars.fd"))
    }

    /// Makes a system with some kernel parameters, and returns its path. It is in no profile.
    pub fn make_system(&self, name: &str, parameters: &str) -> String {
        self.check(&format!("/usr/lib/rig/make-system {name} {parameters}"))
    }

    /// Installs a system's entry beside those of the old one, which stays the default: the trial profile, then the old
    /// system's `switch-to-configuration boot`. Returns the name of the entry's file, found by what it boots.
    pub fn install_beside(&self, system: &str) -> String {
        let old = self.old();
        self.check(&format!(
            "/usr/lib/rig/set-profile system-profiles/pullagent-trial {system} && \
             {old}/bin/switch-to-configuration boot >&2"
        ));
        self.entry_of(system)
    }

    /// Returns the name of the one entry that boots a system.
    pub fn entry_of(&self, system: &str) -> String {
        self.check(&format!("cd /boot/loader/entries && grep -l 'init={system}/init' *.conf"))
    }

    /// Returns what pullagent says of the boot loader, asked in the machine.
    pub fn facts(&self) -> Value {
        serde_json::from_str(&self.check("/host/pullagent boot-facts")).unwrap()
    }

    /// Returns what pullagent says of the boot loader by what lies on the disks of the machine, which is off.
    pub fn facts_while_off(&self) -> Value {
        assert!(self.power.borrow().is_none(), "the machine is on");
        let root = self.dir.join("seen");
        drop(fs::remove_dir_all(&root));
        let (boot, variables) = (root.join("boot"), root.join("sys/firmware/efi/efivars"));
        fs::create_dir_all(&boot).unwrap();
        fs::create_dir_all(&variables).unwrap();
        self.copy_esp(&boot);
        let mut nvram = self.nvram();
        // The loader writes it at each boot, and it is gone with the power.
        let info = format!("systemd-boot {}", self.loader_version());
        nvram.0.insert(
            "LoaderInfo".to_owned(),
            info.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect(),
        );
        for (name, value) in nvram.0 {
            let file = variables.join(format!("{name}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"));
            fs::write(file, [vec![7, 0, 0, 0], value].concat()).unwrap();
        }
        let output =
            Command::new(env!("CARGO_BIN_EXE_pullagent")).args(["boot-facts", "--root"]).arg(&root).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Copies all that is on the system partition.
    pub fn copy_esp(&self, into: &Path) {
        let image = format!("{}@@{}M", self.dir.join("esp.img").display(), ESP.0);
        run(Command::new("mcopy")
            .env("MTOOLS_SKIP_CHECK", "1")
            .args(["-s", "-n", "-i", &image, "::*"])
            .arg(into));
    }

    /// Returns the whole version, as the loader has it in its file.
    fn loader_version(&self) -> String {
        let file = fs::read(self.parts.loader(self.version)).unwrap();
        let mark = b"#### LoaderInfo: systemd-boot ";
        let at = file.windows(mark.len()).position(|bytes| bytes == mark).unwrap() + mark.len();
        let version = file[at..].iter().take_while(|byte| **byte != b' ').copied().collect();
        String::from_utf8(version).unwrap()
    }

    fn line(&self, limit: Duration) -> Line {
        let power = self.power.borrow();
        match power.as_ref().expect("the machine is on").lines.recv_timeout(limit) {
            Ok(line) => Line::Text(line),
            Err(RecvTimeoutError::Timeout) => Line::None,
            Err(RecvTimeoutError::Disconnected) => Line::Reset,
        }
    }

    fn text(&self, file: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.join(file)).unwrap_or_default()).into_owned()
    }

    fn qemu(&self, socket: &Path) -> Command {
        let accel = std::env::var("PULLAGENT_TEST_ACCEL").unwrap_or_else(|_| EMULATED.to_owned());
        let cpu = if accel == EMULATED { "qemu64" } else { "host" };
        let at = |file: &str| self.dir.join(file).display().to_string();
        // A test that is killed takes its machine along.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        qemu.args([
            "-no-user-config",
            "-nodefaults",
            "-display",
            "none",
            "-machine",
            "q35",
            "-accel",
            &accel,
        ]);
        qemu.args(["-cpu", cpu, "-m", "1024", "-rtc", "base=utc", "-no-reboot"]);
        qemu.args(["-action", "watchdog=reset"]);
        qemu.args(["-drive", &format!("if=pflash,format=raw,readonly=on,file={}", FIRMWARE[0])]);
        qemu.args(["-drive", &format!("if=pflash,format=raw,file={}", at("vars.fd"))]);
        // A power cut ends the emulator and not this machine, so what it has written need not get to a real disk.
        qemu.args(["-drive", &format!("if=none,id=esp,format=raw,cache=unsafe,file={}", at("esp.img"))]);
        qemu.args(["-device", "virtio-blk-pci,drive=esp,serial=esp,bootindex=1"]);
        qemu.args([
            "-drive",
            &format!("if=none,id=root,format=qcow2,cache=unsafe,file={}", at("root.qcow2")),
        ]);
        qemu.args(["-device", "virtio-blk-pci,drive=root,serial=root"]);
        // A server on the loopback of this machine is one at 10.0.2.2 in there; a boot over the network takes long to fail.
        qemu.args(["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]);
        qemu.args(["-device", "i6300esb", "-device", "virtio-serial-pci"]);
        qemu.args(["-chardev", &format!("socket,id=rig,path={},server=on,wait=off", socket.display())]);
        qemu.args(["-device", "virtserialport,chardev=rig,name=rig"]);
        qemu.args([
            "-virtfs",
            &format!("local,path={},mount_tag=host,security_model=none,readonly=on", at("share")),
        ]);
        qemu.args(["-chardev", &format!("file,id=console,path={},append=on", at("console.log"))]);
        qemu.args(["-serial", "chardev:console"]);
        qemu
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let console = self.console();
            let from = console.len().saturating_sub(5000);
            println!("== the machine's console\n{}", String::from_utf8_lossy(&console.as_bytes()[from..]));
        }
        drop(self.power.take());
        drop(fs::remove_dir_all(&self.dir));
    }
}

impl Drop for Power {
    fn drop(&mut self) {
        let _gone = self.qemu.kill().is_err();
        let _reaped = self.qemu.wait().is_ok();
    }
}

/// Says whether these tests are asked for; whoever asks must be root.
pub fn wanted() -> bool {
    if std::env::var("PULLAGENT_TEST_UEFI").ok().as_deref() != Some("1") {
        println!("uefi: left out; PULLAGENT_TEST_UEFI=1 boots real machines, with root's rights");
        return false;
    }
    assert!(geteuid().is_root(), "the UEFI machine's disks can only be made by root");
    true
}

/// Makes a disk with one partition, the loader and the entries of the first system on it.
fn make_esp(parts: &Parts, version: u32, dir: &Path) {
    let (disk, (start, size)) = (dir.join("esp.img"), ESP);
    File::create(&disk).unwrap().set_len(u64::from(start + size + 1) << 20).unwrap();
    let table = dir.join("esp.table");
    fs::write(&table, format!("label: gpt\nstart={start}MiB, size={size}MiB, type=uefi\n")).unwrap();
    run(Command::new("sfdisk").arg("--quiet").arg(&disk).stdin(File::open(table).unwrap()));
    let sectors = (start * 2048).to_string();
    let mut format = Command::new("mkfs.vfat");
    format.args(["-F", "32", "-n", "ESP", "--offset", &sectors]).arg(&disk).arg((size * 1024).to_string());
    run(&mut format);
    let tree = dir.join("esp");
    run(Command::new("cp").arg("-R").arg(parts.esp()).arg(&tree));
    fs::create_dir_all(tree.join("EFI/BOOT")).unwrap();
    fs::create_dir_all(tree.join("EFI/systemd")).unwrap();
    for place in ["EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"] {
        fs::copy(parts.loader(version), tree.join(place)).unwrap();
    }
    let image = format!("{}@@{start}M", disk.display());
    let mut copy = Command::new("mcopy");
    copy.env("MTOOLS_SKIP_CHECK", "1").args(["-s", "-Q", "-i", &image]);
    run(copy.args(fs::read_dir(&tree).unwrap().map(|entry| entry.unwrap().path())).arg("::/"));
}

/// Hands on the lines that come from the machine, until it is off.
fn follow(port: UnixStream) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(port).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
