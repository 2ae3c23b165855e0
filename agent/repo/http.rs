//! Git's smart HTTP over our own client: what gitoxide calls an `Http`, on one connection that is kept, waiting through
//! [`Net`] and sending the token to one origin only. It knows requests and answers, nothing of refs or packs.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::{Buf as _, Bytes};
use gix_transport::client::blocking_io::http::{
    GetResponse, Http, PostBodyDataKind, PostResponse, Transport,
};
use reqwest::header::{HeaderName, HeaderValue};
use reqwest::{StatusCode, Url};

use super::dial::{Dialer, Stamps};
use super::h1::{Broken, Connection, Head, Stream};
use super::net::{Class, Failure, Net};
use super::remote::shown;
use super::web;
use crate::host::files::{self, Stamp};
use crate::model::Https;

/// The longest request body, in bytes; ours hold a few ids.
const UPLOAD_BYTES_MAX: usize = 64 * 1024;
/// Forges tell Git from a browser by the first word.
const USER_AGENT: &str = concat!("git/pullagent-", env!("CARGO_PKG_VERSION"));
/// How much of an unexpected content type is shown.
const KIND_CHARS_SHOWN: usize = 60;

/// Where an HTTP remote is and how to get in.
#[derive(Debug, Clone)]
pub(super) struct Access {
    /// The repository, without user or password.
    pub(super) url: Url,
    /// The user name that goes with the token.
    pub(super) username: String,
    /// The file that holds the token, as it is at each request.
    pub(super) token_file: Option<PathBuf>,
    /// How the server is reached and believed.
    pub(super) https: Https,
}

/// Returns a transport with a connection of its own, which is made when it is needed and dropped with the transport.
///
/// # Errors
/// If the URL is not safe to send credentials to.
pub(super) fn transport(access: Access, net: &Rc<Net>) -> Result<Transport<Client>, Failure> {
    check_url(&access.url)?;
    let url = gix::url::parse(access.url.as_str())
        .map_err(|e| Failure::new(Class::Local, format!("its url is not usable: {e}")))?;
    let dialer = Dialer::new(access.url.clone(), access.https.clone());
    let (line, token, turn) = (RefCell::default(), RefCell::default(), Cell::new(0));
    let client = Client(Rc::new(Shared { dialer, line, token, turn, access, net: net.clone() }));
    Ok(Transport::new_http(client, url, gix_transport::Protocol::V2, false))
}

/// A repository's address is a path and nothing more.
fn check_url(url: &Url) -> Result<(), Failure> {
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Failure::new(Class::Local, "its url holds a query or a fragment"));
    }
    web::check_url(url)
}

/// Our side of gitoxide's HTTP transport.
pub(super) struct Client(Rc<Shared>);

struct Shared {
    dialer: Dialer,
    line: RefCell<Option<Line>>,
    /// What was made of the token file, as long as it stays the same.
    token: RefCell<Option<(Stamp, HeaderValue)>>,
    /// The number of the request whose answer the line has.
    turn: Cell<u64>,
    access: Access,
    net: Rc<Net>,
}

/// The connection, and how the files were that it was made with.
struct Line {
    connection: Connection<Box<dyn Stream>>,
    stamps: Stamps,
}

impl Http for Client {
    type Headers = Headers;
    type ResponseBody = Body;
    type PostBody = Upload;

    fn get(
        &mut self,
        url: &str,
        _base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> gix::Result<GetResponse<Headers, Body>> {
        let exchange = self.exchange("GET", url, headers)?;
        Ok(GetResponse { headers: Headers::new(&exchange), body: Body::new(&exchange) })
    }

    fn post(
        &mut self,
        url: &str,
        _base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        _body: PostBodyDataKind,
    ) -> gix::Result<PostResponse<Headers, Body, Upload>> {
        let exchange = self.exchange("POST", url, headers)?;
        let (headers, body) = (Headers::new(&exchange), Body::new(&exchange));
        Ok(PostResponse { post_body: Upload(exchange), headers, body })
    }

    fn configure(&mut self, _config: &dyn Any) -> gix::Result {
        Ok(())
    }
}

impl Client {
    /// Prepares a request; it is sent when its answer is first read, since only then the upload is complete.
    fn exchange(
        &self,
        method: &'static str,
        url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> gix::Result<Rc<Exchange>> {
        let bad = |what: &str| {
            let failure = Failure::new(Class::Local, format!("the request has a bad {what}"));
            gix::Error::from_error(self.0.net.fail(failure))
        };
        let url = Url::parse(url).map_err(|_| bad("url"))?;
        let mut head = format!("{method} {}", url.path());
        if let Some(query) = url.query() {
            head = format!("{head}?{query}");
        }
        head = format!("{head} HTTP/1.1\r\nHost: {}", url.host_str().unwrap_or_default());
        if let Some(port) = url.port() {
            head = format!("{head}:{port}");
        }
        head = format!("{head}\r\nUser-Agent: {USER_AGENT}\r\n");
        for line in headers {
            let (name, value) = line.as_ref().split_once(": ").ok_or_else(|| bad("header"))?;
            // Nothing in them that ends a line, or is another header.
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("header"))?;
            HeaderValue::from_str(value).map_err(|_| bad("header"))?;
            // The client has a name of its own. What is accepted, the server knows by the protocol.
            if !["user-agent", "accept"].iter().any(|known| name.eq_ignore_ascii_case(known)) {
                head = format!("{head}{name}: {value}\r\n");
            }
        }
        let stage = RefCell::new(Stage::Ready { is_post: method == "POST", head, upload: Vec::new() });
        Ok(Rc::new(Exchange { shared: self.0.clone(), turn: Cell::new(0), stage }))
    }
}

/// One request and its answer, shared by the three handles that gitoxide wants for it.
struct Exchange {
    shared: Rc<Shared>,
    turn: Cell<u64>,
    stage: RefCell<Stage>,
}

enum Stage {
    Ready { is_post: bool, head: String, upload: Vec<u8> },
    Open,
    Done,
}

impl Exchange {
    fn fail(&self, failure: Failure) -> io::Error {
        self.shared.net.fail(failure)
    }

    /// Sends the request unless it was sent, and returns the answer's content type.
    fn open(&self) -> io::Result<String> {
        let (is_post, head, upload) = match self.stage.replace(Stage::Done) {
            Stage::Ready { is_post, head, upload } => (is_post, head, upload),
            later => {
                self.stage.replace(later);
                return Ok(String::new());
            }
        };
        let sent = self.shared.request(is_post, head, &upload).and_then(|request| self.shared.send(&request));
        let head = sent.and_then(|head| self.shared.access.check_status(head)).map_err(|e| self.fail(e))?;
        let kind = head.content_type;
        if !kind.starts_with("application/x-git-upload-pack-") {
            let kind: String = shown(&kind).chars().take(KIND_CHARS_SHOWN).collect();
            let text = format!("the answer is not Git's smart protocol but of content type '{kind}'");
            return Err(self.fail(Failure::new(Class::Protocol, text)));
        }
        self.turn.set(self.shared.turn.get());
        self.stage.replace(Stage::Open);
        Ok(kind)
    }

    /// Returns the next bytes of the answer, none at its end.
    fn next_chunk(&self) -> io::Result<Bytes> {
        self.open()?;
        // Whoever still reads when the next request is sent has come to the end.
        let is_open =
            matches!(*self.stage.borrow(), Stage::Open) && self.turn.get() == self.shared.turn.get();
        if is_open && let Some(chunk) = self.shared.chunk().map_err(|e| self.fail(e))? {
            self.shared.net.count(chunk.len()).map_err(|e| self.fail(e))?;
            return Ok(chunk);
        }
        self.stage.replace(Stage::Done);
        Ok(Bytes::new())
    }
}

impl Shared {
    /// Returns a request as it is sent, with what proves us to the server.
    fn request(&self, is_post: bool, mut head: String, upload: &[u8]) -> Result<Vec<u8>, Failure> {
        if is_post {
            head = format!("{head}Content-Length: {}\r\n", upload.len());
        }
        let mut request = head.into_bytes();
        if let Some(path) = &self.access.token_file {
            let authorization = self.authorization(path)?;
            request.extend_from_slice(&[b"Authorization: ", authorization.as_bytes(), b"\r\n"].concat());
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(upload);
        Ok(request)
    }

    /// Returns what proves us to the server, from the token file as it is now.
    fn authorization(&self, path: &Path) -> Result<HeaderValue, Failure> {
        let stamp = files::stamp(path);
        if let Some((_, value)) = self.token.borrow().as_ref().filter(|(then, _)| stamp == Some(*then)) {
            return Ok(value.clone());
        }
        let value = web::basic(&self.access.username, &web::token(path)?, path)?;
        self.token.replace(stamp.map(|stamp| (stamp, value.clone())));
        Ok(value)
    }

    /// Sends a request on the kept connection, or on a new one, and reads the head of the answer.
    fn send(&self, request: &[u8]) -> Result<Head, Failure> {
        self.turn.set(self.turn.get() + 1);
        let kept = self.line.take();
        let (head, line) = self.net.wait(async {
            let mut line = match kept.and_then(|line| self.reuse(line)) {
                Some(line) => line,
                None => self.connect().await?,
            };
            let head = line.connection.ask(request).await.map_err(|e| broken(&e))?;
            Ok::<_, Failure>((head, line))
        })??;
        self.line.replace(Some(line));
        Ok(head)
    }

    /// Returns a connection that can still be used: its last answer was read to the end, the server has not closed it, and no
    /// file has changed since it was made.
    fn reuse(&self, mut line: Line) -> Option<Line> {
        (line.connection.is_ready() && line.stamps == self.dialer.stamps()).then_some(line)
    }

    async fn connect(&self) -> Result<Line, Failure> {
        let stamps = self.dialer.stamps();
        Ok(Line { connection: Connection::new(self.dialer.connect().await?), stamps })
    }

    fn chunk(&self) -> Result<Option<Bytes>, Failure> {
        let mut line = self.line.borrow_mut();
        let Some(Line { connection, .. }) = line.as_mut() else { return Ok(None) };
        self.net.wait(connection.chunk())?.map_err(|e| broken(&e))
    }
}

/// Says why an answer could not be read.
fn broken(error: &Broken) -> Failure {
    match error {
        Broken::Io(error) => web::broke(error),
        Broken::Cut => Failure::new(Class::Network, format!("the connection broke: {error}")),
        Broken::Malformed(_) => Failure::new(Class::Protocol, error.to_string()),
        Broken::Oversized(..) => Failure::new(Class::Limit, error.to_string()),
    }
}

impl Access {
    fn check_status(&self, answer: Head) -> Result<Head, Failure> {
        let status = answer.status;
        let class = match status {
            StatusCode::OK => return Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Class::Auth,
            StatusCode::NOT_FOUND | StatusCode::GONE => Class::NotFound,
            StatusCode::TOO_MANY_REQUESTS => Class::Server,
            other if other.is_server_error() => Class::Server,
            _ => Class::Refused,
        };
        let hint = match class {
            Class::Auth if self.token_file.is_none() => "; no token file is configured",
            Class::Auth => "; the token was not accepted",
            Class::NotFound => "; a private repository looks the same without the right token",
            _ if status.is_redirection() => "; redirects are not followed",
            _ => "",
        };
        Err(Failure::new(class, format!("the server answered {status}{hint}")))
    }
}

/// Collects the body of a request.
pub(super) struct Upload(Rc<Exchange>);

impl Write for Upload {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match &mut *self.0.stage.borrow_mut() {
            Stage::Ready { upload, .. } if upload.len() + buf.len() <= UPLOAD_BYTES_MAX => {
                upload.extend_from_slice(buf);
                Ok(buf.len())
            }
            Stage::Ready { .. } => {
                Err(self.0.fail(Failure::new(Class::Limit, "the request itself is too large")))
            }
            Stage::Open | Stage::Done => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives the one header that gitoxide looks at, the content type; reading it sends the request.
pub(super) struct Headers {
    exchange: Rc<Exchange>,
    lines: Option<io::Cursor<String>>,
}

impl Headers {
    fn new(exchange: &Rc<Exchange>) -> Headers {
        Headers { exchange: exchange.clone(), lines: None }
    }
}

impl BufRead for Headers {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.lines.is_none() {
            let kind = self.exchange.open()?;
            self.lines = Some(io::Cursor::new(format!("content-type: {kind}\n")));
        }
        self.lines.as_mut().map_or(Ok(&[]), BufRead::fill_buf)
    }

    fn consume(&mut self, amount: usize) {
        if let Some(lines) = &mut self.lines {
            lines.consume(amount);
        }
    }
}

impl Read for Headers {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}

/// Gives the body of the answer as it comes.
pub(super) struct Body {
    exchange: Rc<Exchange>,
    chunk: Bytes,
}

impl Body {
    fn new(exchange: &Rc<Exchange>) -> Body {
        Body { exchange: exchange.clone(), chunk: Bytes::new() }
    }
}

impl BufRead for Body {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.chunk.is_empty() {
            self.chunk = self.exchange.next_chunk()?;
        }
        Ok(&self.chunk)
    }

    fn consume(&mut self, amount: usize) {
        self.chunk.advance(amount.min(self.chunk.len()));
    }
}

impl Read for Body {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(buf)?;
        self.consume(n);
        Ok(n)
    }
}
