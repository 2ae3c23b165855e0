//! Why a host changes nothing although something could be changed, and the way out. Each reason has a stable code.

use crate::model::{HostFacts, Kin, Oid, State};

use super::{Facts, Policy};

/// A reason to change nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// A stable word.
    pub code: &'static str,
    /// What is wrong, in words.
    pub text: String,
    /// What the admin can do.
    pub advice: String,
}

impl Held {
    /// Returns a reason.
    pub fn new(code: &'static str, text: impl Into<String>, advice: impl Into<String>) -> Held {
        Held { code, text: text.into(), advice: advice.into() }
    }

    /// Tells whether a commit that root names is the way out.
    pub fn is_about_trust(&self) -> bool {
        matches!(self.code, "no-introduction" | "anchor-conflict" | "runs-newer")
    }
}

/// Says why this host must not deploy anything at all at the moment.
pub fn held(state: &State, facts: &Facts, policy: &Policy) -> Option<Held> {
    if let Some(text) = &facts.blind {
        let text = format!("the host can't be observed: {text}");
        return Some(Held::new("blind", text, "mend that, then: systemctl restart pullagent"));
    }
    let host = facts.host.as_ref()?;
    if let Some(foreign) = &state.foreign {
        return Some(Held::new(
            "foreign",
            format!("the journal was written by a newer pullagent (event '{}')", foreign.event),
            "deploy the newer version again by hand; or go on without what this one can't read: pullagent resume",
        ));
    }
    if let Some(expected) = &policy.expected_machine_id
        && host.machine_id.as_ref() != Some(expected)
    {
        return Some(Held::new(
            "machine-id",
            "this is another machine than the configuration is for (expectedMachineId)",
            "correct expectedMachineId, or install this machine's own configuration",
        ));
    }
    if state.main.is_some() || state.vouched.is_some() {
        return None;
    }
    without_anchor(facts, host)
}

/// Nothing was accepted yet, or all memory of it is lost: what may be trusted to begin with.
fn without_anchor(facts: &Facts, host: &HostFacts) -> Option<Held> {
    if facts.introduction.is_none() {
        return Some(Held::new(
            "no-introduction",
            "the running system does not say which revision it was built from, so there is nothing to start from",
            "install it from a clean commit; or set trust.introduction; or: pullagent accept <commit id>",
        ));
    }
    let permanent = host.profile.as_ref().filter(|profile| host.running.as_ref() != Some(*profile))?;
    Some(Held::new(
        "anchor-conflict",
        format!(
            "nothing is remembered here, and what runs is not the permanent system ('{permanent}'): it may be a test, \
             or an older one"
        ),
        "reboot into the permanent system, or make this one permanent; or: pullagent accept <commit id>",
    ))
}

/// Returns the revision of a running system that this agent neither deployed nor found installed: root switched to it by
/// hand.
pub(super) fn by_hand<'a>(state: &State, host: &'a HostFacts) -> Option<&'a Oid> {
    let running = host.running.as_ref().filter(|_| !host.is_torn())?;
    let revision = host.running_revision.as_ref()?;
    let main = state.main.as_ref()?;
    let settled = state.settled.as_ref().map(|s| &s.toplevel);
    let entered = state.entered.as_ref().map(|e| &e.toplevel);
    let tried = state.history.iter().filter_map(|e| e.toplevel.as_ref());
    let ours = settled.into_iter().chain(entered).chain(tried).any(|toplevel| toplevel == running);
    (!ours && *revision != main.revision).then_some(revision)
}

/// Says why the accepted revision is not deployed although nothing is wrong with it: what runs may be newer. Verifying
/// goes on, for the next tip may settle it.
pub fn withheld(state: &State, facts: &Facts, policy: &Policy) -> Option<Held> {
    let host = facts.host.as_ref()?;
    let main = &state.main.as_ref()?.revision;
    let named_by_root = state.vouched.as_ref().is_some_and(|v| v.anchored && v.revision == *main);
    let runs = by_hand(state, host).filter(|_| !named_by_root && state.deployment.is_none())?;
    let kin = facts.kin(runs, main)?;
    let owed = !state.is_settled(main);
    let (runs, main) = (runs.short(), main.short());
    match kin {
        Kin::Newer if owed => Some(Held::new(
            "runs-newer",
            format!("the host was switched by hand to {runs}, which is newer than the accepted {main}"),
            format!(
                "push {runs} to the main branch; or go back by name: pullagent accept {}",
                state.main.as_ref()?.revision
            ),
        )),
        Kin::Unknown if owed => Some(Held::new(
            "anchor-conflict",
            format!(
                "the host was switched by hand to {runs}, which no remote has: it can't be told whether the accepted \
                 {main} is older"
            ),
            format!(
                "push {runs}; or deploy the accepted one by name: pullagent accept {}",
                state.main.as_ref()?.revision
            ),
        )),
        Kin::Older | Kin::Apart | Kin::Unknown | Kin::Newer => unrelated(state, facts, policy, host, kin),
    }
}

/// State, running system and remote name three revisions of which none continues the accepted line.
fn unrelated(state: &State, facts: &Facts, policy: &Policy, host: &HostFacts, kin: Kin) -> Option<Held> {
    let (main, runs) = (state.main.as_ref()?, host.running_revision.as_ref()?);
    let apart = matches!(kin, Kin::Apart | Kin::Unknown) && host.profile == host.running;
    let tip = super::head(state, facts, policy, &policy.main_branch)?;
    let off = |r: &&crate::model::Refusal| r.revision == *tip && r.code == "not-fast-forward";
    state.refused.iter().find(off).filter(|_| apart)?;
    Some(Held::new(
        "anchor-conflict",
        format!(
            "the host was switched by hand to {}, the remote is at {}, and neither descends from {}, the revision \
             accepted last",
            runs.short(),
            tip.short(),
            main.revision.short()
        ),
        format!("go on from what runs: pullagent accept {runs}; or put the branch back"),
    ))
}
