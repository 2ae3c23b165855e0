//! What is asked of a remote: which refs it has, and packs. Protocol version 2 over any transport, one handshake per
//! [`Link`], no repository and no file of our own. It passes packs on unread: whether one is whole, and whether it
//! holds what was asked for, only the importer can tell.

use std::cell::RefCell;
use std::error::Error as StdError;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use gix_transport::client::blocking_io::{ExtendedBufRead, HandleProgress, Transport, TransportV2Ext as _};
use gix_transport::client::{Capabilities, MessageKind};
use gix_transport::{Protocol, Service, packetline};
use reqwest::Url;

use super::net::{Class, Failure, Net, causes};
use super::{http, pipe, ssh};
use crate::model::{Https, Oid, SshAddress, SshAddressError};

/// The most lines between the request for a pack and the pack. A server that was told `done` has nothing to say
/// there, and millions of forged lines would cost memory.
const HEAD_LINES_MAX: usize = 128;
/// How much of a server's own words is passed on, in characters.
const WORDS_CHARS_MAX: usize = 160;
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

/// Full names of refs, and what they point to.
pub type Refs = Vec<(String, Oid)>;

/// A remote after its handshake.
///
/// Each request takes the link and gives it back only if it can serve another one: after any error transport and
/// handshake are gone (a kept transport answers the next request with the rest of the last one), and a
/// `git-upload-pack` behind pipes, ours or one behind SSH, serves one request only (it remembers refs as they were when
/// it started).
pub struct Link {
    transport: Box<dyn Transport>,
    /// Whether it can serve more than one request.
    lasting: bool,
    net: Rc<Net>,
    /// For people: the host, or the path.
    place: String,
    limits: Limits,
    /// `None` means SHA-1.
    object_format: Option<String>,
}

impl Link {
    /// Connects and shakes hands, once for the life of the link: a second handshake on the same transport would read
    /// the first one's exhausted answer (gix-transport 0.62).
    ///
    /// # Errors
    /// If the address is not usable, the remote cannot be reached, or it does not speak protocol version 2.
    pub fn open(remote: &Remote, net: &Rc<Net>) -> Result<Link, Failure> {
        let limits = remote.limits.clone();
        let (address, place) = address(&remote.url)?;
        net.begin(limits.poll_within, limits.poll_bytes);
        let blamed = |e| blame("reach", &place, net, e);
        let hint = address.old_protocol_hint();
        let (mut transport, lasting) = connect(address, remote, net).map_err(blamed)?;
        let capabilities = shake(&mut *transport, hint).map_err(blamed)?;
        let object_format = capabilities
            .capability("object-format")
            .and_then(|c| c.value().map(ToString::to_string))
            // Who says nothing means SHA-1, and so do we (gitprotocol-v2(5), "object-format").
            .filter(|format| format == "sha256");
        Ok(Link { transport, lasting, net: net.clone(), place, limits, object_format })
    }

    /// Returns the remote's object format, `sha1` or `sha256`.
    pub fn object_format(&self) -> &str {
        self.object_format.as_deref().unwrap_or("sha1")
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
        self.net.begin(self.limits.poll_within, self.limits.poll_bytes);
        let refs = self.list(names).map_err(|e| blame("list the refs of", &self.place, &self.net, e))?;
        Ok((refs, self.lasting.then_some(self)))
    }

    fn list(&mut self, names: &[&str]) -> Result<Refs, Failure> {
        let format = self.object_format.clone();
        let features = format.iter().map(|f| ("object-format", Some(f.as_str())));
        let prefixes = names.iter().map(|name| format!("ref-prefix {name}").into());
        let mut answer =
            self.transport.invoke("ls-refs", features, Some(prefixes), false).map_err(protocol)?;
        let mut found = Refs::new();
        let mut lines = 0;
        while let Some(line) = answer.readline() {
            let line = line.map_err(protocol)?.map_err(protocol)?;
            let line = String::from_utf8_lossy(line.as_slice().unwrap_or_default()).into_owned();
            lines += 1;
            if lines > self.limits.refs {
                let text = format!("it lists more than {} refs", self.limits.refs);
                return Err(Failure::new(Class::Limit, text));
            }
            let Some((name, oid)) = listed(&line, hex_digits(format.as_deref()))? else { continue };
            // A prefix also matches longer names, such as `main2` for `main`.
            if names.contains(&name.as_str()) && !found.iter().any(|(known, _)| *known == name) {
                found.push((name, oid));
            }
        }
        match answer.stopped_at() {
            Some(MessageKind::Flush) => Ok(found),
            _ => Err(Failure::new(Class::Protocol, "the list of refs is not finished")),
        }
    }

    /// Fetches a pack with `want` and all it needs beyond `haves`, in one round, and writes it to the pipe that `open`
    /// returns; `open` is called when the server has agreed. Returns the number of bytes.
    ///
    /// The pack is thin and unchecked. That all of it was passed on says that the server came to the end of its
    /// answer, not that the pack is whole.
    ///
    /// # Errors
    /// If the remote fails, sends more than the limit, or the reader of the pipe goes away.
    pub fn pack(
        mut self,
        want: &Oid,
        haves: &[Oid],
        open: impl FnOnce() -> Result<OwnedFd, Failure>,
    ) -> Result<(u64, Option<Link>), Failure> {
        let framing = FRAMING_BYTES + self.limits.pack_bytes / FRAMING_SHARE;
        self.net.begin(self.limits.pack_within, self.limits.pack_bytes.saturating_add(framing));
        let bytes = self
            .copy_pack(want, haves, open)
            .map_err(|e| blame("fetch a pack from", &self.place, &self.net, e))?;
        Ok((bytes, self.lasting.then_some(self)))
    }

    fn copy_pack(
        &mut self,
        want: &Oid,
        haves: &[Oid],
        open: impl FnOnce() -> Result<OwnedFd, Failure>,
    ) -> Result<u64, Failure> {
        let format = self.object_format.clone();
        if want.as_str().len() != hex_digits(format.as_deref()) {
            let text = format!("its objects have {} ids, not such as '{want}'", self.object_format());
            return Err(Failure::new(Class::Local, text));
        }
        let features = format.iter().map(|f| ("object-format", Some(f.as_str())));
        // `no-progress` saves the server's chatter; its keep-alives (every 5 s) and errors still come.
        let mut arguments: Vec<String> = ["thin-pack", "ofs-delta", "no-progress"].map(Into::into).into();
        arguments.push(format!("want {want}"));
        arguments.extend(haves.iter().map(|have| format!("have {have}")));
        arguments.push("done".to_owned());
        let arguments = arguments.into_iter().map(Into::into);
        let mut answer =
            self.transport.invoke("fetch", features, Some(arguments), false).map_err(protocol)?;
        skip_to_pack(&mut *answer)?;
        let words = Rc::new(RefCell::new(String::new()));
        answer.set_progress_handler(Some(keep_last_words(words.clone())));
        let pipe = |e| Failure::new(Class::Local, format!("the pipe for the pack is not usable: {e}"));
        let mut out = pipe::Writer::new(open()?, &self.net).map_err(pipe)?;
        out.end_with_reader();
        copy(&mut *answer, &mut out, self.limits.pack_bytes).map_err(|e| match words.borrow().as_str() {
            "" => e,
            words => says(words),
        })
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

impl Address {
    /// Returns why a server there may speak an old version of the protocol although it knows the new one.
    fn old_protocol_hint(&self) -> &'static str {
        match self {
            Address::Ssh(_) => ssh::OLD_PROTOCOL_HINT,
            Address::Http(_) | Address::Local(_) => "",
        }
    }
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

/// Returns a transport, and whether it can serve more than one request.
fn connect(address: Address, remote: &Remote, net: &Rc<Net>) -> Result<(Box<dyn Transport>, bool), Failure> {
    match address {
        Address::Local(path) => Ok((Box::new(pipe::upload_pack(&path, net)?), false)),
        Address::Http(url) => {
            let access = http::Access {
                url,
                username: remote.username.clone(),
                token_file: remote.token_file.clone(),
                https: remote.https.clone(),
            };
            Ok((Box::new(http::transport(access, net)?), true))
        }
        Address::Ssh(address) => {
            let access = ssh::Access {
                address,
                key_file: remote.ssh_key_file.clone(),
                known_hosts_file: remote.known_hosts_file.clone(),
            };
            Ok((Box::new(ssh::upload_pack(&access, net)?), false))
        }
    }
}

/// Shakes hands without reading a list of refs: an old server sends all of them at once.
fn shake(transport: &mut dyn Transport, hint: &str) -> Result<Capabilities, Failure> {
    let answer = transport.handshake(Service::UploadPack, &[]).map_err(protocol)?;
    if answer.actual_protocol != Protocol::V2 {
        let text = "the server speaks an old version of Git's protocol; version 2 is needed";
        return Err(Failure::new(Class::Protocol, format!("{text}{hint}")));
    }
    Ok(answer.capabilities)
}

fn hex_digits(object_format: Option<&str>) -> usize {
    if object_format == Some("sha256") { 64 } else { 40 }
}

/// Parses `<id> <name>[ <attribute>…]`, one line of the answer to `ls-refs`; `None` for a branch without a commit.
fn listed(line: &str, digits: usize) -> Result<Option<(String, Oid)>, Failure> {
    refusal(line)?;
    let mut words = line.trim_end().split(' ');
    let (Some(id), Some(name)) = (words.next(), words.next()) else { return Err(unexpected(line)) };
    if id == "unborn" {
        return Ok(None);
    }
    let oid: Oid = id.parse().map_err(|_| unexpected(line))?;
    if oid.as_str().len() != digits {
        return Err(unexpected(line));
    }
    Ok(Some((name.to_owned(), oid)))
}

/// Reads up to the line that announces the pack.
fn skip_to_pack<'a>(answer: &mut (impl ExtendedBufRead<'a> + ?Sized)) -> Result<(), Failure> {
    let mut line = String::new();
    answer.reset(Protocol::V2);
    for _ in 0..HEAD_LINES_MAX {
        line.clear();
        if answer.readline_str(&mut line).map_err(protocol)? == 0 {
            if answer.stopped_at() != Some(MessageKind::Delimiter) {
                return Err(Failure::new(Class::Protocol, "the server sends no pack"));
            }
            answer.reset(Protocol::V2);
            continue;
        }
        refusal(&line)?;
        match line.trim_end() {
            "packfile" => return Ok(()),
            "acknowledgments" | "ready" | "NAK" => {}
            common if common.starts_with("ACK ") => {}
            // Not asked for: only a server that lacks history itself says this.
            "shallow-info" => return Err(Failure::new(Class::Shallow, "it has no complete history")),
            _ => return Err(unexpected(&line)),
        }
    }
    Err(Failure::new(Class::Limit, "too many lines before the pack"))
}

/// Keeps the last words of a server that fails, and stops reading: gitoxide would skip them and go on.
/// Setting a handler is also what turns the decoding of side bands on.
fn keep_last_words<'a>(words: Rc<RefCell<String>>) -> HandleProgress<'a> {
    Box::new(move |fatal, text| {
        if !fatal {
            return ControlFlow::Continue(());
        }
        *words.borrow_mut() = String::from_utf8_lossy(text).into_owned();
        ControlFlow::Break(())
    })
}

fn copy<'a>(
    answer: &mut (impl ExtendedBufRead<'a> + ?Sized),
    out: &mut impl Write,
    max: u64,
) -> Result<u64, Failure> {
    let mut total = 0;
    loop {
        let buffer = answer.fill_buf().map_err(protocol)?;
        let n = buffer.len();
        if n == 0 {
            break;
        }
        total += n as u64;
        if total > max {
            return Err(Failure::new(Class::Limit, format!("the pack is larger than {max} bytes")));
        }
        let unread = |e| Failure::new(Class::Cancelled, format!("the pack cannot be passed on: {e}"));
        out.write_all(buffer).map_err(unread)?;
        answer.consume(n);
    }
    // A connection that just ends is an error above; only a flush packet says that the server was done.
    match answer.stopped_at() {
        Some(MessageKind::Flush) => Ok(total),
        _ => Err(Failure::new(Class::Protocol, "the pack is not finished")),
    }
}

/// A server refuses by a line of its own in place of any other.
fn refusal(line: &str) -> Result<(), Failure> {
    match line.strip_prefix("ERR ") {
        Some(words) => Err(says(words)),
        None => Ok(()),
    }
}

fn says(words: &str) -> Failure {
    Failure::new(Class::Refused, format!("the server says '{}'", shown(words)))
}

fn unexpected(line: &str) -> Failure {
    Failure::new(Class::Protocol, format!("the server sent an unexpected line '{}'", shown(line)))
}

/// Makes a server's words fit to be shown.
pub(super) fn shown(words: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    words.trim().chars().take(WORDS_CHARS_MAX).map(printable).collect()
}

/// What gitoxide reports, in one line, when nothing of ours failed before.
fn protocol(error: impl StdError + 'static) -> Failure {
    if let Some(refused) = causes(&error).find_map(|e| e.downcast_ref::<packetline::read::Error>()) {
        return says(&refused.message.to_string());
    }
    let mut text = String::from("the server's answer is not understood");
    for cause in causes(&error).map(|e| shown(&e.to_string())) {
        // Some errors repeat their causes.
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    Failure::new(Class::Protocol, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn lines_of_refs_parse_or_say_why_not() {
        let main = |line: &str| listed(line, 40).map(|found| found.map(|(name, _)| name));
        let named = Ok(Some("refs/heads/main".to_owned()));
        assert_eq!(main(&format!("{A} refs/heads/main\n")), named);
        assert_eq!(main(&format!("{A} refs/heads/main symref-target:refs/heads/x peeled:{A}")), named);
        assert_eq!(main("unborn HEAD symref-target:refs/heads/main"), Ok(None));
        for bad in ["", A, &format!("{} refs/heads/main", &A[1..]), &format!("{A}{A} x"), "\u{fffd} \u{fffd}"]
        {
            assert_eq!(main(bad).map_err(|e| e.class), Err(Class::Protocol), "{bad}");
        }
        let refused = listed("ERR access denied or repository not exported: /x\n", 40);
        assert_eq!(
            refused,
            Err(Failure::new(
                Class::Refused,
                "the server says 'access denied or repository not exported: /x'"
            ))
        );
    }

    #[test]
    fn a_server_speaks_in_one_short_line() {
        assert_eq!(shown("a\r\n\u{1b}[31mb\n"), "a   [31mb");
        assert_eq!(shown(&"x".repeat(1000)).len(), WORDS_CHARS_MAX);
    }
}
