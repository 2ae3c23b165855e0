//! Public key lines: what is accepted is a key to the `ssh-key` crate too, the same one, and can be written back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pullagent::trust::PublicKey;

use super::sign::{Key, PLAIN, SK, strings};
use super::{Dice, fit_for_people};

/// The first byte chooses between a whole line and one made of fields.
pub fn check(data: &[u8]) -> bool {
    let mut dice = Dice(data);
    let line = match dice.below(2) {
        0 => String::from_utf8_lossy(dice.0).into_owned(),
        _ => made(&mut dice),
    };
    let key = match PublicKey::parse(&line) {
        Ok(key) => key,
        Err(error) => {
            fit_for_people(&error.to_string(), 1200);
            return false;
        }
    };
    let written = key.to_string();
    assert_eq!(PublicKey::parse(&written).unwrap(), key);
    let other = ssh_key::PublicKey::from_openssh(&written).unwrap();
    assert_eq!(other.fingerprint(ssh_key::HashAlg::Sha256).to_string(), key.fingerprint());
    assert_eq!(other.algorithm().as_str(), key.algorithm().as_str());
    assert_eq!(STANDARD.encode(other.to_bytes().unwrap()), written.split(' ').nth(1).unwrap());
    fit_for_people(&key.comment().replace('\t', " "), 8 * 1024);
    true
}

fn made(dice: &mut Dice<'_>) -> String {
    let name = dice.pick(&[PLAIN, SK, "ssh-rsa", "ssh-ed25519-cert-v01@openssh.com"]);
    let mut point = Key::plain(dice.byte()).secret.verifying_key().to_bytes().to_vec();
    if dice.odd() {
        point = dice.short().to_vec();
    }
    let inner = if dice.odd() { dice.short() } else { name.as_bytes() };
    let mut blob = strings(&[inner, &point]);
    if name == SK && !dice.odd() {
        blob.extend(strings(&[if dice.odd() { dice.short() } else { b"ssh:" }]));
    }
    if dice.odd() {
        blob.extend_from_slice(dice.short());
    }
    let comment = String::from_utf8_lossy(dice.0);
    format!("{name} {} {comment}", STANDARD.encode(blob))
}

pub fn seeds() -> Vec<Vec<u8>> {
    let line = |line: String| [&[0], line.as_bytes()].concat();
    let identity = [&[1, 0, 0, 7, 32, 1], &[0; 31][..]].concat();
    vec![
        line(Key::plain(1).line() + " me@laptop"),
        line(Key::sk(2).line()),
        line(format!("\t{}\n", Key::plain(3).line())),
        line(format!("no-pty {}", Key::plain(3).line())),
        line("ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQ== x".to_owned()),
        vec![1, 0, 1, 0, 0, 0, b'm', b'e'],
        vec![1, 1, 1, 0, 0, 0, 0, 0, b'm', b'e'],
        vec![1, 1, 1, 0, 0, 0, 7, 5, b's', b's', b'h', b':', b'x'],
        // Applications that OpenSSH does not read.
        vec![1, 1, 1, 0, 0, 0, 7, 6, b's', b's', b'h', b':', 0, b'x'],
        vec![1, 1, 1, 0, 0, 0, 7, 5, b's', b's', b'h', b':', 0xff],
        identity,
    ]
}
