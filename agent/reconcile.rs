//! The loop. It looks at the host, asks the plan, has one action performed, journals what came of it, and starts
//! over. A start after a crash is the same loop on a replayed journal; there is no other recovery.
//!
//! It knows no program, file or clock: all effects are behind `perform`, and tests pass a small world instead.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use crate::host;
use crate::journal::{Journal, JournalError};
use crate::model::{
    Action, Command, Deployment, Event, Happened, Oid, Sighting, Stage, State, Suspension, Target, Word,
};
use crate::plan::{self, Alarm, Facts, Policy, Wish};
use crate::report::{self, Doing, Snapshot};

/// How many messages may wait for the loop.
pub const INBOX_MAX: usize = 64;

/// What reaches the loop from outside.
#[derive(Debug)]
pub enum Inbound {
    /// Something was seen.
    Saw(Sighting),
    /// An operator asks for something.
    Asked {
        /// What.
        command: Command,
        /// When, unix seconds.
        at: u64,
        /// Where the answer goes: what was done, or why not.
        reply: oneshot::Sender<Result<String, String>>,
    },
}

/// What the loop owns while it runs.
struct Loop<'a> {
    journal: &'a mut Journal,
    policy: &'a Policy,
    facts: Facts,
    show: &'a watch::Sender<Arc<Snapshot>>,
    /// The alarms that the log knows of.
    alarms: Vec<Alarm>,
}

/// Reconciles until the journal fails. `beat` is awaited again and again as long as the loop turns, also while an action
/// is under way; so whoever waits for its beats notices when all stands still.
///
/// # Errors
/// An event could not be made durable. Nothing may be changed on the host until the journal was opened anew.
/// There is no other end.
pub async fn run(
    journal: &mut Journal,
    policy: &Policy,
    inbox: &mut mpsc::Receiver<Inbound>,
    show: &watch::Sender<Arc<Snapshot>>,
    perform: impl AsyncFn(Action) -> Happened,
    beat: impl AsyncFn(),
) -> Result<Infallible, JournalError> {
    let mut this = Loop { journal, policy, facts: Facts::default(), show, alarms: vec![] };
    loop {
        let id = this.state().deployment.as_ref().map(|d| d.id.clone());
        let seen = perform(Action::Observe(id)).await;
        this.take(seen)?;
        this.sound_alarms();
        let action = this.next();
        this.announce(Some(&action));
        if let Some(happened) = this.carry_out(action, inbox, &perform, &beat).await? {
            this.take(happened)?;
        }
    }
}

impl Loop<'_> {
    fn state(&self) -> &State {
        self.journal.state()
    }

    fn next(&self) -> Action {
        plan::next(self.state(), &self.facts, self.policy)
    }

    /// Performs one action and listens meanwhile. `None`: it was dropped, because something newer made it moot.
    async fn carry_out(
        &mut self,
        action: Action,
        inbox: &mut mpsc::Receiver<Inbound>,
        perform: &impl AsyncFn(Action) -> Happened,
        beat: &impl AsyncFn(),
    ) -> Result<Option<Happened>, JournalError> {
        let mut done = pin!(perform(action.clone()));
        let mut alive = pin!(keep_up(beat));
        loop {
            let inbound = tokio::select! {
                biased;
                happened = &mut done => return Ok(Some(happened)),
                Some(inbound) = inbox.recv() => inbound,
                never = &mut alive => match never {},
            };
            self.receive(inbound)?;
            if action.may_be_dropped() && plan::is_moot(&action, &self.next(), &self.facts) {
                return Ok(None);
            }
            self.announce(Some(&action));
        }
    }

    fn receive(&mut self, inbound: Inbound) -> Result<(), JournalError> {
        match inbound {
            Inbound::Saw(sighting) => self.take(Happened::Saw(sighting)),
            Inbound::Asked { command, at, reply } => {
                let obeyed = self.obey(command, at);
                let answer = match &obeyed {
                    Ok(answer) => answer.clone(),
                    Err(error) => Err(format!("it can't be made to last: {}", host::chain(error))),
                };
                // Nobody has to wait for the answer.
                drop(reply.send(answer));
                obeyed.map(drop)
            }
        }
    }

    /// Makes an event durable, then true, then known, in this order.
    fn take(&mut self, happened: Happened) -> Result<(), JournalError> {
        match happened {
            Happened::Saw(sighting) => {
                report::log_news(&sighting, &self.facts);
                self.facts.see(sighting);
            }
            Happened::Event(event) => {
                let met: Option<Deployment> = self.state().deployment.clone();
                self.journal.append(&event)?;
                self.facts.note(&event, met.as_ref());
                report::log(&event, met.as_ref());
                self.announce(None);
            }
        }
        Ok(())
    }

    /// Says each alarm once, when it comes, and once more when it has gone.
    fn sound_alarms(&mut self) {
        let now = plan::alarms(self.state(), &self.facts, self.policy);
        if now != self.alarms {
            report::log_alarms(&self.alarms, &now);
            self.alarms = now;
        }
    }

    fn announce(&self, action: Option<&Action>) {
        let snapshot = Snapshot {
            state: self.state().clone(),
            facts: self.facts.clone(),
            doing: action.and_then(|a| doing(a, self.facts.now)),
            trouble: plan::held(self.state(), &self.facts, self.policy)
                .or_else(|| plan::withheld(self.state(), &self.facts, self.policy)),
        };
        self.show.send_if_modified(|shown| {
            let changed = **shown != snapshot;
            if changed {
                *shown = Arc::new(snapshot);
            }
            changed
        });
    }

    /// Does what an operator asked for, and says what that was.
    fn obey(&mut self, command: Command, at: u64) -> Result<Result<String, String>, JournalError> {
        if let Some(refusal) = self.nothing_to_retry(&command) {
            return Ok(Err(refusal));
        }
        self.facts.heed(&command);
        let (event, said) = match command {
            Command::Confirm { revision, by } => {
                return self.hear(Wish { word: Word::Confirm, revision, reason: None, by, at });
            }
            Command::Reject { revision, reason, by } => {
                return self.hear(Wish { word: Word::Reject, revision, reason, by, at });
            }
            Command::Sync => return Ok(Ok("the remotes are being asked".to_owned())),
            Command::Suspend { reason, until, by } => {
                let said = self.suspended_how(until.is_some());
                (Event::Suspended { suspension: Suspension { by, reason, until, at } }, said)
            }
            Command::Resume { .. } if self.state().suspension.is_none() && self.state().foreign.is_none() => {
                return Ok(Ok("it was not suspended".to_owned()));
            }
            Command::Resume { by } => (Event::Resumed { by, at }, "resumed".to_owned()),
            Command::Accept { revision, by } => match self.how_accepted(&revision) {
                Ok(said) => (Event::RootAccepted { revision, by, at }, said),
                Err(known) => return Ok(Ok(known)),
            },
            Command::Retry { revision, by } => {
                let said = match &revision {
                    Some(r) => format!("{} is tried again", r.short()),
                    None => "everything that failed is tried again".to_owned(),
                };
                (Event::RetryRequested { revision, by, at }, said)
            }
        };
        self.take(Happened::Event(event))?;
        Ok(Ok(said))
    }

    /// Takes down what an operator says about the deployment under way.
    fn hear(&mut self, wish: Wish) -> Result<Result<String, String>, JournalError> {
        match plan::hear(wish, self.state()) {
            Ok((event, said)) => {
                event.map_or(Ok(()), |event| self.take(Happened::Event(event)))?;
                Ok(Ok(said))
            }
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Says what becomes of a commit that root names now; `Err`: nothing, for it has happened already.
    fn how_accepted(&self, revision: &Oid) -> Result<String, String> {
        let (state, short) = (self.state(), revision.short());
        if let Some(main) = &state.main
            && main.revision.as_str().len() != revision.as_str().len()
        {
            return Err(format!(
                "{short} is an id of another hash function than {}, the revision accepted last, so it is not in the \
                 same repository; to move this host to another one, put trust.introduction into its configuration, \
                 switch to that by hand, and take the state directory away while pullagent is stopped",
                main.revision.short()
            ));
        }
        if state.vouched.as_ref().is_some_and(|v| v.revision == *revision) {
            return Err(format!("{short} is being accepted already"));
        }
        let bad = state.quarantined(&Target::config(revision.clone()), None).is_some();
        if state.main.as_ref().is_some_and(|m| m.revision == *revision) && state.vouched.is_none() && !bad {
            return Err(format!("{short} is the accepted revision already"));
        }
        let next = format!("{short} becomes the accepted revision, whatever came before");
        Ok(match (&state.deployment, plan::held(state, &self.facts, self.policy)) {
            (Some(d), _) => {
                let under_way = d.desired.tip.revision.short();
                format!("{next}: it is fetched and deployed once {under_way} has come to its end")
            }
            (None, _) if plan::suspended(state, self.facts.now) => {
                format!(
                    "{next}: deployments are suspended, so it is fetched and deployed after 'pullagent resume'"
                )
            }
            (None, Some(held)) if state.main.is_some() || !held.is_about_trust() => {
                format!("{next}, but the host is held: {}", held.text)
            }
            (None, _) => format!("{next}: it is fetched and deployed next"),
        })
    }

    /// Says what a suspension means now: what is on probation can't stay there.
    fn suspended_how(&self, ends: bool) -> String {
        let until =
            if ends { "until the time you gave, or 'pullagent resume'" } else { "until 'pullagent resume'" };
        match &self.state().deployment {
            Some(d) if matches!(d.stage, Stage::Probation { .. }) => {
                let revision = d.desired.tip.revision.short();
                format!("suspended: nothing more is deployed {until}; {revision} is still brought to its end")
            }
            Some(_) | None => format!("suspended: nothing is deployed {until}"),
        }
    }

    /// Says why there is nothing to be tried again, if that is so.
    fn nothing_to_retry(&self, command: &Command) -> Option<String> {
        let Command::Retry { revision, .. } = command else { return None };
        let hit = |other: Option<&Oid>| other.is_some() && (revision.is_none() || other == revision.as_ref());
        let state = self.state();
        let known = state.refused.iter().any(|r| hit(Some(&r.revision)))
            || state.quarantine.iter().any(|q| hit(q.target.revision()))
            || state.setback.as_ref().is_some_and(|s| hit(s.target.revision()))
            || state.test.as_ref().is_some_and(|t| hit(Some(&t.tip.revision)))
            || self.facts.retries.keys().any(|r| hit(Some(r)));
        let what = || revision.as_ref().map_or("any revision", Oid::short).to_owned();
        (!known).then(|| format!("nothing is remembered against {}", what()))
    }
}

async fn keep_up(beat: &impl AsyncFn()) -> Infallible {
    loop {
        beat().await;
    }
}

/// Names what is being done, for people. Waiting is not doing.
fn doing(action: &Action, since: u64) -> Option<Doing> {
    let of = |action, d: &Deployment| Some((action, Some(d.desired.tip.revision.clone())));
    let named = match action {
        Action::Observe(_) | Action::Wait { .. } | Action::Record(_) | Action::Relate { .. } => None,
        Action::Verify(v) => Some(("verify", Some(v.candidate.revision.clone()))),
        Action::Build(_, desired) => Some(("build", Some(desired.tip.revision.clone()))),
        Action::Prepare(d) => of("prepare", d),
        Action::Arm(d) => of("arm", d),
        Action::Switch(d) => of("switch", d),
        Action::Stage(d) => of("stage", d),
        Action::Reboot(d) => of("reboot", d),
        Action::EnterTrial(d) => of("enter-trial", d),
        Action::Shorten(d) | Action::CheckHealth(d) => of("check-health", d),
        Action::AwaitAnswer(d) => of("await-answer", d),
        Action::ChooseGenerations(t) | Action::RemoveGenerations(t) => {
            Some(("tidy", Some(t.revision.clone())))
        }
        Action::CheckOld(r) => Some(("check-old", Some(r.revision.clone()))),
        Action::Decide(d, _) => of("decide", d),
        Action::Confirm(d) => of("confirm", d),
        Action::RollBack(d) => of("roll-back", d),
        Action::Abandon(d, _) => of("abandon", d),
        Action::AwaitReboot(d, _) => of("await-reboot", d),
    };
    named.map(|(action, revision)| Doing { action, revision, since })
}
