//! Goal: whoever watches over the agent notices when its loop stands still, and only then. Method: the real loop on a real
//! journal; what it is given to do waits well, or blocks the thread.
#![allow(clippy::disallowed_methods, reason = "a test looks at the clock")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pullagent::config;
use pullagent::journal::Journal;
use pullagent::model::{Action, Happened, HostFacts, Sighting};
use pullagent::reconcile;
use pullagent::report::Snapshot;
use pullagent::steps::Steps;
use tokio::sync::{mpsc, watch};

const BEAT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_millis(600);

/// Runs the loop for a while on a host on which `work` is all there is to do, and returns when it was alive.
fn beats(work: impl AsyncFn()) -> Vec<Instant> {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path(), "boot").unwrap();
    let settings = config::parse(include_bytes!("fixtures/config.json")).unwrap().settings;
    let (show, _shown) = watch::channel(Arc::new(Snapshot::default()));
    let (_send, mut inbox) = mpsc::channel(1);
    let beats = RefCell::new(Vec::new());
    let perform = async |action| match action {
        Action::Observe(_) => {
            let (host, guard) = (Box::new(HostFacts::default()), Default::default());
            Happened::Saw(Sighting::Host { now: 1, host, guard, introduction: None, trust: None })
        }
        _ => {
            work().await;
            Happened::Saw(Sighting::Woke)
        }
    };
    let beat = async || {
        beats.borrow_mut().push(Instant::now());
        tokio::time::sleep(BEAT).await;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let policy = Steps::policy(&settings);
        let running = reconcile::run(&mut journal, &policy, &mut inbox, &show, perform, beat);
        assert!(tokio::time::timeout(LONG, running).await.is_err(), "the loop ended");
    });
    beats.into_inner()
}

#[test]
fn it_beats_while_an_action_takes_its_time() {
    let beats = beats(async || tokio::time::sleep(10 * LONG).await);
    assert!(beats.len() > 5, "{}", beats.len());
    assert!(beats.windows(2).all(|pair| pair[1] - pair[0] < LONG / 2), "it never stops for long");
}

#[test]
fn it_beats_once_a_turn() {
    let beats = beats(async || tokio::time::sleep(BEAT / 10).await);
    assert!(beats.len() > 20, "{}", beats.len());
}

#[test]
fn a_loop_that_is_blocked_stops_beating() {
    let began = Instant::now();
    let beats = beats(async || {
        // The first look at the loop's other business comes after this.
        tokio::time::sleep(2 * BEAT).await;
        std::thread::sleep(LONG);
    });
    assert!(!beats.is_empty());
    let late: Vec<_> = beats.iter().filter(|at| **at - began > LONG / 2 && **at - began < LONG).collect();
    assert!(late.is_empty(), "{late:?}");
}
