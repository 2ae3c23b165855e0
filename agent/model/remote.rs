//! How a remote fares, from the socket up to the status: the kinds of failure, and that it speaks an old version of
//! Git's protocol.

use serde::{Deserialize, Serialize};

/// What a poll costs of a server that speaks version 0 or 1 of Git's protocol: it lists all its refs each time, where one of
/// version 2 answers what it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OldProtocol {
    /// How many refs it listed.
    pub refs: u64,
    /// How long the list was, in bytes.
    pub bytes: u64,
}

/// What kind of failure: stable names, also used as metric labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemoteFailure {
    /// The host name does not resolve.
    Dns,
    /// No connection, or it broke.
    Network,
    /// The certificate, the host key or the handshake was not accepted.
    Tls,
    /// The credentials were not accepted.
    Auth,
    /// No such repository (or not for these credentials).
    NotFound,
    /// The server refused the request.
    Refused,
    /// The server failed or is too busy.
    Server,
    /// Nothing came for too long, or it took too long in all.
    Timeout,
    /// It was larger than allowed.
    Limit,
    /// What came is not Git's protocol.
    Protocol,
    /// The remote says that it lacks a part of the history.
    Shallow,
    /// Something on this host is missing or wrong: a file, a setting, a program.
    Local,
    /// It was called off from this side.
    Cancelled,
}

impl RemoteFailure {
    /// All there are.
    pub const ALL: [RemoteFailure; 13] = [
        RemoteFailure::Dns,
        RemoteFailure::Network,
        RemoteFailure::Tls,
        RemoteFailure::Auth,
        RemoteFailure::NotFound,
        RemoteFailure::Refused,
        RemoteFailure::Server,
        RemoteFailure::Timeout,
        RemoteFailure::Limit,
        RemoteFailure::Protocol,
        RemoteFailure::Shallow,
        RemoteFailure::Local,
        RemoteFailure::Cancelled,
    ];

    /// Returns the stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            RemoteFailure::Dns => "dns",
            RemoteFailure::Network => "network",
            RemoteFailure::Tls => "tls",
            RemoteFailure::Auth => "auth",
            RemoteFailure::NotFound => "not-found",
            RemoteFailure::Refused => "refused",
            RemoteFailure::Server => "server",
            RemoteFailure::Timeout => "timeout",
            RemoteFailure::Limit => "limit",
            RemoteFailure::Protocol => "protocol",
            RemoteFailure::Shallow => "shallow",
            RemoteFailure::Local => "local",
            RemoteFailure::Cancelled => "cancelled",
        }
    }
}
