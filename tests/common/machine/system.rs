//! A NixOS-like system for the machine: what it consists of, and what goes wrong when it is switched to. The system
//! itself is the flake in `tests/host/flake`; here is its data.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

const FLAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/host/flake");

/// The name of the machine, and of its configuration in the flake.
pub const HOSTNAME: &str = "web1";

/// A system, as a repository describes it. A text may name a file or a package as `@name@`.
#[derive(Debug, Clone)]
pub struct System {
    host: Host,
    files: BTreeMap<String, Vec<u8>>,
    loader_installer: Option<String>,
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
    groups: Vec<String>,
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
    pub fn word(self) -> String {
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
            groups: Vec::new(),
            files: Vec::new(),
            packages: BTreeMap::new(),
            faults: Vec::new(),
        };
        let system = System { host, files: BTreeMap::new(), loader_installer: None };
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

    /// Keeps a unit that nothing wants any more.
    #[must_use]
    pub fn unwanted(mut self, name: &str) -> System {
        self.host.units.get_mut(name).unwrap().wanted_by.clear();
        self
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

    /// Removes a file below `/etc`.
    #[must_use]
    pub fn without_etc(mut self, path: &str) -> System {
        self.host.etc.remove(path).unwrap();
        self
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

    /// Adds a system group, made at activation.
    #[must_use]
    pub fn group(mut self, name: &str) -> System {
        self.host.groups.push(name.to_owned());
        self
    }

    /// Changes the kernel: what is built needs a reboot to take effect.
    #[must_use]
    pub fn kernel(mut self, text: &str) -> System {
        text.clone_into(&mut self.host.kernel);
        self
    }

    /// Takes a kernel and an initrd from the machine's store, where each is a file of its own.
    #[must_use]
    pub fn boots(mut self, kernel: &str, initrd: &str) -> System {
        kernel.clone_into(&mut self.host.kernel);
        initrd.clone_into(&mut self.host.initrd);
        self
    }

    /// Changes the kernel's parameters, which takes a reboot as well.
    #[must_use]
    pub fn parameters(mut self, parameters: &str) -> System {
        parameters.clone_into(&mut self.host.kernel_params);
        self
    }

    /// Takes another installer of the boot loader than the one of a machine without firmware.
    #[must_use]
    pub fn loader_installer(mut self, script: &str) -> System {
        self.loader_installer = Some(script.to_owned());
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
        if let Some(script) = &self.loader_installer {
            let place = files.iter_mut().find(|(path, _)| path == "system/install-boot-loader").unwrap();
            place.1 = script.as_bytes().to_owned();
        }
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
