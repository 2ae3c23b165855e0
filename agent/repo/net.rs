//! One thread's event loop, with the bounds of the exchange under way: idle time, total time, bytes, and being
//! called off. Blocking code waits through it, so that no wait is without an end. It knows neither HTTP nor Git.

use std::cell::RefCell;
use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::unix::pipe;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::host::timer::Timer;
pub use crate::model::RemoteFailure as Class;

/// Says why an exchange with a remote failed: a class to act on and a sentence for people.
///
/// The sentence has operation, object and cause in one, since it crosses to another process. It never holds
/// credentials, and no part of a URL but the host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// What kind of failure.
    pub class: Class,
    /// What was tried, on what, and why it failed.
    pub text: String,
}

impl Failure {
    /// Returns a failure of `class` with `text`.
    pub fn new(class: Class, text: impl Into<String>) -> Failure {
        Failure { class, text: text.into() }
    }
}

/// Calls off whatever a [`Net`] does, from any thread. Clones share one switch, which cannot be turned back.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Stop(Arc::new(watch::Sender::new(false)))
    }
}

impl Stop {
    /// Turns the switch.
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    /// Waits until the switch is turned.
    pub async fn stopped(&self) {
        // It can only fail when the sender is gone, and `self` holds it.
        let _seen = self.0.subscribe().wait_for(|stopped| *stopped).await.is_ok();
    }
}

/// One thread's event loop and the bounds of the exchange under way.
///
/// Connections live on this loop and are only served while the thread waits through [`Net::block_on`] or an
/// exchange: a thread that keeps a connection also does its idle waiting here.
#[derive(Debug)]
pub struct Net {
    /// Taken out only when dropped.
    runtime: Option<Runtime>,
    stop: Stop,
    idle: Duration,
    exchange: RefCell<Exchange>,
    timer: Timer,
}

#[derive(Debug)]
struct Exchange {
    deadline: Instant,
    within: Duration,
    bytes_left: u64,
    bytes_max: u64,
    /// The pipe that the exchange writes to; when nobody reads it any more, the exchange is moot.
    /// Weak, since holding it would keep the reader from seeing the end.
    pipe: Weak<pipe::Sender>,
    /// The first failure; what library code makes of it on the way up is less exact.
    failure: Option<Failure>,
}

impl Exchange {
    fn new(within: Duration, bytes: u64) -> Exchange {
        Exchange {
            deadline: Instant::now() + within,
            within,
            bytes_left: bytes,
            bytes_max: bytes,
            pipe: Weak::new(),
            failure: None,
        }
    }
}

impl Net {
    /// Makes a loop. `idle` is how long any one wait may last.
    ///
    /// # Errors
    /// If the kernel gives no event loop.
    ///
    /// # Panics
    /// Its other methods panic when called from inside another runtime: it is for a thread of its own.
    pub fn new(stop: Stop, idle: Duration) -> io::Result<Net> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let exchange = RefCell::new(Exchange::new(Duration::ZERO, 0));
        let timer = {
            let _inside = runtime.enter();
            Timer::new()?
        };
        Ok(Net { runtime: Some(runtime), stop, idle, exchange, timer })
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("the runtime is taken out only when dropped")
    }

    /// Runs `future` without the bounds of an exchange; kept connections are served meanwhile.
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime().block_on(future)
    }

    /// Sleeps on this loop until `due`, with one wake-up; suspend counts. Safe to cancel; one sleep at a time, none beside an
    /// exchange.
    pub async fn sleep_until(&self, due: Instant) {
        let slept = self.timer.wait(due.saturating_duration_since(Instant::now())).await;
        if slept.is_err() {
            tokio::time::sleep_until(due).await;
        }
    }

    /// Starts an exchange: from now on it may take `within` and read `bytes`.
    pub fn begin(&self, within: Duration, bytes: u64) {
        self.exchange.replace(Exchange::new(within, bytes));
    }

    /// Makes the exchange end as soon as nobody reads from `pipe` any more.
    pub(super) fn end_with_reader(&self, pipe: &Arc<pipe::Sender>) {
        self.exchange.borrow_mut().pipe = Arc::downgrade(pipe);
    }

    /// Runs `make` where it can register a descriptor with this loop.
    pub(super) fn enter<T>(&self, make: impl FnOnce() -> T) -> T {
        let _inside = self.runtime().enter();
        make()
    }

    /// Waits for `future` within the bounds of the exchange.
    pub(super) fn wait<T>(&self, future: impl Future<Output = T>) -> Result<T, Failure> {
        let (deadline, within, pipe) = {
            let exchange = self.exchange.borrow();
            (exchange.deadline, exchange.within, exchange.pipe.upgrade())
        };
        // What is there already never waits: without this look at the clock a steady drip would never end.
        let now = Instant::now();
        if now >= deadline {
            return Err(Failure::new(Class::Timeout, format!("not done within {within:?}")));
        }
        let idle = now + self.idle;
        // A timer of the runtime wakes its own thread when it is set.
        let out_of_time = self.sleep_until(deadline.min(idle));
        let unread = async {
            match &pipe {
                Some(pipe) => pipe.ready(Interest::ERROR).await.map(drop),
                None => std::future::pending().await,
            }
        };
        self.runtime().block_on(async {
            tokio::select! {
                biased;
                () = self.stop.stopped() => Err(Failure::new(Class::Cancelled, "called off")),
                _ = unread => Err(Failure::new(Class::Cancelled, "the reader of the pack went away")),
                done = future => Ok(done),
                () = out_of_time => Err(if deadline <= idle {
                    Failure::new(Class::Timeout, format!("not done within {within:?}"))
                } else {
                    Failure::new(Class::Timeout, format!("nothing happened for {:?}", self.idle))
                }),
            }
        })
    }

    /// Counts bytes that came against the limit of the exchange.
    pub(super) fn count(&self, bytes: usize) -> Result<(), Failure> {
        let mut exchange = self.exchange.borrow_mut();
        let Some(left) = exchange.bytes_left.checked_sub(bytes as u64) else {
            let text = format!("the answer is larger than {} bytes", exchange.bytes_max);
            return Err(Failure::new(Class::Limit, text));
        };
        exchange.bytes_left = left;
        Ok(())
    }

    /// Remembers `failure` as the cause of what library code will report, and wraps it for that code.
    ///
    /// Never of kind `Interrupted`, which the standard library retries for ever.
    pub(super) fn fail(&self, failure: Failure) -> io::Error {
        let mut exchange = self.exchange.borrow_mut();
        io::Error::other(exchange.failure.get_or_insert(failure).clone())
    }

    /// Returns the first failure of this exchange, if one was remembered.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.exchange.borrow().failure.clone()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // A name lookup that hangs in the C library cannot be called off; do not wait for it.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Returns `error` and everything below it, what is wrapped in I/O errors included.
pub(super) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&e| {
        // `source()` of an I/O error skips the error it wraps.
        let wrapped = e.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|inner| inner as &(dyn StdError + 'static)).or_else(|| e.source())
    })
}
