//! What is heard: each forge's own way, secrets as they are at the time, and the remotes that a hook is for.

use super::forge::{BITBUCKET, FORGEJO, GITHUB, GITLAB, hmac, standard};
use super::gateway::{Gateway, OLD_SECRET, PATH_SECRET, SECRET, STANDARD_SECRET, wait};

#[test]
fn each_forge_is_heard_and_a_push_leads_to_a_poll() {
    let mut gateway = Gateway::start();
    let mac = |body: &str| hmac(SECRET, body.as_bytes());
    let standard = standard(STANDARD_SECRET, GITLAB, 0);
    let path = format!("/hook/path/{PATH_SECRET}");
    let table: &[(&str, &str, Vec<String>)] = &[
        ("/hook/github", GITHUB, vec![format!("X-Hub-Signature-256: sha256={}", mac(GITHUB))]),
        ("/hook/gitea", FORGEJO, vec![format!("X-Gitea-Signature: {}", mac(FORGEJO))]),
        ("/hook/bitbucket", BITBUCKET, vec![format!("X-Hub-Signature: sha256={}", mac(BITBUCKET))]),
        ("/hook/gitlab", GITLAB, vec![format!("X-Gitlab-Token: {SECRET}")]),
        ("/hook/signed", GITLAB, standard.to_vec()),
        ("/hook/bearer?why=push", "", vec![format!("Authorization: Bearer {SECRET}")]),
        (&path, "refs/heads/main", vec![]),
    ];
    for (n, (path, body, headers)) in table.iter().enumerate() {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        assert_eq!(gateway.post(path, &headers, body.as_bytes()), 202, "{path}");
        gateway.is_asked("origin", n + 2);
        if !headers.is_empty() {
            assert_eq!(gateway.post(path, &headers[1..], body.as_bytes()), 404, "{path}");
        }
        if headers.iter().any(|header| header.contains("ignature")) {
            assert_eq!(gateway.post(path, &headers, format!("{body} ").as_bytes()), 404, "{path}");
        }
    }
    assert_eq!(gateway.polls("mirror"), 1, "none of these is for it");
    assert!(gateway.log().contains("the webhook 'github' asks for a poll of origin"), "{}", gateway.log());
    assert!(gateway.lives());
}

#[test]
fn a_hook_is_for_the_remotes_that_it_names_or_all() {
    let gateway = Gateway::start();
    let own = format!("X-Own: {}", hmac(SECRET, GITHUB.as_bytes()));
    assert_eq!(gateway.post("/hook/own", &[&own], GITHUB.as_bytes()), 202);
    gateway.is_asked("mirror", 2);
    assert_eq!(gateway.polls("origin"), 1);
    let all = format!("X-Forgejo-Signature: {}", hmac(SECRET, FORGEJO.as_bytes()));
    assert_eq!(gateway.post("/hook/forgejo", &[&all], FORGEJO.as_bytes()), 202);
    gateway.is_asked("mirror", 3);
    gateway.is_asked("origin", 2);
}

#[test]
fn secrets_are_those_of_the_files_at_the_time() {
    let gateway = Gateway::start();
    let send = |secret: &str| {
        let header = format!("X-Forgejo-Signature: {}", hmac(secret, FORGEJO.as_bytes()));
        gateway.post("/hook/forgejo", &[&header], FORGEJO.as_bytes())
    };
    let newest = "the newest of all the secrets";
    assert_eq!([SECRET, OLD_SECRET, newest].map(send), [202, 202, 404], "both files hold good");
    std::fs::write(gateway.secret_file("old"), newest).unwrap();
    assert_eq!([SECRET, OLD_SECRET, newest].map(send), [202, 404, 202], "as soon as it is written");
    std::fs::remove_file(gateway.secret_file("new")).unwrap();
    assert_eq!([SECRET, newest].map(send), [404, 202], "the other goes on without it");
    std::fs::write(gateway.secret_file("old"), "short").unwrap();
    assert_eq!([newest, "short"].map(send), [404, 404]);
    let log = gateway.log();
    assert!(log.contains("webhook 'forgejo' was refused: the secret in '"), "{log}");
    assert!(log.contains("/new' can't be used: ") && log.contains("less than 16 bytes"), "{log}");
}

/// As NixOS does it: systemd listens, and passes the socket. This process could not listen at its own address.
#[test]
fn a_socket_of_systemd_is_taken() {
    let gateway = Gateway::start_activated();
    let header = format!("X-Hub-Signature-256: sha256={}", hmac(SECRET, GITHUB.as_bytes()));
    assert_eq!(gateway.post("/hook/github", &[&header], GITHUB.as_bytes()), 202);
    gateway.is_asked("origin", 2);
    wait(|| gateway.log().contains("webhooks are heard at the socket that systemd passes"));
}
