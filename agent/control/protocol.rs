//! What the two ends of the control socket say to each other. Both read it from here.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::{Command, Oid};
use crate::report;

/// Version of the messages.
pub const SCHEMA: u32 = 1;
/// Where the status is asked for.
pub const STATUS: &str = "/v1/status";
/// Where the history is asked for.
pub const HISTORY: &str = "/v1/history";
/// Where the status is told again and again, as server-sent events.
pub const EVENTS: &str = "/v1/events";
/// The kind of the events there; its data is a status in one line of JSON.
pub const STATUS_EVENT: &str = "status";
/// Where orders go.
pub const COMMAND: &str = "/v1/command";

/// How many bytes an order may have.
pub const ORDER_MAX: usize = 16 << 10;
/// How many characters the reason of a suspension or a rejection may have.
pub const REASON_MAX: usize = 500;

/// What an operator orders. Who it is, the socket knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", rename_all_fields = "camelCase", deny_unknown_fields)]
pub enum Order {
    /// Ask the remotes now.
    Sync,
    /// Stop deploying.
    Suspend {
        /// Why, for people.
        #[serde(default)]
        reason: Option<String>,
        /// Until when, unix seconds; `null`: until resumed.
        #[serde(default)]
        until: Option<u64>,
    },
    /// Deploy again.
    Resume,
    /// Make a commit the next anchor. For root alone.
    Accept {
        /// Which.
        revision: Oid,
    },
    /// Keep the system on probation, once it is healthy.
    Confirm {
        /// Which; `null`: whatever is being tried.
        #[serde(default)]
        revision: Option<Oid>,
    },
    /// Go back from the system on probation.
    Reject {
        /// Which; `null`: whatever is being tried.
        #[serde(default)]
        revision: Option<Oid>,
        /// Why, for people.
        #[serde(default)]
        reason: Option<String>,
    },
    /// Forget that a revision was bad.
    Retry {
        /// Which; `null`: all.
        #[serde(default)]
        revision: Option<Oid>,
    },
}

impl Order {
    /// Returns the command that `by` gives with this order.
    pub fn given_by(self, by: String) -> Command {
        match self {
            Order::Sync => Command::Sync,
            Order::Suspend { reason, until } => Command::Suspend { reason, until, by },
            Order::Resume => Command::Resume { by },
            Order::Accept { revision } => Command::Accept { revision, by },
            Order::Confirm { revision } => Command::Confirm { revision, by },
            Order::Reject { revision, reason } => Command::Reject { revision, reason, by },
            Order::Retry { revision } => Command::Retry { revision, by },
        }
    }
}

/// The answer to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    /// Version of the messages; [`SCHEMA`].
    pub schema: u32,
    /// Whether it was carried out.
    pub ok: bool,
    /// What was done, or why nothing was.
    pub message: String,
    /// What the operator can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Returns the path of the socket.
pub fn socket_path(root: &Path) -> PathBuf {
    report::run_dir(root).join("control.sock")
}
