//! Takes requests of forges that say that something was pushed, and asks for polls. A request is good for a poll of the
//! remotes that this host's configuration names, and for nothing else: what it says is hashed and never read. Whatever
//! fails here is logged; it never keeps the host from being updated, for the remotes are polled in any case.

mod pace;

pub mod proof;

mod server;

mod wakes;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use tokio::time::Instant;

use crate::config::Settings;
use crate::host::{self, clock, files};
use pace::{Limits, Pace};
use proof::{Proof, SECRET_BYTES_MAX, Scheme, Secret};

pub use server::{run, serve};
pub use wakes::Wakes;

/// The largest body that is taken, in bytes. It is hashed as it comes and not kept.
const BODY_BYTES_MAX: u64 = 1 << 20;
/// What the paths of hooks begin with.
const BASE: &str = "/hook/";
/// So many refusals are logged at once, and then one each time that the second value has passed.
const SAID: (u32, Duration) = (10, Duration::from_secs(30));

/// The hooks of a host.
pub struct Hooks {
    hooks: BTreeMap<String, Hook>,
    wakes: Arc<Wakes>,
    limits: Mutex<Limits>,
    said: Mutex<Said>,
}

struct Hook {
    scheme: Scheme,
    secret_files: Vec<PathBuf>,
    remotes: Vec<String>,
}

/// What was logged of refusals.
struct Said {
    pace: Pace,
    unsaid: u64,
}

impl Hooks {
    /// Makes the hooks that `settings` names; they ask `wakes` for polls.
    pub fn new(settings: &Settings, wakes: Arc<Wakes>) -> Hooks {
        let all: Vec<String> = settings.remotes.iter().map(|remote| remote.name.clone()).collect();
        let hooks = settings.webhooks.hooks.iter().map(|(name, hook)| {
            let remotes = if hook.remotes.is_empty() { all.clone() } else { hook.remotes.clone() };
            let secret_files = hook.secret_files.clone();
            (name.clone(), Hook { scheme: Scheme::of(hook), secret_files, remotes })
        });
        let said = Said { pace: Pace::new(SAID), unsaid: 0 };
        Hooks { hooks: hooks.collect(), wakes, limits: Mutex::default(), said: Mutex::new(said) }
    }

    /// Warns of secrets that can't be used.
    fn check(&self) {
        for (name, hook) in &self.hooks {
            for problem in hook.secrets().1 {
                tracing::warn!("of the webhook '{name}', {problem}");
            }
        }
    }

    /// Answers one request. Which of a wrong name, a wrong secret and a secret that can't be read it was, the log says, and
    /// the answer does not.
    async fn respond(&self, peer: IpAddr, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if !lock(&self.limits).admit(peer, Instant::now()) {
            self.refused(peer, None, "too many come; the remotes are polled at their interval in any case");
            return answer(StatusCode::TOO_MANY_REQUESTS, "too many requests\n");
        }
        if request.method() != Method::POST {
            return answer(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
        }
        let (head, body) = request.into_parts();
        let (hook, rest) = self.at(head.uri.path());
        let name = hook.map(|(name, _)| name);
        let mut proof = match hook {
            Some((_, hook)) => hook.begin(&head.headers, rest),
            None => Err(format!("there is no webhook at its path; they are at '{BASE}' and their name")),
        };
        let take = |chunk: &[u8]| proof.iter_mut().for_each(|proof| proof.update(chunk));
        if let Err(why) = hashed(body, take).await {
            self.refused(peer, name, why);
            return answer(StatusCode::PAYLOAD_TOO_LARGE, "too large a body\n");
        }
        let proven = proof.and_then(|proof| {
            proof
                .holds()
                .then_some(())
                .ok_or_else(|| "it was made with none of the hook's secrets".to_owned())
        });
        match (proven, hook) {
            (Ok(()), Some((name, hook))) => {
                if self.wakes.ask(&hook.remotes) {
                    tracing::info!("the webhook '{name}' asks for a poll of {}", hook.remotes.join(", "));
                }
                answer(StatusCode::ACCEPTED, "the remotes will be asked\n")
            }
            (proven, _) => {
                self.refused(peer, name, &proven.err().unwrap_or_default());
                answer(
                    StatusCode::NOT_FOUND,
                    "no such webhook, or not its secret; the log of the host says which\n",
                )
            }
        }
    }

    /// Finds the hook at `path`, and what the path says beyond it.
    fn at<'a>(&'a self, path: &'a str) -> (Option<(&'a str, &'a Hook)>, Option<&'a str>) {
        let below = path.strip_prefix(BASE).unwrap_or_default();
        let (name, rest) = match below.split_once('/') {
            Some((name, rest)) => (name, Some(rest)),
            None => (below, None),
        };
        let found = self.hooks.get_key_value(name).filter(|(_, hook)| hook.has(rest));
        (found.map(|(name, hook)| (name.as_str(), hook)), rest)
    }

    /// Logs a refusal, unless too many were.
    fn refused(&self, peer: IpAddr, hook: Option<&str>, why: &str) {
        let mut said = lock(&self.said);
        if !said.pace.take(Instant::now()) {
            said.unsaid += 1;
            return;
        }
        let before = match std::mem::take(&mut said.unsaid) {
            0 => String::new(),
            n => format!(" ({n} before it, of which nothing was said)"),
        };
        match hook {
            Some(hook) => {
                tracing::warn!("a request of {peer} to the webhook '{hook}' was refused: {why}{before}")
            }
            None => tracing::warn!("a request of {peer} was refused: {why}{before}"),
        }
    }
}

impl Hook {
    /// Tells whether a path may have this beyond the hook's name.
    fn has(&self, rest: Option<&str>) -> bool {
        rest.is_some() == (self.scheme == Scheme::Path)
    }

    fn begin(&self, headers: &HeaderMap, rest: Option<&str>) -> Result<Proof, String> {
        let (secrets, problems) = self.secrets();
        if secrets.is_empty() {
            return Err(problems.join("; "));
        }
        Proof::begin(&self.scheme, headers, rest, &secrets, clock::unix_secs())
    }

    /// Reads the secrets as they are now; says what is wrong with the others.
    fn secrets(&self) -> (Vec<Secret>, Vec<String>) {
        let (mut secrets, mut problems) = (Vec::new(), Vec::new());
        for file in &self.secret_files {
            let read = files::read_bounded(file, SECRET_BYTES_MAX).map_err(|error| host::chain(&error));
            match read.and_then(|content| self.scheme.secret(&content).map_err(str::to_owned)) {
                Ok(secret) => secrets.push(secret),
                Err(why) => problems.push(format!("the secret in '{}' can't be used: {why}", file.display())),
            }
        }
        (secrets, problems)
    }
}

/// Hands on the body as it comes.
async fn hashed(mut body: Incoming, mut take: impl FnMut(&[u8])) -> Result<(), &'static str> {
    const TOO_LARGE: &str = "its body is larger than 1 MiB";
    if body.size_hint().lower() > BODY_BYTES_MAX {
        return Err(TOO_LARGE);
    }
    let mut left = BODY_BYTES_MAX;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Err("its body broke off") };
        let Some(chunk) = frame.data_ref() else { continue };
        left = left.checked_sub(chunk.len() as u64).ok_or(TOO_LARGE)?;
        take(chunk);
    }
    Ok(())
}

fn answer(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
    }
    response
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
