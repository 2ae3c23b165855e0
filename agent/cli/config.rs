//! `pullagent config`: check, show, describe. It needs no agent and no root.

mod polls;

use serde::Serialize;

use super::Options;
use super::exit::{Exit, Fail};
use super::output;
use crate::config::{self, Loaded, Settings};
use crate::host::clock;
use polls::Polls;

/// What to do with the configuration.
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Say what is wrong with it, unknown keys included
    Check,
    /// Print it with all defaults filled in
    Show,
    /// Print its JSON schema
    Schema,
}

/// What a check found.
#[derive(Debug, Serialize)]
struct Findings {
    schema: u32,
    ok: bool,
    problems: Vec<String>,
    warnings: Vec<String>,
    polls: Vec<Polls>,
}

/// Carries out one of them.
pub fn run(options: &Options, verb: &Verb) -> Result<Exit, Fail> {
    match verb {
        Verb::Check => check(options),
        Verb::Show => {
            output::print_json(&options.settings()?)?;
            Ok(Exit::Ok)
        }
        Verb::Schema => {
            output::print_json(&config::schema())?;
            Ok(Exit::Ok)
        }
    }
}

fn check(options: &Options) -> Result<Exit, Fail> {
    let path = options.config_path();
    let findings = findings(&path);
    let Findings { schema: _, ok, problems, warnings, polls } = &findings;
    for warning in warnings.iter().filter(|_| !options.json) {
        anstream::eprintln!("warning: {warning}");
    }
    if options.json {
        output::print_json(&findings)?;
    } else if *ok {
        output::tell(options, &format!("'{}' is right", path.display()));
        polls.iter().for_each(|polls| output::tell(options, &polls.to_string()));
    } else {
        for problem in problems {
            anstream::eprintln!("{problem}");
        }
        let count = problems.len();
        let found = if count == 1 { "problem" } else { "problems" };
        anstream::eprintln!("pullagent: {count} {found} in '{}'", path.display());
        anstream::eprintln!("hint: every key with its meaning: pullagent config schema");
    }
    Ok(if *ok { Exit::Ok } else { Exit::Error })
}

/// Everything that is wrong, as far as one look can tell: a value that makes no sense may hide the next.
fn findings(path: &std::path::Path) -> Findings {
    let chain = |error: config::ConfigError| format!("{:#}", anyhow::Error::from(error));
    let unknown_key = |key: String| format!("unknown key '{key}'");
    let mut polls = polls::Findings::default();
    let mut problems: Vec<String> = match config::load(path) {
        Ok(Loaded { settings, unknown }) => {
            polls = polls::look(&settings, clock::unix_secs());
            let keys = settings.policy().err().map(chain);
            unknown.into_iter().map(unknown_key).chain(keys).collect()
        }
        Err(error @ config::ConfigError::Value { .. }) => {
            unknown_keys(path).into_iter().map(unknown_key).chain([chain(error)]).collect()
        }
        Err(error) => vec![chain(error)],
    };
    problems.append(&mut polls.problems);
    Findings { schema: 1, ok: problems.is_empty(), problems, warnings: polls.warnings, polls: polls.polls }
}

/// Unknown keys of a file whose values are not all right.
fn unknown_keys(path: &std::path::Path) -> Vec<String> {
    let mut unknown = Vec::new();
    if let Ok(bytes) = crate::host::files::read_bounded(path, config::FILE_MAX) {
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        // Its result is known already; only the ignored keys are of interest.
        drop(serde_ignored::deserialize::<_, _, Settings>(&mut json, |key| unknown.push(key.to_string())));
    }
    unknown
}
