//! Owns what is read of systemd-boot's `loader/loader.conf`. Pure: the file's text in, what it says out.

use super::lines;

/// What a menu does that nobody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Menu {
    /// It is not shown, or goes on by itself after some time.
    #[default]
    GoesOn,
    /// It waits for a person.
    Waits,
}

/// What of `loader.conf` decides about the next boot.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LoaderConf {
    /// The pattern of `default`.
    pub default: Option<String>,
    /// The pattern of `preferred`, which loaders before 260 ignore.
    pub preferred: Option<String>,
    /// What `timeout` asks for.
    pub menu: Menu,
}

impl LoaderConf {
    /// Reads the text of the file. As in the loader, the last of several lines counts, unknown keys and unusable values
    /// are passed over (systemd: `config_defaults_load_from_file` in src/boot/boot.c).
    pub fn parse(text: &str) -> LoaderConf {
        let mut conf = LoaderConf::default();
        for (key, value) in lines::pairs(text, &[' ', '\t']) {
            match key {
                // Of all that could begin with `@`, only this means something.
                "default" | "preferred"
                    if value.starts_with('@') && !value.eq_ignore_ascii_case("@saved") => {}
                "default" => conf.default = Some(value.to_owned()),
                "preferred" => conf.preferred = Some(value.to_owned()),
                "timeout" => conf.menu = menu(value).unwrap_or(conf.menu),
                _ => {}
            }
        }
        conf
    }
}

/// Returns what a timeout asks for, of the file or of an EFI variable; `None` if the loader takes no notice of it.
pub fn menu(timeout: &str) -> Option<Menu> {
    match timeout {
        "menu-force" => Some(Menu::Waits),
        "menu-hidden" | "menu-disabled" => Some(Menu::GoesOn),
        number => match number.parse::<u64>().ok()? {
            // `bootctl` sets the number in place of the word (systemd: TIMEOUT_MENU_FORCE in src/boot/boot.c).
            seconds if seconds == u64::from(u32::MAX) => Some(Menu::Waits),
            seconds if seconds < u64::from(u32::MAX) => Some(Menu::GoesOn),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nixos_writes_is_read() {
        let conf =
            LoaderConf::parse("timeout 5\ndefault nixos-generation-7.conf\neditor 0\nconsole-mode keep\n");
        assert_eq!(conf.default.as_deref(), Some("nixos-generation-7.conf"));
        assert_eq!((conf.preferred, conf.menu), (None, Menu::GoesOn));
        let conf = LoaderConf::parse("preferred nixos-7.conf\ndefault nixos-*\ntimeout menu-force");
        assert_eq!(conf.preferred.as_deref(), Some("nixos-7.conf"));
        assert_eq!((conf.default.as_deref(), conf.menu), (Some("nixos-*"), Menu::Waits));
    }

    #[test]
    fn the_last_usable_line_counts() {
        let table = [
            ("default a\ndefault b", Some("b")),
            ("default a\ndefault @other", Some("a")),
            ("default @SAVED", Some("@SAVED")),
            ("Default a", None),
            ("default", None),
            ("default \"a b\"", Some("a b")),
        ];
        for (text, expected) in table {
            assert_eq!(LoaderConf::parse(text).default.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn timeouts_say_whether_somebody_is_waited_for() {
        for (timeout, expected) in [
            ("0", Some(Menu::GoesOn)),
            ("5", Some(Menu::GoesOn)),
            ("menu-hidden", Some(Menu::GoesOn)),
            ("menu-disabled", Some(Menu::GoesOn)),
            ("menu-force", Some(Menu::Waits)),
            ("4294967295", Some(Menu::Waits)),
            ("4294967296", None),
            ("soon", None),
        ] {
            assert_eq!(menu(timeout), expected, "{timeout}");
        }
        assert_eq!(LoaderConf::parse("timeout menu-force\ntimeout soon").menu, Menu::Waits);
    }
}
