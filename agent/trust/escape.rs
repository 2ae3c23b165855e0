//! Bytes written by strangers, made fit for a terminal and a log line.

/// How many characters an escaped text has at most.
pub(super) const TEXT_CHARS_MAX: usize = 200;

/// Returns `bytes` as one line of at most [`TEXT_CHARS_MAX`] characters. What is not UTF-8 becomes U+FFFD;
/// control characters, and those that reorder or hide text, are written as escapes.
pub(super) fn line(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut chars = 0;
    // A character is at most four bytes and becomes at least one, so this much input is enough.
    let head = &bytes[..bytes.len().min(4 * TEXT_CHARS_MAX)];
    for c in String::from_utf8_lossy(head).chars() {
        let shown = if harmful(c) { c.escape_default().to_string() } else { c.to_string() };
        chars += shown.chars().count();
        if chars > TEXT_CHARS_MAX {
            break;
        }
        out.push_str(&shown);
    }
    out
}

/// Control characters, and the invisible or reordering ones of Unicode's bidirectional algorithm.
fn harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_becomes_one_harmless_line() {
        let check = |raw: &[u8], shown: &str| assert_eq!(line(raw), shown);
        check(b"Fix the door", "Fix the door");
        check("Größe ✓".as_bytes(), "Größe ✓");
        check(b"a\x1b[2Jb\r\n", "a\\u{1b}[2Jb\\r\\n");
        check("a\u{202e}b".as_bytes(), "a\\u{202e}b");
        check(b"a\xffb", "a\u{fffd}b");
        assert_eq!(line(&[b'x'; 5000]).chars().count(), TEXT_CHARS_MAX);
        assert!(line(&[7; 5000]).chars().count() <= TEXT_CHARS_MAX);
    }
}
