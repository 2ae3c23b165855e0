//! Who may say that something was pushed: where to listen, and which remotes to ask then. A hint is never trusted, so
//! nothing here can decide what is deployed.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Remote, Settings, Span};
use crate::model::Https;

/// The most sources of hints.
pub const HINTS_MAX: usize = 8;
/// The longest address, in bytes.
const URL_BYTES_MAX: usize = 2048;
/// The longest command, in bytes, all its arguments together; and how many of them there may be.
const COMMAND_BYTES_MAX: usize = 4096;
const ARGUMENTS_MAX: usize = 64;
/// The longest filter, in bytes.
const FILTER_BYTES_MAX: usize = 255;
/// The longest time over which a fleet's polls are spread.
const SPLAY_MAX: Duration = Duration::from_secs(600);
/// The shortest and the longest silence that is taken.
const IDLE_MIN: Duration = Duration::from_secs(1);
const IDLE_MAX: Duration = Duration::from_secs(3600);
/// While hints are connected, a remote is polled so many times less often, unless it says otherwise.
const STRETCH: u32 = 10;
/// That never makes it less often than this.
const STRETCHED_MAX: Duration = Duration::from_secs(15 * 60);

/// One source of hints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hint {
    /// Its name in status and log.
    pub name: String,
    /// How to listen.
    pub kind: HintKind,
    /// Where to listen: `https://…`, or `http://` on loopback. Never with a password in it. Not for `exec`.
    #[serde(default)]
    pub url: Option<String>,
    /// A file that holds an access token, sent as `Authorization: Bearer`, readable by the agent only.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// A PEM file of certificate authorities, in addition to the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// A PEM file with a certificate that proves this host to the server, and those between it and the authority.
    #[serde(default)]
    pub client_cert_file: Option<PathBuf>,
    /// The PEM file of that certificate's private key, readable by the agent only.
    #[serde(default)]
    pub client_key_file: Option<PathBuf>,
    /// A proxy to go through: `http://host:port` (by `CONNECT`) or `socks5h://host:port`; it also looks the server's name
    /// up. `null`: none, whatever the environment says.
    #[serde(default)]
    pub proxy: Option<String>,
    /// A file that holds `user:password` for the proxy, readable by the agent only.
    #[serde(default)]
    pub proxy_credentials_file: Option<PathBuf>,
    /// For `exec`: a program, as an absolute path, and its arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// The remotes that are asked when a hint comes; empty: all.
    #[serde(default)]
    pub remotes: Vec<String>,
    /// What a hint must contain to count; `null`: nothing.
    #[serde(default)]
    pub filter: Option<String>,
    /// The remotes are asked within this time after a hint, at random: a hint reaches a whole fleet in the same second.
    #[serde(default = "default_splay")]
    pub splay: Span,
    /// How long the service may be silent before the connection counts as dead.
    #[serde(default = "default_idle_timeout")]
    pub idle_timeout: Span,
}

/// How to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HintKind {
    /// To a stream of server-sent events.
    Sse,
    /// By a request that is answered when there is something new.
    LongPoll,
    /// To a program that prints a line for each hint.
    Exec,
}

fn default_splay() -> Span {
    Span::secs(2)
}

fn default_idle_timeout() -> Span {
    Span::secs(90)
}

impl Remote {
    /// Returns how often it is asked while hints for it are connected.
    pub fn hinted_interval(&self) -> Duration {
        let stretched = self.interval.0.saturating_mul(STRETCH).min(STRETCHED_MAX);
        self.interval_while_hinted.map_or(stretched, |span| span.0).max(self.interval.0)
    }
}

impl Settings {
    /// Returns how often `remote` is asked while those of the hints are connected that `is_connected` names.
    pub fn interval(&self, remote: &Remote, is_connected: impl Fn(&str) -> bool) -> Duration {
        let hinted = self.hints.iter().any(|hint| hint.is_for(remote) && is_connected(&hint.name));
        if hinted { remote.hinted_interval() } else { remote.interval.0 }
    }

    /// Refuses hints that can't be listened to.
    pub(super) fn check_hints(&self) -> Result<(), ConfigError> {
        if self.hints.len() > HINTS_MAX {
            let text = format!("there are more than {HINTS_MAX}");
            return Err(ConfigError::Value { key: "hints".to_owned(), text });
        }
        for (n, hint) in self.hints.iter().enumerate() {
            let twice = self.hints[..n].iter().any(|other| other.name == hint.name);
            let checked =
                if twice { Err(("name", "it is used twice".to_owned())) } else { self.check_hint(hint) };
            checked.map_err(|(key, text)| ConfigError::Value { key: format!("hints[{n}].{key}"), text })?;
        }
        Ok(())
    }

    fn check_hint(&self, hint: &Hint) -> Result<(), (&'static str, String)> {
        let wrong = |key, text: &str| Err((key, text.to_owned()));
        if !super::check::is_plain_name(&hint.name) {
            return Err(("name", format!("'{}' is not a plain name", hint.name)));
        }
        hint.check_way()?;
        if let Some(unknown) = hint.remotes.iter().find(|name| self.remotes.iter().all(|r| r.name != **name))
        {
            return Err(("remotes", format!("there is no remote '{unknown}'")));
        }
        super::https::check_path("tokenFile", hint.token_file.as_ref())?;
        if let Some(url) = &hint.url {
            super::https::check(&hint.https(), url)?;
        }
        if hint.filter.as_ref().is_some_and(|filter| filter.len() > FILTER_BYTES_MAX) {
            return Err(("filter", format!("it is longer than {FILTER_BYTES_MAX} bytes")));
        }
        if hint.splay.0 > SPLAY_MAX {
            return wrong("splay", "it must be 10m or less");
        }
        if !(IDLE_MIN..=IDLE_MAX).contains(&hint.idle_timeout.0) {
            return wrong("idleTimeout", "it must be between 1s and 1h");
        }
        Ok(())
    }
}

impl Hint {
    /// Tells whether `remote` is asked when this hint comes.
    pub fn is_for(&self, remote: &Remote) -> bool {
        self.remotes.is_empty() || self.remotes.contains(&remote.name)
    }

    fn check_way(&self) -> Result<(), (&'static str, String)> {
        let wrong = |key, text: &str| Err((key, text.to_owned()));
        match (self.kind, &self.url) {
            (HintKind::Exec, Some(_)) => wrong("url", "a program has no address; use 'command'"),
            (HintKind::Exec, None) => self.check_command(),
            (HintKind::Sse | HintKind::LongPoll, _) if !self.command.is_empty() => {
                wrong("command", "it is for the kind 'exec' only")
            }
            (HintKind::Sse | HintKind::LongPoll, None) => wrong("url", "it is missing"),
            (HintKind::Sse | HintKind::LongPoll, Some(url)) => {
                super::check::check_service_url(url, URL_BYTES_MAX).map_err(|text| ("url", text))
            }
        }
    }

    fn check_command(&self) -> Result<(), (&'static str, String)> {
        let wrong = |key, text: &str| Err((key, text.to_owned()));
        if self.token_file.is_some() || self.https() != Https::default() {
            return wrong("command", "a program is given no token, proxy and certificates by pullagent");
        }
        let bytes: usize = self.command.iter().map(String::len).sum();
        match self.command.first() {
            None => wrong("command", "it is missing"),
            Some(program) if !program.starts_with('/') => {
                wrong("command", "the program must be an absolute path")
            }
            Some(_) if self.command.len() > ARGUMENTS_MAX || bytes > COMMAND_BYTES_MAX => Err((
                "command",
                format!("it is longer than {COMMAND_BYTES_MAX} bytes or {ARGUMENTS_MAX} arguments"),
            )),
            Some(_) if self.command.iter().any(|argument| argument.contains('\0')) => {
                wrong("command", "it holds a zero byte")
            }
            Some(_) => Ok(()),
        }
    }
}
