//! Commits that somebody has to speak about: the operator who answers when the host asks, or does not, or speaks unasked.

use pullagent::model::{Class, Deployment, Event, Happened, Stage, Step, Word};

use super::world::{Behaviour, Bug, World, roll_back};

/// How long an answer is waited for.
const ANSWER_MS: u64 = 200_000;

impl World {
    /// What the health phase of such a commit comes to; `None`: it is an ordinary one.
    pub(super) async fn prove(&self, d: &Deployment, behaviour: Behaviour) -> Option<Happened> {
        match behaviour {
            Behaviour::RejectedUnasked => self.speak(Word::Reject).await,
            Behaviour::Confirmed | Behaviour::Rejected | Behaviour::Unanswered
                if !self.bug(Bug::NobodyAsked) =>
            {
                Some(self.ask(d).await)
            }
            _ => None,
        }
    }

    async fn ask(&self, d: &Deployment) -> Happened {
        self.point().await;
        let deadline = self.inner.borrow().now_ms + ANSWER_MS;
        if let Some(guard) = self.inner.borrow_mut().guards.get_mut(d.id.as_str()) {
            guard.timers.push(deadline);
        }
        self.point().await;
        Happened::Event(Event::HealthProven {
            id: d.id.clone(),
            until_boottime_ms: deadline - 1_000,
            deadline_boottime_ms: deadline,
            failures: vec![],
        })
    }

    pub(super) async fn await_answer(&self, d: Deployment, behaviour: Behaviour) -> Happened {
        self.point().await;
        match behaviour {
            Behaviour::Confirmed => drop(self.speak(Word::Confirm).await),
            Behaviour::Rejected => drop(self.speak(Word::Reject).await),
            _ => {}
        }
        let Stage::Probation { step: Step::Proven { until_boottime_ms }, .. } = d.stage else {
            unreachable!("{d:?}")
        };
        let left = until_boottime_ms.saturating_sub(self.inner.borrow().now_ms);
        self.pass(left);
        self.decide(&d.id, roll_back("nobody confirmed it", Class::Target), vec![]).await
    }

    /// The operator speaks, which ends what is under way.
    async fn speak(&self, word: Word) -> Option<Happened> {
        self.inner.borrow_mut().spoken = Some(word);
        std::future::pending().await
    }
}
