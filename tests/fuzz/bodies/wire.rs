//! Frames between gateway and reconciler: what is received can be sent again and says the same; all bounds hold.

use std::fmt::Debug;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::LazyLock;

use pullagent::wire::{self, Channel, Frame, GatewayEnd, Notice, ReconcilerEnd, Request};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());

/// The first byte chooses who is at the other end and how many descriptors come along; the rest is the frame.
pub fn check(data: &[u8]) -> bool {
    let Some((choice, frame)) = data.split_first() else { return false };
    let fds = usize::from(choice >> 1 & 3).min(2);
    match choice & 1 {
        0 => received::<Notice, Request>(frame, fds, |request| match request {
            Request::Watch { sources } => {
                assert!(sources.len() <= wire::SOURCES_MAX);
                for source in sources {
                    assert!(source.refs.len() <= wire::REFS_MAX && source.url.len() <= wire::URL_BYTES_MAX);
                    source.refs.iter().for_each(|name| plain_ref(name));
                }
            }
            Request::Listen { hints } => {
                assert!(hints.len() <= wire::HINTS_MAX);
                for hint in hints {
                    plain(&hint.name);
                    assert!(hint.polls.len() <= wire::POLLED_MAX);
                    match &hint.way {
                        wire::Way::Sse(address) | wire::Way::LongPoll(address) => {
                            assert!(address.url.len() <= wire::URL_BYTES_MAX);
                        }
                        wire::Way::Exec { command } => assert!(command[0].starts_with('/')),
                    }
                }
            }
            Request::Want { haves, .. } | Request::Probe { haves, .. } => {
                assert!(haves.len() <= wire::HAVES_MAX)
            }
            Request::Poll { source } => source.iter().for_each(|name| plain(name)),
        }),
        _ => received::<Request, Notice>(frame, fds, |notice| match notice {
            Notice::Seen { source, refs, .. } => {
                plain(source);
                assert!(refs.len() <= wire::REFS_MAX);
                refs.iter().for_each(|r| plain_ref(&r.name));
            }
            Notice::Pack { .. } => {}
            Notice::Hint { name, word } => {
                plain(name);
                super::fit_for_people(&word.text, wire::TEXT_BYTES_MAX);
            }
            Notice::Failed { source, text, .. } => {
                plain(source);
                super::fit_for_people(text, wire::TEXT_BYTES_MAX);
            }
        }),
    }
}

fn plain(name: &str) {
    assert!(!name.is_empty());
    super::fit_for_people(name, wire::NAME_BYTES_MAX);
}

fn plain_ref(name: &str) {
    plain(name);
    assert!(name.starts_with("refs/") && !name.contains("..") && !name.contains([' ', '*', ':']), "{name}");
}

fn received<Out: Frame, In: Frame + Debug + PartialEq>(frame: &[u8], fds: usize, bounds: impl Fn(&In)) -> bool
where
    Channel<Out, In>: Pair<In>,
{
    RUNTIME.block_on(async {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let end: Channel<Out, In> = Channel::from_fd(ours).unwrap();
        if !send(&theirs, frame, fds) {
            return false; // longer than the kernel takes
        }
        match end.recv().await {
            Err(error) => {
                super::fit_for_people(&error.to_string(), 1000);
                false
            }
            Ok(None) => {
                assert!(frame.is_empty(), "a frame was taken for the end");
                false
            }
            Ok(Some((message, fd))) => {
                assert_eq!((fd.iter().count(), fds), (message.descriptors(), message.descriptors()));
                bounds(&message);
                assert_eq!(Channel::<Out, In>::there_and_back(&message, fd).await, message);
                true
            }
        }
    })
}

/// A message of type `In` over two proper ends.
pub trait Pair<In> {
    fn there_and_back(message: &In, fd: Option<OwnedFd>) -> impl Future<Output = In>;
}

impl Pair<Request> for GatewayEnd {
    async fn there_and_back(message: &Request, fd: Option<OwnedFd>) -> Request {
        let (reconciler, gateway) = wire::pair().unwrap();
        reconciler.send(message, fd).await.unwrap();
        gateway.recv().await.unwrap().unwrap().0
    }
}

impl Pair<Notice> for ReconcilerEnd {
    async fn there_and_back(message: &Notice, fd: Option<OwnedFd>) -> Notice {
        let (reconciler, gateway) = wire::pair().unwrap();
        gateway.send(message, fd).await.unwrap();
        reconciler.recv().await.unwrap().unwrap().0
    }
}

fn send(socket: &OwnedFd, frame: &[u8], fds: usize) -> bool {
    let (one, _two) = std::io::pipe().unwrap();
    let borrowed = vec![one.as_fd(); fds];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds == 0 || control.push(SendAncillaryMessage::ScmRights(&borrowed)));
    rustix::net::sendmsg(socket, &[std::io::IoSlice::new(frame)], &mut control, SendFlags::NOSIGNAL).is_ok()
}

pub fn seeds() -> Vec<Vec<u8>> {
    let oid = "ab".repeat(20);
    let source = r#"{"name":"origin","url":"https://x/y.git","refs":["refs/heads/main"],"intervalMs":1000,
        "username":"git","tokenFile":"/t","caFile":null,"sshKeyFile":null,"knownHostsFile":null,"limits":{"refs":7}}"#;
    let way = [
        r#"{"sse":{"url":"https://x/y","tokenFile":"/t","caFile":null}}"#,
        r#"{"longPoll":{"url":"https://x/y","tokenFile":null,"caFile":"/c"}}"#,
        r#"{"exec":{"command":["/bin/sh","-c","true"]}}"#,
        r#"{"exec":{"command":["sh"]}}"#,
    ];
    let listen = way.map(|way| {
        format!(
            r#"{{"listen":{{"hints":[{{"name":"push","way":{way},"polls":{{"origin":600000}},"filter":null,"splayMs":2000,
            "idleMs":90000}}]}}}}"#
        )
    });
    let requests = [
        format!(r#"{{"watch":{{"sources":[{source}]}}}}"#),
        r#"{"poll":{"source":null}}"#.to_owned(),
        format!(r#"{{"want":{{"want":1,"source":"origin","oid":"{oid}","haves":["{oid}"]}}}}"#),
        format!(r#"{{"probe":{{"nonce":1,"source":"origin","oid":"{oid}","haves":[]}}}}"#),
    ];
    let notices = [
        (
            0,
            format!(
                r#"{{"seen":{{"source":"origin","refs":[{{"name":"refs/heads/main","oid":"{oid}"}}]}}}}"#
            ),
        ),
        (2, r#"{"pack":{"want":1}}"#.to_owned()),
        (4, r#"{"pack":{"want":1}}"#.to_owned()),
        (
            0,
            r#"{"hint":{"name":"push","word":{"connected":true,"text":"","counts":{"accepted":1,"coalesced":2,
            "ignored":3,"tooLong":4}}}}"#
                .to_owned(),
        ),
        (0, r#"{"failed":{"source":"origin","want":null,"class":"timeout","text":"slow"}}"#.to_owned()),
    ];
    let mut seeds: Vec<Vec<u8>> =
        requests.iter().chain(&listen).map(|r| [&[0], r.as_bytes()].concat()).collect();
    seeds.extend(notices.iter().map(|(fds, n)| [&[1 | fds], n.as_bytes()].concat()));
    seeds.push(vec![0]);
    seeds
}
