//! What a host at rest must be like: its links agree with what was confirmed, nothing is owed, and the status says so.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::machine::{Managed, View};
use crate::edges::End;
use crate::host::{LIMIT, Look};

/// How long a host must stay as it is to count as at rest.
const QUIET: Duration = Duration::from_millis(1500);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(250);
/// Words of a host that has something to do, or does not know yet.
const PASSING: [&str; 11] = [
    "starting",
    "waiting",
    "verifying",
    "building",
    "preparing",
    "switching",
    "checking-health",
    "confirming",
    "rolling-back",
    "unreachable",
    "held",
];

/// The systems of a case, by store path.
#[derive(Debug, Clone)]
pub struct Systems {
    /// What was permanent before.
    pub old: String,
    /// What was pushed, once it is built; at the end of a test, the test system.
    pub new: Option<String>,
    /// What an operator switched to.
    pub third: Option<String>,
}

/// Waits until the agent lives and has nothing to do, and returns what its status says then.
pub fn wait(host: &Managed) -> Value {
    let begun = Instant::now();
    let mut still: Option<(Value, Instant)> = None;
    let mut last = None;
    while begun.elapsed() < LIMIT {
        last = host.status().filter(|status| is_of_the_living(host, status));
        let rest = last.as_ref().filter(|status| is_quiet(status)).map(essence);
        still = match (rest, still) {
            (Some(rest), Some((before, since))) if rest == before => {
                if since.elapsed() >= QUIET {
                    return last.unwrap();
                }
                Some((before, since))
            }
            (Some(rest), _) => Some((rest, Instant::now())),
            (None, _) => None,
        };
        std::thread::sleep(LOOK);
    }
    panic!("the host does not come to rest: {last:#?}");
}

/// Says whether a status was written by the agent that runs now.
fn is_of_the_living(host: &Managed, status: &Value) -> bool {
    let pid = host.machine.property("pullagent.service", "MainPID");
    status["agent"]["pid"].as_u64().map(|p| p.to_string()) == Some(pid)
}

fn is_quiet(status: &Value) -> bool {
    let word = status["state"].as_str().unwrap();
    let nothing = |key: &str| status[key].is_null();
    // What is tried again in minutes is at rest until then.
    let now = status["agent"]["writtenAt"].as_u64().unwrap();
    // What has two reasons to wait waits for the later.
    let retries = status["retries"].as_array().unwrap();
    let late = |other: &Value| other["notBefore"].as_u64().is_some_and(|at| at >= now + 60);
    let waits = retries.iter().any(|r| !retries.iter().any(|o| o["revision"] == r["revision"] && late(o)));
    !PASSING.contains(&word)
        && nothing("deployment")
        && nothing("doing")
        && !waits
        && !status["remotes"][0]["checkedAt"].is_null()
}

/// What must not change while a host is at rest.
fn essence(status: &Value) -> Value {
    json!([status["state"], status["running"], status["boot"], status["setAside"], status["suspension"]])
}

/// Says what the host has come to, or what is wrong with it.
pub fn judge(host: &Managed, systems: &Systems, is_test: bool, status: &Value) -> Result<End, String> {
    let view = host.machine.view();
    let wrong = |what: &str| Err(format!("{what}: {view:#?}\nof {systems:#?}\nstatus {status:#}"));
    let running = view.running.clone();
    let Some(running) = running else { return wrong("nothing runs") };
    if view.etc != Some(host.machine.etc_of(&running)) || !view.leftovers.is_empty() {
        return wrong("the host is torn");
    }
    if !view.failed.is_empty() {
        return wrong("units failed");
    }
    let new = systems.new.as_ref() == Some(&running);
    let end = match () {
        () if running == systems.old => End::Old,
        () if systems.third.as_ref() == Some(&running) => End::Third,
        () if new && is_test && view.profile.as_ref() != Some(&running) => End::Trial,
        () if new => End::New,
        () => return wrong("the host runs a system that nobody wanted"),
    };
    let permanent = if end == End::New { &running } else { &systems.old };
    if [&view.profile, &view.boot_default] != [&Some(permanent.clone()); 2] {
        return wrong("what boots is not what was confirmed");
    }
    for (key, said) in [("running", &view.running), ("boot", &view.boot_default), ("booted", &view.booted)] {
        if status[key]["toplevel"].as_str() != said.as_deref() {
            return wrong(&format!("the status lies about '{key}'"));
        }
    }
    if (end == End::New || end == End::Old) != status["running"]["generation"].is_u64() {
        return wrong("the status names a generation of a system that has none, or none of one that has");
    }
    check_guards(host)?;
    check_history(host, &view, end)?;
    Ok(end)
}

/// Every guard knows what to do, so none of its timers can undo anything any more.
fn check_guards(host: &Managed) -> Result<(), String> {
    // Where no deployment was prepared yet, there is none.
    let script = "cd /var/lib/pullagent/guard 2> /dev/null || exit 0
    for plan in */plan.json; do
        [ -e \"$plan\" ] || continue; dir=${plan%/plan.json}
        [ -e $dir/result.json ] || grep -q -e '\"confirm\"' -e '\"superseded\"' $dir/decision 2> /dev/null ||
          grep -qv $(cat /proc/sys/kernel/random/boot_id) $plan || echo \"$dir: $(ls $dir | tr '\\n' ' ')\"
    done";
    match host.machine.check(script) {
        armed if armed.is_empty() => Ok(()),
        armed => Err(format!("guards are left that may still roll back: {armed}")),
    }
}

/// What the history says of a system's last deployment is what became of it.
fn check_history(host: &Managed, view: &View, end: End) -> Result<(), String> {
    let history = host.history();
    let of_running = history.iter().rfind(|ended| ended["toplevel"].as_str() == view.running.as_deref());
    let outcome = of_running.map(|ended| ended["outcome"].as_str().unwrap().to_owned());
    let expected = match end {
        End::New => "confirmed",
        End::Trial => "tested",
        End::Old | End::Third => return Ok(()),
    };
    match outcome {
        Some(outcome) if outcome == expected => Ok(()),
        other => Err(format!("the history says {other:?} of what runs, not '{expected}': {history:#?}")),
    }
}

/// Waits until no timer and no service of a deployment is left.
pub fn wait_until_nothing_is_left(host: &Managed) {
    wait_until_gone(host, "pullagent-*");
}

/// Waits until the timers of all guards have fired, and what they started has ended.
pub fn wait_until_no_guard_is_left(host: &Managed) {
    wait_until_gone(host, "pullagent-guard-*");
}

fn wait_until_gone(host: &Managed, units: &str) {
    let left = format!(
        "systemctl list-units --all --plain --no-legend '{units}' | cut -d' ' -f1 | grep -v -x pullagent-gateway.service || true"
    );
    let begun = Instant::now();
    loop {
        let left = host.machine.check(&left);
        if left.is_empty() {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "units are left: {left}");
        std::thread::sleep(LOOK);
    }
}
