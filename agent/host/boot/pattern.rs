//! Owns how systemd-boot matches an entry's id with a pattern. Pure.
//!
//! Follows `efi_fnmatch` (systemd: src/boot/efi-string.c, the same in 252 and 257), which differs from fnmatch(3): it
//! knows no negated sets, no character classes, and ranges cannot be chained.

/// What may stand for something other than itself in a pattern.
const SPECIAL: [char; 4] = ['*', '?', '[', '\\'];

/// Says whether `pattern` matches all of `text`. Both are folded to lower case by whoever calls, as far as the loader does.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let Some(Prefix { mut pattern, mut text }) = (match prefix(&pattern, &text) {
        Outcome::All => return true,
        Outcome::Differs => return false,
        Outcome::Star(rest) => Some(rest),
    }) else {
        return false;
    };
    // What follows a star is looked for further and further on; only the last piece has to reach the end.
    loop {
        match prefix(pattern, text) {
            Outcome::All => return true,
            Outcome::Star(rest) => Prefix { pattern, text } = rest,
            Outcome::Differs if text.is_empty() => return false,
            Outcome::Differs => text = &text[1..],
        }
    }
}

/// Returns a pattern that matches `text` and nothing else.
pub fn literal(text: &str) -> String {
    let escaped = |c: char| SPECIAL.contains(&c).then_some('\\').into_iter().chain([c]);
    text.chars().flat_map(escaped).collect()
}

/// Says whether `pattern` matches nothing but itself.
pub fn is_literal(pattern: &str) -> bool {
    !pattern.contains(SPECIAL)
}

/// What is left of both after a star.
struct Prefix<'a> {
    pattern: &'a [char],
    text: &'a [char],
}

enum Outcome<'a> {
    All,
    Differs,
    Star(Prefix<'a>),
}

/// Compares up to the first star.
fn prefix<'a>(mut pattern: &'a [char], mut text: &'a [char]) -> Outcome<'a> {
    loop {
        let matched = match (pattern, text) {
            ([], []) => return Outcome::All,
            ([], _) => return Outcome::Differs,
            (['*', ..], _) => {
                let stars = pattern.iter().take_while(|c| **c == '*').count();
                return Outcome::Star(Prefix { pattern: &pattern[stars..], text });
            }
            (['\\', p, ..], [t, ..]) => (p == t).then_some(2),
            (['?', ..], [_, ..]) => Some(1),
            (['[', set @ ..], [t, ..]) => in_set(set, *t).map(|length| length + 1),
            ([p, ..], [t, ..]) => (*p != '\\' && p == t).then_some(1),
            (_, []) => None,
        };
        let Some(length) = matched else { return Outcome::Differs };
        (pattern, text) = (&pattern[length..], &text[1..]);
    }
}

/// Returns how long the set is that begins after a bracket, its closing bracket included, if it has `wanted` in it.
fn in_set(set: &[char], wanted: char) -> Option<usize> {
    let (mut at, mut can_range, mut found) = (0, true, false);
    loop {
        let c = *set.get(at)?;
        if c == '\\' {
            at += 1;
            found |= *set.get(at)? == wanted;
            can_range = true;
        } else if c == ']' && at > 0 {
            return found.then_some(at + 1);
        } else if c == '-' && can_range && at > 0 && set.get(at + 1) != Some(&']') {
            let low = set[at - 1];
            at += 1;
            at += usize::from(*set.get(at)? == '\\');
            found |= low <= wanted && wanted <= *set.get(at)?;
            can_range = false;
        } else {
            found |= c == wanted;
            can_range = true;
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_the_loader_s_do() {
        let table = [
            ("", "", true),
            ("", "a", false),
            ("a.conf", "a.conf", true),
            ("a.conf", "a.conf2", false),
            ("nixos-*", "nixos-generation-1.conf", true),
            ("nixos-*", "nixo", false),
            ("*", "", true),
            ("**x", "aax", true),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2b3", false),
            ("?", "", false),
            ("a?c", "abc", true),
            ("nixos-generation-2[+.]*", "nixos-generation-2+3.conf", true),
            ("nixos-generation-2[+.]*", "nixos-generation-2.conf", true),
            ("nixos-generation-2[+.]*", "nixos-generation-23.conf", false),
            ("[a-c]", "b", true),
            ("[a-c]", "d", false),
            ("[a-c-f]", "e", false),
            ("[a-c-f]", "-", true),
            ("[]]", "]", true),
            ("[]", "]", false),
            ("[-a]", "-", true),
            ("[a-]", "-", true),
            ("[!a]", "b", false),
            ("[!a]", "!", true),
            ("[\\]]", "]", true),
            ("[a", "a", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\", "a\\", false),
            ("*\\", "a", false),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(matches(pattern, text), expected, "'{pattern}' and '{text}'");
        }
    }

    #[test]
    fn a_long_pattern_takes_no_long_time() {
        let (pattern, text) = (format!("{}b", "a*".repeat(500)), "a".repeat(5000));
        assert!(!matches(&pattern, &text));
    }

    proptest::proptest! {
        #[test]
        fn a_literal_matches_itself_only(text in "[a-c*?\\[\\]\\\\+.-]{0,8}", other in "[a-c*?\\[\\]\\\\+.-]{0,8}") {
            proptest::prop_assert!(matches(&literal(&text), &text));
            proptest::prop_assert_eq!(matches(&literal(&text), &other), text == other);
        }
    }
}
