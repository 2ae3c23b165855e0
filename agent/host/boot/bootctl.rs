//! Owns how the loader is told what to boot: by `bootctl`, and read back by ourselves.
//!
//! `bootctl` and not efivarfs directly: it knows that the kernel makes these files immutable and how to lift that, which
//! attributes they need, and whether the loader supports them; and it is there wherever systemd-boot is. But it says
//! nothing about what the firmware made of it, so success is what is read afterwards, not its exit code. It runs as a unit
//! of its own: from within our sandbox no variable can be written.

use std::path::Path;
use std::time::Duration;

use super::efivars::{self, Variables};
use crate::host::command::{Command, CommandError};
use crate::host::files::FileError;
use crate::host::manager::Manager;
use crate::host::units::Kind;

/// How long `bootctl` may take: some firmware tidies up its memory at a write.
const WRITE_TIME: Duration = Duration::from_secs(30);

/// Says why the loader was not told.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// `bootctl` did not do it.
    #[error("failed to set the EFI variable {variable}")]
    Bootctl {
        /// The variable.
        variable: &'static str,
        /// What it said.
        source: CommandError,
    },
    /// The variable can't be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The firmware has kept another value.
    #[error(
        "the EFI variable {variable} was set to {wanted:?}, and is {found:?}: the firmware does not keep it"
    )]
    NotKept {
        /// The variable.
        variable: &'static str,
        /// What was written; nothing where it was deleted.
        wanted: Option<String>,
        /// What is there.
        found: Option<String>,
    },
}

/// Makes `name`, an entry's id or a pattern, what the next boot starts, and no boot after it; nothing clears it.
///
/// # Errors
/// It was not set, or does not read back.
pub async fn set_one_shot(efivars: &Path, manager: Manager, name: Option<&str>) -> Result<(), SetError> {
    let command = command("set-oneshot", name);
    set(command, manager, "LoaderEntryOneShot", efivars, name, |found| found.one_shot).await
}

/// Makes `name` what all boots start, before `default` in `loader.conf`; nothing clears it.
///
/// # Errors
/// It was not set, or does not read back.
pub async fn set_default(efivars: &Path, manager: Manager, name: Option<&str>) -> Result<(), SetError> {
    let command = command("set-default", name);
    set(command, manager, "LoaderEntryDefault", efivars, name, |found| found.default).await
}

/// `bootctl` deletes the variable if it is given an empty name.
fn command(verb: &str, name: Option<&str>) -> Command {
    Command::new("bootctl").args([verb, name.unwrap_or("")]).time_limit(WRITE_TIME)
}

async fn set(
    command: Command,
    manager: Manager,
    variable: &'static str,
    efivars: &Path,
    name: Option<&str>,
    of: impl FnOnce(Variables) -> Option<String>,
) -> Result<(), SetError> {
    let run = manager.run_for_effect(Kind::Root, command).await;
    run.map_err(|source| SetError::Bootctl { variable, source })?;
    let found = efivars::read(efivars)?.and_then(of);
    if found.as_deref() != name {
        return Err(SetError::NotKept { variable, wanted: name.map(str::to_owned), found });
    }
    Ok(())
}
