//! A stream of server-sent events: cut anywhere it says the same, the bounds hold, and what it says can be said again.

use pullagent::gateway::sse::{Decoder, EVENT_BYTES_MAX, Event, ID_BYTES_MAX, TooLong};

/// The first byte chooses where the rest is cut in two.
pub fn check(data: &[u8]) -> bool {
    let Some((choice, stream)) = data.split_first() else { return false };
    let (one, two) = stream.split_at(stream.len() * usize::from(*choice) / 256);
    let whole = decode(&[stream]);
    assert_eq!(decode(&[one, two]), whole);
    let Ok((events, id)) = whole else { return false };
    assert!(id.len() <= ID_BYTES_MAX && !id.contains(&0));
    let again: Vec<u8> = events.iter().flat_map(encode).collect();
    assert_eq!(decode(&[&again]).unwrap().0, events);
    !events.is_empty()
}

fn decode(pieces: &[&[u8]]) -> Result<(Vec<Event>, Vec<u8>), TooLong> {
    let (mut decoder, mut events) = (Decoder::default(), Vec::new());
    for piece in pieces {
        decoder.feed(piece, |event| {
            assert!(event.data.len() <= EVENT_BYTES_MAX && !event.kind.is_empty());
            assert!(!event.kind.contains(&b'\n') && !event.data.contains(&b'\r'));
            events.push(event);
        })?;
    }
    Ok((events, decoder.last_id().to_vec()))
}

fn encode(event: &Event) -> Vec<u8> {
    let mut out = field(b"event", &event.kind);
    for line in event.data.split(|b| *b == b'\n') {
        out.extend(field(b"data", line));
    }
    out.push(b'\n');
    out
}

/// Only a value that begins with a space needs one before it.
fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let colon: &[u8] = if value.starts_with(b" ") { b": " } else { b":" };
    [name, colon, value, b"\n"].concat()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let streams = [
        "data: hello\n\n",
        ": hi\n\nid: 1795217954:0\ndata: refs/heads/main\n\nevent: ping\ndata\n\n",
        "\u{feff}retry: 3000\r\nevent: keepalive\r\ndata: {\"event\":\"keepalive\"}\r\n\r\n",
        "id: a\rdata: one\rdata:  two\r\rid\rother: x\r\r",
        "id: only\n\n",
        "data: not ended\n",
    ];
    let mut seeds: Vec<Vec<u8>> = streams.iter().map(|stream| [&[100], stream.as_bytes()].concat()).collect();
    seeds.push([&[100][..], &vec![b'x'; 70_000]].concat());
    seeds.push(vec![]);
    seeds
}
