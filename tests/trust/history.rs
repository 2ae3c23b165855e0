//! The verdict over random histories, held against a brute force that follows the words of the rules: merges, side
//! branches from below the anchor, several roots, dates without order, keys with windows, revoked and unknown ones,
//! roles, `Deploy-To:` lines, test branches, vouching merges, stepping stones. Every signature is real.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use pullagent::trust::Code;

use super::oracle::{Expected, Story, expected, new_ones, reach};
use super::random::{self, Cases};
use super::verdicts;

/// The bytes that tell a story: a head, and five or more for each of up to 14 commits.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..110)
}

#[test]
fn the_verdict_is_that_of_the_definition() {
    random::check("histories", Cases { short: 2_000, long: 200_000 }, bytes(), |bytes| {
        verdicts::check(&Story::told_by(&bytes));
    });
}

/// The property above is worth little if the random histories are all alike: each outcome must come up.
#[test]
fn random_histories_reach_every_verdict() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..5_000 {
        let story = Story::told_by(&bytes().new_tree(&mut runner).unwrap().current());
        for outcome in outcomes(&story) {
            *seen.entry(outcome).or_default() += 1;
        }
    }
    let codes = [
        "unsigned",
        "unknown-key",
        "revoked-key",
        "unauthorised",
        "wrong-target",
        "key-expired",
        "key-not-yet-valid",
        "foreign-root",
        "future-commit",
    ];
    let both = codes.iter().flat_map(|code| [format!("main: {code}"), format!("test: {code}")]);
    let more = [
        "main: not-fast-forward",
        "test: not-on-main",
        "test: test-rollback",
        "main: unmoved",
        "main: accepted",
        "test: accepted",
        "accepted: variant",
        "accepted: variant and fork",
        "accepted: fork from below the anchor",
        "accepted: vouched for what is not signed well",
        "accepted: strict",
        "accepted: again",
        "stone: the next",
        "stone: further down",
        "stone: at the side of a merge",
        "stone: waited for",
    ];
    for outcome in both.chain(more.map(str::to_owned)) {
        assert!(seen.get(&outcome).is_some_and(|n| *n >= 5), "'{outcome}' in {seen:#?}");
    }
}

/// What is remarkable about a story.
fn outcomes(story: &Story) -> Vec<String> {
    let line = if story.test { "test" } else { "main" };
    let strict = story.rules.ref_binding == pullagent::trust::RefBinding::Strict;
    match expected(story) {
        Expected::Accepted(0) => vec![format!("{line}: unmoved")],
        Expected::Accepted(_) => {
            let below = reach(story, story.anchor);
            let new = new_ones(story).unwrap();
            let parents = || new.iter().flat_map(|n| &story.nodes[*n].parents);
            let fork = parents().any(|p| *p != story.anchor && below.contains(p));
            let vouched = parents().any(|p| !new.contains(p) && !below.contains(p));
            let remarkable = [
                (true, format!("{line}: accepted")),
                (fork, "accepted: fork from below the anchor".to_owned()),
                (story.variant, "accepted: variant".to_owned()),
                (fork && story.variant, "accepted: variant and fork".to_owned()),
                (vouched, "accepted: vouched for what is not signed well".to_owned()),
                (strict, "accepted: strict".to_owned()),
                (story.previous.is_some_and(|p| p.0), "accepted: again".to_owned()),
            ];
            remarkable.into_iter().filter(|r| r.0).map(|r| r.1).collect()
        }
        Expected::Refused { faults, stone } => {
            let mut outcomes: Vec<_> = faults.iter().map(|(_, code)| format!("{line}: {code}")).collect();
            let tip = &story.nodes[story.tip];
            if faults.iter().any(|(at, code)| *at != story.tip && *code == Code::FutureCommit) {
                outcomes.push("stone: waited for".to_owned());
            }
            if let Some(stone) = stone {
                let near = tip.parents.first() == Some(&stone);
                outcomes.push(if near { "stone: the next" } else { "stone: further down" }.to_owned());
                if tip.parents.len() > 1 {
                    outcomes.push("stone: at the side of a merge".to_owned());
                }
            }
            outcomes
        }
    }
}
