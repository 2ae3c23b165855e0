//! Which remotes somebody asked to poll, from outside of the conversation with the reconciler: kept until the poll is made,
//! and let out at a bounded pace. It knows neither who asks nor who polls.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::lock;
use super::pace::Pace;

/// Two polls of a remote are at least so far apart.
const GAP: (u32, Duration) = (1, Duration::from_secs(1));
/// So many rounds of polls may come that close together, and then one each time that the second value has passed.
const ROUNDS: (u32, Duration) = (10, Duration::from_secs(6));

/// Which remotes are to be polled. What is asked while nobody polls is asked once.
#[derive(Debug, Default)]
pub struct Wakes {
    asked: Mutex<Asked>,
    news: Notify,
}

#[derive(Debug)]
struct Asked {
    remotes: BTreeSet<String>,
    gap: Pace,
    rounds: Pace,
}

impl Default for Asked {
    fn default() -> Asked {
        Asked { remotes: BTreeSet::new(), gap: Pace::new(GAP), rounds: Pace::new(ROUNDS) }
    }
}

impl Asked {
    /// Adds `remotes`. Returns whether one of them is new.
    fn ask(&mut self, remotes: &[String]) -> bool {
        let before = self.remotes.len();
        self.remotes.extend(remotes.iter().cloned());
        self.remotes.len() > before
    }

    /// Returns when the next polls may be made, if there are any to make.
    fn due(&self, now: Instant) -> Option<Instant> {
        let due = self.gap.next(now).max(self.rounds.next(now));
        (!self.remotes.is_empty()).then_some(due)
    }

    fn take(&mut self, now: Instant) -> BTreeSet<String> {
        self.gap.spend(now);
        self.rounds.spend(now);
        std::mem::take(&mut self.remotes)
    }
}

impl Wakes {
    /// Asks to poll `remotes`. Returns whether that was not asked already.
    pub fn ask(&self, remotes: &[String]) -> bool {
        let news = lock(&self.asked).ask(remotes);
        self.news.notify_one();
        news
    }

    /// Waits until there are remotes to poll, and until they may be, then takes them. Safe to cancel.
    pub async fn next(&self) -> BTreeSet<String> {
        loop {
            let now = Instant::now();
            let due = lock(&self.asked).due(now);
            match due {
                None => self.news.notified().await,
                Some(due) if due > now => sleep_until(due).await,
                Some(_) => return lock(&self.asked).take(now),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns in which tenths of a second polls were made and of what, when `ask` names what is asked in each.
    fn polls(tenths: u32, ask: impl Fn(u32) -> &'static str) -> Vec<(u32, String)> {
        let (began, mut asked, mut polls) = (Instant::now(), Asked::default(), Vec::new());
        for tenth in 0..tenths {
            let now = began + tenth * SECOND / 10;
            let remotes: Vec<String> = ask(tenth).split_whitespace().map(str::to_owned).collect();
            asked.ask(&remotes);
            if asked.due(now).is_some_and(|due| due <= now) {
                polls.push((tenth, Vec::from_iter(asked.take(now)).join(" ")));
            }
        }
        polls
    }

    #[test]
    fn what_is_asked_together_is_polled_once_and_what_is_asked_later_again() {
        let polls = polls(200, |tenth| match tenth {
            0 | 100 => "a",
            3 | 5 => "b a",
            4 => "a",
            _ => "",
        });
        assert_eq!(polls, [(0, "a"), (10, "a b"), (100, "a")].map(|(at, names)| (at, names.to_owned())));
    }

    /// Whatever comes, there are ten rounds in a hurry and then one in six seconds; and nothing that was asked is lost.
    #[test]
    fn a_flood_has_its_bounded_share_of_polls() {
        let polls = polls(2000, |tenth| if tenth < 600 { "a b" } else { "" });
        let at: Vec<u32> = polls.iter().map(|(at, _)| *at).collect();
        assert_eq!(at[..12], [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 120]);
        assert!(at.windows(2).all(|pair| pair[1] - pair[0] >= 10));
        assert_eq!(at.iter().filter(|at| **at < 600).count(), 19);
        assert_eq!(at.len(), 20, "the last word gets its poll, and silence none");
    }

    #[test]
    fn what_is_asked_twice_is_no_news() {
        let (wakes, names) = (Wakes::default(), ["a".to_owned()]);
        assert!(wakes.ask(&names) && !wakes.ask(&names));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        assert_eq!(runtime.block_on(wakes.next()), BTreeSet::from(names.clone()));
        assert!(wakes.ask(&names));
    }
}
