//! Checks that are programs in a folder, laid out as greenboot has them (greenboot(8)): what lies in `required.d` must
//! succeed, what lies in `wanted.d` is reported. Written for a whole host, they run as root.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::config::{CHECKS_MAX, Check, Severity};

/// The two folders, and what a failure in each means.
const FOLDERS: [(&str, Severity); 2] = [("required.d", Severity::Hard), ("wanted.d", Severity::Soft)];

/// Returns the checks in a directory by name, such as `required.d/10_network.sh`, in their order. What is not there is no
/// check.
pub(super) fn checks_in(dir: &Path) -> Vec<(String, Check)> {
    let mut found = Vec::new();
    for (folder, severity) in FOLDERS {
        let Ok(entries) = std::fs::read_dir(dir.join(folder)) else { continue };
        for entry in entries.flatten().take(CHECKS_MAX) {
            let path = entry.path();
            let runs = |m: std::fs::Metadata| m.is_file() && m.permissions().mode() & 0o111 != 0;
            let (Some(program), Ok(name)) = (path.to_str(), entry.file_name().into_string()) else {
                continue;
            };
            if std::fs::metadata(&path).is_ok_and(runs) {
                let check = Check::command(vec![program.to_owned()], true, severity);
                found.push((format!("{folder}/{name}"), check));
            }
        }
    }
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    found.truncate(CHECKS_MAX);
    found
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn programs_become_checks_and_other_files_do_not() {
        let temp = tempfile::tempdir().unwrap();
        let file = |path: &str, mode| {
            let path = temp.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        file("required.d/20_b.sh", 0o755);
        file("required.d/10_a.sh", 0o555);
        file("required.d/README", 0o644);
        file("wanted.d/c", 0o700);
        file("green.d/d", 0o755);
        let found = checks_in(temp.path());
        let names: Vec<_> = found.iter().map(|(name, check)| (name.as_str(), check.severity)).collect();
        let expected = [
            ("required.d/10_a.sh", Severity::Hard),
            ("required.d/20_b.sh", Severity::Hard),
            ("wanted.d/c", Severity::Soft),
        ];
        assert_eq!(names, expected);
        assert!(found.iter().all(|(_, check)| check.privileged));
        assert_eq!(checks_in(&temp.path().join("none")).len(), 0);
    }
}
