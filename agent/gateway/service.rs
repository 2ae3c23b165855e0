//! One HTTP service that gives hints: a request with the token, and what answers in general are good for. Its token goes
//! to its own address and nowhere else. It knows no event.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, HeaderMap, HeaderValue, RETRY_AFTER,
};
use reqwest::{Method, Request, Response, StatusCode, Url};
use tokio::time::timeout;

use super::hint::End;
use crate::repo::web;
use crate::wire::Address;

const USER_AGENT: &str = concat!("pullagent/", env!("CARGO_PKG_VERSION"));

/// A service and the connections to it, which end with the value.
#[derive(Debug)]
pub(super) struct Service {
    url: Url,
    token_file: Option<PathBuf>,
    client: reqwest::Client,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// Nothing came in time.
    Silent(End),
    /// It failed.
    Failed(End),
}

impl From<NoAnswer> for End {
    fn from(no_answer: NoAnswer) -> End {
        match no_answer {
            NoAnswer::Silent(end) | NoAnswer::Failed(end) => end,
        }
    }
}

impl Service {
    /// Prepares to ask the service at `address`; nothing is sent yet.
    pub(super) fn at(address: &Address) -> Result<Service, End> {
        // The parser's words could repeat the address.
        let url = Url::parse(&address.url).map_err(|_| End::failed("its url is not usable"))?;
        web::check_url(&url).map_err(|failure| End::failed(failure.text))?;
        let client = web::client(&url, &address.https, USER_AGENT);
        let client = client.map_err(|failure| End::failed(failure.text))?;
        Ok(Service { url, token_file: address.token_file.clone(), client })
    }

    /// Asks for `accept` with `headers`, and waits for the beginning of the answer.
    pub(super) async fn get(
        &self,
        accept: &'static str,
        headers: HeaderMap,
        within: Duration,
    ) -> Result<Response, NoAnswer> {
        let mut request = Request::new(Method::GET, self.url.clone());
        *request.headers_mut() = headers;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static(accept));
        request.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(path) = &self.token_file {
            let token = web::token(path).and_then(|t| web::secret([b"Bearer ", &t[..]].concat(), path));
            let token = token.map_err(|failure| NoAnswer::Failed(End::failed(failure.text)))?;
            request.headers_mut().insert(AUTHORIZATION, token);
        }
        match timeout(within, self.client.execute(request)).await {
            Ok(answer) => answer.map_err(|error| NoAnswer::Failed(End::failed(web::failure(&error).text))),
            Err(_) => Err(NoAnswer::Silent(silence(within))),
        }
    }

    /// Says why an answer with this status can't be used.
    pub(super) fn refusal(&self, answer: &Response) -> End {
        let status = answer.status();
        let advice = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if self.token_file.is_none() => {
                "; no token file is configured"
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "; the token was not accepted",
            StatusCode::TOO_MANY_REQUESTS => "; it serves so many hosts of one address only so often",
            status if status.is_redirection() => "; redirects are not followed",
            _ => "",
        };
        let seconds = answer.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.trim().parse().ok());
        End {
            retry_after: seconds.map(Duration::from_secs),
            ..End::failed(format!("the server answered {status}{advice}"))
        }
    }
}

/// Nothing here unpacks anything: a small answer stays small.
pub(super) fn check_unpacked(answer: &Response) -> Result<(), End> {
    match answer.headers().get(CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => {
            Err(End::failed("the answer is compressed, which nobody asked for"))
        }
        _ => Ok(()),
    }
}

/// Says that nothing came for so long.
pub(super) fn silence(idle: Duration) -> End {
    End::failed(format!("nothing came for {}", humantime::format_duration(idle)))
}

/// Returns the next bytes of an answer, none at its end.
pub(super) async fn chunk(answer: &mut Response, idle: Duration) -> Result<Option<bytes::Bytes>, End> {
    match timeout(idle, answer.chunk()).await {
        Ok(chunk) => chunk.map_err(|error| End::failed(web::failure(&error).text)),
        Err(_) => Err(silence(idle)),
    }
}
