//! Says to the log what happened: one sentence each, after it was journaled and never before, with fields for programs
//! beside it. In the journal they are `PULLAGENT_…`, and each kind of record has a `MESSAGE_ID`.

use super::sentence::{Weight, news, sentence};
use crate::model::{Deployment, Event, Oid, Sighting, Stage, Step, SwitchEnd, Tip};
use crate::plan::{Alarm, Facts};

/// What each kind of record is called in the journal: those of the events first, then what is no event. They never change.
pub const MESSAGE_IDS: [(&str, &str); 45] = [
    ("main-accepted", "b626771fa04141008b5b2e213ed4a15f"),
    ("test-accepted", "96774d9c59ef4515a4b3c48efa8dc053"),
    ("refused", "4c9322c45b6f4f60a5acfd2ed0c91cba"),
    ("build-failed", "1cec77e6fc6f4dcd93e0d73053022c96"),
    ("built", "99f84ef934d34619be28bc7df03bca0c"),
    ("prepared", "6c93a135bf6b4a70935d493b36a30be9"),
    ("armed", "d096f10128cb4f8bba0cc17351a6da49"),
    ("switched", "3ebd24ab6a3c4f73b4743490cee868b8"),
    ("switch-repeated", "6c8eb04b9af2455fadb6856bcc01eb64"),
    ("staged", "f930ede2be8a4f55be57b3f31c014bda"),
    ("trial-booted", "a1708f2995f8411cb9d9e2dc809ac9b5"),
    ("soak-started", "430de92080224ddfaa4c0fcb15bc989a"),
    ("health-proven", "e4964563b0cf46a58f1200edfe789f5e"),
    ("answered", "93e154d00695431181d8aa8ed56813b7"),
    ("decided", "7250272b6d734b90bf01f88050d3087d"),
    ("confirmed", "1c977ee1026246c78c56eb49d49e55e5"),
    ("generations-chosen", "8c853b3fde5240f2ba9438131697db61"),
    ("generations-removed", "8aab0c9066874d6394b5f9be6dbe6dbb"),
    ("rolled-back", "ab8faa60563f4585898181f09795c157"),
    ("old-checked", "e9f31e4f9a234d9cb99bdb7efaab9b76"),
    ("rollback-failed", "c11ebf2a0e1d407eba8769c2fa1dc389"),
    ("superseded", "91ca9a18eb59490b96156aaebaa16586"),
    ("abandoned", "e2e94ae1c61f43bea91311f4e9f08975"),
    ("reboot-awaited", "507e51050c22477dabd26904990e1d7f"),
    ("adopted", "138e90ddf49046c98a45dbdc5028184f"),
    ("trust-adopted", "d174083305c24e4bb8af97a9faefb20b"),
    ("root-accepted", "852987fb46d0475b99eacf18766d72ca"),
    ("test-lost", "d94ad8f00152407ba309024a7eedc344"),
    ("suspended", "a491914cd32d4df388780817b4e94ef3"),
    ("resumed", "9d30f2bda6f0435ca36fd8cd9d58b417"),
    ("retry-requested", "785bfc6168224281834350c38738d9af"),
    ("failed", "1db85b6ae40448c592e5f251d42251f4"),
    ("remote-unreachable", "eab5ba95444b4f469ee6a4178a059385"),
    ("remote-answers", "5b4bda9724da47b1bdb4dd9af1d8b2b0"),
    ("remote-old-protocol", "d0525743c0eb4f1b951129d45252afd3"),
    ("remote-new-protocol", "9f0df9c493f94e7abdb92cced353c44b"),
    ("host-unreadable", "f2d7bfe7e433479e85a86276b677b33e"),
    ("host-readable", "c63bd4d5c528484f99d4cd99acd679ab"),
    ("hints-connected", "1cd65efd2e5048d090da4b2f03bc794a"),
    ("hints-lost", "07387723832346728a443797d261ccd9"),
    ("alarm", "518b96a8494a4d8aa4c7f5a742d90333"),
    ("alarm-over", "74a3d00424574bc6bc00c58d61185c0f"),
    ("started", "b2a294e6b0274319b3fe6d5d09f23331"),
    ("stopping", "ab68010dd687469990794099ef9704b6"),
    ("observing", "13d36162c1df4f39b8e789d14b4e8819"),
];

/// Returns the `MESSAGE_ID` of records about `event`.
pub fn message_id(event: &str) -> Option<&'static str> {
    MESSAGE_IDS.iter().find(|(name, _)| *name == event).map(|(_, id)| *id)
}

/// What a record is about, for programs.
#[derive(Debug, Default)]
struct Tags<'a> {
    event: &'a str,
    deployment: Option<&'a str>,
    revision: Option<&'a str>,
    generation: Option<u64>,
    branch: Option<&'a str>,
    signer: Option<&'a str>,
    code: Option<&'a str>,
    remote: Option<&'a str>,
}

impl<'a> Tags<'a> {
    fn named(event: &'a str) -> Tags<'a> {
        Tags { event, ..Tags::default() }
    }

    fn of_tip(self, tip: &'a Tip) -> Tags<'a> {
        let (branch, signer) = (Some(tip.branch.as_str()), tip.signer.as_deref());
        Tags { branch, signer, ..self.of_revision(Some(&tip.revision)) }
    }

    fn of_revision(self, revision: Option<&'a Oid>) -> Tags<'a> {
        Tags { revision: revision.map(Oid::as_str), ..self }
    }

    fn of_deployment(self, met: Option<&'a Deployment>) -> Tags<'a> {
        match met {
            Some(d) => Tags { deployment: Some(d.id.as_str()), ..self.of_tip(&d.desired.tip) },
            None => self,
        }
    }
}

/// Says an event to the log. `met` is the deployment that the event met.
pub fn log(event: &Event, met: Option<&Deployment>) {
    let (weight, text) = sentence(event, met);
    say(weight, &tags(event, met), &text);
}

fn tags<'a>(event: &'a Event, met: Option<&'a Deployment>) -> Tags<'a> {
    let tags = Tags::named(event.name());
    match event {
        Event::MainAccepted { tip } | Event::TestAccepted { tip, .. } => tags.of_tip(tip),
        Event::Refused { refusal } => {
            let (branch, code) = (Some(refusal.branch.as_str()), Some(refusal.code.as_str()));
            Tags { branch, code, ..tags.of_revision(Some(&refusal.revision)) }
        }
        Event::BuildFailed { desired, failure, .. } => {
            Tags { code: Some(failure.code.as_str()), ..tags.of_tip(&desired.tip) }
        }
        Event::Built { id, desired, .. } => {
            Tags { deployment: Some(id.as_str()), ..tags.of_tip(&desired.tip) }
        }
        Event::Switched { ended: SwitchEnd::Unchanged { failure }, .. }
        | Event::Abandoned { failure, .. } => {
            Tags { code: Some(failure.code.as_str()), ..tags.of_deployment(met) }
        }
        Event::Confirmed { generation, .. } => Tags { generation: *generation, ..tags.of_deployment(met) },
        Event::RolledBack { .. } => Tags { code: rolled_back_for(met), ..tags.of_deployment(met) },
        // The deployment that they are about has ended before.
        Event::GenerationsChosen { id, .. }
        | Event::GenerationsRemoved { id, .. }
        | Event::OldChecked { id, .. } => Tags { deployment: Some(id.as_str()), ..tags },
        Event::Adopted { generation, .. } => Tags { generation: *generation, ..tags },
        Event::TrustAdopted { trust } => tags.of_revision(trust.revision.as_ref()),
        Event::RootAccepted { revision, .. } => tags.of_revision(Some(revision)),
        Event::RetryRequested { revision, .. } => tags.of_revision(revision.as_ref()),
        Event::Prepared { .. }
        | Event::Armed { .. }
        | Event::Switched { .. }
        | Event::Staged { .. }
        | Event::TrialBooted { .. }
        | Event::SwitchRepeated { .. }
        | Event::SoakStarted { .. }
        | Event::HealthProven { .. }
        | Event::Answered { .. }
        | Event::Decided { .. }
        | Event::RollbackFailed { .. }
        | Event::Superseded { .. }
        | Event::RebootAwaited { .. } => tags.of_deployment(met),
        Event::TestLost { .. } | Event::Suspended { .. } | Event::Resumed { .. } => tags,
    }
}

fn rolled_back_for(met: Option<&Deployment>) -> Option<&str> {
    match met.map(|d| &d.stage) {
        Some(Stage::Probation { step: Step::RollingBack { code, .. }, .. }) => code.as_deref(),
        Some(Stage::Built | Stage::Probation { .. }) | None => None,
    }
}

/// Says to the log what is new about a sighting, if anything is; `before` is what was known.
pub fn log_news(sighting: &Sighting, before: &Facts) {
    let Some(news) = news(sighting, before) else { return };
    let (remote, code) = match sighting {
        Sighting::Unreachable { remote, class, .. } => (Some(remote.as_str()), Some(class.as_str())),
        Sighting::Heads { remote, .. } => (Some(remote.as_str()), None),
        Sighting::Host { .. }
        | Sighting::Blind { .. }
        | Sighting::Hint { .. }
        | Sighting::Related { .. }
        | Sighting::Failed { .. }
        | Sighting::Checked { .. }
        | Sighting::Woke => (None, None),
    };
    say(news.weight, &Tags { remote, code, ..Tags::named(news.kind) }, &news.text);
}

/// Says to the log which alarms have come, and which have gone.
pub fn log_alarms(before: &[Alarm], now: &[Alarm]) {
    let tags = |kind, alarm: &Alarm| Tags { code: Some(alarm.code.as_str()), ..Tags::named(kind) };
    for alarm in now.iter().filter(|alarm| !before.contains(alarm)) {
        say(Weight::Warning, &tags("alarm", alarm), &alarm.text);
    }
    for gone in before.iter().filter(|gone| now.iter().all(|alarm| alarm.code != gone.code)) {
        say(Weight::Info, &tags("alarm-over", gone), &format!("no longer: {}", gone.text));
    }
}

/// Says to the log that an action failed in a way that may pass.
pub fn log_failure(revision: &Oid, code: &str, text: &str) {
    let tags = Tags { code: Some(code), ..Tags::named("failed").of_revision(Some(revision)) };
    say(Weight::Warning, &tags, &format!("{} failed ({code}), and is tried again: {text}", revision.short()));
}

fn say(weight: Weight, tags: &Tags<'_>, text: &str) {
    let Tags { event, deployment, revision, generation, branch, signer, code, remote } = *tags;
    let text = text.replace('\n', " ");
    match weight {
        Weight::Info => {
            tracing::info!(event, deployment, revision, generation, branch, signer, code, remote, "{text}");
        }
        Weight::Warning => {
            tracing::warn!(event, deployment, revision, generation, branch, signer, code, remote, "{text}");
        }
        Weight::Error => {
            tracing::error!(event, deployment, revision, generation, branch, signer, code, remote, "{text}");
        }
    }
}
