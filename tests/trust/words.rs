//! What a commit says to people and to the rules: subjects are harmless on a terminal, and every `Deploy-To:` that git
//! takes for a trailer counts here.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::select;
use pullagent::trust::Commit;

use super::forge::Forge;
use super::random::{self, Cases};
use super::sshsig::{Key, Sshsig, with_header};

fn commit(message: &str) -> Commit {
    let (tree, people) = ("ab".repeat(20), "A <a@x> 1700000000 +0000");
    let payload = format!("tree {tree}\nauthor {people}\ncommitter {people}\n\n{message}");
    let raw = with_header(
        payload.as_bytes(),
        "gpgsig",
        &Sshsig::default().sign(&Key::plain(1), payload.as_bytes()),
    );
    Commit::parse(&tree.parse().unwrap(), &raw).unwrap()
}

/// Tells whether a character may do more than be seen: control it, hide or reorder what is around it.
fn does_more(c: char) -> bool {
    c.is_control()
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c)
        || ['\u{200b}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{2060}', '\u{feff}'].contains(&c)
}

#[test]
fn subjects_are_one_harmless_line_and_plain_ones_stay_as_they_are() {
    let odd = "[\u{0}-\u{20}\u{7f}-\u{a0}\u{2000}-\u{2070}\u{feff}a-c\\\\{}]{0,60}";
    let texts = prop_oneof![any::<String>(), odd, "[ -~]{0,260}"];
    random::check("subjects", Cases { short: 300, long: 30_000 }, texts, |text| {
        let text = text.replace('\0', "");
        let subject = commit(&text).subject;
        assert!(subject.chars().count() <= 200 && !subject.contains(does_more), "{subject:?}");
        let first = text
            .split('\n')
            .map(|line| line.trim_matches(|c: char| c.is_ascii_whitespace()))
            .find(|line| !line.is_empty())
            .unwrap_or_default();
        if first.bytes().all(|b| b.is_ascii_graphic() || b == b' ') {
            assert_eq!(subject, first.chars().take(200).collect::<String>());
        }
    });
}

#[test]
fn a_trailer_to_git_is_a_binding_here() {
    let forge = Forge::new();
    const BODY: [&str; 4] = ["", "Subject", "Body of the message", "Deploy-To: early"];
    const TRAILERS: [&str; 8] = [
        "Deploy-To: main",
        "deploy-to: test-web1",
        "DEPLOY-TO:wip",
        "Signed-off-by: A",
        " Deploy-To: folded",
        "Deploy-To : odd",
        "Deploy-To:",
        "Deploy-To: a, b",
    ];
    let lines = |of: &'static [&'static str], most| prop::collection::vec(select(of), 1..most);
    let messages =
        (lines(&BODY, 4), lines(&TRAILERS, 5)).prop_map(|(body, end)| [body, vec![""], end].concat());
    let bound = std::sync::Mutex::new(0);
    random::check("trailers", Cases { short: 120, long: 5_000 }, messages, |lines| {
        let message = lines.join("\n") + "\n";
        let args = ["interpret-trailers", "--parse", "--no-divider"];
        let trailers = String::from_utf8(forge.run("git", &args, &[], message.as_bytes()).stdout).unwrap();
        let named = trailers.lines().filter_map(|line| line.split_once(": "));
        let named: Vec<_> = named.filter(|(name, _)| name.eq_ignore_ascii_case("deploy-to")).collect();
        let ours = commit(&message).deploy_to;
        if named.is_empty() {
            return;
        }
        *bound.lock().unwrap() += 1;
        let ours: BTreeSet<String> = ours.expect("git finds a binding").into_iter().collect();
        // What git takes for the rest of a value on the next line names no branch here: that binds closer.
        if lines.iter().all(|line| !line.starts_with(' ')) {
            let names = named.iter().flat_map(|(_, v)| v.split([',', ' '])).filter(|n| !n.is_empty());
            assert!(names.clone().all(|name| ours.contains(name)), "{named:?} {ours:?} in {message:?}");
        }
    });
    assert!(bound.into_inner().unwrap() > 10);
}
