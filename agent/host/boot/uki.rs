//! Owns what is read of a unified kernel image: an entry of type 2. Pure: bytes in, an entry out.
//!
//! Only the sections `.osrel` and `.cmdline` are looked at, as in the loader (systemd: `boot_entry_add_type2` in
//! src/boot/boot.c). Lanzaboote's images have them too; their kernel and initrd lie in files beside them.

use std::io::{self, Read, Seek, SeekFrom};

use super::entry::{self, Entry, TYPE2_SUFFIX};
use super::lines;

/// How many sections an image may have (the PE format allows 96).
const SECTIONS_MAX: u16 = 96;
/// How long a section that is read may be, in bytes.
const SECTION_MAX: u32 = 64 << 10;
/// Where in the DOS header the place of the PE header is written.
const PE_AT: u64 = 0x3c;
const COFF_HEADER: usize = 24;
const SECTION_HEADER: usize = 40;

/// Reads the image `file` of `EFI/Linux`; `None` if the loader offers no entry for it.
///
/// # Errors
/// The image can't be read, or is larger where it is read than anything that would be put there.
pub fn read(file: &str, image: &mut (impl Read + Seek)) -> io::Result<Option<Entry>> {
    let Some(sections) = sections(image)? else { return Ok(None) };
    let Some(release) = text(image, &sections, b".osrel\0\0")? else { return Ok(None) };
    let options = text(image, &sections, b".cmdline")?.unwrap_or_default();
    let several = sections.iter().any(|section| section.name == *b".profile");
    Ok(describe(file, &release, &options).map(|mut entry| {
        entry.doubt = several.then_some("has several profiles");
        entry
    }))
}

/// Makes the entry of what the sections say (systemd: `bootspec_pick_name_version_sort_key`).
fn describe(file: &str, release: &str, options: &str) -> Option<Entry> {
    let of = |wanted: &str| lines::pairs(release, &['=']).filter(|(key, _)| *key == wanted).last();
    let value = |wanted| of(wanted).map(|(_, value)| value.to_owned());
    ["PRETTY_NAME", "IMAGE_ID", "NAME", "ID"].into_iter().find_map(of)?;
    Some(Entry {
        file: file.to_owned(),
        tries: entry::tries(file, TYPE2_SUFFIX).map(|(_, tries)| tries),
        sort_key: value("IMAGE_ID").or_else(|| value("ID")),
        machine_id: None,
        version: ["IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID"].into_iter().find_map(value),
        options: options.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\0').to_owned(),
        files: Vec::new(),
        doubt: None,
    })
}

struct Section {
    name: [u8; 8],
    size: u32,
    offset: u32,
}

/// Reads the table of sections; `None` if this is no PE image.
fn sections(image: &mut (impl Read + Seek)) -> io::Result<Option<Vec<Section>>> {
    let Some(place) = bytes_at::<4>(image, PE_AT)? else { return Ok(None) };
    let header_at = u64::from(u32::from_le_bytes(place));
    let Some(header) = bytes_at::<COFF_HEADER>(image, header_at)? else { return Ok(None) };
    let count = u16::from_le_bytes([header[6], header[7]]);
    let optional = u64::from(u16::from_le_bytes([header[20], header[21]]));
    if !header.starts_with(b"PE\0\0") || count > SECTIONS_MAX {
        return Ok(None);
    }
    let mut sections = Vec::new();
    for n in 0..u64::from(count) {
        let at = header_at + COFF_HEADER as u64 + optional + n * SECTION_HEADER as u64;
        let Some(raw) = bytes_at::<SECTION_HEADER>(image, at)? else { return Ok(None) };
        let number = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let mut name = [0; 8];
        name.copy_from_slice(&raw[..8]);
        // The raw size is padded; the virtual size is how much of it means something.
        sections.push(Section { name, size: number(8).min(number(16)), offset: number(20) });
    }
    Ok(Some(sections))
}

/// Returns the text of the first section of that name.
fn text(image: &mut (impl Read + Seek), all: &[Section], name: &[u8; 8]) -> io::Result<Option<String>> {
    let Some(section) = all.iter().find(|section| section.name == *name && section.size > 0) else {
        return Ok(None);
    };
    if section.size > SECTION_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; section.size as usize];
    image.seek(SeekFrom::Start(u64::from(section.offset)))?;
    image.read_exact(&mut bytes)?;
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Returns the bytes at a place; `None` beyond the end.
fn bytes_at<const N: usize>(image: &mut (impl Read + Seek), at: u64) -> io::Result<Option<[u8; N]>> {
    let mut bytes = [0; N];
    image.seek(SeekFrom::Start(at))?;
    match image.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    /// An image of nothing but sections.
    fn image(sections: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = vec![0; 0x40];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 0x40;
        bytes.extend(b"PE\0\0\x64\x86");
        bytes.extend(u16::try_from(sections.len()).unwrap().to_le_bytes());
        bytes.extend([0; 16]);
        let mut at = bytes.len() + 40 * sections.len();
        for (name, content) in sections {
            let mut padded = [0; 8];
            padded[..name.len()].copy_from_slice(name.as_bytes());
            bytes.extend(padded);
            let size = u32::try_from(content.len()).unwrap();
            for number in [size, 0, size + 3, u32::try_from(at).unwrap(), 0, 0, 0, 0] {
                bytes.extend(number.to_le_bytes());
            }
            at += content.len() + 3;
        }
        for (_, content) in sections {
            bytes.extend(content.as_bytes());
            bytes.extend([0; 3]);
        }
        bytes
    }

    fn read_image(bytes: Vec<u8>) -> io::Result<Option<Entry>> {
        read("nixos-generation-7-abc+2.efi", &mut Cursor::new(bytes))
    }

    #[test]
    fn an_image_of_lanzaboote_is_read() {
        let top = "/nix/store/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-nixos-system-web1-26.05";
        let release = "ID=lanza\nPRETTY_NAME=NixOS 26.05\nVERSION_ID=Generation 7, 2026-11-21\n";
        let options = format!("init={top}/init loglevel=4");
        let sections = [(".osrel", release), (".cmdline", &options), (".initrd", "ramdisk")];
        let entry = read_image(image(&sections)).unwrap().unwrap();
        assert_eq!(entry.toplevel().unwrap().as_str(), top);
        assert_eq!((entry.sort_key.as_deref(), entry.doubt), (Some("lanza"), None));
        assert_eq!(entry.version.as_deref(), Some("Generation 7, 2026-11-21"));
        assert_eq!((entry.options.as_str(), entry.tries.unwrap().left), (options.as_str(), 2));
        assert_eq!(entry.name_without_tries(), "nixos-generation-7-abc.efi");
        let several = [(".osrel", release), (".profile", "ID=x")];
        assert!(read_image(image(&several)).unwrap().unwrap().doubt.is_some());
    }

    #[test]
    fn what_is_no_image_is_no_entry() {
        for bytes in [
            Vec::new(),
            vec![0xff; 0x100],
            image(&[]),
            image(&[(".cmdline", "a")]),
            image(&[(".osrel", "a=b")]),
        ] {
            assert_eq!(read_image(bytes).unwrap(), None);
        }
    }

    #[test]
    fn a_damaged_image_is_an_error_or_no_entry() {
        let whole = image(&[(".osrel", "ID=a"), (".cmdline", "b")]);
        for length in 0..whole.len() {
            drop(read_image(whole[..length].to_vec()));
        }
        let mut huge = whole;
        // The sizes of the first section: virtual at 8, raw at 16.
        for at in [8, 16] {
            huge[0x40 + COFF_HEADER + at + 2] = 0xff;
        }
        assert_eq!(read_image(huge).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
