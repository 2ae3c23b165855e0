//! Everything that a rollback needs, put in place before the host is touched; and whatever speaks against the switch.

use std::time::Duration;

use super::{Built, GUARD_MARGIN, Steps, failed_step, millis, probe};
use crate::config::{self, Settings};
use crate::guard::{self, GuardPlan};
use crate::host::manager::Manager;
use crate::host::{self, clock, command::CommandError, facts, files, switch, systemd};
use crate::model::{Class, Deployment, Event, Failure, Happened, StorePath};
use crate::repo::{import, store::Store};

/// How long the new system's pre-switch checks may take.
const CHECK_MAX: Duration = Duration::from_secs(60);
/// Where a system says how its agent is configured.
pub(super) const CONFIG_IN_SYSTEM: &str = "etc/pullagent/config.json";

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
        let built = Built::journaled(d);
        let new = self.configuration_of(built.toplevel())?;
        if let Some(new) = &new {
            self.check_machine(new)?;
        }
        self.check_space(built.toplevel())?;
        self.check_valid(d, built.toplevel()).await?;
        self.check_switch(built.toplevel()).await?;
        let facts = facts::observe(&self.host).map_err(|e| again(d, "host", &e))?;
        let Some(old) = facts.running else {
            return Err(off(
                Class::Transient,
                "host",
                "the host does not say which system it runs".to_owned(),
            ));
        };
        let red_before = match &new {
            Some(new) => {
                let revision = &d.desired.tip.revision;
                let (mut red, closed) = tokio::join!(self.baseline(new), self.unreachable_before(revision));
                red.extend(closed);
                red
            }
            None => Vec::new(),
        };
        let plan = self.write_plan(d, &old, &facts.boot_id).await.map_err(|e| again(d, "guard", &e))?;
        self.sweep_roots(&d.id);
        let (boot_id, deadline_boottime_ms) = (plan.boot_id, plan.deadline_boottime_ms);
        Ok(Event::Prepared { id: d.id.clone(), old, boot_id, deadline_boottime_ms, red_before })
    }

    /// Keeps the trusted store from growing a pack with each push. Here nothing else reads it, and what is done here
    /// is not dropped half-way.
    async fn tidy_store(&self) {
        let repacked = match Store::open(&self.state_directory) {
            Ok(Some(store)) => import::repack_if_needed(&store, &self.stored_limits()).await,
            Ok(None) => Ok(()),
            Err(e) => Err(e.into()),
        };
        if let Err(error) = repacked {
            tracing::warn!("the trusted store was not repacked: {}", host::chain(&error));
        }
    }

    /// Reads the new system's own configuration out of the store; nothing is evaluated. `None`: it has no pullagent,
    /// and that is allowed.
    pub(super) fn configuration_of(&self, toplevel: &StorePath) -> Result<Option<Settings>, Failure> {
        let path = toplevel.join(CONFIG_IN_SYSTEM);
        let failure = |code: &str, text| Failure { class: Class::Target, code: code.to_owned(), text };
        if !path.exists() && self.settings.activation.allow_removal {
            return Ok(None);
        }
        if !path.exists() {
            let text = "the new system has no pullagent, so the host could not be updated any more \
                        (activation.allowRemoval would permit it)";
            return Err(failure("no-agent", text.to_owned()));
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
        let here = facts::observe(&self.host).ok().and_then(|f| f.machine_id);
        if here.as_ref() == Some(expected) {
            return Ok(());
        }
        let text =
            format!("the new system is for machine '{expected}' (expectedMachineId), this is another one");
        Err(off(Class::Target, "machine-id", text))
    }

    fn check_space(&self, toplevel: &StorePath) -> Result<(), Stop> {
        let needed = self.settings.activation.free_bytes_min;
        let store = files::parent(toplevel.as_path());
        for dir in [self.state_directory.as_path(), store] {
            let free = match files::free_space(dir) {
                Ok(free) => free.bytes,
                Err(e) => return Err(off(Class::Transient, "space", host::chain(&e))),
            };
            if free < needed {
                let text = format!(
                    "'{}' has {} MiB free, {} MiB are needed to switch safely",
                    dir.display(),
                    free >> 20,
                    needed >> 20
                );
                return Err(off(Class::Transient, "space", text));
            }
        }
        Ok(())
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

    /// Probes the checks that both systems have, and returns those that are red already: they can't speak against
    /// the new system.
    async fn baseline(&self, new: &Settings) -> Vec<String> {
        let both = |name: &String| self.settings.health.checks.contains_key(name);
        let checks = new.health.checks.iter().filter(|(name, _)| both(name));
        let probes = checks.map(async |(name, check)| {
            let result = probe::run(check, self.manager).await;
            // A probe that can't do its work says nothing about the old system, so it excuses nothing.
            (!result.ok && !result.not_yet && !result.broken).then(|| name.clone())
        });
        futures_util::future::join_all(probes).await.into_iter().flatten().collect()
    }

    /// Returns what runs now. Without it a rollback restores less, which is no reason not to try the new system.
    async fn active_units(&self) -> Vec<String> {
        match self.manager {
            Manager::Alone => Vec::new(),
            Manager::Systemd => systemd::active_units().await.unwrap_or_else(|error| {
                tracing::warn!("what runs now can't be noted for a rollback: {}", host::chain(&error));
                Vec::new()
            }),
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
            // A switch inhibitor, most of the time. It may let the switch pass after a reboot, so the target is not bad.
            Err(e) => {
                let text = format!("the new system's pre-switch check says no: {}", host::chain(&e));
                Err(off(Class::Transient, "inhibited", text))
            }
        }
    }

    async fn write_plan(
        &self,
        d: &Deployment,
        old: &StorePath,
        boot_id: &str,
    ) -> Result<GuardPlan, guard::GuardError> {
        let keep = std::slice::from_ref(&d.id);
        let left = guard::sweep(&self.guards_dir(), keep, boot_id)?;
        if !left.is_empty() {
            tracing::warn!("guards of ended deployments are still at work: {left:?}");
        }
        let dir = self.guard_dir(&d.id);
        let activation = &self.settings.activation;
        let until = activation.switch_timeout.0 * 2 + activation.window.0 + GUARD_MARGIN;
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
            baseline_units: self.active_units().await,
        };
        let plan = guard::write_plan(&dir, &plan)?;
        guard::pin(&dir, old, Some(&self.nix)).await?;
        guard::selftest(&dir).await?;
        Ok(plan)
    }
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
