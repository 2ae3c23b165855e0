//! Can this host still be updated? Shown, not guessed: a remote is reached from scratch (connection, name, credentials,
//! authorities), its refs are asked for, and the deployed revision is fetched by its id and hashed again. What a newer
//! tip looks like has no say: else whoever can push could have good deployments rolled back. Nothing of it is kept.

use std::cell::Cell;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::timeout;

use super::{CheckResult, Steps};
use crate::gateway::link::FetchError;
use crate::host::{self, systemd};
use crate::model::{Oid, UPDATABLE};
use crate::repo::store::{Store, StoreError};
use crate::repo::{FailureClass, import};
use crate::wire;

/// How long a new gateway may take to come up, with the stop of the old one.
const RESTART_MAX: Duration = Duration::from_secs(60);
/// How long it may take to connect then.
const CONNECT_MAX: Duration = Duration::from_secs(15);
/// How long the look before the switch may take. What takes longer then would not do better afterwards.
const BASELINE_MAX: Duration = Duration::from_secs(30);

/// Why a remote did not show that it can be reached.
#[derive(Debug, thiserror::Error)]
enum Unproven {
    #[error("{}: {text}", .0.class, text = .0.text)]
    Fetch(FetchError),
    #[error("what came is of no use: {0}")]
    Pack(crate::repo::Failure),
    #[error("the trusted store can't be used")]
    Store(#[from] StoreError),
}

impl Unproven {
    /// Tells whether the fault is ours, so that nothing is known of the remote.
    fn is_ours(&self) -> bool {
        match self {
            Unproven::Fetch(error) => error.gone,
            Unproven::Pack(failure) => {
                matches!(failure.class, FailureClass::Corrupt | FailureClass::Io | FailureClass::Crashed)
            }
            Unproven::Store(_) => true,
        }
    }
}

/// The check of one health phase.
pub(super) struct Reach<'a> {
    steps: &'a Steps,
    revision: Oid,
    remotes: Vec<String>,
    /// Whether the gateway is the new system's by now.
    renewed: Cell<bool>,
}

impl Steps {
    /// Returns the check for `revision` by way of `remotes`, which the gateway watches.
    pub(super) fn reach(&self, revision: &Oid, remotes: Vec<String>) -> Reach<'_> {
        let renewed = Cell::new(false);
        Reach { steps: self, revision: revision.clone(), remotes, renewed }
    }

    /// Tries all remotes before the switch. Returns the check's name if none can be reached: that is not the new
    /// system's fault then.
    pub(super) async fn unreachable_before(&self, revision: &Oid) -> Option<String> {
        let remotes = self.settings.remotes.iter().map(|r| r.name.clone()).collect();
        let reach = self.reach(revision, remotes);
        reach.renewed.set(true);
        let red = match timeout(BASELINE_MAX, reach.attempt()).await {
            // Without a gateway, or without room for the pack, nothing is known of the remotes: it excuses nothing.
            Ok(result) => !result.ok && !result.broken,
            Err(_) => true,
        };
        red.then(|| UPDATABLE.to_owned())
    }

    async fn prove(&self, store: &Store, remote: &str, revision: &Oid) -> Result<(), Unproven> {
        let mut haves = match store.parents(revision) {
            // Then all of its history comes.
            Err(StoreError::Missing(_)) => Vec::new(),
            parents => parents?,
        };
        haves.truncate(wire::HAVES_MAX);
        let incoming = self.link.probe(remote, revision, haves).await.map_err(Unproven::Fetch)?;
        match import::look(store, revision, self.import_limits(), incoming.pack).await {
            Ok(()) => Ok(()),
            // What the gateway says of a broken transfer is nearer to the cause than "the pack is incomplete".
            Err(failure) => Err(match self.link.why_broken(incoming.number) {
                Some(broke) => Unproven::Fetch(broke),
                None => Unproven::Pack(failure),
            }),
        }
    }
}

impl Reach<'_> {
    /// Tries all remotes at once; the first that shows that it can be reached is enough.
    pub(super) async fn attempt(&self) -> CheckResult {
        if let Err(why) = self.renew().await {
            return CheckResult::broken(why);
        }
        let store = match Store::open_or_create(&self.steps.state_directory, &self.revision) {
            Ok(store) => store,
            Err(error) => return CheckResult::broken(host::chain(&error)),
        };
        let prove = async |remote: &str| {
            let proven = self.steps.prove(&store, remote, &self.revision).await;
            proven.map_err(|unproven| (remote.to_owned(), unproven))
        };
        let mut tries: FuturesUnordered<_> = self.remotes.iter().map(|remote| prove(remote)).collect();
        let mut failed = Vec::new();
        while let Some(proven) = tries.next().await {
            match proven {
                Ok(()) => return CheckResult::good(),
                Err(unproven) => failed.push(unproven),
            }
        }
        describe(&failed)
    }

    /// Has the gateway started anew, once, so that it is the new system's program with its credentials, names and
    /// authorities.
    async fn renew(&self) -> Result<(), String> {
        // Where there is no unit to be restarted a new connection has to do.
        let Some(unit) = self.steps.gateway_unit.filter(|_| !self.renewed.get()) else { return Ok(()) };
        let before = self.steps.link.met();
        systemd::restart(unit, RESTART_MAX).await.map_err(|e| host::chain(&e))?;
        self.renewed.set(true);
        let connected = timeout(CONNECT_MAX, self.steps.link.met_another(before)).await;
        connected
            .map_err(|_| "the new gateway does not connect; see 'journalctl -u pullagent-gateway'".to_owned())
    }
}

fn describe(failed: &[(String, Unproven)]) -> CheckResult {
    let each = failed.iter().map(|(remote, unproven)| format!("{remote}: {}", host::chain(unproven)));
    let text = each.collect::<Vec<_>>().join("; ");
    if failed.iter().any(|(_, unproven)| unproven.is_ours()) {
        CheckResult::broken(text)
    } else {
        CheckResult::bad(text)
    }
}
