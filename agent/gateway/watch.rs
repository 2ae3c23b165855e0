//! Watching one remote, on a thread of its own: when to ask, on which connection, and what to say about the answer.
//! A remote that stalls delays itself only. It knows no other source and believes nothing it hears.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::pipe::PipeFlags;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, watch};

use super::route::Ways;
use super::schedule::{Due, Schedule};
use crate::host::clock;
use crate::host::timer::{WallTimer, Woken};
use crate::model::Oid;
use crate::plan::backoff::Last;
use crate::repo::net::{Class, Failure, Net, Stop};
use crate::repo::remote::{self, Limits, Link, Refs, Remote};
use crate::wire::{self, Notice, Ref, Source};

/// Fetches that may wait for one source.
const WANTS_MAX: usize = 8;

/// A notice on its way to the reconciler.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) notice: Notice,
    /// The descriptor that belongs to the notice.
    pub(super) pipe: Option<OwnedFd>,
    /// The write end of a pipe that must not end before the notice is out.
    pub(super) close_after: Option<File>,
}

impl From<Notice> for Outgoing {
    fn from(notice: Notice) -> Outgoing {
        Outgoing { notice, pipe: None, close_after: None }
    }
}

/// One pack to fetch.
#[derive(Debug)]
pub(super) struct Want {
    /// The reconciler's number for it.
    pub(super) want: u64,
    pub(super) oid: Oid,
    pub(super) haves: Vec<Oid>,
    /// Whether to show first that the remote can be reached from scratch.
    pub(super) afresh: bool,
}

/// The handle of the thread that watches one source.
#[derive(Debug)]
pub(super) struct Poller {
    source: Source,
    /// Keeps one request to poll: any number of them ask for the same.
    poll_now: Arc<Notify>,
    /// The same for hints, which are not listened to while the remote refuses us.
    hinted: Arc<Notify>,
    /// The interval while hints are connected; `None`: they are not.
    calm: watch::Sender<Option<Duration>>,
    wants: mpsc::Sender<Want>,
    stop: Stop,
    thread: JoinHandle<()>,
}

impl Poller {
    /// Starts the thread, which polls at once, unless there is nothing to poll.
    pub(super) fn start(source: Source, out: mpsc::Sender<Outgoing>) -> std::io::Result<Poller> {
        let (wants, wanted) = mpsc::channel(WANTS_MAX);
        let (stop, poll_now, hinted) = (Stop::default(), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (calm, calmed) = watch::channel(None);
        let orders =
            Orders { stop: stop.clone(), poll_now: poll_now.clone(), hinted: hinted.clone(), calmed, wanted };
        let net = Net::new(stop.clone(), Duration::from_millis(source.limits.idle_ms))?;
        let thread = {
            let source = source.clone();
            let name = format!("poll {}", source.name);
            std::thread::Builder::new().name(name).spawn(move || run(source, net, orders, out))?
        };
        Ok(Poller { source, poll_now, hinted, calm, wants, stop, thread })
    }

    pub(super) fn watches(&self, source: &Source) -> bool {
        self.source == *source
    }

    /// Makes the thread poll now, or after what it does now.
    pub(super) fn poll(&self) {
        self.poll_now.notify_one();
    }

    /// Makes the thread poll as [`Poller::poll`] does, unless the remote refuses us: to ask more often would only get the
    /// host locked out, and whoever sends hints must not be able to bring that about.
    pub(super) fn hint(&self) {
        self.hinted.notify_one();
    }

    /// Sets the interval while hints are connected; `None`: they are not.
    pub(super) fn calm(&self, interval: Option<Duration>) {
        self.calm.send_if_modified(|calm| std::mem::replace(calm, interval) != interval);
    }

    /// Returns whether the fetch was queued.
    pub(super) fn fetch(&self, want: Want) -> bool {
        self.wants.try_send(want).is_ok()
    }

    pub(super) fn stop(&self) {
        self.stop.stop();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    pub(super) fn join(self) {
        let _ended = self.thread.join().is_ok();
    }
}

/// What the thread is told.
struct Orders {
    stop: Stop,
    poll_now: Arc<Notify>,
    hinted: Arc<Notify>,
    calmed: watch::Receiver<Option<Duration>>,
    wanted: mpsc::Receiver<Want>,
}

fn run(source: Source, net: Net, orders: Orders, out: mpsc::Sender<Outgoing>) {
    let remote = remote(&source);
    let net = Rc::new(net);
    let wall = source.calendar.is_some().then(|| net.block_on(async { WallTimer::new() }));
    let wall = wall.and_then(Result::ok);
    let mut watch = Watch {
        source,
        remote,
        net,
        wall,
        orders,
        out,
        link: None,
        was_kept: false,
        last: Last::Answered,
        ways: None,
    };
    match watch.source.refs.is_empty() {
        true => watch.only_serve(),
        false => while watch.turn() {},
    }
    watch.refuse_the_rest();
}

/// What the thread works with.
struct Watch {
    source: Source,
    remote: Remote,
    net: Rc<Net>,
    /// For a source with a calendar.
    wall: Option<WallTimer>,
    orders: Orders,
    out: mpsc::Sender<Outgoing>,
    /// Kept between requests, gone after any error.
    link: Option<Link>,
    /// Whether the last request began on a kept link.
    was_kept: bool,
    last: Last,
    /// Looked at while the remote can't be reached.
    ways: Option<Ways>,
}

/// What to do next.
enum Next {
    Stop,
    Poll,
    /// Hints were found or lost, or the clock was set.
    Reschedule,
    /// The network has come up, or is another one.
    Retry,
    Fetch(Want),
}

impl Watch {
    /// Polls, says what came of it, and serves fetches until the next poll is due. Returns whether to go on.
    fn turn(&mut self) -> bool {
        let began = clock::unix_secs();
        let notice = match self.poll() {
            Ok(Refs { found, old }) => {
                self.note(Last::Answered);
                let refs = found.into_iter().map(|(name, oid)| Ref { name, oid }).collect();
                Notice::Seen { source: self.source.name.clone(), refs, old }
            }
            // Whoever called it off knows.
            Err(failure) if failure.class == Class::Cancelled => return false,
            Err(failure) => {
                self.note(after(self.last, failure.class));
                failed(&self.source.name, None, &failure)
            }
        };
        let schedule = Schedule::after_poll(&self.source, began, self.last);
        self.say(notice.into()) && self.serve_until(schedule)
    }

    /// Serves fetches, each on a connection of its own: the next may be days away.
    fn only_serve(&mut self) {
        while let Some(want) = self.next_want() {
            let go_on = self.fetch(&want);
            self.link = None;
            if !go_on {
                return;
            }
        }
    }

    /// Waits for a fetch; `None`: there will be no more.
    fn next_want(&mut self) -> Option<Want> {
        let Orders { stop, wanted, .. } = &mut self.orders;
        self.net.block_on(async {
            tokio::select! {
                biased;
                () = stop.stopped() => None,
                want = wanted.recv() => want,
            }
        })
    }

    /// Takes down what the poll came to.
    fn note(&mut self, last: Last) {
        self.last = last;
        match last {
            // The ways as they were when the trouble began: what has changed since is worth a try.
            Last::Passing { .. } if self.ways.is_none() => self.ways = Some(Ways::towards(&self.source.url)),
            Last::Passing { .. } => {}
            Last::Answered | Last::Standing { .. } => self.ways = None,
        }
    }

    fn serve_until(&mut self, mut schedule: Schedule) -> bool {
        loop {
            let calm = *self.orders.calmed.borrow_and_update();
            match self.next(schedule.due(calm)) {
                Next::Stop => return false,
                Next::Poll => return true,
                Next::Reschedule => {}
                // As after a first failure: what else comes up with a network may need a moment.
                Next::Retry => {
                    self.note(Last::Passing { count: 1 });
                    schedule = Schedule::after_poll(&self.source, clock::unix_secs(), self.last);
                }
                Next::Fetch(want) => {
                    if !self.fetch(&want) {
                        return false;
                    }
                }
            }
        }
    }

    /// Waits for what comes first; a kept connection is served meanwhile.
    fn next(&mut self, due: Due) -> Next {
        let refused = matches!(self.last, Last::Standing { .. });
        let ways = &mut self.ways;
        let network = async {
            match ways {
                Some(ways) => ways.changed().await,
                None => std::future::pending().await,
            }
        };
        let Orders { stop, poll_now, hinted, calmed, wanted } = &mut self.orders;
        self.net.block_on(async {
            tokio::select! {
                biased;
                () = stop.stopped() => Next::Stop,
                want = wanted.recv() => want.map_or(Next::Stop, Next::Fetch),
                () = poll_now.notified() => Next::Poll,
                () = hinted.notified(), if !refused => Next::Poll,
                Ok(()) = calmed.changed() => Next::Reschedule,
                () = network => Next::Retry,
                woken = due.wait(&self.net, self.wall.as_ref()) => match woken {
                    Woken::Due => Next::Poll,
                    Woken::ClockSet => Next::Reschedule,
                },
            }
        })
    }

    fn poll(&mut self) -> Result<Refs, Failure> {
        let names = self.source.refs.clone();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.request(|link| link.ls_refs(&names)).or_else(|failure| {
            // A server that speaks version 2 no longer refuses the question.
            if !(self.was_kept && failure.class == Class::Refused) {
                self.may_be_stale(&failure)?;
            }
            self.request(|link| link.ls_refs(&names))
        })
    }

    /// Fetches one pack into a pipe whose other end goes to the reconciler. Returns whether to go on.
    fn fetch(&mut self, Want { want, oid, haves, afresh }: &Want) -> bool {
        let mut write_end = None;
        let out = self.out.clone();
        let refs = self.source.refs.clone();
        let refs: Vec<&str> = refs.iter().map(String::as_str).collect();
        // Whoever wants to know whether there is a way to the object is content with more; an import is not.
        let or_behind = if *afresh { &refs[..] } else { &[] };
        let asked = remote::Want { oid, haves, or_behind };
        let reached = if *afresh { self.reach_afresh() } else { Ok(()) };
        let done = reached
            .and_then(|()| self.request(|link| link.pack(&asked, || open_pipe(*want, &out, &mut write_end))));
        let done = match done {
            Err(failure) if write_end.is_none() && !afresh => self.may_be_stale(&failure).and_then(|()| {
                self.request(|link| link.pack(&asked, || open_pipe(*want, &out, &mut write_end)))
            }),
            other => other,
        };
        match done {
            Ok(_) => true,
            Err(failure) => {
                let notice = failed(&self.source.name, Some(*want), &failure);
                self.say(Outgoing { notice, pipe: None, close_after: write_end })
            }
        }
    }

    /// Reaches the remote on a new connection, and leaves that one to fetch on.
    fn reach_afresh(&mut self) -> Result<(), Failure> {
        self.link = None;
        if self.source.refs.is_empty() {
            return Ok(());
        }
        let names = self.source.refs.clone();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.request(|link| link.ls_refs(&names)).map(drop)
    }

    /// Makes one request on the kept link, or on a new one.
    fn request<T>(
        &mut self,
        ask: impl FnOnce(Link) -> Result<(T, Option<Link>), Failure>,
    ) -> Result<T, Failure> {
        let kept = self.link.take();
        self.was_kept = kept.is_some();
        let link = match kept {
            Some(link) => link,
            None => Link::open(&self.remote, &self.net)?,
        };
        let (answer, link) = ask(link)?;
        self.link = link;
        Ok(answer)
    }

    /// Passes on a failure unless it may only say that a kept connection had died in silence, or that the server is another
    /// one than it was when it announced what it can do.
    fn may_be_stale(&self, failure: &Failure) -> Result<(), Failure> {
        let outlived = matches!(failure.class, Class::Network | Class::Protocol);
        if self.was_kept && outlived { Ok(()) } else { Err(failure.clone()) }
    }

    /// Answers the fetches that are still queued when the source is watched no longer.
    fn refuse_the_rest(&mut self) {
        while let Ok(Want { want, .. }) = self.orders.wanted.try_recv() {
            let gone = Failure::new(Class::Cancelled, "the source is watched no longer");
            self.say(failed(&self.source.name, Some(want), &gone).into());
        }
    }

    /// Queues a notice, waiting for room unless called off. Returns whether to go on.
    fn say(&self, outgoing: Outgoing) -> bool {
        let outgoing = match self.out.try_send(outgoing) {
            Ok(()) => return true,
            Err(TrySendError::Closed(_)) => return false,
            Err(TrySendError::Full(outgoing)) => outgoing,
        };
        self.net.block_on(async {
            tokio::select! {
                biased;
                () = self.orders.stop.stopped() => false,
                sent = self.out.send(outgoing) => sent.is_ok(),
            }
        })
    }
}

fn open_pipe(
    want: u64,
    out: &mpsc::Sender<Outgoing>,
    write_end: &mut Option<File>,
) -> Result<OwnedFd, Failure> {
    let failed = |e: std::io::Error| Failure::new(Class::Local, format!("no pipe for the pack: {e}"));
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    *write_end = Some(File::from(writer.try_clone().map_err(failed)?));
    let notice = Outgoing { notice: Notice::Pack { want }, pipe: Some(reader), close_after: None };
    // Ends when the reconciler listens, or when the queue goes with the gateway.
    out.blocking_send(notice).map_err(|_| Failure::new(Class::Cancelled, "the reconciler is gone"))?;
    Ok(writer)
}

/// Counts failures in a row, apart by whether they can mend themselves.
fn after(last: Last, class: Class) -> Last {
    let count = match last {
        Last::Answered => 1,
        Last::Passing { count } | Last::Standing { count } => count.saturating_add(1),
    };
    match class {
        Class::Dns | Class::Network | Class::Server | Class::Timeout | Class::Cancelled => {
            Last::Passing { count }
        }
        Class::Tls
        | Class::Auth
        | Class::NotFound
        | Class::Refused
        | Class::Limit
        | Class::Protocol
        | Class::Shallow
        | Class::Local => Last::Standing { count },
    }
}

fn failed(source: &str, want: Option<u64>, failure: &Failure) -> Notice {
    let (source, text) = (source.to_owned(), wire::text(&failure.text));
    Notice::Failed { source, want, class: failure.class, text }
}

fn remote(source: &Source) -> Remote {
    let wire::Limits { refs, poll_bytes, pack_bytes, idle_ms: _, poll_ms, pack_ms } = source.limits;
    Remote {
        url: source.url.clone(),
        username: source.username.clone(),
        token_file: source.token_file.clone(),
        https: source.https.clone(),
        ssh_key_file: source.ssh_key_file.clone(),
        known_hosts_file: source.known_hosts_file.clone(),
        limits: Limits {
            refs,
            poll_bytes,
            pack_bytes,
            poll_within: Duration::from_millis(poll_ms),
            pack_within: Duration::from_millis(pack_ms),
        },
    }
}
