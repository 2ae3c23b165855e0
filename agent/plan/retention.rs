//! Which generations of the `system` profile may go: pure arithmetic over their numbers and ages. What the host runs, has
//! booted, boots next or would go back to never goes, whatever the rule says.

use crate::model::{Generation, StorePath};

/// What the configuration says about generations. Without either bound all are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// How many of the newest are kept, whatever their age; `None`: the age alone decides.
    pub keep: Option<u64>,
    /// How many seconds old one must be to go; `None`: the number alone decides.
    pub age_max_secs: Option<u64>,
}

impl Retention {
    /// Tells whether any generation may go at all.
    pub fn is_on(&self) -> bool {
        self.keep.is_some() || self.age_max_secs.is_some()
    }
}

/// Returns the numbers of the generations that go, ascending. Where both bounds are set, one goes only if both say so.
///
/// `current` is the profile's own; it stays, and so do the one before it, those after it (somebody else's doing), those
/// that hold one of `needed`, and those that can't be read.
pub fn removable(
    rule: Retention,
    generations: &[Generation],
    current: u64,
    needed: &[StorePath],
    now: u64,
) -> Vec<u64> {
    if !rule.is_on() {
        return vec![];
    }
    let mut numbers: Vec<u64> = generations.iter().map(|g| g.number).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    let previous = numbers.iter().copied().find(|n| *n < current);
    let is_new = |g: &Generation| {
        let newer = numbers.iter().filter(|n| **n > g.number).count();
        rule.keep.is_some_and(|keep| u64::try_from(newer).is_ok_and(|newer| newer < keep))
    };
    // A link from a time to come is what a clock left behind that has been set back since; it is not old.
    let is_young = |g: &Generation| rule.age_max_secs.is_some_and(|max| now.saturating_sub(g.since) <= max);
    let is_needed = |g: &Generation| g.systems.is_empty() || g.systems.iter().any(|s| needed.contains(s));
    let stays = |g: &Generation| {
        g.number >= current || Some(g.number) == previous || is_new(g) || is_young(g) || is_needed(g)
    };
    let mut gone: Vec<u64> = generations.iter().filter(|g| !stays(g)).map(|g| g.number).collect();
    gone.sort_unstable();
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: u64 = 24 * 3600;
    const NOW: u64 = 1_000 * DAY;

    fn system(n: u64) -> StorePath {
        format!("/nix/store/{n:0>32}-nixos-system-web1").parse().unwrap()
    }

    /// Generations `1..=count`, one a day, the newest of today.
    fn daily(count: u64) -> Vec<Generation> {
        let one = |n| Generation { number: n, systems: vec![system(n)], since: NOW - (count - n) * DAY };
        (1..=count).map(one).collect()
    }

    fn rule(keep: Option<u64>, days: Option<u64>) -> Retention {
        Retention { keep, age_max_secs: days.map(|d| d * DAY) }
    }

    #[test]
    fn by_count_by_age_and_by_both() {
        let all = daily(10);
        let table = [
            (rule(None, None), vec![]),
            (rule(Some(7), None), vec![1, 2, 3]),
            (rule(None, Some(7)), vec![1, 2]),
            (rule(Some(5), Some(7)), vec![1, 2]),
            (rule(Some(9), Some(3)), vec![1]),
            (rule(Some(100), Some(0)), vec![]),
            // The one before stays: the host would go back to it.
            (rule(Some(1), None), vec![1, 2, 3, 4, 5, 6, 7, 8]),
            (rule(None, Some(0)), vec![1, 2, 3, 4, 5, 6, 7, 8]),
        ];
        for (rule, expected) in table {
            assert_eq!(removable(rule, &all, 10, &[], NOW), expected, "{rule:?}");
        }
    }

    #[test]
    fn what_is_needed_stays() {
        let mut all = daily(10);
        assert_eq!(
            removable(rule(Some(1), None), &all, 10, &[system(3), system(5)], NOW),
            [1, 2, 4, 6, 7, 8]
        );
        // A specialisation of it runs.
        all[1].systems.push(system(99));
        all[0].systems.clear();
        assert_eq!(removable(rule(Some(7), None), &all, 10, &[system(99)], NOW), [3]);
        // Somebody went back to an older one: what is newer is not ours to judge.
        assert_eq!(removable(rule(Some(1), None), &daily(5), 3, &[], NOW), [1]);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_old() {
        let all = daily(10);
        assert_eq!(removable(rule(None, Some(1)), &all, 10, &[], NOW - 500 * DAY), Vec::<u64>::new());
    }

    prop_compose! {
        fn host()(
            ages in prop::collection::vec((1u64..60, 0u64..5, 0u64..100), 1..20),
            current in any::<prop::sample::Index>(),
            needed in prop::collection::vec(0u64..5, 0..3),
            keep in prop::option::of(1u64..20),
            days in prop::option::of(0u64..100),
        ) -> (Retention, Vec<Generation>, u64, Vec<StorePath>) {
            let mut all: Vec<Generation> = ages
                .into_iter()
                .map(|(number, s, age)| Generation { number, systems: vec![system(s)], since: NOW - age * DAY })
                .collect();
            all.sort_by_key(|g| g.number);
            all.dedup_by_key(|g| g.number);
            let current = all[current.index(all.len())].number;
            (rule(keep, days), all, current, needed.into_iter().map(system).collect())
        }
    }

    proptest! {
        #[test]
        fn the_laws((rule, all, current, needed) in host()) {
            let gone = removable(rule, &all, current, &needed, NOW);
            let left: Vec<&Generation> = all.iter().filter(|g| !gone.contains(&g.number)).collect();
            prop_assert!(left.iter().any(|g| g.number == current));
            let below = |g: &&Generation| g.number < current;
            prop_assert_eq!(
                all.iter().filter(below).map(|g| g.number).max(),
                left.iter().copied().filter(below).map(|g| g.number).max(),
                "the one before stays"
            );
            for g in all.iter().filter(|g| gone.contains(&g.number)) {
                prop_assert!(g.number < current);
                prop_assert!(!g.systems.iter().any(|s| needed.contains(s)));
                prop_assert!(rule.age_max_secs.is_none_or(|max| NOW - g.since > max));
            }
            if let Some(keep) = rule.keep {
                prop_assert!(left.len() as u64 >= keep.min(all.len() as u64), "enough are left");
            }
            // Doing it twice changes nothing.
            let left: Vec<Generation> = left.into_iter().cloned().collect();
            prop_assert_eq!(removable(rule, &left, current, &needed, NOW), Vec::<u64>::new());
        }
    }
}
