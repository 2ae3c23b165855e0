//! The rows of the attack catalogue that are about what a server sends, each by its number, each on a host of its own.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pullagent::model::Oid;

use crate::common::scripted::{Ask, band, head, line, send, stall};
use crate::git::Repo;
use crate::packs;
use crate::server::{Script, honestly};
use crate::stage::{Expect, Stage, both, floods, names, on, sends};

/// Serves another repository in place of the one.
fn serves(path: &Path) -> Script {
    let path = path.to_owned();
    Box::new(move |request, to| Some(honestly(&path, request, to)))
}

/// Points `main` of a served repository to any object, as only its owner can.
fn point(repo: &Repo, id: &str) {
    std::fs::write(repo.path().join(".git/refs/heads/main"), format!("{id}\n")).unwrap();
}

fn tag_of(repo: &Repo, tip: &Oid) -> String {
    let tag = format!("object {tip}\ntype commit\ntag v1\ntagger A <a@b> 1700000000 +0000\n\nv1\n");
    repo.object("tag", tag.as_bytes())
}

#[test]
fn r01_a_tag_named_main_changes_nothing() {
    let mut stage = Stage::set();
    stage.repo.git(&["tag", "main", "HEAD~1"]);
    stage.push();
    stage.get_on("a tag named main");
}

#[test]
fn r02_a_tag_in_place_of_the_branch_is_no_branch() {
    let mut stage = Stage::set();
    let tip = stage.push();
    let git = tempfile::tempdir().unwrap();
    stage.repo.git(&["clone", "-q", "--bare", ".", git.path().to_str().unwrap()]);
    let tagged =
        |args: &[&str]| stage.repo.git(&[&["--git-dir", git.path().to_str().unwrap()], args].concat());
    tagged(&["tag", "main", tip.as_str()]);
    tagged(&["update-ref", "-d", "refs/heads/main"]);
    stage.lie("only a tag", Expect::Nothing, serves(git.path()));
    stage.get_on("only a tag");
}

#[test]
fn r03_head_means_nothing_and_a_symbolic_main_is_what_it_stands_for() {
    let mut stage = Stage::set();
    let tip = stage.push();
    let git = tempfile::tempdir().unwrap();
    stage.repo.git(&["clone", "-q", "--bare", ".", git.path().to_str().unwrap()]);
    let there =
        |args: &[&str]| stage.repo.git(&[&["--git-dir", git.path().to_str().unwrap()], args].concat());
    there(&["update-ref", "refs/heads/real", tip.as_str()]);
    there(&["symbolic-ref", "refs/heads/main", "refs/heads/real"]);
    there(&["update-ref", "refs/heads/old", &format!("{tip}~1")]);
    there(&["symbolic-ref", "HEAD", "refs/heads/old"]);
    stage.lie("symbolic refs", Expect::Accepted, serves(git.path()));
    stage.get_on("symbolic refs");
}

#[test]
fn r04_other_refs_of_the_server_are_not_fetched() {
    let mut stage = Stage::set();
    let tip = stage.push();
    let evil = stage.repo.object("blob", b"evil");
    let real = stage.repo.git(&["rev-parse", &format!("{tip}:README")]);
    stage.repo.git(&["update-ref", &format!("refs/replace/{real}"), &evil]);
    stage.repo.git(&["update-ref", "refs/pullagent/main", &format!("{tip}~1")]);
    stage.get_on("refs for us");
    let refs = |name: &str| stage.agent.state().join("git/refs").join(name).exists();
    assert!(!refs("replace") && refs("pullagent/main"));
    let store = stage.agent.state().join("git");
    let git = |args: &[&str]| stage.repo.git(&[&["--git-dir", store.to_str().unwrap()], args].concat());
    let objects = git(&["cat-file", "--batch-check=%(objectname)", "--batch-all-objects"]);
    assert!(objects.contains(&real) && !objects.contains(&evil), "{objects}");
}

#[test]
fn r07_a_shallow_server_is_named_as_one() {
    let mut stage = Stage::set();
    stage.push();
    let shallow = tempfile::tempdir().unwrap();
    let origin = format!("file://{}", stage.repo.path().display());
    stage.repo.git(&["clone", "-q", "--bare", "--depth", "1", &origin, shallow.path().to_str().unwrap()]);
    stage.lie("a shallow repository", Expect::Retry("shallow-remote"), serves(shallow.path()));
    stage.get_on("a shallow repository");

    // It may keep silent about it; then its history ends too early.
    let (below, tip) = (stage.push(), stage.push());
    let all = stage.repo.objects(&[tip.as_str(), &format!("^{below}^")]);
    let all: Vec<&str> = all.iter().map(String::as_str).filter(|id| *id != below.as_str()).collect();
    let quiet = sends(stage.repo.pack_of(&all));
    stage.lie("a shallow repository that says nothing", Expect::Retry("missing-object"), quiet);
    stage.get_on("a shallow repository that says nothing");
}

#[test]
fn r07_a_shallow_server_is_named_as_one_on_a_fresh_host() {
    let shallow = tempfile::tempdir().unwrap();
    let mut stage = Stage::fresh(|repo| {
        let origin = format!("file://{}", repo.path().display());
        repo.git(&["clone", "-q", "--bare", "--depth", "1", &origin, shallow.path().to_str().unwrap()]);
        Some(serves(shallow.path()))
    });
    stage.agent.await_status("shallow-remote", |s| s.retries.iter().any(|r| r.code == "shallow-remote"));
    stage.get_on("a shallow repository on a fresh host");
}

#[test]
fn r08_an_incomplete_pack_does_not_poison_the_next_poll() {
    let mut stage = Stage::set();
    let tip = stage.push();
    stage.lie("the tip only", Expect::Retry("missing-object"), sends(stage.repo.pack_of(&[tip.as_str()])));
    let journal = std::fs::read(stage.agent.state().join("journal")).unwrap();
    // Neither is it remembered: another process knows nothing of it and needs no order to try again.
    stage.agent.restart();
    stage.agent.await_status("the same failure", |s| s.retries.iter().any(|r| r.code == "missing-object"));
    assert_eq!(std::fs::read(stage.agent.state().join("journal")).unwrap(), journal, "it was written down");
    stage.server.be_honest();
    stage.agent.restart();
    stage.agent.await_status("the tip", |s| s.accepted.as_ref().is_some_and(|c| c.revision == tip));
    stage.agent.await_tidy("the tip only");
}

#[test]
fn r09_alternates_are_never_read() {
    let mut stage = Stage::set();
    let tip = stage.push();
    let borrowing = tempfile::tempdir().unwrap();
    stage.repo.git(&["clone", "-q", "--bare", "--shared", ".", borrowing.path().to_str().unwrap()]);
    let alternates = borrowing.path().join("objects/info/alternates");
    assert!(alternates.exists());
    std::fs::write(borrowing.path().join("objects/info/http-alternates"), &stage.elsewhere).unwrap();
    // What the server borrows is its own affair: whole objects come, and nothing is asked for but refs and a pack.
    stage.lie("a server that borrows", Expect::Accepted, serves(borrowing.path()));
    assert_eq!(stage.agent.accepted(), Some(tip));
    assert!(!stage.agent.state().join("git/objects/info/alternates").exists());
    stage.get_on("a server that borrows");
}

/// Serves one empty line more in the signature of the anchor; Git and we take it for the same signature, so the id of what
/// was accepted is not the one that everybody else builds on.
#[test]
fn r12_another_id_of_the_same_commit_does_not_wedge_the_host() {
    let mut stage = Stage::set();
    let tip = stage.push();
    let raw = stage.repo.pipe(&["cat-file", "commit", tip.as_str()], b"");
    let text = String::from_utf8(raw).unwrap();
    let varied = text.replace(" -----END SSH SIGNATURE-----\n", " -----END SSH SIGNATURE-----\n \n");
    assert_ne!(varied, text);
    let variant = stage.repo.object("commit", varied.as_bytes());
    let wanted: Vec<String> =
        [vec![variant.clone()], packs::new_objects(&stage.repo, &tip)[1..].to_vec()].concat();
    let pack = stage.repo.pack_of(&wanted.iter().map(String::as_str).collect::<Vec<_>>());
    stage.server.lie(both(names(&variant), sends(pack)));
    stage.agent.sync();
    let is = |s: &pullagent::report::Status, id: &str| {
        s.accepted.as_ref().is_some_and(|c| c.revision.as_str() == id)
    };
    stage.agent.await_status("the variant", |s| is(s, &variant));
    stage.agent.await_tidy("the variant");
    // The honest child has the honest parent.
    stage.push();
    stage.get_on("a variant of the tip");
}

#[test]
fn r19_endless_packs_and_slow_ones_are_given_up() {
    let mut stage = Stage::set();
    stage.tell("endless", Expect::Retry("fetch-limit"), |_, _| {
        let first = [line("packfile\n"), band(1, b"PACK\0\0\0\x02\0\0\x0f\0")].concat();
        let blob: Vec<u8> = packs::blob(&[7; 60_000]);
        floods(Ask::Pack, first, band(1, &blob))
    });
    stage.tell("slow", Expect::Retry("fetch-limit"), |_, _| {
        on(Ask::Pack, |to| {
            head(Ask::Pack, to);
            send(to, &line("packfile\n"));
            while send(to, &band(1, b"")) {
                std::thread::sleep(Duration::from_millis(50));
            }
            false
        })
    });
}

#[test]
fn o08_a_tag_in_place_of_the_tip_is_not_a_commit() {
    let mut stage = Stage::set();
    let tip = stage.push();
    let tag = tag_of(&stage.repo, &tip);
    point(&stage.repo, &tag);
    stage.lie("a tag", Expect::Refused("not-a-commit"), honest_about(&stage.repo));
    point(&stage.repo, tip.as_str());
    stage.get_on("a tag");
}

#[test]
fn o09_a_tree_or_a_file_in_place_of_the_tip_is_not_a_commit() {
    let mut stage = Stage::set();
    let tip = stage.push();
    for what in ["tree", "blob"] {
        let id = stage.repo.git(&["rev-parse", if what == "tree" { "HEAD^{tree}" } else { "HEAD:README" }]);
        let id = if what == "blob" { stage.repo.object("blob", b"a new file") } else { id };
        point(&stage.repo, &id);
        stage.lie(what, Expect::Refused("not-a-commit"), honest_about(&stage.repo));
        point(&stage.repo, tip.as_str());
    }
    stage.get_on("trees and files");
}

/// Real git's own answers, counted as lies: the repository is what is wrong.
fn honest_about(repo: &Repo) -> Script {
    serves(&repo.path().join(".git"))
}

#[test]
fn o11_an_object_altered_on_disk_is_noticed() {
    let mut stage = Stage::set();
    let packs = stage.agent.state().join("git/objects/pack");
    let pack = std::fs::read_dir(packs).unwrap().map(|e| e.unwrap().path());
    for pack in pack.filter(|path| path.extension().is_some_and(|e| e == "pack")) {
        let mut bytes = std::fs::read(&pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x55;
        std::fs::remove_file(&pack).unwrap();
        std::fs::write(&pack, bytes).unwrap();
    }
    // Whether it is met while building on it or not at all: what was altered is never deployed, and the store heals.
    stage.push();
    stage.get_on("altered packs");
    stage.push();
    stage.get_on("altered packs, again");
}

#[test]
fn o12_another_object_format_is_named_and_leaves_nothing() {
    let mut other = Repo::with_format("sha256");
    let strange = other.commit("signed, and of another kind");
    assert_eq!(strange.as_str().len(), 64);
    let there = other.path().join(".git");
    // On a fresh host: no store may come of it that nothing honest would fit into.
    let mut stage = Stage::fresh(|_| Some(serves(&there)));
    stage.agent.await_status("object-format", |s| s.retries.iter().any(|r| r.code == "object-format"));
    assert!(!stage.agent.state().join("git").exists(), "a store of the wrong kind was made");
    stage.get_on("another object format on a fresh host");
    stage.push();
    stage.lie("another object format", Expect::Retry("object-format"), both_formats(&there));
    stage.get_on("another object format");
}

/// Breaks the kept connection off, so that the handshake is the other repository's too.
fn both_formats(there: &Path) -> Script {
    let (first, serve) = (AtomicBool::new(true), serves(there));
    Box::new(move |request, to| {
        if request.ask == Ask::Refs && first.swap(false, Ordering::Relaxed) {
            return Some(false);
        }
        serve(request, to)
    })
}

#[test]
fn a_killed_agent_leaves_nothing_that_matters() {
    let mut stage = Stage::set();
    let tip = stage.push();
    let pack = packs::honest_and(&stage.repo, &tip, &[]);
    let half = [line("packfile\n"), band(1, &pack[..pack.len() / 2])].concat();
    stage.server.lie(on(Ask::Pack, move |to| {
        head(Ask::Pack, to);
        send(to, &half);
        stall(to);
        false
    }));
    stage.agent.sync();
    let quarantine = stage.agent.state().join("quarantine");
    let under_way = || std::fs::read_dir(&quarantine).map_or(0, Iterator::count) > 0;
    stage.agent.await_status("an import under way", |_| under_way());
    stage.server.be_honest();
    stage.agent.restart();
    stage.agent.await_status("the tip", |s| s.accepted.as_ref().is_some_and(|c| c.revision == tip));
    stage.agent.await_tidy("a killed agent");
}
