//! The operator's end of the control socket.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{self, COMMAND, EVENTS, Order, Reply, STATUS_EVENT};
use crate::report::Status;

/// How long to wait for the connection. The agent is on this machine.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(5);
/// How long to wait for an answer; longer than the server lets the loop think.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(15);
/// How many bytes an answer may have.
const REPLY_MAX: usize = 64 << 10;
/// How many bytes one event may have; a status has a few thousand.
const EVENT_MAX: usize = 4 << 20;

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
    /// An event is longer than any.
    #[error("pullagent sent an event of more than {EVENT_MAX} bytes")]
    EventTooLong,
    /// It did not answer in time.
    #[error("pullagent did not answer within {} s", ANSWER_TIME_MAX.as_secs())]
    Slow,
}

/// Gives an order to the agent of the host at `root` and returns what it says.
///
/// # Errors
/// The agent can't be reached, may not be commanded, or did not carry it out.
pub async fn give(root: &Path, order: &Order) -> Result<String, ClientError> {
    let path = protocol::socket_path(root);
    knock(&path)?;
    // The host part of the address is for form's sake.
    let client = client(&path, Some(ANSWER_TIME_MAX))?;
    let request = client.post(format!("http://pullagent{COMMAND}")).json(order);
    answer(request.send().await?).await
}

/// Reads what the agent says to a request.
async fn answer(mut response: reqwest::Response) -> Result<String, ClientError> {
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

/// What a running agent tells whenever it changes.
#[derive(Debug)]
pub struct Changes {
    response: reqwest::Response,
    /// What has come of the next event.
    begun: Vec<u8>,
}

/// Listens to the agent of the host at `root`.
///
/// # Errors
/// The agent can't be reached, may not be listened to by this user, or has no room for another listener.
pub async fn listen(root: &Path) -> Result<Changes, ClientError> {
    let path = protocol::socket_path(root);
    knock(&path)?;
    let request = client(&path, None)?.get(format!("http://pullagent{EVENTS}"));
    let begun = tokio::time::timeout(ANSWER_TIME_MAX, request.send()).await;
    let response = begun.map_err(|_| ClientError::Slow)??;
    if response.status() == reqwest::StatusCode::OK {
        return Ok(Changes { response, begun: Vec::new() });
    }
    // Whatever an agent says that has no events, it is none.
    let message = tokio::time::timeout(ANSWER_TIME_MAX, answer(response)).await;
    message.map_err(|_| ClientError::Slow)??;
    Err(ClientError::Refused { message: "it tells nothing".to_owned(), hint: None })
}

impl Changes {
    /// Waits for the next status; `None`: the agent has ended the stream.
    ///
    /// # Errors
    /// The connection broke, or what came is no status.
    pub async fn next(&mut self) -> Result<Option<Status>, ClientError> {
        loop {
            if let Some(event) = take_event(&mut self.begun) {
                if let Some(data) = data_of(&event, STATUS_EVENT) {
                    return Ok(Some(serde_json::from_slice(data)?));
                }
            } else if let Some(chunk) = self.response.chunk().await? {
                if self.begun.len() + chunk.len() > EVENT_MAX {
                    return Err(ClientError::EventTooLong);
                }
                self.begun.extend_from_slice(&chunk);
            } else {
                return Ok(None);
            }
        }
    }
}

/// Takes the first whole event off what has come.
fn take_event(begun: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = begun.windows(2).position(|pair| pair == b"\n\n")?;
    let rest = begun.split_off(end + 2);
    Some(std::mem::replace(begun, rest))
}

/// Returns the data of an event of this kind, as our own server writes it: in one line.
fn data_of<'a>(event: &'a [u8], kind: &str) -> Option<&'a [u8]> {
    let field = |name: &str| event.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(name.as_bytes()));
    field("data: ").filter(|_| field("event: ") == Some(kind.as_bytes()))
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

/// `limit`: how long a whole answer may take; the one of a stream has no end.
fn client(path: &Path, limit: Option<Duration>) -> Result<reqwest::Client, ClientError> {
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
        .connect_timeout(CONNECT_TIME_MAX);
    let builder = limit.into_iter().fold(builder, |builder, limit| builder.timeout(limit));
    builder.build().map_err(|e| ClientError::Setup(Box::new(e)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_off_as_they_become_whole() {
        let mut begun = b"event: status\ndata: {}".to_vec();
        assert_eq!(take_event(&mut begun), None);
        begun.extend_from_slice(b"\n\n: nothing\n\nevent: later\ndata: x\n\nevent: st");
        let events: Vec<Vec<u8>> = std::iter::from_fn(|| take_event(&mut begun)).collect();
        let data: Vec<_> = events.iter().map(|event| data_of(event, "status")).collect();
        assert_eq!(data, [Some(&b"{}"[..]), None, None], "other kinds may come, and comments");
        assert_eq!(begun, b"event: st");
    }
}
