//! What `pullagent log` shows of one deployment: how it ended by the agent's own word, and what the host's journal has of
//! it. Words and their order only; who reads the journal, and how, is not known here.

use serde::Serialize;

use super::history::{Entry, Fate};
use super::style::{Style, Tone, quoted, safe_up_to, span};
use super::{DeploymentStatus, table};
use crate::host::journalctl::Record;
use crate::host::units::{PREFIX, RECONCILER};
use crate::model::{DeploymentId, Oid};

/// How many characters of one line are shown.
const LINE_MAX: usize = 4000;
/// How wide the column with who said it is at least.
const SOURCE_WIDTH: usize = 9;

/// One deployment, or a tip that never became one, or whatever was said last.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Chapter {
    /// The deployment; `null` where nothing was built.
    pub id: Option<DeploymentId>,
    /// The commit; `null`: all that was said last.
    pub revision: Option<Oid>,
    /// First line of its message.
    pub subject: String,
    /// Its branch.
    pub branch: String,
    /// Who signed it.
    pub signer: Option<String>,
    /// How it ended; `null`: not yet.
    pub outcome: Option<Fate>,
    /// A stable word for what went wrong.
    pub code: Option<String>,
    /// What went wrong, in words.
    pub text: Option<String>,
    /// Checks that failed, with their last words.
    pub details: Vec<String>,
    /// When its system was built.
    pub began: Option<u64>,
    /// When it ended.
    pub at: Option<u64>,
    /// What was said meanwhile, oldest first.
    pub lines: Vec<Line>,
    /// When the same commit was dealt with before, unix seconds: what was said until then is about that.
    #[serde(skip)]
    pub after: Option<u64>,
    #[serde(skip)]
    ended: Option<Entry>,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// When, unix seconds.
    pub at: u64,
    /// Who said it, or what systemd said it about: a unit.
    pub unit: String,
    /// As in syslog(3).
    pub priority: u8,
    /// The event, where it is the agent's sentence about one.
    pub event: Option<String>,
    /// What was said.
    pub message: String,
}

impl From<Record> for Line {
    fn from(record: Record) -> Line {
        Line {
            at: record.at_us / 1_000_000,
            unit: record.about.unwrap_or(record.unit),
            priority: record.priority,
            event: record.event,
            message: record.message,
        }
    }
}

impl Chapter {
    /// Returns what is remembered of one that ended.
    pub fn of_entry(entry: &Entry) -> Chapter {
        Chapter {
            id: entry.id.clone(),
            revision: Some(entry.revision.clone()),
            subject: entry.subject.clone(),
            branch: entry.branch.clone(),
            signer: entry.signer.clone(),
            outcome: Some(entry.outcome),
            code: entry.code.clone(),
            text: entry.text.clone(),
            details: entry.details.clone(),
            began: Some(entry.began),
            at: Some(entry.at),
            lines: vec![],
            after: None,
            ended: Some(entry.clone()),
        }
    }

    /// Returns what is known of the one under way.
    pub fn of_deployment(d: &DeploymentStatus) -> Chapter {
        Chapter {
            id: Some(d.id.clone()),
            subject: d.commit.subject.clone(),
            branch: d.commit.branch.clone(),
            signer: d.commit.signer.clone(),
            began: Some(d.built_at),
            ..Chapter::of_revision(d.commit.revision.clone())
        }
    }

    /// Returns one of which no more than the commit is known.
    pub fn of_revision(revision: Oid) -> Chapter {
        Chapter { revision: Some(revision), ..Chapter::default() }
    }

    /// Returns the text, with a line feed at the end.
    pub fn page(&self, style: &Style) -> String {
        let mut text = self.head(style);
        // Without a word of the agent in the journal there is what it remembers itself.
        if self.ended.is_some() && !self.lines.iter().any(|line| line.unit == RECONCILER) {
            let remembered = self.text.iter().chain(&self.details);
            let remembered = remembered.map(|text| format!("  {}\n", safe_up_to(text, LINE_MAX)));
            text.extend(remembered);
            let none = "the journal of this host has no word of pullagent about it";
            text.push_str(&format!("  {}\n", style.paint(Tone::Quiet, none)));
        }
        let widths = self.lines.iter().map(|line| line.source().chars().count());
        let width = widths.max().unwrap_or(0).max(SOURCE_WIDTH);
        text.extend(self.lines.iter().map(|line| line.text(width, style)));
        text
    }

    fn head(&self, style: &Style) -> String {
        let Some(revision) = &self.revision else { return String::new() };
        let mut text = revision.short().to_owned();
        if !self.subject.is_empty() {
            text.push_str(&format!("  {}", quoted(&self.subject)));
        }
        let mut notes: Vec<String> = Vec::new();
        notes.extend(Some(&self.branch).filter(|b| !b.is_empty()).map(|b| safe_up_to(b, LINE_MAX)));
        notes.extend(self.signer.as_ref().map(|s| format!("signed by {}", safe_up_to(s, LINE_MAX))));
        notes.extend(self.id.as_ref().map(|id| format!("deployment {id}")));
        if !notes.is_empty() {
            text.push_str(&format!("  {}", notes.join(", ")));
        }
        text.push('\n');
        if let Some(entry) = &self.ended {
            let took = entry.at.saturating_sub(entry.began);
            let took = if took > 0 { format!(", {} after it was built", span(took)) } else { String::new() };
            let outcome = style.paint(table::tone(entry.outcome), &table::outcome(entry));
            text.push_str(&format!("{outcome}  {}{took}\n", style.date(entry.at)));
        } else if self.id.is_some() {
            text.push_str(&format!("{}\n", style.paint(Tone::Busy, "⏵ under way")));
        }
        text
    }
}

impl Line {
    /// Returns the text of a line that comes by itself.
    pub fn alone(&self, style: &Style) -> String {
        self.text(SOURCE_WIDTH, style)
    }

    fn text(&self, width: usize, style: &Style) -> String {
        let (tone, mark) = match self.priority {
            0..=3 => (Tone::Bad, "✖"),
            4 => (Tone::Warn, "!"),
            _ => (Tone::Quiet, " "),
        };
        let at = style.moment(self.at);
        let source = self.source();
        format!(
            "  {at}  {source:<width$} {} {}\n",
            style.paint(tone, mark),
            safe_up_to(&self.message, LINE_MAX)
        )
    }

    /// Who said it, in short: `pullagent`, `switch`, `guard`, or the unit.
    fn source(&self) -> String {
        let own = self.unit.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(kind, _)| kind);
        let word = if self.unit == RECONCILER { "pullagent" } else { own.unwrap_or(&self.unit) };
        safe_up_to(word, LINE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(unit: &str, priority: u8, message: &str) -> Line {
        Line { at: 1_800_000_000, unit: unit.to_owned(), priority, event: None, message: message.to_owned() }
    }

    #[test]
    fn lines_say_when_who_and_how_bad() {
        let table = [
            (line(RECONCILER, 6, "built it"), "  2027-01-15 08:00:00  pullagent   built it\n"),
            (
                line("pullagent-switch-7-d4e5f6a.service", 4, "odd"),
                "  2027-01-15 08:00:00  switch    ! odd\n",
            ),
            (
                line("web.service", 3, "a\u{1b}[2J\nb"),
                "  2027-01-15 08:00:00  web.service ✖ a\u{fffd}[2J b\n",
            ),
        ];
        for (line, text) in table {
            assert_eq!(line.alone(&Style::plain()), text);
        }
    }
}
