//! What all these tests ask of a machine that pullagent keeps.

use std::time::Duration;

use serde_json::{Value, json};

use crate::common::machine::{Managed, Via};
use crate::common::machine::{System, wait_until};

/// How long a host may take to come to rest, on a loaded machine.
pub const LIMIT: Duration = Duration::from_secs(180);

/// Returns the first system with another label, and a page that says so.
pub fn next(host: &Managed, label: &str) -> System {
    web(host.system.clone().label(label), label)
}

/// Puts the agent's state on a file system of its own, in memory and with these options of mount(8).
pub fn put_state_on_tmpfs(host: &Managed, options: &str) {
    let state = "/var/lib/pullagent";
    host.machine.check(&format!(
        "systemctl stop pullagent.service; cp -a {state} /tmp/kept
         mount -t tmpfs -o {options},mode=700 tmpfs {state}
         cp -a /tmp/kept/. {state}; systemctl start pullagent.service"
    ));
}

/// Boots a machine that judges new systems within `window`, by a check called `web` which asks the page of the service
/// `web`. Nothing where these tests are left out.
pub fn boot(via: Via, window: &str) -> Option<Managed> {
    boot_with(via, window, |system| system)
}

/// Does so with a first system that has more to it.
pub fn boot_with(via: Via, window: &str, more: impl FnOnce(System) -> System) -> Option<Managed> {
    boot_soaking(via, "1s", window, more)
}

/// Does so with another soak time.
pub fn boot_soaking(
    via: Via,
    soak: &str,
    window: &str,
    more: impl FnOnce(System) -> System,
) -> Option<Managed> {
    let configure = |settings: &mut Value| {
        settings["activation"] = json!({ "soak": soak, "window": window, "switchTimeout": "60s" });
        settings["health"] = json!({ "checks": { "web": {
            "http": "http://127.0.0.1:8000/",
            "interval": "1s", "timeout": "5s", "startPeriod": "2s", "failureThreshold": 2
        } } });
    };
    Managed::boot_with(via, configure, |system| more(web(system, "one")))
}

/// Gives a system the service `web`, nginx, whose page is `page`.
pub fn web(system: System, page: &str) -> System {
    let service =
        "ExecStart=/usr/sbin/nginx -p /tmp -e stderr -c /etc/web/nginx.conf -g 'daemon off;'\nPrivateTmp=yes";
    let service = format!("{service}\nEnvironment=PAGE={page}");
    system.etc("web/index.html", &format!("{page}\n")).etc("web/nginx.conf", NGINX).service("web", &service)
}

const NGINX: &str = "events {} pid /tmp/pid;
http {
  access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f;
  uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;
  server { listen 127.0.0.1:8000; root /etc/web; }
}
";

const DEAD: &str = "/run/systemd/system.control/pullagent.service.d";

/// What the host has come to, as far as these tests look.
pub trait Look {
    /// Returns the word of `pullagent status`.
    fn word(&self) -> String;
    /// Waits until the agent has nothing to do and the newest deployment has ended so.
    fn wait_for_outcome(&self, revision: &str, outcome: &str) -> Value;
    /// Returns the deployments that ended, oldest first.
    fn history(&self) -> Vec<Value>;
    /// Returns the page that the service `web` serves.
    fn page(&self) -> String;
    /// Returns the directory of the newest guard, once there is one.
    fn guard(&self) -> String;
    /// Kills the agent for good: nothing starts it again, not even a switch.
    fn kill_agent(&self);
    /// Takes that back.
    fn revive_agent(&self);
}

impl Look for Managed {
    fn word(&self) -> String {
        self.status().map(|s| s["state"].as_str().unwrap().to_owned()).unwrap_or_default()
    }

    fn wait_for_outcome(&self, revision: &str, outcome: &str) -> Value {
        let mut found = None;
        wait_until(&format!("'{outcome}' of {revision}"), LIMIT, || {
            let history = self.history();
            found = history.into_iter().rfind(|d| d["revision"] == revision);
            found.as_ref().is_some_and(|d| d["outcome"] == outcome)
        });
        found.unwrap()
    }

    fn history(&self) -> Vec<Value> {
        let program = format!("{}/bin/pullagent history --json", self.package);
        let said: Value = serde_json::from_slice(&self.machine.run(&program).stdout).unwrap_or_default();
        said["entries"].as_array().cloned().unwrap_or_default()
    }

    fn page(&self) -> String {
        // A switch may be restarting nginx at this very moment.
        self.machine.check("curl -sS --retry 20 --retry-delay 1 --retry-all-errors http://127.0.0.1:8000/")
    }

    fn kill_agent(&self) {
        // This directory comes before that of the running system, so no switch undoes it (systemd.unit(5)).
        let conf = format!("{DEAD}/dead.conf");
        self.machine.write_file(&conf, "[Unit]\nConditionPathExists=/no/agent\n");
        self.machine.check(
            "systemctl daemon-reload; systemctl kill --signal=KILL pullagent.service;
             systemctl stop pullagent.service",
        );
    }

    fn revive_agent(&self) {
        self.machine
            .check(&format!("rm -r {DEAD}; systemctl daemon-reload; systemctl start pullagent.service"));
    }

    fn guard(&self) -> String {
        let dirs = "ls -1td /var/lib/pullagent/guard/*/plan.json 2> /dev/null | head -n 1";
        let mut dir = String::new();
        wait_until("a guard", LIMIT, || {
            dir = self.machine.check(dirs).trim_end_matches("/plan.json").to_owned();
            !dir.is_empty()
        });
        dir
    }
}
