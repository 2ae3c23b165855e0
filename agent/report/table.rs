//! The human text of a history: a table, newest first.

use super::history::{Entry, Fate, History};
use super::style::{Style, Tone, quoted, safe, span};
use crate::model::Why;

/// How wide the subject column may grow.
const SUBJECT_WIDTH: usize = 34;

const HEADS: [&str; 7] = ["WHEN", "ID", "REVISION", "SUBJECT", "SIGNER", "TOOK", "OUTCOME"];

/// Returns the newest `count` entries as a table.
pub fn history(history: &History, count: usize, style: &Style) -> String {
    let shown: Vec<&Entry> = history.entries.iter().rev().take(count).collect();
    if shown.is_empty() {
        return format!("{} has no history yet\n", safe(&history.host));
    }
    let rows: Vec<[String; 7]> = shown.iter().map(|e| row(e, style)).collect();
    let mut widths = HEADS.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = style.paint(Tone::Quiet, &line(&HEADS.map(str::to_owned), &widths));
    text.push('\n');
    for (row, entry) in rows.iter().zip(&shown) {
        let [.., outcome] = row;
        let plain = line(row, &widths);
        let start = plain.len() - outcome.len();
        text.push_str(&plain[..start]);
        text.push_str(&style.paint(tone(entry.outcome), outcome));
        text.push('\n');
    }
    text
}

fn row(e: &Entry, style: &Style) -> [String; 7] {
    let none = || "-".to_owned();
    let subject = if e.subject.is_empty() { none() } else { shorten(&quoted(&e.subject)) };
    [
        style.date(e.at),
        e.id.as_ref().map_or_else(none, |id| id.to_string()),
        e.revision.short().to_owned(),
        subject,
        e.signer.as_deref().map_or_else(none, safe),
        if e.at > e.began { span(e.at - e.began) } else { none() },
        outcome(e),
    ]
}

fn shorten(quoted: &str) -> String {
    if quoted.chars().count() <= SUBJECT_WIDTH {
        return quoted.to_owned();
    }
    let kept: String = quoted.chars().take(SUBJECT_WIDTH - 2).collect();
    format!("{kept}…\"")
}

fn line(row: &[String; 7], widths: &[usize; 7]) -> String {
    let [.., last] = row;
    let cells = row.iter().zip(widths).take(HEADS.len() - 1);
    let mut text: String = cells.map(|(cell, width)| format!("{cell:<width$}  ")).collect();
    text.push_str(last);
    text
}

pub(super) fn outcome(e: &Entry) -> String {
    let because = e.code.as_deref().map(|c| format!(" ({})", safe(c))).unwrap_or_default();
    match e.outcome {
        Fate::Confirmed => match (e.generation, e.why) {
            (Some(g), Why::EndOfTest) => format!("✔ back from the test, gen {g}"),
            (Some(g), Why::NewRevision | Why::Retry | Why::Drift | Why::Reboot) => {
                let removed = match e.removed.len() {
                    0 => String::new(),
                    n => format!(", {n} older removed"),
                };
                format!("✔ confirmed as gen {g}{removed}")
            }
            (None, _) => "✔ confirmed".to_owned(),
        },
        Fate::Tested => "✔ entered for a test".to_owned(),
        Fate::RolledBack => format!("✖ rolled back{because}"),
        Fate::RollbackFailed => "✖ rollback failed".to_owned(),
        Fate::Superseded => "! left alone, somebody else switched".to_owned(),
        Fate::Refused => format!("✖ refused{because}"),
        Fate::BuildFailed => format!("✖ not built{because}"),
        Fate::Abandoned => format!("! called off{because}"),
        Fate::RebootAwaited => "! waits for a reboot".to_owned(),
        Fate::TestLost => "! test ended by a reboot or another switch".to_owned(),
    }
}

pub(super) fn tone(fate: Fate) -> Tone {
    match fate {
        Fate::Confirmed | Fate::Tested => Tone::Good,
        Fate::RolledBack | Fate::RollbackFailed | Fate::Refused | Fate::BuildFailed => Tone::Bad,
        Fate::Superseded | Fate::Abandoned | Fate::TestLost | Fate::RebootAwaited => Tone::Warn,
    }
}
