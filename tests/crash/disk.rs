//! Where the journal of a run lies, and what a power cut leaves of it.

use std::path::Path;

/// Leaves half a record behind, as a power cut in mid-write does.
pub fn tear(dir: &Path, seed: u32) {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().append(true).open(dir.join("journal")).unwrap();
    let tail: &[u8] = match seed % 3 {
        0 => b"",
        1 => b"1234abcd {\"v\":1,\"seq\"",
        _ => &[0; 64],
    };
    file.write_all(tail).unwrap();
}

pub fn memory_dir() -> std::path::PathBuf {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() }
}
