//! The originals of secrets that systemd has copied for a unit when it was started (`LoadCredential=`, systemd.exec(5)). The
//! copies stay as they are; so whoever holds some is to be started anew when an original was renewed. Only looks at files, and
//! reads none.

use std::path::{Path, PathBuf};

use super::files::{self, Stamp};

/// What a unit has copies of.
#[derive(Debug)]
pub struct Originals {
    files: Vec<PathBuf>,
    /// How each was when the copies were made, or when it was last found to be another.
    known: Vec<Option<Stamp>>,
}

impl Originals {
    /// Takes the files as they are now for what was copied.
    pub fn of(files: Vec<PathBuf>) -> Originals {
        let known = stamps(&files);
        Originals { files, known }
    }

    /// Returns those that can't be looked at, so that nobody will notice when they are renewed.
    pub fn unseen(&self) -> Vec<&Path> {
        let each = self.files.iter().zip(&self.known);
        each.filter(|(_, known)| known.is_none()).map(|(file, _)| file.as_path()).collect()
    }

    /// Returns what they are now if one was renewed, in place, by another file, or by another place that a link leads to. A
    /// file that is missing is not, until it is back.
    pub fn renewed(&self) -> Option<Copied> {
        let now = stamps(&self.files);
        let renewed = now.iter().zip(&self.known).any(|(now, then)| now.is_some() && now != then);
        renewed.then_some(Copied(now))
    }

    /// Takes what was renewed for what was copied.
    pub fn copied(&mut self, Copied(now): Copied) {
        self.known = now;
    }
}

/// How the originals are that are to be copied.
#[derive(Debug)]
pub struct Copied(Vec<Option<Stamp>>);

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    files.iter().map(|file| files::stamp(file)).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_renewed_file_is_noticed_once_however_it_came() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for (place, content) in [("1", "old"), ("2", "new"), ("3", "new")] {
            fs::create_dir(at(place)).unwrap();
            fs::write(at(place).join("token"), content).unwrap();
        }
        symlink("1", at("now")).unwrap();
        let mut originals = Originals::of(vec![at("now").join("token"), at("none")]);
        assert_eq!(originals.unseen(), [at("none")]);
        let mut check = |what: &str, renewed: bool| {
            let found = originals.renewed();
            assert_eq!(found.is_some(), renewed, "{what}");
            assert_eq!(originals.renewed().is_some(), renewed, "{what}, as long as nobody has copied it");
            if let Some(found) = found {
                originals.copied(found);
            }
            assert!(originals.renewed().is_none(), "{what}, once");
        };
        check("nothing", false);
        fs::write(at("1").join("token"), "OLD").unwrap();
        check("in place", true);
        let turn = |to: &str| {
            symlink(to, at("next")).unwrap();
            fs::rename(at("next"), at("now")).unwrap();
        };
        turn("2");
        check("a link", true);
        turn("3");
        check("the same content elsewhere", true);
        fs::remove_file(at("3").join("token")).unwrap();
        check("gone", false);
        fs::write(at("3").join("token"), "new").unwrap();
        check("back", true);
        fs::write(at("none"), "there").unwrap();
        check("one that was never there", true);
    }
}
