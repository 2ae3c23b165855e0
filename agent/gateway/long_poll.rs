//! Hints as requests that are answered when there is something new: each such answer is a hint, whatever it says. What the
//! server gives to go on from (`ETag`, `Last-Modified`) is sent back as a courtesy.

use std::convert::Infallible;
use std::time::Duration;

use reqwest::header::{
    ETAG, HeaderMap, HeaderName, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use reqwest::{Response, StatusCode};
use tokio::time::{Instant, sleep, timeout};

use super::bell::Bell;
use super::hint::End;
use super::pace::Backoff;
use super::service::{self, NoAnswer, Service};
use super::sse::EVENT_BYTES_MAX;
use crate::wire::Address;

/// The longest validator that is sent back, in bytes.
const VALIDATOR_BYTES_MAX: usize = 1024;
/// An answer that comes sooner was not waited for: the next request waits instead.
const QUICK: Duration = Duration::from_secs(1);
/// How long an answer may take from its beginning to its end.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// Asks the service at `address` again and again until it fails.
pub(super) async fn follow(address: &Address, idle: Duration, bell: &Bell) -> End {
    match ask_on(address, idle, bell).await {
        Ok(never) => match never {},
        Err(end) => end,
    }
}

async fn ask_on(address: &Address, idle: Duration, bell: &Bell) -> Result<Infallible, End> {
    let service = Service::at(address)?;
    let mut validators = HeaderMap::new();
    let mut backoff = Backoff::default();
    let mut joined = false;
    loop {
        let asked = Instant::now();
        let mut answer = match service.get("*/*", validators.clone(), idle).await {
            Ok(answer) => answer,
            // It may be that there was nothing new, or that it is dead.
            Err(NoAnswer::Silent(end)) => {
                bell.lost(&end.text);
                joined = false;
                continue;
            }
            Err(NoAnswer::Failed(end)) => return Err(end),
        };
        let content = match answer.status() {
            StatusCode::OK => Some(body(&mut answer).await?),
            StatusCode::NO_CONTENT
            | StatusCode::NOT_MODIFIED
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::GATEWAY_TIMEOUT => None,
            _ => return Err(service.refusal(&answer)),
        };
        if !std::mem::replace(&mut joined, true) {
            bell.joined();
        }
        if let Some(content) = content {
            keep(&mut validators, &answer);
            bell.heard(true, &content);
        }
        if asked.elapsed() < QUICK {
            backoff.ended(Duration::ZERO, false);
            sleep(backoff.pause(fastrand::u64(..))).await;
        } else {
            backoff.reset();
        }
    }
}

async fn body(answer: &mut Response) -> Result<Vec<u8>, End> {
    service::check_unpacked(answer)?;
    let read = async {
        let mut content = Vec::new();
        while let Some(bytes) = service::chunk(answer, BODY_WITHIN).await? {
            if content.len() + bytes.len() > EVENT_BYTES_MAX {
                return Err(End::bound(format!("it sent an answer of more than {EVENT_BYTES_MAX} bytes")));
            }
            content.extend_from_slice(&bytes);
        }
        Ok(content)
    };
    timeout(BODY_WITHIN, read).await.unwrap_or_else(|_| Err(End::failed("an answer did not come to its end")))
}

/// Keeps what the server gave to go on from; what it gives no more is asked for no more.
fn keep(validators: &mut HeaderMap, answer: &Response) {
    validators.clear();
    let pairs: [(HeaderName, HeaderName); 2] = [(LAST_MODIFIED, IF_MODIFIED_SINCE), (ETAG, IF_NONE_MATCH)];
    for (given, sent) in pairs {
        let short = |value: &&HeaderValue| value.len() <= VALIDATOR_BYTES_MAX;
        if let Some(value) = answer.headers().get(given).filter(short) {
            validators.insert(sent, value.clone());
        }
    }
}
