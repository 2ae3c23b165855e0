//! Runs the cases: several on one machine, one after the other, and several machines beside each other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::machine::{self, Managed, Step, System, Verb, Via, wait_until};
use crate::edges::{Case, Edge, End, Fault, Mode, all, each_edge_once};
use crate::host::{LIMIT, Look, web};
use crate::rest::{self, Systems};
use crate::strike::{Groups, Journal, steps_begun, strike};

/// How many machines there are at once. They wait more than they work.
const MACHINES: usize = 4;
/// For how many seconds a step that is to be struck is held up.
const HELD_SECS: u32 = 3;
/// How often a case is set up anew whose fault found nothing to strike.
const TRIES: u32 = 3;

/// The cases that are left, and what is known of the others.
struct Run {
    seed: u64,
    full: bool,
    left: Mutex<Vec<Case>>,
    wrong: Mutex<Vec<String>>,
    took: Mutex<Vec<(Case, Duration)>>,
}

#[test]
fn no_fault_leaves_a_wrong_end_state() {
    let seed =
        setting("PULLAGENT_FAULT_SEED").map_or_else(|| fastrand::u64(..), |text| text.parse().unwrap());
    let full = setting("PULLAGENT_FAULT_MATRIX").is_some_and(|which| which == "full");
    let mut cases = if full || only().is_some() { all() } else { each_edge_once(seed) };
    cases.retain(|case| only().is_none_or(|words| words.iter().all(|w| case.to_string().contains(w))));
    fastrand::Rng::with_seed(seed).shuffle(&mut cases);
    let (count, begun) = (cases.len(), Instant::now());
    println!("fault matrix: {count} cases, PULLAGENT_FAULT_SEED={seed}");
    let run = Run { seed, full, left: Mutex::new(cases), wrong: Mutex::default(), took: Mutex::default() };
    std::thread::scope(|scope| {
        for _ in 0..MACHINES.min(count) {
            scope.spawn(|| run.work());
        }
    });
    let (wrong, took) = (run.wrong.into_inner().unwrap(), run.took.into_inner().unwrap());
    if took.is_empty() && wrong.is_empty() {
        // No machines here.
        return;
    }
    let secs = begun.elapsed().as_secs();
    println!(
        "fault matrix: {} runs, {} wrong end states, {secs} s, PULLAGENT_FAULT_SEED={seed}",
        took.len() + wrong.len(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "PULLAGENT_FAULT_SEED={seed}:\n{}", wrong.join("\n\n"));
    assert_eq!(took.len(), count);
}

fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// Returns the words that a case's name must have in it.
fn only() -> Option<Vec<String>> {
    Some(setting("PULLAGENT_FAULT_ONLY")?.split_whitespace().map(str::to_owned).collect())
}

impl Run {
    /// Runs cases on a machine until none is left. One that went wrong gets the next case a new machine.
    fn work(&self) {
        let mut bench: Option<Bench> = None;
        loop {
            let Some(case) = self.left.lock().unwrap().pop() else { break };
            if bench.is_none() {
                bench = Bench::boot();
            }
            let Some(on) = bench.as_mut() else { return };
            let begun = Instant::now();
            let ended = catch_unwind(AssertUnwindSafe(|| on.run(case)));
            let said = match ended {
                Ok(Ok(end)) => {
                    println!("struck {case}: {end:?}, {:.0} s", begun.elapsed().as_secs_f32());
                    self.took.lock().unwrap().push((case, begun.elapsed()));
                    continue;
                }
                Ok(Err(why)) => why,
                Err(panic) => words_of(&*panic),
            };
            let told = bench.take().map(|bench| bench.tell()).unwrap_or_default();
            println!("struck {case}: WRONG, PULLAGENT_FAULT_SEED={}: {said}\n{told}", self.seed);
            self.wrong.lock().unwrap().push(format!("{case}: {said}"));
        }
        // The timers of what has ended fire into nothing, a minute later.
        if let Some(bench) = bench.filter(|_| self.full) {
            rest::wait_until_nothing_is_left(&bench.host);
        }
    }
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
}

/// A machine on which cases are run, one after the other; between them it runs what `main` says.
struct Bench {
    host: Managed,
    journal: Journal,
    /// What runs and is permanent, and its revision.
    settled: (String, String),
    pushes: u32,
}

impl Bench {
    fn boot() -> Option<Bench> {
        let configure = |settings: &mut Value| {
            settings["activation"] = json!({ "soak": "1s", "window": "20s", "switchTimeout": "20s" });
            settings["health"] = json!({ "checks": { "web": {
                "http": "http://127.0.0.1:8000/",
                "interval": "1s", "timeout": "5s", "startPeriod": "2s", "failureThreshold": 2
            } } });
        };
        let host = Managed::boot_with(Via::Https, configure, |system| web(system, "one"))?;
        let settled = (host.toplevel.clone(), host.revision.clone());
        let bench = Bench { host, journal: Journal::default(), settled, pushes: 0 };
        bench.host.wait_for_status("in-sync", &bench.settled.1);
        Some(bench)
    }

    /// Runs one case to its end, and then sees that the next push deploys.
    fn run(&mut self, case: Case) -> Result<End, String> {
        let mut tries = 0;
        let (seq, third) = loop {
            let (seq, third, struck) = self.begin_and_strike(case);
            tries += 1;
            if struck {
                break (seq, third);
            }
            assert!(tries < TRIES, "{TRIES} times there was nothing to strike");
            rest::wait(&self.host);
            self.deploy_next();
        };
        if case.fault == Fault::NoAgent {
            self.host.kill_agent();
            rest::wait_until_no_guard_is_left(&self.host);
            self.host.revive_agent();
        }
        let status = rest::wait(&self.host);
        self.journal.look(&self.host.machine);
        let new = match case.mode {
            Mode::EndOfTest | Mode::TestLost => Some(self.entered()),
            _ => self.built(seq),
        };
        let systems = Systems { old: self.settled.0.clone(), new, third };
        let is_test = matches!(case.mode, Mode::Test | Mode::EndOfTest | Mode::TestLost);
        let end = rest::judge(&self.host, &systems, is_test, &status)?;
        // A test that runs is what was to become of it.
        let end = if case.mode == Mode::Test && end == End::Trial { End::New } else { end };
        if !case.may_end().contains(&end) {
            return Err(format!("it ends with {end:?}: {:?}\n{status:#}", self.journal.names(seq)));
        }
        self.deploy_next();
        Ok(end)
    }

    /// Brings about what is to be struck, and strikes. Returns the last record before, and whether anything was struck.
    fn begin_and_strike(&mut self, case: Case) -> (u64, Option<String>, bool) {
        let third = (case.mode == Mode::Operator).then(|| {
            let third = self.next("third");
            self.host.machine.build(&third)
        });
        if matches!(case.mode, Mode::EndOfTest | Mode::TestLost) {
            self.enter_test();
        }
        self.journal.look(&self.host.machine);
        let seq = self.journal.last();
        let mut groups = Groups::of(&self.host.machine);
        let held = case.edge.step().filter(|_| case.edge != Edge::InRollback);
        let begun = held.map(|step| self.hold(step));
        self.begin(case.mode);
        match case.mode {
            Mode::Operator => {
                self.await_event(seq, "soak-started");
                self.host.machine.switch(third.as_ref().unwrap(), Verb::Test);
            }
            Mode::Reset => {
                self.await_event(seq, "soak-started");
                self.host.machine.power_cut();
                groups = Groups::of(&self.host.machine);
            }
            Mode::TestLost => {
                self.host.machine.power_cut();
                groups = Groups::of(&self.host.machine);
            }
            Mode::Good | Mode::Bad | Mode::Test | Mode::EndOfTest | Mode::Refused => {}
        }
        match (case.edge, case.edge.step()) {
            (Edge::After(event), _) => self.await_event(seq, event),
            (Edge::InRollback, Some(step)) => {
                self.await_event(seq, "soak-started");
                let begun = self.hold(step);
                self.await_step(step, begun);
            }
            (_, Some(step)) => self.await_step(step, begun.unwrap()),
            (_, None) => unreachable!("{case} is at no place"),
        }
        let struck = strike(&self.host.machine, &groups, &mut self.journal, case.fault);
        (seq, third, struck)
    }

    /// Pushes what the mode is about.
    fn begin(&mut self, mode: Mode) {
        let system = match mode {
            Mode::Good | Mode::Reset => self.next("good"),
            Mode::Bad => self.next("bad").etc("web/nginx.conf", "no configuration"),
            Mode::Refused => self.next("bare").without_agent(),
            Mode::Operator => self.undecided(),
            Mode::Test => return self.push_test(),
            Mode::EndOfTest => {
                self.host.repo.git(&["update-ref", "-d", "refs/heads/test-web1"]);
                return;
            }
            Mode::TestLost => return,
        };
        self.host.push(&system);
    }

    /// Returns a system whose check never ends, one way or the other: exit code 75 asks for patience.
    fn undecided(&mut self) -> System {
        let mut settings = self.host.settings.clone();
        let command = ["/bin/sh", "-c", "exit 75"];
        settings["health"]["checks"]["wait"] = json!({ "command": command, "interval": "1s" });
        self.next("undecided").agent(&self.host.package, &settings)
    }

    /// Returns the first system with another page, under a label of its own.
    fn next(&mut self, word: &str) -> System {
        self.pushes += 1;
        let label = format!("{word}-{}", self.pushes);
        web(self.host.system.clone().label(&label), &label)
    }

    fn push_test(&mut self) {
        let system = self.next("test");
        let (host, branch) = (&self.host, "test-web1");
        let main = host.repo.git(&["rev-parse", "refs/heads/main"]);
        host.repo.git(&["update-ref", &format!("refs/heads/{branch}"), &main]);
        host.machine.forge().commit(&host.repo, branch, &system, Some(&host.alice));
    }

    fn enter_test(&mut self) {
        self.journal.look(&self.host.machine);
        let seq = self.journal.last();
        self.push_test();
        self.await_event(seq, "confirmed");
        let status = rest::wait(&self.host);
        assert_eq!(status["state"], "testing", "{status:#}");
    }

    /// Has the next run of a step take its time; returns how many there were.
    fn hold(&self, (verb, step): (Verb, Step)) -> usize {
        let begun = steps_begun(&self.host.machine, verb, step);
        self.host.machine.fault("*", verb, step, machine::Fault::Wait(HELD_SECS));
        begun
    }

    fn await_step(&self, (verb, step): (Verb, Step), before: usize) {
        let what = format!("step '{}'", step.word());
        wait_until(&what, LIMIT, || steps_begun(&self.host.machine, verb, step) > before);
    }

    fn await_event(&mut self, seq: u64, name: &str) {
        self.journal.wait_for(&self.host.machine, seq, name);
    }

    /// Returns the system that was built last since a record.
    fn built(&self, seq: u64) -> Option<String> {
        let built = self.journal.since(seq).filter(|(name, _)| *name == "built").last();
        built.map(|(_, event)| event["toplevel"].as_str().unwrap().to_owned())
    }

    /// Returns the test system that was entered last.
    fn entered(&self) -> String {
        let history = self.host.history();
        let tested = history.iter().rfind(|ended| ended["operation"] == "test").expect("a test was entered");
        tested["toplevel"].as_str().unwrap().to_owned()
    }

    /// Pushes a good system, which is deployed whatever came before.
    fn deploy_next(&mut self) {
        let host = &self.host;
        host.repo.git(&["update-ref", "-d", "refs/heads/test-web1"]);
        // What was held up and did not come to pass, and rollbacks of other cases, are nothing to this one.
        let program = format!("{}/bin/pullagent", host.package);
        host.machine.check(&format!(
            "rm -f /run/switch-faults; {program} suspend --reason between && {program} resume"
        ));
        let system = self.next("next");
        let host = &self.host;
        let revision = host.push(&system);
        host.wait_for_outcome(&revision, "confirmed");
        let status = rest::wait(host);
        assert_eq!(status["state"], "in-sync", "{status:#}");
        let view = host.machine.view();
        let running = view.running.clone().unwrap();
        let links = [&view.running, &view.profile, &view.boot_default];
        assert_eq!(links, [&Some(running.clone()); 3], "{view:#?}");
        assert_eq!((view.etc, view.failed), (Some(host.machine.etc_of(&running)), vec![]));
        self.settled = (running, revision);
    }

    /// Returns what the machine has to say about what went wrong on it.
    fn tell(&self) -> String {
        let events: Vec<String> =
            self.journal.records.iter().rev().take(40).rev().map(|r| r["event"].to_string()).collect();
        if !self.host.machine.is_on() {
            return format!("{}\n{}", events.join("\n"), self.host.machine.console());
        }
        let script = "journalctl --no-pager -b -n 120; tail -n 40 /var/log/switch.log; systemctl list-timers --all --no-pager; ls -l /var/lib/pullagent/guard/*";
        let said = self.host.machine.run(script).stdout;
        format!("{}\n{}", events.join("\n"), String::from_utf8_lossy(&said))
    }
}
