//! How a verb ends: exit codes, and errors with a hint. Printed once, here at the edge.

use std::process::ExitCode;

use crate::config::ConfigError;
use crate::control::client::ClientError;
use crate::control::server::ADMIN_GROUP;
use crate::report::{Headline, Life, ReadError, RevisionError};

/// What the exit code says. The numbers never change their meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, or in sync.
    Ok,
    /// It did not work.
    Error,
    /// It was asked for in a wrong way.
    Usage,
    /// A revision was refused, failed or was rolled back.
    Failed,
    /// Something is under way or about to be.
    Pending,
    /// Deployments are suspended.
    Suspended,
    /// No agent answers.
    Unreachable,
    /// Not for this user.
    NotPermitted,
    /// The time was up.
    TimedOut,
}

impl Exit {
    /// Returns the number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Error => 1,
            Exit::Usage => 2,
            Exit::Failed => 3,
            Exit::Pending => 4,
            Exit::Suspended => 5,
            Exit::Unreachable => 6,
            Exit::NotPermitted => 7,
            Exit::TimedOut => 124,
        }
    }

    /// Returns the exit code that says how a host is. The word of an agent that is dead or silent counts for nothing.
    pub fn of_state(state: Headline, life: Life) -> Exit {
        match life {
            Life::Running => {}
            Life::Silent | Life::Dead => return Exit::Unreachable,
        }
        match state {
            Headline::InSync | Headline::Testing => Exit::Ok,
            Headline::Starting
            | Headline::Waiting
            | Headline::Verifying
            | Headline::Building
            | Headline::Preparing
            | Headline::Switching
            | Headline::CheckingHealth
            | Headline::Rebooting
            | Headline::AwaitingConfirmation
            | Headline::Confirming
            | Headline::RollingBack
            | Headline::RebootPending
            | Headline::Retrying => Exit::Pending,
            Headline::RolledBack
            | Headline::RollbackFailed
            | Headline::Refused
            | Headline::BuildFailed
            | Headline::CalledOff
            | Headline::Drift => Exit::Failed,
            Headline::Suspended => Exit::Suspended,
            Headline::Unreachable | Headline::Held => Exit::Error,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Why a verb did not do what it was asked for.
#[derive(Debug)]
pub struct Fail {
    /// The exit code.
    pub exit: Exit,
    /// What went wrong; its chain is printed once.
    pub error: anyhow::Error,
    /// What the user can do.
    pub hint: Option<String>,
}

impl Fail {
    /// Returns a failure with a hint.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>, hint: impl Into<String>) -> Fail {
        Fail { exit, error: error.into(), hint: Some(hint.into()) }
    }

    /// Returns a failure of usage with a hint.
    pub fn usage(text: impl Into<String>, hint: impl Into<String>) -> Fail {
        Fail::new(Exit::Usage, anyhow::anyhow!(text.into()), hint)
    }

    /// Prints the chain of causes, and the hint on a line of its own.
    pub fn report(&self) {
        anstream::eprintln!("pullagent: {}", harmless(&format!("{:#}", self.error)));
        if let Some(hint) = &self.hint {
            anstream::eprintln!("hint: {}", harmless(hint));
        }
    }
}

/// Foreign texts may end up in an error; none may move the cursor.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

impl From<anyhow::Error> for Fail {
    fn from(error: anyhow::Error) -> Fail {
        Fail { exit: Exit::Error, error, hint: None }
    }
}

impl From<ReadError> for Fail {
    fn from(error: ReadError) -> Fail {
        match error {
            ReadError::Missing(_) => Fail::new(
                Exit::Unreachable,
                anyhow::Error::from(error).context("pullagent has not run since this host was started"),
                "start it: systemctl start pullagent",
            ),
            ReadError::File(_) => Fail { exit: Exit::Error, error: error.into(), hint: None },
            ReadError::Parse { .. } => Fail::new(
                Exit::Error,
                error,
                "the agent that wrote it is of another version; use the pullagent of the running system",
            ),
        }
    }
}

impl From<ClientError> for Fail {
    fn from(error: ClientError) -> Fail {
        match error {
            ClientError::Unreachable { .. } => Fail::new(
                Exit::Unreachable,
                error,
                "is it running? systemctl status pullagent; what it last knew: pullagent status",
            ),
            ClientError::NotPermitted(_) => Fail::new(
                Exit::NotPermitted,
                error,
                format!("run it as root, or as a member of the group '{ADMIN_GROUP}'"),
            ),
            ClientError::Denied { ref hint, .. } => {
                let hint = hint.clone();
                Fail { exit: Exit::NotPermitted, error: error.into(), hint }
            }
            ClientError::Refused { ref hint, .. } => {
                let hint = hint.clone();
                Fail { exit: Exit::Error, error: error.into(), hint }
            }
            ClientError::Setup(_)
            | ClientError::Talk(_)
            | ClientError::Answer(_)
            | ClientError::TooLong
            | ClientError::EventTooLong
            | ClientError::Slow => {
                Fail::new(Exit::Error, error, "see whether it was heard: pullagent status")
            }
        }
    }
}

impl From<RevisionError> for Fail {
    fn from(error: RevisionError) -> Fail {
        let hint = match error {
            RevisionError::Malformed(_) => "give the commit's id, or the first digits of it",
            RevisionError::Unknown(_) => "ask the remotes now: pullagent sync; or give the whole id",
            RevisionError::Ambiguous { .. } => "give more digits",
        };
        Fail::new(Exit::Usage, error, hint)
    }
}

impl From<ConfigError> for Fail {
    fn from(error: ConfigError) -> Fail {
        let hint = config_hint(&error);
        Fail::new(Exit::Error, error, hint)
    }
}

/// Returns what to do about a configuration that can't be used.
pub fn config_hint(error: &ConfigError) -> &'static str {
    match error {
        ConfigError::Read { .. } => {
            "the NixOS module writes it; another file is named with --config, which a flake prints: \
             nix eval --json .#nixosConfigurations.<host>.config.services.pullagent.settings"
        }
        ConfigError::TooLarge(_) | ConfigError::Parse(_) | ConfigError::Value { .. } => {
            "every problem at once: pullagent config check; all keys: pullagent config schema"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the headline after `headline`, so that a new one can't be forgotten: the match would not compile.
    fn next(headline: Headline) -> Option<Headline> {
        Some(match headline {
            Headline::InSync => Headline::Testing,
            Headline::Testing => Headline::Starting,
            Headline::Starting => Headline::Waiting,
            Headline::Waiting => Headline::Verifying,
            Headline::Verifying => Headline::Building,
            Headline::Building => Headline::Preparing,
            Headline::Preparing => Headline::Switching,
            Headline::Switching => Headline::CheckingHealth,
            Headline::CheckingHealth => Headline::Rebooting,
            Headline::Rebooting => Headline::AwaitingConfirmation,
            Headline::AwaitingConfirmation => Headline::Confirming,
            Headline::Confirming => Headline::RollingBack,
            Headline::RollingBack => Headline::RolledBack,
            Headline::RolledBack => Headline::RollbackFailed,
            Headline::RollbackFailed => Headline::Refused,
            Headline::Refused => Headline::BuildFailed,
            Headline::BuildFailed => Headline::CalledOff,
            Headline::CalledOff => Headline::Retrying,
            Headline::Retrying => Headline::Suspended,
            Headline::Suspended => Headline::Unreachable,
            Headline::Unreachable => Headline::RebootPending,
            Headline::RebootPending => Headline::Drift,
            Headline::Drift => Headline::Held,
            Headline::Held => return None,
        })
    }

    #[test]
    fn the_manual_lists_every_state_with_its_exit_code() {
        let manual = include_str!("../../docs/operations.md");
        let listed: Vec<&str> =
            manual.lines().filter(|line| line.starts_with("| `") && line.contains("` | ")).collect();
        let mut headline = Some(Headline::InSync);
        while let Some(state) = headline {
            let code = Exit::of_state(state, Life::Running).code();
            let row = format!("| `{}` | {code} | ", state.word());
            assert!(listed.iter().any(|line| line.starts_with(&row)), "no row begins with '{row}'");
            headline = next(state);
        }
    }
}
