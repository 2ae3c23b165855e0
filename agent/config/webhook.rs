//! Who may say by a request to this host that something was pushed: the `webhooks` section of the configuration. Such a
//! request is good for a poll and for nothing else, so nothing here can decide what is deployed.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Settings};

/// The most hooks.
const HOOKS_MAX: usize = 16;
/// The most secrets of one hook.
const SECRETS_MAX: usize = 4;
/// The longest name of a hook or a header, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// Where requests are taken unless the configuration says otherwise.
const PORT: u16 = 9176;

/// Who may say by a request to this host that something was pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Webhooks {
    /// The address and port at which requests are taken, over plain HTTP: `127.0.0.1:9176`. Nobody listens without a hook.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
    /// The hooks by name; each is at `/hook/<name>`.
    pub hooks: BTreeMap<String, Hook>,
}

impl Default for Webhooks {
    fn default() -> Webhooks {
        Webhooks { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)), hooks: BTreeMap::new() }
    }
}

/// One hook: what its requests show to prove themselves, and which remotes they have asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    /// Who sends the requests, or how they prove themselves.
    pub kind: HookKind,
    /// For `hmac-sha256`: the header with the signature; `null`: `X-Hub-Signature-256`.
    #[serde(default)]
    pub header: Option<String>,
    /// Files that hold a secret each, readable by the agent only; any of them will do, so that a secret can be replaced.
    pub secret_files: Vec<PathBuf>,
    /// The remotes that are asked; empty: all.
    #[serde(default)]
    pub remotes: Vec<String>,
}

/// How the requests of a hook prove themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum HookKind {
    /// By a signature of the body in `X-Hub-Signature-256`.
    Github,
    /// By a signature of the body in `X-Forgejo-Signature`.
    Forgejo,
    /// By a signature of the body in `X-Gitea-Signature`.
    Gitea,
    /// By a signature of the body in `X-Hub-Signature`.
    Bitbucket,
    /// By the secret itself in `X-Gitlab-Token`.
    Gitlab,
    /// By a signature of id, time and body, as standardwebhooks.com has it.
    StandardWebhooks,
    /// By a signature of the body in `header`.
    HmacSha256,
    /// By the secret itself, in `Authorization: Bearer …`.
    Bearer,
    /// By the secret itself, as the end of the path: `/hook/<name>/<secret>`.
    Path,
}

impl Settings {
    /// Refuses hooks that can't be, naming the key.
    pub(super) fn check_webhooks(&self) -> Result<(), ConfigError> {
        let wrong =
            |key: &str, text: String| Err(ConfigError::Value { key: format!("webhooks.{key}"), text });
        if self.webhooks.hooks.is_empty() {
            return Ok(());
        }
        if self.webhooks.listen.port() == 0 {
            return wrong("listen", "port 0 is no port to send to".to_owned());
        }
        if self.exporter.as_ref().is_some_and(|e| e.listen == Some(self.webhooks.listen)) {
            return wrong("listen", "'exporter.listen' is the same; each needs a port of its own".to_owned());
        }
        if self.webhooks.hooks.len() > HOOKS_MAX {
            return wrong("hooks", format!("there are more than {HOOKS_MAX}"));
        }
        for (name, hook) in &self.webhooks.hooks {
            if !is_word(name) {
                return wrong(
                    "hooks",
                    format!("'{name}' is no name for a path (letters, digits, hyphens, underscores)"),
                );
            }
            if let Err((key, text)) = self.check_hook(hook) {
                return wrong(&format!("hooks.{name}.{key}"), text);
            }
        }
        Ok(())
    }

    fn check_hook(&self, hook: &Hook) -> Result<(), (&'static str, String)> {
        let wrong = |key, text: &str| Err((key, text.to_owned()));
        if hook.secret_files.is_empty() {
            return wrong("secretFiles", "without a secret anybody could send requests; name a file");
        }
        if hook.secret_files.len() > SECRETS_MAX {
            return Err(("secretFiles", format!("there are more than {SECRETS_MAX}")));
        }
        if hook.secret_files.iter().any(|file| !file.is_absolute()) {
            return wrong("secretFiles", "each must be an absolute path");
        }
        match &hook.header {
            Some(_) if hook.kind != HookKind::HmacSha256 => {
                return wrong("header", "only the kind 'hmac-sha256' has a header to choose");
            }
            Some(header) if !is_word(header) => {
                return Err(("header", format!("'{header}' is not the name of a header")));
            }
            Some(_) | None => {}
        }
        match hook.remotes.iter().find(|name| self.remotes.iter().all(|remote| remote.name != **name)) {
            Some(unknown) => Err(("remotes", format!("there is no remote '{unknown}'"))),
            None => Ok(()),
        }
    }
}

fn is_word(s: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !s.is_empty() && s.len() <= NAME_BYTES_MAX && s.chars().all(legal)
}
