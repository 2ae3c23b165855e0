//! A forge: sends with curl what it signs with openssl, so that nothing of ours is on its side.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use super::gateway::Gateway;

pub const GITHUB: &str = include_str!("../fixtures/webhooks/github.json");
pub const FORGEJO: &str = include_str!("../fixtures/webhooks/forgejo.json");
pub const BITBUCKET: &str = include_str!("../fixtures/webhooks/bitbucket.json");
pub const GITLAB: &str = include_str!("../fixtures/webhooks/gitlab.json");

fn piped(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Whoever has read enough closes.
    child.stdin.take().unwrap().write_all(input).ok();
    child.wait_with_output().unwrap().stdout
}

/// Returns HMAC-SHA-256 of `body` in hexadecimal.
pub fn hmac(secret: &str, body: &[u8]) -> String {
    let key = format!("key:{secret}");
    let line = piped("openssl", &["dgst", "-sha256", "-mac", "HMAC", "-macopt", &key, "-r"], body);
    String::from_utf8(line).unwrap().split(' ').next().unwrap().to_owned()
}

/// Returns the headers of Standard Webhooks for `body`, sent so many seconds from now.
pub fn standard(secret: &str, body: &str, seconds: i64) -> [String; 3] {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (id, time) = ("msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", now.checked_add_signed(seconds).unwrap());
    let key = piped("openssl", &["base64", "-d", "-A"], secret.trim_start_matches("whsec_").as_bytes());
    let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let key = format!("hexkey:{key}");
    let signed = format!("{id}.{time}.{body}");
    let args = ["dgst", "-sha256", "-mac", "HMAC", "-macopt", &key, "-binary"];
    let sum = piped("openssl", &["base64", "-A"], &piped("openssl", &args, signed.as_bytes()));
    let sum = String::from_utf8(sum).unwrap();
    [
        format!("webhook-id: {id}"),
        format!("webhook-timestamp: {time}"),
        format!("webhook-signature: v1,{sum}"),
    ]
}

impl Gateway {
    /// Posts `body` to `path` and returns the status; 0 if there was none.
    pub fn post(&self, path: &str, headers: &[&str], body: &[u8]) -> u16 {
        let url = format!("http://{}{path}", self.address);
        let mut args = vec!["-sS", "--max-time", "30", "-o", "/dev/null", "-w", "%{http_code}"];
        args.extend(["-H", "Content-Type: application/json", "--data-binary", "@-"]);
        headers.iter().for_each(|header| args.extend(["-H", header]));
        args.push(&url);
        assert!(Path::new(path).is_absolute());
        String::from_utf8(piped("curl", &args, body)).unwrap().parse().unwrap_or(0)
    }
}
