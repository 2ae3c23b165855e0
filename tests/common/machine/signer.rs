//! Those who sign, and what they commit: a system, in a repository of whatever forge.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::image::run;
use super::read_text;
use super::system::System;
use crate::common::git::{Repo, git};

/// Somebody who signs commits and may fetch over SSH, with one key for both.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The public key, as in `~/.ssh/id_ed25519.pub`.
    pub public_key: String,
    /// The private key, in OpenSSH's form.
    pub private_key: String,
    key_file: PathBuf,
}

impl Signer {
    /// Makes somebody with a new key, which is kept in `dir`.
    pub fn new(dir: &Path, name: &str) -> Signer {
        let key_file = dir.join(name);
        ssh_keygen(&key_file, name);
        let public_key = read_text(&key_file.with_added_extension("pub")).trim().to_owned();
        Signer { public_key, private_key: read_text(&key_file), key_file }
    }
}

/// Commits a system on top of a branch, signed or not, and returns the revision.
pub fn commit(repo: &Repo, branch: &str, system: &System, signer: Option<&Signer>) -> String {
    commit_files(repo, branch, system.repository(), signer)
}

/// Commits files, by their paths, as the whole tree on top of a branch, signed or not, and returns the revision.
pub fn commit_files(
    repo: &Repo,
    branch: &str,
    files: Vec<(String, Vec<u8>)>,
    signer: Option<&Signer>,
) -> String {
    let entries = files.into_iter().map(|(path, content)| {
        let blob = git(&repo.path, &["hash-object", "-w", "--stdin"], &content);
        format!("100644 {blob}\t{path}\n")
    });
    let entries: String = entries.collect();
    repo.git(&["read-tree", "--empty"]);
    git(&repo.path, &["update-index", "--index-info"], entries.as_bytes());
    let tree = repo.git(&["write-tree"]);

    let name = format!("refs/heads/{branch}");
    let parent = repo.git(&["for-each-ref", "--format=%(objectname)", &name]);
    let key = signer.map(|signer| format!("user.signingKey={}", signer.key_file.display()));
    let mut args = vec!["-c", "gpg.format=ssh"];
    args.extend(key.iter().flat_map(|key| ["-c", key]));
    // A tip of a test branch has to say that it is meant for it.
    let target = branch.starts_with("test-").then(|| format!("Deploy-To: {branch}"));
    args.extend(["commit-tree", "-m", "change", &tree]);
    args.extend(target.iter().flat_map(|line| ["-m", line]));
    args.extend(key.iter().map(|_| "-S"));
    if !parent.is_empty() {
        args.extend(["-p", &parent]);
    }
    let commit = repo.git(&args);
    repo.git(&["update-ref", &name, &commit]);
    commit
}

pub(super) fn ssh_keygen(file: &Path, comment: &str) {
    run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f"]).arg(file));
}
