//! Which commits are new: those reachable from the tip and not from the anchor. It reads parent lines only and
//! judges no signature; dates steer what it reads first, never what it finds.

use std::collections::{HashMap, HashSet};

use super::commit::{self, COMMIT_BYTES_MAX, Link, ObjectFormat, PARENTS_MAX};
use super::policy::Merges;
use super::refusal::{Code, Fault, Refusal};
use crate::model::Oid;

/// How many new commits are verified at once.
pub const RANGE_MAX: usize = 100_000;

/// How many parent lines these commits may have in all; real histories have about 1.3 for each commit.
const EDGES_MAX: usize = 4 * RANGE_MAX;

/// How many commits below the anchor are looked at to find where a branch forked.
pub const HISTORY_MAX: usize = 1_000_000;

/// After so many commits it is cheaper to read the anchor's history than to run down its side branches.
const EAGER_MAX: usize = 1_000;

/// Returns the raw bytes of a commit, re-hashed by the caller, or why that failed.
pub(super) type Read<'a> = dyn FnMut(&Oid) -> Result<Vec<u8>, Refusal> + 'a;

/// The commits between anchor and tip.
#[derive(Debug)]
pub(super) struct Range {
    /// Parents before children; the tip is the last, unless it is trusted already.
    pub commits: Vec<Oid>,
    /// How the tip stands to the anchor.
    pub lineage: Lineage,
    /// The anchor.
    pub anchor: Oid,
    /// The parents of each of the commits; only the first one where signed merges vouch for the others.
    parents: HashMap<Oid, Vec<Oid>>,
}

impl Range {
    /// Returns the parents of a commit that count; none for one that is not in the range.
    pub fn parents(&self, id: &Oid) -> &[Oid] {
        self.parents.get(id).map_or(&[], Vec::as_slice)
    }

    /// Returns the first parent of a commit of the range.
    pub fn first_parent(&self, id: &Oid) -> Option<&Oid> {
        self.parents(id).first()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lineage {
    /// The tip is the anchor or descends from it.
    Descends,
    /// The tip is older than the anchor.
    Older,
    /// Neither.
    Apart,
}

/// Walks from `tip` down to `anchor`, whose commit date is `anchor_time` if that is known; where signed merges vouch for
/// what they bring in, along first parents only.
///
/// The anchor's own history is read only if something older than the anchor, a root, or something odd is met:
/// a side branch may have forked below the anchor, and what both share is trusted by hash. Without such a
/// meeting every path ended in the anchor, so nothing found can be an ancestor of it.
pub(super) fn between(
    read: &mut Read<'_>,
    tip: &Oid,
    anchor: &Oid,
    anchor_time: Option<i64>,
    merges: Merges,
) -> Result<Range, Refusal> {
    let format = ObjectFormat::of(anchor);
    if ObjectFormat::of(tip) != format {
        let text = format!("the branch has ids of another hash function than {}", anchor.short());
        return Err(Refusal::new(Code::ObjectFormat, Some(tip), text));
    }
    let (trusted, found) = (None, HashMap::new());
    let mut walk = Walk { read, format, anchor, anchor_time, merges, trusted, found, edges: 0 };
    walk.run(tip)?;
    Ok(walk.range(tip))
}

struct Walk<'w, 'r> {
    read: &'w mut Read<'r>,
    format: ObjectFormat,
    anchor: &'w Oid,
    anchor_time: Option<i64>,
    merges: Merges,
    /// The anchor and all its ancestors, once they are needed.
    trusted: Option<HashSet<Oid>>,
    /// Every commit met, with its parents. Those met before `trusted` was read may be in it.
    found: HashMap<Oid, Vec<Oid>>,
    edges: usize,
}

impl Walk<'_, '_> {
    fn run(&mut self, tip: &Oid) -> Result<(), Refusal> {
        let mut pending = vec![tip.clone()];
        while let Some(id) = pending.pop() {
            if self.is_trusted(&id) || self.found.contains_key(&id) {
                continue;
            }
            let raw = (self.read)(&id)?;
            if self.trusted.is_none() && self.is_doubtful(&raw) {
                self.trusted = Some(self.history()?);
                if self.is_trusted(&id) {
                    continue;
                }
            }
            let mut parents = self.new_link(&raw).map_err(|f| f.at(&id))?.parents;
            match self.merges {
                Merges::Every => {}
                Merges::Vouch => parents.truncate(1),
            }
            pending.extend(parents.iter().cloned());
            self.found.insert(id, parents);
        }
        Ok(())
    }

    fn is_trusted(&self, id: &Oid) -> bool {
        id == self.anchor || self.trusted.as_ref().is_some_and(|t| t.contains(id))
    }

    /// Tells whether a commit may be an ancestor of the anchor, or may not be read at all unless it is.
    fn is_doubtful(&self, raw: &[u8]) -> bool {
        let newer = |link: &Link| link.committer_time.zip(self.anchor_time).is_some_and(|(c, a)| c >= a);
        let plain = |link: &Link| !link.parents.is_empty() && link.parents.len() <= PARENTS_MAX;
        raw.len() > COMMIT_BYTES_MAX
            || self.found.len() >= EAGER_MAX
            || !commit::link(raw, self.format).is_ok_and(|link| newer(&link) && plain(&link))
    }

    /// Reads a commit that is new, within the limits for new ones.
    fn new_link(&mut self, raw: &[u8]) -> Result<Link, Fault> {
        if raw.len() > COMMIT_BYTES_MAX {
            let says = format!("has {} bytes, more than {COMMIT_BYTES_MAX}", raw.len());
            return Err(Fault::new(Code::CommitTooLarge, says));
        }
        let link = commit::link(raw, self.format)?;
        if link.parents.len() > PARENTS_MAX {
            return Err(Fault::new(Code::TooManyParents, format!("has more than {PARENTS_MAX} parents")));
        }
        self.edges += link.parents.len();
        if self.found.len() >= RANGE_MAX || self.edges > EDGES_MAX {
            let says = format!("is one of more than {RANGE_MAX} that are new since {}", self.anchor.short());
            return Err(Fault::new(Code::RangeTooLarge, says));
        }
        Ok(link)
    }

    /// Reads the anchor's history. It is trusted by hash, so no rule but readability holds for it.
    fn history(&mut self) -> Result<HashSet<Oid>, Refusal> {
        let mut seen = HashSet::from([self.anchor.clone()]);
        let mut pending = vec![self.anchor.clone()];
        while let Some(id) = pending.pop() {
            let raw = (self.read)(&id)?;
            for parent in commit::link(&raw, self.format).map_err(|f| f.at(&id))?.parents {
                if seen.insert(parent.clone()) {
                    pending.push(parent);
                }
            }
            if seen.len() > HISTORY_MAX {
                let text = format!("there are more than {HISTORY_MAX} commits below {}", self.anchor.short());
                return Err(Refusal::new(Code::RangeTooLarge, Some(self.anchor), text));
            }
        }
        Ok(seen)
    }

    fn range(self, tip: &Oid) -> Range {
        let commits = self.parents_first(tip);
        let reached = |id: &Oid| self.found.get(id).is_some_and(|parents| parents.contains(self.anchor));
        let lineage = if tip == self.anchor || commits.iter().any(reached) {
            Lineage::Descends
        } else if self.is_trusted(tip) {
            Lineage::Older
        } else {
            Lineage::Apart
        };
        Range { commits, lineage, anchor: self.anchor.clone(), parents: self.found }
    }

    /// Lists the new commits in the order in which a verdict over them is made.
    fn parents_first(&self, tip: &Oid) -> Vec<Oid> {
        let mut order = Vec::new();
        let mut entered = HashSet::new();
        let mut pending = vec![(tip, false)];
        while let Some((id, parents_done)) = pending.pop() {
            if parents_done {
                order.push(id.clone());
            } else if !self.is_trusted(id) && entered.insert(id) {
                pending.push((id, true));
                // The first parent is pushed last and so listed first.
                let parents = self.found.get(id).into_iter().flatten().rev();
                pending.extend(parents.map(|p| (p, false)));
            }
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history without signatures: the walk does not look at them.
    #[derive(Default)]
    struct History {
        objects: HashMap<Oid, Vec<u8>>,
    }

    fn id(n: usize) -> Oid {
        format!("{n:040x}").parse().unwrap()
    }

    impl History {
        /// Adds commit `n`, dated `n`, with these parents and a message of `padding` bytes.
        fn add(&mut self, n: usize, parents: &[usize], padding: usize) {
            let parents: String = parents.iter().map(|p| format!("parent {}\n", id(*p))).collect();
            let people = format!("author A <a@x> {n} +0000\ncommitter A <a@x> {n} +0000\n");
            let message = "m".repeat(padding);
            self.objects.insert(id(n), format!("tree {}\n{parents}{people}\n{message}", id(0)).into());
        }

        fn chain(length: usize) -> History {
            let mut history = History::default();
            for n in 0..length {
                history.add(n, if n == 0 { vec![] } else { vec![n - 1] }.as_slice(), 0);
            }
            history
        }

        fn between(&self, anchor: usize, tip: usize) -> Result<Range, Refusal> {
            let missing = |id: &Oid| Refusal::new(Code::MissingObject, Some(id), "missing");
            let mut read = |id: &Oid| self.objects.get(id).cloned().ok_or_else(|| missing(id));
            between(&mut read, &id(tip), &id(anchor), Some(anchor as i64), Merges::Every)
        }

        fn count(&self, anchor: usize, tip: usize) -> Result<usize, Code> {
            self.between(anchor, tip).map(|r| r.commits.len()).map_err(|r| r.code)
        }
    }

    #[test]
    fn parents_come_before_children_and_the_first_parent_first() {
        let mut history = History::chain(3);
        history.add(3, &[1], 0);
        history.add(4, &[1], 0);
        history.add(5, &[2, 3, 4], 0);
        let range = history.between(1, 5).unwrap();
        assert_eq!(range.commits, [2, 3, 4, 5].map(id));
        assert_eq!(range.lineage, Lineage::Descends);
        assert_eq!(history.between(5, 2).unwrap().lineage, Lineage::Older);
        assert_eq!(history.between(4, 3).unwrap().lineage, Lineage::Apart);
    }

    #[test]
    fn a_range_has_a_limit() {
        let history = History::chain(RANGE_MAX + 2);
        assert_eq!(history.count(1, RANGE_MAX + 1), Ok(RANGE_MAX));
        assert_eq!(history.count(0, RANGE_MAX + 1), Err(Code::RangeTooLarge));
        assert_eq!(
            history.count(RANGE_MAX, RANGE_MAX + 1),
            Ok(1),
            "what lies below the anchor does not count"
        );
    }

    #[test]
    fn the_parent_lines_of_a_range_have_a_limit() {
        let mut history = History::chain(1);
        let commits = EDGES_MAX / PARENTS_MAX + 1;
        for n in 1..=commits {
            history.add(n, &[n - 1; PARENTS_MAX], 0);
        }
        assert_eq!(history.count(0, commits), Err(Code::RangeTooLarge));
        assert_eq!(history.count(1, commits), Ok(commits - 1));
    }

    #[test]
    fn what_is_too_large_is_refused_if_new_and_trusted_if_old() {
        let mut history = History::chain(1);
        history.add(1, &[0], COMMIT_BYTES_MAX);
        history.add(2, &[1; PARENTS_MAX + 1], 0);
        history.add(3, &[2], 0);
        history.add(4, &[3, 2, 1], 0);
        assert_eq!(history.count(3, 4), Ok(1));
        assert_eq!(history.count(1, 4), Err(Code::TooManyParents));
        assert_eq!(history.count(0, 1), Err(Code::CommitTooLarge));
    }
}
