//! Owns which rules a systemd-boot of a version follows. Pure. Where it is not known which, all that it may be.

use std::fmt;
use std::str::FromStr;

/// The oldest version whose rules are known.
const OLDEST: u32 = 252;
/// Reads `LoaderEntrySysFail` (systemd: src/boot/sysfail.c came with it).
const SYSFAIL_SINCE: u32 = 258;
/// Reads `preferred` and `LoaderEntryPreferred` (systemd: pull request 40324).
const PREFERRED_SINCE: u32 = 260;

/// The version of a systemd-boot, as it says it in `LoaderInfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Such as 257.
    pub major: u32,
    /// The stable release, such as 13; 0 for the first.
    pub minor: u32,
}

/// Says why a version cannot be worked with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// The loader calls itself something else.
    #[error("the boot loader calls itself '{0}', not systemd-boot")]
    Other(String),
    /// Its rules are not known.
    #[error("systemd-boot {0} is older than {OLDEST}, so how it chooses is not known")]
    TooOld(Version),
}

/// How a loader chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Whether the counter of an entry is left out of its id.
    pub strips_counter: bool,
    /// Whether what is left is folded to lower case as other ids are.
    pub folds_stripped: bool,
    /// Whether it reads `LoaderEntrySysFail`.
    pub sysfail: bool,
    /// Whether it reads `preferred`.
    pub preferred: bool,
}

impl Version {
    /// Returns the rules that this version may follow; at least one.
    ///
    /// The counter became no part of the id with systemd's pull request 38897 of September 2025, which went into stable
    /// releases too: 252.39 and 257.7 keep it (source; issue 38813), 257.13 and 258.3 do not (source; issue 40192).
    /// In 257.13 a stripped id keeps its capitals, later it does not (source).
    ///
    /// # Errors
    /// The version is older than the rules are known for.
    pub fn rules(self) -> Result<Vec<Rules>, VersionError> {
        let stripping = match (self.major, self.minor) {
            (..OLDEST, _) => return Err(VersionError::TooOld(self)),
            (OLDEST, _) | (257, 1..=7) => &[false][..],
            (257, 13..) | (258, 3..) | (259.., _) => &[true],
            // Between those, or a stable release that its number does not tell.
            _ => &[false, true],
        };
        let (sysfail, preferred) = (self.major >= SYSFAIL_SINCE, self.major >= PREFERRED_SINCE);
        let rules = |strips_counter: bool, folds_stripped| Rules {
            strips_counter,
            folds_stripped,
            sysfail,
            preferred,
        };
        Ok(stripping.iter().flat_map(|strips| [rules(*strips, true), rules(*strips, false)]).collect())
    }
}

impl FromStr for Version {
    type Err = VersionError;

    /// Reads the value of `LoaderInfo`: "systemd-boot 257.13-1~deb13u1", "systemd-boot 258~rc1".
    fn from_str(info: &str) -> Result<Version, VersionError> {
        let other = || VersionError::Other(info.chars().take(80).collect());
        let mut rest = info.strip_prefix("systemd-boot ").ok_or_else(other)?;
        let mut number = || {
            let length = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (digits, after) = rest.split_at(length);
            rest = after.strip_prefix('.').unwrap_or("");
            digits.parse().ok()
        };
        let major = number().ok_or_else(other)?;
        Ok(Version { major, minor: number().unwrap_or(0) })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.minor {
            0 => write!(f, "{}", self.major),
            minor => write!(f, "{}.{minor}", self.major),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_loaders_write_them() {
        let table = [
            ("systemd-boot 252.39-1~deb12u2", Ok((252, 39))),
            ("systemd-boot 257.13-1~deb13u1", Ok((257, 13))),
            ("systemd-boot 258~rc1-1", Ok((258, 0))),
            ("systemd-boot 260", Ok((260, 0))),
            ("systemd-boot v260", Err(())),
            ("systemd-boot ", Err(())),
            ("rEFInd 0.14", Err(())),
        ];
        for (info, expected) in table {
            let found = info.parse::<Version>().map(|v| (v.major, v.minor)).map_err(drop);
            assert_eq!(found, expected, "{info}");
        }
        assert_eq!(Version { major: 257, minor: 13 }.to_string(), "257.13");
    }

    #[test]
    fn versions_have_the_rules_that_their_sources_say() {
        let rules = |major, minor| Version { major, minor }.rules().unwrap();
        let strips = |major, minor| {
            let all: Vec<bool> = rules(major, minor).iter().map(|r| r.strips_counter).collect();
            (all.contains(&false), all.contains(&true))
        };
        assert_eq!(strips(252, 39), (true, false));
        assert_eq!(strips(257, 7), (true, false));
        for unknown in [(255, 4), (257, 0), (257, 9), (258, 0)] {
            assert_eq!(strips(unknown.0, unknown.1), (true, true), "{unknown:?}");
        }
        for stripping in [(257, 13), (258, 3), (259, 0), (262, 1)] {
            assert_eq!(strips(stripping.0, stripping.1), (false, true), "{stripping:?}");
        }
        assert!(rules(260, 0)[0].preferred && !rules(259, 5)[0].preferred);
        assert!(rules(258, 0)[0].sysfail && !rules(257, 13)[0].sysfail);
        assert!(matches!(Version { major: 251, minor: 4 }.rules(), Err(VersionError::TooOld(_))));
    }
}
