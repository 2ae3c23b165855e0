//! The repository that the demo's host is made of: a flake without nixpkgs, and the one file in it that
//! says where the host, its web service and its forge are. Text only; nothing is run here.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::remote::{Remote, nginx_user};
use super::store::nix_system;
use crate::config::SCHEMA;

/// The host's name, in the flake and in the configuration.
pub const HOSTNAME: &str = "demo";

/// The branch that this host tries without making it permanent.
pub const TEST_BRANCH: &str = "test-demo";

/// The flake's own file; [`with_migration`] edits it.
pub const FLAKE: &str = include_str!("flake/flake.nix");

const FILES: [(&str, &str); 6] = [
    ("flake.nix", FLAKE),
    ("system/toplevel.sh", include_str!("flake/system/toplevel.sh")),
    ("system/switch-to-configuration", include_str!("flake/system/switch-to-configuration")),
    ("system/nginx.conf", include_str!("flake/system/nginx.conf")),
    ("site/index.html", include_str!("flake/site/index.html")),
    ("site/healthz", include_str!("flake/site/healthz")),
];

/// How fast the demo's agent goes about its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tempo {
    /// The pause between two looks at the forge.
    pub interval: Duration,
    /// How long a new system must be healthy.
    pub soak: Duration,
    /// How long a new system may take to become healthy.
    pub window: Duration,
}

impl Tempo {
    /// Slow enough to be watched.
    pub const SHOWN: Tempo = Tempo {
        interval: Duration::from_secs(1),
        soak: Duration::from_secs(2),
        window: Duration::from_secs(8),
    };
    /// As fast as the configuration allows.
    pub const FAST: Tempo = Tempo {
        interval: Duration::from_secs(1),
        soak: Duration::from_secs(1),
        window: Duration::from_secs(5),
    };
}

/// Where things are on this machine.
#[derive(Debug, Clone, Copy)]
pub struct Wiring<'a> {
    /// The directory that is the host's `/`.
    pub root: &'a Path,
    /// Where the web service listens.
    pub address: SocketAddr,
    /// The directories of the programs that the host's scripts use.
    pub path: &'a str,
    /// The forge.
    pub remote: &'a Remote,
    /// Who may sign: name and public key.
    pub signer: (&'a str, &'a str),
    /// How fast the agent works.
    pub tempo: Tempo,
}

/// Returns the files of the repository's first commit, by path.
pub fn files(wiring: &Wiring<'_>) -> anyhow::Result<Vec<(String, String)>> {
    let machine = serde_json::json!({
        "root": wiring.root,
        "path": wiring.path,
        "address": wiring.address.to_string(),
        "nginxUser": nginx_user(),
        "system": nix_system(),
        "pullagent": settings(wiring),
    });
    let machine = serde_json::to_string_pretty(&machine).context("failed to render 'machine.json'")?;
    let fixed = FILES.map(|(path, content)| (path.to_owned(), content.to_owned()));
    Ok(fixed.into_iter().chain([("machine.json".to_owned(), machine)]).collect())
}

/// Returns the flake's file with an activation script that takes `seconds` longer.
pub fn with_migration(seconds: u32) -> String {
    FLAKE.replace("migrationSeconds = 0;", &format!("migrationSeconds = {seconds};"))
}

/// Returns the web page of a release; each is told from the others by its first line.
pub fn page(title: &str) -> String {
    format!("<h1>{title}</h1>\n<p>served by {HOSTNAME}</p>\n")
}

/// The agent's configuration as its owner would write it: what is not said here has its default.
fn settings(wiring: &Wiring<'_>) -> serde_json::Value {
    let (Tempo { interval, soak, window }, (signer, key)) = (wiring.tempo, wiring.signer);
    let span = |duration| humantime::format_duration(duration).to_string();
    serde_json::json!({
        "schema": SCHEMA,
        "hostname": HOSTNAME,
        "remotes": [{
            "name": "origin",
            "url": wiring.remote.url,
            "interval": span(interval),
            "username": wiring.remote.user(),
            "tokenFile": wiring.remote.token_file,
            "caFile": wiring.remote.ca_file,
        }],
        "trust": { "signers": { signer: { "keys": [key], "roles": ["deployer"] } } },
        "build": { "timeout": "60s", "evalTimeout": "60s" },
        "activation": { "soak": span(soak), "window": span(window), "switchTimeout": "20s" },
        "health": { "checks": { "web": {
            "http": format!("http://{}/healthz", wiring.address),
            "timeout": "2s",
            "interval": "250ms",
            "startPeriod": "500ms",
            "failureThreshold": 3,
        } } },
    })
}
