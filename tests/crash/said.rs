//! Goal: the log has one sentence for each event, in their order, and none for anything that did not happen. Method: all
//! scripts run undisturbed, and each is listened to; what was journaled is read from the journal's own file.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Once;

use pullagent::model::{DeploymentId, Event};
use pullagent::report;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// What no script comes to; the last test has them.
const UNTRIED: [&str; 3] = ["rollback-failed", "test-lost", "retry-requested"];

thread_local! {
    /// What this thread's log says, while somebody listens.
    static SAID: RefCell<Option<Vec<Said>>> = const { RefCell::new(None) };
}

/// Takes down what the log says, for each thread. There is one for the whole process: with one for each test, a sentence that
/// another thread says first would count as one that nobody wants to hear (tracing-core 0.1, `has_just_one`).
struct Listener;

/// One record.
#[derive(Debug, Clone, Default)]
struct Said {
    event: String,
    sentence: String,
}

impl Visit for Said {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "event" {
            self.event = value.to_owned();
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.sentence = format!("{value:?}");
        }
    }
}

impl<S: tracing::Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        SAID.with_borrow_mut(|heard| {
            if let Some(heard) = heard {
                let mut said = Said::default();
                event.record(&mut said);
                heard.push(said);
            }
        });
    }
}

/// Returns the names of the events that a journal holds.
fn journaled(journal: &str) -> Vec<String> {
    let name = |line: &str| {
        let start = line.find('{')?;
        let record: serde_json::Value = serde_json::from_str(&line[start..]).ok()?;
        record["event"]["event"].as_str().map(str::to_owned)
    };
    // It begins with what was there before.
    journal.lines().filter_map(name).filter(|name| name != "snapshot").collect()
}

/// Returns what is said meanwhile.
fn listen(what: impl FnOnce()) -> Vec<Said> {
    static ONCE: Once = Once::new();
    let listener = || tracing_subscriber::registry().with(Listener);
    ONCE.call_once(|| tracing::subscriber::set_global_default(listener()).unwrap());
    SAID.set(Some(Vec::new()));
    what();
    SAID.take().unwrap()
}

#[test]
fn each_event_is_said_once() {
    let mut heard = BTreeSet::new();
    for script in super::scripts::scripts() {
        let mut text = String::new();
        let said = listen(|| text = crate::run_and_read(&script));
        let events = journaled(&text);
        assert!(events.len() > 3, "{}: {text}", script.name);
        let is_event = |s: &&Said| events.contains(&s.event);
        let told: Vec<&String> = said.iter().filter(is_event).map(|s| &s.event).collect();
        assert_eq!(told, events.iter().collect::<Vec<_>>(), "{}", script.name);
        for one in &said {
            let (sentence, event) = (&one.sentence, &one.event);
            assert!(!sentence.trim().is_empty() && !sentence.contains('\n'), "{event}: {sentence:?}");
            assert!(event.is_empty() || report::message_id(event).is_some(), "'{event}' has no id");
        }
        heard.extend(events);
    }
    let kinds = report::MESSAGE_IDS.iter().map(|(kind, _)| *kind);
    let silent: Vec<&str> =
        kinds.filter(|kind| !heard.contains(*kind)).take_while(|kind| *kind != "failed").collect();
    assert_eq!(silent, UNTRIED, "what no script comes to is listed");
}

#[test]
fn so_is_what_no_script_comes_to() {
    let id = DeploymentId::new(1, &super::world::oid(0x2000));
    let events = [
        Event::RollbackFailed { id, text: "it\nhangs".to_owned(), at: 1 },
        Event::TestLost { at: 1 },
        Event::RetryRequested { revision: None, by: "root".to_owned(), at: 1 },
    ];
    assert_eq!(events.each_ref().map(Event::name), UNTRIED);
    for event in events {
        let said = listen(|| report::log(&event, None));
        let [one] = said.as_slice() else { unreachable!("{said:?}") };
        assert_eq!(one.event, event.name());
        assert!(!one.sentence.is_empty() && !one.sentence.contains('\n'), "{one:?}");
    }
}
