//! A machine that really boots and that pullagent keeps: Nix in it builds what is pushed, to a Git server out here that it
//! reaches over its network card, and it may reboot at once.
//!
//! ```text
//! let Some(kept) = Kept::boot(257) else { return };
//! let revision = kept.push(&kept.next("good", "loglevel=5"));    // another kernel parameter: a trial boot
//! let ended = kept.wait_for(&revision, "confirmed");
//! assert_eq!(kept.vm.booted().last(), ended["toplevel"].as_str());
//! ```

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustix::process::geteuid;
use serde_json::{Value, json};

use crate::common::git::Repo;
use crate::common::machine::{self, Signer, System, build_command, commit, settings};
use crate::common::sshd::Sshd;
use crate::vm::Vm;

/// How long a host may take to come to rest, with its reboots. Emulated and on a loaded machine it is slow.
const REST_LIMIT: Duration = Duration::from_secs(1800);
/// How often it is looked at.
const PAUSE: Duration = Duration::from_secs(2);
/// How often the agent is asked although it has noted nothing new: that takes an emulated machine seconds.
const ASK_ANYWAY: Duration = Duration::from_secs(40);
/// How long a system may take to prove healthy; the guard of a trial boot waits for twice that.
const WINDOW: &str = "120s";
/// What the machine needs of its kernel, as in `guest/make-system`.
const PARAMETERS: &str =
    "console=ttyS0,115200 quiet systemd.show_status=no panic=1 no_timer_check mitigations=off audit=0";
/// What this machine is called by the one in the emulator.
const OUTSIDE: &str = "10.0.2.2";

/// The unit that gives the machine its address, and without which it has none.
pub const NETWORK: &str = "rig-network.service";
const NETWORK_TEXT: &str = "[Unit]
DefaultDependencies=no
Before=network.target shutdown.target
Conflicts=shutdown.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/ip link set eth0 up
ExecStart=/usr/sbin/ip address replace 10.0.2.15/24 dev eth0
ExecStart=/usr/sbin/ip route replace default via 10.0.2.2
";

/// The machine, with pullagent installed and following the branch `main`.
pub struct Kept {
    /// The machine.
    pub vm: Vm,
    /// The first system; the next ones are made from it.
    pub system: System,
    /// Its store path.
    pub toplevel: String,
    package: String,
    alice: Signer,
    repo: Repo,
    _server: Sshd,
}

/// What the agent says.
#[derive(Debug)]
pub struct Look {
    /// `pullagent status --json`.
    pub status: Value,
    /// The entries of `pullagent history --json`, oldest first.
    pub history: Vec<Value>,
}

impl Look {
    /// Returns what became of a revision, each time that it was tried.
    pub fn of(&self, revision: &str) -> Vec<&Value> {
        self.history.iter().filter(|entry| entry["revision"] == revision).collect()
    }
}

impl Kept {
    /// Boots a machine with systemd-boot of a version, and installs the first system. Nothing unless
    /// `PULLAGENT_TEST_UEFI=1`.
    pub fn boot(version: u32) -> Option<Kept> {
        Vm::boot(version).map(Kept::install)
    }

    /// Does so with the tests on the other machine, too.
    pub fn boot_with_the_others(version: u32) -> Option<Kept> {
        let tools = Command::new("qemu-system-x86_64").arg("--version").output().is_ok();
        let setting = std::env::var("PULLAGENT_TEST_HOST").ok();
        match machine::wanted(setting.as_deref(), geteuid().is_root(), tools) {
            Ok(true) => Some(Kept::install(Vm::start(version))),
            Ok(false) => Kept::boot(version),
            Err(reason) => panic!("{reason}, and QEMU"),
        }
    }

    fn install(vm: Vm) -> Kept {
        let server = Sshd::start();
        let (alice, repo) = (Signer::new(&server.path(""), "alice"), server.repo("infra.git"));
        let package = vm.check(
            "mkdir -p /tmp/add/pullagent/bin && cp /host/pullagent /tmp/add/pullagent/bin/ && \
             nix-store --add /tmp/add/pullagent && rm -r /tmp/add",
        );
        let remote = remote(&vm, &server);
        let system = first(&vm).agent(&package, &configured(&alice, remote));
        let revision = commit(&repo, "main", &system, Some(&alice));
        let toplevel = build(&vm, &system, &revision);
        vm.check(&format!(
            "nix-env -p /nix/var/nix/profiles/system --set {toplevel} && \
             {toplevel}/bin/switch-to-configuration switch"
        ));
        let kept = Kept { vm, system, toplevel, package, alice, repo, _server: server };
        kept.wait_until("the first system to be in sync", |look| look.status["state"] == "in-sync");
        kept
    }

    /// Returns the first system with another label and more parameters for its kernel.
    pub fn next(&self, label: &str, parameters: &str) -> System {
        self.system
            .clone()
            .label(label)
            .etc("label", label)
            .parameters(format!("{PARAMETERS} {parameters}").trim())
    }

    /// Pushes a system, signed, and returns the revision.
    pub fn push(&self, system: &System) -> String {
        commit(&self.repo, "main", system, Some(&self.alice))
    }

    /// Asks the agent; nothing if the machine is reset meanwhile, or the agent says nothing.
    pub fn look(&self) -> Option<Look> {
        let program = format!("{}/bin/pullagent", self.package);
        let script =
            format!("{program} status --json 2> /dev/null; echo ==; {program} history --json 2> /dev/null");
        let output = self.vm.ask(&script)?;
        let (status, history) = output.text.split_once("==")?;
        let history: Value = serde_json::from_str(history).ok()?;
        Some(Look {
            status: serde_json::from_str(status).ok()?,
            history: history["entries"].as_array()?.clone(),
        })
    }

    /// Waits until what the agent says is as wanted, through all reboots.
    pub fn wait_until(&self, what: &str, mut wanted: impl FnMut(&Look) -> bool) -> Look {
        let (began, mut last, mut noted) = (Instant::now(), None::<Look>, None);
        while began.elapsed() < REST_LIMIT {
            let size = self.vm.ask("stat -c %i:%s /var/lib/pullagent/journal").map(|output| output.text);
            let asked = (size, began.elapsed().as_secs() / ASK_ANYWAY.as_secs());
            if noted.as_ref() != Some(&asked)
                && let Some(look) = self.look()
            {
                noted = Some(asked);
                let word = |look: &Look| look.status["state"].clone();
                if last.as_ref().map(word) != Some(word(&look)) {
                    println!("uefi: {}: {} ({:.0?})", self.vm.version(), word(&look), began.elapsed());
                }
                if wanted(&look) {
                    return look;
                }
                last = Some(look);
            }
            std::thread::sleep(PAUSE);
        }
        self.complain(last.as_ref());
        panic!("waited too long for {what}; booted so far: {:#?}", self.vm.booted());
    }

    /// Waits until a revision has ended so, and returns its entry.
    pub fn wait_for(&self, revision: &str, outcome: &str) -> Value {
        let look = self.wait_until(&format!("'{outcome}' of {revision}"), |look| {
            let ended = look.of(revision);
            // These are for good.
            if let Some(other) = ended.iter().find(|e| e["outcome"] == "confirmed" && outcome != "confirmed")
            {
                self.complain(Some(look));
                panic!("it was not to be confirmed: {other}");
            }
            ended.last().is_some_and(|entry| entry["outcome"] == outcome)
        });
        (*look.of(revision).last().unwrap()).clone()
    }

    fn complain(&self, last: Option<&Look>) {
        println!("== the agent\n{last:#?}");
        let journal = self
            .vm
            .ask("journalctl --no-pager -n 120; bootctl --no-pager list; cat /boot/loader/loader.conf");
        println!("== the machine's journal\n{}", journal.map(|output| output.text).unwrap_or_default());
    }
}

fn first(vm: &Vm) -> System {
    let image = |name: &str| vm.check(&format!("readlink /usr/lib/rig/{name}"));
    System::new("one")
        .boots(&image("vmlinuz"), &image("initrd"))
        .parameters(PARAMETERS)
        .loader_installer(include_str!("guest/install-boot-loader"))
        .wanted_unit(NETWORK, &["multi-user.target"], NETWORK_TEXT)
}

fn configured(alice: &Signer, remote: Value) -> Value {
    let mut settings = settings(alice, vec![remote]);
    settings["activation"] = json!({ "soak": "2s", "window": WINDOW, "switchTimeout": "300s", "reboot": { "policy": "immediate" } });
    settings
}

/// Puts the host's key onto the machine, and whom it knows.
fn remote(vm: &Vm, server: &Sshd) -> Value {
    let text = |name: &str| fs::read_to_string(server.path(name)).unwrap();
    let (key, host_key) = (text("key"), text("host_key.pub"));
    vm.check(&format!(
        "mkdir -p /etc/secrets && cd /etc/secrets && umask 077 && cat > key <<'KEY' && umask 022 && \
         echo '[{OUTSIDE}]:{} {}' > hosts\n{key}KEY\n",
        server.port(),
        host_key.trim()
    ));
    json!({
        "name": "origin",
        "url": server.url_at(OUTSIDE, "infra.git"),
        "sshKeyFile": "/etc/secrets/key",
        "knownHostsFile": "/etc/secrets/hosts",
        "interval": "20s",
    })
}

/// Builds a system in the machine, as a commit.
fn build(vm: &Vm, system: &System, revision: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in system.repository() {
        let file = dir.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }
    let archive = Command::new("tar").args(["-cz", "-C"]).arg(dir.path()).arg(".").output().unwrap();
    assert!(archive.status.success());
    let built = vm.check(&format!(
        "mkdir /root/flake && base64 -d <<< '{}' | tar -xz -C /root/flake\n({}) 2> /root/build.log || \
         {{ cat /root/build.log; exit 1; }}",
        BASE64_STANDARD.encode(archive.stdout),
        build_command("/root/flake", Some(revision))
    ));
    built.lines().last().unwrap().to_owned()
}
