//! Goal: whatever stops the agent, wherever it stops, it ends up where an undisturbed run ends up.
//!
//! Method: the real loop, plan, transition table and journal run on a world in memory. A script of pushes is run once
//! undisturbed, then again with a cut at every point, and at every pair of points, for each kind of cut. All runs must
//! converge to the undisturbed run's end, announce nothing that the journal does not hold, and keep the invariants.
//! Planted bugs show that the sweep would notice.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::disallowed_methods, reason = "a test starts programs and looks at the clock")]

mod crash {
    mod asks;
    mod blame;
    mod boot;
    pub mod disk;
    mod ends;
    mod laws;
    pub mod orders;
    mod said;
    pub mod script;
    pub mod scripts;
    mod tidy;
    mod trust;
    pub mod world;
}

use std::future::Future;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crash::disk::{memory_dir, tear};
use crash::orders::{accept, answer, resume};
use crash::script::policy;
use crash::scripts::{Script, scripts, test_moves_to};
use crash::world::{Behaviour, Bug, Cut, Fault, World, oid, system, third_system};
use pullagent::journal::Journal;
use pullagent::model::{Oid, Sighting, StorePath, TestProgress};
use pullagent::plan;
use pullagent::reconcile::{self, Inbound};
use pullagent::report::Snapshot;
use tokio::sync::{mpsc, watch};

/// How often a future is polled before the run counts as not coming to rest.
const POLLS_MAX: u32 = 200;
/// How many pairs of cuts a quick run tries of each script.
const PAIRS_QUICK: u32 = 250;
const CUTS: [Cut; 3] = [Cut::Kill, Cut::LongKill, Cut::Power];
/// What can fail without an event of its own.
const FALLIBLE: [&str; 17] = [
    "ChooseGenerations",
    "RemoveGenerations",
    "Verify",
    "Build",
    "Prepare",
    "Arm",
    "Switch",
    "Shorten",
    "CheckHealth",
    "AwaitAnswer",
    "Decide",
    "Confirm",
    "Abandon",
    "AwaitReboot",
    "Stage",
    "Reboot",
    "EnterTrial",
];
/// How often a short fault strikes: it is over before any guard's deadline.
const STRIKES_FEW: u32 = 3;
/// How often a long fault strikes: hours go by.
const STRIKES_MANY: u32 = 14;

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct End {
    running: StorePath,
    etc: StorePath,
    profile: StorePath,
    boot_default: StorePath,
    main: Option<Oid>,
    settled: Option<Oid>,
    test: Option<&'static str>,
    refused: Vec<Oid>,
    quarantined: Vec<Oid>,
    deployment: bool,
    /// Whether each generation has a boot entry and each entry a generation.
    tidy: bool,
}

struct Ran {
    end: End,
    points: u32,
    wrong: Vec<String>,
    /// When its fault struck, unix seconds.
    struck: Vec<u64>,
}

/// Runs a script with cuts, each counted in points from the start or from the cut before it.
fn run(script: &Script, cuts: &[(u32, Cut)], bug: Option<Bug>) -> Ran {
    run_faulty(script, cuts, bug, None)
}

/// Runs a script undisturbed and returns what its journal holds, one record a line.
fn run_and_read(script: &Script) -> String {
    let dir = tempfile::Builder::new().prefix("pullagent-crash").tempdir_in(memory_dir()).unwrap();
    let ran = run_in(dir.path(), script, &[], None, None);
    assert_eq!(ran.wrong, Vec::<String>::new(), "{}", script.name);
    std::fs::read_to_string(dir.path().join("journal")).unwrap()
}

fn run_faulty(script: &Script, cuts: &[(u32, Cut)], bug: Option<Bug>, fault: Option<Fault>) -> Ran {
    let dir = tempfile::Builder::new().prefix("pullagent-crash").tempdir_in(memory_dir()).unwrap();
    run_in(dir.path(), script, cuts, bug, fault)
}

fn run_in(dir: &Path, script: &Script, cuts: &[(u32, Cut)], bug: Option<Bug>, fault: Option<Fault>) -> Ran {
    let world = Rc::new(World::new(oid(0x1000), bug));
    world.inner.borrow_mut().commits = script.commits.iter().cloned().collect();
    world.inner.borrow_mut().fault = fault;
    let mut cuts = cuts.iter();
    let mut pushed = 0;
    let mut total = 0;
    loop {
        {
            let mut w = world.inner.borrow_mut();
            w.points = 0;
            w.cut = cuts.next().copied();
        }
        let life = live(dir, &world, script, &mut pushed);
        total += world.inner.borrow().points;
        match life {
            Some(cut) => {
                world.crash(cut);
                // A write that was under way when the agent was stopped.
                tear(dir, total);
            }
            None => return ran(dir, &world, total),
        }
    }
}

/// One life of the agent. `Some`: it was cut. `None`: the script is over and all is quiet.
fn live(dir: &Path, world: &Rc<World>, script: &Script, pushed: &mut usize) -> Option<Cut> {
    let complain = |text: String| world.inner.borrow_mut().violations.push(text);
    let mut journal = match Journal::open(dir, "boot") {
        Ok(journal) => journal,
        Err(e) => {
            complain(format!("the journal does not open: {e}"));
            return None;
        }
    };
    let policy = policy(script.reboots);
    let (show, shown) = watch::channel(Arc::new(Snapshot::default()));
    let (send, mut inbox) = mpsc::channel(8);
    let show = Rc::new(show);
    let early = show.clone();
    *world.announce_early.borrow_mut() = Some(Box::new(move || {
        let mut snapshot = (**early.borrow()).clone();
        snapshot.state.deployment = None;
        early.send_replace(Arc::new(snapshot));
    }));
    let perform = async |action| world.perform(action).await;
    let beat = async || std::future::pending().await;
    let over = {
        let mut future =
            std::pin::pin!(reconcile::run(&mut journal, &policy, &mut inbox, &show, perform, beat));
        let mut context = Context::from_waker(Waker::noop());
        let push = |n: usize| {
            let now = 1_900_000_000;
            let heads = Sighting::Heads {
                remote: "origin".to_owned(),
                heads: script.pushes[n].clone(),
                old: None,
                at: now,
            };
            send.try_send(Inbound::Saw(heads)).unwrap();
            if let Some((_, revision)) = script.accepts.iter().find(|(at, _)| *at == n) {
                send.try_send(accept(revision)).unwrap();
            }
        };
        push(*pushed);
        let mut polls = 0;
        loop {
            polls += 1;
            if let Poll::Ready(Err(e)) = future.as_mut().poll(&mut context) {
                complain(format!("the loop stopped: {e:?}"));
                break None;
            }
            if let Some(cut) = world.inner.borrow().crashed {
                break Some(cut);
            }
            if polls > POLLS_MAX || world.inner.borrow().exhausted {
                complain("it does not come to rest".to_owned());
                break None;
            }
            let spoken = std::mem::take(&mut world.inner.borrow_mut().spoken);
            if let Some(word) = spoken {
                send.try_send(answer(word)).unwrap();
                continue;
            }
            let quiet = std::mem::take(&mut world.inner.borrow_mut().quiet);
            let suspension = shown.borrow().state.suspension.clone();
            if quiet && suspension.is_some_and(|s| s.by == plan::BREAKER) {
                // Whoever looks at such a host pushes what comes next, then resumes it.
                if *pushed + 1 < script.pushes.len() {
                    *pushed += 1;
                    push(*pushed);
                }
                if !world.is_lifting(&script.pushes[*pushed]["main"]) {
                    world.resume();
                    send.try_send(resume()).unwrap();
                }
                continue;
            }
            if quiet && *pushed + 1 == script.pushes.len() {
                break None;
            }
            if quiet {
                if let Some((_, revision)) = script.installs.iter().find(|(at, _)| *at == *pushed + 1) {
                    world.install(revision);
                }
                *pushed += 1;
                push(*pushed);
            }
        }
    };
    if shown.borrow().state != *journal.state() && world.inner.borrow().points > 0 {
        complain("something was announced that the journal does not hold".to_owned());
    }
    over
}

fn ran(dir: &Path, world: &Rc<World>, points: u32) -> Ran {
    let journal = Journal::open(dir, "boot").unwrap();
    let state = journal.state();
    let w = world.inner.borrow();
    let mut refused: Vec<Oid> = state.refused.iter().map(|r| r.revision.clone()).collect();
    let mut quarantined: Vec<Oid> =
        state.quarantine.iter().filter_map(|q| q.target.revision().cloned()).collect();
    refused.sort();
    quarantined.sort();
    quarantined.dedup();
    let end = End {
        running: w.running.clone(),
        etc: w.etc.clone(),
        profile: w.profile.clone(),
        boot_default: w.boot_default.clone(),
        main: state.main.as_ref().map(|t| t.revision.clone()),
        settled: state.settled.as_ref().map(|s| s.tip.revision.clone()),
        test: state.test.as_ref().map(|t| match t.progress {
            TestProgress::Accepted => "accepted",
            TestProgress::Entered => "entered",
            TestProgress::Over { .. } => "over",
        }),
        refused,
        quarantined,
        deployment: state.deployment.is_some(),
        tidy: w.generations[0] == w.generations[1] && state.tidying.is_none(),
    };
    Ran { end, points, wrong: w.violations.clone(), struck: w.struck.clone() }
}

/// Compares a disturbed run with the undisturbed one.
fn compare(script: &Script, clean: &End, cuts: &[(u32, Cut)], ran: &Ran) -> Result<(), String> {
    if let Some(wrong) = ran.wrong.first() {
        return Err(wrong.clone());
    }
    // While the agent is dead for long, its guard rolls back even a good system: that is what it is for. Its target is
    // then in quarantine, too, and only the pushes after it converge; each script ends with one. A target that resets
    // the host is tried a bounded number of times, and a reset that comes from outside counts like its own.
    let mut end = ran.end.clone();
    if script.name == "operator switches" && !cuts.is_empty() {
        // The operator comes once. A reset before that is noticed leaves the target as one to be tried again.
        end.quarantined = clean.quarantined.clone();
    }
    if script.name.contains("unhealthy")
        && script.name.contains("test branch")
        && cuts.iter().any(|(_, c)| matches!(c, Cut::Power))
    {
        // A test is entered at most once: after a reset nobody finds out any more how unhealthy it was.
        end.quarantined = clean.quarantined.clone();
    }
    let resets = cuts.iter().filter(|(_, c)| matches!(c, Cut::Power)).count();
    if script.name.starts_with("trial boot") && resets > 1 {
        // A system is blamed for the second reset in its trial, whoever took the power.
        end.quarantined = clean.quarantined.clone();
    }
    if cuts.iter().any(|(_, c)| matches!(c, Cut::LongKill)) {
        end.quarantined = clean.quarantined.clone();
        let last = clean.main.clone();
        if end.settled != last && clean.settled == last {
            // The last push itself met the dead agent: the host must be healthy on what it ran before, and agree.
            let whole =
                end.running == end.etc && end.running == end.profile && end.profile == end.boot_default;
            let kept = ran.end.quarantined.contains(last.as_ref().unwrap());
            return if whole && kept && !end.deployment { Ok(()) } else { Err(format!("{:?}", ran.end)) };
        }
    }
    if end == *clean { Ok(()) } else { Err(format!("ended as {:#?}\ninstead of {clean:#?}", ran.end)) }
}

#[test]
fn undisturbed_runs_end_as_they_should() {
    for script in scripts() {
        let ran = run(&script, &[], None);
        assert_eq!(ran.wrong, Vec::<String>::new(), "{}", script.name);
        let end = ran.end;
        let last = system(&oid(0x3000));
        assert_eq!(
            (&end.running, &end.etc, &end.profile, &end.boot_default),
            (&last, &last, &last, &last),
            "{}",
            script.name
        );
        let bad = match script.name {
            "unbuildable"
            | "unhealthy"
            | "torn switch"
            | "refusing switch"
            | "hanging switch"
            | "resets the host"
            | "health phase outlasts the guard"
            | "operator switches"
            | "unplugged"
            | "rejected by hand"
            | "nobody answers"
            | "rejected unasked"
            | "revocation rolled back"
            | "trial boot goes down"
            | "trial boot hangs"
            | "trial boot at night is unhealthy"
            | "trial boot is unhealthy"
            | "unhealthy test branch" => vec![oid(0x2000)],
            "test branch turns unhealthy" => vec![oid(0x2100)],
            _ => vec![],
        };
        assert_eq!(end.quarantined, bad, "{}", script.name);
        assert_eq!(
            !end.refused.is_empty(),
            matches!(script.name, "unsigned" | "revocation rolled back" | "root installs")
                || script.name.contains("test branch"),
            "{}",
            script.name
        );
        assert_ne!(end.running, third_system());
    }
}

#[test]
fn a_test_tip_that_comes_to_nothing_ends_the_test_before_it() {
    for behaviour in [Behaviour::Unhealthy, Behaviour::Unbuildable, Behaviour::Unsigned, Behaviour::Refusing]
    {
        let mut script = test_moves_to("test branch turns bad", behaviour);
        // The branch stays where it is.
        script.pushes.truncate(3);
        let Ran { end, wrong, .. } = run(&script, &[], None);
        let main = system(&oid(0x1000));
        assert_eq!((&end.running, &end.profile, wrong), (&main, &main, vec![]), "{behaviour:?}");
    }
}

#[test]
fn every_cut_and_every_pair_of_cuts_converges() {
    // Quick runs try every single cut and so many pairs of each script; long ones try every pair.
    let pairs_max = if std::env::var_os("PULLAGENT_TEST_LONG").is_some() { u32::MAX } else { PAIRS_QUICK };
    let started = std::time::Instant::now();
    // Whoever works on one kind of script runs only those whose names have its word.
    let word = std::env::var("PULLAGENT_TEST_SCRIPT").unwrap_or_default();
    let scripts: Vec<Script> = scripts().into_iter().filter(|script| script.name.contains(&word)).collect();
    let (first, second) = scripts.split_at(scripts.len() / 2);
    let runs: u64 = std::thread::scope(|s| {
        let sweep = |half: &'static str, scripts: &[Script]| {
            let runs: u64 = scripts.iter().map(|script| sweep(script, pairs_max)).sum();
            println!("crash sweep: {half} half done, {runs} runs");
            runs
        };
        let other = s.spawn(move || sweep("second", second));
        sweep("first", first) + other.join().unwrap()
    });
    println!(
        "crash sweep: {runs} runs over {} scripts in {:.0?}, all converged",
        scripts.len(),
        started.elapsed()
    );
}

fn sweep(script: &Script, pairs_max: u32) -> u64 {
    let clean = run(script, &[], None);
    let mut runs = 0;
    let mut check = |cuts: &[(u32, Cut)]| {
        runs += 1;
        let ran = run(script, cuts, None);
        if let Err(text) = compare(script, &clean.end, cuts, &ran) {
            panic!("script '{}', cuts {cuts:?}: {text}", script.name);
        }
    };
    let mut pairs = 0u32;
    // Odd, so that it does not keep step with the kinds of cuts.
    let stride = ((clean.points * 3).pow(2) / pairs_max) | 1;
    for at in 1..=clean.points {
        for first in CUTS {
            check(&[(at, first)]);
            // The second cut falls at each point of the life that follows.
            for next in 1..=clean.points {
                for second in CUTS {
                    pairs += 1;
                    if pairs.is_multiple_of(stride) {
                        check(&[(at, first), (next, second)]);
                    }
                }
            }
        }
    }
    runs
}

/// A failure that passes changes nothing of the end, and while it lasts nothing is tried again without a pause: each
/// time the loop waits, longer and longer.
#[test]
fn what_fails_is_tried_again_later_and_later() {
    let mut struck = std::collections::BTreeSet::new();
    for script in scripts() {
        let clean = run(&script, &[], None);
        for (action, done) in FALLIBLE.into_iter().flat_map(|action| [(action, false), (action, true)]) {
            for (times, excuse) in [(STRIKES_FEW, vec![]), (STRIKES_MANY, vec![(0, Cut::LongKill)])] {
                let fault = Fault { action, times, done };
                let ran = run_faulty(&script, &[], None, Some(fault));
                let place = format!("script '{}', {fault:?}", script.name);
                if let Err(text) = compare(&script, &clean.end, &excuse, &ran) {
                    panic!("{place}: {text}");
                }
                check_pauses(&place, &ran.struck);
                struck.extend((!ran.struck.is_empty()).then_some(action));
            }
        }
    }
    assert_eq!(struck.len(), FALLIBLE.len(), "each fault struck somewhere: {struck:?}");
}

/// Three failures in a row are never less than three seconds apart: the shortest pauses are two and four seconds, and
/// a new commit or another deployment may begin anew with the shortest.
fn check_pauses(place: &str, struck: &[u64]) {
    for window in struck.windows(3) {
        assert!(window[2] - window[0] >= 3, "{place}: struck at {struck:?} s");
    }
}

/// Runs undisturbed, then with single cuts, until the sweep notices the bug.
fn notices(bug: Bug) -> bool {
    let scripts = scripts();
    let wrong = |script: &Script, clean: &Ran, cuts: &[(u32, Cut)]| {
        compare(script, &clean.end, cuts, &run(script, cuts, Some(bug))).is_err()
    };
    let clean: Vec<Ran> = scripts.iter().map(|script| run(script, &[], None)).collect();
    let mut both = scripts.iter().zip(&clean);
    both.clone().any(|(script, clean)| wrong(script, clean, &[]))
        || both.any(|(script, clean)| {
            (1..=clean.points).any(|at| CUTS.iter().any(|cut| wrong(script, clean, &[(at, *cut)])))
        })
}

#[test]
fn planted_bugs_are_noticed() {
    let bugs = [
        Bug::RollsBackToWrongPath,
        Bug::AnnouncedBeforeJournaled,
        Bug::LostQuarantine,
        Bug::GuardNotArmed,
        Bug::ProfileSetTooEarly,
        Bug::BootDefaultMovedTooEarly,
        Bug::DecisionOverwritten,
        Bug::ConfirmForgetsBootEntry,
        Bug::RestartedSwitchForgotten,
        Bug::TestMadePermanent,
        Bug::TargetBlamed,
        Bug::ClassLeftOut,
        Bug::TimeOfRollbackLost,
        Bug::OldKeysBack,
        Bug::BootGuardLeftOut,
        Bug::TrialMadeDefault,
        Bug::NobodyAsked,
        Bug::RedLost,
        Bug::NetworkBlamed,
        Bug::NonceLost,
        Bug::EntriesForgotten,
    ];
    for bug in bugs {
        assert!(notices(bug), "{bug:?} went unnoticed");
        println!("noticed: {bug:?}");
    }
    println!("{} planted bugs, all noticed", bugs.len());
}
