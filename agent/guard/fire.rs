//! Owns the rollback: waits for the deadline, takes the decision if nobody did, and brings the old system
//! back. All of it runs in the pinned binary, in a process of its own.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use tokio::runtime::Runtime;

use super::GuardError;
use super::boot::{boot_deadline, go_back};
use super::pinned::arm;
use super::plan::{
    GuardPlan, decide_late, has_begun, lock_path, mark_begin, read_decision, read_plan, read_result,
    too_late, write_result,
};
use crate::host::files::{FileError, io_error};
use crate::host::manager::Manager;
use crate::host::systemd::Force;
use crate::host::{chain, clock, detach, facts, job, switch, switch_lock, systemd};
use crate::model::{Decision, GuardResult, HostFacts, StorePath};

/// How often a timer looks whether it was decided already.
const LOOK: Duration = Duration::from_secs(1);
/// How often the old system is switched to before we give up.
const TRIES: u32 = 2;
/// How long to wait before another try: what was in the way may have passed.
const BETWEEN_TRIES: Duration = Duration::from_secs(3);
/// How long systemd may take before each of them to answer again, which every switch needs it for.
const ANSWER_TIME: Duration = Duration::from_secs(200);
/// How long the switch to the new system may take to end when asked to.
const STOP_TIME: Duration = Duration::from_secs(15);
/// How long all the units that ran before may take to start again.
const RESTORE_TIME: Duration = Duration::from_secs(45);
/// How often a timer whose rollback could not even be recorded fires again, and how long it waits in between.
const FIRES_MAX: u32 = 60;
const BETWEEN_FIRES: Duration = Duration::from_secs(10);
/// How long an orderly shutdown may take before the host is reset.
const SHUTDOWN_TIME: Duration = Duration::from_secs(300);
/// How long a guard may take to reboot the host, and to find out that it can't.
const REBOOT_MAX: Duration = SHUTDOWN_TIME.saturating_add(Duration::from_secs(60));
/// How much longer than its tries another rollback may hold the lock.
const LOCK_MARGIN: Duration = Duration::from_secs(60);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// What came of firing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fired {
    /// Nothing: this was decided before.
    Stands(Decision),
    /// A rollback ended so; maybe an earlier one.
    Ended(GuardResult),
}

/// The process of a timer: waits until the deadline, then fires; ends early when there is nothing to wait for.
pub(super) fn wait_and_fire(dir: &Path, until_boottime_ms: u64) -> Result<(), GuardError> {
    let _timer = match begin_to_wait(dir, until_boottime_ms) {
        Ok(Some(lock)) => lock,
        Ok(None) => {
            detach::say_ready();
            return Ok(());
        }
        Err(e) => {
            detach::say_failed(&chain(&e));
            return Err(e);
        }
    };
    detach::say_ready();
    while clock::boottime_ms() < until_boottime_ms {
        if is_moot(dir) {
            return Ok(());
        }
        let left = Duration::from_millis(until_boottime_ms.saturating_sub(clock::boottime_ms()));
        std::thread::sleep(left.min(LOOK));
    }
    fire_until_done(dir)
}

/// Fires again after a failure that left no result (a full disk, for one): nobody else may be there to try.
pub(super) fn fire_until_done(dir: &Path) -> Result<(), GuardError> {
    let mut fired = Ok(());
    for _ in 0..FIRES_MAX {
        if is_moot(dir) {
            return Ok(());
        }
        fired = fire_here(dir);
        if fired.is_ok() {
            break;
        }
        std::thread::sleep(BETWEEN_FIRES);
    }
    fired
}

/// Takes the timer's own lock; `None` if the same timer runs already.
fn begin_to_wait(dir: &Path, until_boottime_ms: u64) -> Result<Option<File>, GuardError> {
    detach::leave().map_err(io_error("leave the session for", dir))?;
    read_plan(dir)?;
    let lock = open_lock(&dir.join(format!("timer-{until_boottime_ms}")))?;
    Ok(try_lock(&lock, dir)?.then_some(lock))
}

/// Tells whether nothing is left to be done at the deadline. A rollback that was decided but has no result
/// may have died with whoever wanted to see to it, so that is still ours.
fn is_moot(dir: &Path) -> bool {
    let kept = matches!(read_decision(dir), Ok(Some(Decision::Confirm | Decision::Superseded)));
    kept || matches!(read_result(dir), Ok(Some(_))) || !dir.exists()
}

/// Fires, on a runtime of its own.
pub(super) fn fire_here(dir: &Path) -> Result<(), GuardError> {
    let fired = runtime(dir)?.block_on(fire(dir))?;
    println!("{fired:?}");
    Ok(())
}

/// Adds the timer that bounds the trial, once the switch has ended: the new system's agent may never come up, and the long
/// timer also covers the time that a switch may take.
pub(super) fn shorten_here(dir: &Path) -> Result<(), GuardError> {
    let plan = read_plan(dir)?;
    let Some(limit) = plan.trial_limit_ms else { return Ok(()) };
    let known = [plan.old.clone(), plan.new.clone()];
    let facts = facts::observe_knowing(&plan.host(), &known)?;
    let more = match judge(&plan, &facts) {
        Standing::Old | Standing::Foreign | Standing::Rebooted => return Ok(()),
        // What stopped half-way may be run once more.
        Standing::Tried if facts.is_torn() => plan.switch_limit_ms,
        Standing::Tried => 0,
    };
    if is_moot(dir) {
        return Ok(());
    }
    let until_boottime_ms = clock::boottime_ms().saturating_add(limit).saturating_add(more);
    runtime(dir)?.block_on(arm(dir, Manager::of(&plan.root), until_boottime_ms))
}

fn runtime(dir: &Path) -> Result<Runtime, GuardError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(io_error("start a runtime for", dir))?)
}

/// Decides to roll back unless it was decided before, and carries the decision out. Safe to repeat; of two
/// at once the second waits for the first and finds its result.
pub async fn fire(dir: &Path) -> Result<Fired, GuardError> {
    let plan = read_plan(dir)?;
    let _lock = lock(dir, &plan).await?;
    if let Some(result) = read_result(dir)? {
        return Ok(Fired::Ended(result));
    }
    let decision = decide(dir)?;
    if let Decision::Confirm | Decision::Superseded = decision {
        return Ok(Fired::Stands(decision));
    }
    let mut result = match boot_deadline(dir)? {
        Some(_) => go_back(&plan).await?,
        None => roll_back(dir, &plan).await?,
    };
    if let GuardResult::Failed { text } = &result
        && let Some(said) = reboot(&plan, text).await?
    {
        result = GuardResult::Failed { text: format!("{text}; {said}") };
    }
    if result == GuardResult::RolledBack {
        restore_units(&plan).await;
    }
    record(dir, &result)?;
    Ok(Fired::Ended(result))
}

/// Decides to roll back, unless it was decided before.
///
/// Where nobody can write there is nobody who could decide otherwise, so the rollback goes on without a record.
fn decide(dir: &Path) -> Result<Decision, GuardError> {
    match decide_late(dir) {
        Err(GuardError::File(error)) if error.is_unwritable() => {
            eprintln!("pullagent guard: rolling back without a record: {}", chain(&error));
            Ok(too_late())
        }
        decided => decided,
    }
}

fn record(dir: &Path, result: &GuardResult) -> Result<(), GuardError> {
    match write_result(dir, result) {
        Err(GuardError::File(error)) if error.is_unwritable() => {
            eprintln!("pullagent guard: {result:?}, which can't be recorded: {}", chain(&error));
            Ok(())
        }
        recorded => recorded,
    }
}

/// Reboots the host, where that is allowed, to get rid of a system that cannot be switched away from: what boots is the
/// permanent one, since nothing else was ever made so. Nothing is recorded before: whoever looks after the boot finds the
/// old system. Returns why the host was not rebooted, if it could have been.
async fn reboot(plan: &GuardPlan, failed: &str) -> Result<Option<String>, GuardError> {
    if !plan.may_reboot || plan.root != Path::new("/") {
        return Ok(None);
    }
    if facts::observe(&plan.host())?.profile.as_ref() == Some(&plan.new) {
        return Ok(Some("a reboot would lead to the new system".to_owned()));
    }
    eprintln!("pullagent guard: rebooting, since {failed}");
    let asked = systemd::reboot(Force::Orderly).await;
    if asked.is_ok() {
        tokio::time::sleep(SHUTDOWN_TIME).await;
    }
    let forced = systemd::reboot(Force::AtOnce).await;
    if forced.is_ok() {
        tokio::time::sleep(BETWEEN_FIRES).await;
    }
    let said = asked.and(forced).err().map_or("systemd does not do it".to_owned(), |e| chain(&e));
    Ok(Some(format!("it could not be rebooted either: {said}")))
}

/// What the host runs, seen from a plan.
enum Standing {
    /// The old system, completely.
    Old,
    /// The new one, or something between the two.
    Tried,
    /// A system that is neither: somebody else switched.
    Foreign,
    /// Another boot than the one in which the new system was tried.
    Rebooted,
}

async fn roll_back(dir: &Path, plan: &GuardPlan) -> Result<GuardResult, GuardError> {
    end_switch(plan).await;
    let mut began = has_begun(dir);
    let mut said = String::from("the host does not run it after a switch that reported success");
    for attempt in 0..=TRIES {
        // Whoever else switches is left to it; what is half-way meanwhile is theirs.
        let patience = Duration::from_millis(plan.switch_limit_ms);
        switch_lock::wait_until_free(plan.host().root(), patience).await.ok();
        match standing(plan)? {
            Standing::Rebooted => return Ok(GuardResult::NothingToDo),
            Standing::Foreign => return Ok(GuardResult::Superseded),
            Standing::Old if began => return Ok(GuardResult::RolledBack),
            Standing::Old => return Ok(GuardResult::NothingToDo),
            Standing::Tried if attempt == TRIES => break,
            Standing::Tried => {}
        }
        mark_begin(dir);
        began = true;
        if Manager::of(&plan.root) == Manager::Systemd && !systemd::wait_for_answer(ANSWER_TIME).await {
            said = "systemd does not answer".to_owned();
        }
        if let Err(e) = switch::roll_back(&plan.old, Duration::from_millis(plan.switch_limit_ms)).await {
            said = chain(&e);
            tokio::time::sleep(BETWEEN_TRIES).await;
        }
    }
    Ok(GuardResult::Failed { text: format!("cannot switch back to '{}': {said}", plan.old) })
}

/// Ends the switch to the new system if it still runs: it would hold the lock that switching back needs.
///
/// If it does not end, or its job cannot be read, switching back is tried all the same.
async fn end_switch(plan: &GuardPlan) {
    if job::request_stop(&plan.switch_job).await.is_ok() {
        job::wait(&plan.switch_job, STOP_TIME).await.ok();
    }
}

/// Starts what ran before and was stopped meanwhile. Switching back does not: it starts what targets want, not what an
/// operator, a timer or a socket has started.
///
/// The host runs the old system already, so what cannot be started is told, and no reason to call the rollback failed.
async fn restore_units(plan: &GuardPlan) {
    if plan.baseline_units.is_empty() {
        return;
    }
    if let Err(error) = systemd::start_all(&plan.baseline_units, RESTORE_TIME).await {
        eprintln!("pullagent guard: not all that ran before runs again: {}", chain(&error));
    }
}

fn standing(plan: &GuardPlan) -> Result<Standing, FileError> {
    let known = [plan.old.clone(), plan.new.clone()];
    let facts = facts::observe_knowing(&plan.host(), &known)?;
    Ok(judge(plan, &facts))
}

fn judge(plan: &GuardPlan, facts: &HostFacts) -> Standing {
    let foreign = |path: &Option<StorePath>| path.as_ref().is_some_and(|p| *p != plan.old && *p != plan.new);
    if facts.boot_id != plan.boot_id {
        Standing::Rebooted
    } else if foreign(&facts.running) || foreign(&facts.etc) {
        Standing::Foreign
    } else if facts.running.as_ref() == Some(&plan.old) && !facts.is_torn() {
        Standing::Old
    } else {
        Standing::Tried
    }
}

/// Returns how long a rollback may take at most. Each try may have to wait for somebody else's switch, and for systemd.
pub fn rollback_max(switch_limit: Duration, may_reboot: bool) -> Duration {
    let reboot = if may_reboot { REBOOT_MAX } else { Duration::ZERO };
    switch_limit * (2 * TRIES + 1) + ANSWER_TIME * TRIES + LOCK_MARGIN + reboot
}

/// Waits until no other rollback of this deployment runs, not longer than one can take.
async fn lock(dir: &Path, plan: &GuardPlan) -> Result<File, GuardError> {
    let longest = rollback_max(Duration::from_millis(plan.switch_limit_ms), plan.may_reboot);
    let until = clock::boottime_ms().saturating_add(longest.as_millis() as u64);
    let lock = open_lock(&lock_path(dir))?;
    while !try_lock(&lock, dir)? {
        if clock::boottime_ms() >= until {
            return Err(GuardError::Busy(dir.to_owned()));
        }
        tokio::time::sleep(LOCK_POLL).await;
    }
    Ok(lock)
}

fn open_lock(path: &Path) -> Result<File, FileError> {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    match open.map_err(io_error("open", path)) {
        // It was made before anything changed, and can be locked without being written.
        Err(error) if error.is_unwritable() => File::open(path).map_err(io_error("open", path)),
        opened => opened,
    }
}

/// Returns whether the lock was free; then it is held as long as `lock` is open.
fn try_lock(lock: &File, dir: &Path) -> Result<bool, FileError> {
    match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(io_error("lock", dir)(e.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standing_of_the_host() {
        let path = |name: &str| -> StorePath {
            format!("/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-{name}").parse().unwrap()
        };
        let plan = GuardPlan {
            schema: super::super::SCHEMA,
            deployment: crate::model::DeploymentId::new(1, &"a".repeat(40).parse().unwrap()),
            old: path("old"),
            new: path("new"),
            revision: "a".repeat(40).parse().unwrap(),
            branch: "main".into(),
            operation: "switch".into(),
            root: "/".into(),
            switch_job: "/job".into(),
            boot_id: "b1".into(),
            deadline_boottime_ms: 1,
            switch_limit_ms: 1,
            old_checks: serde_json::Value::Null,
            agent_version: "0".into(),
            baseline_units: Vec::new(),
            failing_units: Vec::new(),
            trial_limit_ms: None,
            may_reboot: false,
            answer_within_ms: None,
        };
        // running, /etc, lists left, expected
        let table = [
            ("old", "old", false, "old"),
            ("old", "-", false, "old"),
            ("old", "old", true, "tried"),
            ("old", "new", false, "tried"),
            ("new", "new", false, "tried"),
            ("new", "new", true, "tried"),
            ("new", "old", false, "tried"),
            ("-", "new", false, "tried"),
            ("-", "-", false, "tried"),
            ("third", "third", false, "foreign"),
            ("third", "third", true, "foreign"),
            ("old", "third", false, "foreign"),
            ("new", "third", true, "foreign"),
        ];
        for (running, etc, leftover_lists, expected) in table {
            let link = |name: &str| (name != "-").then(|| path(name));
            let (running, etc) = (link(running), link(etc));
            let facts =
                HostFacts { running, etc, leftover_lists, boot_id: "b1".into(), ..Default::default() };
            let name = |standing| match standing {
                Standing::Old => "old",
                Standing::Tried => "tried",
                Standing::Foreign => "foreign",
                Standing::Rebooted => "rebooted",
            };
            assert_eq!(name(judge(&plan, &facts)), expected, "{facts:?}");
            let later = HostFacts { boot_id: "b2".into(), ..facts };
            assert_eq!(name(judge(&plan, &later)), "rebooted");
        }
    }
}
