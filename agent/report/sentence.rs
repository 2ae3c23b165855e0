//! One sentence for each event, for whoever reads the log, and one for what turned up or went away meanwhile. Words only;
//! [`super::log()`] says them.

use crate::model::{
    Arbiter, Class, Decision, Deployment, Event, HintWord, OldProtocol, Operation, Sighting, Stage, Step,
    SwitchEnd, Word,
};
use crate::plan::{Facts, HintFacts};

use super::old::{self, REMEDY};

/// How much an event matters to whoever reads the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// All is as it should be.
    Info,
    /// Somebody may want to look.
    Warning,
    /// Somebody has to look.
    Error,
}

/// Says what happened. `met` is the deployment that the event met.
pub fn sentence(event: &Event, met: Option<&Deployment>) -> (Weight, String) {
    use Weight::{Error, Info, Warning};
    let revision = || met.map_or("a deployment", |d| d.desired.tip.revision.short());
    let old = || match met.map(|d| &d.stage) {
        Some(Stage::Probation { trial, .. }) => trial.old.to_string(),
        Some(Stage::Built) | None => "the old system".to_owned(),
    };
    match event {
        Event::MainAccepted { tip } | Event::TestAccepted { tip, .. } => {
            let by = tip.signer.as_ref().map_or("pinned by root".to_owned(), |s| format!("signed by {s}"));
            (
                Info,
                format!(
                    "accepted {} \"{}\" of branch {}, {by}",
                    tip.revision.short(),
                    tip.subject,
                    tip.branch
                ),
            )
        }
        Event::Refused { refusal } => {
            let r = refusal;
            (
                Warning,
                format!("refused {} of branch {} ({}): {}", r.revision.short(), r.branch, r.code, r.text),
            )
        }
        Event::BuildFailed { desired, failure, .. } => {
            let r = desired.tip.revision.short();
            (Warning, format!("{r} can't be built and is set aside ({}): {}", failure.code, failure.text))
        }
        Event::Built { desired, toplevel, .. } => {
            (Info, format!("built {}: {toplevel}", desired.tip.revision.short()))
        }
        Event::Prepared { old, red_before, .. } if red_before.is_empty() => {
            (Info, format!("ready to switch to {}; {old} would come back", revision()))
        }
        Event::Prepared { old, red_before, .. } => {
            let red = red_before.join(", ");
            (
                Warning,
                format!(
                    "ready to switch to {}; {old} would come back; red already and so only reported: {red}",
                    revision()
                ),
            )
        }
        Event::Armed { .. } => (Info, format!("the guard watches; switching to {}", revision())),
        Event::Switched { ended, .. } => switched(revision(), ended),
        Event::Staged { .. } => {
            (Info, format!("rebooting into {}, once; {} stays what is booted by default", revision(), old()))
        }
        Event::TrialBooted { .. } => {
            (Info, format!("{} was booted for its trial; its health is being checked", revision()))
        }
        Event::SwitchRepeated { .. } => {
            (Warning, format!("the switch to {} is run once more, to go on where it stopped", revision()))
        }
        Event::SoakStarted { .. } => {
            (Info, format!("{} runs on probation; its health is being checked", revision()))
        }
        Event::HealthProven { failures, .. } => {
            let soft = if failures.is_empty() {
                String::new()
            } else {
                format!(", but for soft checks: {}", failures.join("; "))
            };
            (Warning, format!("{} is healthy and waits for 'pullagent confirm'{soft}", revision()))
        }
        Event::Answered { answer } => match answer.word {
            Word::Confirm => (Info, format!("{} confirmed {}", answer.by, revision())),
            Word::Reject => (Warning, format!("{}: {}", revision(), answer.rejection())),
        },
        Event::Decided { decision, failures, .. } => decided(revision(), decision, failures),
        Event::Confirmed { generation, .. } => match (met.map(|d| d.desired.operation), generation) {
            (Some(Operation::Test), _) => {
                (Info, format!("{} runs for a test; a reboot goes back", revision()))
            }
            (_, Some(n)) => {
                (Info, format!("{} is confirmed as generation {n}, which the next boot starts", revision()))
            }
            (_, None) => (Info, format!("{} is confirmed", revision())),
        },
        Event::RolledBack { how, .. } => {
            let next = if may_pass(met) { ", which is tried again later" } else { "" };
            (Warning, format!("rolled back {}{next}, to {}: {how}", revision(), old()))
        }
        Event::GenerationsChosen { numbers, .. } if numbers.is_empty() => {
            (Info, "no generation has to go".to_owned())
        }
        Event::GenerationsChosen { numbers, .. } => {
            (Info, format!("generations {} are to go, by 'retention'", joined(numbers)))
        }
        Event::GenerationsRemoved { numbers, .. } => {
            (Info, format!("generations {} are gone, with their boot entries", joined(numbers)))
        }
        Event::OldChecked { environment: true, failures, .. } => {
            let failures = failures.join("; ");
            (
                Warning,
                format!(
                    "the old system fails the same checks, so it is the environment, not the revision, which is \
                     tried again later: {failures}"
                ),
            )
        }
        Event::OldChecked { environment: false, .. } => {
            (Info, "the old system does not fail what the new one failed".to_owned())
        }
        Event::RollbackFailed { text, .. } => (
            Error,
            format!("{} could NOT be brought back after {}, somebody has to look: {text}", old(), revision()),
        ),
        Event::Superseded { running, .. } => {
            let running = running.as_ref().map_or("another system".to_owned(), |r| r.to_string());
            (
                Warning,
                format!(
                    "somebody switched to {running} while {} was on probation; it is left alone",
                    revision()
                ),
            )
        }
        Event::Abandoned { failure, .. } => {
            let next = match failure.class {
                Class::Transient => "it is tried again",
                Class::Target => "it is set aside",
            };
            (Warning, format!("called off {} ({}), {next}: {}", revision(), failure.code, failure.text))
        }
        Event::RebootAwaited { reboot, .. } => (
            Warning,
            format!("{} waits for a reboot: {}; {}", revision(), reboot.need.reasons.join(", "), reboot.why),
        ),
        Event::Adopted { generation, .. } => {
            let generation = generation.map_or(String::new(), |n| format!(" as generation {n}"));
            (Info, format!("the accepted revision is installed{generation}"))
        }
        Event::TrustAdopted { trust } => {
            let of = trust.revision.as_ref().map_or("the running system", |r| r.short());
            (Info, format!("the trust settings of {of} count from now on"))
        }
        Event::RootAccepted { revision, by, .. } => (
            Warning,
            format!("{by} vouches for {revision}: it becomes the accepted revision, whatever came before"),
        ),
        Event::TestLost { .. } => {
            (Warning, "the test system no longer runs; it does not come back by itself".to_owned())
        }
        Event::Suspended { suspension } => {
            let reason = suspension.reason.as_ref().map_or(String::new(), |r| format!(": {r}"));
            (Warning, format!("suspended by {}{reason}", suspension.by))
        }
        Event::Resumed { by, .. } => (Info, format!("resumed by {by}")),
        Event::RetryRequested { revision, by, .. } => match revision {
            Some(r) => (Info, format!("{by} wants {} tried again", r.short())),
            None => (Info, format!("{by} wants everything that failed tried again")),
        },
    }
}

fn joined(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

/// Tells whether a deployment is rolled back for a reason that may pass.
fn may_pass(met: Option<&Deployment>) -> bool {
    let Some(Stage::Probation { step: Step::RollingBack { class, .. }, .. }) = met.map(|d| &d.stage) else {
        return false;
    };
    *class == Class::Transient
}

fn switched(revision: &str, ended: &SwitchEnd) -> (Weight, String) {
    match ended {
        SwitchEnd::Complete { exit: Some(0), .. } => (Weight::Info, format!("switched to {revision}")),
        SwitchEnd::Complete { exit, text } => {
            let exit = exit.map_or("unknown".to_owned(), |e| e.to_string());
            let said = if text.is_empty() { String::new() } else { format!(": {text}") };
            (
                Weight::Warning,
                format!("switched to {revision}, although the switch ended with exit code {exit}{said}"),
            )
        }
        SwitchEnd::Unchanged { failure } => {
            (Weight::Warning, format!("{revision} was not switched to: {}", failure.text))
        }
        SwitchEnd::Torn { text, .. } => {
            (Weight::Warning, format!("the switch to {revision} stopped half-way: {text}"))
        }
    }
}

fn decided(revision: &str, decision: &Decision, failures: &[String]) -> (Weight, String) {
    match decision {
        Decision::Confirm if failures.is_empty() => {
            (Weight::Info, format!("{revision} is healthy and stays"))
        }
        Decision::Confirm => (
            Weight::Warning,
            format!("{revision} is healthy and stays, but for soft checks: {}", failures.join("; ")),
        ),
        Decision::RollBack { reason, by: Arbiter::Agent, class: _ } => {
            (Weight::Warning, format!("rolling back {revision}: {reason}"))
        }
        Decision::RollBack { reason, by: Arbiter::Guard, class: _ } => {
            (Weight::Warning, format!("the guard rolled back {revision}: {reason}"))
        }
        Decision::Superseded => (Weight::Warning, format!("{revision} was superseded by another switch")),
    }
}

/// What is new about a sighting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// The kind, a stable word.
    pub kind: &'static str,
    /// How much it matters.
    pub weight: Weight,
    /// In words.
    pub text: String,
}

impl News {
    fn new(kind: &'static str, weight: Weight, text: String) -> News {
        News { kind, weight, text }
    }
}

/// Says what is new about a sighting, if anything is; `before` is what was known. Failures of steps are told by the
/// steps themselves.
pub fn news(sighting: &Sighting, before: &Facts) -> Option<News> {
    use Weight::{Error, Info, Warning};
    let trouble = |remote: &str| before.remotes.get(remote).and_then(|r| r.trouble.as_ref());
    match sighting {
        Sighting::Unreachable { remote, class, text, .. } => {
            let text = format!("{remote} does not answer ({class}): {text}");
            let known = trouble(remote).is_some_and(|t| t.class == *class);
            (!known).then(|| News::new("remote-unreachable", Warning, text))
        }
        Sighting::Heads { remote, old, .. } => protocol_news(remote, *old, before).or_else(|| {
            trouble(remote).map(|t| {
                let text = format!("{remote} answers again, after {} failures", t.tries);
                News::new("remote-answers", Info, text)
            })
        }),
        Sighting::Blind { text, .. } => (before.blind.as_ref() != Some(text)).then(|| {
            let text = format!("the host can't be observed, so nothing is done: {text}");
            News::new("host-unreadable", Error, text)
        }),
        Sighting::Host { .. } => before
            .blind
            .as_ref()
            .map(|_| News::new("host-readable", Info, "the host can be observed again".to_owned())),
        Sighting::Hint { name, word, .. } => hint_news(name, word, before.hints.get(name)),
        Sighting::Related { .. } | Sighting::Failed { .. } | Sighting::Checked { .. } | Sighting::Woke => {
            None
        }
    }
}

/// Told when a remote turns out to speak an old version of Git's protocol, and when it no longer does.
fn protocol_news(remote: &str, old: Option<OldProtocol>, before: &Facts) -> Option<News> {
    let was = before.remotes.get(remote).and_then(|r| r.old);
    match (was, old) {
        (None, Some(cost)) => {
            let text = format!("{remote} {}; {REMEDY}", old::cost(cost));
            Some(News::new("remote-old-protocol", Weight::Warning, text))
        }
        (Some(_), None) => {
            let text = format!("{remote} speaks version 2 of Git's protocol now");
            Some(News::new("remote-new-protocol", Weight::Info, text))
        }
        (Some(_), Some(_)) | (None, None) => None,
    }
}

/// A hint that comes and goes is told as it does; one that stays away, when the reason changes.
fn hint_news(name: &str, word: &HintWord, before: Option<&HintFacts>) -> Option<News> {
    let was = before.is_some_and(|b| b.word.connected);
    if word.connected {
        let text = format!("push hints connected ({name})");
        return (!was).then(|| News::new("hints-connected", Weight::Info, text));
    }
    let told = before.is_some_and(|b| b.word.text == word.text);
    let text = format!("push hints not connected ({name}), remotes are polled as without: {}", word.text);
    (was || (!told && !word.text.is_empty())).then(|| News::new("hints-lost", Weight::Warning, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_protocol_is_told_once_and_when_it_is_over() {
        let mut facts = Facts::default();
        let mut tell = |old: Option<u64>| {
            let old = old.map(|refs| OldProtocol { refs, bytes: 80 * refs });
            let sighting =
                Sighting::Heads { remote: "origin".to_owned(), heads: Default::default(), old, at: 1 };
            let told = news(&sighting, &facts);
            facts.see(sighting);
            told
        };
        assert!(tell(None).is_none());
        let said = tell(Some(100)).unwrap();
        assert_eq!((said.kind, said.weight), ("remote-old-protocol", Weight::Warning));
        assert!(said.text.contains("all its 100 refs (8 kB)") && said.text.contains(REMEDY), "{}", said.text);
        assert!(tell(Some(101)).is_none(), "the number changes all the time");
        assert_eq!(tell(None).unwrap().kind, "remote-new-protocol");
        assert!(tell(None).is_none());
    }
}
