//! Takes a stream of server-sent events apart, by the rules of the [HTML standard](https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation)
//! and within bounds. Bytes in, events out: it knows neither a connection nor what an event is good for.

use std::time::Duration;

/// The longest line, in bytes without its end.
pub const LINE_BYTES_MAX: usize = 64 * 1024;
/// The most data of one event, in bytes.
pub const EVENT_BYTES_MAX: usize = 64 * 1024;
/// The longest id that is remembered, in bytes. A longer one is passed over, as the standard has it for an id that
/// cannot be sent back.
pub const ID_BYTES_MAX: usize = 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";
/// What an event is that says nothing of its kind.
const MESSAGE: &[u8] = b"message";

/// One event that has data, even if that is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its kind; `message` where it names none. Not always UTF-8.
    pub kind: Vec<u8>,
    /// Its lines of data, joined by line feeds. Not always UTF-8.
    pub data: Vec<u8>,
}

impl Event {
    /// Tells whether it is of the kind that an event has by default.
    pub fn is_message(&self) -> bool {
        self.kind == MESSAGE
    }
}

/// A line or an event is longer than anybody needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooLong {
    /// Longer than [`LINE_BYTES_MAX`].
    #[error("it sent a line of more than {LINE_BYTES_MAX} bytes")]
    Line,
    /// Longer than [`EVENT_BYTES_MAX`].
    #[error("it sent an event of more than {EVENT_BYTES_MAX} bytes")]
    Event,
}

/// What of a stream is not taken apart yet, and what lasts beyond one event.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The line that has not ended.
    line: Vec<u8>,
    /// Whether a line ended with a carriage return, so that a line feed right behind it belongs to it.
    after_return: bool,
    /// Whether the first line, which may begin with a byte order mark, is over.
    begun: bool,
    kind: Vec<u8>,
    data: Vec<u8>,
    id: Vec<u8>,
    last_id: Vec<u8>,
    retry: Option<Duration>,
}

impl Decoder {
    /// Returns a decoder for a new connection that goes on after the event with the id `last_id`; empty: with none.
    pub fn after(last_id: Vec<u8>) -> Decoder {
        Decoder { id: last_id.clone(), last_id, ..Decoder::default() }
    }

    /// Returns the id to go on from after a new connection; empty if there is none.
    pub fn last_id(&self) -> &[u8] {
        &self.last_id
    }

    /// Returns how long the server wants to be left alone before a new connection, if it has said so.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Takes the next bytes and hands each event that they complete to `take`.
    ///
    /// # Errors
    /// A bound is broken; nothing after that means anything, and no more than the bounds has been kept.
    pub fn feed(&mut self, mut bytes: &[u8], mut take: impl FnMut(Event)) -> Result<(), TooLong> {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.after_return) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|b| matches!(b, b'\n' | b'\r'));
            let piece = &bytes[..end.unwrap_or(bytes.len())];
            if self.line.len() + piece.len() > LINE_BYTES_MAX {
                return Err(TooLong::Line);
            }
            self.line.extend_from_slice(piece);
            let Some(end) = end else { break };
            self.after_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            if let Some(event) = self.end_line(&line)? {
                take(event);
            }
        }
        Ok(())
    }

    fn end_line(&mut self, line: &[u8]) -> Result<Option<Event>, TooLong> {
        let first = !std::mem::replace(&mut self.begun, true);
        let line = line.strip_prefix(BYTE_ORDER_MARK).filter(|_| first).unwrap_or(line);
        if line.is_empty() {
            return Ok(self.end_event());
        }
        let colon = line.iter().position(|b| *b == b':');
        let (name, value) = colon.map_or((line, &[][..]), |at| (&line[..at], &line[at + 1..]));
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" if self.data.len() + value.len() >= EVENT_BYTES_MAX => return Err(TooLong::Event),
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            b"event" => self.kind = value.to_vec(),
            b"id" if !value.contains(&0) && value.len() <= ID_BYTES_MAX => self.id = value.to_vec(),
            b"retry" => self.retry = millis(value).or(self.retry),
            // Comments have an empty name; whatever else is passed over, by the standard.
            _ => {}
        }
        Ok(None)
    }

    /// An empty line: an event without data only leaves its id.
    fn end_event(&mut self) -> Option<Event> {
        self.last_id.clone_from(&self.id);
        let (kind, mut data) = (std::mem::take(&mut self.kind), std::mem::take(&mut self.data));
        // Each line of data left a line feed.
        data.pop()?;
        let kind = if kind.is_empty() { MESSAGE.to_vec() } else { kind };
        Some(Event { kind, data })
    }
}

/// Reads a number of milliseconds in ASCII digits.
fn millis(digits: &[u8]) -> Option<Duration> {
    let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests;
