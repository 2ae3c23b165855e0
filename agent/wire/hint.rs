//! What the gateway is told of one source of hints: where to listen, and what a hint is good for. Credentials are paths.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{NAME_BYTES_MAX, POLLED_MAX, URL_BYTES_MAX, https_offence, name_offence};
use crate::model::Https;

/// The most hints one `Listen` may name.
pub const HINTS_MAX: usize = 8;
/// The longest command, in bytes, all its arguments together.
pub const COMMAND_BYTES_MAX: usize = 4096;
/// The most arguments of a command.
const ARGUMENTS_MAX: usize = 64;

/// One source of hints that something was pushed. Nothing that it says is believed; it can only have remotes polled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Hint {
    /// The name by which both ends know it.
    pub name: String,
    /// How to listen.
    pub way: Way,
    /// The sources to poll, by name, and the time between the polls of each while the hint is connected, in milliseconds.
    pub polls: BTreeMap<String, u64>,
    /// What a hint must contain to count; `None`: nothing.
    pub filter: Option<String>,
    /// A poll comes within so many milliseconds after the hint, at random.
    pub splay_ms: u64,
    /// For so many milliseconds the service may be silent.
    pub idle_ms: u64,
}

/// How to listen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Way {
    /// A stream of server-sent events; each message is a hint.
    Sse(Address),
    /// A request that is answered when there is something new; each answer is a hint.
    LongPoll(Address),
    /// A program; each line that it prints is a hint.
    Exec {
        /// The program, by its absolute path, and its arguments.
        command: Vec<String>,
    },
}

/// Where a service is, and how to get in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Address {
    /// `https://…`, or `http://` on loopback, without user and password.
    pub url: String,
    /// The file that holds the token; read afresh for every connection.
    pub token_file: Option<PathBuf>,
    /// How an HTTPS server is reached and believed.
    pub https: Https,
}

impl Hint {
    /// Returns what about it breaks the bounds.
    pub(super) fn offence(&self) -> Option<&'static str> {
        if self.polls.len() > POLLED_MAX {
            return Some("too many sources");
        }
        if self.filter.as_ref().is_some_and(|filter| filter.len() > NAME_BYTES_MAX) {
            return Some("too long a filter");
        }
        let way = match &self.way {
            Way::Sse(address) | Way::LongPoll(address) => address.offence(),
            Way::Exec { command } => command_offence(command),
        };
        way.or_else(|| name_offence(&self.name))
            .or_else(|| self.polls.keys().find_map(|name| name_offence(name)))
    }
}

impl Address {
    fn offence(&self) -> Option<&'static str> {
        if self.url.len() > URL_BYTES_MAX || self.url.contains(char::is_control) {
            Some("no usable url")
        } else if self.token_file.as_ref().is_some_and(|p| p.as_os_str().len() > URL_BYTES_MAX) {
            Some("too long a path")
        } else {
            https_offence(&self.https)
        }
    }
}

fn command_offence(command: &[String]) -> Option<&'static str> {
    let bytes: usize = command.iter().map(String::len).sum();
    let good = command.first().is_some_and(|program| program.starts_with('/'))
        && command.len() <= ARGUMENTS_MAX
        && bytes <= COMMAND_BYTES_MAX
        && !command.iter().any(|argument| argument.contains('\0'));
    (!good).then_some("no usable command")
}
