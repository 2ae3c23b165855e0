//! What monitoring reads: the page of metrics, made of `status.json` and of what the systems in the store say. It asks the
//! agent nothing, so it says the same of an agent that is dead or hangs, and that it is. Every metric is on every page, also
//! those that have no value yet.

mod text;

mod state;

mod remotes;

mod counted;

use std::collections::BTreeMap;
use std::path::Path;

use super::{Life, Status, System, life, read_status};
use crate::host::facts::HostPaths;
use crate::host::profile;
use crate::host::system::{self, SystemFacts};
use crate::model::StorePath;
use text::Page;

/// What a page is made of.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// The agent's last word, and what became of it since; `None`: there is none that can be read.
    pub status: Option<(Status, Life)>,
    /// What the running system says of itself.
    pub running: SystemFacts,
    /// What the booted one says.
    pub booted: SystemFacts,
    /// The newest generation of the `system` profile with each path.
    pub generations: BTreeMap<StorePath, u64>,
    /// The time of looking, unix seconds.
    pub now: u64,
}

impl Seen {
    /// Looks at the host at `root`. What can't be read is missing on the page.
    pub fn at(root: &Path, now: u64) -> Seen {
        let status = read_status(root).ok();
        let facts = |system: Option<&System>| system.map(|s| system::look(&s.toplevel)).unwrap_or_default();
        let generations = profile::generations(&HostPaths::under(root).profile()).unwrap_or_default();
        Seen {
            running: facts(status.as_ref().and_then(|s| s.running.as_ref())),
            booted: facts(status.as_ref().and_then(|s| s.booted.as_ref())),
            generations: generations
                .into_iter()
                .filter_map(|g| Some((g.systems.first()?.clone(), g.number)))
                .collect(),
            status: status.map(|status| {
                let life = life(&status.agent, now);
                (status, life)
            }),
            now,
        }
    }

    /// Returns the page, in the text format of Prometheus.
    pub fn page(&self) -> String {
        let mut page = Page::default();
        self.agent(&mut page);
        self.generations(&mut page);
        self.systems(&mut page);
        state::add(&mut page, self.status(), self.now);
        remotes::add(&mut page, self.status());
        counted::add(&mut page, self.status());
        page.into_text()
    }

    fn status(&self) -> Option<&Status> {
        self.status.as_ref().map(|(status, _)| status)
    }

    fn agent(&self, page: &mut Page) {
        let life = self.status.as_ref().map(|(_, life)| *life);
        let agent = self.status().map(|s| &s.agent);
        page.gauge("pullagent_up", "Whether the agent runs, and speaks when it should.")
            .is(flag(life == Some(Life::Running)));
        page.gauge("pullagent_metrics_timestamp_seconds", "When these metrics were made.")
            .is(self.now as f64);
        page.gauge(
            "pullagent_status_timestamp_seconds",
            "When the agent wrote the status that these metrics are made of; 0: there is none that can be read.",
        )
        .is(agent.map_or(0, |a| a.written_at) as f64);
        let version = agent.map_or(env!("CARGO_PKG_VERSION"), |a| a.version.as_str());
        page.gauge("pullagent_build_info", "The version of the agent.").with(&[("version", version)], 1.0);
        let mut revisions = page.gauge(
            "pullagent_revision_info",
            "The commits that the host runs and that it accepted last; empty: not known.",
        );
        if let Some(s) = self.status() {
            let running = s.running.as_ref().and_then(|r| r.revision.as_ref()).map_or("", |r| r.as_str());
            let accepted = s.accepted.as_ref().map_or("", |c| c.revision.as_str());
            revisions.with(&[("running", running), ("accepted", accepted)], 1.0);
        }
    }

    fn generations(&self, page: &mut Page) {
        let Seen { now, .. } = *self;
        let status = self.status();
        let known = |system: &Option<System>| {
            let system = system.as_ref()?;
            system.generation.or_else(|| self.generations.get(&system.toplevel).copied())
        };
        let number = |generation: Option<u64>| status.map(|_| generation.unwrap_or(0) as f64);
        let running = status.and_then(|s| s.running.as_ref());
        page.gauge(
            "nixos_current_generation",
            "The generation that runs; 0: one that is not confirmed (on probation, or under test), or not known.",
        )
        .is(number(running.and_then(|r| r.generation)));
        page.gauge("nixos_boot_generation", "The generation that the next boot starts; 0: not known.")
            .is(number(status.and_then(|s| known(&s.boot))));
        page.gauge("nixos_booted_generation", "The generation that was booted; 0: not known.")
            .is(number(status.and_then(|s| known(&s.booted))));
        let committed = running.and_then(|r| r.committed_at);
        page.gauge(
            "nixos_config_commit_timestamp_seconds",
            "When the commit that runs was made, by its committer's word; missing where that is not known.",
        )
        .is(committed.map(|at| at as f64));
        page.gauge(
            "nixos_config_age_seconds",
            "How old the commit that runs is; missing where that is not known.",
        )
        .is(committed.map(|at| now.saturating_sub(at) as f64));
    }

    /// Those that NixOS's own exporter shows, under the same names.
    fn systems(&self, page: &mut Page) {
        let of = [
            (
                "nixos_current_system_time_seconds",
                "When the running system was added to the store.",
                &self.running,
            ),
            (
                "nixos_booted_system_time_seconds",
                "When the booted system was added to the store.",
                &self.booted,
            ),
        ];
        for (name, help, system) in of {
            let mut family = page.gauge(name, help);
            if let Some(at) = system.completed_at {
                family.with(&[("version_id", &system.version_id)], at as f64);
            }
        }
        let kernels = self.running.kernel.as_ref().zip(self.booted.kernel.as_ref());
        page.gauge(
            "nixos_current_system_kernel_booted",
            "Whether the kernel of the running system is the one that was booted.",
        )
        .is(kernels.map(|(running, booted)| flag(running == booted)));
    }
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}
