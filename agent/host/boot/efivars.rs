//! Owns what systemd-boot and the system tell each other by EFI variables, and reads them from efivarfs. Writes none:
//! that is `bootctl`'s business (see [`bootctl`](super::bootctl)).
//!
//! Meanings: systemd, docs/BOOT_LOADER_INTERFACE.md. Format of the files: the kernel's
//! Documentation/filesystems/efivarfs.rst, four bytes of attributes, then the value.

use std::io;
use std::path::Path;

use crate::host::files::{self, FileError, io_error};

/// The vendor of the variables of the Boot Loader Interface.
pub const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
/// How large a variable may be, in bytes. `LoaderEntries` is by far the longest.
const VALUE_MAX: u64 = 64 << 10;
const ATTRIBUTES: usize = 4;

/// The variables of the Boot Loader Interface that say which entry was, is or will be booted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Variables {
    /// `LoaderInfo`: the loader's name and version, such as "systemd-boot 257.13"; written at each boot.
    pub info: Option<String>,
    /// `LoaderEntrySelected`: the id of the entry that was booted; written at each boot.
    pub selected: Option<String>,
    /// `LoaderEntryOneShot`: the pattern of the next boot only; the loader deletes it before it boots anything.
    pub one_shot: Option<String>,
    /// `LoaderEntryPreferred`: like the default, but passes over bad entries; read by 260 and later.
    pub preferred: Option<String>,
    /// `LoaderEntryDefault`: the pattern of all boots, before that of `loader.conf`.
    pub default: Option<String>,
    /// `LoaderEntrySysFail`: the pattern where the firmware reports a failure; read by 258 and later.
    pub sysfail: Option<String>,
    /// `LoaderEntryLastBooted`: what `@saved` stands for.
    pub last_booted: Option<String>,
    /// `LoaderConfigTimeout`: before that of `loader.conf`.
    pub timeout: Option<String>,
    /// `LoaderConfigTimeoutOneShot`: the timeout of the next boot only, which shows the menu in any case.
    pub timeout_one_shot: Option<String>,
    /// `LoaderBootCountPath`: the file of the booted entry, if it has a counter.
    pub boot_count_path: Option<String>,
    /// `LoaderDevicePartUUID`: the partition that the loader was started from.
    pub partition: Option<String>,
}

/// Reads the variables in `directory`; `None` where there is none of them, as on a machine that was not booted by EFI.
///
/// # Errors
/// A variable can't be read, or its value is no text.
pub fn read(directory: &Path) -> Result<Option<Variables>, FileError> {
    let get = |name: &str| read_variable(directory, name);
    let variables = Variables {
        info: get("LoaderInfo")?,
        selected: get("LoaderEntrySelected")?,
        one_shot: get("LoaderEntryOneShot")?,
        preferred: get("LoaderEntryPreferred")?,
        default: get("LoaderEntryDefault")?,
        sysfail: get("LoaderEntrySysFail")?,
        last_booted: get("LoaderEntryLastBooted")?,
        timeout: get("LoaderConfigTimeout")?,
        timeout_one_shot: get("LoaderConfigTimeoutOneShot")?,
        boot_count_path: get("LoaderBootCountPath")?,
        partition: get("LoaderDevicePartUUID")?,
    };
    Ok((variables != Variables::default()).then_some(variables))
}

fn read_variable(directory: &Path, name: &str) -> Result<Option<String>, FileError> {
    let path = directory.join(format!("{name}-{VENDOR}"));
    let Some(bytes) = files::read_if_exists(&path, VALUE_MAX)? else { return Ok(None) };
    let value = bytes.get(ATTRIBUTES..).and_then(decode);
    let value = value.ok_or_else(|| io_error("make sense of", &path)(io::ErrorKind::InvalidData.into()))?;
    Ok(Some(value))
}

/// Returns the text of a value: UTF-16 in little-endian order, up to the first NUL, which need not be there.
pub fn decode(value: &[u8]) -> Option<String> {
    let (units, rest) = value.as_chunks::<2>();
    let units: Vec<u16> =
        units.iter().map(|unit| u16::from_le_bytes(*unit)).take_while(|unit| *unit != 0).collect();
    rest.is_empty().then(|| String::from_utf16(&units).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn encode(text: &str) -> Vec<u8> {
        text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn values_are_utf16_with_or_without_an_end() {
        assert_eq!(decode(&encode("nixos-generation-7.conf")).as_deref(), Some("nixos-generation-7.conf"));
        assert_eq!(decode(b"a\0b\0").as_deref(), Some("ab"));
        assert_eq!(decode(b"a\0\0\0b\0").as_deref(), Some("a"));
        assert_eq!(decode(b"").as_deref(), Some(""));
        assert_eq!(decode(b"a"), None);
        assert_eq!(decode(&0xd800_u16.to_le_bytes()), None, "half a character");
    }

    #[test]
    fn variables_are_read_or_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        assert_eq!(read(&dir.path().join("none")).unwrap(), None);
        let put = |name: &str, value: &[u8]| {
            let bytes = [&[7, 0, 0, 0], value].concat();
            fs::write(dir.path().join(format!("{name}-{VENDOR}")), bytes).unwrap();
        };
        put("LoaderInfo", &encode("systemd-boot 257.13"));
        put("LoaderEntryOneShot", &encode("a.conf"));
        let variables = read(dir.path()).unwrap().unwrap();
        assert_eq!(variables.info.as_deref(), Some("systemd-boot 257.13"));
        assert_eq!((variables.one_shot.as_deref(), variables.default), (Some("a.conf"), None));
        for wrong in [b"x".to_vec(), encode("a").repeat(40_000)] {
            put("LoaderEntryDefault", &wrong);
            assert!(read(dir.path()).unwrap_err().to_string().contains("LoaderEntryDefault-4a67"));
        }
        fs::write(dir.path().join(format!("LoaderEntryDefault-{VENDOR}")), "ab").unwrap();
        assert!(read(dir.path()).is_err(), "not even attributes");
    }
}
