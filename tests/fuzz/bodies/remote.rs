//! A Git server over HTTP that says anything: refs that were asked for or a failure of one line, a pack within its bounds
//! or a failure, and always an end.

use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use pullagent::model::{Https, Oid};
use pullagent::repo::net::{Class, Failure, Net, Stop};
use pullagent::repo::remote::{Limits, Link, Remote};

use super::Dice;
use super::scripted::{self, Ask, FLUSH, capabilities, line, whole};

const ASKED: [&str; 2] = ["refs/heads/main", "refs/heads/test-web1"];
const ID: &str = "0123456789abcdef0123456789abcdef01234567";
/// Far more than the server ever takes; what runs into it hangs.
const WITHIN: Duration = Duration::from_secs(20);
const PACK_BYTES_MAX: u64 = 40_000;
const REFS_MAX: usize = 50;

/// What the server says next.
#[derive(Default)]
struct Script {
    handshake: Vec<u8>,
    answer: Vec<u8>,
    /// The answer is all of HTTP, not the body only.
    raw: bool,
}

static SCRIPT: Mutex<Option<Script>> = Mutex::new(None);

static URL: LazyLock<String> = LazyLock::new(|| {
    scripted::serve(|ask, to| {
        let guard = SCRIPT.lock().unwrap();
        let Some(script) = &*guard else { return false };
        let body = if ask == Ask::Handshake { &script.handshake } else { &script.answer };
        if script.raw {
            to.write_all(body).ok();
            return false;
        }
        whole(ask, to, body);
        true
    })
});

/// The first byte chooses what is asked, which answer is made of the rest, and whether that is cut into packet lines.
pub fn check(data: &[u8]) -> bool {
    let mut dice = Dice(data);
    let choice = dice.byte();
    let body = if choice & 4 == 0 { dice.0.to_vec() } else { packet_lines(&mut dice) };
    let script = match choice & 3 {
        0 => Script { handshake: body, answer: good_answer(choice & 8 == 0), raw: false },
        1 | 2 => Script { handshake: capabilities(), answer: body, raw: false },
        _ => Script { handshake: body.clone(), answer: body, raw: true },
    };
    *SCRIPT.lock().unwrap() = Some(script);
    if choice & 8 == 0 { refs() } else { pack() }
}

fn good_answer(refs: bool) -> Vec<u8> {
    let band = |content: &[u8]| line([&[1], content].concat());
    match refs {
        true => [line(format!("{ID} refs/heads/main\n")), FLUSH.to_vec()].concat(),
        false => [line("packfile\n"), band(b"PACK"), FLUSH.to_vec()].concat(),
    }
}

/// Lines with lengths that fit, with a flush, a delimiter or an odd length now and then.
fn packet_lines(dice: &mut Dice<'_>) -> Vec<u8> {
    let mut lines = Vec::new();
    while !dice.is_over() {
        match dice.byte() {
            0 => lines.extend_from_slice(FLUSH),
            1 => lines.extend_from_slice(b"0001"),
            2 => lines.extend_from_slice(b"0002"),
            3 => lines.extend_from_slice(dice.short()),
            4 => lines.extend(line(dice.long())),
            5 => lines.extend(line([b"ERR ", dice.short()].concat())),
            6 => lines.extend(line("packfile\n")),
            7 => lines.extend(line([ID.as_bytes(), b" ", dice.short()].concat())),
            8 => lines.extend(line([ID.as_bytes(), b" refs/heads/main", dice.short()].concat())),
            n => lines.extend(line([&[n % 4], dice.short()].concat())),
        }
    }
    lines
}

fn remote() -> Remote {
    Remote {
        url: URL.clone(),
        username: "pullagent".to_owned(),
        token_file: None,
        https: Https::default(),
        ssh_key_file: None,
        known_hosts_file: None,
        limits: Limits {
            refs: REFS_MAX,
            poll_bytes: 60_000,
            pack_bytes: PACK_BYTES_MAX,
            poll_within: WITHIN,
            pack_within: WITHIN,
        },
    }
}

fn refs() -> bool {
    let net = Rc::new(Net::new(Stop::default(), WITHIN).unwrap());
    let link = match Link::open(&remote(), &net) {
        Ok(link) => link,
        Err(failure) => return failed(&failure),
    };
    let digits = if link.object_format() == "sha256" { 64 } else { 40 };
    match link.ls_refs(&ASKED) {
        Err(failure) => failed(&failure),
        Ok((refs, _)) => {
            assert!(refs.len() <= ASKED.len());
            for (n, (name, oid)) in refs.iter().enumerate() {
                assert!(ASKED.contains(&name.as_str()) && oid.as_str().len() == digits, "{name} {oid}");
                assert!(!refs[..n].iter().any(|(other, _)| other == name), "{name} twice");
            }
            !refs.is_empty()
        }
    }
}

fn pack() -> bool {
    let net = Rc::new(Net::new(Stop::default(), WITHIN).unwrap());
    let link = match Link::open(&remote(), &net) {
        Ok(link) => link,
        Err(failure) => return failed(&failure),
    };
    // What is within the limit fits into the pipe, so nobody has to read while it is written.
    let (mut reader, writer) = std::io::pipe().unwrap();
    let wanted: Oid = ID.parse().unwrap();
    let done = link.pack(&wanted, std::slice::from_ref(&wanted), || Ok(OwnedFd::from(writer)));
    let done = done.map(|(bytes, _link)| bytes);
    let mut came = Vec::new();
    reader.read_to_end(&mut came).unwrap();
    assert!(came.len() as u64 <= PACK_BYTES_MAX);
    match done {
        Ok(bytes) => {
            assert_eq!(bytes, came.len() as u64);
            true
        }
        Err(failure) => failed(&failure),
    }
}

/// A failure is one line for people, and not that of a server which keeps us waiting.
fn failed(failure: &Failure) -> bool {
    super::fit_for_people(&failure.text, 4000);
    assert!(!matches!(failure.class, Class::Timeout | Class::Cancelled | Class::Local), "{failure}");
    false
}

pub fn seeds() -> Vec<Vec<u8>> {
    let http = |head: &str, body: &[u8]| [&[3], head.as_bytes(), b"\r\n\r\n", body].concat();
    let kind = "content-type: application/x-git-upload-pack-advertisement";
    let sha256 = String::from_utf8(capabilities())
        .unwrap()
        .replace("001cobject-format=sha1", "001eobject-format=sha256");
    let two =
        [line(format!("{ID} refs/heads/main\n")), line(format!("{ID} refs/heads/test-web1 peeled:{ID}\n"))]
            .concat();
    vec![
        [&[0], &capabilities()[..]].concat(),
        [&[8], &capabilities()[..]].concat(),
        [&[0], sha256.as_bytes()].concat(),
        [&[1], &two[..], FLUSH].concat(),
        [&[1], &line("unborn HEAD symref-target:refs/heads/main\n")[..], FLUSH].concat(),
        [&[9], &good_answer(false)[..]].concat(),
        [&[9], &line("acknowledgments\n")[..], &line("ready\n"), b"0001", &good_answer(false)].concat(),
        vec![5, 8, 1, b'\n', 7, 4, b'm', b'a', b'i', b'n', 0],
        vec![13, 6, 9, 4, b'P', b'A', b'C', b'K', 10, 2, b'h', b'i', 0],
        vec![13, 6, 11, 4, b'f', b'u', b'l', b'l', 0],
        vec![5, 5, 3, b'n', b'o', b'!'],
        http(&format!("HTTP/1.1 200 OK\r\n{kind}"), &capabilities()),
        http("HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Basic", b""),
        http("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/", b""),
        http(&format!("HTTP/1.1 200 OK\r\n{kind}\r\ntransfer-encoding: chunked"), b"4\r\n0000\r\n0\r\n\r\n"),
    ]
}
