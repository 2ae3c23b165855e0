//! The room's verdict over a story of the [`oracle`](super::oracle), held against the expected one.

use std::collections::BTreeSet;

use pullagent::model::Oid;
use pullagent::trust::{self, Accepted, Code, RangeReport, Refusal};

use super::oracle::{Expected, Story, World, build, expected, expected_report, policy};

/// Judges the story both ways and compares all that is said. Fails by panicking; returns whether it was accepted.
pub fn check(story: &Story) -> bool {
    let world = build(story);
    let found = verdict(story, &world);
    let index = |id: &Oid| world.ids.iter().position(|i| i == id);
    match (expected(story), &found) {
        (Expected::Accepted(commits), Ok(accepted)) => {
            assert_eq!(accepted.commits as usize, commits, "{story:#?}");
            assert_eq!(accepted.lines.len(), commits, "{story:#?}");
            assert_eq!(index(&accepted.revision), Some(story.tip), "{story:#?}");
            assert_eq!(accepted.anchor.revision, accepted.revision);
            assert_eq!(accepted.committer_time, story.nodes[story.tip].time as i64);
        }
        (Expected::Refused { faults, stone }, Err(refusal)) => {
            let said = (refusal.commit.as_ref().and_then(index).unwrap(), refusal.code);
            assert!(faults.contains(&said), "{said:?} is not in {faults:?}: {story:#?}");
            assert_eq!(refusal.stepping_stone.as_ref().and_then(index), stone, "{story:#?}");
        }
        (expected, found) => panic!("{expected:?} is expected, but {found:?}: {story:#?}"),
    }
    let said = report(story, &world).ok().map(|report| {
        let line =
            |l: &trust::CommitLine| (index(&l.revision).unwrap(), l.verdict.as_ref().err().map(|r| r.code));
        assert_eq!(report.refused as usize, report.lines.iter().filter(|l| l.verdict.is_err()).count());
        report.lines.iter().map(line).collect::<Vec<_>>()
    });
    let wanted = expected_report(story);
    assert_eq!(said.as_ref().map(Vec::len), wanted.as_ref().map(|w| w.len()), "{story:#?}");
    for (at, code) in said.iter().flatten() {
        let may: &BTreeSet<Code> = &wanted.as_ref().unwrap()[at];
        assert!(code.map_or(may.is_empty(), |code| may.contains(&code)), "{at}: {code:?} {may:?} {story:#?}");
    }
    found.is_ok()
}

fn verdict(story: &Story, world: &World) -> Result<Accepted, Refusal> {
    let (policy, context) = (policy(story.rules), story.context());
    let tip = &world.ids[story.tip];
    let mut read = reader(world);
    if !story.test {
        return trust::verify_main(&mut read, tip, &world.anchor, &policy, &context);
    }
    let other: Oid = "cd".repeat(32).parse().unwrap();
    let previous = story.previous.map(|(same, time)| (if same { tip } else { &other }, time as i64));
    trust::verify_test(&mut read, tip, &world.anchor, previous, &policy, &context)
}

fn report(story: &Story, world: &World) -> Result<RangeReport, Refusal> {
    let (policy, context) = (policy(story.rules), story.context());
    let report = if story.test { trust::verify_test_report } else { trust::verify_range_report };
    report(&mut reader(world), &world.ids[story.tip], &world.anchor, &policy, &context)
}

/// Reads from a history in memory.
pub fn reader(world: &World) -> impl FnMut(&Oid) -> Result<Vec<u8>, Refusal> + '_ {
    |id| {
        let missing = || Refusal::new(Code::MissingObject, Some(id), "missing");
        world.objects.get(id).cloned().ok_or_else(missing)
    }
}
