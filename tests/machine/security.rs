//! The figures of `systemd-analyze security`: what `docs/security.md` says, or better.

use crate::common::machine::{Machine, described, render};

const DOCUMENT: &str = include_str!("../../docs/security.md");
/// The most that the unit may have that reaches the network.
const GATEWAY_MAX: f32 = 1.5;

/// Returns what the document says of each unit.
fn told() -> Vec<(String, f32)> {
    let (_, section) = DOCUMENT.split_once("## Exposure\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    let rows = rows.map_while(|row| row.split_once("` | "));
    rows.map(|(unit, figure)| (unit.to_owned(), figure.parse().unwrap())).collect()
}

#[test]
fn no_unit_is_more_exposed_than_the_document_says() {
    let Some(machine) = Machine::boot() else { return };
    let units = described();
    let installed = units["installed"].as_object().unwrap().iter();
    let mut texts: Vec<(String, String)> = installed
        .filter(|(name, _)| name.ends_with(".service"))
        .map(|(name, unit)| (name.clone(), render(unit, "/usr/bin/true")))
        .collect();
    for (kind, properties) in units["transient"].as_object().unwrap() {
        if kind != "guardTimer" {
            let mut unit = serde_json::json!({ "Service": properties });
            unit["Service"]["ExecStart"] = "/usr/bin/true".into();
            texts.push((kind.clone(), render(&unit, "")));
        }
    }
    let mut told = told();
    for (unit, text) in texts {
        let file = format!("/srv/{}.service", unit.trim_end_matches(".service"));
        machine.write_file(&file, text);
        let said = machine.check(&format!("systemd-analyze security --offline=true --no-pager {file} 2>&1"));
        let (_, figure) = said.rsplit_once("exposure level for ").unwrap();
        let figure: f32 = figure.split_whitespace().nth(1).unwrap().parse().unwrap();
        println!("test host: exposure of {unit}: {figure}");
        let place =
            told.iter().position(|(other, _)| *other == unit).unwrap_or_else(|| panic!("{unit} is not told"));
        let (_, limit) = told.swap_remove(place);
        assert!(figure <= limit, "{unit}: {figure} is worse than {limit}:\n{said}");
        assert!(unit != "pullagent-gateway.service" || limit <= GATEWAY_MAX, "{unit}: {limit}");
    }
    assert!(told.is_empty(), "no such units: {told:?}");
}
