//! What `promtool` says of a page and of the rules, and which names there are.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A value on a page: `name`, labels with their braces, value.
pub struct Sample<'a> {
    pub name: &'a str,
    pub series: &'a str,
    pub value: f64,
}

pub fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/monitoring").join(name)
}

/// Runs `promtool`, and returns whether it was content, and all that it said.
pub fn promtool(args: &[&str], input: &str) -> (bool, String) {
    let mut command = Command::new("promtool");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool is installed (tests/setup does it)");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// Returns the names of the metrics on a page.
pub fn families(page: &str) -> BTreeSet<&str> {
    page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

pub fn samples(page: &str) -> Vec<Sample<'_>> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let parts = lines.map(|line| line.rsplit_once(' ').unwrap());
    let name = |series: &'_ str| series.find('{').unwrap_or(series.len());
    parts
        .map(|(series, value)| Sample {
            name: &series[..name(series)],
            series,
            value: value.parse().unwrap(),
        })
        .collect()
}

/// Returns the value of one series, labels and all.
pub fn value(page: &str, series: &str) -> Option<f64> {
    samples(page).iter().find(|s| s.series == series).map(|s| s.value)
}

/// Returns the metrics of ours that a text names.
pub fn named(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !word(c));
    let ours = words.filter(|w| w.starts_with("pullagent_") || w.starts_with("nixos_"));
    let plain = |w: &str| {
        let suffix = ["_bucket", "_sum", "_count"].into_iter().find_map(|s| w.strip_suffix(s));
        suffix.unwrap_or(w).to_owned()
    };
    ours.map(plain).collect()
}

/// Returns the names of the alerts whose expression is true on a page that was made at `now`. How long it must stay so is
/// another matter, which `alerts_test.yml` looks at.
pub fn true_alerts(page: &str, now: u64) -> BTreeSet<String> {
    let rules = std::fs::read_to_string(docs("alerts.yml")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let at_once: String =
        rules.lines().filter(|l| !l.trim_start().starts_with("for: ")).map(|l| format!("{l}\n")).collect();
    std::fs::write(dir.path().join("rules.yml"), at_once).unwrap();
    let alerts: Vec<&str> = rules.lines().filter_map(|l| l.trim_start().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    let mut test = "rule_files: [rules.yml]\ntests:\n  - interval: 1m\n    input_series:\n".to_owned();
    for Sample { name, series, value } in samples(page) {
        // The time of a test begins with 0.
        let value = if name.ends_with("_timestamp_seconds") { value - now as f64 } else { value };
        let series = series.replace('\'', "''");
        writeln!(test, "      - series: '{series}'\n        values: '{value}'").unwrap();
    }
    test.push_str("    alert_rule_test:\n");
    for alert in &alerts {
        writeln!(test, "      - {{ eval_time: 0m, alertname: {alert}, exp_alerts: [] }}").unwrap();
    }
    let file = dir.path().join("test.yml");
    std::fs::write(&file, test).unwrap();
    let (quiet, said) = promtool(&["test", "rules", file.to_str().unwrap()], "");
    let name = |line: &str| Some(line.trim().strip_prefix("alertname: ")?.split(',').next()?.to_owned());
    let firing: BTreeSet<String> = said.lines().filter_map(name).collect();
    assert_eq!(quiet, firing.is_empty(), "{said}");
    firing.into_iter().map(|alert| alert.replace("Pullagent", "")).collect()
}
