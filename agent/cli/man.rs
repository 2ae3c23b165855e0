//! `pullagent man`: the manual pages, made of the same words as `--help`. Packages call it while they are built, so
//! that no page has to be kept in the repository and none can be out of date.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::exit::{Exit, Fail};

/// Where to put them.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory, which must exist
    dir: PathBuf,
}

/// Writes one page for the program and one for each verb.
pub fn run(args: &Args, command: clap::Command) -> Result<Exit, Fail> {
    let mut command = command.disable_help_subcommand(true);
    // Only a built command knows the options that all verbs share, and its verbs' full names.
    command.build();
    write(&args.dir, &command)?;
    Ok(Exit::Ok)
}

fn write(dir: &Path, command: &clap::Command) -> anyhow::Result<()> {
    let page = clap_mangen::Man::new(command.clone()).manual("pullagent");
    let path = dir.join(page.get_filename());
    let mut text = Vec::new();
    page.render(&mut text).with_context(|| format!("failed to render '{}'", path.display()))?;
    std::fs::write(&path, text).with_context(|| format!("failed to write '{}'", path.display()))?;
    command.get_subcommands().filter(|verb| !verb.is_hide_set()).try_for_each(|verb| write(dir, verb))
}
