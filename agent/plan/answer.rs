//! What becomes of an operator's word about the deployment under way: whether it counts, and what follows from it.

use crate::model::{
    Answer, Arbiter, Class, Decision, Deployment, Event, Failure, Oid, REJECTED, Stage, State, Step, Word,
};

/// An operator's word, before it is known whether it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Whether the system stays.
    pub word: Word,
    /// Which revision is meant; `None`: whatever is under way.
    pub revision: Option<Oid>,
    /// Why, for people.
    pub reason: Option<String>,
    /// Who says so.
    pub by: String,
    /// When.
    pub at: u64,
}

/// What a wish comes to: what is remembered of it, if anything, and what the operator hears.
pub type Heard = (Option<Event>, String);

/// Says what a wish comes to.
///
/// # Errors
/// There is nothing under way that it could be about; the text says why.
pub fn hear(wish: Wish, state: &State) -> Result<Heard, String> {
    let Some(d) = &state.deployment else { return nothing_under_way(&wish, state) };
    let tried = &d.desired.tip.revision;
    if let Some(meant) = wish.revision.as_ref().filter(|meant| *meant != tried) {
        if wish.word == Word::Confirm && state.is_settled(meant) {
            return Ok((None, format!("{} is confirmed already", meant.short())));
        }
        return Err(format!("{} is not being tried; {} is", meant.short(), tried.short()));
    }
    let said = match (&d.stage, wish.word) {
        (stage, _) if is_decided(stage) => return decided(stage, wish.word, tried),
        (Stage::Probation { step: Step::Proven { .. }, .. }, Word::Confirm) => {
            format!("{} stays, and becomes permanent now", tried.short())
        }
        (_, Word::Confirm) => format!("{} stays, once it has proved healthy", tried.short()),
        (Stage::Built | Stage::Probation { step: Step::Prepared, .. }, Word::Reject) => {
            format!("{} is called off; the host was not touched", tried.short())
        }
        (Stage::Probation { step: Step::Armed, .. }, Word::Reject) => {
            format!("{} is rolled back as soon as the switch to it has ended", tried.short())
        }
        (Stage::Probation { .. }, Word::Reject) => format!("{} is rolled back now", tried.short()),
    };
    let Wish { word, by, reason, at, revision: _ } = wish;
    Ok((Some(Event::Answered { answer: Answer { id: d.id.clone(), word, by, reason, at } }), said))
}

fn nothing_under_way(wish: &Wish, state: &State) -> Result<Heard, String> {
    let last = state.history.back();
    match (wish.word, &wish.revision) {
        (Word::Confirm, Some(meant)) if state.is_settled(meant) => {
            Ok((None, format!("{} is confirmed already", meant.short())))
        }
        (Word::Reject, Some(meant))
            if last.is_some_and(|e| e.revision == *meant && state.is_settled(meant)) =>
        {
            Err(format!("{} is confirmed already; to go back, push a commit that reverts it", meant.short()))
        }
        (_, _) => Err("nothing is being tried".to_owned()),
    }
}

fn is_decided(stage: &Stage) -> bool {
    matches!(stage, Stage::Probation { step: Step::Confirming | Step::RollingBack { .. }, .. })
}

/// A decision is never taken back.
fn decided(stage: &Stage, word: Word, tried: &Oid) -> Result<Heard, String> {
    let tried = tried.short();
    match (stage, word) {
        (Stage::Probation { step: Step::RollingBack { .. }, .. }, Word::Reject) => {
            Ok((None, format!("{tried} is being rolled back already")))
        }
        (Stage::Probation { step: Step::RollingBack { .. }, .. }, Word::Confirm) => {
            Err(format!("it is too late: {tried} is being rolled back"))
        }
        (_, Word::Confirm) => Ok((None, format!("{tried} is confirmed already"))),
        (_, Word::Reject) => {
            Err(format!("it is too late: {tried} is confirmed; to go back, push a commit that reverts it"))
        }
    }
}

/// Returns the answer to the deployment under way, if it is this word.
fn answered<'a>(state: &'a State, d: &Deployment, word: Word) -> Option<&'a Answer> {
    state.answer.as_ref().filter(|a| a.id == d.id && a.word == word)
}

/// Tells whether somebody confirmed the deployment.
pub(super) fn is_confirmed(state: &State, d: &Deployment) -> bool {
    answered(state, d, Word::Confirm).is_some()
}

/// Returns the decision that a rejection forces.
pub(super) fn rejected(state: &State, d: &Deployment) -> Option<Decision> {
    let reason = answered(state, d, Word::Reject)?.rejection();
    Some(Decision::RollBack { reason, by: Arbiter::Agent, class: Class::Target })
}

/// Returns why a deployment that did not touch the host yet is called off, if somebody rejected it.
pub(super) fn called_off(state: &State, d: &Deployment) -> Option<Failure> {
    let text = answered(state, d, Word::Reject)?.rejection();
    Some(Failure { class: Class::Target, code: REJECTED.to_owned(), text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Class, DeploymentId, Desired, Ended, Operation, Outcome, Settled, SwitchEnd, Tip, Trial, Why,
    };

    fn oid(digit: &str) -> Oid {
        digit.repeat(40).parse().unwrap()
    }

    fn tip(revision: &Oid) -> Tip {
        Tip {
            revision: revision.clone(),
            tree: revision.clone(),
            payload_sha256: String::new(),
            committer_time: 0,
            signer: None,
            subject: String::new(),
            branch: "main".to_owned(),
            remote: "origin".to_owned(),
            accepted_at: 0,
        }
    }

    /// A host that runs `a`, confirmed, and tries `b` as far as `stage`.
    fn state(stage: Option<Stage>) -> State {
        let toplevel: crate::model::StorePath =
            "/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-new".parse().unwrap();
        let settled =
            Settled { tip: tip(&oid("a")), toplevel: toplevel.clone(), generation: None, id: None, at: 0 };
        let desired = Desired { tip: tip(&oid("b")), operation: Operation::Switch, why: Why::NewRevision };
        let deployment = stage.map(|stage| Deployment {
            id: DeploymentId::new(1, &oid("b")),
            desired: desired.clone(),
            drv: None,
            toplevel,
            at: 0,
            stage,
        });
        State { settled: Some(settled), deployment, ..State::default() }
    }

    fn stages() -> Vec<(&'static str, Stage)> {
        let old = "/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-old".parse().unwrap();
        let trial = Trial {
            old,
            boot_id: "b".to_owned(),
            deadline_boottime_ms: 0,
            red_before: vec![],
            switch_repeats: 0,
            reboot: None,
        };
        let rolling = Step::RollingBack {
            reason: String::new(),
            failures: vec![],
            class: Class::Target,
            code: None,
            red: None,
        };
        let steps = [
            ("prepared", Step::Prepared),
            ("armed", Step::Armed),
            ("activated", Step::Activated { ended: SwitchEnd::Complete { exit: None, text: String::new() } }),
            ("soaking", Step::Soaking),
            ("proven", Step::Proven { until_boottime_ms: 0 }),
            ("confirming", Step::Confirming),
            ("rolling-back", rolling),
        ];
        let probation = |(name, step)| (name, Stage::Probation { trial: trial.clone(), step });
        [("built", Stage::Built)].into_iter().chain(steps.into_iter().map(probation)).collect()
    }

    fn say(word: Word, revision: Option<Oid>, state: &State) -> Result<Heard, String> {
        hear(Wish { word, revision, reason: None, by: "bob".to_owned(), at: 1 }, state)
    }

    #[test]
    fn a_word_counts_until_it_is_decided_and_fits_the_table_of_transitions() {
        for (name, stage) in stages() {
            for word in [Word::Confirm, Word::Reject] {
                let mut state = state(Some(stage.clone()));
                let heard = say(word, Some(oid("b")), &state);
                let counts = !matches!(name, "confirming" | "rolling-back");
                let event = heard.as_ref().ok().and_then(|(event, _)| event.clone());
                assert_eq!(event.is_some(), counts, "{name} {word:?}: {heard:?}");
                let contradicts =
                    matches!((name, word), ("confirming", Word::Reject) | ("rolling-back", Word::Confirm));
                assert_eq!(heard.is_err(), contradicts, "{name} {word:?}: {heard:?}");
                let Some(event) = event else { continue };
                state.apply(&event).unwrap();
                let d = state.deployment.clone().unwrap();
                assert_eq!(is_confirmed(&state, &d), word == Word::Confirm);
                assert_eq!(rejected(&state, &d).is_some(), word == Word::Reject);
            }
        }
    }

    #[test]
    fn another_revision_is_never_meant() {
        for (name, stage) in stages() {
            let state = state(Some(stage));
            assert!(say(Word::Confirm, Some(oid("c")), &state).is_err(), "{name}");
            assert!(say(Word::Reject, Some(oid("c")), &state).is_err(), "{name}");
            // What was confirmed once is confirmed.
            assert!(matches!(say(Word::Confirm, Some(oid("a")), &state), Ok((None, _))), "{name}");
            assert!(say(Word::Reject, Some(oid("a")), &state).is_err(), "{name}");
        }
        let mut idle = state(None);
        assert!(say(Word::Confirm, None, &idle).is_err());
        assert!(matches!(say(Word::Confirm, Some(oid("a")), &idle), Ok((None, _))));
        assert!(say(Word::Reject, None, &idle).is_err());
        let tip = tip(&oid("a"));
        idle.history.push_back(Ended {
            id: None,
            revision: tip.revision,
            subject: String::new(),
            signer: None,
            branch: String::new(),
            operation: Operation::Switch,
            why: Why::NewRevision,
            toplevel: None,
            outcome: Outcome::Confirmed { generation: None, removed: vec![] },
            began: 0,
            at: 0,
        });
        let late = say(Word::Reject, Some(oid("a")), &idle).unwrap_err();
        assert!(late.contains("reverts it"), "{late}");
    }
}
