//! The cases: what is under way, where it is struck, by what, and what the host may come to. No machine is needed here.

use std::fmt::{self, Display, Formatter};

use crate::common::machine::{Step, Verb};

/// What is under way when the fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// A good system is pushed to `main`.
    Good,
    /// One whose service does not work.
    Bad,
    /// A good system is pushed to the test branch.
    Test,
    /// The test branch is deleted while its system runs.
    EndOfTest,
    /// An operator switches to a third system while a good one is on probation.
    Operator,
    /// A system without pullagent, which is called off.
    Refused,
    /// The host loses its power while a good system is on probation; that it was reset is noted at the next start.
    Reset,
    /// The host loses its power while a test system runs; that it is lost is noted at the next start.
    TestLost,
}

/// Where it is struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Edge {
    /// As soon as the journal holds the event of this name.
    After(&'static str),
    /// While the new system's pre-switch check runs.
    InCheck,
    /// While the switch is at this step.
    InSwitch(StepOf),
    /// While the boot loader is written.
    InBoot,
    /// In the middle of the switch back to the old system.
    InRollback,
}

/// The steps of a switch that leave something different behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepOf {
    /// Nothing has changed yet.
    Stop,
    /// Units are stopped, `/etc` is new, the system is not.
    CurrentSystem,
    /// The system is new; systemd does not know its units.
    Reload,
    /// Units are still to be started.
    StartUnits,
}

impl StepOf {
    /// Returns the step as the machine's systems know it.
    pub fn step(self) -> Step {
        match self {
            StepOf::Stop => Step::Stop,
            StepOf::CurrentSystem => Step::CurrentSystem,
            StepOf::Reload => Step::Reload,
            StepOf::StartUnits => Step::StartUnits,
        }
    }
}

const STEPS: [StepOf; 4] = [StepOf::Stop, StepOf::CurrentSystem, StepOf::Reload, StepOf::StartUnits];

/// What strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9` of the agent's unit; systemd starts it again.
    KillAgent,
    /// `kill -9` of whatever runs on the host for the deployment: check, switch, boot loader, rollback.
    KillSwitch,
    /// Both at once.
    KillBoth,
    /// The agent is killed and stays dead until every timer of a guard has fired; then it is started again.
    NoAgent,
    /// Every process of the host dies at once; it boots again.
    PowerCut,
}

/// What a host has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The new system is permanent; of a test: it runs, and what was permanent still is.
    New,
    /// The system that was permanent before runs, and is what boots.
    Old,
    /// The test system still runs, and the way back is tried again later.
    Trial,
    /// The system that an operator switched to runs.
    Third,
}

/// One case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Case {
    pub mode: Mode,
    pub edge: Edge,
    pub fault: Fault,
}

impl Display for Case {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let edge = match self.edge {
            Edge::After(event) => format!("after {event}"),
            Edge::InCheck => "in-check".to_owned(),
            Edge::InSwitch(step) => format!("in-switch {}", step.step().word()),
            Edge::InBoot => "in-boot".to_owned(),
            Edge::InRollback => "in-rollback".to_owned(),
        };
        write!(f, "{:?} {edge} {:?}", self.mode, self.fault)
    }
}

impl Edge {
    /// Returns the verb and the step of the switch that the edge is in.
    pub fn step(self) -> Option<(Verb, Step)> {
        match self {
            Edge::After(_) => None,
            Edge::InCheck => Some((Verb::Check, Step::Check)),
            Edge::InSwitch(step) => Some((Verb::Test, step.step())),
            Edge::InBoot => Some((Verb::Boot, Step::BootLoader)),
            Edge::InRollback => Some((Verb::Test, Step::CurrentSystem)),
        }
    }
}

impl Mode {
    /// Returns all edges on the way of this mode, in their order.
    pub fn edges(self) -> Vec<Edge> {
        let steps = STEPS.map(Edge::InSwitch);
        let course = |first: &'static [&str], steps: &[Edge], last: &[Edge]| {
            let prefix = first.iter().map(|event| Edge::After(event)).chain([Edge::InCheck]);
            let probation = [Edge::After("prepared"), Edge::After("armed")];
            let judged = ["switched", "soak-started", "decided"].map(Edge::After);
            [&prefix.collect::<Vec<_>>()[..], &probation, steps, &judged, last].concat()
        };
        let torn = [Edge::InSwitch(StepOf::CurrentSystem), Edge::InSwitch(StepOf::Reload)];
        let confirmed = Edge::After("confirmed");
        match self {
            Mode::Good => course(&["main-accepted", "built"], &steps, &[Edge::InBoot, confirmed]),
            Mode::Bad => course(
                &["built"],
                &torn,
                &[Edge::InRollback, Edge::After("rolled-back"), Edge::After("old-checked")],
            ),
            Mode::Test => course(&["test-accepted", "built"], &torn, &[confirmed]),
            Mode::EndOfTest => course(&["built"], &torn, &[Edge::InBoot, confirmed]),
            Mode::Operator => vec![Edge::After("decided"), Edge::After("superseded")],
            Mode::Refused | Mode::Reset => vec![Edge::After("abandoned")],
            Mode::TestLost => vec![Edge::After("test-lost")],
        }
    }
}

impl Case {
    /// Returns which faults can strike here: a switch can only be killed while one runs.
    fn faults(mode: Mode, edge: Edge) -> Vec<Fault> {
        let runs = match edge {
            Edge::InCheck | Edge::InSwitch(_) | Edge::InBoot | Edge::InRollback | Edge::After("armed") => {
                true
            }
            Edge::After("decided") => mode == Mode::Bad,
            Edge::After(_) => false,
        };
        // The guard of one deployment is as good as that of another, and its deadline is far.
        let guarded = match edge {
            Edge::After("armed" | "switched" | "soak-started" | "decided") | Edge::InBoot => {
                mode == Mode::Good
            }
            Edge::InSwitch(step) => mode == Mode::Good && step == StepOf::CurrentSystem,
            Edge::InRollback => true,
            Edge::After(_) | Edge::InCheck => false,
        };
        let kills = [Fault::KillSwitch, Fault::KillBoth].into_iter().filter(|_| runs);
        let dead = [Fault::NoAgent].into_iter().filter(|_| guarded);
        [Fault::KillAgent, Fault::PowerCut].into_iter().chain(kills).chain(dead).collect()
    }

    /// Returns what the host may come to, and nothing else.
    pub fn may_end(self) -> &'static [End] {
        let switch_dies = matches!(self.fault, Fault::KillSwitch | Fault::KillBoth)
            && matches!(self.edge, Edge::InSwitch(_) | Edge::After("armed"));
        let begun = !matches!(self.edge, Edge::After("test-accepted" | "built") | Edge::InCheck);
        let decided = matches!(self.edge, Edge::InBoot | Edge::After("decided"));
        match self.mode {
            Mode::Good if self.fault == Fault::NoAgent && !decided => &[End::Old],
            Mode::Good if switch_dies => &[End::New, End::Old],
            Mode::Good | Mode::Reset => &[End::New],
            Mode::Bad | Mode::Refused | Mode::TestLost => &[End::Old],
            Mode::Test if self.fault == Fault::PowerCut && begun => &[End::Old],
            Mode::Test if switch_dies => &[End::New, End::Old],
            Mode::Test => &[End::New],
            Mode::EndOfTest if switch_dies => &[End::Old, End::Trial],
            Mode::EndOfTest => &[End::Old],
            Mode::Operator if self.fault == Fault::PowerCut => &[End::Old],
            Mode::Operator => &[End::Third],
        }
    }
}

const MODES: [Mode; 8] = [
    Mode::Good,
    Mode::Bad,
    Mode::Test,
    Mode::EndOfTest,
    Mode::Operator,
    Mode::Refused,
    Mode::Reset,
    Mode::TestLost,
];

/// Returns every edge of every mode with every fault.
pub fn all() -> Vec<Case> {
    let edges = MODES.into_iter().flat_map(|mode| mode.edges().into_iter().map(move |edge| (mode, edge)));
    let with_faults =
        |(mode, edge)| Case::faults(mode, edge).into_iter().map(move |fault| Case { mode, edge, fault });
    edges.flat_map(with_faults).collect()
}

/// Returns each edge once, whatever the mode; which of its cases that is, the seed says. None of them waits for a guard's
/// deadline, which takes two minutes.
pub fn each_edge_once(seed: u64) -> Vec<Case> {
    let all = || all().into_iter().filter(|case| case.fault != Fault::NoAgent);
    let mut edges: Vec<Edge> = all().map(|case| case.edge).collect();
    edges.sort_unstable();
    edges.dedup();
    let one = |(turn, edge)| {
        let cases: Vec<Case> = all().filter(|case| case.edge == edge).collect();
        let mut faults: Vec<Fault> = cases.iter().map(|case| case.fault).collect();
        faults.sort_unstable();
        faults.dedup();
        // The faults take turns, so that a run has all of them; the mode is drawn.
        let fault = faults[(turn + usize::try_from(seed % 12).unwrap()) % faults.len()];
        let cases: Vec<Case> = cases.into_iter().filter(|case| case.fault == fault).collect();
        cases[fastrand::Rng::with_seed(seed ^ turn as u64).usize(..cases.len())]
    };
    edges.into_iter().enumerate().map(one).collect()
}

/// Events that are no edge of a deployment's course, and why.
const NO_EDGE: [(&str, &str); 17] = [
    ("refused", "nothing is begun"),
    ("build-failed", "nothing is begun"),
    ("adopted", "nothing is changed on the host"),
    ("trust-adopted", "nothing is changed on the host"),
    ("root-accepted", "nothing is changed on the host"),
    ("suspended", "nothing is changed on the host"),
    ("resumed", "nothing is changed on the host"),
    ("retry-requested", "nothing is changed on the host"),
    ("staged", "the machine has no boot loader: tests/crash.rs, tests/uefi"),
    ("trial-booted", "the machine has no boot loader: tests/crash.rs, tests/uefi"),
    ("reboot-awaited", "nothing is changed on the host: tests/live/boot.rs"),
    ("switch-repeated", "what is run once more is a switch like the first: tests/live/switch.rs"),
    ("health-proven", "only where somebody is asked: tests/live/answer.rs strikes there"),
    ("answered", "only where somebody is asked: tests/live/answer.rs"),
    ("generations-chosen", "nothing that runs or boots is changed: tests/live/retention.rs, tests/crash.rs"),
    ("generations-removed", "nothing that runs or boots is changed: tests/live/retention.rs, tests/crash.rs"),
    ("rollback-failed", "what has failed is tried again with the next deployment: tests/live/guard.rs"),
];

#[test]
fn every_event_of_the_journal_is_an_edge_or_says_why_not() {
    let table = include_str!("../../agent/model/event.rs");
    let names = table.lines().filter_map(|line| line.trim().strip_prefix("Event::")?.split_once(" => \""));
    let names: Vec<&str> = names.map(|(_, name)| name.trim_end_matches("\",")).collect();
    assert!(names.len() > 20 && names.contains(&"soak-started"), "{names:?}");
    let edges: Vec<Edge> = all().iter().map(|case| case.edge).collect();
    for name in names {
        let struck = edges.iter().any(|edge| matches!(edge, Edge::After(event) if *event == name));
        let excused = NO_EDGE.iter().any(|(event, _)| *event == name);
        assert!(struck != excused, "'{name}' must be an edge of the matrix or say why it is none");
    }
}

#[test]
fn a_short_run_has_every_edge_and_every_fault() {
    let edges = |cases: &[Case]| cases.iter().map(|c| c.edge).collect::<std::collections::BTreeSet<_>>();
    for seed in 0..40 {
        let cases = each_edge_once(seed);
        assert_eq!(edges(&cases), edges(&all()));
        for fault in [Fault::KillAgent, Fault::KillSwitch, Fault::KillBoth, Fault::PowerCut] {
            assert!(cases.iter().any(|case| case.fault == fault), "seed {seed} lacks {fault:?}");
        }
    }
}
