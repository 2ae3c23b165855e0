//! The composition root: opens what the agent needs, ties the rooms together, and runs until it is told to stop.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use crate::config::{self, Settings};
use crate::control::server::{self, Ordered};
use crate::gateway::webhook::{self, Wakes};
use crate::gateway::{self, exporter, link, link::Link};
use crate::guard;
use crate::host::facts::{self, HostPaths};
use crate::host::service::{self, NotifyState};
use crate::host::{self, clock, manager::Manager, nix::Nix, secrets::Originals, systemd, units};
use crate::journal::{Journal, JournalError};
use crate::model::{Command, Sighting};
use crate::plan::Held;
use crate::reconcile::{self, INBOX_MAX, Inbound};
use crate::repo::store::Store;
use crate::repo::submodules::SubmoduleStores;
use crate::report::{self, Publisher, Snapshot, Status, Style, Tally, phase};
use crate::steps::{self, Steps};
use crate::wire::{self, Listener};

/// How often the status is written again although nothing changed.
const PUBLISH_AGAIN: Duration = Duration::from_secs(600);
/// How many orders of operators may wait.
const ORDERS_MAX: usize = 16;
/// What systemd calls the socket for the gateway.
const GATEWAY_SOCKET: &str = "gateway";
/// How often an agent that may only observe looks at the host, and whether its journal can be used again. Its watchdog
/// waits longer.
const OBSERVE_EVERY: Duration = Duration::from_secs(60);

/// What `pullagent run` was told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The host lies below this directory; `/` but for demo and tests.
    pub root: PathBuf,
    /// The configuration file.
    pub config: PathBuf,
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// The configuration can't be read, or another agent runs.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let loaded = config::load(&options.config)?;
    for key in &loaded.unknown {
        tracing::warn!(key, "this pullagent does not know the configuration key");
    }
    // An error only says that some provider is installed already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, live(options, loaded.settings))
}

/// Returns where the host at `root` keeps what `settings` calls its state directory.
pub fn state_directory(root: &Path, settings: &Settings) -> PathBuf {
    root.join(settings.state_directory.strip_prefix("/").unwrap_or(&settings.state_directory))
}

async fn live(options: &Options, settings: Settings) -> anyhow::Result<ExitCode> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let work = work(options, Arc::new(settings));
    tokio::select! {
        done = work => done.map(|()| ExitCode::SUCCESS),
        _ = term.recv() => Ok(stop()),
        _ = int.recv() => Ok(stop()),
    }
}

/// What is under way on the host goes on by itself: switch and guard are processes of their own.
fn stop() -> ExitCode {
    tracing::info!(event = "stopping", "stopping");
    service::notify(&[NotifyState::Stopping]);
    ExitCode::SUCCESS
}

async fn work(options: &Options, settings: Arc<Settings>) -> anyhow::Result<()> {
    let host = HostPaths::under(options.root.clone());
    let state = state_directory(&options.root, &settings);
    let boot_id = facts::observe(&host)?.boot_id;
    let door = door(Manager::of(&options.root))?;
    let (show, shown) = watch::channel(Arc::new(Snapshot::default()));
    let publisher = Publisher::open(&options.root)?;
    // A gateway that runs goes on with what it has, also while nothing is deployed.
    let board = Board { show, tally: publisher.tally(), secrets: originals(&settings) };
    if let (None, Some(exporter)) = (&door, &settings.exporter) {
        let metrics = exporter::run(exporter.clone(), options.root.clone());
        tokio::task::spawn_local(async { match metrics.await {} });
    }
    tokio::task::spawn_local(publish(publisher, shown.clone(), settings.clone()));
    let (orders, mut ordered) = mpsc::channel(ORDERS_MAX);
    let listener = server::bind(&options.root)?;
    tokio::task::spawn_local(server::serve(listener, orders, shown, settings.clone()));
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(event = "started", "pullagent {version} started, for the host {}", settings.hostname);
    let mut opened = Journal::open(&state, &boot_id);
    loop {
        let journal = match opened {
            Ok(journal) => journal,
            Err(locked @ JournalError::Locked(_)) => return Err(locked.into()),
            Err(error) => {
                let again = || Journal::reopen(&state, &boot_id);
                observe_only(&host, &board.show, &mut ordered, unusable(&error), again).await
            }
        };
        service::notify(&[NotifyState::Ready]);
        if journal.is_new() {
            tracing::info!(path = %state.display(), "no journal: this host starts anew, from the revision it runs");
        }
        opened = Err(deploy(journal, &host, &state, &settings, door.as_ref(), &board, &mut ordered).await?);
    }
}

type Orders = mpsc::Receiver<Ordered>;

/// Where everybody sees what the loop does.
struct Board {
    show: watch::Sender<Arc<Snapshot>>,
    tally: Tally,
    secrets: RefCell<Originals>,
}

/// Returns where the gateway connects to if it is a process of its own, which is the case where systemd passes us the
/// socket for it; `None`: it is a part of this process.
fn door(manager: Manager) -> anyhow::Result<Option<Listener>> {
    let passed =
        service::take_socket(GATEWAY_SOCKET).context("failed to take the socket that systemd passes")?;
    if passed.is_none() && manager == Manager::Systemd {
        tracing::warn!(
            "systemd passes no socket for the gateway (pullagent.socket); remotes are asked from this process"
        );
    }
    passed.map(Listener::from_fd).transpose().context("failed to use the socket that systemd passes")
}

/// Keeps the host at what the remotes say until the journal fails.
async fn deploy(
    journal: Journal,
    host: &HostPaths,
    state: &Path,
    settings: &Settings,
    door: Option<&Listener>,
    board: &Board,
    ordered: &mut Orders,
) -> anyhow::Result<JournalError> {
    let nix = Nix::detect([]).await.context("pullagent needs Nix on its PATH")?;
    let manager = Manager::of(host.root());
    // What an earlier run left unfinished.
    manager.sweep().await;
    // What it can't mend is found damaged when it is used, and thrown away.
    if let Err(error) = Store::sweep(state) {
        tracing::warn!("what an earlier run left in the store can't be removed: {}", host::chain(&error));
    }
    if let Err(error) = SubmoduleStores::new(state, settings.source.submodule_paths()).sweep() {
        tracing::warn!("old stores of submodules can't be removed: {}", host::chain(&error));
    }
    drop(std::fs::remove_dir_all(state.join("export")));
    let (deployment, recheck) = (&journal.state().deployment, &journal.state().recheck);
    let under_way = deployment.iter().map(|d| d.id.clone());
    let keep: Vec<_> = under_way.chain(recheck.iter().map(|r| r.id.clone())).collect();
    if let Err(error) = guard::sweep(&state.join("guard"), &keep, journal.boot_id()) {
        tracing::warn!("old guards can't be removed: {}", host::chain(&error));
    }
    let (tell, told) = mpsc::channel(INBOX_MAX);
    let steps = Rc::new(Steps {
        trust: settings.policy()?,
        seen_trust: RefCell::default(),
        compared: RefCell::default(),
        host: host.clone(),
        state_directory: state.to_owned(),
        link: Link::new(link::sources(settings), link::hints(settings)),
        gateway_unit: door.filter(|_| manager == Manager::Systemd).map(|_| units::GATEWAY),
        nix,
        manager,
        tell,
        tally: board.tally.clone(),
        settings: settings.clone(),
    });
    if manager == Manager::Systemd {
        tokio::task::spawn_local(retire_when_removed(board.show.subscribe()));
    }
    match door {
        Some(_) => reconcile(journal, &steps, door, board, ordered, told).await,
        None => with_gateway(&steps, reconcile(journal, &steps, door, board, ordered, told)).await,
    }
}

/// Ends pullagent on a host whose system, as it runs and as it is meant to stay, has no pullagent any more: nobody who
/// removed it expects the next push to bring it back.
async fn retire_when_removed(mut shown: watch::Receiver<Arc<Snapshot>>) {
    loop {
        let snapshot = shown.borrow_and_update().clone();
        let settled =
            snapshot.facts.host.as_ref().filter(|h| snapshot.state.deployment.is_none() && !h.is_torn());
        let running = settled.and_then(|host| host.running.as_ref());
        if running.is_some_and(|running| !steps::has_agent(running)) {
            tracing::warn!("the running system has no pullagent: it ends, and does not come back by itself");
            match steps::retire().await {
                Ok(()) => return,
                Err(error) => tracing::error!("pullagent can't be stopped: {}", host::chain(&error)),
            }
        }
        if shown.changed().await.is_err() {
            return;
        }
    }
}

/// Runs the gateway in this process, beside `work`. Without it nothing more would be heard of the remotes; whoever
/// supervises this process starts it again.
async fn with_gateway<T>(steps: &Steps, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let (ours, theirs) = wire::pair()?;
    let wakes = Arc::new(Wakes::default());
    let mut gateway = tokio::task::spawn_local(gateway::run(theirs, wakes.clone()));
    let settings = steps.settings.clone();
    let webhooks = tokio::task::spawn_local(async move { webhook::run(&settings, None, wakes).await });
    steps.link.attach(ours).await;
    let done = tokio::select! {
        done = work => done,
        ended = &mut gateway => Err(match ended {
            Ok(Ok(())) => anyhow!("it closed the connection"),
            Ok(Err(error)) => error.into(),
            Err(error) => error.into(),
        }),
    };
    gateway.abort();
    webhooks.abort();
    done.context("the gateway ended")
}

/// Runs the loop with everything that feeds it, until the journal fails.
///
/// # Errors
/// The gateway in this process failed.
async fn reconcile(
    mut journal: Journal,
    steps: &Rc<Steps>,
    door: Option<&Listener>,
    board: &Board,
    ordered: &mut Orders,
    mut told: mpsc::Receiver<Sighting>,
) -> anyhow::Result<JournalError> {
    let (send, mut inbox) = mpsc::channel(INBOX_MAX);
    let policy = Steps::policy(&steps.settings);
    let listen = async {
        let see = async |sighting| {
            board.tally.saw(&sighting);
            drop(send.send(Inbound::Saw(sighting)).await);
            // Looked at whenever a remote was asked, so it costs no wake-up.
            if let Some(gateway) = steps.gateway_unit {
                renew(gateway, &board.secrets).await;
            }
        };
        match door {
            Some(door) => match steps.link.admit(door, clock::unix_secs, see).await {},
            None => steps.link.follow(clock::unix_secs, see).await,
        }
    };
    let obey = async {
        while let Some((command, reply)) = ordered.recv().await {
            if matches!(command, Command::Sync)
                && let Err(error) = steps.link.poll().await
            {
                tracing::error!("the gateway can't be asked to poll: {}", host::chain(&error));
            }
            drop(send.send(Inbound::Asked { command, at: clock::unix_secs(), reply }).await);
        }
        std::future::pending().await
    };
    let hear = async {
        while let Some(sighting) = told.recv().await {
            drop(send.send(Inbound::Saw(sighting)).await);
        }
        std::future::pending().await
    };
    let perform = async |action| {
        let (phase, began) = (phase(&action), clock::boottime_ms());
        let happened = steps.perform(action).await;
        board.tally.performed(phase, clock::boottime_ms() - began, &happened);
        happened
    };
    tokio::select! {
        failed = reconcile::run(&mut journal, &policy, &mut inbox, &board.show, perform, service::beat) => {
            let Err(failed) = failed;
            Ok(failed)
        }
        heard = listen => Err(heard.err().map_or_else(|| anyhow!("it closed the connection"), anyhow::Error::from)),
        never = obey => never,
        never = hear => never,
    }
}

/// Has systemd copy the gateway's secrets again if one was renewed, which it does when it starts it.
async fn renew(gateway: &str, secrets: &RefCell<Originals>) {
    let Some(renewed) = secrets.borrow().renewed() else { return };
    tracing::info!("a secret was renewed: the gateway is restarted with it");
    match systemd::restart_soon(gateway).await {
        Ok(()) => secrets.borrow_mut().copied(renewed),
        // It is tried again when the next remote is asked.
        Err(error) => tracing::error!(
            "the gateway can't be given the renewed secret: {}; try: systemctl restart {gateway}",
            host::chain(&error)
        ),
    }
}

/// Returns what systemd has copied for the gateway.
fn originals(settings: &Settings) -> RefCell<Originals> {
    let originals = Originals::of(settings.copied_secrets.clone());
    for file in originals.unseen() {
        tracing::warn!(
            "'{}' can't be looked at by the agent, so it won't notice when that secret is renewed; after that: systemctl \
             restart {}",
            file.display(),
            units::GATEWAY
        );
    }
    RefCell::new(originals)
}

/// Says why the journal can't be used, and what helps.
fn unusable(error: &JournalError) -> Held {
    let said = host::chain(error);
    match error {
        JournalError::Untrusted { path, .. } => Held::new(
            "state-untrusted",
            format!("{said}, so what is remembered there proves nothing"),
            format!(
                "find out who could write there; then chown and chmod go-w '{}', or move it away to start anew from what runs",
                path.display()
            ),
        ),
        JournalError::Damaged { .. } | JournalError::Illegal { .. } => Held::new(
            "journal",
            said,
            "move that file away, and this host starts anew from the revision it runs; see docs/operations.md",
        ),
        JournalError::Locked(_)
        | JournalError::Io { .. }
        | JournalError::Refused(_)
        | JournalError::Poisoned(_) => Held::new(
            "journal",
            said,
            "mend that; it is tried again every minute, or: systemctl restart pullagent",
        ),
    }
}

/// Without a journal nothing may be done: the host stays as it is, and says so, until the journal can be used again.
async fn observe_only(
    host: &HostPaths,
    show: &watch::Sender<Arc<Snapshot>>,
    ordered: &mut Orders,
    trouble: Held,
    reopen: impl Fn() -> Result<Journal, JournalError>,
) -> Journal {
    let text = trouble.text.clone();
    tracing::error!(
        event = "observing",
        code = trouble.code,
        "only observing, nothing is deployed: {text}; {}",
        trouble.advice
    );
    service::notify(&[NotifyState::Ready, NotifyState::Status("only observing; see 'pullagent status'")]);
    let mut snapshot = (**show.borrow()).clone();
    snapshot.doing = None;
    snapshot.trouble = Some(trouble);
    loop {
        if let Ok(facts) = facts::observe(host) {
            let (now, guard) = (clock::unix_secs(), snapshot.facts.guard.clone());
            let seen = Sighting::Host { now, host: Box::new(facts), guard, introduction: None, trust: None };
            snapshot.facts.see(seen);
        }
        show.send_replace(Arc::new(snapshot.clone()));
        service::notify(&[NotifyState::Watchdog]);
        tokio::select! {
            () = tokio::time::sleep(OBSERVE_EVERY) => {}
            Some((_, reply)) = ordered.recv() => {
                drop(reply.send(Err(format!("nothing can be done: {text}"))));
            }
        }
        if let Ok(journal) = reopen() {
            tracing::info!("the journal can be used again");
            return journal;
        }
    }
}

/// Writes status and history whenever something changed.
async fn publish(
    mut publisher: Publisher,
    mut shown: watch::Receiver<Arc<Snapshot>>,
    settings: Arc<Settings>,
) {
    let mut said = String::new();
    let style = Style { zone: clock::zone(), ..Style::plain() };
    loop {
        let snapshot = shown.borrow_and_update().clone();
        if snapshot.is_known() {
            if let Err(error) = publisher.publish(&snapshot, &settings, clock::unix_secs()) {
                tracing::error!("the status can't be written: {}", host::chain(&error));
            }
            let line = report::summary(&Status::from_snapshot(&snapshot, &settings), &style);
            if line != said {
                service::notify(&[NotifyState::Status(&line)]);
                said = line;
            }
        }
        match tokio::time::timeout(PUBLISH_AGAIN, shown.changed()).await {
            Ok(Ok(())) | Err(_) => {}
            Ok(Err(_)) => return,
        }
    }
}
