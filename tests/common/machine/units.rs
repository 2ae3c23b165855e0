//! The units of pullagent on a system of the machine: those of `agent/host/units.json`, key by key as the module has
//! NixOS write them, and what NixOS adds for a configuration: credentials and the restart when it changes.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::system::System;

/// The process that reaches the network, by the name of its unit.
pub const GATEWAY: &str = "pullagent-gateway.service";
/// The process that decides, by the name of its unit.
pub const RECONCILER: &str = "pullagent.service";
/// Where webhooks come in, if there are any.
pub const WEBHOOKS: &str = "pullagent-webhook.socket";

/// Returns the description of all units, which the agent and the module read too.
pub fn described() -> Value {
    serde_json::from_str(include_str!("../../../agent/host/units.json")).unwrap()
}

/// Returns the properties of a transient kind of unit, one `Key=value` each.
pub fn transient(kind: &str) -> Vec<String> {
    lines(described()["transient"][kind].as_object().unwrap())
}

/// Returns the text of a unit file.
pub fn render(unit: &Value, program: &str) -> String {
    let sections = unit.as_object().unwrap().iter().filter(|(name, _)| *name != "Install");
    let section = |(name, keys): (&String, &Value)| {
        format!("[{name}]\n{}\n", lines(keys.as_object().unwrap()).join("\n"))
    };
    sections.map(section).collect::<String>().replace("@program@", program)
}

fn lines(keys: &Map<String, Value>) -> Vec<String> {
    let words = |value: &Value| match value {
        Value::Array(values) => values.iter().map(|value| value.as_str().unwrap().to_owned()).collect(),
        value => vec![value.as_str().unwrap().to_owned()],
    };
    keys.iter().flat_map(|(key, value)| words(value).into_iter().map(move |w| format!("{key}={w}"))).collect()
}

impl System {
    /// Installs pullagent: `package` in the machine's store, with a configuration as the module's option `settings`
    /// has it. Its secrets become credentials of the gateway, and are named so in the file.
    #[must_use]
    pub fn agent(self, package: &str, settings: &Value) -> System {
        let (written, credentials) = with_credentials(settings);
        let text = format!("{written:#}\n");
        let hash =
            Sha256::digest(&text)[..8].iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let units = described();
        let mut system = self.package("pullagent", package).etc("pullagent/config.json", &text);
        let ids = credentials.iter().filter_map(|credential| credential.split(':').next());
        let hooks: Vec<&str> = ids.filter(|id| id.starts_with("webhook.")).collect();
        if !hooks.is_empty() {
            let mut socket = units["optional"][WEBHOOKS].clone();
            socket["Socket"]["ListenStream"] = written["webhooks"]["listen"].clone();
            system = system.unit(WEBHOOKS, &render(&socket, ""));
        }
        for (name, unit) in units["installed"].as_object().unwrap() {
            let mut unit = unit.clone();
            match name.as_str() {
                GATEWAY => {
                    let service = &mut unit["Service"];
                    service["LoadCredential"] = json!(credentials);
                    if !hooks.is_empty() {
                        service["Sockets"] = json!(WEBHOOKS);
                        let missing: Vec<_> = hooks.iter().map(|id| format!("{id}:missing")).collect();
                        service["SetCredential"] = json!(missing);
                    }
                }
                RECONCILER => unit["Unit"]["X-Restart-Triggers"] = json!(hash),
                _ => {}
            }
            let wanted_by = unit["Install"]["WantedBy"].as_array().cloned().unwrap_or_default();
            let wanted_by: Vec<&str> = wanted_by.iter().map(|by| by.as_str().unwrap()).collect();
            system = system.wanted_unit(name, &wanted_by, &render(&unit, "@pullagent@/bin/pullagent"));
        }
        let names = |key: &str| units[key].as_array().unwrap().clone();
        let system = names("users").iter().fold(system, |system, name| system.user(name.as_str().unwrap()));
        names("groups").iter().fold(system, |system, name| system.group(name.as_str().unwrap()))
    }

    /// Removes pullagent.
    #[must_use]
    pub fn without_agent(self) -> System {
        let units = described();
        let names = units["installed"].as_object().unwrap().keys();
        names.fold(self, |system, name| system.without_unit(name)).without_etc("pullagent/config.json")
    }

    /// Adds or replaces `<unit>.d/<name>.conf`, which adds lines to a unit or replaces some.
    #[must_use]
    pub fn drop_in(self, unit: &str, name: &str, text: &str) -> System {
        self.unit(&format!("{unit}.d/{name}.conf"), text)
    }
}

/// Returns the configuration with secrets named as the gateway finds them, and the lines that put them there.
fn with_credentials(settings: &Value) -> (Value, Vec<String>) {
    let (mut written, mut credentials) = (settings.clone(), Vec::new());
    for remote in written["remotes"].as_array_mut().unwrap() {
        for key in ["tokenFile", "sshKeyFile", "clientKeyFile", "proxyCredentialsFile"] {
            let Some(path) = remote[key].as_str() else { continue };
            let id = format!("{}.{key}", remote["name"].as_str().unwrap());
            credentials.push(format!("{id}:{path}"));
            remote[key] = json!(format!("/run/credentials/{GATEWAY}/{id}"));
        }
    }
    for (name, hook) in
        written.pointer_mut("/webhooks/hooks").and_then(Value::as_object_mut).into_iter().flatten()
    {
        for (n, file) in hook["secretFiles"].as_array_mut().unwrap().iter_mut().enumerate() {
            let id = format!("webhook.{name}.{n}");
            credentials.push(format!("{id}:{}", file.as_str().unwrap()));
            *file = json!(format!("/run/credentials/{GATEWAY}/{id}"));
        }
    }
    let originals = credentials.iter().filter_map(|credential: &String| Some(credential.split_once(':')?.1));
    written["copiedSecrets"] = json!(originals.collect::<Vec<_>>());
    (written, credentials)
}
