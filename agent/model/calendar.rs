//! Calendar expressions in systemd's syntax (systemd.time(7), "CALENDAR EVENTS"): text to sets of years, months, days and
//! times. It knows neither clock nor time zone data; when an expression comes next is told in `plan`.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest expression, in bytes.
pub const CALENDAR_BYTES_MAX: usize = 200;

/// The years that may be named, as in systemd.
const YEARS: RangeInclusive<u16> = 1970..=2199;
const MONTHS: RangeInclusive<u16> = 1..=12;
const DAYS: RangeInclusive<u16> = 1..=31;
/// Days counted from the end of the month: those that each month has.
const DAYS_FROM_END: RangeInclusive<u16> = 1..=28;
const HOURS: RangeInclusive<u16> = 0..=23;
const MINUTES: RangeInclusive<u16> = 0..=59;
const SECONDS: RangeInclusive<u16> = 0..=59;

/// The days of the week, Monday first.
const WEEKDAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
/// All seven.
const EVERY_DAY: u8 = 0b111_1111;

/// The words that stand for an expression.
const SHORTHANDS: [(&str, &str); 13] = [
    ("minutely", "*-*-* *:*:00"),
    ("hourly", "*-*-* *:00:00"),
    ("daily", "*-*-* 00:00:00"),
    ("weekly", "Mon *-*-* 00:00:00"),
    ("monthly", "*-*-01 00:00:00"),
    ("quarterly", "*-01,04,07,10-01 00:00:00"),
    ("yearly", "*-01-01 00:00:00"),
    ("annually", "*-01-01 00:00:00"),
    ("anually", "*-01-01 00:00:00"),
    ("semiannually", "*-01,07-01 00:00:00"),
    ("semi-annually", "*-01,07-01 00:00:00"),
    ("biannually", "*-01,07-01 00:00:00"),
    ("bi-annually", "*-01,07-01 00:00:00"),
];

/// Moments that come again by the calendar, such as `hourly`, `Mon..Fri 08..18:00/15` or `*-*-* 04:40 Europe/Berlin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    /// As it was written.
    text: String,
    /// One bit a day, Monday first.
    weekdays: u8,
    /// On which dates, whatever their day of the week.
    pub dates: Dates,
    /// At which times of such a day.
    pub times: Times,
    /// Whose clock it is.
    pub zone: CalendarZone,
}

/// The dates of a calendar. None of the sets is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dates {
    /// Years.
    pub years: BTreeSet<u16>,
    /// Months, from 1.
    pub months: BTreeSet<u16>,
    /// Days of the month, from 1.
    pub days: BTreeSet<u16>,
    /// Whether the days are counted from the end of the month, 1 being the last.
    pub from_end: bool,
}

/// The times of a calendar: each hour with each minute with each second. None of the sets is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Times {
    /// Hours.
    pub hours: BTreeSet<u16>,
    /// Minutes.
    pub minutes: BTreeSet<u16>,
    /// Seconds.
    pub seconds: BTreeSet<u16>,
}

/// Whose clock a calendar goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CalendarZone {
    /// The host's.
    Host,
    /// The one without a summer time.
    Utc,
    /// That of a place, such as `Europe/Berlin`. Whether there is such a zone is not known here.
    Named(String),
}

/// A text that is no calendar expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{part}' {why}")]
pub struct CalendarError {
    /// The part that is wrong.
    pub part: String,
    /// What is wrong with it, and what would be right.
    pub why: &'static str,
}

impl Calendar {
    /// Tells whether it may come on this day of the week, 0 for Monday.
    pub fn is_on(&self, weekday: u8) -> bool {
        self.weekdays & (1 << (weekday % 7)) != 0
    }
}

impl FromStr for Calendar {
    type Err = CalendarError;

    fn from_str(text: &str) -> Result<Calendar, CalendarError> {
        let shown = text.get(..text.floor_char_boundary(CALENDAR_BYTES_MAX)).unwrap_or_default();
        if text.len() > CALENDAR_BYTES_MAX || text.contains(char::is_control) {
            return Err(wrong(shown, "is too long, or holds control characters"));
        }
        let (moments, zone) = split_zone(text.trim())?;
        let moments = expand(moments);
        let mut parts = moments.split_ascii_whitespace().peekable();
        let weekdays = parts.next_if(|part| part.starts_with(|c: char| c.is_ascii_alphabetic()));
        let date = parts.next_if(|part| !part.contains(':'));
        let time = parts.next();
        if let Some(more) = parts.next() {
            return Err(wrong(
                more,
                "is too much; an expression is 'days date time zone', each of them optional",
            ));
        }
        if weekdays.is_none() && date.is_none() && time.is_none() {
            return Err(wrong(text, "says nothing; write for example 'hourly' or 'Mon..Fri 08..18:00'"));
        }
        Ok(Calendar {
            text: text.trim().to_owned(),
            weekdays: weekdays.map_or(Ok(EVERY_DAY), read_weekdays)?,
            dates: read_date(date.unwrap_or("*-*-*"))?,
            times: read_time(time.unwrap_or("00:00:00"))?,
            zone,
        })
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Calendar {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Calendar {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Calendar, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

fn wrong(part: &str, why: &'static str) -> CalendarError {
    CalendarError { part: part.to_owned(), why }
}

/// Splits off the zone, which is the last word where that is not the first.
fn split_zone(text: &str) -> Result<(&str, CalendarZone), CalendarError> {
    let Some((moments, last)) = text.rsplit_once(' ') else { return Ok((text, CalendarZone::Host)) };
    if last.eq_ignore_ascii_case("utc") {
        return Ok((moments.trim_end(), CalendarZone::Utc));
    }
    if last.starts_with(['+', '-']) {
        return Err(wrong(last, "is no time zone; write 'UTC' or the name of one, such as 'Europe/Berlin'"));
    }
    if !last.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Ok((text, CalendarZone::Host));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || "/_+-".contains(c);
    if !last.chars().all(legal) {
        return Err(wrong(last, "is no time zone such as 'UTC' or 'Europe/Berlin'"));
    }
    Ok((moments.trim_end(), CalendarZone::Named(last.to_owned())))
}

/// Returns what a word such as `hourly` stands for, anything else as it is.
fn expand(moments: &str) -> &str {
    let known = SHORTHANDS.iter().find(|(word, _)| moments.eq_ignore_ascii_case(word));
    known.map_or(moments, |(_, meaning)| meaning)
}

/// Reads `Mon`, `Sat,Sun` and `Mon..Fri`.
fn read_weekdays(text: &str) -> Result<u8, CalendarError> {
    const WRONG: &str =
        "is neither a day of the week, as in 'Mon..Fri' or 'Sat,Sun', nor a word such as 'hourly'";
    let day = |name: &str| {
        let is_meant = |day: &str| [day, &day[..3]].iter().any(|word| name.eq_ignore_ascii_case(word));
        WEEKDAYS.iter().position(|day| is_meant(day)).ok_or_else(|| wrong(name, WRONG))
    };
    let mut days = 0;
    // systemd takes a comma at the end, too.
    for part in text.strip_suffix(',').unwrap_or(text).split(',') {
        let (first, last) = match part.split_once("..").or_else(|| part.split_once('-')) {
            Some((first, last)) => (day(first)?, day(last)?),
            None => (day(part)?, day(part)?),
        };
        if first > last {
            return Err(wrong(part, "runs backwards; the week begins on Monday, as in 'Fri..Sun,Mon'"));
        }
        days |= (first..=last).fold(0, |days, at| days | 1 << at);
    }
    Ok(days)
}

/// Reads `2026-12-24`, `12-24`, `*-*-01` and, counted from the end of the month, `*-*~1`.
fn read_date(text: &str) -> Result<Dates, CalendarError> {
    const WRONG: &str = "is neither a date such as '*-*-01' or '12-24' nor a time such as '04:40'";
    if text.starts_with('@') {
        return Err(wrong(text, "is a single moment, which does not come again"));
    }
    let cut = text.rfind(['-', '~']).ok_or_else(|| wrong(text, WRONG))?;
    let (before, days) = (&text[..cut], &text[cut + 1..]);
    // Every day is every day from either end.
    let from_end = text[cut..].starts_with('~') && days != "*";
    let (years, months) = before.split_once('-').unwrap_or(("*", before));
    if months.contains(['-', '~']) {
        return Err(wrong(text, WRONG));
    }
    Ok(Dates {
        years: read_chain(years, &YEAR)?,
        months: read_chain(months, &MONTH)?,
        days: read_chain(days, if from_end { &DAY_FROM_END } else { &DAY })?,
        from_end,
    })
}

/// Reads `04:40`, `*:0/10` and `08..18:00:30`.
fn read_time(text: &str) -> Result<Times, CalendarError> {
    const WRONG: &str = "is no time such as '04:40', '*:0/10' or '08..18:00:30'";
    let mut parts = text.split(':');
    let (hours, minutes, seconds) = (parts.next(), parts.next(), parts.next());
    let (Some(hours), Some(minutes), None) = (hours, minutes, parts.next()) else {
        return Err(wrong(text, WRONG));
    };
    Ok(Times {
        hours: read_chain(hours, &HOUR)?,
        minutes: read_chain(minutes, &MINUTE)?,
        seconds: read_chain(seconds.unwrap_or("0"), &SECOND)?,
    })
}

/// What one part of an expression may hold.
struct Component {
    range: RangeInclusive<u16>,
    why: &'static str,
    /// Whether repetitions without an end go down, as days counted from the end of the month do.
    counts_down: bool,
}

const YEAR: Component = component(YEARS, "is no year (1970 to 2199; 00 to 69 are those from 2000 on)");
const MONTH: Component = component(MONTHS, "is no month (1 to 12)");
const DAY: Component = component(DAYS, "is no day of a month (1 to 31)");
const DAY_FROM_END: Component = Component {
    range: DAYS_FROM_END,
    why: "is no day before the end of a month (1 to 28)",
    counts_down: true,
};
const HOUR: Component = component(HOURS, "is no hour (0 to 23)");
const MINUTE: Component = component(MINUTES, "is no minute (0 to 59)");
const SECOND: Component = component(SECONDS, "is no second (0 to 59, without fractions)");

const fn component(range: RangeInclusive<u16>, why: &'static str) -> Component {
    Component { range, why, counts_down: false }
}

/// Reads `*`, or a list of values, ranges and repetitions: `1,5`, `8..18`, `0/15`, `8..18/2`.
fn read_chain(text: &str, component: &Component) -> Result<BTreeSet<u16>, CalendarError> {
    if text == "*" {
        return Ok(component.range.clone().collect());
    }
    let mut values = BTreeSet::new();
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step)),
            None => (part, None),
        };
        let (start, stop) = match range.split_once("..") {
            Some((start, stop)) => (component.value(start)?, Some(component.value(stop)?)),
            None => (component.value(range)?, None),
        };
        values.extend(component.steps(part, start, stop, step)?);
    }
    Ok(values)
}

impl Component {
    fn value(&self, digits: &str) -> Result<u16, CalendarError> {
        let number = number(digits).ok_or_else(|| wrong(digits, self.why))?;
        let is_year = *self.range.end() == *YEARS.end();
        let value = match number {
            0..70 if is_year => number + 2000,
            70..100 if is_year => number + 1900,
            other => other,
        };
        if self.range.contains(&value) { Ok(value) } else { Err(wrong(digits, self.why)) }
    }

    /// Returns the values of `start..stop/step`. As in systemd, one repetition has to fit where no end is named.
    fn steps(
        &self,
        part: &str,
        start: u16,
        stop: Option<u16>,
        step: Option<&str>,
    ) -> Result<Vec<u16>, CalendarError> {
        let by = match step {
            None if stop.is_none() => return Ok(vec![start]),
            None => 1,
            Some(digits) => number(digits)
                .filter(|by| *by > 0)
                .ok_or_else(|| wrong(part, "has no whole number above 0 after the '/'"))?,
        };
        let (low, high) = match stop {
            Some(stop) if start > stop => return Err(wrong(part, "runs backwards")),
            Some(stop) => return Ok((start..=stop).step_by(by.into()).collect()),
            None if self.counts_down => (*self.range.start(), start),
            None => (start, *self.range.end()),
        };
        if by > high - low {
            return Err(wrong(part, "has too long a step: nothing follows the first value"));
        }
        let all = low..=high;
        Ok(if self.counts_down {
            all.rev().step_by(by.into()).collect()
        } else {
            all.step_by(by.into()).collect()
        })
    }
}

fn number(digits: &str) -> Option<u16> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_shown_and_sent_as_it_was_written() {
        for text in ["hourly", "Mon..Fri 08..18:00/15 Europe/Berlin", "*-*~1 04:40 utc", "Sat,Sun 02:00"] {
            let calendar: Calendar = text.parse().unwrap();
            assert_eq!(calendar.to_string(), text);
            let json = serde_json::to_string(&calendar).unwrap();
            assert_eq!(serde_json::from_str::<Calendar>(&json).unwrap(), calendar);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let table = [
            ("", "'' says nothing"),
            ("Europe/Berlin", "'Europe/Berlin' is neither a day of the week"),
            ("sometimes", "'sometimes' is neither"),
            ("Mon,Tuo 10:00", "'Tuo' is neither"),
            ("Fri..Mon 10:00", "'Fri..Mon' runs backwards"),
            ("25:00", "'25' is no hour (0 to 23)"),
            ("10:60", "'60' is no minute"),
            ("10:00:00.5", "'00.5' is no second (0 to 59, without fractions)"),
            ("10", "'10' is neither a date"),
            ("10:00:00:00", "'10:00:00:00' is no time"),
            ("*/10:00", "'*' is no hour"),
            ("*:0/0", "'0/0' has no whole number"),
            ("*:58/2", "'58/2' has too long a step"),
            ("18..8:00", "'18..8' runs backwards"),
            ("13-01 10:00", "'13' is no month"),
            ("*-*-32", "'32' is no day of a month"),
            ("*-*~29", "'29' is no day before the end of a month"),
            ("1969-01-01", "'1969' is no year"),
            ("@1800000000", "'@1800000000' is a single moment"),
            ("10:00 +01:00", "'+01:00' is no time zone"),
            ("10:00 Europe/../Berlin", "'Europe/../Berlin' is no time zone"),
            ("Mon *-*-* 10:00 10:00", "'10:00' is too much"),
        ];
        for (text, expected) in table {
            let error = text.parse::<Calendar>().expect_err(text).to_string();
            assert!(error.starts_with(expected), "{text:?}: {error}");
        }
        assert!("1,".repeat(CALENDAR_BYTES_MAX).parse::<Calendar>().is_err());
    }
}
