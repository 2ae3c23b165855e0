//! What operators say to the agent, and when they say it.

use pullagent::model::{Command, Oid, Word};
use pullagent::reconcile::Inbound;

pub fn answer(word: Word) -> Inbound {
    let (revision, by) = (None, "bob".to_owned());
    let command = match word {
        Word::Confirm => Command::Confirm { revision, by },
        Word::Reject => Command::Reject { revision, reason: None, by },
    };
    Inbound::Asked { command, at: 1_900_000_000, reply: tokio::sync::oneshot::channel().0 }
}

pub fn accept(revision: &Oid) -> Inbound {
    let command = Command::Accept { revision: revision.clone(), by: "root".to_owned() };
    Inbound::Asked { command, at: 1_900_000_000, reply: tokio::sync::oneshot::channel().0 }
}

pub fn resume() -> Inbound {
    let command = Command::Resume { by: "alice".to_owned() };
    Inbound::Asked { command, at: 1_900_000_000, reply: tokio::sync::oneshot::channel().0 }
}
