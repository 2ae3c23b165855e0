//! What the demo shows, step by step. Each step does one thing to the repository or the agent, says what is
//! expected, waits for it, and then checks from the outside that it is so.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::time::Instant;

use super::flake::{TEST_BRANCH, page, with_migration};
use super::host::View;
use super::narrator::Narrator;
use super::people::Change;
use super::world::World;
use crate::model::Oid;
use crate::report::{BadKind, Headline, Status};

/// No step takes longer; the slowest, a rollback at the end of its window, takes about ten seconds.
const STEP_TIME_MAX: Duration = Duration::from_secs(60);

/// The pause between two looks at status or host.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// How many lines of the agent's log are shown when a step went wrong.
const LAST_WORDS_LINES: usize = 20;

/// How long the pretended migration takes during which the agent is killed, in seconds.
const MIGRATION_SECS: u32 = 2;

/// The demo's course: the world, and what is expected of it after the steps so far.
#[derive(Debug)]
pub struct Story {
    world: World,
    narrator: Narrator,
    /// The tip of `main` that the host last accepted.
    accepted: Oid,
    /// What the host last looked like after a step that was to change it.
    settled: View,
}

impl Story {
    /// Starts the agent in a new world.
    pub async fn begin(mut world: World, narrator: Narrator) -> anyhow::Result<Story> {
        let settled = world.host.view().await?;
        world.agent.start().await.context("failed to start the agent")?;
        let accepted = world.first.0.clone();
        let mut story = Story { world, narrator, accepted, settled };
        let first = story.accepted.clone();
        story.await_in_sync(&first).await?;
        Ok(story)
    }

    /// Tells the whole story.
    ///
    /// # Errors
    /// At the first step that does not end as promised.
    pub async fn tell(&mut self) -> anyhow::Result<()> {
        self.signed().await.context("step 1, a signed commit")?;
        self.unsigned().await.context("step 2, an unsigned commit")?;
        self.stranger().await.context("step 3, a commit signed by a stranger")?;
        self.rewritten().await.context("step 4, a rewritten history")?;
        self.sick().await.context("step 5, a commit that fails its health check")?;
        self.fixed().await.context("step 6, the fix")?;
        self.tried().await.context("step 7, a test branch")?;
        self.killed().await.context("step 8, an agent killed in the middle of a switch")
    }

    /// Returns the agent's own closing words: its status and its history.
    pub async fn closing_words(&self, color: bool) -> anyhow::Result<String> {
        let color = ["--color", if color { "always" } else { "never" }];
        let status = self.world.agent.ask(&[&color[..], &["status"]].concat()).await?;
        let history = self.world.agent.ask(&[&color[..], &["history"]].concat()).await?;
        Ok(format!("$ pullagent status\n{status}\n\n$ pullagent history\n{history}\n"))
    }

    /// Returns the last lines of the agent's log, for when a step went wrong.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(&self.world.agent.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_WORDS_LINES)..].join("\n")
    }

    /// Ends the agent, then the world; only who told the story is left.
    pub async fn end(self) -> anyhow::Result<Narrator> {
        self.world.tear_down().await?;
        Ok(self.narrator)
    }

    async fn signed(&mut self) -> anyhow::Result<()> {
        self.narrator.step("Alice, whose key the host trusts, pushes a signed commit to main");
        let tip = self.alice_publishes("site: say hello", "Hello", &[]).await?;
        self.narrator.expect("built, activated, proven healthy, then made permanent");
        self.await_deployed(&tip, "Hello").await
    }

    async fn unsigned(&mut self) -> anyhow::Result<()> {
        self.narrator.step("Somebody with access to the forge pushes an unsigned commit to main");
        self.expect_refusal(Culprit::Unsigned, "unsigned").await
    }

    async fn stranger(&mut self) -> anyhow::Result<()> {
        self.narrator.step("Mallory pushes a commit that she signed with her own key");
        self.expect_refusal(Culprit::Mallory, "unknown-key").await
    }

    async fn rewritten(&mut self) -> anyhow::Result<()> {
        self.narrator
            .step("The forge is made to serve another history, although signed by Alice: a force push");
        self.expect_refusal(Culprit::Rewriter, "not-fast-forward").await
    }

    /// Pushes what must not be accepted, sees it refused for the right reason, and puts `main` right again.
    async fn expect_refusal(&mut self, culprit: Culprit, code: &str) -> anyhow::Result<()> {
        let systems = self.world.store.systems()?;
        let tip = self.push_bad(culprit).await?;
        self.narrator.expect("refused with an exact reason; nothing is built, the host keeps what it runs");
        let status = self.await_status(|status| judged(status, &tip)).await?;
        let bad = status.bad(&tip).context("the refused commit is not in the status")?;
        ensure!(bad.kind == BadKind::Refused, "{} ended as {:?}", tip.short(), bad.kind);
        ensure!(bad.code == code, "the reason given is '{}', not '{code}'", bad.code);
        ensure!(status.state == Headline::Refused, "the status says '{}'", status.state.word());
        let explained = self.world.agent.ask(&["explain", tip.as_str()]).await?;
        ensure!(explained.contains(code), "'explain' does not name '{code}': {explained}");
        ensure!(self.log_names(&tip, code), "the log does not name {} and '{code}'", tip.short());
        ensure!(self.world.store.systems()? == systems, "something was built");
        self.host_is_unchanged().await?;
        self.narrator.happened(&format!("refused, {code}: {}", bad.text));
        self.put_main_right().await
    }

    async fn push_bad(&mut self, culprit: Culprit) -> anyhow::Result<Oid> {
        let World { alice, mallory, first, .. } = &self.world;
        let (person, base, signed, message) = match culprit {
            Culprit::Unsigned => (mallory, &self.accepted, false, "site: a harmless change"),
            Culprit::Mallory => (mallory, &self.accepted, true, "site: another harmless change"),
            Culprit::Rewriter => (alice, &first.0, true, "site: as if the last commit had never been"),
        };
        person.check_out(base).await?;
        let content = page("Owned");
        let write = [("site/index.html", content.as_str())];
        let tip = person.commit(Change { message, write: &write, remove: &[], signed }).await?;
        person.force_push("main").await?;
        let seal = if signed { format!("signed by {}", person.name) } else { "not signed".to_owned() };
        self.narrator.pushed(&tip, message, &seal);
        Ok(tip)
    }

    /// The forge's administrator sets `main` back to what the host accepted.
    async fn put_main_right(&mut self) -> anyhow::Result<()> {
        self.world.alice.check_out(&self.accepted).await?;
        self.world.alice.force_push("main").await?;
        let accepted = self.accepted.clone();
        self.await_in_sync(&accepted).await?;
        self.host_is_unchanged().await?;
        self.narrator.note("the forge's administrator puts main right again; the host is in sync");
        Ok(())
    }

    async fn sick(&mut self) -> anyhow::Result<()> {
        self.narrator
            .step("Alice pushes a signed commit that removes a file which the health check asks for");
        let tip =
            self.alice_publishes("site: remove files that nobody needs", "Tidy", &["site/healthz"]).await?;
        self.narrator.expect("built and activated; the health check fails; the old system comes back");
        let sight = self.watch_for_404(&tip).await?;
        let status = self.await_status(|status| judged(status, &tip)).await?;
        let bad = status.bad(&tip).context("the commit is not remembered as bad")?;
        ensure!(bad.kind == BadKind::RolledBack, "{} ended as {:?}: {}", tip.short(), bad.kind, bad.text);
        ensure!(status.state == Headline::RolledBack, "the status says '{}'", status.state.word());
        ensure!(sight, "the new system's health page was never seen to fail");
        self.host_is_unchanged().await?;
        self.accepted = tip;
        let why = bad.details.first().unwrap_or(&bad.text);
        self.narrator.happened(&format!("rolled back and set aside; {why}"));
        Ok(())
    }

    /// Looks at the page until the host answers 404 from the new system, or the deployment is over.
    async fn watch_for_404(&mut self, tip: &Oid) -> anyhow::Result<bool> {
        let deadline = Instant::now() + STEP_TIME_MAX;
        while Instant::now() < deadline {
            if self.world.host.get("/healthz").await?.0 == 404 {
                return Ok(true);
            }
            let status = self.world.agent.status().await?;
            self.narrator.saw(&status);
            if judged(&status, tip) {
                return Ok(false);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        bail!("neither a failing page nor a verdict within {} s", STEP_TIME_MAX.as_secs())
    }

    async fn fixed(&mut self) -> anyhow::Result<()> {
        self.narrator.step("Alice pushes a signed fix on top");
        self.world.alice.check_out(&self.accepted).await?;
        let content = page("Repaired");
        let write = [("site/index.html", content.as_str()), ("site/healthz", "ok\n")];
        let tip = self.alice_pushes("site: bring the health page back", &write, "main").await?;
        self.narrator.expect("deployed like any other commit");
        self.await_deployed(&tip, "Repaired").await
    }

    async fn tried(&mut self) -> anyhow::Result<()> {
        self.narrator
            .step("Alice tries something on this host only: a signed commit on the branch test-demo");
        self.world.alice.check_out(&self.accepted).await?;
        let content = page("Trial");
        let message = format!("site: try another headline\n\nDeploy-To: {TEST_BRANCH}");
        let write = [("site/index.html", content.as_str())];
        let tip = self.alice_pushes(&message, &write, TEST_BRANCH).await?;
        self.narrator.expect("it runs, but profile and boot entry stay: a reboot would go back");
        self.await_status(|status| status.state == Headline::Testing && runs(status, &tip)).await?;
        let view = self.world.host.await_view(|view| view.title == headline("Trial")).await?;
        ensure!(view.running != self.settled.running, "the host runs what it ran before");
        ensure!(view.running == view.etc, "'/etc' and the running system differ");
        let permanent = |view: &View| (view.profile.clone(), view.generation, view.boot.clone());
        ensure!(permanent(&view) == permanent(&self.settled), "profile or boot entry moved");
        let boots = self.settled.generation.unwrap_or_default();
        self.narrator.happened(&format!("it runs on trial; the next boot would start generation {boots}"));

        self.world.alice.delete(TEST_BRANCH).await?;
        self.narrator.expect("with the branch deleted the host returns to main");
        let accepted = self.accepted.clone();
        self.await_in_sync(&accepted).await?;
        self.host_is_unchanged().await?;
        self.narrator.happened("the host runs main again");
        Ok(())
    }

    async fn killed(&mut self) -> anyhow::Result<()> {
        self.narrator
            .step("Alice pushes a signed commit, and the agent is killed in the middle of the switch");
        self.world.alice.check_out(&self.accepted).await?;
        let (content, flake) = (page("Survived"), with_migration(MIGRATION_SECS));
        let write = [("site/index.html", content.as_str()), ("flake.nix", flake.as_str())];
        let tip = self.alice_pushes("site: move the data to its new place", &write, "main").await?;
        self.await_half_switched().await?;
        self.world.agent.kill_9().await?;
        ensure!(self.world.host.is_torn(), "the switch was over before the agent was killed");
        self.narrator.note("kill -9 while /etc is new and the running system old; the switch goes on alone");
        self.narrator.expect("the agent, started again, takes the deployment up where it was");
        self.world.agent.start().await.context("failed to start the agent again")?;
        self.await_deployed(&tip, "Survived").await
    }

    async fn await_half_switched(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + STEP_TIME_MAX;
        while !self.world.host.is_torn() {
            ensure!(Instant::now() < deadline, "no switch began within {} s", STEP_TIME_MAX.as_secs());
            tokio::time::sleep(LOOK_PAUSE / 5).await;
        }
        Ok(())
    }

    async fn alice_publishes(&mut self, message: &str, title: &str, remove: &[&str]) -> anyhow::Result<Oid> {
        self.world.alice.check_out(&self.accepted).await?;
        let content = page(title);
        let write = [("site/index.html", content.as_str())];
        let tip = self.world.alice.commit(Change { message, write: &write, remove, signed: true }).await?;
        self.world.alice.push("main").await?;
        self.narrator.pushed(&tip, message, "signed by alice");
        Ok(tip)
    }

    async fn alice_pushes(
        &mut self,
        message: &str,
        write: &[(&str, &str)],
        branch: &str,
    ) -> anyhow::Result<Oid> {
        let change = Change { message, write, remove: &[], signed: true };
        let tip = self.world.alice.commit(change).await?;
        self.world.alice.push(branch).await?;
        let subject = message.lines().next().unwrap_or_default();
        self.narrator.pushed(&tip, subject, "signed by alice");
        Ok(tip)
    }

    /// Waits until `tip` is permanent, and checks it where a stranger would look.
    async fn await_deployed(&mut self, tip: &Oid, title: &str) -> anyhow::Result<()> {
        self.await_in_sync(tip).await?;
        let view = self.world.host.await_view(|view| view.title == headline(title)).await?;
        let running = view.running.clone().context("the host runs nothing")?;
        ensure!(view.running != self.settled.running, "the host runs what it ran before");
        ensure!(
            [&view.etc, &view.profile, &view.boot].iter().all(|link| **link == view.running),
            "the host's links disagree: {view:?}"
        );
        ensure!(view.generation > self.settled.generation, "the profile has no new generation");
        ensure!(view.health == 200, "the health page answers {}", view.health);
        let revision = running.join("etc/pullagent/revision");
        let revision = std::fs::read_to_string(&revision).context("the system does not say its revision")?;
        ensure!(revision.trim() == tip.as_str(), "the system was built from '{}'", revision.trim());
        ensure!(self.world.store.is_valid(&running).await?, "Nix does not know '{running}'");
        let generation = view.generation.unwrap_or_default();
        self.narrator.happened(&format!("generation {generation} runs, is healthy, and is what boots next"));
        (self.accepted, self.settled) = (tip.clone(), view);
        Ok(())
    }

    async fn await_in_sync(&mut self, tip: &Oid) -> anyhow::Result<Status> {
        let done = |status: &Status| status.state == Headline::InSync && runs(status, tip);
        let status = self.await_status(|status| done(status) || status.bad(tip).is_some()).await?;
        match status.bad(tip) {
            Some(bad) => bail!("{} ended as {:?}: {}", tip.short(), bad.kind, bad.text),
            None => Ok(status),
        }
    }

    async fn await_status(&mut self, done: impl Fn(&Status) -> bool) -> anyhow::Result<Status> {
        let narrator = &mut self.narrator;
        let wanted = |status: &Status| {
            narrator.saw(status);
            done(status)
        };
        self.world.agent.await_status(STEP_TIME_MAX, wanted).await
    }

    /// Checks that the host looks as after the last step that was to change it.
    async fn host_is_unchanged(&self) -> anyhow::Result<()> {
        let look = self.world.host.await_view(|view| *view == self.settled).await;
        look.with_context(|| format!("the host was {:?}", self.settled)).map(drop)
    }

    fn log_names(&self, tip: &Oid, code: &str) -> bool {
        let log = std::fs::read_to_string(&self.world.agent.log).unwrap_or_default();
        log.lines().any(|line| line.contains(tip.short()) && line.contains(code))
    }
}

/// Who pushes what must not be accepted.
#[derive(Debug, Clone, Copy)]
enum Culprit {
    Unsigned,
    Mallory,
    Rewriter,
}

fn headline(title: &str) -> String {
    page(title).lines().next().unwrap_or_default().to_owned()
}

fn runs(status: &Status, tip: &Oid) -> bool {
    status.running.as_ref().and_then(|system| system.revision.as_ref()) == Some(tip)
}

fn judged(status: &Status, tip: &Oid) -> bool {
    !status.state.is_passing() && status.bad(tip).is_some()
}
