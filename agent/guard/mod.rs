//! The dead man's switch: whatever becomes of the agent, an unconfirmed system goes away in time.
//!
//! ```text
//! guard/<id>/plan.json    what is tried, what to go back to; written once, before anything changes
//! guard/<id>/agent        the binary that will roll back: a link into the store, or a copy
//! guard/<id>/agent-root   protects that binary from garbage collection, where it lies in a store
//! guard/<id>/old-root     the same for the system to go back to
//! guard/<id>/decision     confirm, roll back, or superseded: the first to create it decides
//! guard/<id>/red.json     the checks that the decision is about
//! guard/<id>/result.json  how a rollback ended
//! guard/<id>/boot.json    only where the new system is tried by a boot of its own (`boot.rs`)
//! guard/<id>/lock         held while a rollback is carried out
//! guard/<id>/prepared-*   decision and result of a rollback, ready to be renamed: it takes no room on a full disk
//! ```
//! The agent prepares it ([`write_plan`], [`pin`], [`selftest`]) and adds timers ([`arm`]): of systemd where it runs the
//! host, otherwise processes that wait. Under systemd the switch adds one of its own when it ends, whatever has become of the
//! agent. One that finds its deadline passed and nothing decided fires. Timers are never
//! taken back: firing when there is nothing to do does nothing. Every rollback is carried out by the pinned binary, also one that the agent
//! decided ([`decide`], then [`fire_now`]).
//!
//! This room knows the host and the nouns. It opens no journal, touches no profile (it was never moved),
//! and to roll back it needs neither Nix nor a network nor anything of the new system.

mod boot;
mod fire;
mod pinned;
mod plan;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::host::chain;
use crate::host::command::CommandError;
use crate::host::detach::DetachError;
use crate::host::files::FileError;
use crate::host::job::JobError;
use crate::host::nix::NixError;
use crate::host::systemd::SystemdError;
use crate::model::{DeploymentId, StorePath};

pub use boot::{CONTROL, boot_deadline, install_boot, mark_boot, remove_boot};
pub use fire::{Fired, fire, rollback_max};
pub use pinned::{after_switch, arm, await_timers, fire_now, pin, selftest};
pub use plan::{
    GuardPlan, SCHEMA, decide, facts, note_red, read_decision, read_plan, read_result, sweep, write_plan,
};

/// Says why the guard cannot be relied on, or could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// One of its files could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// One of its files is not what we or another version of us wrote there.
    #[error("'{}' cannot be understood", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// A plan follows rules that this version does not know.
    #[error("the plan in '{}' has schema {schema}, this version knows {SCHEMA}", dir.display())]
    Schema {
        /// The guard's directory.
        dir: PathBuf,
        /// The schema found.
        schema: u32,
    },
    /// Another plan for the same deployment is in force already.
    #[error("deployment '{0}' has another plan already")]
    OtherPlan(DeploymentId),
    /// The system to go back to cannot be switched to.
    #[error("'{0}' has no executable bin/switch-to-configuration")]
    NoWayBack(StorePath),
    /// The binary or the system to go back to could not be protected from garbage collection.
    #[error("failed to protect '{path}' from garbage collection")]
    Root {
        /// What was to be protected.
        path: StorePath,
        /// Why not.
        source: NixError,
    },
    /// The pinned binary found that it could not roll back.
    #[error("the guard's self-test failed")]
    Selftest(#[source] CommandError),
    /// A timer could not be started.
    #[error("failed to arm the guard")]
    Arm(#[source] DetachError),
    /// systemd did not take on a timer.
    #[error("failed to arm the guard")]
    Timer(#[source] SystemdError),
    /// The rollback could not be started or followed.
    #[error("failed to run the rollback")]
    Job(#[from] JobError),
    /// The rollback has left no result.
    #[error("the rollback has left no result: {0}")]
    NoResult(String),
    /// Another rollback of the same deployment does not come to an end.
    #[error("another rollback in '{}' does not end", .0.display())]
    Busy(PathBuf),
    /// The unit that guards a trial boot could not be installed or removed.
    #[error("failed to install or remove the unit that guards a trial boot")]
    BootGuard(#[source] CommandError),
    /// The host does not reboot.
    #[error("the host still runs '{0}', although it was told to reboot")]
    StillUp(StorePath),
}

/// The arguments of `pullagent guard`, taken apart. They are an ABI between versions, as the plan is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuardArgs {
    /// Find out whether a rollback could be carried out.
    Selftest {
        /// The guard's directory.
        dir: PathBuf,
    },
    /// Wait, on our own, until a moment after boot; then fire unless it was decided otherwise.
    Wait {
        /// The guard's directory.
        dir: PathBuf,
        /// The deadline in milliseconds since boot.
        until_boottime_ms: u64,
    },
    /// Roll back unless it was decided otherwise.
    Fire {
        /// The guard's directory.
        dir: PathBuf,
    },
    /// Guard a trial boot: reboot at its deadline unless it was decided otherwise.
    Boot {
        /// The guard's directory.
        dir: PathBuf,
    },
    /// Install the unit that does that.
    InstallBoot {
        /// The guard's directory.
        dir: PathBuf,
    },
    /// Remove that unit.
    RemoveBoot {
        /// The guard's directory.
        dir: PathBuf,
    },
    /// The switch ended: add the timer that bounds the trial, in case that nobody is left to do it.
    Shorten {
        /// The guard's directory.
        dir: PathBuf,
    },
}

impl GuardArgs {
    /// Writes the arguments down, the verb first.
    pub fn to_argv(&self) -> Vec<OsString> {
        let role = |role: &str, dir: &Path| vec!["guard".into(), role.into(), dir.into()];
        match self {
            GuardArgs::Selftest { dir } => role("--selftest", dir),
            GuardArgs::Fire { dir } => role("--fire", dir),
            GuardArgs::Boot { dir } => role("--boot", dir),
            GuardArgs::InstallBoot { dir } => role("--install-boot", dir),
            GuardArgs::RemoveBoot { dir } => role("--remove-boot", dir),
            GuardArgs::Shorten { dir } => role("--shorten", dir),
            GuardArgs::Wait { dir, until_boottime_ms } => {
                let mut argv = role("--wait", dir);
                argv.extend(["--until".into(), until_boottime_ms.to_string().into()]);
                argv
            }
        }
    }
}

/// Plays the role that `args` ask for, to be called in a process of its own.
pub fn main(args: &GuardArgs) -> ExitCode {
    let played = match args {
        GuardArgs::Selftest { dir } => pinned::test_here(dir),
        GuardArgs::Wait { dir, until_boottime_ms } => fire::wait_and_fire(dir, *until_boottime_ms),
        GuardArgs::Fire { dir } => fire::fire_here(dir),
        GuardArgs::Boot { dir } => boot::watch_here(dir),
        GuardArgs::InstallBoot { dir } => boot::install_here(dir),
        GuardArgs::RemoveBoot { dir } => boot::remove_here(dir),
        GuardArgs::Shorten { dir } => fire::shorten_here(dir),
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pullagent guard: {}", chain(&e));
            ExitCode::FAILURE
        }
    }
}
