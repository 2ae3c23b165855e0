//! The standard's own examples, the bounds, and random streams against another decoder.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use proptest::prelude::*;
use sse_stream::SseByteStream;

use super::*;

/// What is left of a whole stream that was taken apart.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    events: Vec<Event>,
    last_id: Vec<u8>,
    retry: Option<Duration>,
}

fn decode(pieces: &[&[u8]]) -> Result<Outcome, TooLong> {
    let (mut decoder, mut events) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.feed(piece, |event| events.push(event))?;
    }
    Ok(Outcome { events, last_id: decoder.last_id().to_vec(), retry: decoder.retry() })
}

/// The same by the other decoder, which gives blocks and leaves the rest of the standard to its user.
fn oracle(pieces: &[&[u8]]) -> Outcome {
    let pieces: Vec<Result<Bytes, std::io::Error>> =
        pieces.iter().map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let blocks = SseByteStream::new(stream::iter(pieces)).collect::<Vec<_>>();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut outcome = Outcome::default();
    for block in runtime.block_on(blocks) {
        let block = block.unwrap();
        outcome.last_id = block.id.map_or(outcome.last_id, String::into_bytes);
        outcome.retry = block.retry.map(Duration::from_millis).or(outcome.retry);
        if let Some(data) = block.data {
            let kind = block.event.filter(|kind| !kind.is_empty()).unwrap_or_else(|| "message".to_owned());
            outcome.events.push(Event { kind: kind.into_bytes(), data: data.into_bytes() });
        }
    }
    outcome
}

/// Shows the events as `kind=data`.
fn shown(text: &str) -> Vec<String> {
    let outcome = decode(&[text.as_bytes()]).unwrap();
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    outcome.events.iter().map(|e| format!("{}={}", lossy(&e.kind), lossy(&e.data))).collect()
}

#[test]
fn the_examples_of_the_standard() {
    assert_eq!(shown("data: YHOO\ndata: +2\ndata: 10\n\n"), ["message=YHOO\n+2\n10"]);
    let text = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n";
    assert_eq!(shown(text), ["message=first event", "message=second event"]);
    assert_eq!(decode(&[text.as_bytes()]).unwrap().last_id, b"", "an empty id takes it back");
    assert_eq!(shown("data\n\ndata\ndata\n\ndata:"), ["message=", "message=\n"]);
    assert_eq!(shown("data:test\n\ndata: test\n\n"), ["message=test", "message=test"]);
    assert_eq!(shown("event: add\ndata: 73\n\nevent: remove\n\ndata: x\n\n"), ["add=73", "message=x"]);
}

#[test]
fn lines_end_in_three_ways_wherever_the_stream_is_cut() {
    for text in ["data: a\rdata: b\r\r", "data: a\r\ndata: b\r\n\r\n", "\u{feff}data: a\ndata: b\r\n\n"] {
        for at in 0..text.len() {
            let (one, two) = text.as_bytes().split_at(at);
            let events = decode(&[one, two]).unwrap().events;
            assert_eq!(
                events,
                [Event { kind: b"message".to_vec(), data: b"a\nb".to_vec() }],
                "{text:?} {at}"
            );
        }
    }
    assert_eq!(shown("\u{feff}\u{feff}data: a\n\n"), [""; 0], "only one mark, and only at the beginning");
}

#[test]
fn an_id_counts_with_its_event_and_is_kept_for_the_next_connection() {
    let ids = |text: &str| decode(&[text.as_bytes()]).unwrap().last_id;
    assert_eq!(ids("id: 7\n\n"), b"7", "an event without data has an id, too");
    assert_eq!(ids("id: 7\n\nid: 8\ndata: cut off\n"), b"7");
    assert_eq!(ids("id: 7\n\nid: a\0b\n\n"), b"7", "it could not be sent back");
    let long = "x".repeat(ID_BYTES_MAX);
    assert_eq!(ids(&format!("id: {long}\n\n")), long.as_bytes());
    assert_eq!(ids(&format!("id: 7\n\nid: {long}x\n\n")), b"7");
    let mut next = Decoder::after(b"7".to_vec());
    next.feed(b"data: x\n\n", |_| ()).unwrap();
    assert_eq!(next.last_id(), b"7");
}

#[test]
fn retry_takes_digits_only() {
    let retry = |text: &str| decode(&[text.as_bytes()]).unwrap().retry;
    assert_eq!(retry("retry: 1500\n"), Some(Duration::from_millis(1500)));
    for nonsense in ["", "-1", "1.5", "1s", "99999999999999999999999", "١"] {
        assert_eq!(
            retry(&format!("retry: 3\nretry: {nonsense}\n")),
            Some(Duration::from_millis(3)),
            "{nonsense}"
        );
    }
}

/// Rule 6: 64 KiB for a line and for an event, and not a byte more.
#[test]
fn no_line_and_no_event_is_longer_than_its_bound() {
    fn run(text: &str) -> Vec<&[u8]> {
        text.as_bytes().chunks(1000).collect()
    }
    let value = LINE_BYTES_MAX - "data:".len();
    let line = |bytes: usize| format!("data:{}\n", "x".repeat(bytes));
    let fits = format!("{}\n", line(value));
    assert_eq!(decode(&run(&fits)).unwrap().events[0].data.len(), value);
    assert_eq!(decode(&run(&line(value + 1))), Err(TooLong::Line));
    assert_eq!(decode(&run(&":".repeat(LINE_BYTES_MAX + 1))), Err(TooLong::Line), "comments, too");
    let half = line(EVENT_BYTES_MAX / 2 - 1);
    assert!(decode(&run(&format!("{half}{half}\n"))).is_ok());
    assert_eq!(decode(&run(&format!("{half}{half}data\n"))), Err(TooLong::Event));
    assert_eq!(decode(&[&vec![b'x'; 10 << 20]]), Err(TooLong::Line));
}

/// Streams in which everything that means something is likely.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "data", "event", "id", "retry", "other", ":", ": ", " ", "\n", "\r", "\r\n", "\n\n", "x", "12", "\0",
        "ä", "\u{feff}", "ping", "message",
    ]);
    prop::collection::vec(words, 0..60).prop_map(|words| words.concat().into_bytes())
}

/// Cuts `bytes` at random places.
fn cut<'a>(bytes: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut at: Vec<usize> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn another_decoder_says_the_same(
        text in streams(),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        // What the end of the stream cuts off counts for ids and waits here, and not there.
        let whole = [&text[..], b"\n\n"].concat();
        let pieces = cut(&whole, &places);
        prop_assert_eq!(decode(&pieces).unwrap(), oracle(&pieces));
    }

    #[test]
    fn no_bytes_break_it(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        prop_assert_eq!(decode(&cut(&bytes, &places)).unwrap(), decode(&[&bytes]).unwrap());
    }
}
