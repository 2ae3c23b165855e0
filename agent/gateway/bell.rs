//! One source of hints, between its connection and the polls: what counts as a hint, when it leads to a poll, and what is
//! said of it. Nothing in a hint is used but that it came. It knows neither how hints arrive nor who polls.

use std::cell::RefCell;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use super::pace::Budget;
use crate::model::{HintCounts, HintWord};
use crate::plan::backoff::part;
use crate::wire;

/// A connection counts once it has lived so long: one that is closed at once again and again must not slow polls down.
const STEADY: Duration = Duration::from_secs(2);

/// What the gateway is told of a source of hints.
#[derive(Debug)]
pub(super) struct Word {
    pub(super) name: String,
    /// Whether to poll now.
    pub(super) poll: bool,
    pub(super) word: HintWord,
}

/// Where whoever listens to a source reports what came.
#[derive(Debug)]
pub(super) struct Bell {
    name: String,
    filter: Option<String>,
    /// The time over which a fleet spreads its polls.
    splay: Duration,
    state: RefCell<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Since when there is a connection.
    joined: Option<Instant>,
    word: HintWord,
    /// Whether there is a poll to make, now or later.
    owed: bool,
    /// When that is.
    due: Option<Instant>,
    budget: Budget,
    /// Whether the word is new.
    news: bool,
}

impl Bell {
    pub(super) fn new(name: String, filter: Option<String>, splay: Duration) -> Bell {
        Bell { name, filter, splay, state: RefCell::default(), changed: Notify::new() }
    }

    /// There is a connection. What was pushed before it is known to nobody, so there is a poll to make.
    pub(super) fn joined(&self) {
        self.joined_at(Instant::now());
    }

    fn joined_at(&self, now: Instant) {
        let mut state = self.state.borrow_mut();
        state.joined = Some(now);
        state.owed = true;
        self.changed.notify_one();
    }

    /// The same, for whoever does not know whether it was said.
    pub(super) fn joined_once(&self) {
        if self.state.borrow().joined.is_none() {
            self.joined();
        }
    }

    /// There is no connection any more, or still none.
    pub(super) fn lost(&self, why: &str) {
        let mut state = self.state.borrow_mut();
        let text = wire::text(why);
        state.news |= state.word.connected || state.word.text != text;
        state.joined = None;
        state.word.connected = false;
        state.word.text = text;
        self.changed.notify_one();
    }

    /// Something came; `is_hint` says whether it is of the right kind.
    pub(super) fn heard(&self, is_hint: bool, content: &[u8]) {
        tracing::debug!(
            hint = self.name,
            is_hint,
            "heard '{}'",
            wire::text(&String::from_utf8_lossy(content))
        );
        let mut state = self.state.borrow_mut();
        let State { word: HintWord { counts, .. }, owed, .. } = &mut *state;
        let count = match (is_hint && self.wants(content), &*owed) {
            (false, _) => &mut counts.ignored,
            (true, true) => &mut counts.coalesced,
            (true, false) => {
                *owed = true;
                self.changed.notify_one();
                &mut counts.accepted
            }
        };
        *count = count.saturating_add(1);
    }

    /// Something came that is longer or more than anybody needs.
    pub(super) fn too_long(&self) {
        let counts: &mut HintCounts = &mut self.state.borrow_mut().word.counts;
        counts.too_long = counts.too_long.saturating_add(1);
    }

    fn wants(&self, content: &[u8]) -> bool {
        let filter = self.filter.as_deref().unwrap_or_default().as_bytes();
        filter.is_empty() || content.windows(filter.len()).any(|part| part == filter)
    }

    /// Says what is new, and when to poll, until nobody listens.
    pub(super) async fn tell(&self, words: &mpsc::Sender<Word>) {
        loop {
            match self.wakes_at() {
                Some(next) => tokio::select! {
                    () = self.changed.notified() => {}
                    () = sleep_until(next) => {}
                },
                None => self.changed.notified().await,
            }
            if let Some(word) = self.word(Instant::now(), fastrand::u64(..))
                && words.send(word).await.is_err()
            {
                return;
            }
        }
    }

    /// Returns when there is something to do although nothing happens.
    fn wakes_at(&self) -> Option<Instant> {
        let state = self.state.borrow();
        [state.due, state.steady_at()].into_iter().flatten().min()
    }

    /// Returns what there is to say; `random` is uniform over all `u64`.
    fn word(&self, now: Instant, random: u64) -> Option<Word> {
        let mut state = self.state.borrow_mut();
        if state.owed && state.due.is_none() {
            state.due = Some(state.budget.next(now) + part(self.splay, random));
        }
        let poll = state.due.take_if(|due| *due <= now).is_some();
        if poll {
            state.budget.spend(now);
            state.owed = false;
        }
        let connects = state.steady_at().is_some_and(|at| at <= now);
        if connects {
            state.word.connected = true;
            state.word.text.clear();
        }
        let news = std::mem::take(&mut state.news) || connects || poll;
        news.then(|| Word { name: self.name.clone(), poll, word: state.word.clone() })
    }
}

impl State {
    /// Returns when the connection there is counts, if that is still to come.
    fn steady_at(&self) -> Option<Instant> {
        self.joined.filter(|_| !self.word.connected).map(|joined| joined + STEADY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What happens to a bell.
    enum Act {
        Wait(u32),
        Join,
        Lose(&'static str),
        Hear(bool, &'static str),
        TooLong,
    }
    use Act::{Hear, Join, Lose, TooLong, Wait};

    /// Lets `acts` happen; returns for each word after how many seconds it came and what it said.
    fn told(filter: Option<&str>, acts: &[Act]) -> Vec<String> {
        let bell = Bell::new("push".to_owned(), filter.map(str::to_owned), Duration::ZERO);
        told_by(&bell, acts)
    }

    fn told_by(bell: &Bell, acts: &[Act]) -> Vec<String> {
        let began = Instant::now();
        let (mut now, mut lines) = (began, Vec::new());
        let mut turn = |now: Instant| {
            let Some(Word { poll, word, .. }) = bell.word(now, fastrand::u64(..)) else { return };
            let HintCounts { accepted, coalesced, ignored, too_long } = word.counts;
            lines.push(format!(
                "{:.1} {}{}{} {accepted}/{coalesced}/{ignored}/{too_long}",
                (now - began).as_secs_f64(),
                if poll { "poll " } else { "" },
                if word.connected { "connected" } else { "not " },
                word.text,
            ));
        };
        for act in acts {
            match act {
                Wait(seconds) => {
                    let until = now + *seconds * SECOND;
                    while let Some(at) = bell.wakes_at().filter(|at| *at <= until) {
                        turn(at);
                    }
                    now = until;
                }
                Join => bell.joined_at(now),
                Lose(why) => bell.lost(why),
                Hear(is_hint, content) => bell.heard(*is_hint, content.as_bytes()),
                TooLong => bell.too_long(),
            }
            turn(now);
        }
        lines
    }

    /// Rule 3: what was missed while there was no connection is looked for once there is one.
    #[test]
    fn each_connection_leads_to_one_poll_and_counts_when_it_has_lasted() {
        let refused = [Lose("refused"), Wait(1), Lose("refused"), Wait(1)];
        let broke = [Join, Wait(10), Lose("broke"), Wait(1), Join, Wait(1), Lose("broke"), Wait(1)];
        let words = told(None, &refused.into_iter().chain(broke).collect::<Vec<_>>());
        let expected = [
            "0.0 not refused 0/0/0/0",
            "2.0 poll not refused 0/0/0/0",
            "4.0 connected 0/0/0/0",
            "12.0 not broke 0/0/0/0",
            "13.0 poll not broke 0/0/0/0",
        ];
        assert_eq!(words, expected);
    }

    /// Rule 8, and that no hint is lost by it: what comes after a poll leads to another one.
    #[test]
    fn hints_that_come_together_lead_to_one_poll_and_a_later_one_to_another() {
        let hint = || Hear(true, "x");
        let acts = [hint(), Wait(1), hint(), hint(), Wait(1), hint(), Wait(60), hint(), Wait(1)];
        let expected = ["0.0 poll not  1/0/0/0", "5.0 poll not  2/2/0/0", "62.0 poll not  3/2/0/0"];
        assert_eq!(told(None, &acts), expected);
    }

    /// Rule 9: a hint reaches a whole fleet in the same second, and each host takes its time.
    #[test]
    fn polls_are_spread_over_the_splay() {
        let poll_after = |_| -> f64 {
            let bell = Bell::new("push".to_owned(), None, 30 * SECOND);
            let words = told_by(&bell, &[Hear(true, ""), Wait(31)]);
            assert_eq!(words.len(), 1, "{words:?}");
            words[0].split(' ').next().unwrap().parse().unwrap()
        };
        let mut seconds: Vec<f64> = (0..100).map(poll_after).collect();
        seconds.sort_by(f64::total_cmp);
        assert!(seconds[0] < 5.0 && seconds[99] > 25.0 && seconds[99] <= 30.0, "{seconds:?}");
    }

    /// Rules 4 and 5: what is of another kind, or does not hold what the filter asks for, has no poll.
    #[test]
    fn what_is_no_hint_is_counted_and_no_more() {
        let others = [Hear(false, "infra"), Hear(true, "other"), Hear(true, ""), TooLong, Wait(100)];
        let ours = [Hear(true, "pushed to infra.git"), Wait(1)];
        let words = told(Some("infra"), &others.into_iter().chain(ours).collect::<Vec<_>>());
        assert_eq!(words, ["100.0 poll not  1/0/3/1"]);
    }

    #[test]
    fn nothing_but_a_bounded_text_without_control_characters_is_said() {
        let bell = Bell::new("push".to_owned(), None, Duration::ZERO);
        bell.lost(&"\u{1b}[31m".repeat(1000));
        let words = told_by(&bell, &[Wait(1)]);
        assert!(words[0].len() < wire::TEXT_BYTES_MAX + 20 && !words[0].contains('\u{1b}'), "{words:?}");
    }
}
