//! Why a revision runs on this host, or does not: in sentences, from the files alone.

use serde::{Deserialize, Serialize};

use super::status::{Bad, BadKind, DeploymentStatus, Owed, RetryStatus, StageWord, TestProgressWord};
use super::style::{ago, precise, quoted, safe};
use super::{Entry, Fate, Headline, History, SCHEMA, Status};
use crate::model::{self, Oid, Word};

/// What to do about a failure that may pass.
const TRY_AT_ONCE: &str = "try at once: pullagent sync";

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// Version of the layout; [`SCHEMA`].
    pub schema: u32,
    /// The revision that was asked for.
    pub revision: Oid,
    /// The answer in one word.
    pub verdict: Verdict,
    /// The answer in sentences.
    pub text: Vec<String>,
    /// What the admin can do.
    pub advice: Option<String>,
}

/// What is known of a revision on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It runs, and was confirmed.
    Running,
    /// It runs as a test.
    Testing,
    /// It is being verified, built, switched to or tried.
    UnderWay,
    /// Its turn will come.
    Waiting,
    /// Its signature or history was not acceptable.
    Refused,
    /// It was tried and failed.
    Failed,
    /// It was deployed before; something newer has taken its place.
    Past,
    /// It was a test that is over.
    TestOver,
    /// This host has not heard of it.
    Unknown,
}

/// Says why `revision` runs, or does not.
pub fn explain(revision: &Oid, status: &Status, history: &History, now: u64) -> Explanation {
    let case = Case { revision, status, history, now };
    let parts = [
        Case::under_way,
        Case::running,
        Case::bad,
        Case::culprit,
        Case::retried,
        Case::pending,
        Case::test_over,
        Case::past,
        Case::unknown,
    ];
    let (verdict, mut text, advice) =
        parts.iter().find_map(|part| part(&case)).unwrap_or((Verdict::Unknown, vec![], None));
    text.extend(case.suspension(verdict));
    let waits =
        matches!(verdict, Verdict::Waiting | Verdict::Unknown | Verdict::TestOver | Verdict::UnderWay);
    let held = status.trouble.as_ref().filter(|_| waits);
    text.extend(held.map(|trouble| {
        let code = status.trouble_code.as_deref().map(|c| format!(" ({})", safe(c))).unwrap_or_default();
        format!("The host is held{code}: {}.", sentence(trouble))
    }));
    let advice = held.and(status.trouble_advice.as_deref().map(safe)).or(advice);
    Explanation { schema: SCHEMA, revision: revision.clone(), verdict, text, advice }
}

type Answer = Option<(Verdict, Vec<String>, Option<String>)>;

struct Case<'a> {
    revision: &'a Oid,
    status: &'a Status,
    history: &'a History,
    now: u64,
}

impl Case<'_> {
    fn short(&self) -> &str {
        self.revision.short()
    }

    fn under_way(&self) -> Answer {
        let about = |r: &Oid| r == self.revision;
        let deployment = self.status.deployment.as_ref().filter(|d| about(&d.commit.revision));
        let act = self.status.doing.as_ref().filter(|d| d.revision.as_ref().is_some_and(about));
        let step = match (self.status.state, deployment, act) {
            (Headline::Preparing, Some(_), _) => "it is built, and the switch to it is being prepared",
            (Headline::Switching, Some(_), _) => "the host is being switched to it",
            (Headline::CheckingHealth, Some(_), _) => {
                "the host runs it on probation while its health is checked"
            }
            (Headline::AwaitingConfirmation, Some(_), _) => {
                "it proved healthy, and somebody has to confirm it"
            }
            (Headline::Confirming, Some(_), _) => "it proved healthy and is being made permanent",
            (Headline::RollingBack, Some(_), _) => "it failed and is being rolled back",
            (Headline::Retrying, Some(_), _) => "a step of its deployment failed",
            (_, Some(_), _) => "its deployment is under way",
            (Headline::Verifying, None, Some(_)) => "it is being fetched and its signatures are checked",
            (Headline::Building, None, Some(_)) => "it is being built",
            (_, None, _) => return None,
        };
        let mut text = vec![format!("{} is under way: {step}.", self.short())];
        let undecided = |d: &&DeploymentStatus| {
            matches!(
                d.stage,
                StageWord::Armed
                    | StageWord::Activated
                    | StageWord::Soaking
                    | StageWord::AwaitingConfirmation
            )
        };
        if let Some(at) = deployment.filter(undecided).and_then(|d| d.answer_until.or(d.deadline)) {
            let left = precise(at.saturating_sub(self.now));
            text.push(format!("The host rolls back in {left} unless it is confirmed before."));
        }
        text.extend(deployment.and_then(|d| d.answer.as_ref()).map(said));
        let stuck = self.status.retry(self.revision);
        text.extend(stuck.iter().flat_map(|r| self.how_stuck(r)));
        let asked = self.status.state == Headline::AwaitingConfirmation;
        let advice = stuck.map(|_| TRY_AT_ONCE).or(asked.then_some(super::text::ANSWER));
        Some((Verdict::UnderWay, text, advice.map(str::to_owned)))
    }

    fn running(&self) -> Answer {
        if self.status.state == Headline::RollbackFailed {
            return None;
        }
        let running = self.status.running.as_ref().filter(|r| r.revision.as_ref() == Some(self.revision))?;
        let signed =
            running.signer.as_deref().map(|s| format!(", signed by {}", safe(s))).unwrap_or_default();
        let since =
            |did| running.since.map(|at| format!(", {did} {}", ago(self.now, at))).unwrap_or_default();
        if self.status.state == Headline::Testing {
            let text =
                format!("{} runs for a test{}{signed}. A reboot ends it.", self.short(), since("entered"));
            return Some((Verdict::Testing, vec![text], None));
        }
        let generation = running.generation.map(|g| format!(" as generation {g}")).unwrap_or_default();
        let mut text = vec![format!("{} runs{generation}{}{signed}.", self.short(), since("deployed"))];
        if self.status.state == Headline::Drift {
            text.push("It is not what pullagent deployed last: somebody else switched to it.".to_owned());
        }
        Some((Verdict::Running, text, None))
    }

    fn bad(&self) -> Answer {
        let bad = self.status.bad(self.revision)?;
        let verdict = if bad.kind == BadKind::Refused { Verdict::Refused } else { Verdict::Failed };
        let mut text = vec![self.how_bad(bad)];
        text.push(match bad.code.as_str() {
            "" => format!("The reason: {}.", sentence(&bad.text)),
            code => format!("The reason ({}): {}.", safe(code), sentence(&bad.text)),
        });
        // The reason often repeats what the first check said.
        let news =
            |d: &&String| !bad.text.contains(d.split_once(": ").map_or(d.as_str(), |(_, words)| words));
        text.extend(bad.details.iter().filter(news).map(|d| safe(d)));
        if bad.kind != BadKind::Refused {
            text.push("It is not tried again by itself.".to_owned());
        }
        Some((verdict, text, Some(safe(&bad.advice))))
    }

    /// A commit below a tip, for whose sake the tip was refused.
    fn culprit(&self) -> Answer {
        let mut bad = self.status.set_aside.iter().rev();
        let bad = bad.find(|b| b.commit.as_ref() == Some(self.revision))?;
        let (name, tip, when) = (self.short(), bad.revision.short(), ago(self.now, bad.at));
        let text = vec![
            format!("{name} is why {tip} was refused {when} on {}.", safe(&bad.branch)),
            format!("The reason ({}): {}.", safe(&bad.code), sentence(&bad.text)),
        ];
        Some((Verdict::Refused, text, Some(safe(&bad.advice))))
    }

    fn how_bad(&self, bad: &Bad) -> String {
        let when = ago(self.now, bad.at);
        let subject =
            if bad.subject.is_empty() { String::new() } else { format!(" {}", quoted(&bad.subject)) };
        let name = format!("{}{subject}", self.short());
        match bad.kind {
            BadKind::Refused => {
                format!("{name} was refused {when} on {}; nothing of it was built.", safe(&bad.branch))
            }
            BadKind::BuildFailed => format!("{name} could not be built {when}; the host was not touched."),
            BadKind::RolledBack => format!("{name} was activated and rolled back {when}."),
            BadKind::RollbackFailed => format!("{name} was activated, and rolling it back failed {when}."),
            BadKind::CalledOff => format!("{name} was called off {when}."),
        }
    }

    fn retried(&self) -> Answer {
        let retry = self.status.retry(self.revision)?;
        let advice = super::text::retry_advice(retry).unwrap_or(TRY_AT_ONCE);
        Some((Verdict::Waiting, self.how_stuck(retry), Some(advice.to_owned())))
    }

    fn how_stuck(&self, retry: &RetryStatus) -> Vec<String> {
        let when = match retry.not_before.saturating_sub(self.now) {
            0 => "now".to_owned(),
            secs => format!("in {}", precise(secs)),
        };
        vec![
            format!("{} could not be finished: {}.", self.short(), sentence(&retry.text)),
            format!("This may pass by itself; it is tried again {when} (failures so far: {}).", retry.tries),
        ]
    }

    fn pending(&self) -> Answer {
        let pending = self.status.pending.iter().find(|p| p.revision == *self.revision)?;
        let step = match pending.owed {
            Owed::Verify => "has been seen and is to be verified",
            Owed::Deploy => "was verified and is to be deployed",
            Owed::Return => "is what the host returns to, for the test is over",
        };
        let text = format!("{} on {} {step}.", self.short(), safe(&pending.branch));
        Some((Verdict::Waiting, vec![text], None))
    }

    fn test_over(&self) -> Answer {
        let test = self.status.test.as_ref().filter(|t| t.commit.revision == *self.revision)?;
        if test.progress != TestProgressWord::Over {
            return None;
        }
        let why = test.why.as_deref().map(sentence).unwrap_or_default();
        let text = vec![
            format!("{} was tested, and the test is over: {why}.", self.short()),
            "A test is entered once; it comes back if its branch moves.".to_owned(),
        ];
        Some((Verdict::TestOver, text, Some(format!("enter it again: pullagent retry {}", self.short()))))
    }

    fn past(&self) -> Answer {
        let last = self.history.entries.iter().rev().find(|e| e.revision == *self.revision)?;
        let mut text = vec![self.how_past(last)];
        let running = self.status.running.as_ref();
        if let Some(now_runs) = running.and_then(|r| r.revision.as_ref()) {
            text.push(format!("The host runs {} now.", now_runs.short()));
        }
        Some((Verdict::Past, text, None))
    }

    fn how_past(&self, e: &Entry) -> String {
        let when = ago(self.now, e.at);
        let name = self.short();
        match e.outcome {
            Fate::Confirmed => match e.generation {
                Some(g) => format!("{name} was deployed {when} as generation {g}."),
                None => format!("{name} was deployed {when}."),
            },
            Fate::Tested | Fate::TestLost => format!("{name} ran for a test, {when}."),
            Fate::RolledBack => format!("{name} was rolled back {when}; it was to be tried again since."),
            Fate::RollbackFailed => {
                format!("{name} could not be rolled back {when}; it was to be tried again since.")
            }
            Fate::Superseded => format!("{name} was given up {when}, for somebody else switched the host."),
            Fate::Refused => format!("{name} was refused {when}, and the branch has moved since."),
            Fate::BuildFailed => format!("{name} could not be built {when}; it was to be tried again since."),
            Fate::Abandoned => format!("{name} was called off {when}."),
            Fate::RebootAwaited => format!("{name} has been waiting for a reboot since {when}."),
        }
    }

    fn unknown(&self) -> Answer {
        let mut text = vec![format!("This host has not heard of {}.", self.short())];
        for remote in &self.status.remotes {
            let name = safe(&remote.name);
            text.push(match (&remote.trouble, remote.checked_at) {
                (Some(t), _) => format!("{name} does not answer: {}.", sentence(&t.text)),
                (None, Some(at)) => format!("{name} was asked {} and named other tips.", ago(self.now, at)),
                (None, None) => format!("{name} has not been asked yet."),
            });
        }
        text.push(
            "Only the newest commit of a branch is ever looked at by itself; those below come with it."
                .to_owned(),
        );
        Some((Verdict::Unknown, text, Some("ask the remotes now: pullagent sync".to_owned())))
    }

    fn suspension(&self, verdict: Verdict) -> Option<String> {
        let s = self.status.suspension.as_ref()?;
        let matters = matches!(verdict, Verdict::Waiting | Verdict::Unknown | Verdict::TestOver);
        matters.then(|| format!("Deployments are suspended by {} ({}).", safe(&s.by), ago(self.now, s.at)))
    }
}

/// What an operator said about a deployment that is under way.
fn said(answer: &model::Answer) -> String {
    match answer.word {
        Word::Confirm => format!("{} wants it to stay.", safe(&answer.by)),
        Word::Reject => format!("{}.", sentence(&answer.rejection())),
    }
}

/// A foreign text without its own full stop.
fn sentence(text: &str) -> String {
    safe(text).trim_end_matches('.').to_owned()
}
