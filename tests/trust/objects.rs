//! The `O` rows: what is odd about one commit object, all of them well signed.

use pullagent::trust::Code;

use super::forge::{Forge, Git, replace};
use super::sshsig::{Sshsig, with_header};

/// Signs `bend(payload)` with alice's key.
fn odd(forge: &Forge, bend: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let payload = bend(&forge.payload());
    with_header(&payload, "gpgsig", &Sshsig::default().sign(&forge.alice, &payload))
}

#[test]
fn o01_second_tree_or_author() {
    let forge = Forge::new();
    let tree = format!("tree {}\n", forge.id("main^{tree}"));
    let author = "author M <m@example.org> 1700000000 +0000\n";
    for line in [tree.as_str(), author] {
        let raw = odd(&forge, |p| replace(p, "committer ", &format!("{line}committer ")));
        forge.refuses(&raw, Code::HeaderOrder, Git::Accepts);
    }
}

#[test]
fn o02_unknown_header_is_signed_and_fine() {
    let forge = Forge::new();
    forge.accepts(&odd(&forge, |p| replace(p, "\n\nOpen", "\nchange-id kqoxylnm\n\nOpen")));
    forge.accepts(&odd(&forge, |p| replace(p, "\n\nOpen", "\nnotes a\n b\n \n c\n\nOpen")));
}

#[test]
fn o03_nul_byte() {
    let forge = Forge::new();
    forge.refuses(&odd(&forge, |p| replace(p, "Open", "Op\0en")), Code::NulByte, Git::Accepts);
    // Unlike a message, git can't read a header with a NUL in it either.
    forge.refuses(&odd(&forge, |p| replace(p, "author A", "author \0A")), Code::NulByte, Git::Rejects);
}

#[test]
fn o04_encoding_header() {
    let forge = Forge::new();
    let args = ["-c", "i18n.commitEncoding=ISO-8859-1", "-c", "user.signingkey=alice", "commit", "-S"];
    forge.git(&[&args[..], &["-q", "--allow-empty", "-m", "Tür"]].concat());
    let raw = forge.raw(&forge.id("HEAD"));
    assert!(raw.windows(9).any(|w| w == b"encoding "));
    forge.accepts(&raw);
}

#[test]
fn o05_mergetag() {
    let forge = Forge::new();
    forge.signed("alice", "One");
    forge.git(&["checkout", "-q", "-b", "side", "main~1"]);
    forge.signed("alice", "Two");
    forge.git(&["-c", "user.signingkey=mallory", "tag", "-s", "-m", "v1", "v1"]);
    forge.git(&["checkout", "-q", "main"]);
    forge.git(&["-c", "user.signingkey=alice", "merge", "-q", "--no-ff", "-S", "-m", "Merge v1", "v1"]);
    let raw = forge.raw(&forge.id("HEAD"));
    assert!(raw.windows(9).any(|w| w == b"mergetag "));
    assert_eq!(forge.accepts(&raw).commits, 3);
}

#[test]
fn o06_huge_message() {
    let forge = Forge::new();
    let long = |p: &[u8]| [p, &[b'x'; 2_000_000]].concat();
    forge.refuses(&odd(&forge, long), Code::CommitTooLarge, Git::Accepts);
}

#[test]
fn o07_five_thousand_parents() {
    let forge = Forge::new();
    let line = format!("parent {}\n", forge.introduction);
    let many = |n: usize| odd(&forge, |p| replace(p, &line, &line.repeat(n)));
    forge.refuses(&many(5_000), Code::TooManyParents, Git::OldAccepts);
    forge.refuses(&many(65), Code::TooManyParents, Git::OldAccepts);
    forge.accepts(&many(64));
}

#[test]
fn commits_without_a_readable_date_are_refused() {
    let forge = Forge::new();
    let raw = odd(&forge, |p| {
        let committer = "committer A U Thor <a@example.org> ";
        replace(p, &format!("{committer}1700000000"), &format!("{committer}soon"))
    });
    forge.refuses(&raw, Code::BadHeader, Git::OldAccepts);
}

#[test]
fn hostile_words_do_not_reach_the_terminal() {
    let forge = Forge::new();
    let raw = odd(&forge, |p| replace(p, "Open the door", "Open\x1b]0;x\x07 \u{202e}rood"));
    assert_eq!(forge.accepts(&raw).subject, "Open\\u{1b}]0;x\\u{7} \\u{202e}rood");
}
