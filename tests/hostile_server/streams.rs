//! Answers that are too large, unpack to too much, never end, or hardly ever begin.

use std::net::TcpStream;
use std::time::Duration;

use crate::agent::bounds;
use crate::bytes::{entry_header, pack, zeros};
use crate::common::scripted::{Ask, FLUSH, band, head, line, send, stall, whole};
use crate::packs::{self, GIB};
use crate::server::Script;
use crate::stage::{Expect, Stage, fetches, floods, on, sends};

const LIMIT: Expect = Expect::Retry("fetch-limit");
const MISSING: Expect = Expect::Retry("missing-object");
const INCOMPLETE: Expect = Expect::Retry("incomplete");
/// The pause between the bytes of a drip: far shorter than the idle time.
const DRIP: Duration = Duration::from_millis(20);

/// Many times the bound for one object, and as much as an unoptimised build unpacks in time.
const LARGE_BLOBS: usize = 6;

/// Tells whether there is time for larger bombs.
fn is_long() -> bool {
    std::env::var_os("PULLAGENT_TEST_LONG").is_some_and(|long| long == "1")
}

#[test]
fn bombs() {
    let mut stage = Stage::set();
    stage.tell("a blob of zeros that unpacks to a GiB", LIMIT, |_, _| {
        // A thousandth of it on the wire, so within the bound for packs.
        sends(pack(1, &packs::zero_blob(if is_long() { 3 * GIB } else { GIB })))
    });
    stage.tell("a blob that claims 64 GiB", INCOMPLETE, |_, _| {
        sends(pack(1, &[entry_header(3, 64 * GIB), zeros(10)].concat()))
    });
    stage.tell("a delta that copies up to 16 GiB", LIMIT, |_, _| sends(packs::copy_bomb(16 * GIB)));
    stage
        .tell("a delta that copies up to 3 GiB and means it", LIMIT, |_, _| sends(packs::copy_bomb(3 * GIB)));
    stage.tell("four billion objects", LIMIT, |_, _| sends(pack(u32::MAX, &packs::blob(b"one"))));
    stage.tell("one object more than may be", LIMIT, |_, _| sends(packs::tiny(bounds::OBJECTS + 1)));
    stage.tell("as many tiny objects as may be", MISSING, |_, _| sends(packs::tiny(bounds::OBJECTS)));
    stage.tell("objects that are announced and do not come", INCOMPLETE, |_, _| {
        sends(pack(bounds::OBJECTS, &packs::blob(b"one")))
    });
    stage.tell("a large blob again and again", MISSING, |_, _| {
        let blobs = packs::zero_blob(bounds::OBJECT_BYTES / 2).repeat(LARGE_BLOBS);
        sends(pack(u32::try_from(LARGE_BLOBS).unwrap(), &blobs))
    });
    let length = if is_long() { 8000 } else { 2000 };
    stage.tell("a long chain of deltas", MISSING, |_, _| sends(packs::chain(length)));
}

#[test]
fn floods_of_bytes() {
    let mut stage = Stage::set();
    let packfile = || line("packfile\n");
    stage.tell("a pack that never ends", INCOMPLETE, move |_, _| {
        // Not even its first object is right, and nobody waits for the rest.
        floods(Ask::Pack, [packfile(), band(1, b"PACK\0\0\0\x02\0\0\x0f\0")].concat(), band(1, &[0; 60_000]))
    });
    stage.tell("a pack of good objects that never ends", LIMIT, move |_, _| {
        let start = [packfile(), band(1, b"PACK\0\0\0\x02\0\0\x0f\0")].concat();
        let mut random = fastrand::Rng::with_seed(7);
        let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(60_000).collect();
        floods(Ask::Pack, start, band(1, &packs::blob(&noise)))
    });
    stage
        .tell("empty packets", LIMIT, move |_, _| floods(Ask::Pack, packfile(), band(1, b"").repeat(10_000)));
    stage.tell("progress without a pack", LIMIT, move |_, _| {
        floods(Ask::Pack, packfile(), band(2, &[b'.'; 60_000]))
    });
    stage.tell("acknowledgments", LIMIT, |_, _| {
        let ack = line(format!("ACK {}\n", "ab".repeat(20)));
        floods(Ask::Pack, line("acknowledgments\n"), ack.repeat(1000))
    });
    let refs = |each: Vec<u8>| floods(Ask::Refs, Vec::new(), each);
    let limit = |words| Expect::Trouble("limit", words);
    stage.tell("branches of other names", limit("more than 1000 refs"), move |_, _| {
        refs(line(format!("{} refs/heads/main-x\n", "ab".repeat(20))))
    });
    stage.tell("one branch with endless attributes", limit("larger than"), move |_, tip| {
        let long = format!("{tip} refs/heads/main{}", " peeled:x".repeat(6000));
        refs(line(long))
    });
    stage.tell("a handshake without an end", limit("larger than"), |_, _| {
        Box::new(|request, to| match request.ask {
            Ask::Refs => Some(false),
            Ask::Handshake => {
                head(request.ask, to);
                send(to, &[line("version 2\n")].concat());
                while send(to, &line("a-capability=of-no-use\n").repeat(100)) {}
                Some(false)
            }
            Ask::Pack => None,
        })
    });
}

/// Sends `first` at once and then `rest` byte by byte, slowly.
fn drips(ask: Ask, with_head: bool, first: Vec<u8>, rest: Vec<u8>) -> Script {
    on(ask, move |to| {
        if with_head {
            head(ask, to);
        }
        send(to, &first);
        drip(to, &rest);
        false
    })
}

fn drip(to: &mut TcpStream, bytes: &[u8]) {
    for byte in bytes.iter().cycle() {
        if !send(to, &[*byte]) {
            break;
        }
        std::thread::sleep(DRIP);
    }
}

/// Sends `first` and then nothing.
fn stalls(ask: Ask, with_head: bool, first: Vec<u8>) -> Script {
    on(ask, move |to| {
        if with_head {
            head(ask, to);
        }
        send(to, &first);
        stall(to);
        false
    })
}

/// Two hosts at once, since all that happens is waiting.
#[test]
fn servers_that_stall() {
    std::thread::scope(|scope| {
        scope.spawn(stalls_in_the_list_of_refs);
        stalls_in_the_pack();
    });
}

fn stalls_in_the_list_of_refs() {
    let mut stage = Stage::set();
    let idle = Expect::Trouble("timeout", "nothing happened for 1s");
    stage.tell("silence instead of refs", idle, |_, _| stalls(Ask::Refs, false, Vec::new()));
    stage.tell("a head and no refs", idle, |_, _| stalls(Ask::Refs, true, Vec::new()));
    stage.tell("a stall within a ref", idle, |_, tip| {
        stalls(Ask::Refs, true, line(format!("{tip} refs/heads/main\n"))[..30].to_vec())
    });
    stage.tell("a stall before the end of the list", idle, |_, tip| {
        stalls(Ask::Refs, true, line(format!("{tip} refs/heads/main\n")))
    });
    let slow = Expect::Trouble("timeout", "not done within 2s");
    stage.tell("refs byte by byte", slow, |_, _| {
        drips(Ask::Refs, true, Vec::new(), line(format!("{} refs/heads/other\n", "ab".repeat(20))))
    });
    stage.tell("a head byte by byte", idle, |_, _| {
        drips(Ask::Refs, false, b"HTTP/1.1 200 OK\r\nX-Slow: ".to_vec(), b"x".to_vec())
    });
    stage.tell("'continue' for ever", idle, |_, _| {
        drips(Ask::Refs, false, Vec::new(), b"HTTP/1.1 100 Continue\r\n\r\n".to_vec())
    });
}

fn stalls_in_the_pack() {
    let mut stage = Stage::set();
    stage.tell("silence instead of a pack", LIMIT, |_, _| stalls(Ask::Pack, false, Vec::new()));
    stage.tell("a stall before the pack", LIMIT, |_, _| stalls(Ask::Pack, true, line("packfile\n")));
    stage.tell("a stall in mid-pack", LIMIT, |s, tip| {
        let pack = packs::honest_and(&s.repo, tip, &[]);
        stalls(Ask::Pack, true, [line("packfile\n"), band(1, &pack[..pack.len() / 2])].concat())
    });
    stage.tell("a stall before the end of the answer", LIMIT, |s, tip| {
        let pack = packs::honest_and(&s.repo, tip, &[]);
        stalls(Ask::Pack, true, [line("packfile\n"), band(1, &pack[..pack.len() - 1])].concat())
    });
    stage.tell("a pack byte by byte", LIMIT, |_, _| {
        drips(
            Ask::Pack,
            true,
            [line("packfile\n"), band(1, b"PACK\0\0\0\x02\0\0\0\x05")].concat(),
            band(1, b""),
        )
    });
    stage.tell("keep-alives for ever", LIMIT, |_, _| {
        drips(Ask::Pack, true, line("packfile\n"), band(2, b"still at it"))
    });
    stage.tell("a whole pack in small pieces", Expect::Accepted, |s, tip| {
        let pack = packs::honest_and(&s.repo, tip, &[]);
        let pieces: Vec<u8> = pack.chunks(1).flat_map(|piece| band(1, piece)).collect();
        fetches([line("packfile\n"), pieces, FLUSH.to_vec()].concat())
    });
    stage.tell("a whole answer byte by byte, in time", Expect::Accepted, |s, tip| {
        let body = {
            let pack = packs::honest_and(&s.repo, tip, &[]);
            [line("packfile\n"), band(1, &pack), FLUSH.to_vec()].concat()
        };
        on(Ask::Pack, move |to| {
            head(Ask::Pack, to);
            body.iter().all(|byte| send(to, &[*byte]));
            false
        })
    });
    // The rest of the answer after a quick whole one is not waited for.
    stage.tell("an answer and then more", Expect::Accepted, |s, tip| {
        let pack = packs::honest_and(&s.repo, tip, &[]);
        let body = [line("packfile\n"), band(1, &pack), FLUSH.to_vec()].concat();
        on(Ask::Pack, move |to| {
            whole(Ask::Pack, to, &body);
            send(to, b"HTTP/1.1 200 OK\r\n\r\nan answer that nobody asked for");
            false
        })
    });
}
