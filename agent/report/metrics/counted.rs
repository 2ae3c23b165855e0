//! What was counted since the agent started: refusals, deployments, failures, durations.

use super::text::Page;
use crate::model::Operation;
use crate::report::counters::{BUCKETS_MS, Durations, PHASES};
use crate::report::{Fate, Status};
use crate::trust::Code;

pub(super) fn add(page: &mut Page, status: Option<&Status>) {
    let mut refusals = page.counter(
        "pullagent_verification_failures_total",
        "How many tips were refused for good, by the reason.",
    );
    if let Some(s) = status {
        for code in Code::ALL.iter().filter(|code| code.is_final()).map(|code| code.as_str()) {
            let count = s.counters.refusals.get(code).copied().unwrap_or(0);
            refusals.with(&[("reason", code)], count as f64);
        }
    }
    page.counter("pullagent_transient_failures_total", "How many actions failed in a way that may pass.")
        .is(status.map(|s| s.counters.transient_failures as f64));
    deployments(page, status);
    durations(page, status);
}

fn deployments(page: &mut Page, status: Option<&Status>) {
    let ends: Vec<&str> = Fate::ALL.into_iter().filter(|f| *f != Fate::Refused).map(Fate::word).collect();
    let mut ended = page.counter(
        "pullagent_deployments_total",
        "How many deployments ended, by what was to be done and how they ended.",
    );
    if let Some(s) = status {
        for operation in [Operation::Switch, Operation::Test].map(|o| o.to_string()) {
            let counted = s.counters.deployments.get(&operation);
            for result in &ends {
                let count = counted.and_then(|c| c.get(*result)).copied().unwrap_or(0);
                ended.with(&[("operation", &operation), ("result", result)], count as f64);
            }
        }
    }
    let last = status.and_then(|s| s.counters.last_deployment.as_ref());
    let mut result = page
        .gauge("pullagent_last_deployment_result", "How the last deployment ended; all 0: there was none.");
    if status.is_some() {
        result.one_of(&[], "result", &ends, last.map(|l| l.result.word()));
    }
    page.gauge(
        "pullagent_last_deployment_timestamp_seconds",
        "When the last deployment ended; 0: there was none.",
    )
    .is(status.map(|_| last.map_or(0, |l| l.at) as f64));
}

fn durations(page: &mut Page, status: Option<&Status>) {
    let mut family = page.histogram(
        "pullagent_phase_duration_seconds",
        "How long the steps of deployments took; 'verify' has the fetch in it.",
    );
    let Some(status) = status else { return };
    let (bounds, none) = (BUCKETS_MS.map(|ms| ms as f64 / 1000.0), Durations::default());
    for phase in PHASES {
        let took = status.counters.phases.get(phase).unwrap_or(&none);
        family.buckets(&[("phase", phase)], &bounds, &took.buckets, took.sum_ms as f64 / 1000.0);
    }
}
