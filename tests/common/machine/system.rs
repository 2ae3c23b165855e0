//! NixOS-like systems for the machine: what they consist of, how they are built, installed and switched to, what goes
//! wrong on the way, and what the machine says about them. The system itself is the flake in `tests/host/flake`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Output;

use serde::Serialize;

use super::{COMMAND_LIMIT, Machine, stdout, wait_until};

const FLAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/host/flake");

/// The name of the machine, and of its configuration in the flake.
pub const HOSTNAME: &str = "web1";

/// A system, as a repository describes it. A text may name a file or a package as `@name@`.
#[derive(Debug, Clone)]
pub struct System {
    host: Host,
    files: BTreeMap<String, Vec<u8>>,
}

/// What the flake reads.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Host {
    name: String,
    label: String,
    system: String,
    kernel: String,
    initrd: String,
    kernel_params: String,
    interface: String,
    inhibitors: BTreeMap<String, String>,
    units: BTreeMap<String, Unit>,
    etc: BTreeMap<String, String>,
    users: Vec<String>,
    files: Vec<String>,
    packages: BTreeMap<String, String>,
    faults: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Unit {
    text: String,
    wanted_by: Vec<String>,
}

/// What `switch-to-configuration` is called for; `Init` is the activation at boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Check,
    DryActivate,
    Test,
    Switch,
    Boot,
    Init,
}

/// The steps of a switch, in their order. The activation script takes `Activate` to `CurrentSystem`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Check,
    BootLoader,
    Sync,
    Interface,
    Plan,
    Stop,
    Activate,
    Users,
    /// `/etc/static` is re-pointed.
    Etc,
    /// `/run/current-system` is re-pointed; before it, `/etc` is new and the rest old.
    CurrentSystem,
    Reexec,
    ResetFailed,
    Reload,
    Sysinit,
    ReloadUnits,
    RestartUnits,
    StartUnits,
    Settle,
}

/// What happens instead of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails, with what the real one makes of that.
    Fail,
    /// The whole switch is killed (at boot: the activation script).
    Die,
    /// It never ends, but can be asked to.
    Hang,
    /// It never ends and cannot be asked to.
    Stuck,
    /// It is done after so many seconds.
    Wait(u32),
}

impl Verb {
    pub fn word(self) -> &'static str {
        match self {
            Verb::Check => "check",
            Verb::DryActivate => "dry-activate",
            Verb::Test => "test",
            Verb::Switch => "switch",
            Verb::Boot => "boot",
            Verb::Init => "init",
        }
    }
}

impl Step {
    pub fn word(self) -> &'static str {
        match self {
            Step::Check => "check",
            Step::BootLoader => "boot-loader",
            Step::Sync => "sync",
            Step::Interface => "interface",
            Step::Plan => "plan",
            Step::Stop => "stop",
            Step::Activate => "activate",
            Step::Users => "users",
            Step::Etc => "etc",
            Step::CurrentSystem => "current-system",
            Step::Reexec => "reexec",
            Step::ResetFailed => "reset-failed",
            Step::Reload => "reload",
            Step::Sysinit => "sysinit",
            Step::ReloadUnits => "reload-units",
            Step::RestartUnits => "restart-units",
            Step::StartUnits => "start-units",
            Step::Settle => "settle",
        }
    }
}

impl Fault {
    fn word(self) -> String {
        match self {
            Fault::Fail => "fail".to_owned(),
            Fault::Die => "die".to_owned(),
            Fault::Hang => "hang".to_owned(),
            Fault::Stuck => "stuck".to_owned(),
            Fault::Wait(seconds) => format!("wait:{seconds}"),
        }
    }
}

impl System {
    /// Returns a system without any service; `label` is part of its store path's name.
    pub fn new(label: &str) -> System {
        let text = str::to_owned;
        let host = Host {
            name: text(HOSTNAME),
            label: text(label),
            system: format!("{}-linux", std::env::consts::ARCH),
            kernel: text("the machine runs on somebody else's kernel\n"),
            initrd: text("none\n"),
            kernel_params: text("quiet loglevel=4"),
            interface: text("1"),
            inhibitors: BTreeMap::new(),
            units: BTreeMap::new(),
            etc: BTreeMap::new(),
            users: Vec::new(),
            files: Vec::new(),
            packages: BTreeMap::new(),
            faults: Vec::new(),
        };
        let system = System { host, files: BTreeMap::new() };
        system
            .etc("hosts", "127.0.0.1 localhost\n::1 localhost\n127.0.0.2 web1\n")
            .etc("resolv.conf", "nameserver 10.80.0.1\noptions timeout:1 attempts:1\n")
    }

    /// Returns the same system under another label.
    #[must_use]
    pub fn label(mut self, label: &str) -> System {
        label.clone_into(&mut self.host.label);
        self
    }

    /// Adds or replaces a unit that nothing wants.
    #[must_use]
    pub fn unit(self, name: &str, text: &str) -> System {
        self.wanted_unit(name, &[], text)
    }

    /// Adds or replaces a unit that targets want.
    #[must_use]
    pub fn wanted_unit(mut self, name: &str, by: &[&str], text: &str) -> System {
        let wanted_by = by.iter().map(|by| (*by).to_owned()).collect();
        self.host.units.insert(name.to_owned(), Unit { text: text.to_owned(), wanted_by });
        self
    }

    /// Adds or replaces `<name>.service`, wanted by `multi-user.target`, with these lines in `[Service]`.
    #[must_use]
    pub fn service(self, name: &str, lines: &str) -> System {
        let text = format!("[Unit]\nDescription={name}\n[Service]\n{lines}\n");
        self.wanted_unit(&format!("{name}.service"), &["multi-user.target"], &text)
    }

    /// Removes a unit.
    #[must_use]
    pub fn without_unit(mut self, name: &str) -> System {
        self.host.units.remove(name).unwrap();
        self
    }

    /// Adds or replaces a file below `/etc`.
    #[must_use]
    pub fn etc(mut self, path: &str, text: &str) -> System {
        self.host.etc.insert(path.to_owned(), text.to_owned());
        self
    }

    /// Gives the agent a configuration.
    #[must_use]
    pub fn agent_config(self, config: &serde_json::Value) -> System {
        self.etc("pullagent/config.json", &format!("{config:#}\n"))
    }

    /// Adds or replaces a file that becomes a store path of its own, `@name@`.
    #[must_use]
    pub fn file(mut self, name: &str, content: impl Into<Vec<u8>>) -> System {
        self.files.insert(name.to_owned(), content.into());
        self.host.files = self.files.keys().cloned().collect();
        self
    }

    /// Names a path that is in the machine's store, `@name@`; see [`Machine::add_program`].
    #[must_use]
    pub fn package(mut self, name: &str, path: &str) -> System {
        self.host.packages.insert(name.to_owned(), path.to_owned());
        self
    }

    /// Adds a system user and its group, made at activation.
    #[must_use]
    pub fn user(mut self, name: &str) -> System {
        self.host.users.push(name.to_owned());
        self
    }

    /// Changes the kernel: what is built needs a reboot to take effect.
    #[must_use]
    pub fn kernel(mut self, text: &str) -> System {
        text.clone_into(&mut self.host.kernel);
        self
    }

    /// Changes the version of the init interface: only a reboot leads to such a system (exit code 100).
    #[must_use]
    pub fn interface(mut self, version: &str) -> System {
        version.clone_into(&mut self.host.interface);
        self
    }

    /// Says something that must be the same in two systems to switch between them.
    #[must_use]
    pub fn inhibitor(mut self, name: &str, value: &str) -> System {
        self.host.inhibitors.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Makes a step of this system go wrong, each time.
    #[must_use]
    pub fn fault(mut self, verb: Verb, step: Step, fault: Fault) -> System {
        self.host.faults.push(format!("{} {} {}", verb.word(), step.word(), fault.word()));
        self
    }

    /// Returns the whole repository: path and content of each file.
    pub fn repository(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = Vec::new();
        collect(Path::new(FLAKE), "", &mut files);
        files.push(("host.json".to_owned(), serde_json::to_vec_pretty(&self.host).unwrap()));
        files.extend(self.files.iter().map(|(name, content)| (format!("files/{name}"), content.clone())));
        files
    }
}

fn collect(dir: &Path, prefix: &str, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{name}/"), files);
        } else {
            files.push((name, fs::read(entry.path()).unwrap()));
        }
    }
}

/// What the machine says about its systems; paths are store paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// `/run/current-system`.
    pub running: Option<String>,
    /// `/run/booted-system`.
    pub booted: Option<String>,
    /// What `/etc/static` points to; compare with [`Machine::etc_of`].
    pub etc: Option<String>,
    /// The `system` profile.
    pub profile: Option<String>,
    /// What the next boot will boot.
    pub boot_default: Option<String>,
    /// Units that an interrupted switch still had to start, restart or reload.
    pub leftovers: Vec<String>,
    /// Units that failed.
    pub failed: Vec<String>,
}

impl Machine {
    /// Builds a system in the machine, through its Nix daemon, and returns its toplevel. Does not install it.
    pub fn build(&self, system: &System) -> String {
        stdout("nix build", &self.try_build(system, None))
    }

    /// Builds a system as the commit `revision`; the same toplevel as of that commit.
    pub fn build_at(&self, system: &System, revision: &str) -> String {
        stdout("nix build", &self.try_build(system, Some(revision)))
    }

    /// Builds a system in the machine, which may fail.
    pub fn try_build(&self, system: &System, revision: Option<&str>) -> Output {
        let dir = self.check("mktemp -d /root/flake-XXXXXX");
        let outside = self.outside(&dir);
        for (path, content) in system.repository() {
            let file = outside.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, content).unwrap();
        }
        let query = revision.map(|revision| format!("?rev={revision}")).unwrap_or_default();
        let flake =
            format!("path:$source{query}#nixosConfigurations.{HOSTNAME}.config.system.build.toplevel");
        self.run(&format!(
            "export NIX_REMOTE=daemon; source=$(nix store add-path --name source '{dir}'); rm -r '{dir}'; \
             nix build --print-out-paths --no-link \"{flake}\""
        ))
    }

    /// Builds a system, makes it the next generation and the boot default, and reboots into it.
    pub fn install(&self, system: &System) -> String {
        self.boot_into(self.build(system))
    }

    /// Installs a system as the commit `revision`, which the agent then takes as where it starts from.
    pub fn install_at(&self, system: &System, revision: &str) -> String {
        self.boot_into(self.build_at(system, revision))
    }

    fn boot_into(&self, toplevel: String) -> String {
        self.make_default(&toplevel);
        self.reboot();
        toplevel
    }

    /// Makes a system that was built the next generation and the boot default, without activating it.
    pub fn make_default(&self, toplevel: &str) {
        self.check(&format!(
            "nix-env -p /nix/var/nix/profiles/system --set {toplevel} && {toplevel}/bin/switch-to-configuration boot"
        ));
    }

    /// Calls a system's `switch-to-configuration`, outside of all units.
    pub fn switch(&self, toplevel: &str, verb: Verb) -> Output {
        self.run(&switch_command(toplevel, verb))
    }

    /// Puts a program of this machine into the store of the test machine, below `bin`; `trailer` is appended to it,
    /// which makes another store path of the same program.
    pub fn add_program(&self, program: &Path, trailer: &[u8]) -> String {
        let name = program.file_name().unwrap().to_str().unwrap();
        let content = [fs::read(program).unwrap(), trailer.to_owned()].concat();
        let dir = format!("/tmp/add/{name}");
        self.write_file(&format!("{dir}/bin/{name}"), content);
        self.check(&format!("chmod 755 {dir}/bin/{name} && nix-store --add {dir} && rm -r /tmp/add"))
    }

    /// Makes a step of the next run of a system's verb go wrong, once.
    pub fn fault(&self, toplevel: &str, verb: Verb, step: Step, fault: Fault) {
        let line = format!("{toplevel} {} {} {}\n", verb.word(), step.word(), fault.word());
        let script = "cat >> /run/switch-faults";
        stdout(script, &self.run_within(COMMAND_LIMIT, script, line.as_bytes()));
    }

    /// Waits until a switch gets to a step.
    pub fn wait_for_step(&self, toplevel: &str, verb: Verb, step: Step) {
        let (wanted, what) = (step.word(), format!("step '{}' of {toplevel}", step.word()));
        wait_until(&what, COMMAND_LIMIT, || {
            self.steps(toplevel, verb).iter().any(|line| line.split(' ').next() == Some(wanted))
        });
    }

    /// Returns what the runs of a system's verb have come to, in their order: each step, and the fault it had. A run
    /// starts with `begin` and its variables, and ends with `end` and its exit code.
    pub fn steps(&self, toplevel: &str, verb: Verb) -> Vec<String> {
        let prefix = format!("{toplevel} {} ", verb.word());
        let log = self.read_file("/var/log/switch.log").unwrap_or_default();
        log.lines()
            .filter_map(|line| line.strip_prefix(&prefix))
            .map(|line| line.trim_end().to_owned())
            .collect()
    }

    /// Returns what `/etc/static` points to when a system's `/etc` is in place.
    pub fn etc_of(&self, toplevel: &str) -> String {
        self.check(&format!("readlink -f {toplevel}/etc"))
    }

    /// Returns a property of a unit.
    pub fn property(&self, unit: &str, property: &str) -> String {
        self.check(&format!("systemctl show --value -p {property} -- '{unit}'"))
    }

    /// Says whether a unit is active.
    pub fn is_active(&self, unit: &str) -> bool {
        self.succeeds(&format!("systemctl --quiet is-active -- '{unit}'"))
    }

    /// Reads what the machine says about its systems.
    pub fn view(&self) -> View {
        let mut script = String::new();
        for link in
            ["/run/current-system", "/run/booted-system", "/etc/static", "/nix/var/nix/profiles/system"]
        {
            writeln!(script, "readlink -f {link} || echo; echo").unwrap();
        }
        script.push_str(
            "entry=/boot/loader/entries/$(sed -n 's/^default //p' /boot/loader/loader.conf)\n\
             sed -n 's/^options .*init=\\([^ ]*\\)\\/init .*/\\1/p' \"$entry\"; echo\n\
             cat /run/nixos/start-list /run/nixos/restart-list /run/nixos/reload-list | sort -u; echo\n\
             systemctl list-units --failed --plain --no-legend | cut -d' ' -f1; echo\n",
        );
        let output = String::from_utf8(self.run(&script).stdout).unwrap();
        let mut blocks = output.split_terminator("\n\n").map(str::trim);
        let mut path = || blocks.next().filter(|path| path.starts_with("/nix/store/")).map(str::to_owned);
        let (running, booted, etc, profile, boot_default) = (path(), path(), path(), path(), path());
        let mut units = || blocks.next().unwrap_or_default().lines().map(str::to_owned).collect();
        View { running, booted, etc, profile, boot_default, leftovers: units(), failed: units() }
    }
}

/// Returns the shell command that calls a system's `switch-to-configuration`.
pub fn switch_command(toplevel: &str, verb: Verb) -> String {
    format!("{toplevel}/bin/switch-to-configuration {}", verb.word())
}
