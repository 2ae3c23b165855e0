//! What is asked of a remote: which refs it has, and packs. Protocol version 2, or an old one, over any transport, one
//! greeting per [`Link`], no repository and no file of our own. It passes packs on unread: whether one is whole, and
//! whether it holds what was asked for, only the importer can tell.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use reqwest::Url;

use super::net::{Class, Failure, Net};
use super::old::{self, Old, Sought};
use super::talk::{Lines, Smart, Talk};
use super::v2::V2;
use super::words::{self, hex_digits, next, protocol};
use super::{http, pipe, ssh};
use crate::model::{Https, Oid, OldProtocol, SshAddress, SshAddressError};

pub(super) use super::words::shown;

/// What packet lines and the lines before the pack may add to a pack: a fixed part and this share of it.
const FRAMING_BYTES: u64 = 64 * 1024;
const FRAMING_SHARE: u64 = 64;

/// One remote repository and what it may cost.
#[derive(Debug, Clone)]
pub struct Remote {
    /// `https://…`, `http://` on loopback, `ssh://user@host/path`, `user@host:path`, `file://…` or an absolute path.
    pub url: String,
    /// The user name that goes with the token.
    pub username: String,
    /// The file that holds the token.
    pub token_file: Option<PathBuf>,
    /// How an HTTPS server is reached and believed.
    pub https: Https,
    /// The private key for an SSH remote, without a passphrase.
    pub ssh_key_file: Option<PathBuf>,
    /// The host keys that are accepted of an SSH remote, as in `known_hosts`.
    pub known_hosts_file: Option<PathBuf>,
    /// What the remote may cost.
    pub limits: Limits,
}

/// What one remote may cost. How long it may be silent is a property of the [`Net`].
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most refs one answer may list.
    pub refs: usize,
    /// The largest answer to a handshake or to a question for refs, in bytes.
    pub poll_bytes: u64,
    /// The largest pack, in bytes.
    pub pack_bytes: u64,
    /// How long a handshake, or a question for refs, may take.
    pub poll_within: Duration,
    /// How long a pack may take.
    pub pack_within: Duration,
}

/// What a remote said of its refs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refs {
    /// Full names of those asked for that it has, and what they point to.
    pub found: Vec<(String, Oid)>,
    /// What the answer cost if the server speaks an old version of the protocol.
    pub old: Option<OldProtocol>,
}

/// A remote after its greeting.
///
/// Each request takes the link and gives it back only if it can serve another one: after any error all of it is gone (a
/// kept talk answers the next request with the rest of the last one), and a `git-upload-pack` behind pipes, ours or one
/// behind SSH, serves one request only (it remembers refs as they were when it started).
pub struct Link {
    talk: Box<dyn Talk>,
    speaks: Version,
    net: Rc<Net>,
    /// For people: the host, or the path.
    place: String,
    limits: Limits,
}

enum Version {
    Two(V2),
    Old(Old),
}

/// A pack to ask for.
#[derive(Debug, Clone, Copy)]
pub struct Want<'a> {
    /// The object that is wanted.
    pub oid: &'a Oid,
    /// What is there already, so that the pack can be thin.
    pub haves: &'a [Oid],
    /// Full names of refs that may be asked for in place of the object, as it is behind one of them, where a server gives
    /// nothing but what its refs point to: an old one does so. Empty: exactly the object is asked for.
    pub or_behind: &'a [&'a str],
}

impl Link {
    /// Connects and is greeted.
    ///
    /// # Errors
    /// If the address is not usable, the remote cannot be reached, or it does not speak Git's protocol.
    pub fn open(remote: &Remote, net: &Rc<Net>) -> Result<Link, Failure> {
        let limits = remote.limits.clone();
        let (address, place) = address(&remote.url)?;
        net.begin(limits.poll_within, limits.poll_bytes);
        let talk = connect(address, remote, net);
        let greeted = talk.and_then(|mut talk| Ok((greet(&mut *talk)?, talk)));
        let (speaks, talk) = greeted.map_err(|e| blame("reach", &place, net, e))?;
        Ok(Link { talk, speaks, net: net.clone(), place, limits })
    }

    /// Returns the remote's object format, `sha1` or `sha256`.
    pub fn object_format(&self) -> &str {
        self.said_format().unwrap_or("sha1")
    }

    /// Asks which of the refs `names` (full names, compared exactly) exist, and what they point to.
    ///
    /// Annotated tags are not peeled and symbolic refs not followed by name: what counts is the object that the
    /// ref stands for. A branch without a commit does not exist.
    ///
    /// # Errors
    /// If the remote fails or answers beyond the limits.
    pub fn ls_refs(mut self, names: &[&str]) -> Result<(Refs, Option<Link>), Failure> {
        if names.is_empty() {
            // Without a prefix the server would list everything it has.
            return Err(Failure::new(Class::Local, "there is no ref to ask for"));
        }
        let refs = self.list(names).map_err(|e| blame("list the refs of", &self.place, &self.net, e))?;
        Ok((refs, self.keep()))
    }

    /// Fetches a pack, in one round, and writes it to the pipe that `open` returns; `open` is called when the server has
    /// agreed. Returns the number of bytes.
    ///
    /// The pack is thin and unchecked. That all of it was passed on says that the server came to the end of its
    /// answer, not that the pack is whole.
    ///
    /// # Errors
    /// If the remote fails, sends more than the limit, or the reader of the pipe goes away.
    pub fn pack(
        mut self,
        want: &Want<'_>,
        open: impl FnOnce() -> Result<OwnedFd, Failure>,
    ) -> Result<(u64, Option<Link>), Failure> {
        let bytes =
            self.copy_pack(want, open).map_err(|e| blame("fetch a pack from", &self.place, &self.net, e))?;
        Ok((bytes, self.keep()))
    }

    /// Returns the link if it can serve another request.
    fn keep(mut self) -> Option<Link> {
        (self.talk.lasts() && self.talk.finish().is_ok()).then_some(self)
    }

    fn said_format(&self) -> Option<&str> {
        match &self.speaks {
            Version::Two(v2) => v2.object_format.as_deref(),
            Version::Old(old) => old.object_format(),
        }
    }

    fn list(&mut self, names: &[&str]) -> Result<Refs, Failure> {
        self.net.begin(self.limits.poll_within, self.limits.poll_bytes);
        self.have_list_follow()?;
        match &mut self.speaks {
            Version::Two(v2) => {
                let found = v2.list(&mut *self.talk, names, self.limits.refs)?;
                Ok(Refs { found, old: None })
            }
            Version::Old(_) => {
                let listed = self.read_list(Sought { names, oid: None })?;
                Ok(Refs { found: listed.refs, old: Some(listed.cost) })
            }
        }
    }

    /// Has an old server begin again unless its list of refs comes next anyway. It may have learnt version 2 since.
    fn have_list_follow(&mut self) -> Result<(), Failure> {
        if matches!(&self.speaks, Version::Old(old) if !old.list_follows) {
            self.speaks = greet(&mut *self.talk)?;
        }
        Ok(())
    }

    /// Reads the list of an old server, with bounds of its own: it has every ref in it.
    fn read_list(&mut self, sought: Sought<'_>) -> Result<old::Listed, Failure> {
        self.net.begin(self.limits.poll_within, self.limits.poll_bytes.max(old::LIST_BYTES_MAX));
        match &mut self.speaks {
            Version::Old(old) if old.list_follows => old.list(self.talk.lines()?, sought),
            Version::Old(_) | Version::Two(_) => {
                Err(Failure::new(Class::Protocol, "the server does not list its refs"))
            }
        }
    }

    fn copy_pack(
        &mut self,
        want: &Want<'_>,
        open: impl FnOnce() -> Result<OwnedFd, Failure>,
    ) -> Result<u64, Failure> {
        if want.oid.as_str().len() != hex_digits(self.said_format()) {
            let text = format!("its objects have {} ids, not such as '{}'", self.object_format(), want.oid);
            return Err(Failure::new(Class::Local, text));
        }
        let wants = self.wants(want)?;
        let framing = FRAMING_BYTES + self.limits.pack_bytes / FRAMING_SHARE;
        self.net.begin(self.limits.pack_within, self.limits.pack_bytes.saturating_add(framing));
        let answer = match &self.speaks {
            Version::Two(v2) => v2.pack(&mut *self.talk, want.oid, want.haves)?,
            Version::Old(old) => old.pack(&mut *self.talk, &wants, want.haves)?,
        };
        let pipe = |e| Failure::new(Class::Local, format!("the pipe for the pack is not usable: {e}"));
        let mut out = pipe::Writer::new(open()?, &self.net).map_err(pipe)?;
        out.end_with_reader();
        words::copy(answer, &mut out, self.limits.pack_bytes)
    }

    /// Returns what to ask an old server for, after reading its list where that is due.
    fn wants(&mut self, want: &Want<'_>) -> Result<Vec<Oid>, Failure> {
        if !want.or_behind.is_empty() {
            self.net.begin(self.limits.poll_within, self.limits.poll_bytes);
            self.have_list_follow()?;
        }
        let wanted = || vec![want.oid.clone()];
        match &self.speaks {
            Version::Old(old) if old.list_follows => {}
            Version::Old(_) | Version::Two(_) => return Ok(wanted()),
        }
        let listed = self.read_list(Sought { names: want.or_behind, oid: Some(want.oid) })?;
        if listed.has_oid || want.or_behind.is_empty() {
            return Ok(wanted());
        }
        if listed.refs.is_empty() {
            let text = format!("it has no branch that could lead to '{}'", want.oid);
            return Err(Failure::new(Class::NotFound, text));
        }
        Ok(listed.refs.into_iter().map(|(_, oid)| oid).collect())
    }
}

/// Adds operation and object to what went wrong; what our own code remembered is more exact than what library code
/// made of it.
fn blame(operation: &str, place: &str, net: &Net, failure: Failure) -> Failure {
    let Failure { class, text } = net.failure().unwrap_or(failure);
    Failure::new(class, format!("failed to {operation} '{place}': {text}"))
}

enum Address {
    Http(Url),
    Ssh(SshAddress),
    Local(PathBuf),
}

/// Returns where a URL leads, and what of it may be shown.
fn address(url: &str) -> Result<(Address, String), Failure> {
    if let Some(path) = Some(url.strip_prefix("file://").unwrap_or(url)).filter(|p| p.starts_with('/')) {
        return Ok((Address::Local(path.into()), path.to_owned()));
    }
    // Nothing of it is shown: in a URL that does not parse, nobody knows what is a password.
    let unusable = |why: String| Failure::new(Class::Local, format!("the remote's url is not usable: {why}"));
    if SshAddress::is_meant_by(url) {
        let address: SshAddress = url.parse().map_err(|e: SshAddressError| unusable(e.to_string()))?;
        let place = address.to_string();
        return Ok((Address::Ssh(address), place));
    }
    let url = Url::parse(url).map_err(|e| unusable(e.to_string()))?;
    match (url.scheme(), url.host_str()) {
        ("https" | "http", Some(host)) => {
            let place = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
            Ok((Address::Http(url), place))
        }
        (scheme, _) => Err(unusable(format!("'{scheme}' is not supported"))),
    }
}

fn connect(address: Address, remote: &Remote, net: &Rc<Net>) -> Result<Box<dyn Talk>, Failure> {
    match address {
        Address::Local(path) => Ok(Box::new(pipe::upload_pack(&path, net)?)),
        Address::Http(url) => {
            let base = url.to_string();
            let access = http::Access {
                url,
                username: remote.username.clone(),
                token_file: remote.token_file.clone(),
                https: remote.https.clone(),
            };
            Ok(Box::new(Smart::new(http::client(access, net)?, &base)))
        }
        Address::Ssh(address) => {
            let access = ssh::Access {
                address,
                key_file: remote.ssh_key_file.clone(),
                known_hosts_file: remote.known_hosts_file.clone(),
            };
            Ok(Box::new(ssh::upload_pack(&access, net)?))
        }
    }
}

/// Has the server begin, and learns from its first lines what it speaks.
fn greet(talk: &mut dyn Talk) -> Result<Version, Failure> {
    let lines = talk.greet()?;
    match version(lines)?.as_deref() {
        Some("2") => {
            next(lines)?;
            Ok(Version::Two(V2::read(lines)?))
        }
        Some("1") => {
            next(lines)?;
            Ok(Version::Old(Old::read(lines)?))
        }
        Some(other) => {
            let text = format!("the server speaks version '{}' of Git's protocol", shown(other));
            Err(Failure::new(Class::Protocol, text))
        }
        None => Ok(Version::Old(Old::read(lines)?)),
    }
}

/// Returns the version that the next line names; servers of version 0 name none.
fn version(lines: &mut Lines) -> Result<Option<String>, Failure> {
    let Some(line) = lines.peek_line() else { return Ok(None) };
    let line = words::text(line.map_err(protocol)?.map_err(protocol)?)?;
    Ok(line.strip_prefix("version ").map(str::to_owned))
}
