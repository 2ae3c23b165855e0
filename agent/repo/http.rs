//! Git's smart HTTP over our own client: what gitoxide calls an `Http`, waiting through [`Net`] and sending the
//! token to one origin only. It knows requests and answers, nothing of refs or packs.

use std::any::Any;
use std::cell::RefCell;
use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;
use std::rc::Rc;

use base64::Engine as _;
use bytes::{Buf as _, Bytes};
use gix_transport::client::blocking_io::http::{GetResponse, Http, PostBodyDataKind, PostResponse};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Method, Request, Response, StatusCode, Url};

use super::net::{Class, Failure, Net};
use super::remote::shown;
use super::web;

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
    /// The file that holds the token, read afresh for every request.
    pub(super) token_file: Option<PathBuf>,
    /// A PEM file of authorities trusted beside the system's; read once per transport.
    pub(super) ca_file: Option<PathBuf>,
}

/// Returns a client with a connection pool of its own, so that dropping it drops its connections.
///
/// # Errors
/// If the URL is not safe to send credentials to, or the authorities cannot be read.
pub(super) fn client(access: Access, net: &Rc<Net>) -> Result<Client, Failure> {
    check_url(&access.url)?;
    let client = web::client(&access.url, access.ca_file.as_deref(), USER_AGENT)?;
    Ok(Client(Rc::new(Shared { client, access, net: net.clone() })))
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
    client: reqwest::Client,
    access: Access,
    net: Rc<Net>,
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
        let exchange = self.exchange(Method::GET, url, headers)?;
        Ok(GetResponse { headers: Headers::new(&exchange), body: Body::new(&exchange) })
    }

    fn post(
        &mut self,
        url: &str,
        _base_url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
        _body: PostBodyDataKind,
    ) -> gix::Result<PostResponse<Headers, Body, Upload>> {
        let exchange = self.exchange(Method::POST, url, headers)?;
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
        method: Method,
        url: &str,
        headers: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> gix::Result<Rc<Exchange>> {
        let bad = |what: &str| {
            let failure = Failure::new(Class::Local, format!("the request has a bad {what}"));
            gix::Error::from_error(self.0.net.fail(failure))
        };
        let url = Url::parse(url).map_err(|_| bad("url"))?;
        let mut request = Request::new(method, url);
        for line in headers {
            let (name, value) = line.as_ref().split_once(": ").ok_or_else(|| bad("header"))?;
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad("header"))?;
            // The client has a name of its own.
            if name != reqwest::header::USER_AGENT {
                let value = HeaderValue::from_str(value).map_err(|_| bad("header"))?;
                request.headers_mut().insert(name, value);
            }
        }
        let stage = RefCell::new(Stage::Ready { request, upload: Vec::new() });
        Ok(Rc::new(Exchange { shared: self.0.clone(), stage }))
    }
}

/// One request and its answer, shared by the three handles that gitoxide wants for it.
struct Exchange {
    shared: Rc<Shared>,
    stage: RefCell<Stage>,
}

enum Stage {
    Ready { request: Request, upload: Vec<u8> },
    Open(Response),
    Done,
}

impl Exchange {
    fn fail(&self, failure: Failure) -> io::Error {
        self.shared.net.fail(failure)
    }

    /// Sends the request unless it was sent, and returns the answer's content type.
    fn open(&self) -> io::Result<String> {
        let (mut request, upload) = match self.stage.replace(Stage::Done) {
            Stage::Ready { request, upload } => (request, upload),
            later => {
                self.stage.replace(later);
                return Ok(String::new());
            }
        };
        if let Some(authorization) = self.shared.access.authorization().map_err(|e| self.fail(e))? {
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        if request.method() == Method::POST {
            *request.body_mut() = Some(upload.into());
        }
        let sent = self.shared.net.wait(self.shared.client.execute(request));
        let answer = sent
            .and_then(|answer| answer.map_err(|e| web::failure(&e)))
            .and_then(|answer| self.shared.access.check_status(answer))
            .map_err(|e| self.fail(e))?;
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("application/x-git-upload-pack-") {
            let kind: String = shown(kind).chars().take(KIND_CHARS_SHOWN).collect();
            let text = format!("the answer is not Git's smart protocol but of content type '{kind}'");
            return Err(self.fail(Failure::new(Class::Protocol, text)));
        }
        let kind = kind.to_owned();
        self.stage.replace(Stage::Open(answer));
        Ok(kind)
    }

    /// Returns the next bytes of the answer, none at its end.
    fn next_chunk(&self) -> io::Result<Bytes> {
        self.open()?;
        let mut stage = self.stage.borrow_mut();
        let Stage::Open(answer) = &mut *stage else { return Ok(Bytes::new()) };
        let net = &self.shared.net;
        // HTTP/2 may send empty chunks; handed on, they would look like the end. The deadline bounds the loop.
        loop {
            let chunk = net
                .wait(answer.chunk())
                .and_then(|chunk| chunk.map_err(|e| web::failure(&e)))
                .map_err(|e| self.fail(e))?;
            let Some(chunk) = chunk else { break };
            net.count(chunk.len()).map_err(|e| self.fail(e))?;
            if !chunk.is_empty() {
                return Ok(chunk);
            }
        }
        *stage = Stage::Done;
        Ok(Bytes::new())
    }
}

impl Access {
    /// Returns what proves us to the server, from the token file as it is now.
    fn authorization(&self) -> Result<Option<HeaderValue>, Failure> {
        let Some(path) = &self.token_file else { return Ok(None) };
        let mut pair = format!("{}:", self.username).into_bytes();
        pair.extend_from_slice(&web::token(path)?);
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        web::secret(format!("Basic {encoded}"), path).map(Some)
    }

    fn check_status(&self, answer: Response) -> Result<Response, Failure> {
        let status = answer.status();
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
            Stage::Open(_) | Stage::Done => Err(io::ErrorKind::BrokenPipe.into()),
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
