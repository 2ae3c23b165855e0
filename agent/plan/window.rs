//! Whether a window is open, and when one opens, by the host's own clock. A moment lies in a window if the clock on the
//! wall says so: an hour that is left out in spring is in no window, one that comes twice in autumn is in it twice.

use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use crate::model::Window;

/// How many days are looked ahead: each window comes at least once in a week, and may go on for a day more.
const DAYS_AHEAD: i64 = 8;
/// How many changes of the clock are looked at within that time.
const CHANGES_MAX: usize = 4;
const DAY_MINUTES: u16 = 24 * 60;

/// How a moment stands to windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// One is open.
    Open,
    /// None is open.
    Closed {
        /// When the next one opens, unix seconds; `None`: there is none.
        opens: Option<u64>,
    },
}

/// Tells how `now`, unix seconds, stands to `windows` in a time zone.
pub fn standing(windows: &[Window], now: u64, zone: &TimeZone) -> Standing {
    let Some(now) = i64::try_from(now).ok().and_then(|now| Timestamp::from_second(now).ok()) else {
        return Standing::Closed { opens: None };
    };
    if is_open(windows, now, zone) {
        return Standing::Open;
    }
    let moments = windows.iter().flat_map(|window| beginnings(*window, now, zone)).chain(changes(now, zone));
    let opens = moments.filter(|moment| *moment > now && is_open(windows, *moment, zone)).min();
    Standing::Closed { opens: opens.and_then(|moment| u64::try_from(moment.as_second()).ok()) }
}

fn is_open(windows: &[Window], moment: Timestamp, zone: &TimeZone) -> bool {
    let local = zone.to_datetime(moment);
    let weekday = local.date().weekday().to_monday_zero_offset().unsigned_abs();
    let minute = u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
    windows.iter().any(|window| window.holds(weekday, minute))
}

/// The moments at which the clock on the wall shows the beginning of the window, in the days to come.
fn beginnings(window: Window, now: Timestamp, zone: &TimeZone) -> Vec<Timestamp> {
    let today = zone.to_datetime(now).date();
    let days = (0..=DAYS_AHEAD).filter_map(|ahead| today.checked_add(ahead.days()).ok());
    days.filter_map(|day| shown(day, window.from_minute(), zone)).flatten().collect()
}

/// Both moments at which the clock shows this time, where it is set back in between; the same one twice elsewhere.
fn shown(day: Date, minute: u16, zone: &TimeZone) -> Option<[Timestamp; 2]> {
    let minute = minute % DAY_MINUTES;
    let (hour, minute) = (i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?);
    let shown = zone.to_ambiguous_timestamp(day.to_datetime(Time::new(hour, minute, 0, 0).ok()?));
    Some([shown.earlier().ok()?, shown.later().ok()?])
}

/// The moments at which the clock is set: a window may open with that.
fn changes(now: Timestamp, zone: &TimeZone) -> Vec<Timestamp> {
    let limit = now.checked_add((DAYS_AHEAD * 24).hours()).unwrap_or(Timestamp::MAX);
    let changes = zone.following(now).map(|change| change.timestamp()).take(CHANGES_MAX);
    changes.take_while(|change| *change <= limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(zone: &TimeZone, local: &str) -> u64 {
        let local: jiff::civil::DateTime = local.parse().unwrap();
        u64::try_from(zone.to_timestamp(local).unwrap().as_second()).unwrap()
    }

    fn windows(texts: &[&str]) -> Vec<Window> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// A zone with the rules of Berlin, whatever is installed here.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    #[test]
    fn the_next_window_is_found() {
        let zone = berlin();
        // 2026-11-21 is a Saturday.
        let table: [(&[&str], &str, Option<&str>); 10] = [
            (&["02:00-05:00"], "2026-11-21T01:59:59", Some("2026-11-21T02:00")),
            (&["02:00-05:00"], "2026-11-21T02:00", None),
            (&["02:00-05:00"], "2026-11-21T04:59:59", None),
            (&["02:00-05:00"], "2026-11-21T05:00", Some("2026-11-22T02:00")),
            (&["22:00-04:00"], "2026-11-21T03:00", None),
            (&["22:00-04:00"], "2026-11-21T04:00", Some("2026-11-21T22:00")),
            (&["Sat,Sun 02:00-05:00"], "2026-11-22T06:00", Some("2026-11-28T02:00")),
            (&["Mon 02:00-05:00", "Sat 12:00-13:00"], "2026-11-21T11:00", Some("2026-11-21T12:00")),
            (&["Mon 02:00-05:00", "Sat 12:00-13:00"], "2026-11-21T13:00", Some("2026-11-23T02:00")),
            (&["Fri 23:00-01:00"], "2026-11-21T00:30", None),
        ];
        for (texts, now, opens) in table {
            let expected = match opens {
                None => Standing::Open,
                Some(opens) => Standing::Closed { opens: Some(at(&zone, opens)) },
            };
            assert_eq!(standing(&windows(texts), at(&zone, now), &zone), expected, "{texts:?} at {now}");
        }
        assert_eq!(standing(&[], at(&zone, "2026-11-21T03:00"), &zone), Standing::Closed { opens: None });
    }

    #[test]
    fn the_clock_on_the_wall_counts_when_it_is_set() {
        let zone = berlin();
        // In spring, 02:00 to 03:00 is left out; in autumn it comes twice.
        let spring = at(&zone, "2026-03-29T01:59:59");
        let night = windows(&["02:15-02:45"]);
        let next_night = at(&zone, "2026-03-30T02:15");
        assert_eq!(standing(&night, spring, &zone), Standing::Closed { opens: Some(next_night) });
        let across = windows(&["02:30-03:30"]);
        assert_eq!(standing(&across, spring, &zone), Standing::Closed { opens: Some(spring + 1) });
        assert_eq!(standing(&across, spring + 1, &zone), Standing::Open);
        let first = at(&zone, "2026-10-25T01:00") + 3600 + 15 * 60;
        for moment in [first, first + 3600] {
            assert_eq!(standing(&night, moment, &zone), Standing::Open);
        }
        let between = first + 45 * 60;
        assert_eq!(standing(&night, between, &zone), Standing::Closed { opens: Some(first + 3600) });
    }

    #[test]
    fn no_minute_before_the_answer_lies_in_a_window() {
        let zone = berlin();
        let sets: [&[&str]; 3] =
            [&["02:30-03:30"], &["Sun 23:30-03:15"], &["Sat 01:00-02:30", "03:00-03:01"]];
        for texts in sets {
            let windows = windows(texts);
            // Days around each change of the clock.
            for start in [at(&zone, "2026-03-27T12:00"), at(&zone, "2026-10-23T12:00")] {
                for now in (start..start + 3 * 86_400).step_by(433 * 60) {
                    let Standing::Closed { opens: Some(opens) } = standing(&windows, now, &zone) else {
                        continue;
                    };
                    let open = |at: u64| {
                        is_open(&windows, Timestamp::from_second(i64::try_from(at).unwrap()).unwrap(), &zone)
                    };
                    assert!(open(opens), "{texts:?}: {opens}");
                    assert!(!(now..opens).step_by(60).any(open), "{texts:?}: it opens before {opens}");
                }
            }
        }
    }
}
