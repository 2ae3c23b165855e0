//! Real Git repositories, made by real Git without anyone's configuration.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Returns `git` in `dir`, isolated from the user's and the machine's configuration.
pub fn command(dir: &Path) -> Command {
    let mut git = Command::new("git");
    git.current_dir(dir)
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_NAME", "Alice")
        .env("GIT_AUTHOR_EMAIL", "alice@example.org")
        .env("GIT_COMMITTER_NAME", "Alice")
        .env("GIT_COMMITTER_EMAIL", "alice@example.org");
    git
}

/// Runs `git` with `args` in `dir` and `input` on its standard input; returns what it prints, trimmed.
pub fn git(dir: &Path, args: &[&str], input: &[u8]) -> String {
    let mut child = command(dir)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A bare repository.
#[derive(Debug, Clone)]
pub struct Repo {
    pub path: PathBuf,
}

impl Repo {
    /// Makes an empty repository at `path`, with `main` as its default branch and pushes over HTTP allowed.
    pub fn init(path: &Path, object_format: &str) -> Repo {
        fs::create_dir_all(path).unwrap();
        let format = format!("--object-format={object_format}");
        git(path, &["init", "-q", "--bare", "-b", "main", &format, "."], b"");
        git(path, &["config", "http.receivepack", "true"], b"");
        Repo { path: path.to_owned() }
    }

    /// Runs `git` in the repository.
    pub fn git(&self, args: &[&str]) -> String {
        git(&self.path, args, b"")
    }

    /// Commits `files` as the whole tree on top of branch `branch` and returns the commit's id.
    pub fn commit(&self, branch: &str, files: &[(&str, &[u8])]) -> String {
        let name = format!("refs/heads/{branch}");
        let entries: String = files
            .iter()
            .map(|(file, content)| {
                let blob = git(&self.path, &["hash-object", "-w", "--stdin"], content);
                format!("100644 blob {blob}\t{file}\n")
            })
            .collect();
        let tree = git(&self.path, &["mktree"], entries.as_bytes());
        let parent = self.git(&["for-each-ref", "--format=%(objectname)", &name]);
        let mut args = vec!["commit-tree", "-m", "change", &tree];
        if !parent.is_empty() {
            args.extend(["-p", &parent]);
        }
        let commit = self.git(&args);
        self.git(&["update-ref", &name, &commit]);
        commit
    }

    /// Makes `count` refs below `prefix`, all pointing to `commit`, next to those that are there.
    ///
    /// Written as `git pack-refs` writes them: `git update-ref` would make a file for each first.
    pub fn many_refs(&self, prefix: &str, count: usize, commit: &str) {
        self.git(&["pack-refs", "--all"]);
        let file = self.path.join("packed-refs");
        let known = fs::read_to_string(&file).unwrap();
        let (header, known) = known.split_once('\n').unwrap();
        let mut refs: Vec<String> = (0..count).map(|i| format!("{commit} {prefix}{i}")).collect();
        refs.extend(known.lines().map(str::to_owned));
        refs.sort_unstable_by(|a, b| a.split_once(' ').map(|r| r.1).cmp(&b.split_once(' ').map(|r| r.1)));
        fs::write(file, format!("{header}\n{}\n", refs.join("\n"))).unwrap();
    }

    /// Indexes `pack` into this repository as Git itself would, missing bases taken from here.
    pub fn index(&self, pack: &[u8]) {
        git(&self.path, &["index-pack", "--stdin", "--fix-thin", "--strict"], pack);
    }
}
