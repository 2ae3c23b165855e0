//! `pullagent hook`: the Git hooks that come with the program, as a package installs them in `share/pullagent/hooks`.

use super::exit::{Exit, Fail};
use super::output;

const AFTER_HELP: &str = "\
Install them in a clone, once:
  for hook in prepare-commit-msg commit-msg; do
    path=$(git rev-parse --git-path hooks/$hook)
    pullagent hook $hook > \"$path\" && chmod +x \"$path\"
  done

'prepare-commit-msg' adds 'Deploy-To: <branch>' on branches named test-*, and on those that \
'git config --add pullagent.bindBranch NAME' lists. 'pre-push' and 'pre-receive' run 'pullagent verify' with the file that \
'git config pullagent.config FILE' names.";

/// Which hook.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// The hook, by Git's name for it
    #[arg(value_enum)]
    name: Name,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Name {
    /// Binds commits to the branch they are made on
    PrepareCommitMsg,
    /// Calls a commit off in whose message nothing else was written
    CommitMsg,
    /// Keeps commits at home that hosts would refuse
    PrePush,
    /// Keeps commits that hosts would refuse from a Git server
    PreReceive,
}

/// Prints the script.
pub fn run(args: &Args) -> Result<Exit, Fail> {
    output::print(match args.name {
        Name::PrepareCommitMsg => include_str!("hook/prepare-commit-msg"),
        Name::CommitMsg => include_str!("hook/commit-msg"),
        Name::PrePush => include_str!("hook/pre-push"),
        Name::PreReceive => include_str!("hook/pre-receive"),
    })?;
    Ok(Exit::Ok)
}
