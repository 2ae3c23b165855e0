//! How the remotes are, and whether anybody says that something was pushed.

use super::flag;
use super::text::Page;
use crate::model::{HintCounts, RemoteFailure};
use crate::report::counters::ANSWERED;
use crate::report::{RemoteStatus, StandingWord, Status};

/// A metric with one value for each remote.
type Gauge = (&'static str, &'static str, fn(&RemoteStatus) -> f64);

const GAUGES: [Gauge; 5] = [
    (
        "pullagent_last_successful_fetch_timestamp_seconds",
        "When the remote last answered; 0: not since the agent started.",
        |r| r.checked_at.unwrap_or(0) as f64,
    ),
    ("pullagent_remote_up", "Whether the remote answered when it was asked last.", |r| {
        flag(r.trouble.is_none() && r.checked_at.is_some())
    }),
    (
        "pullagent_remote_poll_interval_seconds",
        "How often the remote is asked at present, by a calendar the longest time in between; less often while a hint is connected.",
        |r| r.interval as f64,
    ),
    ("pullagent_remote_failures", "How often the remote has not answered, in a row.", |r| {
        f64::from(r.trouble.as_ref().map_or(0, |t| t.tries))
    }),
    (
        "pullagent_remote_old_protocol_bytes",
        "What a poll transfers because the remote speaks an old version of Git's protocol; 0: it speaks version 2.",
        |r| r.old_protocol.map_or(0.0, |old| old.bytes as f64),
    ),
];

const STANDINGS: [StandingWord; 5] = [
    StandingWord::Current,
    StandingWord::Behind,
    StandingWord::Diverged,
    StandingWord::Refused,
    StandingWord::Unknown,
];

pub(super) fn add(page: &mut Page, status: Option<&Status>) {
    let remotes = || status.iter().flat_map(|s| &s.remotes);
    for (name, help, of) in GAUGES {
        let mut family = page.gauge(name, help);
        remotes().for_each(|r| family.with(&[("remote", &r.name)], of(r)));
    }
    let mut standing = page.gauge(
        "pullagent_remote_standing",
        "How the main branch of the remote stands to the accepted revision.",
    );
    for r in remotes() {
        standing.one_of(&[("remote", &r.name)], "standing", &STANDINGS.map(word), Some(word(r.standing)));
    }
    fetches(page, status);
    hints(page, status);
}

fn hints(page: &mut Page, status: Option<&Status>) {
    let hints = || status.iter().flat_map(|s| &s.hints);
    let mut connected = page.gauge(
        "pullagent_hint_connected",
        "Whether hints of this source can be heard; its remotes are polled less often while they can.",
    );
    hints().for_each(|h| connected.with(&[("source", &h.name)], flag(h.connected)));
    let mut events = page.counter(
        "pullagent_hint_events_total",
        "What came of the events of this source, since the gateway started.",
    );
    for hint in hints() {
        let HintCounts { accepted, coalesced, ignored, too_long } = hint.events;
        let results =
            [("accepted", accepted), ("coalesced", coalesced), ("ignored", ignored), ("too_long", too_long)];
        for (result, count) in results {
            events.with(&[("source", &hint.name), ("result", result)], count as f64);
        }
    }
}

fn fetches(page: &mut Page, status: Option<&Status>) {
    let mut fetches =
        page.counter("pullagent_fetches_total", "How often the remote was asked, by what came of it.");
    let Some(status) = status else { return };
    for remote in &status.remotes {
        let counted = status.counters.fetches.get(&remote.name);
        for result in [ANSWERED].into_iter().chain(RemoteFailure::ALL.map(RemoteFailure::as_str)) {
            let count = counted.and_then(|c| c.get(result)).copied().unwrap_or(0);
            fetches.with(&[("remote", &remote.name), ("result", result)], count as f64);
        }
    }
}

fn word(standing: StandingWord) -> &'static str {
    match standing {
        StandingWord::Current => "current",
        StandingWord::Behind => "behind",
        StandingWord::Diverged => "diverged",
        StandingWord::Refused => "refused",
        StandingWord::Unknown => "unknown",
    }
}
