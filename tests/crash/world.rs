//! A host, a remote and a guard in memory: what the real steps do to the real world, small enough to be cut anywhere.
//!
//! Each effect lies between two points. A cut at a point stops the agent there for good: what was done is done, what
//! it would have said is lost. Time only passes where the agent or the test lets it pass.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use pullagent::model::{
    Action, Arbiter, Class, Decision, Deployment, DeploymentId, Desired, Event, Failure, GuardFacts,
    GuardResult, Happened, HostFacts, Line, Oid, Operation, Red, Refusal, Sighting, Stage, StorePath,
    SwitchEnd, Tip, Verification, Why, Word,
};

use super::script::name_and_revision;
pub use super::script::{Behaviour, Bug, Commit, Cut, Fault, oid, system, third_system};

#[derive(Debug, Clone, Default)]
pub(super) struct Guard {
    pub(super) old: Option<StorePath>,
    pub(super) new: Option<StorePath>,
    /// Profile and boot entry when the probation began.
    pub(super) permanent: Option<(StorePath, StorePath)>,
    pub(super) test: bool,
    pub(super) boot: u32,
    pub(super) timers: Vec<u64>,
    pub(super) decision: Option<Decision>,
    pub(super) result: Option<GuardResult>,
    pub(super) red: Option<Red>,
    pub(super) job: Option<Job>,
    /// The trial is one by a boot of its own.
    pub(super) boots: bool,
    /// The new system was booted for it.
    pub(super) seen: bool,
    /// What runs for good already is to be booted.
    pub(super) only_boot: bool,
    /// How often the switch was begun.
    pub(super) switches: u32,
}

/// A switch under way: it goes on when the agent dies.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) etc_at: u64,
    pub(super) runs_at: u64,
    pub(super) ends_at: u64,
}

pub(super) const GUARD_LONG_MS: u64 = 1_500_000;
const GUARD_SHORT_MS: u64 = 400_000;
/// How often the remote can't be reached from a commit that is offline for a while.
const OFFLINE_TRIES: u32 = 2;
/// How often the switch is killed that is killed for a while.
const KILLS: u32 = 2;
const SWITCH_MS: u64 = 10_000;
const SWITCH_MAX_MS: u64 = 900_000;
const SOAK_MS: u64 = 60_000;
/// How many points one life may pass. The longest script has some 150.
const POINTS_MAX: u32 = 2_000;
pub(super) const NEVER: u64 = u64::MAX;

pub struct Inner {
    pub now_ms: u64,
    pub(super) wall_offset: u64,
    pub boots: u32,
    pub running: StorePath,
    pub etc: StorePath,
    pub profile: StorePath,
    pub boot_default: StorePath,
    pub(super) booted: StorePath,
    /// What the next boot starts, and no boot after it.
    pub(super) one_shot: Option<StorePath>,
    pub(super) trial_profile: Option<StorePath>,
    /// The deployment that the boot guard watches.
    pub(super) boot_guard: Option<String>,
    /// A guard has the host rebooted.
    pub(super) reboot_due: bool,
    /// What root installed, and what was confirmed by a decision.
    pub(super) may_be_permanent: BTreeSet<StorePath>,
    pub(super) generation: u64,
    /// The generations that exist, and those with a boot entry.
    pub generations: [BTreeSet<u64>; 2],
    pub commits: BTreeMap<Oid, Commit>,
    pub(super) flaky_tries: BTreeMap<Oid, u32>,
    /// How often the switch to each commit was killed.
    kills: BTreeMap<Oid, u32>,
    pub(super) operator_came: bool,
    pub(super) guards: BTreeMap<String, Guard>,
    pub points: u32,
    pub cut: Option<(u32, Cut)>,
    pub crashed: Option<Cut>,
    pub quiet: bool,
    /// The agent passed so many points that it will not come to rest.
    pub exhausted: bool,
    pub violations: Vec<String>,
    pub activations: u32,
    pub fault: Option<Fault>,
    /// When the fault struck, unix seconds.
    pub struck: Vec<u64>,
    /// What was rolled back since somebody resumed the host last, and when, unix seconds.
    pub(super) rolled_back: Vec<(Oid, u64)>,
    /// How often the remote could not be reached from each commit, and when it was rolled back for that last.
    pub(super) unreached: BTreeMap<Oid, (u32, u64)>,
    /// What an operator says next about the deployment under way.
    pub spoken: Option<Word>,
    /// How often a check was red under each commit, and until when it may not be tried again.
    pub(super) red: BTreeMap<Oid, (u32, u64)>,
    pub(super) bug: Option<Bug>,
}

pub struct World {
    pub inner: RefCell<Inner>,
    pub introduction: Oid,
    /// Called where a planted bug announces what is not in the journal yet.
    pub announce_early: RefCell<Option<Box<dyn Fn()>>>,
}

pub(super) fn roll_back(reason: &str, class: Class) -> Decision {
    Decision::RollBack { reason: reason.to_owned(), by: Arbiter::Agent, class }
}

impl World {
    pub fn new(introduction: Oid, bug: Option<Bug>) -> World {
        let first = system(&introduction);
        let inner = Inner {
            now_ms: 100_000,
            wall_offset: 1_800_000_000,
            boots: 1,
            running: first.clone(),
            etc: first.clone(),
            profile: first.clone(),
            boot_default: first.clone(),
            may_be_permanent: BTreeSet::from([first.clone()]),
            booted: first,
            one_shot: None,
            trial_profile: None,
            boot_guard: None,
            reboot_due: false,
            generation: 1,
            generations: [BTreeSet::from([1]), BTreeSet::from([1])],
            commits: BTreeMap::new(),
            flaky_tries: BTreeMap::new(),
            kills: BTreeMap::new(),
            operator_came: false,
            guards: BTreeMap::new(),
            points: 0,
            cut: None,
            crashed: None,
            quiet: false,
            exhausted: false,
            violations: vec![],
            activations: 0,
            fault: None,
            struck: vec![],
            rolled_back: vec![],
            unreached: BTreeMap::new(),
            spoken: None,
            red: BTreeMap::new(),
            bug,
        };
        World { inner: RefCell::new(inner), introduction, announce_early: RefCell::new(None) }
    }

    /// The one seam: what the loop calls.
    pub async fn perform(&self, action: Action) -> Happened {
        match self.strike(&action) {
            Some((failed, true)) => {
                self.work(action).await;
                failed
            }
            Some((failed, false)) => {
                self.point().await;
                failed
            }
            None => self.work(action).await,
        }
    }

    /// What a fault makes of an action, and whether it lets it do its work.
    fn strike(&self, action: &Action) -> Option<(Happened, bool)> {
        let (name, revision) = name_and_revision(action)?;
        let at = self.now();
        let w = &mut *self.inner.borrow_mut();
        let fault = w.fault.as_mut().filter(|f| f.action == name && f.times > 0)?;
        fault.times -= 1;
        w.struck.push(at);
        let failure =
            Failure { class: Class::Transient, code: "fault".to_owned(), text: format!("{name} failed") };
        Some((Happened::Saw(Sighting::Failed { revision, remote: None, failure, at }), fault.done))
    }

    async fn work(&self, action: Action) -> Happened {
        match action {
            Action::Observe(id) => self.observe(id),
            Action::Wait { until } => self.wait(until).await,
            Action::Record(event) => {
                self.point().await;
                Happened::Event(event)
            }
            Action::Relate { revision, to } => self.relate(revision, to).await,
            Action::Verify(v) => self.verify(v).await,
            Action::Build(id, desired) => self.build(id, desired).await,
            Action::Prepare(d) => self.prepare(d).await,
            Action::Arm(d) => self.arm(d).await,
            Action::Switch(d) => self.switch(d).await,
            Action::Shorten(d) => self.shorten(d).await,
            Action::CheckHealth(d) => self.check_health(d).await,
            Action::AwaitAnswer(d) => {
                let behaviour = self.behaviour(&d.desired.tip.revision);
                self.await_answer(d, behaviour).await
            }
            Action::ChooseGenerations(t) => self.choose_generations(t).await,
            Action::RemoveGenerations(t) => self.remove_generations(t).await,
            Action::CheckOld(recheck) => self.check_old(recheck).await,
            Action::Decide(d, decision) => self.decide(&d.id, decision, vec![]).await,
            Action::Confirm(d) => self.confirm(d).await,
            Action::RollBack(d) => self.roll_back(d).await,
            Action::Abandon(d, failure) => self.abandon(d, failure).await,
            Action::Stage(d) => self.stage(d).await,
            Action::Reboot(d) => self.reboot(d).await,
            Action::EnterTrial(d) => self.enter_trial(d).await,
            Action::AwaitReboot(d, reboot) => self.await_reboot(d, reboot).await,
        }
    }

    /// A place where the agent can be stopped.
    pub(super) async fn point(&self) {
        let stop = {
            let mut w = self.inner.borrow_mut();
            w.points += 1;
            w.check_invariants();
            if w.reboot_due {
                w.crashed = w.crashed.or(Some(Cut::Power));
            }
            if w.points > POINTS_MAX {
                w.exhausted = true;
            }
            match w.cut {
                _ if w.exhausted => true,
                Some((at, kind)) if at == w.points => {
                    w.crashed = Some(kind);
                    true
                }
                _ => w.crashed.is_some(),
            }
        };
        if stop {
            std::future::pending::<()>().await;
        }
    }

    pub(super) fn bug(&self, bug: Bug) -> bool {
        self.inner.borrow().bug == Some(bug)
    }

    pub(super) fn now(&self) -> u64 {
        let w = self.inner.borrow();
        w.wall_offset + w.now_ms / 1000
    }

    fn observe(&self, id: Option<DeploymentId>) -> Happened {
        let w = self.inner.borrow();
        let guard = id.and_then(|id| w.guards.get(id.as_str()));
        let guard = guard
            .map(|g| GuardFacts {
                decision: g.decision.clone(),
                result: g.result.clone(),
                trial_seen: g.seen,
                one_shot_left: w.one_shot.is_some(),
                red: g.red.clone(),
            })
            .unwrap_or_default();
        let host = HostFacts {
            running: Some(w.running.clone()),
            etc: Some(w.etc.clone()),
            booted: Some(w.booted.clone()),
            profile: Some(w.profile.clone()),
            generation: Some(w.generation),
            boot_default: Some(w.boot_default.clone()),
            running_revision: w
                .commits
                .keys()
                .chain([&self.introduction])
                .find(|oid| system(oid) == w.running)
                .cloned(),
            leftover_lists: false,
            volatile_state: false,
            boot_id: format!("boot-{}", w.boots),
            machine_id: None,
            boottime_ms: w.now_ms,
            reboot_reasons: w.reboot_reasons(&w.boot_default),
            zone: None,
        };
        let now = w.wall_offset + w.now_ms / 1000;
        let introduction = Some(self.introduction.clone());
        let trust = host.running_revision.as_ref().map(|r| w.trust_in(r));
        Happened::Saw(Sighting::Host { now, host: Box::new(host), guard, introduction, trust })
    }

    async fn wait(&self, until: Option<u64>) -> Happened {
        self.point().await;
        match until {
            Some(until) => {
                let ms = until.saturating_sub(self.now()) * 1000 + 1000;
                self.pass(ms);
                Happened::Saw(Sighting::Woke)
            }
            None => {
                self.inner.borrow_mut().quiet = true;
                std::future::pending().await
            }
        }
    }

    async fn verify(&self, v: Verification) -> Happened {
        self.point().await;
        let c = &v.candidate;
        let tip = Tip {
            revision: c.revision.clone(),
            tree: c.revision.clone(),
            payload_sha256: String::new(),
            committer_time: 0,
            signer: Some("alice".to_owned()),
            subject: String::new(),
            branch: c.branch.clone(),
            remote: c.remote.clone(),
            accepted_at: 0,
        };
        let event = match self.judge(&v) {
            Some(code) => Event::Refused {
                refusal: Refusal {
                    revision: c.revision.clone(),
                    branch: c.branch.clone(),
                    remote: c.remote.clone(),
                    operation: c.operation,
                    commit: None,
                    code: code.to_owned(),
                    text: code.to_owned(),
                    advice: String::new(),
                    judged_by: v.judged_by.clone(),
                    at: self.now(),
                },
            },
            None => match &v.line {
                Line::Introduction(_) | Line::Root(_) | Line::Installed { .. } | Line::Main(_) => {
                    Event::MainAccepted { tip }
                }
                Line::Test { main, .. } => Event::TestAccepted { tip, main: main.revision.clone() },
            },
        };
        self.point().await;
        Happened::Event(event)
    }

    async fn build(&self, id: DeploymentId, desired: Desired) -> Happened {
        self.point().await;
        let revision = desired.tip.revision.clone();
        let at = self.now();
        let failure = |class, code: &str| Failure { class, code: code.to_owned(), text: code.to_owned() };
        let behaviour = self.behaviour(&revision);
        let happened = match behaviour {
            Behaviour::Unbuildable => {
                Happened::Event(Event::BuildFailed { desired, failure: failure(Class::Target, "build"), at })
            }
            Behaviour::Flaky if self.tries(&revision) < 2 => {
                *self.inner.borrow_mut().flaky_tries.entry(revision.clone()).or_default() += 1;
                Happened::Saw(Sighting::Failed {
                    revision,
                    remote: None,
                    failure: failure(Class::Transient, "network"),
                    at,
                })
            }
            _ => {
                let toplevel = system(&revision);
                let nonce = Some(self.nonce(behaviour));
                Happened::Event(Event::Built {
                    id,
                    desired,
                    drv: None,
                    toplevel,
                    trust: Some(self.inner.borrow().trust_in(&revision)),
                    revoked: vec![],
                    nonce,
                    at,
                })
            }
        };
        self.pass(5_000);
        self.point().await;
        happened
    }

    fn tries(&self, oid: &Oid) -> u32 {
        self.inner.borrow().flaky_tries.get(oid).copied().unwrap_or(0)
    }

    fn behaviour(&self, oid: &Oid) -> Behaviour {
        self.inner.borrow().commits.get(oid).map_or(Behaviour::Good, |c| c.behaviour)
    }

    async fn prepare(&self, d: Deployment) -> Happened {
        self.point().await;
        let (old, boot, deadline) = {
            let mut w = self.inner.borrow_mut();
            let only_boot = d.desired.why == Why::Reboot;
            let old = if only_boot { w.booted.clone() } else { w.running.clone() };
            let boot = w.boots;
            let guard = Guard {
                old: Some(old.clone()),
                new: Some(d.toplevel.clone()),
                permanent: Some((w.profile.clone(), w.boot_default.clone())),
                test: d.desired.operation == Operation::Test,
                boot,
                boots: only_boot,
                only_boot,
                ..Guard::default()
            };
            w.guards.insert(d.id.as_str().to_owned(), guard);
            (old, boot, w.now_ms + GUARD_LONG_MS)
        };
        if self.bug(Bug::ProfileSetTooEarly) {
            self.inner.borrow_mut().profile = d.toplevel.clone();
        }
        self.point().await;
        let boot_id = format!("boot-{boot}");
        let reboot = self.inner.borrow().reboot_need(&d.toplevel);
        Happened::Event(Event::Prepared {
            id: d.id,
            old,
            boot_id,
            deadline_boottime_ms: deadline,
            red_before: vec![],
            reboot,
        })
    }

    async fn arm(&self, d: Deployment) -> Happened {
        let now = self.now();
        self.inner.borrow_mut().check_patience(&d.desired.tip.revision, now);
        self.point().await;
        if !self.bug(Bug::GuardNotArmed) {
            let mut w = self.inner.borrow_mut();
            let deadline = w.now_ms + GUARD_LONG_MS;
            w.guards.entry(d.id.as_str().to_owned()).or_default().timers.push(deadline);
        }
        if self.bug(Bug::BootDefaultMovedTooEarly) {
            self.inner.borrow_mut().boot_default = d.toplevel.clone();
        }
        self.point().await;
        Happened::Event(Event::Armed { id: d.id })
    }

    async fn switch(&self, d: Deployment) -> Happened {
        self.point().await;
        let behaviour = self.behaviour(&d.desired.tip.revision);
        self.start_switch(&d, behaviour);
        self.point().await;
        if behaviour == Behaviour::Resetting {
            self.pass(SWITCH_MS / 2);
            self.inner.borrow_mut().crashed = Some(Cut::Power);
            self.point().await;
        }
        let ends_at = self
            .inner
            .borrow()
            .guards
            .get(d.id.as_str())
            .and_then(|g| g.job.as_ref())
            .map_or(0, |j| j.ends_at);
        let left = ends_at.saturating_sub(self.inner.borrow().now_ms);
        self.pass(left);
        self.point().await;
        Happened::Event(Event::Switched { id: d.id.clone(), ended: self.judge_switch(&d) })
    }

    fn start_switch(&self, d: &Deployment, behaviour: Behaviour) {
        let forget = self.bug(Bug::RestartedSwitchForgotten);
        let w = &mut *self.inner.borrow_mut();
        let now = w.now_ms;
        let guard = w.guards.entry(d.id.as_str().to_owned()).or_default();
        let Stage::Probation { trial, .. } = &d.stage else { return };
        // Each repetition has a unit of its own.
        if guard.switches > trial.switch_repeats {
            // Attach to what runs or ran: a second start is refused by the unit's name.
            if forget {
                w.running = d.toplevel.clone();
            }
            return;
        }
        let kills = w.kills.entry(d.desired.tip.revision.clone()).or_default();
        let killed = behaviour == Behaviour::Killed && *kills < KILLS;
        *kills += u32::from(killed);
        let (etc_at, runs_at, ends_at) = match behaviour {
            Behaviour::TornOnce if guard.switches > 0 => (NEVER, now + SWITCH_MS, now + SWITCH_MS),
            Behaviour::Torn | Behaviour::TornOnce => (now + SWITCH_MS / 2, NEVER, now + SWITCH_MS),
            _ if killed => (now + SWITCH_MS / 2, NEVER, now + SWITCH_MS),
            Behaviour::Refusing => (NEVER, NEVER, now + SWITCH_MS),
            Behaviour::Hanging => (now + SWITCH_MS / 2, NEVER, now + SWITCH_MAX_MS),
            _ => (now + SWITCH_MS / 2, now + SWITCH_MS, now + SWITCH_MS),
        };
        guard.job = Some(Job { etc_at, runs_at, ends_at });
        guard.switches += 1;
        w.activations += 1;
        let wrong = w.reboot_need(&d.toplevel).is_some_and(|need| !need.forbids_switch.is_empty());
        if wrong {
            w.violations.push(format!("{} is switched to, which NixOS refuses", d.id));
        }
    }

    fn judge_switch(&self, d: &Deployment) -> SwitchEnd {
        let w = self.inner.borrow();
        let text = "the switch said something".to_owned();
        if w.running == d.toplevel && w.etc == d.toplevel {
            SwitchEnd::Complete { exit: Some(0), text: String::new() }
        } else if w.running != w.etc {
            // A switch that hangs does not end by itself; one that was killed says nothing about the system.
            let behaviour = self.behaviour(&d.desired.tip.revision);
            let resumable = !matches!(behaviour, Behaviour::Hanging | Behaviour::Killed);
            let class = if behaviour == Behaviour::Killed { Class::Transient } else { Class::Target };
            SwitchEnd::Torn { text, resumable, class }
        } else {
            SwitchEnd::Unchanged {
                failure: Failure { class: Class::Target, code: "activation".to_owned(), text },
            }
        }
    }

    async fn shorten(&self, d: Deployment) -> Happened {
        self.point().await;
        let deadline = self.inner.borrow().now_ms + GUARD_SHORT_MS;
        if let Some(guard) = self.inner.borrow_mut().guards.get_mut(d.id.as_str()) {
            guard.timers.push(deadline);
        }
        self.point().await;
        Happened::Event(Event::SoakStarted { id: d.id, deadline_boottime_ms: deadline })
    }

    async fn check_health(&self, d: Deployment) -> Happened {
        self.point().await;
        let behaviour = self.behaviour(&d.desired.tip.revision);
        if behaviour == Behaviour::OperatorSwitches && !self.inner.borrow().operator_came {
            let mut w = self.inner.borrow_mut();
            w.operator_came = true;
            (w.running, w.etc) = (third_system(), third_system());
            (w.profile, w.boot_default) = (third_system(), third_system());
        }
        self.pass(if behaviour == Behaviour::Sluggish { 2 * GUARD_SHORT_MS } else { SOAK_MS });
        let third = self.inner.borrow().running == third_system();
        if let Some(happened) = self.prove(&d, behaviour).await {
            return happened;
        }
        let decision = match behaviour {
            _ if third => Decision::Superseded,
            Behaviour::Unhealthy | Behaviour::Revoking | Behaviour::SickKernel => {
                roll_back("web is down", Class::Target)
            }
            Behaviour::Storm | Behaviour::Faraway | Behaviour::Unplugged if self.is_red(&d, behaviour) => {
                roll_back("a check is red", Class::Target)
            }
            Behaviour::CutOff => self.unreachable(),
            Behaviour::Offline if self.unreached(&d.desired.tip.revision) < OFFLINE_TRIES => {
                self.unreachable()
            }
            _ => Decision::Confirm,
        };
        self.decide(&d.id, decision, vec![]).await
    }

    pub(super) async fn decide(
        &self,
        id: &DeploymentId,
        decision: Decision,
        failures: Vec<String>,
    ) -> Happened {
        self.point().await;
        let standing = self.inner.borrow_mut().decide(id.as_str(), decision);
        self.point().await;
        let red = self.inner.borrow().guards.get(id.as_str()).and_then(|g| g.red.clone());
        Happened::Event(Event::Decided { id: id.clone(), decision: standing, failures, red })
    }
}
