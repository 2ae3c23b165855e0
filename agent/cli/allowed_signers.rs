//! `pullagent allowed-signers`: the signers of the configuration as the files that Git and OpenSSH read, so that
//! `git log --show-signature` and `git verify-commit` know the keys that this host knows.

use serde::Serialize;

use super::Options;
use super::exit::{Exit, Fail};
use super::output;
use crate::trust::{ListedKey, Policy};

const AFTER_HELP: &str = "\
Examples:
  pullagent allowed-signers --config web1.json > allowed-signers
  pullagent allowed-signers --config web1.json --revoked > revoked-signers
  git config gpg.ssh.allowedSignersFile \"$PWD/allowed-signers\"
  git config gpg.ssh.revocationFile \"$PWD/revoked-signers\"

Git judges one commit by its key. It knows nothing of roles, test hosts, Deploy-To and what came before; it compares the \
time in which a key counts with the date that the commit claims; and it accepts security keys that nobody touched. Only \
'pullagent verify' judges as a host does. Keys with such a time need OpenSSH 9.1.";

/// The last second that OpenSSH's format can write: 9999-12-31 23:59:59 UTC.
const WRITABLE_MAX: u64 = 253_402_300_799;

/// What to print.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// Print the revoked keys instead, for gpg.ssh.revocationFile
    #[arg(long)]
    revoked: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    signer: &'a str,
    key: String,
    valid_from: Option<u64>,
    valid_until: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Keys<'a> {
    schema: u32,
    allowed: Vec<Listed<'a>>,
    revoked: Vec<String>,
}

/// Prints one of the files, or both as JSON.
pub fn run(options: &Options, args: &Args) -> Result<Exit, Fail> {
    let policy = options.settings()?.policy()?;
    if options.json {
        output::print_json(&keys(&policy))?;
    } else if args.revoked {
        output::print(&revoked(&policy))?;
    } else {
        output::print(&allowed(&policy))?;
    }
    Ok(Exit::Ok)
}

fn keys(policy: &Policy) -> Keys<'_> {
    let listed = |(signer, listed): (_, &ListedKey)| Listed {
        signer,
        key: listed.public.to_string(),
        valid_from: listed.valid_from,
        valid_until: listed.valid_until,
    };
    let revoked = policy.revoked().iter().map(ToString::to_string).collect();
    Keys { schema: 1, allowed: counting(policy).map(listed).collect(), revoked }
}

/// The keys that count, with whose they are. A revoked one is left out, and so refused even where Git is not told of
/// the revoked ones: it only warns when that file is missing.
fn counting(policy: &Policy) -> impl Iterator<Item = (&str, &ListedKey)> {
    let all = policy.signers().iter().flat_map(|s| s.keys.iter().map(|key| (s.name.as_str(), key)));
    all.filter(|(_, key)| !policy.revoked().contains(&key.public))
}

fn allowed(policy: &Policy) -> String {
    counting(policy)
        .map(|(signer, key)| format!("{} {} {}\n", principal(signer), options_of(key), key.public))
        .collect()
}

fn revoked(policy: &Policy) -> String {
    policy.revoked().iter().map(|key| format!("{key}\n")).collect()
}

/// A name as OpenSSH can take it: no blanks, no commas, nothing that is a pattern.
fn principal(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "@._+-".contains(c);
    let name: String = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
    if name.starts_with('-') { format!("_{name}") } else { name }
}

/// Both ends of OpenSSH's window belong to it; of ours, the end does not.
fn options_of(key: &ListedKey) -> String {
    let mut options = "namespaces=\"git\"".to_owned();
    if let Some(from) = key.valid_from.filter(|from| *from > 0) {
        options.push_str(&format!(",valid-after=\"{}\"", stamp(from.min(WRITABLE_MAX))));
    }
    if let Some(until) = key.valid_until.filter(|until| *until <= WRITABLE_MAX) {
        options.push_str(&format!(",valid-before=\"{}\"", stamp(until.saturating_sub(1))));
    }
    options
}

/// `YYYYMMDDHHMMSSZ`
fn stamp(unix_secs: u64) -> String {
    let time = jiff::Timestamp::from_second(i64::try_from(unix_secs).unwrap_or(i64::MAX));
    time.unwrap_or(jiff::Timestamp::MAX).strftime("%Y%m%d%H%M%SZ").to_string()
}
