//! How the host is: one word, and everything that somebody may have to look at.

use super::flag;
use super::text::Page;
use crate::plan::AlarmCode;
use crate::report::{BadKind, Headline, Status};

/// A metric with one value, which the status has.
type Gauge = (&'static str, &'static str, fn(&Status) -> f64);

const GAUGES: [Gauge; 8] = [
    (
        "pullagent_held",
        "Whether the agent changes nothing, because it can't remember or doesn't understand what was done before.",
        |s| flag(s.trouble.is_some()),
    ),
    ("pullagent_suspended", "Whether deployments are suspended.", |s| flag(s.suspension.is_some())),
    ("pullagent_drift", "Whether somebody else switched the host to what it runs.", |s| flag(s.drift)),
    ("pullagent_reboot_required", "Whether a reboot would change what the host runs.", |s| {
        flag(s.reboot_pending.is_some())
    }),
    ("pullagent_retries", "How many revisions failed in a way that may pass, and are tried again.", |s| {
        s.retries.len() as f64
    }),
    ("pullagent_retry_attempts", "How often the one of them that failed most has failed in a row.", |s| {
        f64::from(s.retries.iter().map(|r| r.tries).max().unwrap_or(0))
    }),
    (
        "pullagent_set_aside",
        "How many revisions are remembered as bad, and not tried again by themselves.",
        |s| s.set_aside.len() as f64,
    ),
    (
        "pullagent_health_checks_failing",
        "How many health checks fail for the deployment under way, or failed last for the one that runs.",
        |s| s.health.iter().filter(|c| c.green == Some(false)).count() as f64,
    ),
];

const ALARMS: [AlarmCode; 4] =
    [AlarmCode::Stale, AlarmCode::SplitView, AlarmCode::RevokedFull, AlarmCode::VolatileState];

const PROBLEMS: [BadKind; 5] = [
    BadKind::Refused,
    BadKind::BuildFailed,
    BadKind::RolledBack,
    BadKind::RollbackFailed,
    BadKind::CalledOff,
];

pub(super) fn add(page: &mut Page, status: Option<&Status>, now: u64) {
    let mut state = page.gauge("pullagent_state", "The one that is 1 is what 'pullagent status' says.");
    if let Some(s) = status {
        state.one_of(&[], "state", &Headline::ALL.map(Headline::word), Some(s.state.word()));
    }
    let lag = |s: &Status| s.counters.behind_since.map_or(0, |since| now.saturating_sub(since)) as f64;
    page.gauge(
        "pullagent_pending_commit_age_seconds",
        "For how long a branch has named something that the host does not run for good, for whatever reason; 0: it does.",
    )
    .is(status.map(lag));
    for (name, help, of) in GAUGES {
        page.gauge(name, help).is(status.map(of));
    }
    problem(page, status);
    alarms(page, status);
    let mut health = page.gauge(
        "pullagent_health_check_ok",
        "Whether a health check succeeds; there are none before the first deployment since the agent started.",
    );
    for check in status.iter().flat_map(|s| &s.health) {
        if let Some(green) = check.green {
            health.with(&[("check", &check.name)], flag(green));
        }
    }
}

fn problem(page: &mut Page, status: Option<&Status>) {
    let mut problem =
        page.gauge("pullagent_problem", "What became of the newest revision of a branch, if nothing good.");
    if let Some(s) = status {
        problem.one_of(&[], "kind", &PROBLEMS.map(word), s.problem.as_ref().map(|p| word(p.kind)));
    }
}

fn alarms(page: &mut Page, status: Option<&Status>) {
    let mut alarm = page.gauge(
        "pullagent_alarm",
        "What a Git server may be hiding, or the host forget; 'pullagent status' has it in words.",
    );
    if let Some(s) = status {
        for code in ALARMS.map(AlarmCode::as_str) {
            alarm.with(&[("code", code)], flag(s.alarms.iter().any(|a| a.code == code)));
        }
    }
}

fn word(kind: BadKind) -> &'static str {
    match kind {
        BadKind::Refused => "refused",
        BadKind::BuildFailed => "build-failed",
        BadKind::RolledBack => "rolled-back",
        BadKind::RollbackFailed => "rollback-failed",
        BadKind::CalledOff => "called-off",
    }
}
