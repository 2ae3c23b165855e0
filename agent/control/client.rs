//! The operator's end of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{self, COMMAND, Order, Reply};

/// How long to wait for the connection. The agent is on this machine.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// How long to wait for an answer; longer than the server lets the loop think.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);
/// How many bytes an answer may have.
const REPLY_MAX: usize = 64 << 10;

/// Says why an order did not get through, or was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("failed to reach pullagent on '{}'", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The socket is not for this user.
    #[error("not permitted to use '{}'", .0.display())]
    NotPermitted(PathBuf),
    /// The agent does not take this order from this user.
    #[error("{message}")]
    Denied {
        /// Why not, in the agent's words.
        message: String,
        /// What can be done about it, in the agent's words.
        hint: Option<String>,
    },
    /// The agent did not carry it out.
    #[error("{message}")]
    Refused {
        /// Why not, in the agent's words.
        message: String,
        /// What can be done about it, in the agent's words.
        hint: Option<String>,
    },
    /// The client could not be set up.
    #[error("failed to prepare the connection to pullagent")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection broke, or what came is not an answer.
    #[error("failed to talk to pullagent")]
    Talk(#[from] reqwest::Error),
    /// The answer is not of this protocol.
    #[error("failed to understand pullagent's answer")]
    Answer(#[from] serde_json::Error),
    /// The answer is longer than any.
    #[error("pullagent's answer is longer than {REPLY_MAX} bytes")]
    TooLong,
}

/// Gives an order to the agent of the host at `root` and returns what it says.
///
/// # Errors
/// The agent can't be reached, may not be commanded, or did not carry it out.
pub async fn give(root: &Path, order: &Order) -> Result<String, ClientError> {
    let path = protocol::socket_path(root);
    knock(&path)?;
    // The host part of the address is for form's sake.
    let request = client(&path)?.post(format!("http://pullagent{COMMAND}")).json(order);
    let mut response = request.send().await?;
    let denied = response.status() == reqwest::StatusCode::FORBIDDEN;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > REPLY_MAX {
            return Err(ClientError::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    let reply: Reply = serde_json::from_slice(&body)?;
    if reply.ok {
        Ok(reply.message)
    } else if denied {
        Err(ClientError::Denied { message: reply.message, hint: reply.hint })
    } else {
        Err(ClientError::Refused { message: reply.message, hint: reply.hint })
    }
}

/// Tells nobody there and not permitted apart, which an HTTP library does not.
fn knock(path: &Path) -> Result<(), ClientError> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            Err(ClientError::NotPermitted(path.to_owned()))
        }
        Err(source) => Err(ClientError::Unreachable { path: path.to_owned(), source }),
    }
}

fn client(path: &Path) -> Result<reqwest::Client, ClientError> {
    // reqwest wants to know TLS even where only a local socket is spoken to; this one trusts nobody.
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ClientError::Setup(Box::new(e)))?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .unix_socket(path)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIME_MAX)
        .timeout(ANSWER_TIME_MAX);
    builder.build().map_err(|e| ClientError::Setup(Box::new(e)))
}
