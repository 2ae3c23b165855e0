//! What a configuration may say: each rule names the key it is about. Addresses are never repeated, since they may
//! hold a password.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{ConfigError, Exporter, Remote, SCHEMA, Settings};
use crate::model::{Operation, SshAddress, is_plain_file};

/// How many bytes `activation.retryNonce` may have.
const NONCE_MAX: usize = 200;

impl Settings {
    /// Refuses what makes no sense, naming the key.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key: &str, text: String| Err(ConfigError::Value { key: key.to_owned(), text });
        if self.schema != SCHEMA {
            return wrong(
                "schema",
                format!("this pullagent reads schema {SCHEMA}, the file has {}", self.schema),
            );
        }
        if !is_hostname(&self.hostname) {
            return wrong(
                "hostname",
                format!("'{}' is not a host name (letters, digits, hyphens)", self.hostname),
            );
        }
        if !self.state_directory.is_absolute() {
            return wrong("stateDirectory", format!("'{}' is not absolute", self.state_directory.display()));
        }
        self.check_remotes()?;
        self.check_hints()?;
        self.check_branches()?;
        self.check_source()?;
        self.health.check()?;
        self.fetch.check()?;
        self.retention.check()?;
        self.exporter.as_ref().map_or(Ok(()), Exporter::check)?;
        self.check_webhooks()?;
        self.trust.check()?;
        self.policy()?;
        if self.activation.window.0 <= self.activation.soak.0 {
            return wrong("activation.window", "the window must be longer than the soak time".to_owned());
        }
        if self.activation.retry_nonce.len() > NONCE_MAX {
            return wrong("activation.retryNonce", format!("it is longer than {NONCE_MAX} bytes"));
        }
        if self.activation.confirm_within.0 < Duration::from_secs(1) {
            return wrong("activation.confirmWithin", "it must be 1s or more".to_owned());
        }
        self.activation.reboot.check()
    }

    fn check_remotes(&self) -> Result<(), ConfigError> {
        let wrong = |n: usize, key: &str, text: String| {
            Err(ConfigError::Value { key: format!("remotes[{n}].{key}"), text })
        };
        if self.remotes.is_empty() {
            let text = "there is no remote; name at least one".to_owned();
            return Err(ConfigError::Value { key: "remotes".to_owned(), text });
        }
        for (n, remote) in self.remotes.iter().enumerate() {
            if !is_plain_name(&remote.name) || self.remotes[..n].iter().any(|r| r.name == remote.name) {
                return wrong(n, "name", format!("'{}' is not a plain name that is used once", remote.name));
            }
            if let Err((key, text)) = check_access(remote) {
                return wrong(n, key, text);
            }
            if let Err((key, text)) = check_interval(remote) {
                return wrong(n, key, text.to_owned());
            }
        }
        Ok(())
    }

    fn check_branches(&self) -> Result<(), ConfigError> {
        let wrong = |text: String| Err(ConfigError::Value { key: "branches".to_owned(), text });
        let branches = self.branches();
        let count = |op| branches.iter().filter(|(_, o)| *o == op).count();
        if count(Operation::Switch) != 1 || count(Operation::Test) > 1 {
            return wrong("name one branch with operation 'switch' and at most one with 'test'".to_owned());
        }
        match branches.iter().find(|(name, _)| !is_branch_name(name)) {
            Some((name, _)) => wrong(format!("'{name}' is not a branch name")),
            None => Ok(()),
        }
    }

    fn check_source(&self) -> Result<(), ConfigError> {
        let dir = Path::new(&self.source.subdir);
        let inside = dir
            .components()
            .all(|c| matches!(c, std::path::Component::Normal(_) | std::path::Component::CurDir));
        if inside && !self.source.subdir.contains(['?', '#', '&', '%', '\n']) {
            return self.check_submodules();
        }
        let text = format!("'{}' is not a folder inside the repository", self.source.subdir);
        Err(ConfigError::Value { key: "source.subdir".to_owned(), text })
    }
}

pub(super) fn is_hostname(s: &str) -> bool {
    let label = |c: char| c.is_ascii_alphanumeric() || c == '-';
    !s.is_empty() && s.len() <= 63 && s.chars().all(label) && !s.starts_with('-') && !s.ends_with('-')
}

/// What remotes and hints may be called.
pub(super) fn is_plain_name(s: &str) -> bool {
    !s.is_empty() && s.len() <= 64 && s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

/// The strict half of `git check-ref-format`: what a branch of ours may be called.
fn is_branch_name(s: &str) -> bool {
    let part = |p: &str| !p.is_empty() && !p.starts_with('.') && !p.ends_with('.') && !p.ends_with(".lock");
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    !s.is_empty() && s.len() <= 200 && !s.contains("..") && s.chars().all(legal) && s.split('/').all(part)
}

fn check_interval(remote: &Remote) -> Result<(), (&'static str, &'static str)> {
    match (remote.interval.every(), remote.interval_while_hinted) {
        (Some(every), _) if every.0 < Duration::from_secs(1) => Err(("interval", "it must be 1s or more")),
        (Some(every), Some(hinted)) if hinted < every => {
            Err(("intervalWhileHinted", "it must be the interval or more"))
        }
        (None, Some(_)) => Err((
            "intervalWhileHinted",
            "it must be null: a remote with a calendar is asked by it, with or without hints",
        )),
        (Some(_), _) | (None, None) => Ok(()),
    }
}

/// Says what is wrong with how a remote is reached, and under which key.
pub(super) fn check_access(remote: &Remote) -> Result<(), (&'static str, String)> {
    check_url(&remote.url).map_err(|text| ("url", text))?;
    let files = [
        ("tokenFile", &remote.token_file),
        ("sshKeyFile", &remote.ssh_key_file),
        ("knownHostsFile", &remote.known_hosts_file),
    ];
    let relative = |(_, file): &&(_, &Option<PathBuf>)| file.as_ref().is_some_and(|f| !f.is_absolute());
    if let Some((key, _)) = files.iter().find(relative) {
        return Err((key, "it must be an absolute path".to_owned()));
    }
    super::https::check(&remote.https(), &remote.url)?;
    check_ssh(remote).map_err(|(key, text)| (key, text.to_owned()))
}

/// Asks of an SSH remote what `ssh` cannot do without. To learn a host's key on first use would be to trust whoever
/// answers.
fn check_ssh(remote: &Remote) -> Result<(), (&'static str, &'static str)> {
    if !SshAddress::is_meant_by(&remote.url) {
        return Ok(());
    }
    let plain = |file: &PathBuf| file.to_str().is_some_and(is_plain_file);
    let odd = "ssh would not take the path as it stands; use one without spaces, quotes and any of %$#\\";
    match (&remote.ssh_key_file, &remote.known_hosts_file) {
        (None, _) => {
            Err(("sshKeyFile", "an ssh remote needs a private key of its own, without a passphrase"))
        }
        (_, None) => {
            Err(("knownHostsFile", "an ssh remote needs the server's host key in a known_hosts file"))
        }
        (Some(key), _) if !plain(key) => Err(("sshKeyFile", odd)),
        (_, Some(hosts)) if !plain(hosts) => Err(("knownHostsFile", odd)),
        (Some(_), Some(_)) => Ok(()),
    }
}

/// Says what is wrong with a remote's address; never repeats the address, which may hold a password.
fn check_url(url: &str) -> Result<(), String> {
    if url.starts_with('/') || url.starts_with("file:///") {
        return Ok(());
    }
    if SshAddress::is_meant_by(url) {
        return url.parse::<SshAddress>().map(drop).map_err(|e| e.to_string());
    }
    if url.contains('?') {
        return Err("no query, fragment or space in an address".to_owned());
    }
    check_http_url(url, "only https://, ssh://, user@host:path, file:// and absolute paths are supported")
}

/// Says what is wrong with the address of a service; never repeats it, which may hold a secret.
pub(super) fn check_service_url(url: &str, bytes_max: usize) -> Result<(), String> {
    if url.len() > bytes_max {
        return Err(format!("the address is longer than {bytes_max} bytes"));
    }
    check_http_url(url, "only https:// is supported, and http:// on loopback")
}

fn check_http_url(url: &str, supported: &str) -> Result<(), String> {
    let loopback = |rest: &str| {
        ["127.0.0.1", "localhost", "[::1]"].iter().any(|h| {
            rest.strip_prefix(h).is_some_and(|after| after.is_empty() || after.starts_with(['/', ':']))
        })
    };
    let (plain, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (false, rest),
        (None, Some(rest)) => (true, rest),
        (None, None) => return Err(supported.to_owned()),
    };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.is_empty() {
        return Err("the address has no host".to_owned());
    }
    if authority.contains('@') {
        return Err("no user name or password in an address; use 'tokenFile'".to_owned());
    }
    if url.contains('#') || url.chars().any(|c| c.is_control() || c == ' ') {
        return Err("no fragment or space in an address".to_owned());
    }
    if plain && !loopback(rest) {
        return Err("plain http:// is for loopback only; use https://".to_owned());
    }
    Ok(())
}
