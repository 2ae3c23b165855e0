//! The rules and the dashboard: promtool takes them, and they name nothing that is not exported.

use std::collections::BTreeSet;

use pullagent::report::metrics::Seen;
use serde_json::Value;

use super::promtool::{docs, families, named, promtool};

/// What shows when each alert fires.
const TESTS: [&str; 2] = ["alerts_test.yml", "alerts_days_test.yml"];

fn read(name: &str) -> String {
    std::fs::read_to_string(docs(name)).unwrap()
}

fn exported() -> BTreeSet<String> {
    families(&Seen::default().page()).into_iter().map(str::to_owned).collect()
}

/// Returns what every query of a dashboard asks for.
fn queries(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
            found.extend(text("expr").into_iter().chain(text("query")));
            object.values().for_each(|v| queries(v, found));
        }
        Value::Array(array) => array.iter().for_each(|v| queries(v, found)),
        _ => {}
    }
}

#[test]
fn the_rules_are_right_and_each_alert_was_seen_to_fire_and_not_to() {
    for (verb, file) in [("check", "alerts.yml"), ("test", TESTS[0]), ("test", TESTS[1])] {
        let (content, said) = promtool(&[verb, "rules", docs(file).to_str().unwrap()], "");
        assert!(content, "{said}");
    }
    let (rules, tests) = (read("alerts.yml"), TESTS.map(read).concat());
    let alerts: Vec<&str> = rules.lines().filter_map(|l| l.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        assert!(tests.contains(&format!("alertname: {alert}, exp_alerts: []")), "{alert} stays quiet");
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} fires");
    }
}

#[test]
fn rules_and_dashboard_name_what_is_exported() {
    let exported = exported();
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    let mut asked = Vec::new();
    queries(&dashboard, &mut asked);
    assert!(asked.len() > 20, "{asked:?}");
    for text in asked.iter().chain([&read("alerts.yml"), &TESTS.map(read).concat()]) {
        let unknown: Vec<String> = named(text).difference(&exported).cloned().collect();
        assert!(unknown.is_empty(), "{unknown:?} in {text}");
    }
    let of_a_metric = asked.iter().filter(|q| !named(q).is_empty()).count();
    assert!(of_a_metric > 20, "{of_a_metric}");
}

/// The table in the documents is the list of what there is.
#[test]
fn every_metric_is_documented() {
    let text = std::fs::read_to_string(docs("../operations.md")).unwrap();
    let (_, section) = text.split_once("\n## Monitoring\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    assert_eq!(named(section), exported());
}
