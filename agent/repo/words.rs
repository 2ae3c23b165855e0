//! What a server says, as packet lines and as failures: its lines checked, its refusals quoted, a pack copied out of its
//! side bands. It knows no version of the protocol and no transport.

use std::cell::RefCell;
use std::error::Error as StdError;
use std::io::{BufRead as _, Write};
use std::ops::ControlFlow;

use gix_transport::packetline;
use packetline::PacketLineRef;

use super::net::{Class, Failure, causes};
use super::talk::Lines;
use crate::model::Oid;

/// The most lines between the request for a pack and the pack. A server that was told `done` has little to say
/// there, and millions of forged lines would cost memory.
pub(super) const HEAD_LINES_MAX: usize = 128;
/// How much of a server's own words is passed on, in characters.
pub(super) const WORDS_CHARS_MAX: usize = 160;

/// One thing that a server said.
pub(super) enum Said {
    Line(String),
    /// The end of a section or of all.
    End(PacketLineRef<'static>),
}

/// Reads the next line, without what ends it. One that refuses is an error.
pub(super) fn next(lines: &mut Lines) -> Result<Said, Failure> {
    if let Some(line) = lines.read_line() {
        let line = line.map_err(protocol)?.map_err(protocol)?;
        return text(line).map(Said::Line);
    }
    match lines.stopped_at() {
        Some(end) => Ok(Said::End(end)),
        None => Err(Failure::new(Class::Protocol, "the answer is not finished")),
    }
}

/// Returns the text of a line. No other kind of packet belongs where it is asked for.
pub(super) fn text(line: PacketLineRef<'_>) -> Result<String, Failure> {
    let bytes = line.as_slice().ok_or_else(|| unexpected(""))?;
    let line = String::from_utf8_lossy(bytes);
    let line = line.strip_suffix('\n').unwrap_or(&line);
    refusal(line)?;
    Ok(line.to_owned())
}

/// Returns how many digits the ids of an object format have.
pub(super) fn hex_digits(object_format: Option<&str>) -> usize {
    if object_format == Some("sha256") { 64 } else { 40 }
}

/// Parses an id of a server, in its object format.
pub(super) fn id(id: &str, digits: usize) -> Option<Oid> {
    id.parse().ok().filter(|oid: &Oid| oid.as_str().len() == digits)
}

/// Copies the pack out of its side bands until the server is done.
pub(super) fn copy(lines: &mut Lines, out: &mut impl Write, max: u64) -> Result<u64, Failure> {
    let words = RefCell::new(String::new());
    // A server that fails says so on a band of its own; gitoxide would skip that and go on.
    let mut bands = lines.as_read_with_sidebands(|fatal, text| {
        if !fatal {
            return ControlFlow::Continue(());
        }
        *words.borrow_mut() = String::from_utf8_lossy(text).into_owned();
        ControlFlow::Break(())
    });
    let quoted = |e| match words.borrow().as_str() {
        "" => protocol(e),
        words => says(words),
    };
    let mut total = 0;
    loop {
        let buffer = bands.fill_buf().map_err(quoted)?;
        let n = buffer.len();
        if n == 0 {
            break;
        }
        total += n as u64;
        if total > max {
            return Err(Failure::new(Class::Limit, format!("the pack is larger than {max} bytes")));
        }
        let unread = |e| Failure::new(Class::Cancelled, format!("the pack cannot be passed on: {e}"));
        out.write_all(buffer).map_err(unread)?;
        bands.consume(n);
    }
    // A connection that just ends is an error above; only a flush packet says that the server was done.
    match bands.stopped_at() {
        Some(PacketLineRef::Flush) => Ok(total),
        _ => Err(Failure::new(Class::Protocol, "the pack is not finished")),
    }
}

/// A server refuses by a line of its own in place of any other.
fn refusal(line: &str) -> Result<(), Failure> {
    match line.strip_prefix("ERR ") {
        Some(words) => Err(says(words)),
        None => Ok(()),
    }
}

pub(super) fn says(words: &str) -> Failure {
    Failure::new(Class::Refused, format!("the server says '{}'", shown(words)))
}

pub(super) fn unexpected(line: &str) -> Failure {
    Failure::new(Class::Protocol, format!("the server sent an unexpected line '{}'", shown(line)))
}

/// Makes a server's words fit to be shown.
pub(super) fn shown(words: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    words.trim().chars().take(WORDS_CHARS_MAX).map(printable).collect()
}

/// What library code reports, in one line, when nothing of ours failed before.
pub(super) fn protocol(error: impl StdError + 'static) -> Failure {
    if let Some(refused) = causes(&error).find_map(|e| e.downcast_ref::<packetline::read::Error>()) {
        return says(&refused.message.to_string());
    }
    let mut text = String::from("the server's answer is not understood");
    for cause in causes(&error).map(|e| shown(&e.to_string())) {
        // Some errors repeat their causes.
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    Failure::new(Class::Protocol, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_speaks_in_one_short_line() {
        assert_eq!(shown("a\r\n\u{1b}[31mb\n"), "a   [31mb");
        assert_eq!(shown(&"x".repeat(1000)).len(), WORDS_CHARS_MAX);
    }

    #[test]
    fn ids_are_of_one_format() {
        let sha1 = "0123456789abcdef0123456789abcdef01234567";
        assert!(id(sha1, 40).is_some());
        for (text, digits) in [(sha1, 64), (&sha1[1..], 40), ("", 40), (&sha1.to_uppercase(), 40)] {
            assert_eq!(id(text, digits), None, "{text}");
        }
    }
}
