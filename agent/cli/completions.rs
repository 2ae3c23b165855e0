//! `pullagent completions`: a script that lets a shell complete verbs and options.

use super::exit::{Exit, Fail};
use super::output;

/// For which shell.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Prints the script.
pub fn run(args: &Args, command: &mut clap::Command) -> Result<Exit, Fail> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "pullagent", &mut script);
    output::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
