//! Calendar expressions mean what they mean to systemd: `systemd-analyze calendar` is asked about the same ones.
//!
//! One difference is meant: systemd passes over one of the two hours that the clock shows twice in autumn. What it does
//! not list may therefore only lie there.
#![allow(clippy::disallowed_methods, reason = "tests start programs")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use pullagent::model::Calendar;
use pullagent::plan::calendar;

const CASES: u32 = 400;
const ITERATIONS: usize = 6;
/// More than systemd's list may lie in the hour that comes twice: each of its seconds.
const OURS_MAX: usize = 2 * 3600 + ITERATIONS;
const BERLIN: &str = "Europe/Berlin";

/// Returns what systemd makes of `text`, on a host in Berlin: the next moments after `base`. `None`: it refuses it.
fn systemd(text: &str, base: u64) -> Option<Vec<u64>> {
    let at = Timestamp::from_second(base.cast_signed()).unwrap().to_zoned(TimeZone::UTC);
    let run = Command::new("systemd-analyze")
        .args(["calendar", &format!("--iterations={ITERATIONS}")])
        .arg(format!("--base-time={} UTC", at.strftime("%F %T")))
        .args(["--", text])
        .env("TZ", BERLIN)
        .output()
        .expect("systemd-analyze runs");
    if !run.status.success() {
        return None;
    }
    let said = String::from_utf8(run.stdout).unwrap();
    let moment = |line: &str| {
        let words = line.split_once("(in UTC): ")?.1.strip_suffix(" UTC")?;
        let civil: jiff::civil::DateTime = words.split_once(' ')?.1.replace(' ', "T").parse().ok()?;
        Some(Offset::UTC.to_timestamp(civil).unwrap().as_second().cast_unsigned())
    };
    let moments: Vec<u64> = said.lines().filter_map(moment).collect();
    assert_eq!(moments.is_empty(), said.contains("never"), "{said}");
    Some(moments)
}

fn zone(text: &str) -> TimeZone {
    let name = text.rsplit_once(' ').map_or(BERLIN, |(_, last)| last);
    match name {
        "UTC" | "utc" => TimeZone::UTC,
        "America/New_York" | "Australia/Lord_Howe" | "Asia/Kolkata" => TimeZone::get(name).unwrap(),
        _ => TimeZone::get(BERLIN).unwrap(),
    }
}

/// Tells whether the clock shows this moment's time twice.
fn comes_twice(moment: u64, zone: &TimeZone) -> bool {
    let shown = zone.to_datetime(Timestamp::from_second(moment.cast_signed()).unwrap());
    zone.to_ambiguous_timestamp(shown).is_ambiguous()
}

/// Tells whether a range of one second is named, such as `*:*:5..5`: systemd 252 refuses that, and takes such ranges of
/// anything else.
fn names_one_second(text: &str) -> bool {
    let time = text.split(' ').find(|word| word.matches(':').count() == 2);
    let seconds = time.and_then(|time| time.rsplit(':').next()).unwrap_or_default();
    let one = |part: &str| {
        let (first, last) = part.split_once("..")?;
        Some(first.parse::<u16>().ok()? == last.parse::<u16>().ok()?)
    };
    seconds.split(',').any(|part| one(part) == Some(true))
}

fn agree(text: &str, base: u64) -> Result<(), TestCaseError> {
    let theirs = systemd(text, base);
    if theirs.is_none() && names_one_second(text) {
        return Ok(());
    }
    let parsed: Result<Calendar, _> = text.parse();
    prop_assert_eq!(parsed.is_ok(), theirs.is_some(), "{:?} at {}: {:?}", text, base, parsed);
    let (Ok(calendar), Some(theirs)) = (parsed, theirs) else { return Ok(()) };
    let zone = zone(text);
    let last = theirs.last().copied();
    let mut ours = Vec::new();
    let mut at = base;
    while ours.len() < OURS_MAX
        && let Some(moment) = calendar::next(&calendar, at, &zone)
        && last.is_some_and(|last| moment <= last)
    {
        ours.push(moment);
        at = moment;
    }
    // A list that ends early says that nothing follows.
    if theirs.len() < ITERATIONS {
        prop_assert_eq!(calendar::next(&calendar, at, &zone), None, "{:?} at {}", text, base);
    }
    for moment in &theirs {
        prop_assert!(ours.contains(moment), "{:?} at {}: {} is missing in {:?}", text, base, moment, ours);
    }
    for moment in ours.iter().filter(|moment| !theirs.contains(moment)) {
        prop_assert!(
            comes_twice(*moment, &zone),
            "{:?} at {}: {} is too much: {:?}",
            text,
            base,
            moment,
            theirs
        );
    }
    Ok(())
}

fn chain(low: u16, high: u16) -> impl Strategy<Value = String> {
    chain_of(low, high, 3)
}

fn chain_of(low: u16, high: u16, parts_max: usize) -> impl Strategy<Value = String> {
    // Now and then one beyond what is legal.
    let value = move || prop_oneof![20 => low..=high, 1 => high + 1..=high + 2];
    let part = prop_oneof![
        4 => value().prop_map(|v| v.to_string()),
        1 => value().prop_map(|v| format!("{v:02}")),
        2 => (value(), value()).prop_map(|(a, b)| format!("{}..{}", a.min(b), a.max(b))),
        1 => (value(), value()).prop_map(|(a, b)| format!("{a}..{b}")),
        2 => (value(), 0u16..20).prop_map(|(a, step)| format!("{a}/{step}")),
        // An end beyond what is legal is no mistake to systemd where a step leaves it out.
        1 => (low..=high, low..=high, 1u16..9).prop_map(|(a, b, step)| format!("{}..{}/{step}", a.min(b), a.max(b))),
    ];
    prop_oneof![
        3 => Just("*".to_owned()),
        4 => proptest::collection::vec(part, 1..=parts_max).prop_map(|parts| parts.join(",")),
    ]
}

fn expression() -> impl Strategy<Value = String> {
    const DAYS: [&str; 12] = [
        "",
        "",
        "",
        "",
        "Mon",
        "Sat,Sun",
        "Mon..Fri",
        "tue..thu,Sunday",
        "Wed-Fri",
        "Fri,",
        "Fri..Mon",
        "Day",
    ];
    const ZONES: [&str; 7] = ["", "", "", "UTC", "utc", "America/New_York", "Australia/Lord_Howe"];
    let date = prop_oneof![
        4 => Just(String::new()),
        2 => (chain(1, 12), chain(1, 31)).prop_map(|(m, d)| format!("{m}-{d}")),
        2 => (chain(1, 12), chain(1, 31)).prop_map(|(m, d)| format!("*-{m}-{d}")),
        // systemd 252 refuses some lists of these, such as `~1,1..26`.
        1 => (chain(1, 12), chain_of(1, 28, 1)).prop_map(|(m, d)| format!("*-{m}~{d}")),
        1 => (chain(2024, 2040), chain(1, 12), chain(1, 31)).prop_map(|(y, m, d)| format!("{y}-{m}-{d}")),
        1 => (20u16..40, chain(1, 12)).prop_map(|(y, m)| format!("{y}-{m}~1")),
    ];
    let time = prop_oneof![
        1 => Just(String::new()),
        4 => (chain(0, 23), chain(0, 59)).prop_map(|(h, m)| format!("{h}:{m}")),
        2 => (chain(1, 3), chain(0, 59)).prop_map(|(h, m)| format!("{h}:{m}")),
        2 => (chain(0, 23), chain(0, 59), chain(0, 59)).prop_map(|(h, m, s)| format!("{h}:{m}:{s}")),
    ];
    let parts = (proptest::sample::select(&DAYS), date, time, proptest::sample::select(&ZONES));
    parts.prop_filter_map("it says nothing", |(days, date, time, zone)| {
        let said = [days, &date, &time].map(str::to_owned);
        let words: Vec<String> = said.into_iter().filter(|word| !word.is_empty()).collect();
        let zone = if zone.is_empty() { String::new() } else { format!(" {zone}") };
        (!words.is_empty()).then(|| words.join(" ") + &zone)
    })
}

/// Anywhere in some years, and often around the days on which the clock is set.
fn base() -> impl Strategy<Value = u64> {
    let around = |text: &str| {
        let at: Timestamp = text.parse().unwrap();
        at.as_second().cast_unsigned()
    };
    const DAY: u64 = 86_400;
    let (spring, autumn) = (around("2026-03-29T01:00:00Z"), around("2026-10-25T01:00:00Z"));
    let there = around("2026-11-01T06:00:00Z");
    prop_oneof![
        2 => around("2024-01-01T00:00:00Z")..around("2034-01-01T00:00:00Z"),
        1 => spring - DAY..spring + DAY,
        1 => autumn - DAY..autumn + DAY,
        1 => there - DAY..there + DAY,
    ]
}

#[test]
fn random_expressions_come_when_they_come_to_systemd() {
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    runner.run(&(expression(), base()), |(text, base)| agree(&text, base)).unwrap();
}

#[test]
fn what_people_write_comes_when_it_comes_to_systemd() {
    let texts = [
        "minutely",
        "hourly",
        "daily",
        "weekly",
        "monthly",
        "quarterly",
        "semiannually",
        "yearly",
        "Hourly UTC",
        "*-*-* 04:40:00",
        "Mon..Fri 08..18:00/15",
        "Sat,Sun 02:00",
        "*:0/10",
        "04:40",
        "*-*~1 23:30",
        "*-02~3 05:00",
        "02:30",
        "*-*-* 02:30 Europe/Berlin",
        "Mon *-05~07/1",
        "*-02-29",
        "Mon *-02-29",
        "*-02-31",
        "26-1-1 1:2:3",
        "12,14,13:10,20",
        "2003-03-05",
        "Wed, 17:48",
        "*-1..3/2-* 1:00",
        "*:*:0/5",
        "Mon",
        "*-*-*",
        "00:00 Asia/Kolkata",
    ];
    // Saturday noon before the clock is set back, the night itself, and the one in spring.
    for base in ["2026-10-24T12:00:00Z", "2026-10-24T23:59:59Z", "2026-03-28T23:30:00Z"] {
        let base: Timestamp = base.parse().unwrap();
        for text in texts {
            agree(text, base.as_second().cast_unsigned()).unwrap();
        }
    }
}

#[test]
fn what_the_clock_shows_twice_comes_twice_and_what_it_leaves_out_does_not() {
    let zone = TimeZone::get(BERLIN).unwrap();
    let half_past_two: Calendar = "02:30".parse().unwrap();
    let list = |calendar: &Calendar, from: &str| -> Vec<String> {
        let from: Timestamp = from.parse().unwrap();
        let mut at = from.as_second().cast_unsigned();
        let mut moments = Vec::new();
        for _ in 0..3 {
            at = calendar::next(calendar, at, &zone).unwrap();
            moments.push(Timestamp::from_second(at.cast_signed()).unwrap().to_string());
        }
        moments
    };
    let autumn = ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-26T01:30:00Z"];
    assert_eq!(list(&half_past_two, "2026-10-24T12:00:00Z"), autumn);
    let spring = ["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z", "2026-03-31T00:30:00Z"];
    assert_eq!(list(&half_past_two, "2026-03-27T12:00:00Z"), spring);
    let hourly: Calendar = "hourly".parse().unwrap();
    let hours = ["2026-10-25T00:00:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"];
    assert_eq!(list(&hourly, "2026-10-24T23:00:00Z"), hours);
}

/// The gap that is told is that of the list itself, wherever the clock is never set.
#[test]
fn the_longest_gap_is_the_longest_in_the_list() {
    let table = [
        ("hourly", 3600),
        ("*:0/10", 600),
        ("*:0/59", 59 * 60),
        ("*:*:0/7", 7),
        ("daily", 86_400),
        ("Sat,Sun 02:00", 6 * 86_400),
        ("Mon..Fri 08..18:00/15", (2 * 24 + 13) * 3600 + 900),
        ("08,20:15", 12 * 3600),
        ("weekly", 7 * 86_400),
        ("*-*~1", 31 * 86_400),
        ("*-02-29", (4 * 365 + 1) * 86_400),
        ("2026-12-24 12:00", 0),
        ("2020-01-01", 0),
    ];
    let base = "2026-11-21T22:00:00Z".parse::<Timestamp>().unwrap().as_second().cast_unsigned();
    for (text, secs) in table {
        let calendar: Calendar = text.parse().unwrap();
        assert_eq!(calendar::longest_gap_secs(&calendar, base, &TimeZone::UTC), secs, "{text}");
    }
    let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    let rule = (chain(0, 23), chain(0, 59)).prop_map(|(h, m)| format!("{h}:{m}"));
    let sound = runner.run(&rule, |text| {
        let Ok(calendar) = text.parse::<Calendar>() else { return Ok(()) };
        let until = base + 3 * 86_400;
        let moments = std::iter::successors(calendar::next(&calendar, base, &TimeZone::UTC), |at| {
            calendar::next(&calendar, *at, &TimeZone::UTC).filter(|next| *next < until)
        });
        let moments: Vec<u64> = moments.collect();
        let longest = moments.windows(2).map(|pair| pair[1] - pair[0]).max();
        let told = calendar::longest_gap_secs(&calendar, base, &TimeZone::UTC);
        prop_assert_eq!(longest, Some(told), "{}", text);
        Ok(())
    });
    sound.unwrap();
}

/// A poll comes soon after its moment, and never after the next one.
#[test]
fn polls_are_spread_within_their_bound() {
    for (text, bound_ms) in [("daily", 60_000), ("*:0/10", 60_000), ("minutely", 6_000), ("*:*:0/5", 500)] {
        let calendar: Calendar = text.parse().unwrap();
        let base = 1_800_000_000;
        let poll = |random| calendar::next_poll(&calendar, base, &TimeZone::UTC, random).unwrap();
        assert_eq!(poll(0).moment, calendar::next(&calendar, base, &TimeZone::UTC).unwrap());
        assert_eq!(poll(0).splay.as_millis(), 0, "{text}");
        assert_eq!(poll(u64::MAX).splay.as_millis(), bound_ms - 1, "{text}");
        assert!(calendar::next(&calendar, poll(0).moment, &TimeZone::UTC).unwrap() > poll(0).moment);
    }
    let never: Calendar = "*-02-31".parse().unwrap();
    assert_eq!(calendar::next(&never, 0, &TimeZone::UTC), None);
}
