//! Which checks may speak against a new system.

use crate::common::machine::{Via, wait_until};
use crate::host::{LIMIT, Look, boot, web};

/// A check that the new system points elsewhere was not red before just because nothing is there yet.
#[test]
fn a_check_that_is_changed_is_not_excused_by_the_old_system() {
    let Some(host) = boot(Via::Https, "20s") else { return };
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    let mut settings = host.settings.clone();
    settings["health"]["checks"]["web"]["http"] = "http://127.0.0.1:8001/".into();
    let moved = web(host.system.clone().label("moved").agent(&host.package, &settings), "moved");
    let revision = host.push(&moved);
    let ended = host.wait_for_outcome(&revision, "rolled-back");
    assert!(ended["text"].as_str().unwrap().contains("web"), "{ended}");
    assert_eq!(host.page(), "one");
}
