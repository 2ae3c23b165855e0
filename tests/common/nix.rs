//! A Nix store of one's own below a directory, with the machine's Nix: needs neither root nor a network.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use pullagent::host::nix::Nix;

/// Makes a private store below `base` and returns the variables that choose it.
pub fn private_store(base: &Path) -> Vec<(OsString, OsString)> {
    let dirs = [
        ("NIX_STORE_DIR", "store"),
        ("NIX_STATE_DIR", "state"),
        ("NIX_LOG_DIR", "log"),
        ("NIX_CONF_DIR", "conf"),
        ("HOME", "home"),
    ];
    let vars = dirs.map(|(name, dir)| {
        fs::create_dir_all(base.join(dir)).unwrap();
        (name.into(), base.join(dir).into())
    });
    fs::write(base.join("conf/nix.conf"), "sandbox = false\nsubstitute = false\nbuild-users-group =\n")
        .unwrap();
    vars.into()
}

/// Returns the machine's Nix on a private store below `base`.
pub async fn private(base: &Path) -> Nix {
    Nix::detect(private_store(base)).await.unwrap()
}
