//! How text looks: colours, safe characters, wrapped lines, times as people say them. Pure.

use anstyle::{AnsiColor, Style as Ansi};

/// How many characters of a commit's subject are shown.
const SUBJECT_MAX: usize = 60;
/// How many characters of one foreign text are shown.
const TEXT_MAX: usize = 600;
/// The narrowest page that lines are wrapped to.
const WIDTH_MIN: usize = 40;

/// What a reader's terminal can show.
#[derive(Debug, Clone)]
pub struct Style {
    /// Whether to send colours.
    pub color: bool,
    /// After how many columns to wrap.
    pub width: usize,
    /// The zone of wall-clock times.
    pub zone: jiff::tz::TimeZone,
}

/// What a colour means here. Every one comes with a glyph and a word that say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Busy,
    Warn,
    Bad,
    Quiet,
}

impl Style {
    /// Returns a plain style: no colours, 100 columns, UTC.
    pub fn plain() -> Style {
        Style { color: false, width: 100, zone: jiff::tz::TimeZone::UTC }
    }

    /// Paints `text`, if this is a style with colours.
    pub(super) fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let style = match tone {
            Tone::Good => AnsiColor::Green.on_default().bold(),
            Tone::Busy => AnsiColor::Cyan.on_default().bold(),
            Tone::Warn => AnsiColor::Yellow.on_default().bold(),
            Tone::Bad => AnsiColor::Red.on_default().bold(),
            Tone::Quiet => Ansi::new().dimmed(),
        };
        format!("{style}{text}{style:#}")
    }

    /// Returns a wall-clock time: `18:00` on the same day, else `2026-03-04 18:00`.
    pub(super) fn clock(&self, at: u64, now: u64) -> String {
        let full = self.date(at);
        match (full.split_once(' '), self.date(now).split_once(' ')) {
            (Some((day, time)), Some((today, _))) if day == today => time.to_owned(),
            _ => full,
        }
    }

    /// Returns a wall-clock time with its date: `2026-03-04 18:00`.
    pub(super) fn date(&self, at: u64) -> String {
        self.written(at, "%Y-%m-%d %H:%M")
    }

    /// Returns a wall-clock time to the second: `2026-03-04 18:00:59`.
    pub(super) fn moment(&self, at: u64) -> String {
        self.written(at, "%Y-%m-%d %H:%M:%S")
    }

    fn written(&self, at: u64, format: &str) -> String {
        let stamp = i64::try_from(at).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
        let zoned = stamp.map(|t| t.to_zoned(self.zone.clone()).strftime(format).to_string());
        zoned.unwrap_or_else(|| format!("second {at}"))
    }

    /// Breaks `text` into lines that leave `indent` columns free. A word that is too long gets a line of its own.
    pub(super) fn wrap(&self, text: &str, indent: usize) -> Vec<String> {
        let room = self.width.max(WIDTH_MIN).saturating_sub(indent);
        let mut lines = Vec::new();
        let mut line = String::new();
        // A double space separates facts: it shows as an empty word, and is kept within a line.
        for word in text.split(' ') {
            let fits = line.chars().count() + 1 + word.chars().count() <= room;
            if line.is_empty() {
                line.push_str(word);
            } else if fits {
                line.push(' ');
                line.push_str(word);
            } else {
                lines.push(std::mem::replace(&mut line, word.to_owned()).trim_end().to_owned());
            }
        }
        lines.push(line.trim_end().to_owned());
        lines
    }
}

/// Makes a foreign text safe to print: one line, no control and no direction-changing characters, bounded.
pub(super) fn safe(text: &str) -> String {
    safe_up_to(text, TEXT_MAX)
}

/// Does so with a bound of its own, in characters.
pub(super) fn safe_up_to(text: &str, max: usize) -> String {
    let harmless = |c: char| match c {
        c if c.is_control() => '\u{fffd}',
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {
            '\u{fffd}'
        }
        c => c,
    };
    // Words of programs come with the indentation of many lines.
    let words: Vec<&str> = text.split_whitespace().collect();
    clip(words.join(" ").chars().map(harmless), max)
}

/// Returns a subject in quotes, shortened.
pub(super) fn quoted(subject: &str) -> String {
    format!("\"{}\"", clip(safe(subject).chars(), SUBJECT_MAX))
}

/// Shortens a text.
pub(super) fn clip(chars: impl Iterator<Item = char>, max: usize) -> String {
    let mut chars = chars;
    let mut kept: String = chars.by_ref().take(max).collect();
    if chars.next().is_some() {
        kept.pop();
        kept.push('…');
    }
    kept
}

/// Says how long ago `then` was: `12 s ago`, `6 min ago`, `3 h 10 min ago`, `2 d ago`.
pub(super) fn ago(now: u64, then: u64) -> String {
    match now.checked_sub(then) {
        None | Some(0) => "just now".to_owned(),
        Some(secs) => format!("{} ago", span(secs)),
    }
}

/// Says a duration roughly: `38 s`, `6 min`, `2 h 10 min`, `3 d 4 h`.
pub(super) fn span(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs} s"),
        60..3600 => format!("{} min", secs / 60),
        3600..86_400 => two(secs / 3600, "h", secs % 3600 / 60, "min"),
        _ => two(secs / 86_400, "d", secs % 86_400 / 3600, "h"),
    }
}

/// Says a duration to the second while that matters: `1 min 22 s`.
pub(super) fn precise(secs: u64) -> String {
    match secs {
        60..3600 => two(secs / 60, "min", secs % 60, "s"),
        _ => span(secs),
    }
}

/// Says a duration in one short word: `38s`, `6m`, `3h`, `2d`.
pub(super) fn brief(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m", secs / 60),
        3600..86_400 => format!("{}h", secs / 3600),
        _ => format!("{}d", secs / 86_400),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large} {large_unit}")
    } else {
        format!("{large} {large_unit} {small} {small_unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_people_say_them() {
        let table = [
            (0, "0 s", "0 s", "0s"),
            (59, "59 s", "59 s", "59s"),
            (82, "1 min", "1 min 22 s", "1m"),
            (600, "10 min", "10 min", "10m"),
            (7800, "2 h 10 min", "2 h 10 min", "2h"),
            (10_800, "3 h", "3 h", "3h"),
            (100_800, "1 d 4 h", "1 d 4 h", "1d"),
        ];
        for (secs, rough, exact, short) in table {
            assert_eq!(
                (span(secs).as_str(), precise(secs).as_str(), brief(secs).as_str()),
                (rough, exact, short)
            );
        }
        assert_eq!(ago(100, 100), "just now");
        assert_eq!(ago(100, 200), "just now", "a clock that was set back");
    }

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(safe("a\u{1b}[2Jb\u{202e}c\nd"), "a\u{fffd}[2Jb\u{fffd}c d");
        assert_eq!(safe(&"x".repeat(5000)).chars().count(), TEXT_MAX);
        assert_eq!(quoted(&"y".repeat(70)).chars().count(), SUBJECT_MAX + 2);
    }

    #[test]
    fn lines_wrap_between_words_and_keep_double_spaces() {
        let style = Style { width: 40, ..Style::plain() };
        let lines = style.wrap("gen 42  a1b2c3d  the quick brown fox jumps over the lazy dog", 13);
        assert_eq!(lines, ["gen 42  a1b2c3d  the quick", "brown fox jumps over the", "lazy dog"]);
        assert_eq!(style.wrap("", 13), [""]);
        assert_eq!(style.wrap(&"z".repeat(50), 13), ["z".repeat(50)]);
    }

    #[test]
    fn clocks_show_the_date_only_where_it_is_another_day() {
        let style = Style::plain();
        assert_eq!(style.clock(1_800_000_000, 1_799_999_000), "08:00");
        assert_eq!(style.clock(1_800_000_000, 1_799_000_000), "2027-01-15 08:00");
        assert!(style.date(u64::MAX).contains("second"));
    }
}
