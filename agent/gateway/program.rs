//! Hints from a program: each line that it prints is one, whatever it says. The program has the gateway's rights, which
//! are none but its credentials, and ends with it.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bell::Bell;
use super::hint::End;
use super::pace::Meter;
use super::sse::LINE_BYTES_MAX;
use crate::host;
use crate::host::command::{Command, CommandError};

/// A program that lived so long has started well.
const STARTED: Duration = Duration::from_secs(2);
/// A program is ended and started afresh after so long.
const LIVES_MAX: Duration = Duration::from_secs(24 * 3600);
/// What each line costs beside its bytes.
const LINE_COST: usize = 32;

/// Runs `command` until it ends, which it should not.
pub(super) async fn follow(command: &[String], bell: &Bell) -> End {
    let Some((program, args)) = command.split_first() else { return End::failed("it has no command") };
    let mut lines = Lines::new();
    let heard = |piece: &[u8]| {
        lines.feed(piece, |line| {
            bell.joined_once();
            bell.heard(true, line);
        })
    };
    let running = Command::new(program).args(args).time_limit(LIVES_MAX).run_heard(heard);
    let started = async {
        sleep(STARTED).await;
        bell.joined_once();
        std::future::pending::<Infallible>().await
    };
    let ended = tokio::select! {
        ended = running => ended,
        never = started => match never {},
    };
    match ended {
        Ok(()) => End::failed(format!("'{program}' ended")),
        Err(CommandError::TimedOut { .. }) => {
            End::failed(format!("'{program}' is started afresh once a day"))
        }
        Err(CommandError::TooMuchOutput { .. }) => {
            End::bound(format!("'{program}' printed {}", lines.offence))
        }
        Err(error) => End::failed(host::chain(&error)),
    }
}

/// Takes what a program prints apart, within bounds.
#[derive(Debug)]
struct Lines {
    line: Vec<u8>,
    meter: Meter,
    /// What it printed that is too much.
    offence: &'static str,
}

impl Lines {
    fn new() -> Lines {
        Lines { line: Vec::new(), meter: Meter::new(Instant::now()), offence: "" }
    }

    /// Hands on each line that `piece` ends. Returns whether all is within bounds.
    fn feed(&mut self, piece: &[u8], mut take: impl FnMut(&[u8])) -> bool {
        let mut rest = piece;
        let mut cost = piece.len();
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            if !self.keep(&rest[..end]) {
                return false;
            }
            take(&self.line);
            self.line.clear();
            rest = &rest[end + 1..];
            cost += LINE_COST;
        }
        if !self.keep(rest) {
            return false;
        }
        let within = self.meter.count(cost, Instant::now());
        if !within {
            self.offence = "more than anybody needs";
        }
        within
    }

    fn keep(&mut self, part: &[u8]) -> bool {
        let fits = self.line.len() + part.len() <= LINE_BYTES_MAX;
        if fits {
            self.line.extend_from_slice(part);
        } else {
            self.offence = "a line that is too long";
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the lines, and what was too much.
    fn lines<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Vec<u8>>, &'static str) {
        let (mut lines, mut taken) = (Lines::new(), Vec::new());
        for piece in pieces {
            if !lines.feed(piece, |line| taken.push(line.to_vec())) {
                break;
            }
        }
        (taken, lines.offence)
    }

    #[test]
    fn lines_are_told_however_they_come() {
        assert_eq!(lines([&b"a\n\nb"[..], b"c\nd"]), (vec![b"a".to_vec(), b"".to_vec(), b"bc".to_vec()], ""));
    }

    #[test]
    fn too_much_is_noticed() {
        let long = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(lines([&long[..], b"\n"]), (vec![long.clone()], ""));
        assert_eq!(lines([&long[..], b"x\n"]), (vec![], "a line that is too long"));
        assert_eq!(lines([&b"\n".repeat(1 << 20)[..]]).1, "more than anybody needs");
    }
}
