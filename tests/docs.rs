//! Holds the documents to the program: what the README shows is what `status` prints, and every reason for a refusal
//! is listed. `UPDATE_FIXTURES=1` writes the table of refusals anew.

#![expect(clippy::unwrap_used, reason = "this is a test")]
#![expect(clippy::disallowed_methods, reason = "a test reads its own settings from the environment")]

use std::path::{Path, PathBuf};

use pullagent::trust::Code;

/// What the table of refusals follows in its file.
const TABLE_MARK: &str = "cargo test --test docs -->\n";
/// How many lines of Nix a first host may take.
const QUICK_START_LINES: usize = 10;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

/// Returns the fenced blocks of a document: what follows the fence, and the text.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut parts = text.split("```").skip(1).step_by(2);
    let mut found = Vec::new();
    while let Some((language, body)) = parts.next().and_then(|part| part.split_once('\n')) {
        found.push((language.to_owned(), body.to_owned()));
    }
    found
}

#[test]
fn every_picture_in_the_readme_is_what_status_prints() {
    let fixtures = path("tests/fixtures/status");
    let printed: Vec<String> = std::fs::read_dir(fixtures)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let readme = read("README.md");
    let pictures: Vec<String> = blocks(&readme)
        .into_iter()
        .filter_map(|(_, body)| Some(body.strip_prefix("$ pullagent status\n")?.to_owned()))
        .collect();
    assert!(pictures.len() >= 2, "{pictures:?}");
    for picture in pictures {
        assert!(printed.contains(&picture), "status prints no such page:\n{picture}");
    }
}

#[test]
fn the_quick_start_is_short() {
    let readme = read("README.md");
    let nix = blocks(&readme).into_iter().find(|(language, _)| language == "nix").unwrap().1;
    let lines = nix.lines().filter(|line| !line.trim_start().starts_with('#')).count();
    assert!(lines <= QUICK_START_LINES, "{lines} lines:\n{nix}");
}

#[test]
fn every_refusal_is_listed_with_its_cure() {
    let mut table = "\n| code | what is wrong | what to do |\n| --- | --- | --- |\n".to_owned();
    for code in Code::ALL {
        let again = if code.is_final() { "" } else { " *Tried again.*" };
        table.push_str(&format!("| `{code}` | {}{again} | {} |\n", code.meaning(), code.advice()));
    }
    let text = read("docs/trust.md");
    let (before, listed) = text.split_once(TABLE_MARK).unwrap();
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        std::fs::write(path("docs/trust.md"), format!("{before}{TABLE_MARK}{table}")).unwrap();
    } else {
        assert_eq!(listed, table);
    }
}

#[test]
fn every_event_of_the_log_is_listed() {
    let text = read("docs/operations.md");
    let ids: std::collections::BTreeSet<&str> =
        pullagent::report::MESSAGE_IDS.iter().map(|(_, id)| *id).collect();
    assert_eq!(ids.len(), pullagent::report::MESSAGE_IDS.len(), "each kind has its own");
    for (event, id) in pullagent::report::MESSAGE_IDS {
        let (start, end) = (format!("| `{event}` | "), format!(" | `{id}` |"));
        let listed = text.lines().any(|line| line.starts_with(&start) && line.ends_with(&end));
        assert!(listed, "no row says '{event}' and '{id}'");
        let shaped = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
        assert!(shaped, "{event}: {id}");
    }
}

#[test]
fn the_bounds_of_a_fetch_are_the_defaults() {
    let text = read("docs/security.md");
    let defaults = serde_json::to_value(pullagent::config::Fetch::default()).unwrap();
    for (key, value) in defaults.as_object().unwrap() {
        let said = match value.as_u64() {
            Some(bytes) if key.contains("Bytes") && bytes % (1 << 30) == 0 => format!("{} GiB", bytes >> 30),
            Some(bytes) if key.contains("Bytes") => format!("{} MiB", bytes >> 20),
            _ => value.to_string().replace('"', ""),
        };
        assert!(text.contains(&format!("| `fetch.{key}` | {said} |")), "{key}: {said}");
    }
}

/// A heading that is renamed must not leave links behind that lead nowhere.
#[test]
fn links_between_the_documents_lead_somewhere() {
    for name in [
        "README.md",
        "CHANGELOG.md",
        "docs/failures.md",
        "docs/operations.md",
        "docs/security.md",
        "docs/signing.md",
        "docs/trust.md",
    ] {
        let text = read(name);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.starts_with("https://") {
                continue;
            }
            let (file, anchor) = link.split_once('#').map_or((link, None), |(f, a)| (f, Some(a)));
            let folder = path(name).parent().unwrap().to_owned();
            let target = if file.is_empty() { path(name) } else { folder.join(file) };
            let target = std::fs::read_to_string(&target).unwrap_or_else(|e| panic!("{name}: {link}: {e}"));
            let headings: Vec<String> =
                target.lines().filter(|l| l.starts_with('#')).map(anchor_of).collect();
            assert!(anchor.is_none_or(|a| headings.iter().any(|h| h == a)), "{name}: {link}: {headings:?}");
        }
    }
}

/// Returns the anchor that forges make of a heading.
fn anchor_of(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-');
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}
