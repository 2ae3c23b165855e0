//! What each action does to the world: [`Steps::perform`] has one arm per [`Action`], and each arm is one function.
//!
//! The values that travel the line can only be made by the step before them: [`Built`] takes a [`Verified`], and
//! activation takes a [`Built`]. The other door to each stands beside it and is for what the journal says.
//!
//! ```compile_fail
//! # use pullagent::{model, steps};
//! // What was not verified can't be built:
//! fn sneak(tip: model::Tip) -> steps::Verified {
//!     steps::Verified { tip }
//! }
//! ```

mod activate;
mod build;
mod handover;
mod health;
mod observe;
mod prepare;
mod probe;
mod reach;
mod relate;
mod room;
mod settle;
mod submodules;
mod switched;
mod tidy;
mod trial;
mod verify;

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::Settings;
use crate::gateway::link::Link;
use crate::host::clock;
use crate::host::facts::HostPaths;
use crate::host::manager::Manager;
use crate::host::nix::Nix;
use crate::model::{Action, Deployment, DeploymentId, Failure, Happened, Oid, Sighting, StorePath};
use crate::plan::Policy;
use crate::repo::Limits;
use crate::report::{self, Tally};
use crate::{host, trust};

pub use build::Built;
pub use handover::{has_agent, retire};
pub use observe::Compared;
pub use probe::{CheckResult, ProbeSpec, VERB as PROBE_VERB, probe_main};
pub use relate::TrustSeen;
pub use verify::Verified;

/// How much longer than switch, window and the like a guard waits before it fires.
const GUARD_MARGIN: Duration = Duration::from_secs(20);
/// How long a boot loader may take to be written.
const BOOT_MAX: Duration = Duration::from_secs(600);

/// Everything that the steps need to reach the world.
#[derive(Debug)]
pub struct Steps {
    /// The configuration of the running system.
    pub settings: Settings,
    /// Whose signatures count until other trust settings were adopted.
    pub trust: trust::Policy,
    /// The trust settings of the system that was looked at last; a system never changes.
    pub seen_trust: RefCell<Option<(StorePath, TrustSeen)>>,
    /// Which systems were compared last, and what of the newest takes a reboot.
    pub compared: RefCell<Option<Compared>>,
    /// Where the host keeps what it says of itself.
    pub host: HostPaths,
    /// Journal, trusted store, guards and roots lie here.
    pub state_directory: PathBuf,
    /// The way to the gateway.
    pub link: Link,
    /// The gateway's unit, where it has one of its own.
    pub gateway_unit: Option<&'static str>,
    /// The way to Nix.
    pub nix: Nix,
    /// Who keeps what we start.
    pub manager: Manager,
    /// Where a long step tells how it gets on. What finds no room is not told.
    pub tell: tokio::sync::mpsc::Sender<Sighting>,
    /// Counts how long the parts of a long step take.
    pub tally: Tally,
}

impl Steps {
    /// Counts how long `work` takes, if it comes to its end.
    async fn timed<T>(&self, phase: &'static str, work: impl Future<Output = T>) -> T {
        let began = clock::boottime_ms();
        let done = work.await;
        self.tally.took(phase, clock::boottime_ms() - began);
        done
    }

    /// Performs one action. Its future may be dropped where [`Action::may_be_dropped`] says so; that kills its children.
    pub async fn perform(&self, action: Action) -> Happened {
        match action {
            Action::Observe(id) => self.observe(id.as_ref()),
            Action::Wait { until } => wait(until).await,
            Action::Record(event) => Happened::Event(event),
            Action::Relate { revision, to } => self.relate(revision, to).await,
            Action::Verify(verification) => self.verify(&verification).await,
            Action::Build(id, desired) => self.build(id, desired).await,
            Action::Prepare(d) => self.prepare(&d).await,
            Action::Arm(d) => self.arm(&d).await,
            Action::Switch(d) => self.switch(&d).await,
            Action::Stage(d) => self.stage(&d).await,
            Action::Reboot(d) => self.reboot(&d).await,
            Action::EnterTrial(d) => self.enter_trial(&d).await,
            Action::Shorten(d) => self.shorten(&d).await,
            Action::CheckHealth(d) => self.check_health(&d).await,
            Action::ChooseGenerations(tidying) => self.choose_generations(&tidying),
            Action::RemoveGenerations(tidying) => self.remove_generations(&tidying).await,
            Action::CheckOld(recheck) => self.check_old(&recheck).await,
            Action::AwaitAnswer(d) => self.await_answer(&d).await,
            Action::Decide(d, decision) => self.decide_from_outside(&d, &decision).await,
            Action::Confirm(d) => self.confirm(&d).await,
            Action::RollBack(d) => self.roll_back(&d).await,
            Action::Abandon(d, failure) => self.abandon(&d, failure).await,
            Action::AwaitReboot(d, awaited) => self.await_reboot(&d, awaited).await,
        }
    }

    /// Returns what the configuration says about decisions.
    pub fn policy(settings: &Settings) -> Policy {
        crate::report::policy(settings)
    }

    /// Returns what taking in a pack may cost.
    fn import_limits(&self) -> Limits {
        let fetch = &self.settings.fetch;
        let waiting = u32::try_from(fetch.timeout.0.as_secs()).unwrap_or(u32::MAX);
        Limits {
            objects: fetch.objects_max,
            object_bytes: fetch.object_bytes_max,
            pack_bytes: fetch.pack_bytes_max,
            total_bytes: fetch.unpacked_bytes_max,
            wall_secs: waiting.saturating_add(Limits::CPU_SECS),
            ..Limits::default()
        }
    }

    /// Returns bounds for what is trusted already: it may have been taken in under other ones.
    fn stored_limits(&self) -> Limits {
        let fetch = &self.settings.fetch;
        let defaults = Limits::default();
        Limits {
            object_bytes: defaults.object_bytes.max(fetch.object_bytes_max),
            pack_bytes: defaults.pack_bytes.max(fetch.pack_bytes_max),
            total_bytes: defaults.total_bytes.max(fetch.unpacked_bytes_max),
            ..defaults
        }
    }

    fn guard_dir(&self, id: &DeploymentId) -> PathBuf {
        self.guards_dir().join(id.as_str())
    }

    fn guards_dir(&self) -> PathBuf {
        self.state_directory.join("guard")
    }

    fn roots_dir(&self) -> PathBuf {
        self.state_directory.join("roots")
    }
}

/// Sleeps until a wall-clock second. The clock may jump, so it is looked at again now and then.
async fn wait(until: Option<u64>) -> Happened {
    const LOOK: Duration = Duration::from_secs(60);
    let Some(until) = until else { return std::future::pending().await };
    loop {
        let left = until.saturating_sub(clock::unix_secs());
        if left == 0 {
            return Happened::Saw(Sighting::Woke);
        }
        tokio::time::sleep(Duration::from_secs(left).min(LOOK)).await;
    }
}

/// Reports that a step failed in a way that may pass.
fn failed(revision: &Oid, code: &str, error: &(dyn std::error::Error + 'static)) -> Happened {
    let failure = Failure::transient(code, host::chain(error));
    report::log_failure(revision, code, &failure.text);
    let (revision, at) = (revision.clone(), clock::unix_secs());
    Happened::Saw(Sighting::Failed { revision, remote: None, failure, at })
}

fn failed_step(d: &Deployment, code: &str, error: &(dyn std::error::Error + 'static)) -> Happened {
    failed(&d.desired.tip.revision, code, error)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
