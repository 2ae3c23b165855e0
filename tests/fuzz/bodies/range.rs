//! Histories: the verdict over any story is the expected one, and a tip of any bytes is refused unless it is well made.

use pullagent::trust::{self, ObjectFormat, commit};

use super::{dice, sign as sshsig};
use oracle::Story;

#[path = "../../trust/oracle.rs"]
pub mod oracle;
#[path = "../../trust/verdicts.rs"]
pub mod verdicts;

/// The first byte chooses between a story and the bytes of a tip on top of a short one.
pub fn check(data: &[u8]) -> bool {
    let Some((choice, rest)) = data.split_first() else { return false };
    match choice & 1 {
        0 => verdicts::check(&Story::told_by(rest)),
        _ => on_top(rest),
    }
}

/// Offers `raw` as the tip to a host that knows two commits, the newer one being its anchor.
fn on_top(raw: &[u8]) -> bool {
    let story = Story { anchor: 1, tip: 1, ..Story::told_by(&TWO) };
    let mut world = oracle::build(&story);
    let tip = oracle::id(raw);
    world.objects.insert(tip.clone(), raw.to_vec());
    let policy = oracle::policy(story.rules);
    let mut read = verdicts::reader(&world);
    let verdict = trust::verify_main(&mut read, &tip, &world.anchor, &policy, &story.context());
    let report = trust::verify_range_report(&mut read, &tip, &world.anchor, &policy, &story.context());
    match verdict {
        Ok(accepted) => {
            assert_eq!(report.unwrap().refused, 0);
            let split = commit::split(raw, ObjectFormat::Sha256).unwrap();
            trust::sshsig::verify(&split.payload, &split.armor, &policy).unwrap();
            assert!(split.parents.contains(&world.ids[1]) && accepted.revision == tip);
            true
        }
        Err(refusal) => {
            super::fit_for_people(&refusal.text, 1200);
            assert!(report.map_or(true, |report| report.refused > 0));
            false
        }
    }
}

/// A story of two commits by alice.
const TWO: [u8; 7] = [0, 0, 20, 0, 0, 0, 1];

pub fn seeds() -> Vec<Vec<u8>> {
    // The head of a story: rules, line, clock, previous, what is known of the anchor, number of commits.
    let plain = |n: u8| vec![0, 0, 0, 20, 0, 0, 0, n];
    let story = Story { anchor: 1, tip: 1, ..Story::told_by(&TWO) };
    let world = oracle::build(&story);
    let on_top =
        oracle::commit(&oracle::Node { parents: vec![1], ..story.nodes[0].clone() }, 2, &world.ids, "");
    let mut seeds = vec![plain(0), plain(3), plain(13), [&[1], &on_top[..]].concat()];
    // The same histories under other rules, for the test branch, with the anchor under another id.
    seeds.push(vec![0, 3, 0, 20, 0, 0, 0, 5]);
    seeds.push(vec![0, 12, 0, 20, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9, 30, 0]);
    seeds.push(vec![0, 0, 3, 20, 3, 0, 1, 0, 0, 5]);
    seeds.push(vec![0, 0, 0, 20, 0, 0, 4, 5]);
    seeds
}
