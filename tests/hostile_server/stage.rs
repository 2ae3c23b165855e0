//! A repository, a server that may lie about it, and an agent that follows it; and the one way in which every lie is tried:
//! the agent meets it, nothing changes, nothing is left, no bound is broken, and then an honest server gets it on at once.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pullagent::model::Oid;
use pullagent::report::Status;

use crate::agent::{Agent, Peaks, bounds};
use crate::common::scripted::{Ask, FLUSH, band, head, line, send, whole};
use crate::git::Repo;
use crate::server::{Script, Server};

/// So much more than before may be resident in the agent, gateway included, whatever a remote sends: the buffers of one
/// connection, one answer to a poll, and what the allocator rounds up.
pub const AGENT_GROWTH_BYTES: u64 = 6 << 20;
/// So much may be resident in an import child: the program itself, a few objects of the largest size, and the pack.
pub const IMPORT_PEAK_BYTES: u64 = 40 << 20;
/// So much may lie below the state directory beyond what was there: one pack of the largest size, its index, small things.
pub const DISK_GROWTH_BYTES: u64 = bounds::PACK_BYTES + (3 << 20);

/// How many lies were told in all.
static TOLD: AtomicUsize = AtomicUsize::new(0);

/// What an agent makes of a lie.
#[derive(Debug, Clone, Copy)]
pub enum Expect {
    /// It could not be taken in, for this reason; it is tried again.
    Retry(&'static str),
    /// It is refused for good, with this code.
    Refused(&'static str),
    /// The remote is in trouble of this class, and these words are said.
    Trouble(&'static str, &'static str),
    /// The remote answers, and there is nothing to do.
    Nothing,
    /// No harm in it: the tip is accepted.
    Accepted,
}

pub struct Stage {
    pub repo: Repo,
    pub server: Server,
    pub agent: Agent,
    /// Whoever connects here was led astray.
    pub elsewhere: String,
    led_astray: Arc<AtomicUsize>,
    told: usize,
}

impl Stage {
    /// Starts all three; the agent has accepted the first commits.
    pub fn set() -> Stage {
        let mut stage = Stage::fresh(|_| None);
        stage.get_on("the beginning");
        stage
    }

    /// The same, but the server may lie from the start: the agent knows no more than the id of the first commit.
    pub fn fresh(script: impl FnOnce(&Repo) -> Option<Script>) -> Stage {
        let mut repo = Repo::new();
        repo.write("README", "no flake: what is accepted can't be built, which is not the point here\n");
        let first = repo.commit("begin");
        repo.change("hosts/web1/default.nix", "{ }\n".repeat(60));
        let server = Server::start(&repo.path().join(".git"));
        if let Some(script) = script(&repo) {
            server.lie(script);
        }
        let agent = Agent::start(&server.url, &first);
        let (elsewhere, led_astray) = trap();
        Stage { repo, server, agent, elsewhere, led_astray, told: 0 }
    }

    /// Makes a signed commit that the agent has not seen.
    pub fn push(&mut self) -> Oid {
        let n = self.told;
        self.repo.change("hosts/web1/default.nix", "{ }\n".repeat(60) + &format!("release {n}\n"))
    }

    /// Makes a signed commit that differs from those before by `n`.
    pub fn push_after(&mut self, n: usize) -> Oid {
        self.repo.change("hosts/web1/default.nix", "{ }\n".repeat(60) + &format!("round {n}\n"))
    }

    /// Pushes, lies about it, and then is honest.
    #[track_caller]
    pub fn tell(&mut self, name: &str, expect: Expect, script: impl FnOnce(&mut Stage, &Oid) -> Script) {
        let tip = self.push();
        let script = script(self, &tip);
        self.lie(name, expect, script);
        self.get_on(name);
    }

    /// Lies until the agent has drawn its conclusions, and compares them.
    #[track_caller]
    pub fn lie(&mut self, name: &str, expect: Expect, script: Script) {
        let (before, stored) = (self.agent.accepted(), self.agent.stored());
        let disk = self.agent.disk();
        self.agent.begin_measuring();
        let resident = self.agent.peaks().agent;
        self.server.lie(script);
        let asked = pullagent::host::clock::unix_secs();
        self.agent.sync();
        let tip = self.repo.tip();
        self.told += 1;
        TOLD.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        let met = |s: &Status| self.server.lies() > 0 && is_met(s, expect, &tip, asked);
        self.agent.await_status(&format!("'{name}' to end in {expect:?}"), met);
        if matches!(expect, Expect::Nothing) {
            // The answer was there; a second one shows that the first was dealt with.
            let lies = self.server.lies();
            self.agent.sync();
            self.agent.await_status(name, |s| self.server.lies() > lies && met(s));
        }
        if !matches!(expect, Expect::Accepted) {
            assert_eq!(
                (self.agent.accepted(), self.agent.stored()),
                (before, stored),
                "{name}: the anchor moved"
            );
        }
        self.check_cost(name, began.elapsed(), resident, disk);
        assert_eq!(self.led_astray.load(Ordering::SeqCst), 0, "{name}: somebody else was asked");
        assert_eq!(self.server.strange(), 0, "{name}: something strange was asked for");
    }

    /// Is honest: the agent accepts the tip as if nothing had been.
    #[track_caller]
    pub fn get_on(&mut self, after: &str) {
        self.server.be_honest();
        self.agent.sync();
        let tip = self.repo.tip();
        let accepted = |s: &Status| s.accepted.as_ref().is_some_and(|c| c.revision == tip);
        self.agent.await_status(&format!("an honest server after '{after}'"), accepted);
        self.agent.await_tidy(after);
        assert_eq!(self.agent.stored(), Some(tip), "{after}");
    }

    #[track_caller]
    fn check_cost(&self, name: &str, took: Duration, resident: u64, disk: u64) {
        let Peaks { agent, import, disk: peak } = self.agent.peaks();
        let (grown, written) = (agent.saturating_sub(resident), peak.saturating_sub(disk));
        println!(
            "{name}: {} ms, agent {} + {} KiB, import {} KiB, disk {} + {} KiB",
            took.as_millis(),
            resident >> 10,
            grown >> 10,
            import >> 10,
            disk >> 10,
            written >> 10
        );
        assert!(grown <= AGENT_GROWTH_BYTES, "{name}: the agent grew by {grown} bytes");
        assert!(import <= IMPORT_PEAK_BYTES, "{name}: the import took {import} bytes");
        assert!(written <= DISK_GROWTH_BYTES, "{name}: {written} bytes were written");
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        println!("{} hostile answers here, {} in all", self.told, TOLD.load(Ordering::Relaxed));
    }
}

fn is_met(s: &Status, expect: Expect, tip: &Oid, asked: u64) -> bool {
    let remote = &s.remotes[0];
    match expect {
        Expect::Retry(code) => s.retries.iter().any(|r| r.code == code),
        Expect::Refused(code) => s.problem.as_ref().is_some_and(|bad| bad.code == code && bad.at >= asked),
        Expect::Trouble(class, words) => {
            remote.trouble.as_ref().is_some_and(|t| t.class == class && t.text.contains(words))
        }
        Expect::Nothing => {
            remote.trouble.is_none()
                && remote.checked_at.is_some_and(|at| at >= asked)
                && s.retries.is_empty()
                && s.doing.is_none()
        }
        Expect::Accepted => s.accepted.as_ref().is_some_and(|c| c.revision == *tip),
    }
}

/// Listens where nobody should ever connect.
fn trap() -> (String, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/infra.git", listener.local_addr().unwrap());
    let caught = Arc::<AtomicUsize>::default();
    let count = caught.clone();
    std::thread::spawn(move || {
        for _ in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    (url, caught)
}

/// A script for one kind of request; the others are answered honestly.
pub fn on(ask: Ask, answer: impl Fn(&mut TcpStream) -> bool + Send + Sync + 'static) -> Script {
    Box::new(move |request, to| (request.ask == ask).then(|| answer(to)))
}

/// Sends `pack` whatever is wanted.
pub fn sends(pack: Vec<u8>) -> Script {
    let mut body = line("packfile\n");
    pack.chunks(60_000).for_each(|chunk| body.extend(band(1, chunk)));
    body.extend(FLUSH);
    fetches(body)
}

/// Answers a fetch by `body`.
pub fn fetches(body: Vec<u8>) -> Script {
    on(Ask::Pack, move |to| {
        whole(Ask::Pack, to, &body);
        true
    })
}

/// Answers a question for refs by `body`.
pub fn lists(body: Vec<u8>) -> Script {
    on(Ask::Refs, move |to| {
        whole(Ask::Refs, to, &body);
        true
    })
}

/// Says that `main` is `id`.
pub fn names(id: &str) -> Script {
    lists([line(format!("{id} refs/heads/main\n")), FLUSH.to_vec()].concat())
}

/// Both: the first that answers a request.
pub fn both(first: Script, second: Script) -> Script {
    Box::new(move |request, to| first(request, to).or_else(|| second(request, to)))
}

/// Sends `first`, then `again` until the client has had enough.
pub fn floods(ask: Ask, first: Vec<u8>, again: Vec<u8>) -> Script {
    on(ask, move |to| {
        head(ask, to);
        send(to, &first);
        while send(to, &again) {}
        false
    })
}
