//! Everything that a rollback needs, put in place before the host is touched; and whatever speaks against the switch.

use std::time::Duration;

use super::activate::EXIT_LOCKED;
use super::switched::without_bus;
use super::{Built, GUARD_MARGIN, Steps, failed_step, millis};
use crate::config::{self, Settings};
use crate::guard::{self, GuardPlan};
use crate::host::boot::need::{self, Systems};
use crate::host::command::{CommandError, Ending};
use crate::host::files::FileError;
use crate::host::manager::Manager;
use crate::host::unit_states::{self, UnitState};
use crate::host::{self, clock, facts, switch, switch_lock};
use crate::model::{
    Class, Deployment, Event, Failure, Happened, NEEDS_REBOOT, RebootNeed, RebootPolicy, StorePath, UNITS,
    Why,
};
use crate::repo::import;
use crate::repo::store::{Store, StoreError};

/// How long the new system's pre-switch checks may take.
const CHECK_MAX: Duration = Duration::from_secs(60);
/// How much later than the switch the new system's agent may begin to check health.
const HANDOVER_MAX: Duration = Duration::from_secs(60);
/// Where a system says how its agent is configured.
pub(super) const CONFIG_IN_SYSTEM: &str = "etc/pullagent/config.json";

/// The units of the host before the switch.
#[derive(Default)]
struct UnitsBefore {
    /// What a rollback has to see running again.
    active: Vec<String>,
    /// What can't speak against the new system.
    failing: Vec<String>,
}

impl UnitsBefore {
    fn of(units: &[UnitState]) -> UnitsBefore {
        // Nobody but the system itself mounts and unmounts, so a rollback does not.
        let restorable =
            |u: &&UnitState| [".service", ".socket", ".timer", ".path"].iter().any(|k| u.name.ends_with(k));
        let names = |units: &mut dyn Iterator<Item = &UnitState>| units.map(|u| u.name.clone()).collect();
        UnitsBefore {
            active: names(&mut units.iter().filter(|u| u.active == "active").filter(restorable)),
            failing: names(&mut units.iter().filter(|u| u.is_failing())),
        }
    }
}

/// Why a deployment is not begun.
enum Stop {
    /// It is called off, with this verdict on the target.
    Off(Failure),
    /// Something on the host failed; it is tried again.
    Again(Box<Happened>),
}

impl Steps {
    pub(super) async fn prepare(&self, d: &Deployment) -> Happened {
        match self.try_prepare(d).await {
            Ok(event) => Happened::Event(event),
            Err(Stop::Again(happened)) => *happened,
            Err(Stop::Off(failure)) => {
                Happened::Event(Event::Abandoned { id: d.id.clone(), failure, at: clock::unix_secs() })
            }
        }
    }

    async fn try_prepare(&self, d: &Deployment) -> Result<Event, Stop> {
        self.tidy_store().await;
        self.end_earlier_guards(d).await.map_err(|e| again(d, "guard", &e))?;
        let built = Built::journaled(d);
        let new = self.configuration_of(built.toplevel())?;
        if let Some(new) = &new {
            self.check_machine(new)?;
        }
        self.check_company().await.map_err(|e| again(d, "host", &e))??;
        self.check_room(built.toplevel(), d.desired.operation).await?;
        let mut reboot = self.reboot_need(built.toplevel());
        if let Some(need) = &mut reboot {
            need.no_trial = self.trial_obstacle().await;
        }
        let boots = d.desired.why == Why::Reboot;
        let facts = facts::observe(&self.host).map_err(|e| again(d, "host", &e))?;
        // What runs for good but was not booted yet goes back to what was.
        let Some(old) = (if boots { facts.booted } else { facts.running }) else {
            return Err(off(
                Class::Transient,
                "host",
                "the host does not say which system it runs".to_owned(),
            ));
        };
        self.check_valid(d, built.toplevel()).await?;
        self.check_intact(d, &old, built.toplevel()).await?;
        if !boots && reboot.as_ref().is_none_or(|need| need.forbids_switch.is_empty()) {
            self.check_switch(built.toplevel()).await?;
        }
        let units = self.units_before().await;
        let red_before = match &new {
            Some(new) => {
                let revision = &d.desired.tip.revision;
                let (mut red, closed) = tokio::join!(self.red_before(new), self.unreachable_before(revision));
                red.extend(closed);
                // What is not known of the units before can't speak against the new system.
                let unknown = units.is_none() && self.manager == Manager::Systemd;
                red.extend(unknown.then(|| UNITS.to_owned()));
                red
            }
            None => Vec::new(),
        };
        let units = units.unwrap_or_default();
        let plan = self
            .write_plan(d, &old, &facts.boot_id, units, new.as_ref())
            .await
            .map_err(|e| again(d, "guard", &e))?;
        self.sweep_roots(&d.id);
        let (boot_id, deadline_boottime_ms) = (plan.boot_id, plan.deadline_boottime_ms);
        Ok(Event::Prepared { id: d.id.clone(), old, boot_id, deadline_boottime_ms, red_before, reboot })
    }

    /// Returns what of the new system takes a reboot. Where that can't be told it is tried as if it took none, for the switch
    /// itself refuses what it can't do.
    fn reboot_need(&self, toplevel: &StorePath) -> Option<RebootNeed> {
        let (booted, running) = (self.host.booted_system(), self.host.current_system());
        let candidate = toplevel.as_path();
        need::need(Systems { booted: &booted, running: &running, candidate }).unwrap_or_else(|error| {
            tracing::warn!("whether a reboot is needed can't be told: {}", host::chain(&error));
            None
        })
    }

    /// Keeps the stores from growing a pack with each push. Nothing else may read them meanwhile.
    pub(super) async fn tidy_store(&self) {
        self.repack("the trusted store", Store::open(&self.state_directory)).await;
        let submodules = self.submodule_stores();
        for path in submodules.paths() {
            self.repack(&format!("the store of submodule '{path}'"), submodules.store(path)).await;
        }
    }

    async fn repack(&self, what: &str, store: Result<Option<Store>, StoreError>) {
        let repacked = match store {
            Ok(Some(store)) => import::repack_if_needed(&store, &self.stored_limits()).await,
            Ok(None) => Ok(()),
            Err(e) => Err(e.into()),
        };
        if let Err(error) = repacked {
            tracing::warn!("{what} was not repacked: {}", host::chain(&error));
        }
    }

    /// Reads the new system's own configuration out of the store; nothing is evaluated. `None`: it has no pullagent,
    /// and that is allowed.
    pub(super) fn configuration_of(&self, toplevel: &StorePath) -> Result<Option<Settings>, Failure> {
        let path = toplevel.join(CONFIG_IN_SYSTEM);
        let failure = |code: &str, text| Failure { class: Class::Target, code: code.to_owned(), text };
        let lacks = if path.exists() { self.missing_unit(toplevel) } else { Some("no pullagent".to_owned()) };
        if let Some(lacks) = lacks.filter(|_| !self.settings.activation.allow_removal) {
            let text = format!(
                "the new system has {lacks}, so the host could not be updated any more \
                 (activation.allowRemoval would permit it)"
            );
            return Err(failure("no-agent", text));
        }
        if !path.exists() {
            return Ok(None);
        }
        match config::load(&path) {
            Ok(loaded) => Ok(Some(loaded.settings)),
            Err(e) => Err(failure(
                "config",
                format!("the new system's pullagent is misconfigured: {}", host::chain(&e)),
            )),
        }
    }

    fn check_machine(&self, new: &Settings) -> Result<(), Stop> {
        let Some(expected) = &new.expected_machine_id else { return Ok(()) };
        if self.machine_id().as_ref() == Some(expected) {
            return Ok(());
        }
        let text =
            format!("the new system is for machine '{expected}' (expectedMachineId), this is another one");
        Err(off(Class::Target, "machine-id", text))
    }

    /// Nix is asked, since a path that exists may be half-written.
    async fn check_valid(&self, d: &Deployment, toplevel: &StorePath) -> Result<(), Stop> {
        match self.nix.is_valid(toplevel).await {
            Ok(true) => Ok(()),
            Ok(false) => {
                Err(off(Class::Transient, "gone", format!("'{toplevel}' is no longer in the Nix store")))
            }
            Err(e) => Err(again(d, "nix", &e)),
        }
    }

    /// Nix compares what both systems are with what they were when they were made: a power cut may have emptied files, and a
    /// rollback needs the old ones. Only they themselves are looked at, which takes no longer than a call of Nix; all that they
    /// refer to would take minutes.
    async fn check_intact(&self, d: &Deployment, old: &StorePath, new: &StorePath) -> Result<(), Stop> {
        match self.nix.damaged(&[old, new]).await {
            Ok(None) => Ok(()),
            Ok(Some(text)) if old != new && self.discards(new).await => {
                let text =
                    format!("the new system was damaged, as by a power cut, and is built anew: {text}");
                Err(off(Class::Transient, "damaged", text))
            }
            Ok(Some(text)) => {
                let text = format!(
                    "a system in the Nix store is damaged, 'nix-store --repair-path' mends it: {text}"
                );
                Err(off(Class::Transient, "damaged", text))
            }
            Err(e) => Err(again(d, "nix", &e)),
        }
    }

    /// Throws a system away that never ran here, if it is damaged and nobody needs it. Returns whether it is gone.
    async fn discards(&self, new: &StorePath) -> bool {
        matches!(self.nix.damaged(&[new]).await, Ok(Some(_))) && self.delete_built(new).await.is_ok()
    }

    /// Returns what runs now and what fails now. Without it a rollback restores less and no unit can be blamed, which is no
    /// reason not to try the new system.
    async fn units_before(&self) -> Option<UnitsBefore> {
        if self.manager == Manager::Alone {
            return None;
        }
        match unit_states::look([]).await {
            Ok(units) => Some(UnitsBefore::of(&units)),
            Err(error) => {
                tracing::warn!("what runs now can't be noted for a rollback: {}", host::chain(&error));
                None
            }
        }
    }

    /// Asks the new system whether it lets itself be switched to.
    async fn check_switch(&self, toplevel: &StorePath) -> Result<(), Stop> {
        match switch::check(toplevel, self.manager, CHECK_MAX).await {
            Ok(()) => Ok(()),
            Err(e @ CommandError::NotFound { .. }) => Err(off(
                Class::Target,
                "activation",
                format!("the new system can't be switched to: {}", host::chain(&e)),
            )),
            Err(CommandError::Failed { end: Ending::Code(EXIT_LOCKED), .. }) => {
                Err(off(Class::Transient, "locked", "another switch of this host is under way".to_owned()))
            }
            // A switch inhibitor, most of the time. It may let the switch pass after a reboot, so the target is not bad.
            Err(e @ CommandError::Failed { end: Ending::Code(_), .. }) => {
                let text = format!("the new system's pre-switch check says no: {}", host::chain(&e));
                Err(off(Class::Transient, NEEDS_REBOOT, text))
            }
            Err(e) => {
                let text = format!("the new system's pre-switch check came to nothing: {}", host::chain(&e));
                Err(off(Class::Transient, "activation", text))
            }
        }
    }

    /// Looks for what would end a switch before it began, and is none of the new system's doing.
    async fn check_company(&self) -> Result<Result<(), Stop>, FileError> {
        if let Some(error) = self.bus_error().await {
            return Ok(Err(off(Class::Transient, "dbus", without_bus(&error))));
        }
        Ok(match switch_lock::holder(self.host.root())? {
            None => Ok(()),
            Some(pid) => {
                let text = format!("process {pid} is switching this host, and is left to it");
                Err(off(Class::Transient, "locked", text))
            }
        })
    }

    /// Carries out what earlier deployments still owe: their agent could not have it done, or its journal was lost. Else
    /// their timers would do it in the middle of this one.
    async fn end_earlier_guards(&self, d: &Deployment) -> Result<(), guard::GuardError> {
        let boot_id = facts::observe(&self.host)?.boot_id;
        for owed in guard::sweep(&self.guards_dir(), std::slice::from_ref(&d.id), &boot_id)? {
            tracing::warn!(guard = %owed.display(), "the guard of an earlier deployment is still at work");
            // No timer lives longer than the boot that it was set in.
            if guard::read_plan(&owed).is_ok_and(|plan| plan.boot_id == boot_id) {
                guard::fire_now(&owed, self.manager, self.roll_back_max()).await?;
            }
        }
        Ok(())
    }

    async fn write_plan(
        &self,
        d: &Deployment,
        old: &StorePath,
        boot_id: &str,
        units: UnitsBefore,
        new: Option<&Settings>,
    ) -> Result<GuardPlan, guard::GuardError> {
        let dir = self.guard_dir(&d.id);
        let activation = &self.settings.activation;
        // The new system's agent judges by its own times.
        let window = new.map_or(activation.window, |new| new.activation.window.max(activation.window));
        let answer = self.answer_within_planned(new).unwrap_or_default();
        let until = activation.switch_timeout.0 * 2 + window.0 + answer + GUARD_MARGIN;
        let plan = GuardPlan {
            schema: guard::SCHEMA,
            deployment: d.id.clone(),
            old: old.clone(),
            new: d.toplevel.clone(),
            revision: d.desired.tip.revision.clone(),
            branch: d.desired.tip.branch.clone(),
            operation: d.desired.operation.to_string(),
            root: self.host.root().to_owned(),
            switch_job: dir.join(super::activate::JOB),
            boot_id: boot_id.to_owned(),
            deadline_boottime_ms: clock::boottime_ms() + millis(until),
            switch_limit_ms: millis(activation.switch_timeout.0),
            old_checks: serde_json::to_value(&self.settings.health.checks).unwrap_or_default(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            baseline_units: units.active,
            failing_units: units.failing,
            trial_limit_ms: Some(millis(self.trial_limit(new))),
            may_reboot: self.may_reboot(),
            answer_within_ms: activation.answer_within().map(millis),
        };
        if d.desired.why == Why::Reboot {
            // Nothing of it is ever to be switched back; the old system only comes by a boot.
            guard::mark_boot(&dir, self.boot_deadline_ms())?;
        }
        let plan = guard::write_plan(&dir, &plan)?;
        guard::pin(&dir, old, Some(&self.nix)).await?;
        guard::selftest(&dir).await?;
        Ok(plan)
    }

    /// How long the new system may be on trial if its agent never says a word: as long as either of the two agents would take.
    fn trial_limit(&self, new: Option<&Settings>) -> Duration {
        let window = |settings: &Settings| settings.activation.window.0;
        let window = new.map_or(Duration::ZERO, window).max(window(&self.settings));
        let answer = self.answer_within_planned(new).unwrap_or_default();
        window + answer + HANDOVER_MAX + GUARD_MARGIN
    }

    /// Tells whether the host may be rebooted where nothing else brings the old system back.
    pub(super) fn may_reboot(&self) -> bool {
        self.manager == Manager::Systemd
            && self.settings.activation.reboot.policy != RebootPolicy::Never
            && matches!(self.locked_disk(), Ok(None))
    }
}

/// Returns how the agent of `toplevel` is configured, if it has one that this version can read.
pub(super) fn settings_of(toplevel: &StorePath) -> Option<Settings> {
    config::load(&toplevel.join(CONFIG_IN_SYSTEM)).ok().map(|loaded| loaded.settings)
}

fn again(d: &Deployment, code: &str, error: &(dyn std::error::Error + 'static)) -> Stop {
    Stop::Again(Box::new(failed_step(d, code, error)))
}

fn off(class: Class, code: &str, text: String) -> Stop {
    Stop::Off(Failure { class, code: code.to_owned(), text })
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Off(failure)
    }
}
