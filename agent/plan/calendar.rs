//! When a calendar expression comes next, and how far apart its moments are. Pure: the time zone is an argument. A moment
//! belongs to it if the clock on the wall shows it: a time that is left out in spring does not come, one that the clock
//! shows twice in autumn comes twice (systemd leaves out one of the two).

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::backoff;
use crate::model::{Calendar, Dates, Times};

/// A poll comes within this time after its moment, at random, so that a fleet does not march in step; and within
/// [`SPLAY_PERCENT`] of the time to the moment that follows.
pub const SPLAY_MAX: Duration = Duration::from_secs(60);
/// See [`SPLAY_MAX`].
const SPLAY_PERCENT: u32 = 10;
/// How many times of constant offset from UTC are looked at: two a year, and some to spare, up to the last year that can
/// be named.
const OFFSETS_MAX: usize = 3 * 230;
/// For so many days the longest gap is looked for: a leap year is among them.
const GAP_DAYS: i64 = 4 * 366;
const DAY_SECS: u64 = 24 * 3600;

/// Returns the first moment after `after`, both unix seconds; `None`: it never comes again.
pub fn next(calendar: &Calendar, after: u64, zone: &TimeZone) -> Option<u64> {
    let mut at = timestamp(after)?.checked_add(1.second()).ok()?;
    // What the clock shows at the beginning of the search, and what was found from there.
    let mut found: Option<(DateTime, DateTime)> = None;
    for _ in 0..OFFSETS_MAX {
        let offset = zone.to_offset(at);
        let shown = offset.to_datetime(at);
        let (from, first) = match found {
            Some((from, first)) if (from..=first).contains(&shown) => (from, first),
            _ => (shown, first_shown(calendar, shown)?),
        };
        let moment = offset.to_timestamp(first).ok()?;
        match zone.following(at).next() {
            Some(change) if change.timestamp() <= moment => at = change.timestamp(),
            _ => return u64::try_from(moment.as_second()).ok(),
        }
        found = Some((from, first));
    }
    None
}

/// When a remote is polled next: a moment of its calendar, and how long after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Poll {
    /// Unix seconds.
    pub moment: u64,
    /// What the host adds to it.
    pub splay: Duration,
}

/// Returns the first poll after `after`, unix seconds; `random` is uniform over all `u64`.
pub fn next_poll(calendar: &Calendar, after: u64, zone: &TimeZone, random: u64) -> Option<Poll> {
    let moment = next(calendar, after, zone)?;
    let gap = next(calendar, moment, zone).map_or(SPLAY_MAX, |then| Duration::from_secs(then - moment));
    let splay = backoff::part((gap * SPLAY_PERCENT / 100).min(SPLAY_MAX), random);
    Some(Poll { moment, splay })
}

/// Returns the longest time in seconds between two of its moments, by the clock on the wall, from `after` on (unix
/// seconds, in a time zone); 0 if there are no two.
pub fn longest_gap_secs(calendar: &Calendar, after: u64, zone: &TimeZone) -> u64 {
    let Some(today) = timestamp(after).map(|now| zone.to_datetime(now).date()) else { return 0 };
    let (within_day, first, last) = gaps_of_day(&calendar.times);
    let across = |days: u64| days * DAY_SECS + first - last;
    let mut longest = within_day;
    let mut dates = dates_from(calendar, today);
    let mut last_date = dates.next();
    while let Some(this) = last_date.filter(|date| days_between(today, *date) <= GAP_DAYS) {
        last_date = dates.next();
        let days = last_date.map(|following| days_between(this, following).unsigned_abs());
        longest = longest.max(days.map_or(0, across));
    }
    longest
}

/// Returns the longest time between two times of a day, the first of the day and the last, in seconds.
fn gaps_of_day(times: &Times) -> (u64, u64, u64) {
    let levels = [(&times.seconds, 1), (&times.minutes, 60), (&times.hours, 3600)];
    levels.into_iter().fold((0, 0, 0), |(longest, first, last), (values, unit)| {
        let steps = values.iter().zip(values.iter().skip(1)).map(|(one, next)| u64::from(next - one));
        let across = steps.max().map_or(0, |step| step * unit + first - last);
        let end = |value: Option<&u16>| value.map_or(0, |value| u64::from(*value)) * unit;
        (longest.max(across), first + end(values.first()), last + end(values.last()))
    })
}

fn timestamp(secs: u64) -> Option<Timestamp> {
    i64::try_from(secs).ok().and_then(|secs| Timestamp::from_second(secs).ok())
}

fn days_between(from: Date, to: Date) -> i64 {
    from.duration_until(to).as_hours() / 24
}

/// Returns the first matching time that a clock shows that shows `from` now and is never set.
fn first_shown(calendar: &Calendar, from: DateTime) -> Option<DateTime> {
    let mut dates = dates_from(calendar, from.date());
    let date = dates.next()?;
    if date == from.date()
        && let Some(time) = next_time(&calendar.times, from.time())
    {
        return Some(date.to_datetime(time));
    }
    let date = if date == from.date() { dates.next()? } else { date };
    Some(date.to_datetime(next_time(&calendar.times, Time::midnight())?))
}

/// Returns all dates from `from` on, in order.
fn dates_from(calendar: &Calendar, from: Date) -> impl Iterator<Item = Date> {
    let Dates { years, months, .. } = &calendar.dates;
    let years = years.range(from.year().unsigned_abs()..);
    let months = years.flat_map(|year| months.iter().filter_map(|month| date(*year, *month, 1)));
    let dates = months
        .filter(move |first| first.last_of_month() >= from)
        .flat_map(|first| dates_of_month(&calendar.dates, first));
    dates.filter(move |date| *date >= from && calendar.is_on(weekday(*date)))
}

/// Returns the dates in the month of `first`, in order.
fn dates_of_month(dates: &Dates, first: Date) -> Vec<Date> {
    let (year, month) = (first.year().unsigned_abs(), u16::from(first.month().unsigned_abs()));
    let length = u16::from(first.days_in_month().unsigned_abs());
    let of = |day: u16| date(year, month, day);
    if dates.from_end {
        dates.days.iter().rev().filter_map(|day| of((length + 1).checked_sub(*day)?)).collect()
    } else {
        dates.days.iter().filter_map(|day| of(*day)).collect()
    }
}

fn date(year: u16, month: u16, day: u16) -> Option<Date> {
    Date::new(i16::try_from(year).ok()?, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()
}

fn weekday(date: Date) -> u8 {
    date.weekday().to_monday_zero_offset().unsigned_abs()
}

/// Returns the first time of a day that is not before `from`.
fn next_time(times: &Times, from: Time) -> Option<Time> {
    let at = |value: i8| u16::from(value.unsigned_abs());
    let (hour, minute, second) = (at(from.hour()), at(from.minute()), at(from.second()));
    let after = |set: &BTreeSet<u16>, value| set.range(value..).next().copied();
    let first = |set: &BTreeSet<u16>| set.first().copied();
    let (hours, minutes, seconds) = (&times.hours, &times.minutes, &times.seconds);
    let this_minute = || Some((hour, minute, after(seconds, second)?));
    let this_hour = || Some((hour, after(minutes, minute + 1)?, first(seconds)?));
    let later = || Some((after(hours, hour + 1)?, first(minutes)?, first(seconds)?));
    let has_hour = hours.contains(&hour);
    let (h, m, s) = (has_hour && minutes.contains(&minute))
        .then(this_minute)
        .flatten()
        .or_else(|| has_hour.then(this_hour).flatten())
        .or_else(later)?;
    Time::new(i8::try_from(h).ok()?, i8::try_from(m).ok()?, i8::try_from(s).ok()?, 0).ok()
}
