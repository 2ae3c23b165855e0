//! One line for the service manager, which `systemctl status` shows. It is only said anew when it changes, so nothing in it
//! may become wrong by time passing: dates, and no ages.

use super::headline::{self, subject_of_headline};
use super::status::{Headline, Status};
use super::style::{Style, clip, safe};
use crate::model::Oid;

/// The longest line, in characters.
const LENGTH_MAX: usize = 300;

/// Returns how the host is, in one line that holds until something changes.
pub fn summary(status: &Status, style: &Style) -> String {
    let text = match status.state {
        Headline::InSync => in_sync(status),
        Headline::Suspended => suspended(status, style),
        Headline::Unreachable => unreachable(status, style),
        Headline::AwaitingConfirmation => {
            let until = status.deployment.as_ref().and_then(|d| d.answer_until);
            let what = subject_of_headline(status).map_or("a revision", Oid::short);
            format!("{what} is healthy and waits for 'pullagent confirm'{}", until_date(until, style))
        }
        Headline::RolledBack
        | Headline::RollbackFailed
        | Headline::Refused
        | Headline::BuildFailed
        | Headline::CalledOff => format!("{}{}{}", headline(status, style), why(status), runs(status)),
        Headline::Held => {
            let why = status.trouble.as_deref().map(|text| format!(": {}", safe(text)));
            format!("{}{}", headline(status, style), why.unwrap_or_default())
        }
        Headline::Testing
        | Headline::Starting
        | Headline::Waiting
        | Headline::Verifying
        | Headline::Building
        | Headline::Preparing
        | Headline::Switching
        | Headline::CheckingHealth
        | Headline::Rebooting
        | Headline::Confirming
        | Headline::RollingBack
        | Headline::Retrying
        | Headline::RebootPending
        | Headline::Drift => headline(status, style),
    };
    clip(text.chars(), LENGTH_MAX)
}

/// The headline of the page, which begins with the host; the reader knows where he is.
fn headline(status: &Status, style: &Style) -> String {
    let sentence = headline::sentence(status, 0, style);
    let said = sentence.strip_prefix(&format!("{} ", safe(&status.host))).unwrap_or(&sentence);
    said.strip_prefix("is ").unwrap_or(said).to_owned()
}

fn in_sync(status: &Status) -> String {
    let Some(running) = &status.running else { return "up to date".to_owned() };
    let revision = running.revision.as_ref().map_or("what the main branch says", Oid::short);
    let branch = status.accepted.as_ref().filter(|c| Some(&c.revision) == running.revision.as_ref());
    let branch = branch.map(|c| format!(" ({})", safe(&c.branch))).unwrap_or_default();
    let generation = running.generation.map(|g| format!(", generation {g}")).unwrap_or_default();
    format!("in sync with {revision}{branch}{generation}")
}

fn suspended(status: &Status, style: &Style) -> String {
    let Some(s) = &status.suspension else { return "suspended".to_owned() };
    let reason = s.reason.as_deref().map(|r| format!(": {}", safe(r))).unwrap_or_default();
    format!("suspended by {}{}{reason}{}", safe(&s.by), until_date(s.until, style), runs(status))
}

fn unreachable(status: &Status, style: &Style) -> String {
    let troubled = status.remotes.iter().find_map(|r| r.trouble.as_ref().map(|t| (r, t)));
    let Some((remote, trouble)) = troubled else { return headline(status, style) };
    let since = style.date(trouble.since);
    format!("cannot reach {} ({}) since {since}{}", safe(&remote.name), safe(&trouble.class), runs(status))
}

fn until_date(until: Option<u64>, style: &Style) -> String {
    until.map(|at| format!(" until {}", style.date(at))).unwrap_or_default()
}

fn why(status: &Status) -> String {
    let Some(bad) = &status.problem else { return String::new() };
    let code = if bad.code.is_empty() { String::new() } else { format!(" ({})", safe(&bad.code)) };
    format!("{code}: {}", safe(&bad.text))
}

fn runs(status: &Status) -> String {
    let revision = status.running.as_ref().and_then(|r| r.revision.as_ref());
    revision.map(|r| format!("; runs {}", r.short())).unwrap_or_default()
}
