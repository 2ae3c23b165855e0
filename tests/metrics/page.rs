//! The page, made of what an agent published; and what is counted for it.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

use pullagent::model::{
    CheckFacts, Failure, Happened, HintCounts, HintWord, OldProtocol, Outcome, RemoteFailure, Sighting,
};
use pullagent::report::metrics::Seen;
use pullagent::report::{self, Fate, Headline, Publisher, Snapshot, Tally};

use super::promtool::{docs, families, promtool, samples, true_alerts, value};
use crate::host::{Host, settings};
use crate::worlds::{in_sync, push, refused, rev};

/// When the host was looked at.
const NOW: u64 = 2_000;
/// Metrics that have no value where nobody knows one: the worlds here have no store and no hints, and no checks were tried.
const UNKNOWN: [&str; 6] = [
    "nixos_booted_system_time_seconds",
    "nixos_current_system_kernel_booted",
    "nixos_current_system_time_seconds",
    "pullagent_health_check_ok",
    "pullagent_hint_connected",
    "pullagent_hint_events_total",
];

/// Publishes a world as an agent does that is this very process, and returns the page.
fn page_of(host: &Host, publisher: &mut Publisher, snapshot: &Snapshot) -> String {
    publisher.publish(snapshot, &settings(), NOW).unwrap();
    Seen::at(&host.root, NOW).page()
}

fn page(snapshot: &Snapshot) -> String {
    let host = Host::new();
    let mut publisher = Publisher::open(&host.root).unwrap();
    page_of(&host, &mut publisher, snapshot)
}

fn in_sync_now() -> Snapshot {
    let mut snapshot = in_sync();
    snapshot.facts.now = NOW;
    let settled = snapshot.state.settled.as_mut().unwrap();
    settled.tip.committer_time = 500;
    let host = snapshot.facts.host.as_mut().unwrap();
    host.booted = host.running.clone();
    snapshot
}

fn seen(remote: &str) -> Sighting {
    Sighting::Heads { remote: remote.to_owned(), heads: Default::default(), old: None, at: NOW }
}

fn gone(class: RemoteFailure) -> Sighting {
    let (remote, class) = ("origin".to_owned(), class.as_str().to_owned());
    Sighting::Unreachable { remote, class, text: "gone".to_owned(), at: NOW }
}

#[test]
fn what_an_old_protocol_costs_is_on_the_page() {
    let series = "pullagent_remote_old_protocol_bytes{remote=\"origin\"}";
    let mut snapshot = in_sync_now();
    assert_eq!(value(&page(&snapshot), series), Some(0.0));
    let old = Some(OldProtocol { refs: 3, bytes: 4321 });
    let remote = "origin".to_owned();
    snapshot.facts.see(Sighting::Heads { remote, heads: Default::default(), old, at: NOW });
    assert_eq!(value(&page(&snapshot), series), Some(4321.0));
}

#[test]
fn hints_are_on_the_page() {
    let mut settings = settings();
    let hint = serde_json::json!({ "name": "push", "kind": "sse", "url": "https://push.example.org/x" });
    settings.hints = vec![serde_json::from_value(hint).unwrap()];
    let mut snapshot = in_sync_now();
    let counts = HintCounts { accepted: 3, coalesced: 4, ignored: 5, too_long: 6 };
    let word = HintWord { connected: true, text: String::new(), counts };
    snapshot.facts.see(Sighting::Hint { name: "push".to_owned(), word, at: NOW });
    let host = Host::new();
    Publisher::open(&host.root).unwrap().publish(&snapshot, &settings, NOW).unwrap();
    let page = Seen::at(&host.root, NOW).page();
    assert_eq!(value(&page, "pullagent_hint_connected{source=\"push\"}"), Some(1.0));
    for (result, expected) in [("accepted", 3.0), ("coalesced", 4.0), ("ignored", 5.0), ("too_long", 6.0)] {
        let series = format!("pullagent_hint_events_total{{source=\"push\",result=\"{result}\"}}");
        assert_eq!(value(&page, &series), Some(expected), "{page}");
    }
}

#[test]
fn every_metric_is_there_from_the_start_and_in_order() {
    let page = page(&in_sync_now());
    let with_values: BTreeSet<&str> = samples(&page)
        .iter()
        .map(|s| s.name.strip_suffix("_bucket").or(s.name.strip_suffix("_sum")).unwrap_or(s.name))
        .map(|name| name.strip_suffix("_count").unwrap_or(name))
        .collect();
    let missing: Vec<&str> = families(&page).difference(&with_values).copied().collect();
    assert_eq!(missing, UNKNOWN);
    assert_eq!(promtool(&["check", "metrics"], &page), (true, String::new()));

    let nothing = Seen { now: NOW, ..Seen::default() }.page();
    assert_eq!(families(&nothing), families(&page), "also before an agent ever ran");
    assert_eq!(promtool(&["check", "metrics"], &nothing), (true, String::new()));
    assert_eq!(value(&nothing, "pullagent_up"), Some(0.0));
}

/// The lists that labels are made of are whole, and say what JSON says.
#[test]
fn every_word_is_listed() {
    let page = std::fs::read_to_string(docs("../operations.md")).unwrap();
    let (_, section) = page.split_once("\n## What status says\n").unwrap();
    let row = |line: &str| Some(line.strip_prefix("| `")?.split('`').next()?.to_owned());
    let documented: BTreeSet<String> =
        section.split("\n## ").next().unwrap().lines().filter_map(row).collect();
    let words = |all: &[&str]| -> BTreeSet<String> { all.iter().map(|w| (*w).to_owned()).collect() };
    assert_eq!(words(&Headline::ALL.map(Headline::word)), documented);
    let spelt = |value: serde_json::Value| value.as_str().unwrap().to_owned();
    for state in Headline::ALL {
        assert_eq!(spelt(serde_json::to_value(state).unwrap()), state.word());
    }
    for fate in Fate::ALL {
        assert_eq!(spelt(serde_json::to_value(fate).unwrap()), fate.word());
    }
    for class in RemoteFailure::ALL {
        assert_eq!(spelt(serde_json::to_value(class).unwrap()), class.as_str());
    }
    assert_eq!(words(&Fate::ALL.map(Fate::word)).len(), Fate::ALL.len());
    assert_eq!(words(&RemoteFailure::ALL.map(RemoteFailure::as_str)).len(), RemoteFailure::ALL.len());
}

#[test]
fn a_host_on_which_all_is_well_says_so() {
    let page = page(&in_sync_now());
    for (series, expected) in [
        ("pullagent_up", 1.0),
        ("nixos_current_generation", 42.0),
        ("nixos_boot_generation", 42.0),
        ("nixos_booted_generation", 42.0),
        ("nixos_config_commit_timestamp_seconds", 500.0),
        ("nixos_config_age_seconds", 1500.0),
        ("pullagent_state{state=\"in-sync\"}", 1.0),
        ("pullagent_state{state=\"held\"}", 0.0),
        ("pullagent_pending_commit_age_seconds", 0.0),
        ("pullagent_last_successful_fetch_timestamp_seconds{remote=\"origin\"}", 1000.0),
        ("pullagent_remote_up{remote=\"origin\"}", 1.0),
        ("pullagent_fetches_total{remote=\"origin\",result=\"not-found\"}", 0.0),
        ("pullagent_verification_failures_total{reason=\"unsigned\"}", 0.0),
        ("pullagent_deployments_total{operation=\"switch\",result=\"confirmed\"}", 0.0),
        ("pullagent_last_deployment_result{result=\"confirmed\"}", 1.0),
        ("pullagent_last_deployment_timestamp_seconds", 1000.0),
        ("pullagent_phase_duration_seconds_count{phase=\"build\"}", 0.0),
    ] {
        assert_eq!(value(&page, series), Some(expected), "{series}");
    }
    assert_eq!(samples(&page).iter().filter(|s| s.name == "pullagent_state" && s.value == 1.0).count(), 1);
    // It was looked at 1000 seconds after the remote answered; all else is quiet.
    assert_eq!(true_alerts(&page, NOW), BTreeSet::from(["NotFetching".to_owned()]));
    let commits = [in_sync().state.main.unwrap().revision.to_string()];
    let labelled: BTreeSet<&str> = samples(&page)
        .iter()
        .filter(|s| commits.iter().any(|c| s.series.contains(c.as_str())))
        .map(|s| s.name)
        .collect();
    assert_eq!(labelled, BTreeSet::from(["pullagent_revision_info"]), "a commit is a label of one metric");
}

#[test]
fn a_system_that_is_not_confirmed_has_no_generation() {
    let mut snapshot = in_sync_now();
    let other = format!("/nix/store/{}-nixos-system-web1", "2".repeat(32)).parse().unwrap();
    snapshot.facts.host.as_mut().unwrap().running = Some(other);
    let page = page(&snapshot);
    assert_eq!(value(&page, "nixos_current_generation"), Some(0.0));
    assert_eq!(value(&page, "nixos_boot_generation"), Some(42.0));
    assert_eq!(value(&page, "pullagent_drift"), Some(1.0));
    assert_eq!(value(&page, "nixos_config_age_seconds"), None, "nobody knows what it was built from");
}

#[test]
fn older_generations_are_known_by_their_links() {
    let host = Host::new();
    let profiles = host.root.join("nix/var/nix/profiles");
    std::fs::create_dir_all(&profiles).unwrap();
    let old = format!("/nix/store/{}-nixos-system-web1", "3".repeat(32));
    std::os::unix::fs::symlink(&old, profiles.join("system-7-link")).unwrap();
    let mut snapshot = in_sync_now();
    snapshot.facts.host.as_mut().unwrap().booted = Some(old.parse().unwrap());
    let page = page_of(&host, &mut Publisher::open(&host.root).unwrap(), &snapshot);
    assert_eq!(value(&page, "nixos_booted_generation"), Some(7.0));
}

#[test]
fn polls_failures_and_steps_are_counted() {
    let host = Host::new();
    let mut publisher = Publisher::open(&host.root).unwrap();
    let tally: Tally = publisher.tally();
    tally.saw(&seen("origin"));
    tally.saw(&seen("origin"));
    tally.saw(&gone(RemoteFailure::NotFound));
    let done = |sighting| Happened::Saw(sighting);
    tally.performed(Some("build"), 700, &done(Sighting::Woke));
    let failure = Failure::transient("network", "no route".to_owned());
    let failed = Sighting::Failed { revision: rev("d4e5f6a"), remote: None, failure, at: NOW };
    tally.performed(Some("build"), 20_000, &done(failed));
    tally.performed(None, 1, &done(Sighting::Woke));
    let page = page_of(&host, &mut publisher, &in_sync_now());
    for (series, expected) in [
        ("pullagent_fetches_total{remote=\"origin\",result=\"success\"}", 2.0),
        ("pullagent_fetches_total{remote=\"origin\",result=\"not-found\"}", 1.0),
        ("pullagent_transient_failures_total", 1.0),
        ("pullagent_phase_duration_seconds_bucket{phase=\"build\",le=\"0.5\"}", 0.0),
        ("pullagent_phase_duration_seconds_bucket{phase=\"build\",le=\"1\"}", 1.0),
        ("pullagent_phase_duration_seconds_bucket{phase=\"build\",le=\"+Inf\"}", 2.0),
        ("pullagent_phase_duration_seconds_sum{phase=\"build\"}", 20.7),
    ] {
        assert_eq!(value(&page, series), Some(expected), "{series}");
    }
}

/// What ended before the start was counted by another agent; what is refused since counts once, however often it is
/// published.
#[test]
fn ends_are_counted_once_and_from_the_start_on() {
    let host = Host::new();
    let mut publisher = Publisher::open(&host.root).unwrap();
    let confirmed = "pullagent_deployments_total{operation=\"switch\",result=\"confirmed\"}";
    let unsigned = "pullagent_verification_failures_total{reason=\"unsigned\"}";
    let counts = |page: &str| (value(page, confirmed), value(page, unsigned));
    let before = page_of(&host, &mut publisher, &in_sync());
    assert_eq!(counts(&before), (Some(0.0), Some(0.0)));
    for _ in 0..2 {
        let page = page_of(&host, &mut publisher, &refused());
        assert_eq!(counts(&page), (Some(0.0), Some(1.0)));
        assert_eq!(value(&page, "pullagent_last_deployment_result{result=\"confirmed\"}"), Some(1.0));
    }
    let mut later = refused();
    let mut end = later.state.history.front().unwrap().clone();
    (end.revision, end.at) = (rev("beef"), 3000);
    end.outcome = Outcome::Tested;
    later.state.history.push_back(end);
    let page = page_of(&host, &mut publisher, &later);
    assert_eq!(
        value(&page, "pullagent_deployments_total{operation=\"switch\",result=\"tested\"}"),
        Some(1.0)
    );
    assert_eq!(counts(&page), (Some(0.0), Some(1.0)));
}

/// The age of what is pending goes on over restarts of the agent, and over pushes that do no good.
#[test]
fn a_host_that_lags_does_so_until_it_catches_up() {
    let host = Host::new();
    let age = |snapshot: &Snapshot, at: u64| {
        let mut snapshot = snapshot.clone();
        snapshot.facts.now = at;
        Publisher::open(&host.root).unwrap().publish(&snapshot, &settings(), at).unwrap();
        value(&Seen::at(&host.root, at + 10).page(), "pullagent_pending_commit_age_seconds").unwrap()
    };
    let mut pending = in_sync();
    push(&mut pending, &rev("d4e5f6a"));
    assert_eq!(age(&in_sync(), 5000), 0.0);
    assert_eq!(age(&pending, 6000), 10.0);
    push(&mut pending, &rev("c0ffee"));
    assert_eq!(age(&pending, 7000), 1010.0, "another push");
    let mut started = pending.clone();
    started.facts.remotes.clear();
    assert_eq!(age(&started, 7500), 1510.0, "no remote has answered since the start");
    assert_eq!(age(&refused(), 8000), 2010.0, "a refusal");
    assert_eq!(age(&in_sync(), 9000), 0.0);
    assert_eq!(age(&refused(), 9500), 7510.0, "after a reboot: since it was refused, at 2000");
}

/// Counting alone has no file written: it is done when something else has changed, as each poll changes the time of the last.
#[test]
fn nothing_is_written_to_count() {
    let host = Host::new();
    let mut publisher = Publisher::open(&host.root).unwrap();
    let written = || std::fs::metadata(report::status_path(&host.root)).unwrap().ino();
    publisher.publish(&in_sync(), &settings(), NOW).unwrap();
    let first = written();
    publisher.tally().saw(&seen("origin"));
    assert_eq!(written(), first);
    publisher.publish(&in_sync(), &settings(), NOW).unwrap();
    let second = written();
    assert_ne!(second, first);
    publisher.publish(&in_sync(), &settings(), NOW + 1).unwrap();
    assert_eq!(written(), second);
}

#[test]
fn red_checks_are_shown() {
    let mut snapshot = in_sync_now();
    let id = snapshot.state.history.back().unwrap().id.clone().unwrap();
    let check = |name: &str, green| CheckFacts {
        name: name.to_owned(),
        hard: true,
        green,
        failures: 1,
        failures_max: 3,
        text: String::new(),
    };
    let checks = vec![check("web", Some(true)), check("a\"b", Some(false)), check("new", None)];
    snapshot.facts.checks = Some((id, checks));
    let page = page(&snapshot);
    assert_eq!(value(&page, "pullagent_health_check_ok{check=\"web\"}"), Some(1.0));
    assert_eq!(value(&page, "pullagent_health_check_ok{check=\"a\\\"b\"}"), Some(0.0));
    assert_eq!(value(&page, "pullagent_health_checks_failing"), Some(1.0));
    assert_eq!(promtool(&["check", "metrics"], &page), (true, String::new()));
}
