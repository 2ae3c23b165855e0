//! Repositories that are a path on the host, and flakes in a folder of theirs: what works, and what people are told where
//! it does not.

use serde_json::{Value, json};

use crate::common::machine::{GATEWAY, Managed, RECONCILER, Via, wait_until};
use crate::host::{LIMIT, Look};

/// Boots a machine whose only remote is a path, where nothing is yet.
fn boot_at(path: &str) -> Option<Managed> {
    let remote = json!({ "name": "origin", "url": path, "interval": "1s" });
    Managed::boot_with(Via::Https, |settings| settings["remotes"] = json!([remote]), |system| system)
}

/// Puts the repository there, as it is now and for everybody to read, as a repository of `owner`'s.
fn put(host: &Managed, path: &str, owner: &str) {
    let bundle = host.machine.directory().join("all.bundle");
    host.repo.git(&["bundle", "create", bundle.to_str().unwrap(), "--all"]);
    host.machine.write_file("/root/all.bundle", std::fs::read(&bundle).unwrap());
    host.machine.check(&format!(
        "test -e {path} || git init -q --bare -b main {path}
         git -c safe.directory='*' -C {path} fetch -q /root/all.bundle '+refs/heads/*:refs/heads/*'
         chmod -R go+rX {path}; chown -R {owner}: {path}"
    ));
}

/// Waits until `status` says something about the remote, and returns it.
fn wait_for_words(host: &Managed, words: &str) -> Value {
    let mut said = Value::Null;
    wait_until(words, LIMIT, || {
        said = host.status().map(|s| s["remotes"][0]["trouble"].clone()).unwrap_or_default();
        said["text"].as_str().is_some_and(|text| text.contains(words))
    });
    said
}

#[test]
fn a_repository_on_the_host_is_followed() {
    let path = "/srv/git/infra.git";
    let Some(host) = boot_at(path) else { return };
    let trouble = wait_for_words(&host, "the gateway finds no such directory");
    assert_eq!(trouble["class"], "not-found", "{trouble}");

    put(&host, path, "root");
    let revision = host.push(&host.system.clone().label("two").etc("greeting", "from a path\n"));
    put(&host, path, "root");
    host.wait_for_status("in-sync", &revision);

    // It is root's alone now, and nobody else's to read.
    host.machine.check(&format!("chmod 700 {path}"));
    let trouble = wait_for_words(&host, "'pullagent-gateway' may not read all of it");
    assert_eq!(trouble["class"], "refused", "{trouble}");
    let status = host.machine.check(&format!("{}/bin/pullagent status || true", host.package));
    assert!(status.contains("BindReadOnlyPaths="), "{status}");

    // Its owner's umask keeps what is pushed from everybody else.
    host.machine.check(&format!(
        "chmod 755 {path}; chmod -R go= {path}/objects; {}/bin/pullagent sync",
        host.package
    ));
    wait_for_words(&host, "'pullagent-gateway' may not read all of it");

    // What the message says helps, once it is asked again.
    host.machine.check(&format!("chmod -R go+rX {path}; {}/bin/pullagent sync", host.package));
    wait_until("the remote to answer again", LIMIT, || host.word() == "in-sync");
}

#[test]
fn a_repository_in_a_home_is_followed_once_the_gateway_is_let_in() {
    let path = "/home/alice/infra.git";
    let Some(host) = boot_at(path) else { return };
    host.machine.check("id alice > /dev/null 2>&1 || useradd --create-home alice; chmod 711 /home/alice");
    put(&host, path, "alice");
    let trouble = wait_for_words(&host, "BindReadOnlyPaths=");
    assert_eq!(trouble["class"], "refused", "{trouble}");

    // As the manual has it.
    host.machine.write_file(
        &format!("/run/systemd/system/{GATEWAY}.d/home.conf"),
        format!("[Service]\nProtectHome=tmpfs\nBindReadOnlyPaths={path}\n"),
    );
    host.machine.check(&format!("systemctl daemon-reload; systemctl restart {GATEWAY}"));
    wait_until("the remote to answer", LIMIT, || host.word() == "in-sync");
    let revision = host.push(&host.system.clone().label("two"));
    put(&host, path, "alice");
    host.wait_for_status("in-sync", &revision);
    assert!(host.machine.is_active(RECONCILER));
}

#[test]
fn a_flake_in_a_folder_is_deployed_and_a_missing_one_is_told() {
    let configure = |settings: &mut Value| settings["source"] = json!({ "subdir": "hosts/web" });
    let Some(host) = Managed::boot_with(Via::Https, configure, |system| system) else { return };
    let forge = host.machine.forge();
    let push = |label: &str, folder: &str| {
        let files = host.system.clone().label(label).etc("greeting", "from a folder\n").repository();
        let moved = files.into_iter().map(|(path, content)| (format!("{folder}/{path}"), content));
        let beside = ("README.md".to_owned(), b"all hosts\n".to_vec());
        forge.commit_files(&host.repo, "main", moved.chain([beside]).collect(), Some(&host.alice))
    };
    let revision = push("two", "hosts/web");
    host.wait_for_status("in-sync", &revision);
    assert_eq!(host.machine.read_file("/etc/greeting").as_deref(), Some("from a folder\n"));

    let moved = push("three", "hosts/db");
    let ended = host.wait_for_outcome(&moved, "build-failed");
    let text = ended["text"].as_str().unwrap();
    assert!(
        text.contains("there is no 'hosts/web/flake.nix' in the commit; the setting 'source.subdir'"),
        "{ended}"
    );
    assert_eq!(host.status().unwrap()["running"]["revision"], revision.as_str());
}
