//! The demo's host: a directory that stands for `/`, laid out as NixOS lays it out, with one service, a web
//! server. It is looked at from the outside only: links, files, and the page over HTTP.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::remote::{await_listening, free_address};
use super::tools::{Server, Tools, run};
use crate::model::StorePath;

/// How long the page may take; nginx answers within a millisecond.
const PAGE_TIME_MAX: Duration = Duration::from_secs(5);

/// How long nginx may take to serve what it was told to serve.
const RELOAD_TIME_MAX: Duration = Duration::from_secs(5);

/// The pause between two looks at the host.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// The largest answer of the web service that is read, in bytes.
const PAGE_BYTES_MAX: u64 = 64 * 1024;

const DIRECTORIES: [&str; 6] =
    ["boot", "etc", "run/nixos", "var/lib/nginx", "var/log", "nix/var/nix/profiles"];

/// A host that is a directory.
#[derive(Debug)]
pub struct Host {
    /// The directory that stands for `/`.
    pub root: PathBuf,
    /// Where the web service listens.
    pub address: SocketAddr,
    tools: Tools,
    service: Option<Server>,
}

/// What a look at the host shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// `/run/current-system`.
    pub running: Option<StorePath>,
    /// The system that `/etc/static` lies in.
    pub etc: Option<StorePath>,
    /// The `system` profile.
    pub profile: Option<StorePath>,
    /// The number of the profile's generation.
    pub generation: Option<u64>,
    /// What the boot loader would start.
    pub boot: Option<StorePath>,
    /// The first line of the service's page.
    pub title: String,
    /// The status of the service's health page.
    pub health: u16,
}

impl Host {
    /// Makes an empty host below `root`, whose web service will have a free port.
    pub fn create(tools: &Tools, root: &Path) -> anyhow::Result<Host> {
        for directory in DIRECTORIES.map(|directory| root.join(directory)) {
            std::fs::create_dir_all(&directory)
                .with_context(|| format!("failed to create '{}'", directory.display()))?;
        }
        let machine_id: String = std::iter::repeat_with(|| fastrand::digit(16)).take(32).collect();
        let path = root.join("etc/machine-id");
        std::fs::write(&path, format!("{machine_id}\n"))
            .with_context(|| format!("failed to write '{}'", path.display()))?;
        Ok(Host { root: root.to_owned(), address: free_address()?, tools: tools.clone(), service: None })
    }

    /// Boots `system` for the first time, as the installer left it: links, boot entry, service.
    pub async fn boot(&mut self, system: &StorePath) -> anyhow::Result<()> {
        let link = |target: PathBuf, name: &str| {
            let link = self.root.join(name);
            symlink(target, &link).with_context(|| format!("failed to create '{}'", link.display()))
        };
        link(system.join("etc"), "etc/static")?;
        link("static/pullagent".into(), "etc/pullagent")?;
        link(system.as_path().to_owned(), "run/booted-system")?;
        link(system.as_path().to_owned(), "run/current-system")?;
        self.switch(system, "boot").await?;

        let prefix = self.root.join("var/lib/nginx");
        let conf = self.root.join("etc/static/nginx/nginx.conf");
        let arguments =
            ["-e".as_ref(), "stderr".as_ref(), "-p".as_ref(), prefix.as_path(), "-c".as_ref(), &conf];
        let mut service = self.tools.serve("nginx", arguments, &self.root.join("var/log/nginx.log"))?;
        await_listening(&mut service, self.address).await?;
        self.service = Some(service);
        Ok(())
    }

    /// Runs a system's own `switch-to-configuration`, as an operator would by hand.
    pub async fn switch(&self, system: &StorePath, verb: &str) -> anyhow::Result<()> {
        run(self.tools.command(system.join("bin/switch-to-configuration")).arg(verb)).await.map(drop)
    }

    /// Returns the profile that decides what a reboot starts.
    pub fn profile(&self) -> PathBuf {
        self.root.join("nix/var/nix/profiles/system")
    }

    /// Returns the system that `/run/current-system` names.
    pub fn running(&self) -> Option<StorePath> {
        self.system_at("run/current-system")
    }

    /// Tells whether an activation stands half-way, as it does while one runs.
    pub fn is_torn(&self) -> bool {
        self.system_at("etc/static") != self.running()
    }

    /// Looks at everything that tells what the host is.
    pub async fn view(&self) -> anyhow::Result<View> {
        let (_, page) = self.get("/").await?;
        Ok(View {
            running: self.running(),
            etc: self.system_at("etc/static"),
            profile: self.system_at("nix/var/nix/profiles/system"),
            generation: self.generation(),
            boot: self.boot_default(),
            title: page.lines().next().unwrap_or_default().to_owned(),
            health: self.get("/healthz").await?.0,
        })
    }

    /// Looks until the host is as wanted: nginx serves a new configuration a moment after it was told to.
    ///
    /// # Errors
    /// If it is not so after a few seconds; the error says what it is instead.
    pub async fn await_view(&self, wanted: impl Fn(&View) -> bool) -> anyhow::Result<View> {
        let deadline = tokio::time::Instant::now() + RELOAD_TIME_MAX;
        loop {
            let view = self.view().await?;
            if wanted(&view) {
                return Ok(view);
            }
            if tokio::time::Instant::now() > deadline {
                bail!("the host is not as it should be: {view:?}");
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    fn system_at(&self, link: &str) -> Option<StorePath> {
        StorePath::containing(&self.root.join(link).canonicalize().ok()?)
    }

    fn generation(&self) -> Option<u64> {
        let link = std::fs::read_link(self.profile()).ok()?;
        link.to_str()?.strip_prefix("system-")?.strip_suffix("-link")?.parse().ok()
    }

    fn boot_default(&self) -> Option<StorePath> {
        let entry = std::fs::read_to_string(self.root.join("boot/loader.conf")).ok()?;
        StorePath::containing(Path::new(entry.strip_prefix("default ")?.trim()))
    }

    /// Asks the web service for a page; returns status and body.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let ask = async {
            let mut stream = tokio::net::TcpStream::connect(self.address).await?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.take(PAGE_BYTES_MAX).read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let url = format!("http://{}{path}", self.address);
        let answer = tokio::time::timeout(PAGE_TIME_MAX, ask)
            .await
            .with_context(|| format!("no answer from '{url}' within {} s", PAGE_TIME_MAX.as_secs()))?
            .with_context(|| format!("failed to ask '{url}'"))?;
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        match (status, answer.split_once("\r\n\r\n")) {
            (Some(status), Some((_, body))) => Ok((status, body.to_owned())),
            (None, _) | (_, None) => bail!("'{url}' does not answer in HTTP: '{answer}'"),
        }
    }
}
