//! Talking with `git-upload-pack` in packet lines, over HTTP or over the pipes of a child. It knows what a request and
//! an answer are, nothing of what is said in them.

use std::io::{self, BufRead, BufReader, Write};

use gix_transport::client::blocking_io::http::{Http, PostBodyDataKind};
use gix_transport::packetline::PacketLineRef;
use gix_transport::packetline::blocking_io::StreamingPeekableIter;

use super::http::Client;
use super::net::{Class, Failure};
use super::pipe::{Input, Output};
use super::words::{Said, next, protocol};

/// What the server says, one packet line after the other.
pub(super) type Lines = StreamingPeekableIter<Box<dyn BufRead>>;

/// The kinds of packets at which an answer pauses.
const ENDS: &[PacketLineRef<'static>] = &[PacketLineRef::Flush];
/// The kinds of packets at which an answer of version 2 pauses.
pub(super) const ENDS_OF_V2: &[PacketLineRef<'static>] = &[PacketLineRef::Delimiter, PacketLineRef::Flush];
/// The service, as HTTP has it.
const SERVICE: &str = "git-upload-pack";
/// The wish for version 2. A server that does not know it, or does not hear it, speaks an old one.
const VERSION_2: &str = "Git-Protocol: version=2";

/// One talk with a server. After any error it is to be dropped.
pub(super) trait Talk {
    /// Has the server begin: with what it can do and, if it is an old one, all its refs.
    fn greet(&mut self) -> Result<&mut Lines, Failure>;

    /// Returns what the server says, where we are in it.
    fn lines(&mut self) -> Result<&mut Lines, Failure>;

    /// Sends a request, in version 2 or an old one, and returns the answer. All that was said before must have been read.
    fn ask(&mut self, request: &[u8], version_2: bool) -> Result<&mut Lines, Failure>;

    /// Looks whether the last answer is over: what comes behind it would be taken for the next.
    fn finish(&mut self) -> Result<(), Failure>;

    /// Whether it can begin again and take more than one request. Then each request is served without memory of those
    /// before; otherwise a process at the other end remembers the refs as they were when it started.
    fn lasts(&self) -> bool;
}

fn lines(from: Box<dyn BufRead>) -> Lines {
    let mut lines = StreamingPeekableIter::new(from, ENDS, false);
    lines.fail_on_err_lines(true);
    lines
}

/// Over the pipes of a child.
pub(super) struct Piped {
    lines: Lines,
    input: Input,
}

impl Piped {
    pub(super) fn new(output: BufReader<Output>, input: Input) -> Piped {
        Piped { lines: lines(Box::new(output)), input }
    }
}

impl Talk for Piped {
    fn greet(&mut self) -> Result<&mut Lines, Failure> {
        self.lines()
    }

    fn lines(&mut self) -> Result<&mut Lines, Failure> {
        Ok(&mut self.lines)
    }

    fn ask(&mut self, request: &[u8], _version_2: bool) -> Result<&mut Lines, Failure> {
        self.input.write_all(request).map_err(protocol)?;
        self.lines.reset();
        self.lines()
    }

    fn finish(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    fn lasts(&self) -> bool {
        false
    }
}

/// Over HTTP.
pub(super) struct Smart {
    client: Client,
    /// The repository's URL.
    base: String,
    /// The last answer.
    lines: Option<Lines>,
}

impl Smart {
    pub(super) fn new(client: Client, base: &str) -> Smart {
        Smart { client, base: base.trim_end_matches('/').to_owned(), lines: None }
    }
}

impl Talk for Smart {
    fn greet(&mut self) -> Result<&mut Lines, Failure> {
        self.finish()?;
        let url = format!("{}/info/refs?service={SERVICE}", self.base);
        let answer = self.client.get(&url, &self.base, [VERSION_2]).map_err(protocol)?;
        expect_kind(answer.headers, "advertisement")?;
        let lines = self.lines.insert(lines(Box::new(answer.body)));
        skip_service(lines)?;
        self.lines()
    }

    fn lines(&mut self) -> Result<&mut Lines, Failure> {
        self.lines.as_mut().ok_or_else(|| Failure::new(Class::Protocol, "the server was not asked"))
    }

    fn ask(&mut self, request: &[u8], version_2: bool) -> Result<&mut Lines, Failure> {
        self.finish()?;
        let url = format!("{}/{SERVICE}", self.base);
        let kind = format!("Content-Type: application/x-{SERVICE}-request");
        // A server that has learnt version 2 since takes a request without this line for one of version 0.
        let headers = [kind.as_str()].into_iter().chain(version_2.then_some(VERSION_2));
        let body = PostBodyDataKind::BoundedAndFitsIntoMemory;
        let mut answer = self.client.post(&url, &self.base, headers, body).map_err(protocol)?;
        answer.post_body.write_all(request).map_err(protocol)?;
        drop(answer.post_body);
        expect_kind(answer.headers, "result")?;
        Ok(self.lines.insert(lines(Box::new(answer.body))))
    }

    fn finish(&mut self) -> Result<(), Failure> {
        let Some(mut lines) = self.lines.take() else { return Ok(()) };
        match lines.inner_mut().fill_buf().map_err(protocol)?.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(Class::Protocol, "the server said more than belongs to its answer")),
        }
    }

    fn lasts(&self) -> bool {
        true
    }
}

/// Refuses an answer that is not of Git's smart protocol.
fn expect_kind(headers: impl BufRead, kind: &str) -> Result<(), Failure> {
    let expected = format!("application/x-{SERVICE}-{kind}");
    let lines = headers.lines().collect::<io::Result<Vec<_>>>().map_err(protocol)?;
    let is_expected = |line: &String| {
        let header = line.split_once(':');
        header.is_some_and(|(name, value)| {
            name.eq_ignore_ascii_case("content-type") && value.trim() == expected
        })
    };
    if lines.iter().any(is_expected) {
        return Ok(());
    }
    Err(Failure::new(Class::Protocol, format!("the answer is not of content type '{expected}'")))
}

/// Over HTTP some begin with the name of the service.
fn skip_service(lines: &mut Lines) -> Result<(), Failure> {
    let Some(first) = lines.peek_line() else { return Ok(()) };
    let first = first.map_err(protocol)?.map_err(protocol)?;
    if !first.as_slice().is_some_and(|line| line.starts_with(b"# service=")) {
        return Ok(());
    }
    match next(lines)? {
        Said::Line(line) if line == format!("# service={SERVICE}") => {}
        Said::Line(_) | Said::End(_) => {
            return Err(Failure::new(Class::Protocol, "the answer is not of the service asked for"));
        }
    }
    match next(lines)? {
        Said::End(_) => lines.reset(),
        Said::Line(line) => return Err(super::words::unexpected(&line)),
    }
    Ok(())
}

/// A request, put together line by line.
#[derive(Default)]
pub(super) struct Request(Vec<u8>);

impl Request {
    pub(super) fn line(mut self, text: impl std::fmt::Display) -> Request {
        let text = format!("{text}\n");
        // Ours are short: a few words and ids.
        self.0.extend_from_slice(format!("{:04x}{text}", text.len() + 4).as_bytes());
        self
    }

    pub(super) fn lines(self, all: impl IntoIterator<Item = impl std::fmt::Display>) -> Request {
        all.into_iter().fold(self, Request::line)
    }

    pub(super) fn delimiter(mut self) -> Request {
        self.0.extend_from_slice(b"0001");
        self
    }

    pub(super) fn flush(mut self) -> Request {
        self.0.extend_from_slice(b"0000");
        self
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
