//! The line that `systemctl status` shows. It holds until something changes, so it says no ages.

use std::fmt::Write;

use pullagent::model::Suspension;
use pullagent::plan::Held;
use pullagent::report::{self, Doing, Snapshot, Status, Style};

use super::hosts::*;
use crate::{HOUR, NOW};

/// Returns the line, which must be the same whenever it is asked for.
pub fn summary(snapshot: &Snapshot) -> String {
    let at = |later: u64| {
        let mut snapshot = snapshot.clone();
        snapshot.facts.now += later;
        report::summary(&Status::from_snapshot(&snapshot, &settings()), &Style::plain())
    };
    let line = at(0);
    assert_eq!(line, at(40), "it changes with time");
    assert!(!line.contains('\n') && !line.contains(" ago") && !line.contains("(in "), "{line}");
    line
}

#[test]
fn each_headline_is_one_line() {
    let mut building = host_in_sync();
    accept(&mut building);
    building.doing = Some(Doing { action: "build", revision: Some(new_rev()), since: NOW - 102 });
    let mut suspended = host_in_sync();
    suspended.state.suspension = Some(Suspension {
        by: "root".to_owned(),
        reason: Some("disk\nswap".to_owned()),
        until: Some(NOW + 2 * HOUR),
        at: NOW - 600,
    });
    let held =
        Snapshot { trouble: Some(Held::new("journal", "the disk is full", "mend that")), ..host_in_sync() };
    let mut lines = String::new();
    for host in [
        host_in_sync(),
        building,
        suspended,
        held,
        rolled_back_host(),
        refused_host("unsigned", "main"),
        unreachable_host(),
    ] {
        writeln!(lines, "{}", summary(&host)).unwrap();
    }
    crate::compare("summary", &lines);
}
