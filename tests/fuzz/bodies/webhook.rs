//! Webhooks: any bytes from the network. The server answers in HTTP or closes, in time, and asks for a poll only where the
//! request was made with a secret.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pullagent::config::Settings;
use pullagent::gateway::webhook::{self, Hooks, Wakes};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;

/// How long one answer may take; the server has no reason to wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// The secret of every hook, and of the one that signs in the manner of Standard Webhooks.
const SECRET: &str = "0123456789abcdef0123456789abcdef";

struct Host {
    _dir: tempfile::TempDir,
    settings: Settings,
    runtime: Runtime,
}

thread_local! {
    static HOST: Host = host();
}

fn host() -> Host {
    let dir = super::scratch();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    Host { settings: settings(dir.path()), _dir: dir, runtime }
}

fn settings(dir: &Path) -> Settings {
    let file = dir.join("secret");
    std::fs::write(&file, SECRET).unwrap();
    let mut json = serde_json::to_value(super::settings()).unwrap();
    for kind in ["github", "gitlab", "standard-webhooks", "bearer", "path"] {
        json["webhooks"]["hooks"][kind] = serde_json::json!({ "kind": kind, "secretFiles": [file] });
    }
    pullagent::config::parse(json.to_string().as_bytes()).unwrap().settings
}

/// The first byte chooses between a whole request, and the signature and the body (by lines) of one as GitHub sends it.
pub fn check(data: &[u8]) -> bool {
    let Some((choice, rest)) = data.split_first() else { return false };
    let (request, may_hold) = match choice & 1 {
        0 => (rest.to_vec(), made_with_the_secret(rest)),
        _ => signed(rest),
    };
    HOST.with(|host| {
        let wakes = Arc::new(Wakes::default());
        let hooks = Arc::new(Hooks::new(&host.settings, wakes.clone()));
        let (answer, asked) = host.runtime.block_on(async {
            let answer = exchange(hooks, &request).await;
            (answer, tokio::time::timeout(Duration::ZERO, wakes.next()).await.is_ok())
        });
        let said = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{said}");
        assert!(!said.contains(SECRET), "{said}");
        let accepted = said.get(8..12) == Some(" 202");
        assert!(!accepted || asked, "{said}");
        assert!(!asked || may_hold, "{said}");
        accepted
    })
}

/// Whether a request holds the secret, or what may be a signature, of which a fuzzer makes none.
fn made_with_the_secret(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    text.contains(SECRET) || text.contains("signature")
}

/// Returns a request with this signature and body, and whether the signature is the body's.
fn signed(data: &[u8]) -> (Vec<u8>, bool) {
    let end = data.iter().position(|b| *b == b'\n').unwrap_or(data.len());
    let (signature, body) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let signature: Vec<u8> = signature.iter().copied().filter(|b| *b != b'\r').collect();
    let head = [b"POST /hook/github HTTP/1.1\r\nX-Hub-Signature-256: ", signature.as_slice()].concat();
    let length = format!("\r\nContent-Length: {}\r\n\r\n", body.len());
    let shown = String::from_utf8_lossy(&signature).trim().to_lowercase();
    let right = shown.trim_start_matches("sha256=") == hmac(body);
    ([&head, length.as_bytes(), body].concat(), right)
}

/// HMAC-SHA-256 as RFC 2104 has it, for a key that is shorter than a block.
fn hmac(body: &[u8]) -> String {
    let pad = |with: u8| -> Vec<u8> {
        let key = SECRET.bytes().chain(std::iter::repeat(0)).take(64);
        key.map(|b| b ^ with).collect()
    };
    let inner = Sha256::digest([&pad(0x36), body].concat());
    let outer = Sha256::digest([&pad(0x5c), inner.as_slice()].concat());
    outer.iter().map(|b| format!("{b:02x}")).collect()
}

async fn exchange(hooks: Arc<Hooks>, request: &[u8]) -> Vec<u8> {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (mut reader, mut writer) = tokio::io::split(ours);
    let mut answer = Vec::new();
    let both = async {
        // The server may refuse to read on.
        let write = async {
            writer.write_all(request).await.ok();
            writer.shutdown().await.ok();
        };
        let serve = webhook::serve(hooks, theirs, IpAddr::from(Ipv4Addr::LOCALHOST));
        let ((), (), read) = tokio::join!(write, serve, reader.read_to_end(&mut answer));
        read.ok();
    };
    tokio::time::timeout(ANSWER_WITHIN, both).await.expect("the server answers or closes in time");
    answer
}

pub fn seeds() -> Vec<Vec<u8>> {
    let body = b"{\"ref\":\"refs/heads/main\"}".as_slice();
    let github = |mac: &str| [b"\x01", mac.as_bytes(), b"\n", body].concat();
    let mut seeds = vec![github(&format!("sha256={}", hmac(body))), github(&hmac(b"")), github("sha1=00")];
    let post = |path: &str, headers: &str| {
        let length = body.len();
        let head =
            format!("\0POST /hook/{path} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n");
        [head.as_bytes(), body].concat()
    };
    seeds.push(post(&format!("path/{SECRET}"), ""));
    seeds.push(post("bearer", &format!("authorization: Bearer {SECRET}\r\n")));
    seeds.push(post("gitlab", &format!("x-gitlab-token: {SECRET}\r\n")));
    seeds.push(post("bearer", "authorization: Basic eDp5\r\n"));
    let standard = format!("webhook-id: a\r\nwebhook-timestamp: 1\r\nwebhook-signature: v1,{SECRET}\r\n");
    seeds.push(post("standard-webhooks", &standard));
    seeds.push(post("nothing", ""));
    seeds.push(b"\0GET /hook/github HTTP/1.0\r\n\r\n".to_vec());
    let chunked = format!(
        "\0POST /hook/gitlab HTTP/1.1\r\nX-Gitlab-Token: {SECRET}\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\n\r\n"
    );
    seeds.push(chunked.into_bytes());
    seeds
}
