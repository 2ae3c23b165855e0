//! The journal: any lines. It replays or says why not; what it replays, it replays the same a second time, and goes on.

use std::path::Path;

use pullagent::journal::{Journal, JournalError};
use pullagent::model::Event;

use super::Dice;

const BOOT: &str = "11111111-2222-3333-4444-555555555555";

/// The first byte chooses between raw bytes and lines of JSON, which get their checksums here.
pub fn check(data: &[u8]) -> bool {
    let Some((choice, rest)) = data.split_first() else { return false };
    let bytes = match choice & 3 {
        0 => rest.to_vec(),
        1 => rest.split(|b| *b == b'\n').map(sealed).collect::<Vec<_>>().concat(),
        2 => framed(rest),
        // Lines that follow a good beginning.
        _ => [sealed(FIRST.as_bytes()), rest.split(|b| *b == b'\n').map(sealed).collect::<Vec<_>>().concat()]
            .concat(),
    };
    let dir = super::scratch();
    let file = dir.path().join("journal");
    std::fs::write(&file, &bytes).unwrap();
    let state = match Journal::open(dir.path(), BOOT) {
        Ok(journal) => journal.state().clone(),
        Err(error) => {
            assert!(!matches!(error, JournalError::Locked(_) | JournalError::Io { .. }), "{error:?}");
            assert_eq!(std::fs::read(&file).unwrap(), bytes, "a journal that cannot be read was changed");
            return false;
        }
    };
    // A torn end is gone now, and nothing else.
    assert!(bytes.starts_with(&std::fs::read(&file).unwrap()));
    let mut journal = Journal::open(dir.path(), BOOT).unwrap();
    assert_eq!(*journal.state(), state);
    go_on(&mut journal, dir.path());
    true
}

/// Whatever was replayed, an event that fits can be appended, and is there after the next start.
fn go_on(journal: &mut Journal, dir: &Path) {
    let event: Event = serde_json::from_str(r#"{"event":"resumed","by":"root","at":1}"#).unwrap();
    if journal.append(&event).is_ok() {
        let after = journal.state().clone();
        let copy = super::scratch();
        std::fs::copy(dir.join("journal"), copy.path().join("journal")).unwrap();
        assert_eq!(*Journal::open(copy.path(), BOOT).unwrap().state(), after);
    }
}

const FIRST: &str = r#"{"v":1,"seq":1,"bootId":"b","phase":"idle","mustUnderstand":true,"event":{"event":"snapshot","state":{},"carried":[]}}"#;

fn sealed(json: &[u8]) -> Vec<u8> {
    let mut line = format!("{:08x} ", crc32c::crc32c(json)).into_bytes();
    line.extend_from_slice(json);
    line.push(b'\n');
    line
}

/// Events with frames around them, in order, so that only the events are left to be wrong.
fn framed(rest: &[u8]) -> Vec<u8> {
    let mut lines = sealed(FIRST.as_bytes());
    for (n, event) in rest.split(|b| *b == b'\n').enumerate() {
        let mut dice = Dice(event);
        let must = dice.byte() & 1 == 0;
        let seq = n + 2;
        let head =
            format!(r#"{{"v":1,"seq":{seq},"bootId":"b","phase":"idle","mustUnderstand":{must},"event":"#);
        lines.extend(sealed(&[head.as_bytes(), dice.0, b"}"].concat()));
    }
    lines
}

pub fn seeds() -> Vec<Vec<u8>> {
    let unknown = "1{\"event\":\"invented\",\"x\":[1,{}]}\n0{\"event\":\"invented\"}\n0{\"event\":\"resumed\",\"by\":\"root\",\"at\":1}";
    vec![
        [&[1], FIRST.as_bytes()].concat(),
        [&[0], &sealed(FIRST.as_bytes())[..], b"torn"].concat(),
        [&[2], unknown.as_bytes()].concat(),
        [&[1], FIRST.as_bytes(), b"\n{}\n", FIRST.as_bytes()].concat(),
        b"\x020{\"event\":\"retry-requested\",\"revision\":null,\"by\":\"root\",\"at\":1}".to_vec(),
    ]
}
