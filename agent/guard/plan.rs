//! Owns the files of one guard: plan, decision, result. Runs nothing.

use std::fs;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::GuardError;
use super::boot::was_booted;
use crate::host::facts::HostPaths;
use crate::host::files::{self, Created, io_error};
use crate::model::{Arbiter, Class, Decision, DeploymentId, GuardFacts, GuardResult, Oid, Red, StorePath};

/// The rules that [`GuardPlan`] follows. Fields may be added under the same number; older versions ignore them.
pub const SCHEMA: u32 = 1;
/// How long any file of a guard may be, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// Says that the guard has begun to switch back.
const BEGAN: &str = "rolling-back";
/// What is written beforehand is called so until it counts.
const PREPARED: &str = "prepared-";

/// What is tried and what to go back to. Written once; an ABI between versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GuardPlan {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The deployment on probation.
    pub deployment: DeploymentId,
    /// The system to go back to.
    pub old: StorePath,
    /// The system that is tried.
    pub new: StorePath,
    /// What the new system was built from.
    pub revision: Oid,
    /// The branch it came from.
    pub branch: String,
    /// What is to become of it when it proves healthy: `switch` or `test`.
    pub operation: String,
    /// The directory that the host lies below; `/` but for demo and tests.
    pub root: PathBuf,
    /// The directory of the job that switches to the new system; a rollback ends it first.
    pub switch_job: PathBuf,
    /// The boot in which the deployment began. A reboot in between has undone it.
    pub boot_id: String,
    /// When the long timer fires, in milliseconds since boot.
    pub deadline_boottime_ms: u64,
    /// How long one try to switch back may take, in milliseconds.
    pub switch_limit_ms: u64,
    /// The old system's health checks, as its configuration has them.
    pub old_checks: serde_json::Value,
    /// The version of the agent that wrote the plan.
    pub agent_version: String,
    /// The units that were active before: a rollback sees them run again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub baseline_units: Vec<String>,
    /// The units that were failing before: they can't speak against the new system.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failing_units: Vec<String>,
    /// How long the new system may be on trial after the switch, in milliseconds, if its agent never says a word; `None`: until
    /// the long timer fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial_limit_ms: Option<u64>,
    /// Whether the host may be rebooted where the old system cannot be switched back to. What boots is the permanent system.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_reboot: bool,
    /// How long the old system wants somebody's answer to be waited for, in milliseconds; `None`: it asks for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_within_ms: Option<u64>,
}

impl GuardPlan {
    /// Returns where the host says what it runs.
    pub fn host(&self) -> HostPaths {
        HostPaths::under(&self.root)
    }

    fn has_same_subject(&self, other: &GuardPlan) -> bool {
        (&self.deployment, &self.old, &self.new) == (&other.deployment, &other.old, &other.new)
    }
}

/// Writes the plan into `dir`, which is made, and returns the one in force.
///
/// That is an earlier one if this is a repetition in the same boot. A plan of an earlier boot is replaced:
/// none of its timers lives.
pub fn write_plan(dir: &Path, plan: &GuardPlan) -> Result<GuardPlan, GuardError> {
    fs::create_dir_all(dir).map_err(io_error("make directory", dir))?;
    files::sync_dir(files::parent(dir))?;
    reserve(dir)?;
    let path = plan_path(dir);
    let json = to_json(&path, plan)?;
    match files::create_once(&path, &json, FILE_MAX)? {
        Created::Won => Ok(plan.clone()),
        Created::Lost(_) => {
            let earlier = read_plan(dir)?;
            if !earlier.has_same_subject(plan) {
                return Err(GuardError::OtherPlan(plan.deployment.clone()));
            }
            if earlier.boot_id == plan.boot_id {
                return Ok(earlier);
            }
            files::write_atomic(&path, &json, files::PRIVATE)?;
            Ok(plan.clone())
        }
    }
}

/// Makes all the files that a rollback leaves, so that it takes no room on a disk that the new system has filled.
fn reserve(dir: &Path) -> Result<(), GuardError> {
    files::create_once(&lock_path(dir), b"", FILE_MAX)?;
    for (path, json) in [
        (decision_path(dir), to_json(&decision_path(dir), &too_late())?),
        (result_path(dir), to_json(&result_path(dir), &GuardResult::RolledBack)?),
        (dir.join(BEGAN), Vec::new()),
    ] {
        files::create_once(&prepared(&path), &json, FILE_MAX)?;
    }
    Ok(())
}

fn red_path(dir: &Path) -> PathBuf {
    dir.join("red.json")
}

fn prepared(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{PREPARED}{name}"))
}

pub(super) fn too_late() -> Decision {
    let reason = "nobody confirmed the new system in time".to_owned();
    Decision::RollBack { reason, by: Arbiter::Guard, class: Class::Target }
}

/// Reads the plan in `dir`.
pub fn read_plan(dir: &Path) -> Result<GuardPlan, GuardError> {
    #[derive(Deserialize)]
    struct Version {
        schema: u32,
    }
    let path = plan_path(dir);
    let bytes = files::read_bounded(&path, FILE_MAX)?;
    let Version { schema } = from_json(&path, &bytes)?;
    if schema == SCHEMA {
        from_json(&path, &bytes)
    } else {
        Err(GuardError::Schema { dir: dir.to_owned(), schema })
    }
}

/// Decides the fate of the deployment unless that was done before; returns the decision in force.
pub fn decide(dir: &Path, decision: &Decision) -> Result<Decision, GuardError> {
    let path = decision_path(dir);
    // One that stands can be told without writing, also on a full disk; it is made durable here as well, since
    // whoever took it may have died before that.
    if let Some(standing) = read_decision(dir)? {
        files::sync_dir(dir)?;
        return Ok(standing);
    }
    match files::create_once(&path, &to_json(&path, decision)?, FILE_MAX)? {
        Created::Won => Ok(decision.clone()),
        Created::Lost(bytes) => from_json(&path, &bytes),
    }
}

/// Decides at the deadline: to roll back, unless that was decided before; returns the decision in force.
pub(super) fn decide_late(dir: &Path) -> Result<Decision, GuardError> {
    let path = decision_path(dir);
    match files::rename_once(&prepared(&path), &path, FILE_MAX) {
        Ok(Created::Won) => Ok(too_late()),
        Ok(Created::Lost(bytes)) => from_json(&path, &bytes),
        // It may have been done before, or another version wrote the plan.
        Err(_) => decide(dir, &too_late()),
    }
}

/// Marks that the guard switches back, so that a later run knows whose doing it was. Nothing but words depends on it.
pub(super) fn mark_begin(dir: &Path) {
    let path = dir.join(BEGAN);
    files::rename_once(&prepared(&path), &path, FILE_MAX).ok();
}

/// Tells whether the guard has begun to switch back.
pub(super) fn has_begun(dir: &Path) -> bool {
    dir.join(BEGAN).exists()
}

/// Reads the decision, if one was taken.
pub fn read_decision(dir: &Path) -> Result<Option<Decision>, GuardError> {
    read_json(&decision_path(dir))
}

/// Reads how a rollback ended, if one did.
pub fn read_result(dir: &Path) -> Result<Option<GuardResult>, GuardError> {
    read_json(&result_path(dir))
}

/// Reads all that the guard in `dir` has to say.
pub fn facts(dir: &Path) -> Result<GuardFacts, GuardError> {
    // Without it the target is blamed, as it was before anybody asked for more.
    let red = read_json(&red_path(dir)).unwrap_or_default();
    let (decision, result) = (read_decision(dir)?, read_result(dir)?);
    Ok(GuardFacts { decision, result, trial_seen: was_booted(dir), one_shot_left: false, red })
}

/// Notes which checks spoke against the new system, for whoever takes the decision down after a crash.
pub fn note_red(dir: &Path, red: &Red) -> Result<(), GuardError> {
    let path = red_path(dir);
    Ok(files::write_atomic(&path, &to_json(&path, red)?, files::PRIVATE)?)
}

/// Writes how a rollback ended.
pub(super) fn write_result(dir: &Path, result: &GuardResult) -> Result<(), GuardError> {
    let path = result_path(dir);
    if *result == GuardResult::RolledBack
        && let Ok(Created::Won) = files::rename_once(&prepared(&path), &path, FILE_MAX)
    {
        return Ok(());
    }
    Ok(files::write_atomic(&path, &to_json(&path, result)?, files::PRIVATE)?)
}

/// Removes the guards below `all` whose work is done, with the garbage collector roots in them, except those
/// in `except`; returns what it left standing besides.
///
/// Done is what was confirmed, superseded, or rolled back, and what an earlier boot began. A guard that may
/// yet have to roll back is never removed, whoever forgot it.
pub fn sweep(all: &Path, except: &[DeploymentId], boot_id: &str) -> Result<Vec<PathBuf>, GuardError> {
    let entries = match fs::read_dir(all) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(io_error("list", all)(e).into()),
    };
    let mut left = Vec::new();
    for entry in entries {
        let dir = entry.map_err(io_error("list", all))?.path();
        if except.iter().any(|id| dir.file_name() == Some(id.as_str().as_ref())) {
            continue;
        }
        if is_done(&dir, boot_id) {
            fs::remove_dir_all(&dir).map_err(io_error("remove", &dir))?;
        } else {
            left.push(dir);
        }
    }
    files::sync_dir(all)?;
    Ok(left)
}

/// What cannot be read is not done: better a directory too many than a guard too few.
fn is_done(dir: &Path, boot_id: &str) -> bool {
    match facts(dir) {
        Ok(GuardFacts { result: Some(_), .. })
        | Ok(GuardFacts { decision: Some(Decision::Confirm | Decision::Superseded), .. }) => true,
        Ok(GuardFacts { decision: Some(Decision::RollBack { .. }) | None, result: None, .. }) => {
            match read_plan(dir) {
                Ok(plan) => plan.boot_id != boot_id,
                // Without a plan no timer was ever started.
                Err(GuardError::File(e)) => e.is_not_found(),
                Err(_) => false,
            }
        }
        Err(_) => false,
    }
}

pub(super) fn plan_path(dir: &Path) -> PathBuf {
    dir.join("plan.json")
}

pub(super) fn lock_path(dir: &Path) -> PathBuf {
    dir.join("lock")
}

fn decision_path(dir: &Path) -> PathBuf {
    dir.join("decision")
}

fn result_path(dir: &Path) -> PathBuf {
    dir.join("result.json")
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, GuardError> {
    let bytes = files::read_if_exists(path, FILE_MAX)?;
    bytes.map(|bytes| from_json(path, &bytes)).transpose()
}

fn from_json<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, GuardError> {
    serde_json::from_slice(bytes).map_err(|source| GuardError::Json { path: path.to_owned(), source })
}

fn to_json(path: &Path, value: &impl Serialize) -> Result<Vec<u8>, GuardError> {
    serde_json::to_vec(value).map_err(|source| GuardError::Json { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Arbiter, Class};

    fn plan(boot_id: &str) -> GuardPlan {
        GuardPlan {
            schema: SCHEMA,
            deployment: DeploymentId::new(7, &"a".repeat(40).parse().unwrap()),
            old: "/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-old".parse().unwrap(),
            new: "/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-new".parse().unwrap(),
            revision: "a".repeat(40).parse().unwrap(),
            branch: "main".into(),
            operation: "switch".into(),
            root: "/".into(),
            switch_job: "/var/lib/pullagent/jobs/7-aaaaaaa/switch".into(),
            boot_id: boot_id.into(),
            deadline_boottime_ms: 90_000,
            switch_limit_ms: 60_000,
            old_checks: serde_json::json!({ "web": { "http": "http://127.0.0.1/" } }),
            agent_version: "0.1.0".into(),
            baseline_units: Vec::new(),
            failing_units: Vec::new(),
            trial_limit_ms: None,
            may_reboot: false,
            answer_within_ms: None,
        }
    }

    /// Other versions read and write these files.
    #[test]
    fn the_files_are_frozen() {
        let frozen = r#"{"schema":1,"deployment":"7-aaaaaaa","old":"/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-old","new":"/nix/store/rjy6ls6ckc5cfkyh8lvkgi6kkk24c1ir-new","revision":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","branch":"main","operation":"switch","root":"/","switchJob":"/var/lib/pullagent/jobs/7-aaaaaaa/switch","bootId":"b1","deadlineBoottimeMs":90000,"switchLimitMs":60000,"oldChecks":{"web":{"http":"http://127.0.0.1/"}},"agentVersion":"0.1.0"}"#;
        assert_eq!(serde_json::to_string(&plan("b1")).unwrap(), frozen);
        let with_units = GuardPlan { baseline_units: vec!["a.service".into()], ..plan("b1") };
        let units = r#""agentVersion":"0.1.0","baselineUnits":["a.service"]}"#;
        assert!(serde_json::to_string(&with_units).unwrap().ends_with(units));
        let more = GuardPlan { trial_limit_ms: Some(9), may_reboot: true, ..plan("b1") };
        let added = r#""agentVersion":"0.1.0","trialLimitMs":9,"mayReboot":true}"#;
        assert!(serde_json::to_string(&more).unwrap().ends_with(added));
        let with_answer = GuardPlan { answer_within_ms: Some(900_000), ..plan("b1") };
        let answer = r#""agentVersion":"0.1.0","answerWithinMs":900000}"#;
        assert!(serde_json::to_string(&with_answer).unwrap().ends_with(answer));
        let decisions = [
            (Decision::Confirm, r#"{"decision":"confirm"}"#),
            (
                Decision::RollBack { reason: "late".into(), by: Arbiter::Guard, class: Class::Target },
                r#"{"decision":"roll-back","reason":"late","by":"guard"}"#,
            ),
            (
                Decision::RollBack { reason: "late".into(), by: Arbiter::Agent, class: Class::Transient },
                r#"{"decision":"roll-back","reason":"late","by":"agent","class":"transient"}"#,
            ),
            (Decision::Superseded, r#"{"decision":"superseded"}"#),
        ];
        for (decision, json) in decisions {
            assert_eq!(serde_json::to_string(&decision).unwrap(), json);
        }
        let results = [
            (GuardResult::RolledBack, r#"{"outcome":"rolled-back"}"#),
            (GuardResult::NothingToDo, r#"{"outcome":"nothing-to-do"}"#),
            (GuardResult::Superseded, r#"{"outcome":"superseded"}"#),
            (GuardResult::Failed { text: "x".into() }, r#"{"outcome":"failed","text":"x"}"#),
        ];
        for (result, json) in results {
            assert_eq!(serde_json::to_string(&result).unwrap(), json);
        }
    }

    #[test]
    fn a_plan_is_written_once_per_boot() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("7-aaaaaaa");
        write_plan(&dir, &plan("b1")).unwrap();
        let repeated = GuardPlan { deadline_boottime_ms: 1, ..plan("b1") };
        assert_eq!(write_plan(&dir, &repeated).unwrap(), plan("b1"));
        let other = GuardPlan { new: plan("b1").old, ..plan("b1") };
        assert!(matches!(write_plan(&dir, &other), Err(GuardError::OtherPlan(_))));
        write_plan(&dir, &plan("b2")).unwrap();
        assert_eq!(read_plan(&dir).unwrap(), plan("b2"));
    }

    #[test]
    fn a_plan_of_the_future_is_read_or_refused_by_its_schema() {
        let temp = tempfile::tempdir().unwrap();
        let mut json = serde_json::to_value(plan("b1")).unwrap();
        json["invented"] = "later".into();
        fs::write(plan_path(temp.path()), json.to_string()).unwrap();
        assert_eq!(read_plan(temp.path()).unwrap(), plan("b1"));
        fs::write(plan_path(temp.path()), r#"{"schema":2,"everything":"else"}"#).unwrap();
        assert!(matches!(read_plan(temp.path()), Err(GuardError::Schema { schema: 2, .. })));
    }

    #[test]
    fn sweeping_spares_whatever_may_yet_have_to_roll_back() {
        let temp = tempfile::tempdir().unwrap();
        let guard = |name: &str, boot: &str| {
            let dir = temp.path().join(name);
            write_plan(&dir, &plan(boot)).unwrap();
            dir
        };
        let roll_back =
            Decision::RollBack { reason: "late".into(), by: Arbiter::Guard, class: Class::Target };
        guard("undecided", "b1");
        decide(&guard("rolling-back", "b1"), &roll_back).unwrap();
        fs::write(guard("unreadable", "b0").join("decision"), "{").unwrap();
        decide(&guard("confirmed", "b1"), &Decision::Confirm).unwrap();
        write_result(&guard("rolled-back", "b1"), &GuardResult::RolledBack).unwrap();
        guard("earlier-boot", "b0");
        fs::create_dir(temp.path().join("never-planned")).unwrap();
        let kept = DeploymentId::new(7, &"a".repeat(40).parse().unwrap());
        decide(&guard(kept.as_str(), "b1"), &Decision::Confirm).unwrap();
        let mut left = sweep(temp.path(), &[kept], "b1").unwrap();
        left.sort();
        assert_eq!(left, ["rolling-back", "undecided", "unreadable"].map(|n| temp.path().join(n)));
        assert!(temp.path().join("7-aaaaaaa").exists());
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 4);
        assert_eq!(sweep(&temp.path().join("none"), &[], "b1").unwrap(), Vec::<PathBuf>::new());
    }
}
