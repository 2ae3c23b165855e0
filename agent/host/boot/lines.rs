//! Owns how systemd-boot reads the lines of its text files. Pure.

/// Returns the keys and values of `content` as `line_get_key_value` does (systemd: src/boot/efi-string.c): a line that
/// begins with `#` or has no separator after its key is no pair; a value may stand in quotes; a NUL ends it all.
pub fn pairs<'a>(content: &'a str, separators: &'static [char]) -> impl Iterator<Item = (&'a str, &'a str)> {
    let content = content.split('\0').next().unwrap_or_default();
    content.split(['\n', '\r']).filter_map(move |line| pair(line, separators))
}

fn pair<'a>(line: &'a str, separators: &[char]) -> Option<(&'a str, &'a str)> {
    let line = line.trim_matches([' ', '\t']);
    if line.starts_with('#') {
        return None;
    }
    let (key, value) = line.split_at(line.find(separators)?);
    let value = value.trim_start_matches(separators);
    Some((key, unquoted(value)))
}

fn unquoted(value: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote)
            && value.ends_with(quote)
        {
            return rest.strip_suffix(quote).unwrap_or(rest);
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_the_loader_reads_them() {
        let read = |text| pairs(text, &[' ', '\t']).collect::<Vec<_>>();
        assert_eq!(read("default  nixos-* \r\ntimeout\t5\n"), [("default", "nixos-*"), ("timeout", "5")]);
        assert_eq!(read(" # default a\n#timeout 5\nalone\n\ndefault"), []);
        assert_eq!(
            read("title \"a b\"\ntitle 'c\nversion \""),
            [("title", "a b"), ("title", "'c"), ("version", "")]
        );
        assert_eq!(read("a b\0c d"), [("a", "b")]);
        assert_eq!(pairs("ID=nixos\nNAME=\"Nix OS\"", &['=']).count(), 2);
    }
}
