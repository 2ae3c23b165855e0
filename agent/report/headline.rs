//! The headline in words: glyph, one-line form, and the sentence that the page begins with.

use super::Life;
use super::status::{Headline, Owed, Status};
use super::style::{Style, Tone, brief, quoted, safe, span};
use crate::model::Oid;
use crate::plan;

/// Returns one line for prompts and lists: glyph, generation, revision, state, age.
pub fn oneline(status: &Status, life: Life, now: u64, style: &Style) -> String {
    let running = status.running.as_ref();
    let generation = running.and_then(|r| r.generation).map_or("-".to_owned(), |g| g.to_string());
    let revision = running.and_then(|r| r.revision.as_ref()).map_or("-", Oid::short);
    let (tone, glyph) = mark(status, life);
    let (word, since) = match life {
        Life::Dead => ("not-running".to_owned(), Some(status.agent.written_at)),
        Life::Silent => ("silent".to_owned(), Some(status.agent.written_at)),
        Life::Running => (state_word(status), since(status)),
    };
    let age = since.map(|s| format!(" {}", brief(now.saturating_sub(s)))).unwrap_or_default();
    format!("{} {generation} {revision} {word}{age}\n", style.paint(tone, glyph))
}

fn state_word(status: &Status) -> String {
    let word = status.state.word();
    match subject_of_headline(status) {
        Some(revision) if !matches!(status.state, Headline::InSync | Headline::Testing | Headline::Drift) => {
            format!("{word} {}", revision.short())
        }
        Some(_) | None => word.to_owned(),
    }
}

/// Since when the headline holds.
fn since(status: &Status) -> Option<u64> {
    match status.state {
        Headline::Suspended => status.suspension.as_ref().map(|s| s.at),
        Headline::RolledBack
        | Headline::RollbackFailed
        | Headline::Refused
        | Headline::BuildFailed
        | Headline::CalledOff => status.problem.as_ref().map(|b| b.at),
        Headline::Unreachable => {
            status.remotes.iter().filter_map(|r| r.trouble.as_ref()).map(|t| t.since).max()
        }
        Headline::Verifying | Headline::Building => status.doing.as_ref().map(|d| d.since),
        Headline::Preparing
        | Headline::Switching
        | Headline::CheckingHealth
        | Headline::Rebooting
        | Headline::AwaitingConfirmation
        | Headline::Confirming
        | Headline::RollingBack => status.deployment.as_ref().map(|d| d.built_at),
        Headline::InSync | Headline::Testing => status.running.as_ref().and_then(|r| r.since),
        Headline::Starting
        | Headline::Waiting
        | Headline::Retrying
        | Headline::RebootPending
        | Headline::Drift
        | Headline::Held => None,
    }
}

/// The revision that the headline is about.
pub(super) fn subject_of_headline(status: &Status) -> Option<&Oid> {
    let deployed = status.deployment.as_ref().map(|d| &d.commit.revision);
    let acted = status.doing.as_ref().and_then(|d| d.revision.as_ref());
    match status.state {
        Headline::Verifying | Headline::Building => acted,
        Headline::Preparing
        | Headline::Switching
        | Headline::CheckingHealth
        | Headline::Rebooting
        | Headline::AwaitingConfirmation
        | Headline::Confirming
        | Headline::RollingBack => deployed,
        Headline::RolledBack
        | Headline::RollbackFailed
        | Headline::Refused
        | Headline::BuildFailed
        | Headline::CalledOff => status.problem.as_ref().map(|b| &b.revision),
        Headline::Retrying => status.retries.first().map(|r| &r.revision),
        Headline::Waiting => status.pending.first().map(|p| &p.revision),
        Headline::RebootPending => status.accepted.as_ref().map(|c| &c.revision),
        Headline::InSync
        | Headline::Testing
        | Headline::Starting
        | Headline::Suspended
        | Headline::Unreachable
        | Headline::Drift
        | Headline::Held => None,
    }
}

pub(super) fn mark(status: &Status, life: Life) -> (Tone, &'static str) {
    match life {
        Life::Dead => return (Tone::Bad, "✖"),
        Life::Silent => return (Tone::Warn, "!"),
        Life::Running => {}
    }
    match status.state {
        Headline::InSync | Headline::Testing => (Tone::Good, "✔"),
        Headline::Starting
        | Headline::Waiting
        | Headline::Verifying
        | Headline::Building
        | Headline::Preparing
        | Headline::Switching
        | Headline::CheckingHealth
        | Headline::Rebooting
        | Headline::Confirming => (Tone::Busy, "⏵"),
        Headline::AwaitingConfirmation
        | Headline::RollingBack
        | Headline::Retrying
        | Headline::RebootPending
        | Headline::Unreachable
        | Headline::Drift
        | Headline::Held => (Tone::Warn, "!"),
        Headline::RolledBack
        | Headline::RollbackFailed
        | Headline::Refused
        | Headline::BuildFailed
        | Headline::CalledOff => (Tone::Bad, "✖"),
        Headline::Suspended => (Tone::Warn, "⏸"),
    }
}

/// The headline in words, without the glyph.
pub(super) fn sentence(status: &Status, now: u64, style: &Style) -> String {
    let host = safe(&status.host);
    let what = subject_of_headline(status).map_or("a revision", Oid::short);
    match status.state {
        Headline::InSync => format!("{host} is up to date"),
        Headline::Testing => {
            let branch = status.test.as_ref().map_or("its test branch", |t| t.commit.branch.as_str());
            format!("{host} is testing {}", safe(branch))
        }
        Headline::Starting => format!("{host} is starting; no remote has answered yet"),
        Headline::Waiting => match status.pending.first().map(|p| p.owed) {
            Some(Owed::Verify) => format!("{host} has seen {what} and is about to verify it"),
            Some(Owed::Deploy) => format!("{host} has accepted {what} and is about to build it"),
            Some(Owed::Return) => format!("{host} is about to return to {what}"),
            None => format!("{host} waits for a first revision"),
        },
        Headline::Verifying => format!("{host} is verifying {what}"),
        Headline::Building => format!("{host} is building {what}"),
        Headline::Preparing => format!("{host} is preparing the switch to {what}"),
        Headline::Switching => format!("{host} is switching to {what}"),
        Headline::CheckingHealth => format!("{host} switched to {what} and is checking its health"),
        Headline::Rebooting => format!("{host} is rebooting to try {what}"),
        Headline::AwaitingConfirmation => {
            let until = status.deployment.as_ref().and_then(|d| d.answer_until);
            let until = until.map(|at| format!(" until {}", style.clock(at, now))).unwrap_or_default();
            format!("{host} found {what} healthy and waits for 'pullagent confirm'{until}")
        }
        Headline::Confirming => format!("{host} found {what} healthy and is confirming it"),
        Headline::RollingBack => format!("{host} is rolling back {what}"),
        Headline::RolledBack => format!("{host} rolled back {what}"),
        Headline::RollbackFailed => format!("{host} could not roll back {what} and needs you"),
        Headline::Refused => format!("{host} refused {what}"),
        Headline::BuildFailed => format!("{host} cannot build {what}"),
        Headline::CalledOff => format!("{host} called off {what}"),
        Headline::Retrying => format!("{host} could not finish {what} and will try again"),
        Headline::Suspended => suspended(status, now, style),
        Headline::Unreachable => unreachable(status, now),
        Headline::RebootPending => format!("{host} needs a reboot to run {what}"),
        Headline::Drift => format!("{host} runs another system than pullagent deployed last"),
        Headline::Held => format!("{host} is held: pullagent changes nothing"),
    }
}

fn suspended(status: &Status, now: u64, style: &Style) -> String {
    let Some(s) = &status.suspension else { return format!("{} is suspended", safe(&status.host)) };
    let until =
        s.until.map(|u| format!(" until {} (in {})", style.clock(u, now), span(u.saturating_sub(now))));
    let words = |r| if s.by == plan::BREAKER { safe(r) } else { quoted(r) };
    let reason = s.reason.as_deref().map(|r| format!(": {}", words(r)));
    let (until, reason) = (until.unwrap_or_default(), reason.unwrap_or_default());
    format!("{} is suspended by {}{until}{reason}", safe(&status.host), safe(&s.by))
}

fn unreachable(status: &Status, now: u64) -> String {
    let host = safe(&status.host);
    let who = match status.remotes.as_slice() {
        [only] => safe(&only.name),
        _ => "any of its remotes".to_owned(),
    };
    let heard = status.remotes.iter().filter_map(|r| r.checked_at).max();
    match heard.map(|at| now.saturating_sub(at)) {
        Some(silent) if silent > status.stale_after_secs => {
            format!("{host} is stale: it has not reached {who} for {}", span(silent))
        }
        Some(_) | None => format!("{host} cannot reach {who}"),
    }
}
