//! What UEFI machines are made of, built once by `tests/uefi/image` and cached as the other test machine's image is.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::machine::image::{Image, run};

/// All that shapes the image. (The host's image has a hash of its own and comes in by its name.)
const RECIPE: [&str; 15] = [
    include_str!("image"),
    include_str!("guest/initrd-init"),
    include_str!("guest/rig-shell"),
    include_str!("guest/rig.service"),
    include_str!("guest/make-system"),
    include_str!("guest/set-profile"),
    include_str!("guest/install-boot-loader"),
    include_str!("../host/flake/system/activate"),
    include_str!("../host/flake/system/compare-units.awk"),
    include_str!("../host/flake/system/init"),
    include_str!("../host/flake/system/read-unit.awk"),
    include_str!("../host/flake/system/steps.sh"),
    include_str!("../host/flake/system/switch-to-configuration"),
    include_str!("../host/flake/system/toplevel.sh"),
    include_str!("../host/flake/system/units/multi-user.target"),
];

/// The parts of a machine, which nothing ever writes to.
#[derive(Debug)]
pub struct Parts {
    image: Image,
    host: Image,
}

impl Parts {
    /// Returns the parts, building them where that has not been done.
    pub fn get() -> Parts {
        let host = Image::get();
        let recipe = format!("{}\n{}", host.root.display(), RECIPE.join("\n"));
        let image = Image::of("uefi", &recipe, |directory| {
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/uefi/image");
            run(Command::new(script).arg(&host.root).arg(directory));
        });
        Parts { image, host }
    }

    /// Returns the root disk.
    pub fn root_disk(&self) -> PathBuf {
        self.image.root.join("root.img")
    }

    /// Returns the files of the EFI system partition, without a loader.
    pub fn esp(&self) -> PathBuf {
        self.image.root.join("esp")
    }

    /// Returns Debian 13's `bootctl`, to be run out here with its own libraries.
    pub fn bootctl(&self) -> Command {
        let root = &self.host.root;
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let libraries = format!("{}:{}/systemd", libraries.display(), libraries.display());
        let mut command = Command::new(root.join("lib64/ld-linux-x86-64.so.2"));
        command.args(["--library-path", &libraries]).arg(self.image.root.join("bootctl"));
        command
    }

    /// Returns systemd-boot of a version.
    pub fn loader(&self, version: u32) -> PathBuf {
        self.image.root.join(format!("systemd-boot-{version}.efi"))
    }

    /// Returns the newest version of systemd-boot.
    pub fn newest(&self) -> u32 {
        let files = std::fs::read_dir(&self.image.root).unwrap().map(|file| file.unwrap().file_name());
        let version = |name: String| name.strip_prefix("systemd-boot-")?.strip_suffix(".efi")?.parse().ok();
        files.filter_map(|name| version(name.into_string().unwrap())).max().unwrap()
    }

    /// Returns where machines keep what they write.
    pub fn machines(&self) -> PathBuf {
        self.image.cache.join("machines")
    }
}
