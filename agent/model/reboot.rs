//! Nouns around reboots: when one is allowed, and why one is needed. Decisions about them are made in `plan`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The days of the week as windows spell them, Monday first.
const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
/// All seven.
const EVERY_DAY: u8 = 0b111_1111;
/// Minutes of a day.
const DAY: u16 = 24 * 60;

/// The code of a switch's failure that says that only a reboot helps.
pub const NEEDS_REBOOT: &str = "needs-reboot";

/// The code of a trial boot that was lost through no fault of the system's, as far as can be told.
pub const LOADER: &str = "loader";

/// When the host may be rebooted by the agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RebootPolicy {
    /// Not at all: that is left to people.
    #[default]
    Never,
    /// In a window.
    Window,
    /// As soon as there is a reason.
    Immediate,
}

impl fmt::Display for RebootPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RebootPolicy::Never => "never",
            RebootPolicy::Window => "window",
            RebootPolicy::Immediate => "immediate",
        })
    }
}

/// A time of the week in which the host may be rebooted, by the host's own clock: `02:00-05:00`, `Sat,Sun 22:00-04:00`.
///
/// One that ends before it begins goes on past midnight. The days are those on which it begins; without any it is every
/// day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// One bit a day, Monday first.
    days: u8,
    /// Minutes since midnight.
    from: u16,
    /// Minutes since midnight of that day; above a day's where it goes on past midnight.
    to: u16,
}

/// A text that is no window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is no window such as '02:00-05:00' or 'Sat,Sun 22:00-04:00': {why}")]
pub struct WindowError {
    /// The text.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Window {
    /// Tells whether the window begins on this day of the week, 0 for Monday.
    pub fn begins_on(&self, weekday: u8) -> bool {
        self.days & (1 << (weekday % 7)) != 0
    }

    /// Returns when it begins, in minutes since midnight.
    pub fn from_minute(&self) -> u16 {
        self.from
    }

    /// Returns when it ends, in minutes since the midnight before it began.
    pub fn to_minute(&self) -> u16 {
        self.to
    }

    /// Tells whether the local time lies in it.
    pub fn holds(&self, weekday: u8, minute: u16) -> bool {
        let within = |weekday, minute| self.begins_on(weekday) && (self.from..self.to).contains(&minute);
        // What began yesterday may go on.
        within(weekday, minute) || within((weekday + 6) % 7, minute + DAY)
    }
}

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Window, WindowError> {
        let wrong = |why| WindowError { text: text.to_owned(), why };
        let (days, times) = match text.trim().rsplit_once(' ') {
            Some((days, times)) => (parse_days(days).map_err(wrong)?, times),
            None => (EVERY_DAY, text.trim()),
        };
        let (from, to) = times.split_once('-').ok_or_else(|| wrong("there is no '-' between two times"))?;
        let (from, to) = (parse_time(from).map_err(wrong)?, parse_time(to).map_err(wrong)?);
        if from == to || from == DAY {
            return Err(wrong("it has no length; a whole day is '00:00-24:00'"));
        }
        Ok(Window { days, from, to: if to < from { to + DAY } else { to } })
    }
}

/// Reads `Sat,Sun` and `Mon..Fri`.
fn parse_days(text: &str) -> Result<u8, &'static str> {
    const WRONG: &str = "days are Mon, Tue, Wed, Thu, Fri, Sat and Sun, as in 'Sat,Sun' or 'Mon..Fri'";
    let day = |name: &str| DAYS.iter().position(|d| d.eq_ignore_ascii_case(name.trim())).ok_or(WRONG);
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = match part.split_once("..") {
            Some((first, last)) => (day(first)?, day(last)?),
            None => (day(part)?, day(part)?),
        };
        let length = (last + 7 - first) % 7;
        days |= (first..=first + length).fold(0, |days, at| days | 1 << (at % 7));
    }
    Ok(days)
}

fn parse_time(text: &str) -> Result<u16, &'static str> {
    const WRONG: &str = "a time is written as '02:00', from 00:00 to 24:00";
    let (hours, minutes) = text.trim().split_once(':').ok_or(WRONG)?;
    let number = |digits: &str| match digits.len() {
        2 if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse::<u16>().map_err(|_| WRONG),
        _ => Err(WRONG),
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    let time = hours * 60 + minutes;
    if minutes < 60 && time <= DAY { Ok(time) } else { Err(WRONG) }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != EVERY_DAY {
            let named = DAYS.iter().enumerate().filter(|(at, _)| self.days & (1 << at) != 0);
            let named: Vec<&str> = named.map(|(_, name)| *name).collect();
            write!(f, "{} ", named.join(","))?;
        }
        let to = if self.to > DAY { self.to - DAY } else { self.to };
        write!(f, "{:02}:{:02}-{:02}:{:02}", self.from / 60, self.from % 60, to / 60, to % 60)
    }
}

impl Serialize for Window {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Window {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Window, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a system takes effect only by a reboot, all of it in words for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RebootNeed {
    /// All that differs from what was booted.
    pub reasons: Vec<String>,
    /// What of it makes a switch to the running host impossible; empty: what does not need the reboot can be switched to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forbids_switch: Vec<String>,
    /// Why the system can't be tried by a boot of its own that falls back by itself; `None`: it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_trial: Option<String>,
}

/// A system that waits for a reboot which the agent may not do, or can't do safely.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AwaitedReboot {
    /// What differs.
    pub need: RebootNeed,
    /// Why the agent does not reboot, in words.
    pub why: String,
    /// Whether nothing but another boot, another commit or an operator makes the agent try again: a window that opens does
    /// not.
    #[serde(default)]
    pub given_up: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_and_written() {
        for (text, written) in [
            ("02:00-05:00", "02:00-05:00"),
            (" 22:30-04:00 ", "22:30-04:00"),
            ("00:00-24:00", "00:00-24:00"),
            ("22:00-00:00", "22:00-24:00"),
            ("Sat,Sun 02:00-05:00", "Sat,Sun 02:00-05:00"),
            ("mon..fri 02:00-05:00", "Mon,Tue,Wed,Thu,Fri 02:00-05:00"),
            ("Sat..Mon,Wed 02:00-05:00", "Mon,Wed,Sat,Sun 02:00-05:00"),
            ("Mon..Sun 02:00-05:00", "02:00-05:00"),
        ] {
            let window: Window = text.parse().unwrap();
            assert_eq!(window.to_string(), written);
            assert_eq!(written.parse::<Window>().unwrap(), window);
        }
        for wrong in [
            "",
            "02:00",
            "2:00-5:00",
            "02:00-02:00",
            "24:00-02:00",
            "02:60-03:00",
            "25:00-26:00",
            "02:00-05:00 Sat",
            "Sat Sun 02:00-05:00",
            "Someday 02:00-05:00",
            "Sat, 02:00-05:00",
            "02:00-+5:00",
            "٠2:00-05:00",
        ] {
            let error = wrong.parse::<Window>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("'{wrong}' is no window")), "{error}");
        }
    }

    #[test]
    fn a_window_belongs_to_the_day_on_which_it_begins() {
        let window: Window = "Sat 22:00-04:00".parse().unwrap();
        let at = |weekday, hour: u16| window.holds(weekday, hour * 60);
        assert_eq!(
            [at(5, 21), at(5, 22), at(5, 23), at(6, 0), at(6, 3), at(6, 4)],
            [false, true, true, true, true, false]
        );
        assert_eq!([at(5, 0), at(6, 22), at(0, 2)], [false; 3]);
        let sunday: Window = "Sun 23:00-01:00".parse().unwrap();
        assert!(sunday.holds(0, 30) && !sunday.holds(0, 60));
        let whole: Window = "00:00-24:00".parse().unwrap();
        assert!(whole.holds(3, 0) && whole.holds(3, DAY - 1));
    }
}
