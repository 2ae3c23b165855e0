//! Owns what becomes of a program's messages: bounded, and fit for people's eyes.

/// The end of a stream of bytes, at most so many of them.
#[derive(Debug)]
pub(super) struct Tail {
    bytes: Vec<u8>,
    max: usize,
}

impl Tail {
    /// Makes an empty tail that keeps the last `max` bytes.
    pub(super) fn new(max: usize) -> Tail {
        Tail { bytes: Vec::new(), max }
    }

    /// Adds `piece` at the end.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
        // Cut when it has doubled, so that a chatty program costs no quadratic copying.
        if self.bytes.len() > 2 * self.max {
            self.bytes.drain(..self.bytes.len() - self.max);
        }
    }

    /// Returns the end, made printable.
    pub(super) fn into_text(self) -> String {
        printable(&self.bytes[self.bytes.len().saturating_sub(self.max)..])
    }
}

/// Returns the last line of `text` that says something, as the end of a message; empty if none does.
pub(super) fn last_line(text: &str) -> String {
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty());
    line.map(|line| format!(": {line}")).unwrap_or_default()
}

/// Returns `bytes` as text without terminal escapes and control characters: it ends up before people's eyes.
pub fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' && chars.next_if_eq(&'[').is_some() {
            // A control sequence: parameters, then one final character from '@' to '~'.
            for next in chars.by_ref() {
                if ('@'..='~').contains(&next) {
                    break;
                }
            }
        } else if c == '\n' || c == '\t' || !c.is_control() {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_for_people_has_no_escapes() {
        assert_eq!(
            printable(b"\x1b[31;1merror:\x1b[0m no\r\n\tx\x07\x1b]0;title\x07"),
            "error: no\n\tx]0;title"
        );
        assert_eq!(printable(b"\xff\x1b["), "\u{fffd}");
    }

    #[test]
    fn a_tail_keeps_the_end_and_no_more() {
        let mut tail = Tail::new(100);
        for n in 0..100_000u32 {
            tail.push(format!("{n}\n").as_bytes());
            assert!(tail.bytes.len() <= 200);
        }
        let text = tail.into_text();
        assert!(text.ends_with("99998\n99999\n") && text.len() == 100, "{text}");
    }

    #[test]
    fn the_last_line_is_the_message() {
        assert_eq!(last_line("a\nno such file\n\n"), ": no such file");
        assert_eq!(last_line("\n"), "");
    }
}
