//! HTTP/1.1 as a client speaks it, on one connection, one request after the other (RFC 9112). Far less than a general client
//! does, and so a poll costs less than half: no pool, no tasks, no decoding of what nobody asked for. It knows neither
//! addresses nor Git; who calls bounds the time.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::FutureExt as _;
use reqwest::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The longest head of an answer, and the longest trailer, in bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// The most headers of an answer.
const HEADERS_MAX: usize = 100;
/// The longest line with the size of a chunk, in bytes.
const SIZE_LINE_MAX: usize = 64;
/// How many answers that only promise another are passed over (RFC 9110 §15.2).
const INTERIM_MAX: usize = 4;
/// What is read at once, in bytes: one TLS record.
const READ_BYTES: usize = 16 * 1024;

/// What connections are made of.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// The head of an answer, as far as anybody needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// The three digits.
    pub(super) status: StatusCode,
    /// The header `Content-Type`; empty without one.
    pub(super) content_type: String,
}

/// Why an answer could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It ended too early.
    #[error("it ended in the middle of an answer")]
    Cut,
    /// What came is not HTTP/1.1.
    #[error("the answer is not HTTP/1.1: {0}")]
    Malformed(&'static str),
    /// It is longer than anybody needs.
    #[error("the answer has {0} of more than {1} bytes")]
    Oversized(&'static str, usize),
}

/// How the end of a body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// So many bytes are left.
    Length(u64),
    /// The line with the size of a chunk is next.
    Size,
    /// So many bytes of a chunk are left.
    Chunk(u64),
    /// The end of the line behind a chunk is next.
    ChunkEnd,
    /// Lines up to an empty one are left.
    Trailer,
    /// It ends with the connection.
    Close,
    /// It has ended.
    Done,
}

/// One connection.
pub(super) struct Connection<S> {
    stream: S,
    /// What was read and not yet looked at.
    buffer: BytesMut,
    framing: Framing,
    /// Whether the connection serves another request after this one.
    is_kept: bool,
}

impl<S: Stream> Connection<S> {
    pub(super) fn new(stream: S) -> Connection<S> {
        Connection { stream, buffer: BytesMut::new(), framing: Framing::Done, is_kept: true }
    }

    /// Returns whether another request can be sent: the last answer has ended, and nothing has come since, not even the end
    /// of the connection.
    pub(super) fn is_ready(&mut self) -> bool {
        let is_done = self.is_kept && self.framing == Framing::Done && self.buffer.is_empty();
        // The buffer is given back while nothing is asked.
        self.buffer = BytesMut::new();
        is_done && self.stream.read(&mut [0]).now_or_never().is_none()
    }

    /// Sends one request, as it is, and reads the head of its answer.
    pub(super) async fn ask(&mut self, request: &[u8]) -> Result<Head, Broken> {
        self.is_kept = false;
        if let Err(error) = self.send(request).await {
            // Whoever refuses a request need not read all of it.
            return self.head().await.map_err(|_| error.into());
        }
        for _ in 0..=INTERIM_MAX {
            let head = self.head().await?;
            if !head.status.is_informational() {
                return Ok(head);
            }
        }
        Err(Broken::Malformed("it only promises one"))
    }

    async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await?;
        self.stream.flush().await
    }

    /// Returns the next bytes of the body, none at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        loop {
            match self.framing {
                Framing::Done => return Ok(None),
                Framing::Length(left) => return self.some_of(left, Framing::Length).await.map(Some),
                Framing::Chunk(left) => {
                    let bytes = self.some_of(left, Framing::Chunk).await?;
                    // What is there already of the lines behind it would wake us later.
                    self.skip_lines()?;
                    return Ok(Some(bytes));
                }
                Framing::Close => {
                    if self.buffer.is_empty() && self.fill().await? == 0 {
                        self.framing = Framing::Done;
                        return Ok(None);
                    }
                    return Ok(Some(self.buffer.split().freeze()));
                }
                Framing::Size | Framing::ChunkEnd | Framing::Trailer => {
                    if !self.skip_lines()? {
                        self.fill_more().await?;
                    }
                }
            }
        }
    }

    /// Takes what is there of `left` bytes, and notes with `rest` how many remain.
    async fn some_of(&mut self, left: u64, rest: fn(u64) -> Framing) -> Result<Bytes, Broken> {
        if self.buffer.is_empty() {
            self.fill_more().await?;
        }
        let n = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let bytes = self.buffer.split_to(n).freeze();
        self.framing = match (left - n as u64, rest(0)) {
            (0, Framing::Chunk(_)) => Framing::ChunkEnd,
            (0, _) => Framing::Done,
            (left, _) => rest(left),
        };
        Ok(bytes)
    }

    /// Reads the lines between chunks as far as they are there. Returns whether the next bytes, or the end, are reached.
    fn skip_lines(&mut self) -> Result<bool, Broken> {
        loop {
            match self.framing {
                Framing::ChunkEnd => match self.buffer.get(..2) {
                    Some(b"\r\n") => {
                        self.buffer.advance(2);
                        self.framing = Framing::Size;
                    }
                    Some(_) => return Err(Broken::Malformed("a chunk is longer than its size")),
                    None => return Ok(false),
                },
                // To the parser nothing at all is a size, too.
                Framing::Size if self.buffer.first().is_some_and(|b| !b.is_ascii_hexdigit()) => {
                    return Err(Broken::Malformed("a chunk has no size"));
                }
                Framing::Size => match httparse::parse_chunk_size(&self.buffer) {
                    Ok(httparse::Status::Complete((used, size))) if used <= SIZE_LINE_MAX => {
                        self.buffer.advance(used);
                        self.framing = if size == 0 { Framing::Trailer } else { Framing::Chunk(size) };
                    }
                    Ok(httparse::Status::Partial) if self.buffer.len() <= SIZE_LINE_MAX => return Ok(false),
                    Ok(_) => return Err(Broken::Oversized("a size of a chunk", SIZE_LINE_MAX)),
                    Err(_) => return Err(Broken::Malformed("a chunk has no size")),
                },
                Framing::Trailer => {
                    let mut none = [httparse::EMPTY_HEADER; HEADERS_MAX];
                    let parsed = httparse::parse_headers(&self.buffer, &mut none);
                    let Some(used) = used(parsed, &self.buffer, |(n, _)| n)? else { return Ok(false) };
                    self.buffer.advance(used);
                    self.framing = Framing::Done;
                }
                Framing::Length(_) | Framing::Chunk(_) | Framing::Close | Framing::Done => return Ok(true),
            }
        }
    }

    async fn head(&mut self) -> Result<Head, Broken> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut answer = httparse::Response::new(&mut headers);
            let parsed = answer.parse(&self.buffer);
            if let Some(used) = used(parsed, &self.buffer, |n| n)? {
                let head = read(&answer)?;
                (self.framing, self.is_kept) = framing(&answer, head.status)?;
                self.buffer.advance(used);
                // A body that has ended before it began leaves nothing that would wake us.
                self.skip_lines()?;
                return Ok(head);
            }
            self.fill_more().await?;
        }
    }

    async fn fill_more(&mut self) -> Result<(), Broken> {
        if self.fill().await? == 0 { Err(Broken::Cut) } else { Ok(()) }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(READ_BYTES);
        self.stream.read_buf(&mut self.buffer).await
    }
}

/// Says how many bytes of `buffer` a parser has used up: none yet, if more is to come.
fn used<T>(
    parsed: httparse::Result<T>,
    buffer: &[u8],
    count: fn(T) -> usize,
) -> Result<Option<usize>, Broken> {
    let used = match parsed {
        Ok(httparse::Status::Complete(done)) => Some(count(done)),
        Ok(httparse::Status::Partial) => None,
        Err(httparse::Error::TooManyHeaders) => return Err(Broken::Malformed("it has too many headers")),
        Err(_) => return Err(Broken::Malformed("its head is not understood")),
    };
    if used.unwrap_or(buffer.len()) > HEAD_BYTES_MAX {
        return Err(Broken::Oversized("a head", HEAD_BYTES_MAX));
    }
    Ok(used)
}

fn read<'a>(answer: &'a httparse::Response<'a, 'a>) -> Result<Head, Broken> {
    let status = answer.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Broken::Malformed("it has no status"))?;
    let kind = values(answer, "content-type").next().unwrap_or_default();
    Ok(Head { status, content_type: String::from_utf8_lossy(kind).into_owned() })
}

fn values<'a>(answer: &'a httparse::Response<'a, 'a>, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    answer.headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
}

/// Returns how the body ends, and whether the connection serves another request then (RFC 9112 §6.3, §9.3).
fn framing<'a>(
    answer: &'a httparse::Response<'a, 'a>,
    status: StatusCode,
) -> Result<(Framing, bool), Broken> {
    let tokens =
        |name| values(answer, name).flat_map(|value| value.split(|b| *b == b',')).map(<[u8]>::trim_ascii);
    let is_kept =
        answer.version == Some(1) && !tokens("connection").any(|t| t.eq_ignore_ascii_case(b"close"));
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Broken::Malformed("it switches to another protocol"));
    }
    if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        return Ok((Framing::Done, is_kept));
    }
    let mut coded = tokens("transfer-encoding").peekable();
    let mut lengths = tokens("content-length").peekable();
    if let Some(coding) = coded.next() {
        // Both at once is how requests are smuggled past a proxy; no honest server does it.
        if lengths.peek().is_some() || coded.next().is_some() || !coding.eq_ignore_ascii_case(b"chunked") {
            return Err(Broken::Malformed("its end is told in two ways"));
        }
        return Ok((Framing::Size, is_kept));
    }
    let Some(first) = lengths.next() else { return Ok((Framing::Close, false)) };
    let is_number = !first.is_empty() && first.iter().all(u8::is_ascii_digit);
    let length = std::str::from_utf8(first).ok().filter(|_| is_number).and_then(|text| text.parse().ok());
    match length.filter(|_| lengths.all(|other| other == first)) {
        Some(0) => Ok((Framing::Done, is_kept)),
        Some(length) => Ok((Framing::Length(length), is_kept)),
        None => Err(Broken::Malformed("its length is no number")),
    }
}

#[cfg(test)]
mod tests;
