//! The command line: one file per verb. A verb reads the files that the agent publishes, or gives it an order; only
//! `run` is the agent itself.

mod exit;

mod output;

pub mod hidden;

mod run;

mod status;

mod watch;

mod wait;

mod sync;

mod history;

mod log;

mod explain;

mod suspend;

mod resume;

mod retry;

mod accept;

mod answer;

mod verify;

mod allowed_signers;

mod hook;

mod config;

pub mod demo;

mod completions;

mod man;

mod boot_facts;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{Loaded, Settings};
use crate::control::client;
use crate::control::protocol::Order;
use exit::{Exit, Fail};

/// Where the configuration lies unless `--config` says otherwise, below the root.
const CONFIG_FILE: &str = "etc/pullagent/config.json";

/// The heading of the options that every verb has, so that a verb's own come first.
const SHARED: &str = "Options of every command";

const AFTER_HELP: &str = "\
Exit codes: 0 ok or in sync, 1 error, 2 usage, 3 refused, failed or rolled back, 4 pending or in progress, \
5 suspended, 6 no agent answers, 7 not permitted, 124 timed out. 'status' and 'explain' exit with 0 whatever \
they say, unless 'status' is called with --exit-code.";

/// Keeps this NixOS host equal to what a Git repository says, trusting keys and never the server
#[derive(Debug, Parser)]
#[command(name = "pullagent", version, after_help = AFTER_HELP, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    verb: Verb,
}

/// Options of every verb.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The root of the host's file system; another one only where a directory plays the host
    #[arg(long, global = true, value_name = "DIR", default_value = "/", env = "PULLAGENT_ROOT")]
    #[arg(help_heading = SHARED, hide_env_values = true)]
    pub root: PathBuf,
    /// The configuration file [default: etc/pullagent/config.json below the root]
    #[arg(long, global = true, value_name = "FILE", env = "PULLAGENT_CONFIG")]
    #[arg(help_heading = SHARED, hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Print JSON instead of text
    #[arg(long, global = true, help_heading = SHARED)]
    pub json: bool,
    /// Say no more than was asked for
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = SHARED)]
    pub quiet: bool,
    /// Have 'run' log more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = SHARED)]
    pub verbose: u8,
    /// When to send colours: always, never, or auto: to a terminal unless NO_COLOR or CLICOLOR=0 is set
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t, help_heading = SHARED)]
    #[arg(hide_possible_values = true)]
    pub color: output::Color,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent; this is what the service does
    Run,
    /// Say what runs, what is under way, and what is wrong
    Status(status::Args),
    /// Ask the remotes now instead of at the next interval
    Sync(sync::Args),
    /// Wait until a revision runs, or until nothing is left to do
    Wait(wait::Args),
    /// List what was deployed, refused and rolled back
    History(history::Args),
    /// Tell what happened to a deployment: what pullagent said, and the switch, and units that failed
    Log(log::Args),
    /// Say why a revision runs, or does not
    Explain(explain::Args),
    /// Check the signatures of a local repository as a host would, without the agent
    Verify(verify::Args),
    /// Print the signers as the allowed-signers file that Git and OpenSSH read
    AllowedSigners(allowed_signers::Args),
    /// Print a Git hook: for commits that name their branch, and for pushes that hosts accept
    Hook(hook::Args),
    /// Stop deploying; what is being tried right now is still brought to its end
    Suspend(suspend::Args),
    /// Deploy again after a suspension
    Resume,
    /// Keep the system that is being tried, once it has proved healthy
    Confirm(answer::Confirm),
    /// Go back from the system that is being tried, and set its revision aside
    Reject(answer::Reject),
    /// Try again what failed or was refused
    Retry(retry::Args),
    /// Go on from a commit that root names, although a rule refuses it; for root alone
    Accept(accept::Args),
    /// Check, show or describe the configuration
    #[command(subcommand)]
    Config(config::Verb),
    /// Show what pullagent does, on a host that is a throw-away directory; touches nothing outside of it
    Demo(demo::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
    /// Write the manual pages into a directory
    #[command(hide = true)]
    Man(man::Args),
    /// Say what is known of the boot loader, as JSON
    #[command(hide = true)]
    BootFacts(boot_facts::Args),
}

/// Plays the role that the command line asks for.
pub fn main() -> ExitCode {
    let argv: Vec<OsString> = std::env::args_os().collect();
    if let Some(code) = hidden::dispatch(argv.get(1..).unwrap_or_default()) {
        return code;
    }
    let matches = match Cli::command().try_get_matches_from(argv) {
        Ok(matches) => matches,
        Err(wrong) => {
            // Help and version are "errors" that go to stdout; a reader that has gone away is none.
            wrong.print().ok();
            return if wrong.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() };
        }
    };
    let ended = Cli::from_arg_matches(&matches)
        .map_err(|e| Fail::from(anyhow::Error::from(e)))
        .and_then(|cli| play(cli.verb, &cli.options));
    match ended {
        Ok(code) => code,
        Err(fail) => {
            fail.report();
            fail.exit.into()
        }
    }
}

fn play(verb: Verb, options: &Options) -> Result<ExitCode, Fail> {
    let exit = match verb {
        Verb::Run => return run::run(options),
        Verb::Status(args) => status::run(options, &args)?,
        Verb::Sync(args) => sync::run(options, &args)?,
        Verb::Wait(args) => wait::run(options, &args)?,
        Verb::History(args) => history::run(options, &args)?,
        Verb::Log(args) => log::run(options, &args)?,
        Verb::Explain(args) => explain::run(options, &args)?,
        Verb::Verify(args) => verify::run(options, &args)?,
        Verb::AllowedSigners(args) => allowed_signers::run(options, &args)?,
        Verb::Hook(args) => hook::run(&args)?,
        Verb::Suspend(args) => suspend::run(options, &args)?,
        Verb::Resume => resume::run(options)?,
        Verb::Confirm(args) => answer::confirm(options, &args)?,
        Verb::Reject(args) => answer::reject(options, &args)?,
        Verb::Retry(args) => retry::run(options, &args)?,
        Verb::Accept(args) => accept::run(options, &args)?,
        Verb::Config(verb) => config::run(options, &verb)?,
        Verb::Demo(args) => return Ok(demo::run(options, &args)?),
        Verb::Completions(args) => completions::run(&args, &mut Cli::command())?,
        Verb::Man(args) => man::run(&args, Cli::command())?,
        Verb::BootFacts(args) => boot_facts::run(options, &args)?,
    };
    Ok(exit.into())
}

impl Options {
    /// Returns the path of the configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| self.root.join(CONFIG_FILE))
    }

    /// Reads the configuration. Unknown keys are told, and are no error.
    ///
    /// # Errors
    /// The file can't be read or used.
    fn settings(&self) -> Result<Settings, Fail> {
        let path = self.config_path();
        let Loaded { settings, unknown } = crate::config::load(&path)?;
        for key in unknown {
            output::tell(self, &format!("warning: unknown key '{key}' in '{}'", path.display()));
        }
        Ok(settings)
    }
}

/// Reads a duration from the command line.
fn duration(text: &str) -> Result<std::time::Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "a duration is written like 90s, 10m or \"1h 30m\"".to_owned())
}

/// Gives an order to the running agent and says what came of it.
fn order(options: &Options, order: &Order) -> Result<(), Fail> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("failed to start the runtime")?;
    let message = runtime.block_on(client::give(&options.root, order))?;
    if options.json {
        output::print_json(&serde_json::json!({ "schema": 1, "ok": true, "message": message }))
    } else if options.quiet {
        Ok(())
    } else {
        output::print(&format!("{message}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
