//! `activation.retryNonce`: the way to say `pullagent retry` to many hosts through a reviewed commit.

use serde::{Deserialize, Serialize};

use super::state::State;

/// Who suspends a host that was rolled back too often.
pub const BREAKER: &str = "pullagent";

/// The text in a built system's configuration, and what it is compared with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nonce {
    /// That of the running system, which counts where none was remembered.
    pub running: String,
    /// That of the system that was built.
    pub built: String,
}

impl State {
    /// Takes a text down. Another one than before lifts what a `retry` lifts, and the suspension after too many rollbacks;
    /// one that somebody imposed stays.
    pub(super) fn learn_nonce(&mut self, nonce: &Nonce) {
        let before = self.retry_nonce.replace(nonce.built.clone());
        if before.as_ref().unwrap_or(&nonce.running) == &nonce.built {
            return;
        }
        self.forgive(None);
        self.rollbacks.clear();
        self.suspension = self.suspension.take().filter(|s| s.by != BREAKER);
    }
}
