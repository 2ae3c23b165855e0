//! Ways to an HTTPS server that is not reached, or not entered, just so: through proxies that want a password, and with a
//! certificate of our own. Files count as they are now, also for a connection that is kept.
#![allow(clippy::disallowed_methods, reason = "tests start servers")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::client::{ask, expect, fetch, net, oid, plain};
use common::git::Repo;
use common::git_server::{GitServer, Setup};
use common::proxy::Proxy;
use pullagent::model::Https;
use pullagent::repo::net::Class;
use pullagent::repo::remote::{Link, Remote};

const MAIN: &str = "refs/heads/main";

fn remote(server: &GitServer, https: Https) -> Remote {
    let https = Https { ca_file: Some(server.ca_file()), ..https };
    Remote { token_file: Some(server.token_file()), https, ..plain(&server.url("infra.git")) }
}

fn through(proxy: &Proxy) -> Https {
    Https {
        proxy: Some(proxy.url()),
        proxy_credentials_file: Some(proxy.credentials_file()),
        ..Https::default()
    }
}

#[test]
fn refs_and_packs_come_through_a_proxy() {
    let server = GitServer::start();
    let tip = server.repo("infra.git").commit("main", &[("a", b"1")]);
    let target = format!("127.0.0.1:{}", server.port());
    for proxy in [Proxy::http(), Proxy::socks()] {
        let remote = remote(&server, through(&proxy));
        assert_eq!(ask(&remote, &[MAIN]), Ok(vec![(MAIN.to_owned(), oid(&tip))]), "{}", proxy.url());
        let (pack, done) = fetch(&remote, &tip, &[]);
        done.unwrap();
        let dir = tempfile::tempdir().unwrap();
        Repo::init(dir.path(), "sha1").index(&pack);
        if proxy.url().starts_with("http:") {
            assert_eq!(proxy.tunnels(&target), 2, "one connection for each of both");
        }
        // By name, which the proxy looks up.
        let by_name = Remote { url: remote.url.replace("127.0.0.1", "localhost"), ..remote.clone() };
        ask(&by_name, &[MAIN]).unwrap();
    }
}

#[test]
fn a_proxy_that_fails_is_named() {
    let mut server = GitServer::start();
    server.repo("infra.git").commit("main", &[("a", b"1")]);
    let dir = tempfile::tempdir().unwrap();
    let wrong = dir.path().join("wrong");
    fs::write(&wrong, "web1:other\n").unwrap();
    let (http, socks) = (Proxy::http(), Proxy::socks());
    let check = |https: Https, class: Class, words: &str| {
        let remote = remote(&server, https);
        expect(ask(&remote, &[MAIN]), class, words);
    };
    // Tinyproxy answers wrong credentials with 401 where 407 belongs, so that nobody can tell what it has against us.
    for (proxy, class) in [(&http, Class::Network), (&socks, Class::Auth)] {
        let words = "the proxy does not connect us";
        let with = |file: Option<_>| Https { proxy_credentials_file: file, ..through(proxy) };
        check(with(Some(wrong.clone())), class, words);
        check(with(None), Class::Auth, words);
        check(with(Some("/nonexistent".into())), Class::Local, "'/nonexistent'");
    }
    let long = dir.path().join("long");
    fs::write(&long, format!("web1:{}\n", "x".repeat(240))).unwrap();
    check(Https { proxy_credentials_file: Some(long), ..through(&socks) }, Class::Local, "too long");
    fs::write(&wrong, "nothing\n").unwrap();
    check(Https { proxy_credentials_file: Some(wrong), ..through(&http) }, Class::Local, "user:password");
    let at = |url: &str| Https { proxy: Some(url.to_owned()), ..Https::default() };
    check(at("http://127.0.0.1:1"), Class::Network, "the proxy accepts no connection");
    check(at("socks5h://127.0.0.1:1"), Class::Network, "the proxy accepts no connection");
    check(at("http://proxy.invalid:3128"), Class::Dns, "the proxy's name does not resolve");
    for url in ["ftp://127.0.0.1:1", "http://web1:pr0xy@127.0.0.1:1", "127.0.0.1:1", "https://127.0.0.1:1"] {
        let failure = ask(&remote(&server, at(url)), &[MAIN]).unwrap_err();
        assert!(failure.class == Class::Local && failure.text.contains("proxy"), "{url}: {failure}");
        assert!(!failure.text.contains("pr0xy"), "{failure}");
    }
    server.stop();
    expect(ask(&remote(&server, through(&http)), &[MAIN]), Class::Network, "the proxy does not connect us");
}

#[test]
fn a_client_certificate_proves_the_host() {
    let server = GitServer::start_with(Setup { client_certificates: true, ..Setup::default() });
    let tip = server.repo("infra.git").commit("main", &[("a", b"1")]);
    let (cert, key) = server.client_certificate(true);
    let (other_cert, other_key) = server.client_certificate(false);
    let with = |cert, key| {
        remote(
            &server,
            Https { client_cert_file: Some(cert), client_key_file: Some(key), ..Https::default() },
        )
    };
    let seen = Ok(vec![(MAIN.to_owned(), oid(&tip))]);
    assert_eq!(ask(&with(cert.clone(), key.clone()), &[MAIN]), seen);
    expect(ask(&remote(&server, Https::default()), &[MAIN]), Class::Refused, "400");
    expect(ask(&with(other_cert.clone(), other_key.clone()), &[MAIN]), Class::Refused, "400");
    expect(ask(&with(cert.clone(), other_key.clone()), &[MAIN]), Class::Local, "does not go with the key");
    expect(ask(&with(key.clone(), key.clone()), &[MAIN]), Class::Local, "no certificate");
    expect(ask(&with(cert.clone(), cert.clone()), &[MAIN]), Class::Local, "no private key");

    // Renewed in place: the next request shows the new one, though a connection is kept.
    let dir = tempfile::tempdir().unwrap();
    let (mine, my_key) = (dir.path().join("cert"), dir.path().join("key"));
    let renew = |cert, key| {
        fs::copy(cert, &mine).unwrap();
        fs::copy(key, &my_key).unwrap();
    };
    renew(&cert, &key);
    let link = Link::open(&with(mine.clone(), my_key.clone()), &net()).unwrap();
    let (refs, link) = link.ls_refs(&[MAIN]).unwrap();
    assert_eq!(Ok(refs.found), seen);
    renew(&other_cert, &other_key);
    expect(link.unwrap().ls_refs(&[MAIN]), Class::Refused, "400");
    renew(&cert, &key);
    let (refs, _) =
        Link::open(&with(mine.clone(), my_key.clone()), &net()).unwrap().ls_refs(&[MAIN]).unwrap();
    assert_eq!(Ok(refs.found), seen);
}
