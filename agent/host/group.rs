//! Owns a running child together with everything it started in its process group: none of it outlives us
//! or its time. Knows nothing of programs; starting one is `command.rs`'s.

use std::io;
use std::os::fd::OwnedFd;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;
use tokio::runtime::Handle;

/// How long a process may take to clean up after SIGTERM before SIGKILL. Nix needs it to end its builders,
/// which live in sessions of their own.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// A child that leads its own process group. Dropping it ends the whole group.
pub(super) struct Group(Option<Member>);

/// The leader of the group, not yet reaped: as long as it is not, its number names no other process.
struct Member {
    child: Child,
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
    reaped: bool,
}

impl Group {
    /// Takes charge of `child`, which must have been started as the leader of its own process group.
    pub(super) fn new(mut child: Child) -> io::Result<Group> {
        match watch(&child) {
            Ok((pid, pidfd)) => Ok(Group(Some(Member { child, pid, pidfd, reaped: false }))),
            Err(e) => {
                child.start_kill().ok();
                Err(e)
            }
        }
    }

    /// Waits until the leader has ended. It is not reaped yet.
    pub(super) async fn exited(&self) -> io::Result<()> {
        match &self.0 {
            Some(member) => member.exited().await,
            None => Ok(()),
        }
    }

    /// Kills what the leader has left behind in its group, then returns how the leader itself ended.
    pub(super) async fn finish(&mut self) -> io::Result<ExitStatus> {
        match &mut self.0 {
            Some(member) => {
                member.signal(Signal::KILL);
                member.reap().await
            }
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Kills what the leader, which has ended, has left behind in its group.
    pub(super) fn sweep(&self) {
        if let Some(member) = &self.0 {
            member.signal(Signal::KILL);
        }
    }

    /// Ends the group, politely first, and returns when its leader is gone.
    pub(super) async fn end(mut self) {
        if let Some(member) = self.0.take() {
            member.end().await;
        }
    }
}

impl Drop for Group {
    /// Ends the group as [`Group::end`] does, in a task of its own, or at once where there is no runtime.
    fn drop(&mut self) {
        if let Some(member) = self.0.take().filter(|m| !m.reaped) {
            match Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(member.end())),
                Err(_) => drop(member),
            }
        }
    }
}

impl Member {
    async fn exited(&self) -> io::Result<()> {
        self.pidfd.readable().await.map(drop)
    }

    async fn reap(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.reaped = true;
        Ok(status)
    }

    async fn end(mut self) {
        self.signal(Signal::TERM);
        // Whether it went within the grace period or not makes no difference to what comes next.
        tokio::time::timeout(GRACE, self.exited()).await.ok();
        self.signal(Signal::KILL);
        self.reap().await.ok();
    }

    fn signal(&self, signal: Signal) {
        // ESRCH: all members are gone already.
        kill_process_group(self.pid, signal).ok();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(Signal::KILL);
        }
    }
}

fn watch(child: &Child) -> io::Result<(Pid, AsyncFd<OwnedFd>)> {
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let pid = id.ok_or(io::ErrorKind::NotFound)?;
    Ok((pid, end_of(pid)?))
}

/// Returns what becomes readable when the process `pid` has ended.
#[expect(
    deprecated,
    reason = "its replacement is `unsafe`; an `OwnedFd` that stays inside is what both ask for"
)]
pub(super) fn end_of(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd_open(pid, PidfdFlags::NONBLOCK)?, Interest::READABLE)
}
