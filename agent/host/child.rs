//! Owns what stands between us and a program that we run: two short roles of our own binary.
//!
//! ```text
//! agent ─▶ supervise ─▶ exec-child, which becomes the program
//! ```
//! `supervise` leads the program's process group, and kills all of it when the agent dies, however suddenly.
//! (The kernel's own "die with your parent" reaches only the program, not what the program has started: a
//! switch killed that way leaves its children behind, and its lock held.) `exec-child` sets the limits.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, getpgrp, getpid, getppid, kill_process, kill_process_group,
    set_parent_process_death_signal, setrlimit,
};
use tokio::signal::unix::{SignalKind, signal};

use super::command::{become_program, own_binary, spawn_beside_us};
use super::group::end_of;

/// Exit code for "the program could not be executed", as shells have it.
const CANNOT_EXECUTE: u8 = 126;
/// Shells say "ended by signal n" with this plus n.
const SIGNAL_CODE: u8 = 128;

/// Limits that the kernel enforces on a child. `None` leaves a limit as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Address space in bytes.
    pub address_space: Option<u64>,
    /// Processor time in seconds; SIGKILL at its end.
    pub cpu_secs: Option<u64>,
    /// Size of any file it writes, in bytes.
    pub file_size: Option<u64>,
}

/// The arguments of `pullagent supervise`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supervise {
    /// Process id of the agent that the program must not outlive.
    pub parent: u32,
    /// What the kernel shall enforce on the program.
    pub limits: Limits,
    /// The program and its arguments.
    pub argv: Vec<OsString>,
}

/// The arguments of `pullagent exec-child`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecChild {
    /// Process id of the supervisor that the program must not outlive.
    pub parent: u32,
    /// What the kernel shall enforce.
    pub limits: Limits,
    /// The program and its arguments.
    pub argv: Vec<OsString>,
}

/// Returns the arguments of our own binary that have it supervise the program that is to follow.
pub(super) fn supervised(limits: Limits) -> Vec<OsString> {
    role("supervise", limits)
}

/// Runs the program in `args` and ends as it ends; kills its process group, ours, when the parent dies.
pub fn supervise_main(args: &Supervise) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(supervise(args))) {
        Ok(status) => end_as(status),
        Err(e) => fail(&e),
    }
}

async fn supervise(args: &Supervise) -> io::Result<ExitStatus> {
    // Whoever ends the group politely means the program; we stay until it has gone.
    let _caught = signal(SignalKind::terminate())?;
    let parent = end_of(living_parent(args.parent)?)?;
    // It may have died before it was watched.
    living_parent(args.parent)?;
    let mut argv = vec![own_binary().into()];
    argv.extend(role("exec-child", args.limits));
    argv.extend(args.argv.iter().cloned());
    let mut program = spawn_beside_us(&argv)?;
    tokio::select! {
        status = program.wait() => status,
        died = parent.readable() => {
            died?.retain_ready();
            kill_process_group(getpgrp(), Signal::KILL)?;
            Err(io::Error::other("the parent is gone"))
        }
    }
}

/// Ends this process as the program has ended.
fn end_as(status: ExitStatus) -> ExitCode {
    if let Some(code) = status.code() {
        return ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX));
    }
    let number = status.signal().unwrap_or(0);
    if let Some(signal) = Signal::from_named_raw(number) {
        // The program's core, if it has left one, is enough.
        enforce(Resource::Core, Some(0)).and_then(|()| kill_process(getpid(), signal)).ok();
    }
    // SIGTERM, which we catch, comes here.
    ExitCode::from(SIGNAL_CODE.saturating_add(u8::try_from(number).unwrap_or(0)))
}

/// Becomes the program in `args`, bound to its supervisor's life. Returns only if that fails.
pub fn exec_child_main(args: &ExecChild) -> ExitCode {
    match limit_ourselves(args) {
        Ok(()) => fail(&become_program(&args.argv)),
        Err(e) => fail(&e),
    }
}

fn limit_ourselves(args: &ExecChild) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have died before that.
    living_parent(args.parent)?;
    enforce(Resource::Cpu, args.limits.cpu_secs)?;
    enforce(Resource::Fsize, args.limits.file_size)?;
    Ok(enforce(Resource::As, args.limits.address_space)?)
}

fn living_parent(parent: u32) -> io::Result<Pid> {
    let ours = getppid().filter(|pid| i32::try_from(parent) == Ok(pid.as_raw_nonzero().get()));
    ours.ok_or_else(|| io::Error::other("the parent is gone"))
}

fn enforce(resource: Resource, limit: Option<u64>) -> rustix::io::Result<()> {
    match limit {
        Some(limit) => setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) }),
        None => Ok(()),
    }
}

fn role(role: &str, limits: Limits) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec![role.into(), "--parent".into(), std::process::id().to_string().into()];
    let named = [
        ("--limit-as", limits.address_space),
        ("--limit-cpu", limits.cpu_secs),
        ("--limit-fsize", limits.file_size),
    ];
    for (name, limit) in named {
        args.extend(limit.into_iter().flat_map(|n| [name.into(), n.to_string().into()]));
    }
    args.push("--".into());
    args
}

fn fail(error: &io::Error) -> ExitCode {
    eprintln!("pullagent: cannot execute the program: {error}");
    ExitCode::from(CANNOT_EXECUTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_arguments() {
        let limits = Limits { address_space: Some(5), cpu_secs: None, file_size: Some(7) };
        let args: Vec<_> = supervised(limits).into_iter().map(|a| a.to_string_lossy().into_owned()).collect();
        let pid = std::process::id().to_string();
        assert_eq!(args, ["supervise", "--parent", &pid, "--limit-as", "5", "--limit-fsize", "7", "--"]);
    }
}
