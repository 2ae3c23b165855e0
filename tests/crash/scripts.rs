//! What is pushed: the scripts of the sweep.

use std::collections::BTreeMap;

use pullagent::model::{Oid, RebootPolicy};

use super::world::{Behaviour, Commit, oid};

/// One step of a script: the branches as they are from now on.
pub type Heads = BTreeMap<String, Oid>;

pub struct Script {
    pub name: &'static str,
    pub commits: Vec<(Oid, Commit)>,
    pub pushes: Vec<Heads>,
    /// With which push root names a commit as the next anchor; whoever is not sure that it was heard says it again.
    pub accepts: Option<(usize, Oid)>,
    /// Before which push root installs a commit by hand.
    pub installs: Option<(usize, Oid)>,
    /// Whether and when the agent may reboot the host.
    pub reboots: RebootPolicy,
}

/// The introduction, then `behaviour` pushed on top, then a good commit on top of what was accepted.
pub fn one(name: &'static str, behaviour: Behaviour) -> Script {
    let (intro, bad, good) = (oid(0x1000), oid(0x2000), oid(0x3000));
    let parent = if behaviour == Behaviour::Unsigned { intro.clone() } else { bad.clone() };
    let commits = vec![
        (bad.clone(), Commit { behaviour, parent: intro.clone() }),
        (good.clone(), Commit { behaviour: Behaviour::Good, parent }),
    ];
    script(name, commits, vec![main(&intro), main(&bad), main(&good)])
}

pub fn script(name: &'static str, commits: Vec<(Oid, Commit)>, pushes: Vec<Heads>) -> Script {
    Script { name, commits, pushes, accepts: None, installs: None, reboots: RebootPolicy::Never }
}

pub fn main(tip: &Oid) -> Heads {
    BTreeMap::from([("main".to_owned(), tip.clone())])
}

/// As [`one`], on a host that the agent may reboot at once.
pub fn booted(name: &'static str, behaviour: Behaviour) -> Script {
    Script { reboots: RebootPolicy::Immediate, ..one(name, behaviour) }
}

/// As [`one`], on a host that the agent may reboot at night.
fn booted_at_night(name: &'static str, behaviour: Behaviour) -> Script {
    Script { reboots: RebootPolicy::Window, ..one(name, behaviour) }
}

/// A commit that is cut off has the host suspend itself, and the next one lifts that.
fn lifted() -> Script {
    let mut script = one("cut off and lifted", Behaviour::CutOff);
    script.commits[1].1.behaviour = Behaviour::Lifting;
    script
}

/// A commit revokes a key and is rolled back; the next one is signed with that key.
pub fn revocation_rolled_back() -> Script {
    let (intro, revoking, stolen, good) = (oid(0x1000), oid(0x2000), oid(0x2100), oid(0x3000));
    let commits = vec![
        (revoking.clone(), Commit { behaviour: Behaviour::Revoking, parent: intro.clone() }),
        (stolen.clone(), Commit { behaviour: Behaviour::ByThief, parent: revoking.clone() }),
        (good.clone(), Commit { behaviour: Behaviour::Good, parent: revoking.clone() }),
    ];
    script("revocation rolled back", commits, vec![main(&intro), main(&revoking), main(&stolen), main(&good)])
}

/// The main branch is rewritten, which is refused until root says that it is meant.
pub fn root_accepts() -> Script {
    let (intro, other, good) = (oid(0x1000), oid(0x2000), oid(0x3000));
    let commits = vec![
        (other.clone(), Commit { behaviour: Behaviour::Good, parent: oid(0x9000) }),
        (good.clone(), Commit { behaviour: Behaviour::Good, parent: other.clone() }),
    ];
    let pushes = vec![main(&intro), main(&other), main(&other), main(&good)];
    Script { accepts: Some((2, other)), ..script("root accepts", commits, pushes) }
}

/// Root installs a newer commit by hand; then the branch moves to one in between.
pub fn root_installs() -> Script {
    let (intro, between, newer, good) = (oid(0x1000), oid(0x2000), oid(0x2100), oid(0x3000));
    let commits = vec![
        (between.clone(), Commit { behaviour: Behaviour::Good, parent: intro.clone() }),
        (newer.clone(), Commit { behaviour: Behaviour::Good, parent: between.clone() }),
        (good.clone(), Commit { behaviour: Behaviour::Good, parent: newer.clone() }),
    ];
    let pushes = vec![main(&intro), main(&between), main(&good)];
    Script { installs: Some((1, newer)), ..script("root installs", commits, pushes) }
}

/// A test branch comes, moves, goes; then main moves on.
pub fn test_branch(name: &'static str, behaviour: Behaviour) -> Script {
    let (intro, first, second, good) = (oid(0x1000), oid(0x2000), oid(0x2100), oid(0x3000));
    let commits = vec![
        (first.clone(), Commit { behaviour, parent: intro.clone() }),
        (second.clone(), Commit { behaviour: Behaviour::Good, parent: intro.clone() }),
        (good.clone(), Commit { behaviour: Behaviour::Good, parent: intro.clone() }),
    ];
    let heads = |main: &Oid, test: Option<&Oid>| {
        let test = test.map(|t| ("test-web1".to_owned(), t.clone()));
        [("main".to_owned(), main.clone())].into_iter().chain(test).collect::<Heads>()
    };
    let pushes = vec![
        heads(&intro, None),
        heads(&intro, Some(&first)),
        heads(&intro, Some(&second)),
        heads(&intro, None),
        heads(&good, Some(&second)),
        heads(&good, None),
    ];
    script(name, commits, pushes)
}

/// A tip of the test branch runs when the next one comes to nothing: back to the main line, though the branch stays.
pub fn test_moves_to(name: &'static str, behaviour: Behaviour) -> Script {
    let mut script = test_branch(name, Behaviour::Good);
    script.commits[1].1.behaviour = behaviour;
    script
}

pub fn scripts() -> Vec<Script> {
    use Behaviour::*;
    vec![
        one("good", Good),
        one("unsigned", Unsigned),
        one("unbuildable", Unbuildable),
        one("flaky build", Flaky),
        one("unhealthy", Unhealthy),
        one("torn switch", Torn),
        one("torn switch that gets through", TornOnce),
        one("killed switch", Killed),
        one("refusing switch", Refusing),
        one("hanging switch", Hanging),
        one("health phase outlasts the guard", Sluggish),
        one("resets the host", Resetting),
        one("operator switches", OperatorSwitches),
        one("offline for a while", Offline),
        one("cut off", CutOff),
        lifted(),
        one("checks are red everywhere for a while", Storm),
        one("far away for a while", Faraway),
        one("unplugged", Unplugged),
        one("confirmed by hand", Confirmed),
        one("rejected by hand", Rejected),
        one("nobody answers", Unanswered),
        one("rejected unasked", RejectedUnasked),
        one("new kernel", NewKernel),
        one("needs a reboot", Inhibited),
        test_branch("test branch needs a reboot", Inhibited),
        booted("trial boot", NewKernel),
        booted("trial boot, can't be switched to", Inhibited),
        booted("trial boot panics", Panics),
        booted("trial boot goes down", Falls),
        booted("trial boot hangs", Hangs),
        booted("trial boot is unhealthy", SickKernel),
        booted("trial boot is lost", LosesEntry),
        booted_at_night("trial boot at night", NewKernel),
        booted_at_night("trial boot at night, can't be switched to", Inhibited),
        booted_at_night("trial boot at night is unhealthy", SickKernel),
        test_branch("test branch", Good),
        test_branch("unhealthy test branch", Unhealthy),
        test_branch("test branch is cut off", CutOff),
        test_moves_to("test branch turns unhealthy", Unhealthy),
        revocation_rolled_back(),
        root_accepts(),
        root_installs(),
    ]
}
