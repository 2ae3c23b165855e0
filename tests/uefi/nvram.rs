//! The EFI variables of a machine that is off, read from its flash memory.
//!
//! The layout is EDK II's: a firmware volume with one store of authenticated variables (`VARIABLE_STORE_HEADER` and
//! `AUTHENTICATED_VARIABLE_HEADER` in MdeModulePkg/Include/Guid/VariableFormat.h).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Where the first variable begins: after the volume's header (72 bytes) and the store's (28).
const FIRST: usize = 100;
const HEADER: usize = 60;
/// The state of a variable that is in use (`VAR_ADDED`); others were deleted, or replaced.
const IN_USE: u8 = 0x3f;
/// The same while its replacement is being written (`VAR_IN_DELETED_TRANSITION`).
const BEING_REPLACED: u8 = 0x3e;

/// The vendor of the Boot Loader Interface, as it lies in memory.
const VENDOR: [u8; 16] =
    [0x82, 0xb0, 0x67, 0x4a, 0x4c, 0x0a, 0xcf, 0x41, 0xb6, 0xc7, 0x44, 0x0b, 0x29, 0xbb, 0x8c, 0x4f];

/// The variables of the Boot Loader Interface, by name: their bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Nvram(pub BTreeMap<String, Vec<u8>>);

impl Nvram {
    /// Reads a flash memory.
    pub fn read(flash: &Path) -> Nvram {
        let (flash, mut at, mut found) = (fs::read(flash).unwrap(), FIRST, BTreeMap::new());
        while let Some(header) = flash.get(at..at + HEADER).filter(|header| header.starts_with(&[0xaa, 0x55]))
        {
            let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap()) as usize;
            let (name_size, data_size) = (number(36), number(40));
            let (name_at, data_at) = (at + HEADER, at + HEADER + name_size);
            if matches!(header[2], IN_USE | BEING_REPLACED) && header[44..60] == VENDOR {
                let name = text(&flash[name_at..data_at]);
                let data = flash[data_at..data_at + data_size].to_vec();
                // The one in use comes before the one that it replaces.
                if header[2] == IN_USE || !found.contains_key(&name) {
                    found.insert(name, data);
                }
            }
            at = (data_at + data_size).next_multiple_of(4);
        }
        Nvram(found)
    }

    /// Returns the text of a variable, if it is there.
    pub fn get(&self, name: &str) -> Option<String> {
        self.0.get(name).map(|value| text(value))
    }
}

fn text(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|unit| u16::from_le_bytes([unit[0], unit[1]])).collect();
    let length = units.iter().position(|unit| *unit == 0).unwrap_or(units.len());
    String::from_utf16(&units[..length]).unwrap()
}
