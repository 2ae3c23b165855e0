//! How often a remote is asked, and when it is asked next.

use super::Snapshot;
use crate::config::{Remote, Settings};
use crate::host::clock;
use crate::plan::calendar;

/// How a remote is asked at present.
pub(super) struct Pace {
    /// The time between two polls in seconds; by the calendar, the longest.
    pub(super) interval: u64,
    /// When it is asked next by its calendar.
    pub(super) next_poll_at: Option<u64>,
}

pub(super) fn pace(remote: &Remote, snapshot: &Snapshot, settings: &Settings) -> Pace {
    let connected = |hint: &str| snapshot.facts.hints.get(hint).is_some_and(|facts| facts.word.connected);
    let Some(calendar) = remote.interval.calendar() else {
        let interval = settings.interval(remote, connected).map_or(0, |interval| interval.as_secs());
        return Pace { interval, next_poll_at: None };
    };
    // From its last word on: that changes with each poll, and with nothing else.
    let facts = snapshot.facts.remotes.get(&remote.name);
    let failed_at = facts.and_then(|f| f.trouble.as_ref()).map(|trouble| trouble.at);
    let asked_at = facts.and_then(|f| f.answered_at).max(failed_at).unwrap_or(snapshot.facts.now);
    let zone = clock::zone_of(&calendar.zone).unwrap_or_else(clock::zone);
    Pace {
        interval: calendar::longest_gap_secs(calendar, asked_at, &zone),
        next_poll_at: calendar::next(calendar, asked_at, &zone),
    }
}
