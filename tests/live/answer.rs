//! Systems that somebody has to confirm: whoever says so, whoever says no, and what becomes of a host that nobody answers.

use serde_json::{Value, json};

use crate::common::machine::{Managed, Via, wait_until};
use crate::host::{LIMIT, Look, web};

/// Boots a machine whose systems wait so long for an answer; `None`: they ask for none, and soak for long.
fn boot(within: Option<&str>) -> Option<Managed> {
    let configure = |settings: &mut Value| {
        settings["activation"] = match within {
            Some(within) => json!({
                "soak": "1s", "window": "20s", "switchTimeout": "60s", "confirm": "manual", "confirmWithin": within,
            }),
            None => json!({ "soak": "60s", "window": "120s", "switchTimeout": "60s" }),
        };
    };
    let host = Managed::boot_with(Via::Https, configure, |system| web(system, "one"))?;
    wait_until("the first system to be in sync", LIMIT, || host.word() == "in-sync");
    Some(host)
}

/// Pushes a system and waits until the host is at `word` with it.
fn push(host: &Managed, label: &str, word: &str) -> String {
    let revision = host.push(&web(host.system.clone().label(label), label));
    wait_until(word, LIMIT, || {
        let status = host.status().unwrap_or_default();
        status["state"] == word && status["running"]["revision"] == revision.as_str()
    });
    revision
}

fn say(host: &Managed, words: &str) -> String {
    host.machine.check(&format!("{}/bin/pullagent {words}", host.package))
}

fn is_permanent(host: &Managed, toplevel: &str) -> bool {
    let view = host.machine.view();
    [view.profile, view.boot_default].iter().all(|path| path.as_deref() == Some(toplevel))
}

fn answer_until(host: &Managed) -> u64 {
    host.status().unwrap()["deployment"]["answerUntil"].as_u64().unwrap()
}

#[test]
fn a_system_stays_when_somebody_confirms_it_and_goes_when_somebody_rejects_it() {
    let Some(host) = boot(Some("60s")) else { return };
    let revision = push(&host, "two", "awaiting-confirmation");
    assert_eq!(host.page(), "two");
    assert!(is_permanent(&host, &host.toplevel), "nothing is permanent before it is confirmed");
    // Another agent takes the wait over, and does not begin it anew.
    let until = answer_until(&host);
    host.machine.check("systemctl restart pullagent.service");
    wait_until("the question again", LIMIT, || host.word() == "awaiting-confirmation");
    assert!(answer_until(&host).abs_diff(until) <= 1);
    // Another commit is not meant.
    let other = format!("{}/bin/pullagent confirm {}", host.package, host.revision);
    assert!(!host.machine.succeeds(&format!("{}/bin/pullagent confirm {}", host.package, "f".repeat(40))));
    assert!(host.machine.succeeds(&other), "it is confirmed already");
    assert_eq!(host.word(), "awaiting-confirmation");
    assert!(say(&host, &format!("confirm {revision}")).contains("stays"));
    host.wait_for_outcome(&revision, "confirmed");
    let two = host.machine.view().running.unwrap();
    assert!(is_permanent(&host, &two));

    let revision = push(&host, "three", "awaiting-confirmation");
    say(&host, "reject --reason 'the menu is gone'");
    let ended = host.wait_for_outcome(&revision, "rolled-back");
    assert_eq!(
        (&ended["code"], &ended["text"]),
        (&json!("rejected"), &json!("root rejected it: the menu is gone"))
    );
    assert_eq!(host.page(), "two");
    assert!(is_permanent(&host, &two));
    // Bad is bad: it is not tried again.
    wait_until("its word", LIMIT, || host.word() == "rolled-back");
    assert!(say(&host, &format!("explain {revision}")).contains("It is not tried again by itself."));
}

#[test]
fn a_system_that_nobody_confirms_goes() {
    let Some(host) = boot(Some("8s")) else { return };
    let revision = host.push(&web(host.system.clone().label("two"), "two"));
    let ended = host.wait_for_outcome(&revision, "rolled-back");
    assert_eq!(ended["code"], "unconfirmed", "{ended}");
    assert_eq!(host.page(), "one");
    assert!(is_permanent(&host, &host.toplevel));
    // Whoever says so beforehand has answered.
    host.machine.check(&format!("{}/bin/pullagent retry", host.package));
    wait_until("the probation", LIMIT, || {
        host.machine.succeeds(&format!("{}/bin/pullagent confirm", host.package))
    });
    host.wait_for_outcome(&revision, "confirmed");
}

#[test]
fn a_dead_agent_can_t_be_answered_and_its_guard_rolls_back() {
    let Some(host) = boot(Some("15s")) else { return };
    let revision = push(&host, "two", "awaiting-confirmation");
    host.kill_agent();
    let old = Some(host.toplevel.clone());
    wait_until("the old system", LIMIT, || host.machine.view().running == old);
    let decision = host.machine.check(&format!("cat {}/decision", host.guard()));
    assert!(decision.contains("\"by\":\"guard\""), "{decision}");
    host.revive_agent();
    let ended = host.wait_for_outcome(&revision, "rolled-back");
    assert_eq!(ended["code"], "unconfirmed", "{ended}");
}

#[test]
fn a_reboot_while_somebody_is_asked_goes_back_and_asks_again() {
    let Some(host) = boot(Some("120s")) else { return };
    let revision = push(&host, "two", "awaiting-confirmation");
    host.machine.reboot();
    assert_eq!(host.machine.view().running.as_ref(), Some(&host.toplevel));
    let reset = |e: &Value| e["revision"] == revision.as_str() && e["code"] == "reset";
    wait_until("the end of the first try", LIMIT, || host.history().iter().any(reset));
    wait_until("the question again", LIMIT, || host.word() == "awaiting-confirmation");
    say(&host, "confirm");
    host.wait_for_outcome(&revision, "confirmed");
}

#[test]
fn any_probation_can_be_rejected() {
    let Some(host) = boot(None) else { return };
    let revision = push(&host, "two", "checking-health");
    say(&host, "reject");
    let ended = host.wait_for_outcome(&revision, "rolled-back");
    assert_eq!(ended["code"], "rejected", "{ended}");
    assert_eq!(host.page(), "one");
    assert!(is_permanent(&host, &host.toplevel));
}
