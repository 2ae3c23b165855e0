//! What is done with systems on the machine: they are built, installed and switched to, and the machine is asked what
//! it runs and how it came to that.

use std::fs;
use std::path::Path;
use std::process::Output;

use super::system::{Fault, HOSTNAME, Step, System, Verb};
use super::{COMMAND_LIMIT, Machine, stdout, wait_until};

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
        self.run(&build_command(&dir, revision))
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
        let output = String::from_utf8(self.run(VIEW).stdout).unwrap();
        let mut answers = output.split("==\n").map(str::trim);
        let mut path = || answers.next().filter(|path| path.starts_with("/nix/store/")).map(str::to_owned);
        let (running, booted, etc, profile, boot_default) = (path(), path(), path(), path(), path());
        let mut units = || answers.next().unwrap().lines().map(str::to_owned).collect();
        View { running, booted, etc, profile, boot_default, leftovers: units(), failed: units() }
    }
}

/// Answers to the questions of [`View`], in its order.
const VIEW: &str = r"
    readlink -f /run/current-system; echo ==
    readlink -f /run/booted-system; echo ==
    readlink -f /etc/static; echo ==
    readlink -f /nix/var/nix/profiles/system; echo ==
    entry=/boot/loader/entries/$(sed -n 's/^default //p' /boot/loader/loader.conf)
    sed -n 's/^options .*init=\([^ ]*\)\/init .*/\1/p' $entry; echo ==
    cat /run/nixos/start-list /run/nixos/restart-list /run/nixos/reload-list | sort -u; echo ==
    systemctl list-units --failed --plain --no-legend | cut -d' ' -f1
";

/// Returns the shell command that builds the system whose repository lies in `dir`, as a commit or without one, and
/// removes `dir`.
pub fn build_command(dir: &str, revision: Option<&str>) -> String {
    let query = revision.map(|revision| format!("?rev={revision}")).unwrap_or_default();
    let flake = format!("path:$source{query}#nixosConfigurations.{HOSTNAME}.config.system.build.toplevel");
    format!(
        "export NIX_REMOTE=daemon; source=$(nix store add-path --name source '{dir}'); rm -r '{dir}'; \
         nix build --print-out-paths --no-link \"{flake}\""
    )
}

/// Returns the shell command that calls a system's `switch-to-configuration`.
pub fn switch_command(toplevel: &str, verb: Verb) -> String {
    format!("{toplevel}/bin/switch-to-configuration {}", verb.word())
}
