//! Commit objects: what is taken apart is what git takes apart, and puts together to the same bytes again.

use gix::objs::CommitRefIter;
use pullagent::model::Oid;
use pullagent::trust::{Commit, ObjectFormat, commit};

use super::fit_for_people;
use super::sign::{Key, Sshsig, with_header};

/// The first byte chooses the hash function, the rest is the object.
pub fn check(data: &[u8]) -> bool {
    let Some((first, raw)) = data.split_first() else { return false };
    let (format, kind, header, digits) = match first & 1 {
        0 => (ObjectFormat::Sha1, gix::hash::Kind::Sha1, "gpgsig", 40),
        _ => (ObjectFormat::Sha256, gix::hash::Kind::Sha256, "gpgsig-sha256", 64),
    };
    let id: Oid = "ab".repeat(digits / 2).parse().unwrap();
    let parsed = Commit::parse(&id, raw);
    let split = match commit::split(raw, format) {
        Ok(split) => split,
        Err(refusal) => {
            fit_for_people(&refusal.text, 1200);
            assert!(parsed.is_err());
            return false;
        }
    };
    assert_eq!(with_header_bytes(&split.payload, header, &split.armor), raw, "two ways to write one commit");
    assert_eq!(payload_of_git(raw), split.payload, "git checks other bytes than we do");
    if let Ok(Some((armor, signed))) = CommitRefIter::signature(raw, kind) {
        // Gitoxide keeps the line end after the last of several lines.
        let theirs: &[u8] = armor.as_ref().as_ref();
        let same = theirs == split.armor || theirs == [&split.armor[..], b"\n"].concat();
        assert!(same, "gitoxide reads another signature: {armor:?}");
        assert_eq!(signed.to_bstring(), split.payload, "gitoxide checks other bytes than we do");
    }
    assert!(split.tree.as_str().len() == digits && split.parents.iter().all(|p| p.as_str().len() == digits));
    let Ok(parsed) = parsed else { return false };
    assert_eq!((&parsed.tree, &parsed.parents), (&split.tree, &split.parents));
    for text in [&parsed.author, &parsed.committer, &parsed.subject] {
        fit_for_people(text, 800);
        assert!(text.chars().count() <= 200);
    }
    true
}

/// `with_header` for armor that may be any bytes.
fn with_header_bytes(payload: &[u8], name: &str, armor: &[u8]) -> Vec<u8> {
    let end = payload.windows(2).position(|w| w == b"\n\n").unwrap() + 1;
    let mut raw = payload[..end].to_vec();
    raw.extend_from_slice(name.as_bytes());
    raw.push(b' ');
    for byte in armor {
        raw.push(*byte);
        if *byte == b'\n' {
            raw.push(b' ');
        }
    }
    raw.push(b'\n');
    raw.extend_from_slice(&payload[end..]);
    raw
}

/// What git hands to ssh-keygen: the object without any header that begins with `gpgsig` (commit.c,
/// `parse_buffer_signed_by_header`), each with its continuation lines.
fn payload_of_git(raw: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut rest = raw;
    let mut within = false;
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |n| n + 1);
        let (line, after) = rest.split_at(end);
        if line == b"\n" {
            break;
        }
        within = line.starts_with(b"gpgsig") || (within && line[0] == b' ');
        if !within {
            payload.extend_from_slice(line);
        }
        rest = after;
    }
    payload.extend_from_slice(rest);
    payload
}

pub fn seeds() -> Vec<Vec<u8>> {
    let people = "A <a@x> 1700000000 +0000";
    let of = |digits: usize, extra: &str| {
        let (tree, parent) = ("ab".repeat(digits / 2), "cd".repeat(digits / 2));
        let head =
            format!("tree {tree}\nparent {parent}\nparent {tree}\nauthor {people}\ncommitter {people}\n");
        format!("{head}{extra}\nOpen the door\n\nDeploy-To: main\n").into_bytes()
    };
    let signed = |first: u8, digits: usize, header: &str, extra: &str| {
        let payload = of(digits, extra);
        let armor = Sshsig::default().sign(&Key::plain(1), &payload);
        [&[first], &with_header(&payload, header, &armor)[..]].concat()
    };
    let more = "encoding latin1\nmergetag object 1\n type commit\n \n gpgsig x\nchange-id abc\n";
    vec![
        signed(0, 40, "gpgsig", ""),
        signed(0, 40, "gpgsig", more),
        signed(1, 64, "gpgsig-sha256", more),
        // Git would not check these headers, though they were signed.
        signed(0, 40, "gpgsig", "gpgsig-sha256 x\n y\n"),
        signed(0, 40, "gpgsig", "gpgsigx z\n"),
        signed(1, 64, "gpgsig", ""),
        [&[0], &of(40, "")[..]].concat(),
    ]
}
