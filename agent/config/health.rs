//! What healthy means: the `health` section of the configuration.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ConfigError, Span, is_false};
use crate::model::{UNITS, UPDATABLE};

/// How many checks a configuration may name.
pub const CHECKS_MAX: usize = 100;

/// What healthy means.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Health {
    /// What a unit means that failed, is restarted again and again, or ran before and does not any more.
    pub unit_failures: UnitFailures,
    /// Units that never count for that: names, in which `*` stands for any text.
    pub ignore_units: Vec<String>,
    /// Folders with the programs `required.d/*` and `wanted.d/*`, as greenboot has them: checks that run as root.
    pub script_directories: Vec<PathBuf>,
    /// Checks by name.
    pub checks: BTreeMap<String, Check>,
}

/// What a unit in trouble means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UnitFailures {
    /// The new system is rolled back.
    #[default]
    Hard,
    /// It is reported.
    Soft,
    /// Nothing; nobody looks.
    Ignore,
}

/// One check. Exactly one of `http`, `tcp`, `dns`, `unit` and `command` is set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// An address (`http://` or `https://`) that must answer with a 2xx status, or with `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// An address and a port that must accept a connection, such as `127.0.0.1:22`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<String>,
    /// A name that the host must be able to resolve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<String>,
    /// A systemd unit of any kind that must be active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// A program and its arguments that must exit with 0; 75 means "not yet".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// For `http`: the status that must come instead of 2xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// For `http`: a text that the answer's body must contain. For `tcp`: how what the other side says first must begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// Whether the command runs as root and outside any sandbox, instead of as a user without any rights.
    #[serde(default, skip_serializing_if = "is_false")]
    pub privileged: bool,
    /// Whether a failure rolls back.
    #[serde(default)]
    pub severity: Severity,
    /// What it means that the check is red before the switch already.
    #[serde(default)]
    pub baseline: Baseline,
    /// How long one try may take.
    #[serde(default = "default_timeout")]
    pub timeout: Span,
    /// The pause between two tries.
    #[serde(default = "default_interval")]
    pub interval: Span,
    /// Failures this early after the switch do not count.
    #[serde(default = "default_start_period")]
    pub start_period: Span,
    /// How many successes in a row mean healthy.
    #[serde(default = "default_success_threshold")]
    pub success_threshold: u32,
    /// How many failures in a row mean unhealthy.
    #[serde(default = "default_failure_threshold")]
    pub failure_threshold: u32,
}

/// Whether a failing check rolls back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It does.
    #[default]
    Hard,
    /// It is reported.
    Soft,
}

/// What a check means that was red before the switch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Baseline {
    /// It is only reported: the new system did not break it.
    #[default]
    MustNotRegress,
    /// It must be green all the same: the new system is to repair it.
    Require,
}

fn default_timeout() -> Span {
    Span::secs(10)
}

fn default_interval() -> Span {
    Span::secs(5)
}

fn default_start_period() -> Span {
    Span::secs(30)
}

fn default_success_threshold() -> u32 {
    1
}

fn default_failure_threshold() -> u32 {
    3
}

/// What one check looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A page.
    Http(&'a str),
    /// An open port.
    Tcp(&'a str),
    /// A name.
    Dns(&'a str),
    /// A unit of systemd.
    Unit(&'a str),
    /// A program.
    Command(&'a [String]),
}

impl Check {
    /// Returns a check that runs a program, with the usual times.
    pub fn command(argv: Vec<String>, privileged: bool, severity: Severity) -> Check {
        Check {
            http: None,
            tcp: None,
            dns: None,
            unit: None,
            command: Some(argv),
            status: None,
            expect: None,
            privileged,
            severity,
            baseline: Baseline::default(),
            timeout: default_timeout(),
            interval: default_interval(),
            start_period: default_start_period(),
            success_threshold: default_success_threshold(),
            failure_threshold: default_failure_threshold(),
        }
    }

    /// Returns what is looked at; `None` unless that is exactly one thing.
    pub fn kind(&self) -> Option<Kind<'_>> {
        let kinds = [
            self.http.as_deref().map(Kind::Http),
            self.tcp.as_deref().map(Kind::Tcp),
            self.dns.as_deref().map(Kind::Dns),
            self.unit.as_deref().map(Kind::Unit),
            self.command.as_deref().map(Kind::Command),
        ];
        let mut set = kinds.into_iter().flatten();
        set.next().filter(|_| set.next().is_none())
    }

    fn fault(&self) -> Option<String> {
        let Some(kind) = self.kind() else {
            return Some("set exactly one of 'http', 'tcp', 'dns', 'unit' and 'command'".to_owned());
        };
        let fault = match kind {
            Kind::Http(url) if !url.starts_with("http://") && !url.starts_with("https://") => {
                Some(format!("'{url}' is neither http:// nor https://"))
            }
            Kind::Tcp(address) if !is_address(address) => {
                Some(format!("'{address}' is not an address and a port such as '127.0.0.1:22'"))
            }
            Kind::Dns(name) if !is_name(name) => Some(format!("'{name}' is not a name to be resolved")),
            Kind::Unit(name) if !is_unit(name) => {
                Some(format!("'{name}' is not a unit's full name such as 'nginx.service'"))
            }
            Kind::Command(argv) if argv.first().is_none_or(|p| !Path::new(p).is_absolute()) => {
                Some("the command's program must be an absolute path".to_owned())
            }
            Kind::Http(_) | Kind::Tcp(_) | Kind::Dns(_) | Kind::Unit(_) | Kind::Command(_) => None,
        };
        let http = matches!(kind, Kind::Http(_));
        let unfit = [
            (self.status.is_some() && !http, "'status' goes with 'http' only"),
            (
                self.expect.is_some() && !http && !matches!(kind, Kind::Tcp(_)),
                "'expect' goes with 'http' and 'tcp' only",
            ),
            (self.privileged && !matches!(kind, Kind::Command(_)), "'privileged' goes with 'command' only"),
            (self.status.is_some_and(|s| !(100..600).contains(&s)), "'status' must be an HTTP status"),
            (self.failure_threshold == 0, "'failureThreshold' must be 1 or more"),
            (self.success_threshold == 0, "'successThreshold' must be 1 or more"),
            (self.timeout.0.is_zero() || self.interval.0.is_zero(), "'timeout' and 'interval' can't be zero"),
        ];
        fault.or_else(|| unfit.iter().find(|(wrong, _)| *wrong).map(|(_, text)| (*text).to_owned()))
    }
}

impl Check {
    /// Tells whether the check depends on another host: it asks for a name, or for an address that is not this host's own.
    pub fn is_remote(&self) -> bool {
        match (&self.http, &self.tcp, &self.dns) {
            (Some(url), _, _) => !is_loopback(host_of(url)),
            (_, Some(address), _) => !is_loopback(address.rsplit_once(':').map_or(address, |(host, _)| host)),
            (_, _, dns) => dns.is_some(),
        }
    }
}

/// Returns the host in an address; nothing where there is none.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.rsplit_once(':') {
        Some((host, port)) if port.chars().all(|c| c.is_ascii_digit()) => host,
        Some(_) | None => host,
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let own = |ip: std::net::IpAddr| ip.is_loopback() || ip.is_unspecified();
    host == "localhost" || host.ends_with(".localhost") || host.parse().is_ok_and(own)
}

impl Health {
    /// Refuses what makes no sense, naming the key.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key: String, text: &str| {
            Err(ConfigError::Value { key: format!("health.{key}"), text: text.to_owned() })
        };
        if self.checks.len() > CHECKS_MAX {
            return wrong("checks".to_owned(), &format!("there are more than {CHECKS_MAX} checks"));
        }
        for (name, check) in &self.checks {
            let key = format!("checks.{name}");
            if [UPDATABLE, UNITS].contains(&name.as_str()) || name.contains('/') {
                let text = "the name is taken by a check that is built in, or contains a '/'; choose another";
                return wrong(key, text);
            }
            if let Some(text) = check.fault() {
                return wrong(key, &text);
            }
        }
        match self.script_directories.iter().find(|dir| !dir.is_absolute()) {
            Some(_) => wrong("scriptDirectories".to_owned(), "each must be an absolute path"),
            None => Ok(()),
        }
    }

    /// Tells whether a unit never counts.
    pub fn ignores(&self, unit: &str) -> bool {
        self.ignore_units.iter().any(|pattern| matches(pattern, unit))
    }
}

fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    port.parse::<u16>().is_ok_and(|p| p != 0) && (host.parse::<std::net::IpAddr>().is_ok() || is_name(host))
}

fn is_name(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !text.is_empty() && text.len() <= 253 && text.chars().all(legal) && !text.starts_with(['-', '.'])
}

/// systemd.unit(5): a name of these characters, and one of these endings.
fn is_unit(text: &str) -> bool {
    const KINDS: [&str; 9] =
        ["service", "socket", "target", "timer", "path", "mount", "automount", "swap", "slice"];
    let legal = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    let kind = text.rsplit_once('.').map(|(name, kind)| (!name.is_empty(), kind));
    text.len() <= 255 && text.chars().all(legal) && kind.is_some_and(|(name, k)| name && KINDS.contains(&k))
}

/// Tells whether `text` is what `pattern` describes, in which `*` stands for any text.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut left) = text.strip_prefix(head) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.len() >= part.len() && left.ends_with(part);
        }
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        let table = [
            ("a.service", "a.service", true),
            ("a.service", "aa.service", false),
            ("*", "x", true),
            ("backup-*.service", "backup-1.service", true),
            ("backup-*.service", "backup-.service", true),
            ("backup-*.service", "backup-.socket", false),
            ("*b*c*", "abxcx", true),
            ("*b*c*", "acxbx", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
        ];
        for (pattern, text, expected) in table {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn checks_across_the_network() {
        let table = [
            (serde_json::json!({ "http": "http://127.0.0.1/healthz" }), false),
            (serde_json::json!({ "http": "https://localhost:8443/" }), false),
            (serde_json::json!({ "http": "http://[::1]:80/" }), false),
            (serde_json::json!({ "http": "http://[::1]/" }), false),
            (serde_json::json!({ "http": "https://127.0.0.1.example.org/" }), true),
            (serde_json::json!({ "http": "https://db.example.org:8443/x" }), true),
            (serde_json::json!({ "http": "http://[2001:db8::1]/" }), true),
            (serde_json::json!({ "tcp": "127.0.0.1:22" }), false),
            (serde_json::json!({ "tcp": "[::1]:22" }), false),
            (serde_json::json!({ "tcp": "10.0.0.1:22" }), true),
            (serde_json::json!({ "dns": "example.org" }), true),
            (serde_json::json!({ "unit": "nginx.service" }), false),
            (serde_json::json!({ "command": ["/bin/true"] }), false),
        ];
        for (json, expected) in table {
            let check: Check = serde_json::from_value(json.clone()).unwrap();
            assert_eq!(check.is_remote(), expected, "{json}");
        }
    }

    #[test]
    fn a_check_looks_at_one_thing() {
        let check = |json: serde_json::Value| serde_json::from_value::<Check>(json).unwrap().fault();
        let good = [
            serde_json::json!({ "http": "http://127.0.0.1/", "status": 404, "expect": "x" }),
            serde_json::json!({ "tcp": "127.0.0.1:22", "expect": "SSH-" }),
            serde_json::json!({ "tcp": "[::1]:22" }),
            serde_json::json!({ "tcp": "localhost:22" }),
            serde_json::json!({ "dns": "example.org" }),
            serde_json::json!({ "unit": "boot-complete.target" }),
            serde_json::json!({ "unit": "getty@tty1.service" }),
            serde_json::json!({ "command": ["/bin/true"], "privileged": true }),
        ];
        for json in good {
            assert_eq!(check(json.clone()), None, "{json}");
        }
        let bad = [
            serde_json::json!({}),
            serde_json::json!({ "http": "http://127.0.0.1/", "dns": "example.org" }),
            serde_json::json!({ "http": "ftp://127.0.0.1/" }),
            serde_json::json!({ "http": "http://127.0.0.1/", "status": 99 }),
            serde_json::json!({ "http": "http://127.0.0.1/", "privileged": true }),
            serde_json::json!({ "http": "http://127.0.0.1/", "failureThreshold": 0 }),
            serde_json::json!({ "http": "http://127.0.0.1/", "successThreshold": 0 }),
            serde_json::json!({ "http": "http://127.0.0.1/", "interval": "0s" }),
            serde_json::json!({ "tcp": "22" }),
            serde_json::json!({ "tcp": "127.0.0.1:0" }),
            serde_json::json!({ "tcp": "127.0.0.1:22", "status": 200 }),
            serde_json::json!({ "dns": "-x" }),
            serde_json::json!({ "dns": "example.org", "expect": "x" }),
            serde_json::json!({ "unit": "nginx" }),
            serde_json::json!({ "unit": "*.service" }),
            serde_json::json!({ "command": [] }),
            serde_json::json!({ "command": ["true"] }),
        ];
        for json in bad {
            assert!(check(json.clone()).is_some(), "{json}");
        }
    }
}
