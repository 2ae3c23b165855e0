//! SSH remotes: `git-upload-pack` at the other end of the host's own `ssh`, which is told everything it needs and reads
//! no configuration, no agent and no home directory. It knows nothing of refs or packs, and says what went wrong in
//! the words of `ssh`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::net::{Class, Failure, Net};
use super::pipe;
use super::remote::shown;
use super::talk::Piped;
use crate::host::command::Command;
use crate::model::{SshAddress, is_plain_file};

/// What `ssh` is told every time. The numbers are seconds, and below the idle time of a [`Net`].
const OPTIONS: [&str; 17] = [
    // Never asks anybody.
    "BatchMode=yes",
    // One way in: the key that was configured.
    "PreferredAuthentications=publickey",
    "IdentitiesOnly=yes",
    "IdentityAgent=none",
    "PKCS11Provider=none",
    // One way to know the host: the file that was configured. Nothing is learnt.
    "StrictHostKeyChecking=yes",
    "GlobalKnownHostsFile=/dev/null",
    "UpdateHostKeys=no",
    "VerifyHostKeyDNS=no",
    "CheckHostIP=no",
    // Nothing but the one command.
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
    "ControlPath=none",
    // The first covers the key exchange too, but no name lookup, which the idle time bounds.
    "ConnectTimeout=15",
    "ServerAliveInterval=10",
    "ServerAliveCountMax=2",
    // Carries the wish for protocol version 2, as Git has it.
    "SendEnv=GIT_PROTOCOL",
];
/// How many of the last lines before the end are looked at.
const LINES_MAX: usize = 32;

/// Where an SSH remote is, how to get in, and how to know it.
#[derive(Debug, Clone)]
pub(super) struct Access {
    /// The repository.
    pub(super) address: SshAddress,
    /// The private key, without a passphrase.
    pub(super) key_file: Option<PathBuf>,
    /// The host keys that are accepted.
    pub(super) known_hosts_file: Option<PathBuf>,
}

/// Starts `git-upload-pack` at the other end. It serves one poll or one pack, then it is to be dropped.
///
/// # Errors
/// If a file is not given or not usable, or there is no `ssh`.
pub(super) fn upload_pack(access: &Access, net: &Rc<Net>) -> Result<Piped, Failure> {
    let key = plain(access.key_file.as_deref(), "private key")?;
    let hosts = plain(access.known_hosts_file.as_deref(), "known_hosts")?;
    // `ssh` takes a file that is not there for an empty one, and says nothing of it.
    File::open(hosts)
        .map_err(|e| Failure::new(Class::Local, format!("the host keys in '{hosts}' cannot be read: {e}")))?;
    Command::new("ssh")
        .bare_env()
        .env("GIT_PROTOCOL", "version=2")
        .args(arguments(&access.address, key, hosts))
        .arg(access.address.upload_pack())
        .converse()
        .and_then(|child| pipe::talk(child, net, explain))
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Failure::new(Class::Local, "there is no program 'ssh' in the PATH"),
            _ => Failure::new(Class::Local, format!("ssh cannot be run: {e}")),
        })
}

/// Returns the name of a file that means the same to `ssh` as to us.
fn plain<'a>(file: Option<&'a Path>, what: &str) -> Result<&'a str, Failure> {
    let local = |text: String| Failure::new(Class::Local, text);
    let file = file.ok_or_else(|| local(format!("no {what} file is configured, and ssh needs one")))?;
    let odd = || local(format!("the name of the {what} file is not one that ssh takes as it stands"));
    file.to_str().filter(|name| is_plain_file(name)).ok_or_else(odd)
}

/// Everything that stands before the remote command.
fn arguments(address: &SshAddress, key: &str, hosts: &str) -> Vec<String> {
    // No configuration; no terminal, no display, no agent for the other end.
    let mut arguments: Vec<String> = ["-F", "none", "-T", "-x", "-a"].map(Into::into).into();
    // With `-i`, a file that is not there would be forgotten and the keys in the home directory tried.
    let files = [format!("IdentityFile={key}"), format!("UserKnownHostsFile={hosts}")];
    for option in OPTIONS.map(Into::into).into_iter().chain(files) {
        arguments.extend(["-o".to_owned(), option]);
    }
    arguments.extend(["-p".to_owned(), address.port().to_string(), "-l".to_owned()]);
    arguments.extend([address.user(), "--", address.host()].map(Into::into));
    arguments
}

/// What a line stands for, by a part of it, the most telling first. `ssh` and the program at the other end write to the
/// same place; the lines of forges are as GitHub, Gitea and Forgejo, and GitLab have them.
const MEANINGS: [(&str, Class); 21] = [
    ("host key is known for", Class::Tls),
    ("has changed and you have requested strict checking", Class::Tls),
    ("was revoked and you have requested strict checking", Class::Tls),
    ("Host key verification failed", Class::Tls),
    ("Unable to negotiate with", Class::Tls),
    ("Could not resolve hostname", Class::Dns),
    ("Load key ", Class::Local),
    ("no such identity: ", Class::Local),
    ("No user exists for uid", Class::Local),
    ("Bad configuration option", Class::Local),
    ("Permission denied (", Class::Auth),
    ("Too many authentication failures", Class::Auth),
    ("timed out", Class::Timeout),
    ("Timeout, server", Class::Timeout),
    ("ssh: connect to host", Class::Network),
    ("Connection closed by", Class::Network),
    ("Connection reset by", Class::Network),
    ("does not appear to be a git repository", Class::NotFound),
    ("epository not found", Class::NotFound),
    ("annot find repository", Class::NotFound),
    ("could not be found", Class::NotFound),
];
/// What `ssh` says of a host key when somebody is there to be told how strict he is.
const ASIDE: &str = " and you have requested strict checking";

/// Says why `ssh` ended, in its own words or those of the program at the other end.
fn explain(words: &str) -> Failure {
    let lines: Vec<&str> = words.lines().map(readable).filter(|line| !line.is_empty()).collect();
    let lines = &lines[lines.len().saturating_sub(LINES_MAX)..];
    let telling = |(part, class): &(&str, Class)| Some((*class, *lines.iter().find(|l| l.contains(part))?));
    let (class, line) = match (MEANINGS.iter().find_map(telling), lines.last()) {
        (Some(known), _) => known,
        (None, Some(last)) => (Class::Refused, *last),
        (None, None) => return Failure::new(Class::Network, "ssh ended without a word"),
    };
    let who = match class {
        Class::Refused | Class::NotFound => "the server",
        _ => "ssh",
    };
    Failure::new(class, format!("{who} says '{}'{}", shown(&line.replacen(ASIDE, "", 1)), hint(class, line)))
}

/// Takes away what forges put before a line, and lines that only underline.
fn readable(line: &str) -> &str {
    let line = line.trim().trim_start_matches("remote:").trim();
    if line.contains(|c: char| c.is_ascii_alphanumeric()) { line } else { "" }
}

/// Returns what to do where the words alone do not say it.
fn hint(class: Class, line: &str) -> &'static str {
    match class {
        // Never trusted on first use: whoever sits in between would answer just as well.
        Class::Tls if line.contains("ost key") && !line.contains("revoked") => {
            "; verify its key (ssh-keyscan) before you put it in knownHostsFile"
        }
        Class::Auth => "; is the public key known there? a passphrase can't be asked for",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What OpenSSH 9.2 and forges write, and what we make of it.
    #[test]
    fn the_telling_line_is_found() {
        let frame = "@@@@@@@@\r\n";
        let changed = "Host key for h has changed and you have requested strict checking.\r\n";
        let failed = "Host key verification failed.\r\n";
        let gitlab = "remote: \nremote: ======\nremote: \nremote: ERROR: The project you were looking for could not be \
                      found or you don't have permission to view it.\nremote: \nremote: ======\n";
        let denied = "git@h: Permission denied (publickey).\r\n";
        let table = [
            (format!("{frame}IT IS POSSIBLE\r\n{changed}{failed}"), Class::Tls, "says 'Host key for h has changed.'; verify"),
            (
                format!("ED25519 host key for h was revoked and you have requested strict checking.\r\n{failed}"),
                Class::Tls,
                "ssh says 'ED25519 host key for h was revoked.'",
            ),
            (failed.to_owned(), Class::Tls, "says 'Host key verification failed.'; verify"),
            ("Unable to negotiate with ::1 port 1: no matching cipher found.".to_owned(), Class::Tls, "cipher found.'"),
            (format!("Load key \"/k\": bad permissions\r\n{denied}"), Class::Local, "ssh says 'Load key \"/k\": bad"),
            (denied.to_owned(), Class::Auth, "'git@h: Permission denied (publickey).'; is the public key"),
            ("ssh: connect to host h port 22: Connection timed out\r\n".to_owned(), Class::Timeout, "port 22: "),
            ("ssh: connect to host h port 22: No route to host\r\n".to_owned(), Class::Network, "No route"),
            ("kex_exchange_identification: read: Connection reset by peer\r\nConnection reset by ::1 port 2\r\n".to_owned(), Class::Network, "kex_"),
            (gitlab.to_owned(), Class::NotFound, "the server says 'ERROR: The project"),
            ("ERROR: Repository not found.\n".to_owned(), Class::NotFound, "'ERROR: Repository not found.'"),
            ("Welcome!\nremote: maintenance until noon\n\n".to_owned(), Class::Refused, "the server says 'maintenance until noon'"),
            ("\u{1b}[31mred\u{7}\n".to_owned(), Class::Refused, "says ' [31mred '"),
            (String::new(), Class::Network, "without a word"),
            ("\r\n \n".to_owned(), Class::Network, "without a word"),
        ];
        for (words, class, text) in table {
            let failure = explain(&words);
            assert_eq!(failure.class, class, "{failure}");
            assert!(failure.text.contains(text), "{failure}");
        }
    }

    #[test]
    fn ssh_gets_the_command_last_and_as_one_word() {
        let address = "ssh://git@[::1]:2222/it's".parse().unwrap();
        let arguments = arguments(&address, "/k", "/h");
        assert_eq!(arguments[..3], ["-F", "none", "-T"]);
        assert_eq!(arguments[arguments.len() - 6..], ["-p", "2222", "-l", "git", "--", "::1"]);
        for option in ["IdentityFile=/k", "UserKnownHostsFile=/h", "StrictHostKeyChecking=yes"] {
            let at = arguments.iter().position(|a| a == option).unwrap();
            assert_eq!(arguments[at - 1], "-o", "{option}");
        }
    }
}
