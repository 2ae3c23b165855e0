//! Owns the order in which systemd-boot lists its entries. Pure.
//!
//! Follows `boot_entry_compare` and `strverscmp_improved` (systemd: src/boot/boot.c and
//! src/fundamental/string-util-fundamental.c), which are the same in 252 and 257.

use std::cmp::Ordering;

use super::entry::{Entry, Tries};

/// Compares two entries whose ids are `a_id` and `b_id`: what comes first is less. `Equal` means that the order in
/// which the firmware reads the directory decides.
pub fn compare((a, a_id): (&Entry, &str), (b, b_id): (&Entry, &str)) -> Ordering {
    is_bad(a)
        .cmp(&is_bad(b))
        // Those with a sort key come first.
        .then_with(|| a.sort_key.is_none().cmp(&b.sort_key.is_none()))
        .then_with(|| if a.sort_key.is_some() { by_sort_key(a, b) } else { Ordering::Equal })
        .then_with(|| compare_versions(b_id, a_id))
        .then_with(|| match (a.tries, b.tries) {
            (Some(a), Some(b)) => by_tries(a, b),
            _ => Ordering::Equal,
        })
}

fn is_bad(entry: &Entry) -> bool {
    entry.tries.is_some_and(|tries| tries.left == 0)
}

fn by_sort_key(a: &Entry, b: &Entry) -> Ordering {
    compare_units(a.sort_key.as_deref(), b.sort_key.as_deref())
        .then_with(|| compare_units(a.machine_id.as_deref(), b.machine_id.as_deref()))
        .then_with(|| {
            compare_versions(b.version.as_deref().unwrap_or(""), a.version.as_deref().unwrap_or(""))
        })
}

/// More tries left come first, then fewer tries done.
fn by_tries(a: Tries, b: Tries) -> Ordering {
    b.left.cmp(&a.left).then_with(|| a.done.cmp(&b.done))
}

/// The firmware's strings are UTF-16; what isn't there comes before what is.
fn compare_units(a: Option<&str>, b: Option<&str>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => a.encode_utf16().cmp(b.encode_utf16()),
        _ => a.is_some().cmp(&b.is_some()),
    }
}

/// Compares two versions: what is newer is greater.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        a = skip(a, |c| !is_version(c));
        b = skip(b, |c| !is_version(c));
        // A pre-release is older than whatever does not begin so, the end included.
        if let Some(order) = separator(b'~', &mut a, &mut b) {
            return order;
        }
        match (a.first(), b.first()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(_), Some(_)) => {}
        }
        for mark in *b"-^." {
            if let Some(order) = separator(mark, &mut a, &mut b) {
                return order;
            }
        }
        let digits = starts_with_digit(a) || starts_with_digit(b);
        let belongs = if digits { |c: u8| c.is_ascii_digit() } else { |c: u8| c.is_ascii_alphabetic() };
        let (a_rest, b_rest) = (skip(a, belongs), skip(b, belongs));
        let (a_piece, b_piece) = (&a[..a.len() - a_rest.len()], &b[..b.len() - b_rest.len()]);
        let order = if digits { compare_numbers(a_piece, b_piece) } else { a_piece.cmp(b_piece) };
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (a_rest, b_rest);
    }
}

/// What begins with `mark` is older than what doesn't; if both do, it is passed over.
fn separator(mark: u8, a: &mut &[u8], b: &mut &[u8]) -> Option<Ordering> {
    let (in_a, in_b) = (a.first() == Some(&mark), b.first() == Some(&mark));
    if in_a != in_b {
        return Some(if in_a { Ordering::Less } else { Ordering::Greater });
    }
    if in_a {
        (*a, *b) = (&a[1..], &b[1..]);
    }
    None
}

/// Numbers of any length; a missing one is older than any.
fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let (a_value, b_value) = (skip(a, |c| c == b'0'), skip(b, |c| c == b'0'));
    (a.is_empty().cmp(&b.is_empty()).reverse())
        .then_with(|| a_value.len().cmp(&b_value.len()))
        .then_with(|| a_value.cmp(b_value))
}

fn skip(text: &[u8], while_true: impl Fn(u8) -> bool) -> &[u8] {
    let length = text.iter().take_while(|c| while_true(**c)).count();
    &text[length..]
}

fn is_version(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"~-^.".contains(&c)
}

fn starts_with_digit(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The list is the one in systemd's own comment on the function, oldest first.
    #[test]
    fn versions_are_ordered_as_systemd_says() {
        let oldest_first = [
            "122.1",
            "123~rc1-1",
            "123",
            "123-a",
            "123-a.1",
            "123-1",
            "123-1.1",
            "123^post1",
            "123.a-1",
            "123.1-1",
            "123a-1",
            "124-1",
        ];
        for (n, a) in oldest_first.iter().enumerate() {
            for (m, b) in oldest_first.iter().enumerate() {
                assert_eq!(compare_versions(a, b), n.cmp(&m), "'{a}' and '{b}'");
            }
        }
        for (a, b) in [("123_a", "123a"), ("00123", "123"), ("", ""), ("_", ""), ("a_b", "ab_")] {
            assert_eq!(compare_versions(a, b), if a == "a_b" { Ordering::Less } else { Ordering::Equal });
        }
        assert_eq!(
            compare_versions("nixos-generation-10.conf", "nixos-generation-9.conf"),
            Ordering::Greater
        );
    }

    proptest::proptest! {
        #[test]
        fn versions_have_one_order(a in "[a0-2~^.+-]{0,6}", b in "[a0-2~^.+-]{0,6}", c in "[a0-2~^.+-]{0,6}") {
            proptest::prop_assert_eq!(compare_versions(&a, &b), compare_versions(&b, &a).reverse());
            let mut sorted = [&a, &b, &c];
            sorted.sort_by(|x, y| compare_versions(x, y));
            proptest::prop_assert_ne!(compare_versions(sorted[0], sorted[2]), Ordering::Greater);
        }
    }
}
