//! How the demo tells what it does: plain words on standard output, times beside them. Decides nothing.

use std::io::Write;

use anstyle::{AnsiColor, Style};
use tokio::time::Instant;

use crate::model::Oid;
use crate::report::{Headline, Status};

const STRONG: Style = Style::new().bold();
const FAINT: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();

/// Tells the story, or keeps it to itself.
#[derive(Debug)]
pub struct Narrator {
    aloud: bool,
    steps: u32,
    since: Instant,
    seen: Vec<Headline>,
}

impl Narrator {
    /// Returns one that speaks, or one that keeps everything to itself.
    pub fn new(aloud: bool) -> Narrator {
        Narrator { aloud, steps: 0, since: Instant::now(), seen: Vec::new() }
    }

    /// Returns how many steps have begun.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// Begins a step.
    pub fn step(&mut self, title: &str) {
        self.steps += 1;
        self.restart();
        self.say(&format!("\n{STRONG}{} {title}{STRONG:#}", self.steps));
    }

    /// Says what was pushed.
    pub fn pushed(&mut self, tip: &Oid, subject: &str, seal: &str) {
        self.restart();
        self.line("pushed", &format!("{}  \"{subject}\"  {seal}", tip.short()));
    }

    /// Says what should happen now.
    pub fn expect(&self, what: &str) {
        self.line("expected", what);
    }

    /// Remembers what the agent says of itself on the way.
    pub fn saw(&mut self, status: &Status) {
        if self.seen.last() != Some(&status.state) {
            self.seen.push(status.state);
        }
    }

    /// Says what did happen, by which way and how long it took.
    pub fn happened(&mut self, what: &str) {
        let way: Vec<&str> = self.seen.iter().map(|headline| headline.word()).collect();
        if way.len() > 1 {
            self.line("seen", &format!("{FAINT}{}{FAINT:#}", way.join(" → ")));
        }
        let secs = self.since.elapsed().as_secs_f32();
        self.line("happened", &format!("{GOOD}✔{GOOD:#} {what}  {FAINT}{secs:.1} s{FAINT:#}"));
        self.restart();
    }

    /// Says something on the side.
    pub fn note(&self, what: &str) {
        self.line("", what);
    }

    /// Says a line under a label.
    pub fn line(&self, label: &str, text: &str) {
        self.say(&format!("  {FAINT}{label:<9}{FAINT:#} {text}"));
    }

    /// Says something as it is.
    pub fn say(&self, text: &str) {
        if self.aloud {
            // The show goes on although nobody listens any more, as after `| head`.
            writeln!(anstream::stdout(), "{text}").ok();
        }
    }

    fn restart(&mut self) {
        self.since = Instant::now();
        self.seen.clear();
    }
}
