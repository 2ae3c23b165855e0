//! A host in a directory, and toplevels for it whose `switch-to-configuration` keeps the order of the real
//! one (lock, lists, `/etc/static` first, `/run/current-system` last) and misbehaves on demand.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use pullagent::host::facts::{self, HostPaths};
use pullagent::host::files;
use pullagent::model::{HostFacts, StorePath};

/// What a switch does the next time it is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misbehave {
    /// Fails before anything has changed.
    FailEarly,
    /// Re-points `/etc`, then fails.
    Tear,
    /// Re-points `/etc`, then is killed.
    Die,
    /// Re-points `/etc`, then never ends.
    Hang,
    /// Activates everything, then fails and leaves units to be started.
    LeaveLists,
    /// Activates everything, then ends with exit code 4.
    FailLate,
}

impl Misbehave {
    fn word(self) -> &'static str {
        match self {
            Misbehave::FailEarly => "fail-early",
            Misbehave::Tear => "tear",
            Misbehave::Die => "die",
            Misbehave::Hang => "hang",
            Misbehave::LeaveLists => "leave-lists",
            Misbehave::FailLate => "fail-late",
        }
    }
}

/// The script of a toplevel for the host below `root`. It finds its own toplevel by where it lies, so it may
/// just as well be installed by a derivation.
///
/// Every call is a line of `<root>/calls`: toplevel, action, and the variables it was given. What it shall do
/// wrong is read from `<root>/behaviour/<toplevel>-<action>`, a word a line, one line a call.
pub fn script(root: &Path) -> String {
    let root = root.display();
    format!(
        r#"#!/bin/sh
root='{root}'
self=$(cd "$(dirname "$0")/.." && pwd -P)
name=${{self##*/}}; name=${{name#*-}}
action=$1
echo "$name $action check=${{NIXOS_NO_CHECK:-on}} loader=${{NIXOS_INSTALL_BOOTLOADER:-unset}}" >>"$root/calls"
behaviour=$root/behaviour/$name-$action
next=ok
if [ -s "$behaviour" ]; then
  next=$(sed -n 1p "$behaviour")
  sed -i 1d "$behaviour"
fi
link() {{ ln -s "$1" "$2.tmp-$$" && mv -T "$2.tmp-$$" "$2"; }}
mkdir -p "$root/run/nixos" "$root/etc"
exec 9>"$root/run/nixos/switch-to-configuration.lock"
flock -n 9 || exit 11
[ "$next" = fail-early ] && {{ echo "$name: refused" >&2; exit 1; }}
case $action in
  check) exit 0 ;;
  boot) link "$self" "$root/boot-default"; exit 0 ;;
  test) ;;
  *) echo "$name: no action $action" >&2; exit 2 ;;
esac
echo demo.service >>"$root/run/nixos/start-list"
link "$self/etc" "$root/etc/static"
echo "$name: /etc is switched"
case $next in
  tear) exit 1 ;;
  die) kill -9 $$ ;;
  hang) echo $$ >"$root/hanging"; while :; do sleep 60; done ;;
esac
link "$self" "$root/run/current-system"
[ "$next" = leave-lists ] && exit 1
rm -f "$root/run/nixos/start-list"
[ "$next" = fail-late ] && exit 4
exit 0
"#
    )
}

/// A directory that plays a host, with a store beside it.
pub struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    /// Makes an empty host: nothing runs, nothing is installed.
    pub fn new() -> Host {
        let host = Host { dir: tempfile::tempdir().unwrap() };
        for below in ["run/nixos", "etc", "nix/var/nix/profiles", "behaviour", "store"] {
            fs::create_dir_all(host.root().join(below)).unwrap();
        }
        fs::write(host.root().join("etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
        host.reboot("boot-1");
        host
    }

    /// Returns the host's root directory.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// Returns where the host says what it runs.
    pub fn paths(&self) -> HostPaths {
        HostPaths::under(self.root())
    }

    /// Reads what the host says about itself.
    pub fn facts(&self) -> HostFacts {
        facts::observe(&self.paths()).unwrap()
    }

    /// Makes a toplevel. It looks as if it lay in a store, without any Nix.
    pub fn toplevel(&self, name: &str) -> StorePath {
        let hash: String =
            name.bytes().map(|b| char::from(b"0123456789abcdfghijklmnpqrsvwxyz"[b as usize % 32])).collect();
        let path = self.root().join(format!("store/{hash:0>32}-{name}"));
        fs::create_dir_all(path.join("bin")).unwrap();
        fs::create_dir_all(path.join("etc/pullagent")).unwrap();
        let program = path.join("bin/switch-to-configuration");
        fs::write(&program, script(self.root())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().parse().unwrap()
    }

    /// Makes `toplevel` what runs, was booted, and is installed as generation 1.
    pub fn install(&self, toplevel: &StorePath) {
        let link = |below: &str, target: &Path| {
            files::replace_symlink(target, &self.root().join(below)).unwrap();
        };
        link("run/current-system", toplevel.as_path());
        link("run/booted-system", toplevel.as_path());
        link("etc/static", &toplevel.join("etc"));
        link("nix/var/nix/profiles/system-1-link", toplevel.as_path());
        link("nix/var/nix/profiles/system", Path::new("system-1-link"));
    }

    /// Says which boot it is now.
    pub fn reboot(&self, boot_id: &str) {
        fs::write(self.root().join("run/boot-id"), boot_id).unwrap();
    }

    /// Makes the next runs of `action` of `toplevel` go wrong, one after the other.
    pub fn misbehave(&self, toplevel: &StorePath, action: &str, how: &[Misbehave]) {
        let name = toplevel.as_path().file_name().unwrap().to_str().unwrap().split_once('-').unwrap().1;
        let words: String = how.iter().map(|how| format!("{}\n", how.word())).collect();
        fs::write(self.root().join(format!("behaviour/{name}-{action}")), words).unwrap();
    }

    /// Returns the calls so far: toplevel, action, variables.
    pub fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.root().join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    /// Returns the file that holds the process id of a switch that hangs.
    pub fn hanging(&self) -> PathBuf {
        self.root().join("hanging")
    }

    /// Switches to `toplevel` by hand, as an operator would.
    pub fn operator_switches_to(&self, toplevel: &StorePath) {
        for (below, target) in
            [("etc/static", toplevel.join("etc")), ("run/current-system", toplevel.as_path().into())]
        {
            let link = self.root().join(below);
            fs::remove_file(&link).unwrap();
            symlink(target, link).unwrap();
        }
    }
}
