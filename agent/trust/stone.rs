//! Stepping stones: when a tip is refused, the newest commit below it, on the line of first parents, that would be
//! accepted as a tip. A rotation of keys needs them: the commit that lists the new key and one that is signed with it may
//! be pushed together, but only the system built from the first knows the second. The server could have shown that
//! commit as the tip at any time, so this grants it nothing.

use std::collections::HashMap;

use super::judge::{TipRules, judge};
use super::range::{Range, Read};
use super::refusal::Refusal;
use crate::model::Oid;

/// What is found about one new commit, when all below it was looked at.
struct Standing {
    /// It and every new commit below it are well signed.
    clean: bool,
    /// It descends from the anchor, and does not merely join it from the side.
    descends: bool,
    /// Whether it might be the tip.
    fitness: Fitness,
}

enum Fitness {
    Acceptable,
    /// Only something speaks against it that passes.
    Later(Refusal),
    Unfit,
}

/// What lies below a refused tip.
pub(super) enum Stone {
    /// A commit that would be accepted as a tip.
    At(Oid),
    /// None, but one that is refused for a reason that may pass: the clock may be wrong.
    NotYet(Refusal),
}

/// Finds the stepping stone below the refused `tip` of `range`, or the newest commit that may become one. Each commit is
/// read and judged no more than once, so the cost is that of the verdict itself.
pub(super) fn find(read: &mut Read<'_>, range: &Range, tip: &Oid, rules: &TipRules<'_>) -> Option<Stone> {
    let mut standings: HashMap<&Oid, Standing> = HashMap::new();
    for id in &range.commits {
        let standing = stand(read, range, id, rules, &standings);
        standings.insert(id, standing);
    }
    let mut later = None;
    let mut below = range.first_parent(tip);
    while let Some(id) = below {
        let Some(standing) = standings.remove(id) else { break };
        match standing.fitness {
            Fitness::Acceptable => return Some(Stone::At(id.clone())),
            Fitness::Later(refusal) => later = later.or(Some(refusal)),
            Fitness::Unfit => {}
        }
        below = range.first_parent(id);
    }
    later.map(Stone::NotYet)
}

fn stand(
    read: &mut Read<'_>,
    range: &Range,
    id: &Oid,
    rules: &TipRules<'_>,
    below: &HashMap<&Oid, Standing>,
) -> Standing {
    let parents = range.parents(id);
    // A parent without a standing is the anchor or older: trusted by hash.
    let clean = parents.iter().all(|p| below.get(p).is_none_or(|s| s.clean));
    let descends = parents.iter().any(|p| *p == range.anchor || below.get(p).is_some_and(|s| s.descends));
    let judged = if clean { read(id).and_then(|raw| judge(id, &raw, rules.policy)).ok() } else { None };
    let fitness = match judged.as_ref().filter(|_| descends).map(|judged| rules.check(judged)) {
        Some(Ok(())) => Fitness::Acceptable,
        Some(Err(refusal)) if !refusal.code.is_final() => Fitness::Later(refusal),
        Some(Err(_)) | None => Fitness::Unfit,
    };
    Standing { clean: judged.is_some(), descends, fitness }
}
