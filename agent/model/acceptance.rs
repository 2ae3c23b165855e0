//! The part of the table that is about trust: what is accepted and refused, and whose signatures count.

use std::collections::HashSet;

use super::state::{
    Ended, HISTORY_MAX, Outcome, REFUSALS_IN_HISTORY_MAX, REFUSED_MAX, State, TestLine, TestProgress,
};
use super::transition::push_bounded;
use super::verdict::Refusal;
use super::{AdoptedTrust, Oid, REVOKED_BYTES_MAX, Tip, Vouched, Why};

impl State {
    /// Moves the anchor. What root named is judged by nothing that was held against it before.
    pub(super) fn accept_main(&mut self, tip: &Tip) {
        self.pardon(tip);
        match self.vouched.take() {
            Some(vouched) if vouched.revision == tip.revision => {
                self.refused.clear();
                self.forgive(Some(&tip.revision));
                self.vouched = Some(Vouched { anchored: true, ..vouched });
            }
            // Still to be fetched; what was accepted meanwhile does not change that.
            Some(vouched) if !vouched.anchored => self.vouched = Some(vouched),
            Some(_) | None => {}
        }
        self.main = Some(tip.clone());
    }

    /// What root named runs, so it is a revision like any other from now on.
    pub(super) fn end_vouching(&mut self, revision: &Oid) {
        self.vouched = self.vouched.take().filter(|v| !v.anchored || v.revision != *revision);
    }

    /// Makes these settings the ones that count. What was revoked once stays so, whatever comes later.
    pub(super) fn adopt_trust(&mut self, trust: AdoptedTrust) {
        self.revoke(trust.settings.revoked_keys());
        self.trust = Some(trust);
    }

    /// Remembers revoked keys. When there is no room, those that came first stay: they may be listed nowhere else.
    pub(super) fn revoke(&mut self, keys: Vec<String>) {
        let mut bytes: usize = self.revoked.iter().map(String::len).sum();
        let mut known: HashSet<String> = self.revoked.iter().cloned().collect();
        for key in keys {
            if bytes + key.len() <= REVOKED_BYTES_MAX && known.insert(key.clone()) {
                bytes += key.len();
                self.revoked.push_back(key);
            }
        }
    }

    pub(super) fn accept_test(&mut self, tip: &Tip, main: &Oid) {
        let same = self.test.as_ref().filter(|t| t.tip.revision == tip.revision);
        let progress = same.map_or(TestProgress::Accepted, |t| t.progress.clone());
        self.test = Some(TestLine { tip: tip.clone(), main: main.clone(), progress });
    }

    /// Drops what was held against a tip that is accepted now: it was judged by other keys or another anchor.
    pub(super) fn pardon(&mut self, tip: &Tip) {
        self.refused.retain(|r| r.revision != tip.revision || r.branch != tip.branch);
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        // Nobody can vouch for what can't be exported.
        self.vouched = self.vouched.take().filter(|v| v.anchored || v.revision != refusal.revision);
        let known = self.refused.iter().any(|r| r.revision == refusal.revision && r.code == refusal.code);
        self.refused.retain(|r| r.revision != refusal.revision || r.branch != refusal.branch);
        push_bounded(&mut self.refused, refusal.clone(), REFUSED_MAX);
        if known {
            return;
        }
        let ended = Ended {
            id: None,
            revision: refusal.revision.clone(),
            subject: String::new(),
            signer: None,
            branch: refusal.branch.clone(),
            operation: refusal.operation,
            why: Why::NewRevision,
            toplevel: None,
            outcome: Outcome::Refused { code: refusal.code.clone(), text: refusal.text.clone() },
            began: refusal.at,
            at: refusal.at,
        };
        self.make_room_for_refusal();
        push_bounded(&mut self.history, ended, HISTORY_MAX);
    }

    /// Whoever may push could fill the history with what is refused, and what ran on this host would be forgotten.
    fn make_room_for_refusal(&mut self) {
        let is_refusal = |e: &Ended| matches!(e.outcome, Outcome::Refused { .. });
        if self.history.iter().filter(|e| is_refusal(e)).count() >= REFUSALS_IN_HISTORY_MAX
            && let Some(oldest) = self.history.iter().position(is_refusal)
        {
            self.history.remove(oldest);
        }
    }
}
