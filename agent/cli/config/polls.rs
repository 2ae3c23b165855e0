//! What `config check` says of remotes that are asked by the calendar: when that will be, and what about it is amiss.

use std::fmt;

use jiff::tz::TimeZone;
use serde::Serialize;

use crate::config::{Remote, Settings};
use crate::host::clock;
use crate::model::{Calendar, CalendarZone};
use crate::plan::calendar;

/// So many of the next polls are told.
const TOLD: usize = 3;

/// What there is to say.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
    pub(super) polls: Vec<Polls>,
}

/// When a remote is asked.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Polls {
    remote: String,
    calendar: String,
    /// The next moments, unix seconds.
    next: Vec<u64>,
    /// The same as the clock shows them.
    #[serde(skip)]
    shown: Vec<String>,
}

impl fmt::Display for Polls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "remote '{}' is asked by '{}': next {}", self.remote, self.calendar, self.shown.join(", "))
    }
}

pub(super) fn look(settings: &Settings, now: u64) -> Findings {
    let mut findings = Findings::default();
    for (n, remote) in settings.remotes.iter().enumerate() {
        let Some(calendar) = remote.interval.calendar() else { continue };
        match polls(remote, calendar, now) {
            Ok((polls, zone)) => {
                findings.polls.push(polls);
                findings.warnings.extend(rare(settings, n, calendar, (now, &zone)));
            }
            Err(text) => {
                findings.problems.push(format!("configuration key 'remotes[{n}].interval': {text}"));
            }
        }
    }
    findings
}

fn polls(remote: &Remote, calendar: &Calendar, now: u64) -> Result<(Polls, TimeZone), String> {
    let zone = match (clock::zone_of(&calendar.zone), &calendar.zone) {
        (Some(zone), _) => zone,
        (None, CalendarZone::Named(name)) if has_zones() => {
            return Err(format!("there is no time zone '{name}'"));
        }
        // Where nothing is known of any zone, nothing can be said of this one.
        (None, _) => TimeZone::UTC,
    };
    let moments = std::iter::successors(calendar::next(calendar, now, &zone), |at| {
        calendar::next(calendar, *at, &zone)
    });
    let next: Vec<u64> = moments.take(TOLD).collect();
    if next.is_empty() {
        return Err(format!("'{calendar}' never comes again"));
    }
    let shown = next.iter().map(|at| shown(*at, &zone)).collect();
    Ok((Polls { remote: remote.name.clone(), calendar: calendar.to_string(), next, shown }, zone))
}

fn has_zones() -> bool {
    jiff::tz::db().available().next().is_some()
}

fn shown(at: u64, zone: &TimeZone) -> String {
    let stamp = i64::try_from(at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok());
    let text = stamp.map(|at| at.to_zoned(zone.clone()).strftime("%a %Y-%m-%d %H:%M:%S %Z").to_string());
    text.unwrap_or_else(|| format!("second {at}"))
}

/// Warns of polls so rare that the first one that fails has the host called stale.
fn rare(settings: &Settings, n: usize, calendar: &Calendar, (now, zone): (u64, &TimeZone)) -> Option<String> {
    let gap = calendar::longest_gap_secs(calendar, now, zone);
    let stale_after = settings.trust.stale_after;
    let span = |secs| humantime::format_duration(std::time::Duration::from_secs(secs));
    (gap > stale_after.0.as_secs()).then(|| {
        format!(
            "remotes[{n}].interval: up to {} pass between two moments of '{calendar}', but 'trust.staleAfter' is {}: one \
             poll that fails has the host called stale at once; make that longer",
            span(gap),
            span(stale_after.0.as_secs()),
        )
    })
}
