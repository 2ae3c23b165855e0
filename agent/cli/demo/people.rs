//! The people of the demo: each has an SSH key and a clone of the forge's repository, and works with plain git.
//! Knows nothing of the agent.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::remote::Remote;
use super::tools::{Tools, run};
use crate::model::Oid;

/// Somebody with a key and a clone.
#[derive(Debug)]
pub struct Person {
    /// The name, as in commits and in the signers of the configuration.
    pub name: String,
    /// The public key, as in `~/.ssh/id_ed25519.pub`.
    pub public_key: String,
    clone: PathBuf,
    tools: Tools,
}

/// A commit to be made: what it says and what it does to files.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// The commit's message.
    pub message: &'a str,
    /// Files to be written, by their path in the repository.
    pub write: &'a [(&'a str, &'a str)],
    /// Files to be removed.
    pub remove: &'a [&'a str],
    /// Whether the author signs it.
    pub signed: bool,
}

impl Person {
    /// Makes a key and an empty clone, both below `dir`.
    pub async fn new(tools: &Tools, dir: &Path, name: &str, remote: &Remote) -> anyhow::Result<Person> {
        let key = dir.join(format!("{name}.key"));
        let keygen = tools.command("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"]);
        run(keygen.arg(&key)).await?;
        let public_file = key.with_extension("key.pub");
        let public_key = std::fs::read_to_string(&public_file)
            .with_context(|| format!("failed to read '{}'", public_file.display()))?;

        let clone = dir.join(name);
        run(tools.command("git").args(["init", "--quiet", "--initial-branch=main"]).arg(&clone)).await?;
        let (tools, name) = (tools.clone(), name.to_owned());
        let person = Person { name, public_key: public_key.trim().to_owned(), clone, tools };
        person.configure(&public_file, remote).await?;
        Ok(person)
    }

    async fn configure(&self, public_file: &Path, remote: &Remote) -> anyhow::Result<()> {
        self.git(&["remote", "add", "origin", &remote.url]).await?;
        let email = format!("{}@example.org", self.name);
        let settings = [
            ("user.name", self.name.as_str()),
            ("user.email", &email),
            ("gpg.format", "ssh"),
            ("user.signingKey", &public_file.to_string_lossy()),
            ("gc.auto", "0"),
        ];
        for (key, value) in settings {
            self.git(&["config", key, value]).await?;
        }
        Ok(())
    }

    /// Commits a change on top of what is checked out; returns the commit.
    pub async fn commit(&self, change: Change<'_>) -> anyhow::Result<Oid> {
        for (path, content) in change.write {
            let path = self.clone.join(path);
            let parent = path.parent().map_or(Ok(()), std::fs::create_dir_all);
            parent
                .and_then(|()| std::fs::write(&path, content))
                .with_context(|| format!("failed to write '{}'", path.display()))?;
        }
        for path in change.remove {
            self.git(&["rm", "--quiet", path]).await?;
        }
        self.git(&["add", "--all"]).await?;
        let sign = if change.signed { "--gpg-sign" } else { "--no-gpg-sign" };
        self.git(&["commit", "--quiet", "--allow-empty", sign, "-m", change.message]).await?;
        self.head().await
    }

    /// Returns the commit that is checked out.
    pub async fn head(&self) -> anyhow::Result<Oid> {
        Ok(self.git(&["rev-parse", "HEAD"]).await?.parse()?)
    }

    /// Returns a file of what is checked out.
    pub fn read(&self, path: &str) -> anyhow::Result<String> {
        let path = self.clone.join(path);
        std::fs::read_to_string(&path).with_context(|| format!("failed to read '{}'", path.display()))
    }

    /// Pushes what is checked out to a branch, as far as it moves forward.
    pub async fn push(&self, branch: &str) -> anyhow::Result<()> {
        self.git(&["push", "--quiet", "origin", &format!("HEAD:refs/heads/{branch}")]).await.map(drop)
    }

    /// Pushes what is checked out to a branch, whatever is there.
    pub async fn force_push(&self, branch: &str) -> anyhow::Result<()> {
        self.git(&["push", "--quiet", "--force", "origin", &format!("HEAD:refs/heads/{branch}")])
            .await
            .map(drop)
    }

    /// Deletes a branch of the forge.
    pub async fn delete(&self, branch: &str) -> anyhow::Result<()> {
        self.git(&["push", "--quiet", "--delete", "origin", branch]).await.map(drop)
    }

    /// Throws away what is checked out and takes `revision`, fetched from the forge.
    pub async fn check_out(&self, revision: &Oid) -> anyhow::Result<()> {
        self.git(&["fetch", "--quiet", "origin"]).await?;
        self.git(&["reset", "--quiet", "--hard", revision.as_str()]).await.map(drop)
    }

    /// Writes the files of what is checked out to `dir`.
    pub async fn export(&self, dir: &Path) -> anyhow::Result<()> {
        let prefix = format!("--prefix={}/", dir.display());
        self.git(&["checkout-index", "--all", &prefix]).await.map(drop)
    }

    async fn git(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run(self.tools.command("git").arg("-C").arg(&self.clone).args(arguments)).await
    }
}
