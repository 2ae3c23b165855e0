//! The configuration file: JSON text to [`Settings`]. It knows no room but the model's words and the trust policy.
//!
//! The file is rendered once, by `module.nix`, into the system itself (`etc/pullagent/config.json`), so that the
//! agent of the old system can read the new system's without evaluating anything. Keys are camelCase, durations
//! are texts such as `"90s"`. Unknown keys are errors to `pullagent config check` and warnings to a running agent,
//! because a rollback may hand an older agent a newer file.

mod check;
mod exporter;
mod fetch;
mod health;
mod hint;
mod https;
mod interval;
mod keys;
mod reboot;
mod retention;
mod signer;
mod submodule;
mod webhook;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Oid, Operation};
use crate::trust;

pub use exporter::Exporter;
pub use fetch::Fetch;
pub use health::{Baseline, CHECKS_MAX, Check, Health, Kind, Severity, UnitFailures};
pub use hint::{HINTS_MAX, Hint, HintKind};
pub use interval::Interval;
pub use keys::{TrustIn, trust_in};
pub use reboot::Reboot;
pub use retention::{Generations, Retention};
pub use signer::{Moment, Role, Signer, SigningKey};
pub use submodule::{SUBMODULES_MAX, Submodule};
pub use webhook::{Hook, HookKind, Webhooks};

/// The version of the file's layout that this program writes and understands best.
pub const SCHEMA: u32 = 1;
/// The largest configuration file that is read, in bytes.
pub const FILE_MAX: u64 = 1 << 20;
/// Stands for the host name in a branch pattern.
pub const HOSTNAME_PLACEHOLDER: &str = "{hostname}";

/// A duration, written as people write it: `"90s"`, `"1h 30m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// Returns the duration of `secs` seconds.
    pub const fn secs(secs: u64) -> Span {
        Span(Duration::from_secs(secs))
    }
}

impl Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Span, D::Error> {
        let text = String::deserialize(d)?;
        let wrong = |e| serde::de::Error::custom(format!("'{text}' is not a duration such as \"90s\": {e}"));
        humantime::parse_duration(&text).map(Span).map_err(wrong)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "description": "a duration such as \"90s\" or \"1h 30m\"" })
    }
}

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Version of the layout; 1.
    pub schema: u32,
    /// The host's name, as the configuration says it; never asked of the kernel.
    pub hostname: String,
    /// Where the journal, the trusted store and the guard's files lie. Root only.
    #[serde(default = "default_state_directory")]
    pub state_directory: PathBuf,
    /// Refuses to deploy on a machine with another `/etc/machine-id`.
    #[serde(default)]
    pub expected_machine_id: Option<String>,
    /// Where to look, in order of preference; any may answer.
    pub remotes: Vec<Remote>,
    /// Which branches matter, in order, and what is done with each.
    #[serde(default = "default_branches")]
    pub branches: Vec<Branch>,
    /// How a revision becomes a system.
    #[serde(default)]
    pub source: Source,
    /// Whose signature counts.
    pub trust: Trust,
    /// What a remote may cost.
    #[serde(default)]
    pub fetch: Fetch,
    /// Limits of evaluation and build.
    #[serde(default)]
    pub build: Build,
    /// How a new system is tried.
    #[serde(default)]
    pub activation: Activation,
    /// What healthy means.
    #[serde(default)]
    pub health: Health,
    /// What is kept of what was deployed.
    #[serde(default)]
    pub retention: Retention,
    /// Who says when something may have been pushed.
    #[serde(default)]
    pub hints: Vec<Hint>,
    /// Who may say by a request to this host that something was pushed.
    #[serde(default)]
    pub webhooks: Webhooks,
    /// Where metrics are shown; `null`: nowhere.
    #[serde(default)]
    pub exporter: Option<Exporter>,
    /// Where the secrets come from that the gateway is given copies of: when one is renewed, the gateway is restarted. The
    /// NixOS module fills it in.
    #[serde(default)]
    pub copied_secrets: Vec<PathBuf>,
    /// Reserved for hooks.
    #[serde(default)]
    pub hooks: BTreeMap<String, serde_json::Value>,
}

/// One Git remote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Remote {
    /// Its name in status and log.
    pub name: String,
    /// `https://…`, `ssh://user@host/path`, `user@host:path`, `file://…` or an absolute path. Plain `http://` only on
    /// loopback. Never with a password in it.
    pub url: String,
    /// How often it is asked, 1 s or more; or at which moments, by a calendar expression.
    #[serde(default = "default_interval")]
    pub interval: Interval,
    /// How often it is asked while a source of hints for it is connected, at least; `null`: ten times the interval, and
    /// 15 min at most. Never more often than without. Not for a remote that is asked by the calendar.
    #[serde(default)]
    pub interval_while_hinted: Option<Span>,
    /// The user name that goes with the token.
    #[serde(default = "default_username")]
    pub username: String,
    /// A file that holds an access token, readable by the agent only.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// For SSH remotes: a file that holds a private key without a passphrase, readable by the agent only.
    #[serde(default)]
    pub ssh_key_file: Option<PathBuf>,
    /// For SSH remotes: a file in the manner of `known_hosts` with the keys of the server. Nothing is trusted on first
    /// use.
    #[serde(default)]
    pub known_hosts_file: Option<PathBuf>,
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
}

/// One branch, or one per host by the placeholder `{hostname}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Branch {
    /// The branch's full name below `refs/heads/`; `{hostname}` stands for the host's name.
    pub pattern: String,
    /// What is done with its tip.
    pub operation: Operation,
}

/// How a revision becomes a system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Source {
    /// Only `flake`.
    pub kind: SourceKind,
    /// The folder of `flake.nix` in the repository.
    pub subdir: String,
    /// The attribute of the system; `null`: `nixosConfigurations."<hostname>".config.system.build.toplevel`.
    pub attribute: Option<String>,
    /// Where the submodules are fetched from, by their paths in the tree. One that is not named here is refused.
    pub submodules: BTreeMap<String, Submodule>,
}

/// The kinds of source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// A flake with `nixosConfigurations`.
    Flake,
}

/// Whose signature counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trust {
    /// Only `static`: the keys are those of this file.
    ///
    /// A version that can be told to accept less must do so by a mode of its own. Older ones, which a rollback brings back,
    /// pass over keys that they do not know, but accept nothing by a mode that they do not know.
    #[serde(default)]
    pub mode: TrustMode,
    /// The commit to start from where the running system does not say its own revision.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub introduction: Option<Oid>,
    /// Who may sign, by name.
    pub signers: BTreeMap<String, Signer>,
    /// Keys that count for nothing, whatever the date of their signatures.
    #[serde(default)]
    pub revoked_keys: Vec<String>,
    /// Requires a PIN or fingerprint, not just a touch, of FIDO keys.
    #[serde(default)]
    pub require_user_verification: bool,
    /// Which tips must name their branch in a line `Deploy-To: <branch>` of their message.
    #[serde(default)]
    pub ref_binding: trust::RefBinding,
    /// Whether the commits that a signed merge brings in must be signed, too.
    #[serde(default)]
    pub merges: trust::Merges,
    /// After how long without an answer of any remote status calls the host stale.
    #[serde(default = "default_stale_after")]
    pub stale_after: Span,
}

/// Where the keys come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TrustMode {
    /// From the configuration of the running system.
    #[default]
    Static,
}

/// Limits of evaluation and build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Build {
    /// How long a build may take; `null`: as long as it likes.
    pub timeout: Option<Span>,
    /// How long the evaluation may take.
    pub eval_timeout: Span,
    /// How many bytes of address space the evaluation may use; `null`: no limit.
    pub eval_memory_max: Option<u64>,
}

/// How a new system is tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Activation {
    /// How long all hard checks must be green in one go.
    pub soak: Span,
    /// How long the system may take to become healthy; longer than the soak time.
    pub window: Span,
    /// Who says that a new system that proved healthy stays.
    pub confirm: Confirm,
    /// How long an answer is waited for where it is asked for; without one the old system comes back.
    pub confirm_within: Span,
    /// How long `switch-to-configuration` may take.
    pub switch_timeout: Span,
    /// A text without a meaning: another one than before has the host try again what failed, as `pullagent retry` does,
    /// and lifts the suspension after too many rollbacks.
    pub retry_nonce: String,
    /// What to do about a system that somebody else switched to.
    pub drift: Drift,
    /// What to do about a system that runs, but a script of whose activation failed.
    pub activation_errors: ActivationErrors,
    /// Whether a system without pullagent may be deployed, after which the host can't be updated any more.
    pub allow_removal: bool,
    /// Bytes that must be free on the file systems of the Nix store and of the state directory before a switch.
    pub free_bytes_min: u64,
    /// What is done about a system that takes a reboot.
    pub reboot: Reboot,
}

/// What to do about a system that runs, but a script of whose activation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationErrors {
    /// Roll back.
    Rollback,
    /// Say so, and let its health decide.
    Tolerate,
}

/// Who says that a new system that proved healthy stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Confirm {
    /// The agent itself.
    Automatic,
    /// Somebody who says `pullagent confirm`.
    Manual,
}

/// What to do about a system that somebody else switched to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Drift {
    /// Leave it until the branch moves.
    Hold,
    /// Deploy the accepted revision again.
    Enforce,
}

fn default_state_directory() -> PathBuf {
    PathBuf::from("/var/lib/pullagent")
}

fn default_branches() -> Vec<Branch> {
    vec![
        Branch { pattern: "main".to_owned(), operation: Operation::Switch },
        Branch { pattern: "test-{hostname}".to_owned(), operation: Operation::Test },
    ]
}

fn default_interval() -> Interval {
    Interval::Every(Span::secs(60))
}

fn default_username() -> String {
    "pullagent".to_owned()
}

fn default_stale_after() -> Span {
    Span::secs(24 * 3600)
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Default for Source {
    fn default() -> Source {
        Source {
            kind: SourceKind::Flake,
            subdir: ".".to_owned(),
            attribute: None,
            submodules: BTreeMap::new(),
        }
    }
}

impl Default for Build {
    fn default() -> Build {
        Build { timeout: None, eval_timeout: Span::secs(1800), eval_memory_max: None }
    }
}

impl Default for Activation {
    fn default() -> Activation {
        Activation {
            soak: Span::secs(60),
            window: Span::secs(300),
            confirm: Confirm::Automatic,
            confirm_within: Span::secs(15 * 60),
            switch_timeout: Span::secs(900),
            retry_nonce: String::new(),
            drift: Drift::Hold,
            activation_errors: ActivationErrors::Rollback,
            allow_removal: false,
            free_bytes_min: 64 << 20,
            reboot: Reboot::default(),
        }
    }
}

impl Activation {
    /// Returns how long an answer is waited for; `None`: none is asked for.
    pub fn answer_within(&self) -> Option<Duration> {
        (self.confirm == Confirm::Manual).then_some(self.confirm_within.0)
    }
}

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("failed to read configuration '{path}'")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is larger than [`FILE_MAX`].
    #[error("configuration '{0}' is larger than {FILE_MAX} bytes")]
    TooLarge(PathBuf),
    /// Not JSON, or not of this layout.
    #[error("failed to parse the configuration")]
    Parse(#[from] serde_json::Error),
    /// A value makes no sense.
    #[error("configuration key '{key}': {text}")]
    Value {
        /// The key's path.
        key: String,
        /// What is wrong, and what would be right.
        text: String,
    },
}

/// A configuration, and the keys in its file that this version does not know.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// What it says.
    pub settings: Settings,
    /// Paths of unknown keys.
    pub unknown: Vec<String>,
}

/// Reads and checks a configuration file.
///
/// # Errors
/// The file can't be read, is not JSON of this layout, or says something impossible.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    use std::io::Read;
    let read = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(read)?;
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(ConfigError::TooLarge(path.to_owned()));
    }
    parse(&bytes)
}

/// Parses and checks a configuration.
///
/// # Errors
/// As [`load`].
pub fn parse(bytes: &[u8]) -> Result<Loaded, ConfigError> {
    let mut unknown = Vec::new();
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let settings: Settings = serde_ignored::deserialize(&mut json, |path| unknown.push(path.to_string()))?;
    json.end()?;
    settings.check()?;
    Ok(Loaded { settings, unknown })
}

/// Returns the JSON schema of the configuration file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Settings).to_value()
}

impl Settings {
    /// Returns the branches with the host's name filled in.
    pub fn branches(&self) -> Vec<(String, Operation)> {
        let name = |b: &Branch| b.pattern.replace(HOSTNAME_PLACEHOLDER, &self.hostname);
        self.branches.iter().map(|b| (name(b), b.operation)).collect()
    }

    /// Returns the flake attribute of this host's system.
    pub fn attribute(&self) -> String {
        let usual = || format!("nixosConfigurations.\"{}\".config.system.build.toplevel", self.hostname);
        self.source.attribute.clone().unwrap_or_else(usual)
    }

    /// Returns whose signatures count.
    ///
    /// # Errors
    /// As [`Trust::policy`].
    pub fn policy(&self) -> Result<trust::Policy, ConfigError> {
        self.trust.policy()
    }

    /// Names the trust policy, the host that it is applied to, and where submodules may be: changes whenever a verdict
    /// might.
    pub fn trust_digest(&self) -> String {
        let verdict = (&self.hostname, &self.trust, self.source.submodule_paths());
        let trust = serde_json::to_vec(&verdict).unwrap_or_default();
        format!("{}-{:08x}", env!("CARGO_PKG_VERSION"), crc32c::crc32c(&trust))
    }
}

impl Trust {
    fn check(&self) -> Result<(), ConfigError> {
        let text = "nobody may sign; name at least one signer with a key".to_owned();
        let nobody = ConfigError::Value { key: "trust.signers".to_owned(), text };
        if self.signers.is_empty() { Err(nobody) } else { Ok(()) }
    }

    /// Returns whose signatures count.
    ///
    /// # Errors
    /// A key can't be read or is too weak, or two signers share one.
    pub fn policy(&self) -> Result<trust::Policy, ConfigError> {
        let signers = self.signers.iter().map(|(name, signer)| signer.checked(name));
        let signers = signers.collect::<Result<Vec<_>, _>>()?;
        let revoked = self.revoked_keys.iter().map(|line| signer::public("trust.revokedKeys", line));
        let revoked = revoked.collect::<Result<Vec<_>, _>>()?;
        let rules = trust::Rules {
            require_user_verification: self.require_user_verification,
            ref_binding: self.ref_binding,
            merges: self.merges,
        };
        trust::Policy::new(signers, revoked, rules)
            .map_err(|e| ConfigError::Value { key: "trust.signers".to_owned(), text: e.to_string() })
    }
}

#[cfg(test)]
mod tests;
