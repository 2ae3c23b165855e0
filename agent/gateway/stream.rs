//! Hints as server-sent events: one answer that does not end. Each message in it is a hint, whatever it says; events of
//! other kinds and comments only show that the other side lives.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};
use tokio::time::Instant;

use super::bell::Bell;
use super::hint::End;
use super::pace::Meter;
use super::service::{self, Service};
use super::sse::Decoder;
use crate::wire::{self, Address};

/// What is asked for, and what must come.
const EVENT_STREAM: &str = "text/event-stream";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// How long the beginning of the answer may take; shorter where the stream itself may be silent for less.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// What each piece of a stream costs beside its bytes: one may come for every byte, and even for none.
const PIECE_BYTES: usize = 32;

/// Follows the stream at `address` until it ends, which it should not.
///
/// `last_id` is kept from one connection to the next and sent as a courtesy; what it was good for is never relied on.
pub(super) async fn follow(address: &Address, idle: Duration, last_id: &mut Vec<u8>, bell: &Bell) -> End {
    let mut answer = match open(address, idle, last_id).await {
        Ok(answer) => answer,
        Err(end) => return end,
    };
    bell.joined();
    let mut decoder = Decoder::after(std::mem::take(last_id));
    let end = read(&mut answer, &mut decoder, idle, bell).await;
    *last_id = decoder.last_id().to_vec();
    End { retry: decoder.retry(), ..end }
}

async fn open(address: &Address, idle: Duration, last_id: &[u8]) -> Result<Response, End> {
    let service = Service::at(address)?;
    let mut headers = HeaderMap::new();
    // One that can't be sent is left out.
    if let Some(id) = HeaderValue::from_bytes(last_id).ok().filter(|id| !id.is_empty()) {
        headers.insert(LAST_EVENT_ID, id);
    }
    let answer = service.get(EVENT_STREAM, headers, ANSWER_WITHIN.min(idle)).await?;
    if answer.status() != StatusCode::OK {
        return Err(service.refusal(&answer));
    }
    let kind = answer.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(EVENT_STREAM)) {
        return Err(End::failed(format!(
            "the answer is no event stream but of content type '{}'",
            wire::text(kind)
        )));
    }
    service::check_unpacked(&answer)?;
    Ok(answer)
}

async fn read(answer: &mut Response, decoder: &mut Decoder, idle: Duration, bell: &Bell) -> End {
    let mut meter = Meter::new(Instant::now());
    loop {
        let bytes = match service::chunk(answer, idle).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return End::failed("the server ended the stream"),
            Err(end) => return end,
        };
        let fed = decoder.feed(&bytes, |event| bell.heard(event.is_message(), &event.data));
        if let Err(too_long) = fed {
            return End::bound(too_long.to_string());
        }
        if !meter.count(bytes.len() + PIECE_BYTES, Instant::now()) {
            return End::bound("it sent more than anybody needs");
        }
    }
}
