//! A client of remotes, as the gateway is one: asks, fetches, and expects failures.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use pullagent::model::{Https, Oid};
use pullagent::repo::net::{Class, Failure, Net, Stop};
use pullagent::repo::remote::{Limits, Link, Remote};

use super::git_server::GitServer;

pub const SECOND: Duration = Duration::from_secs(1);

pub fn limits() -> Limits {
    Limits {
        refs: 100,
        poll_bytes: 1 << 20,
        pack_bytes: 64 << 20,
        poll_within: 20 * SECOND,
        pack_within: 20 * SECOND,
    }
}

pub fn plain(url: &str) -> Remote {
    Remote {
        url: url.to_owned(),
        username: GitServer::USER.to_owned(),
        token_file: None,
        https: Https::default(),
        ssh_key_file: None,
        known_hosts_file: None,
        limits: limits(),
    }
}

pub fn net() -> Rc<Net> {
    Rc::new(Net::new(Stop::default(), 10 * SECOND).unwrap())
}

pub fn oid(text: &str) -> Oid {
    text.parse().unwrap()
}

/// How a fetch ends: with the bytes passed on and the link, if it lasts.
pub type Fetched = Result<(u64, Option<Link>), Failure>;

/// Asks once, on a link of its own.
pub fn ask(remote: &Remote, names: &[&str]) -> Result<Vec<(String, Oid)>, Failure> {
    let net = net();
    Link::open(remote, &net)?.ls_refs(names).map(|(refs, _)| refs)
}

/// Fetches once, on a link of its own; returns the pack as the reader of the pipe got it.
pub fn fetch(remote: &Remote, want: &str, haves: &[&str]) -> (Vec<u8>, Result<u64, Failure>) {
    let net = net();
    match Link::open(remote, &net) {
        Ok(link) => {
            let (pack, done) = fetch_on(link, want, haves);
            (pack, done.map(|(bytes, _)| bytes))
        }
        Err(e) => (Vec::new(), Err(e)),
    }
}

pub fn fetch_on(link: Link, want: &str, haves: &[&str]) -> (Vec<u8>, Fetched) {
    let haves: Vec<Oid> = haves.iter().map(|have| oid(have)).collect();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let drain = std::thread::spawn(move || {
        let mut pack = Vec::new();
        reader.read_to_end(&mut pack).unwrap();
        pack
    });
    let done = link.pack(&oid(want), &haves, move || Ok(OwnedFd::from(writer)));
    (drain.join().unwrap(), done)
}

pub fn expect(result: Result<impl Sized, Failure>, class: Class, words: &str) {
    let failure = result.err().expect("a failure");
    assert_eq!(failure.class, class, "{failure}");
    assert!(failure.text.contains(words), "{failure}");
    assert!(!failure.text.contains(GitServer::TOKEN), "{failure}");
}

/// Content that does not compress.
pub fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
}
