//! Packs that lack something, hold something else, or are no packs; and branches that point to what nobody may deploy.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::bytes::{pack, tree_entry};
use crate::common::scripted::{Ask, FLUSH, line, whole};
use crate::packs;
use crate::server::Script;
use crate::stage::{Expect, Stage, both, lists, names, sends};

const MISSING: Expect = Expect::Retry("missing-object");
const INCOMPLETE: Expect = Expect::Retry("incomplete");

#[test]
fn incomplete_packs() {
    let mut stage = Stage::set();
    stage.tell("the tip alone", MISSING, |s, tip| sends(s.repo.pack_of(&[tip.as_str()])));
    for kind in ["tree", "blob"] {
        stage.tell(&format!("no {kind}"), MISSING, |s, tip| sends(packs::without(&s.repo, tip, kind)));
    }
    stage.tell("no commit", MISSING, |s, tip| sends(packs::without(&s.repo, tip, "commit")));
    stage.tell("the parent is missing", MISSING, |s, _| {
        let above = s.push();
        let top = packs::entries(&s.repo, &above);
        sends(pack(u32::try_from(top.len()).unwrap(), &top.concat()))
    });
    stage.tell("an older commit's objects", MISSING, |s, tip| {
        let before = s.repo.oid(&format!("{tip}~2"));
        sends(packs::honest_and(&s.repo, &before, &[]))
    });
    stage.tell("a file with another content", MISSING, |s, tip| {
        let mut all = packs::entries(&s.repo, tip);
        let file = all.iter().position(|e| e[0] >> 4 & 7 == 3).unwrap();
        all[file] = packs::blob(b"{ evil = true; }\n");
        sends(pack(u32::try_from(all.len()).unwrap(), &all.concat()))
    });
    stage.tell("no object at all", INCOMPLETE, |_, _| sends(pack(0, &[])));
    stage.tell("a file that nothing asks for", INCOMPLETE, |s, tip| {
        sends(packs::honest_and(&s.repo, tip, &[packs::blob(b"planted")]))
    });
    stage.tell("a commit for tomorrow", INCOMPLETE, |s, tip| {
        let planted = s.repo.git(&["commit-tree", "-p", tip.as_str(), "-m", "unsigned", "HEAD^{tree}"]);
        let new = packs::new_objects(&s.repo, tip);
        let all: Vec<&str> = new.iter().map(String::as_str).chain([planted.as_str()]).collect();
        sends(s.repo.pack_of(&all))
    });
}

#[test]
fn malformed_packs() {
    let mut stage = Stage::set();
    stage.tell("not a pack", INCOMPLETE, |_, _| sends(b"<html>please log in</html>".to_vec()));
    stage.tell("nothing", INCOMPLETE, |_, _| sends(Vec::new()));
    stage.tell("a version to come", INCOMPLETE, |s, tip| {
        let mut bytes = packs::honest_and(&s.repo, tip, &[]);
        bytes[7] = 9;
        sends(packs::claiming(bytes, 5))
    });
    stage.tell("a cut pack", INCOMPLETE, |s, tip| {
        let bytes = packs::honest_and(&s.repo, tip, &[]);
        sends(bytes[..bytes.len() / 2].to_vec())
    });
    stage.tell("a wrong checksum", INCOMPLETE, |s, tip| {
        let mut bytes = packs::honest_and(&s.repo, tip, &[]);
        *bytes.last_mut().unwrap() ^= 1;
        sends(bytes)
    });
    stage.tell("rubbish behind the pack", Expect::Accepted, |s, tip| {
        sends([packs::honest_and(&s.repo, tip, &[]), vec![0xaa; 100_000]].concat())
    });
    stage.tell("more objects than its header says", INCOMPLETE, |s, tip| {
        sends(packs::claiming(packs::honest_and(&s.repo, tip, &[]), 2))
    });
    stage.tell("fewer objects than its header says", INCOMPLETE, |s, tip| {
        sends(packs::claiming(packs::honest_and(&s.repo, tip, &[]), 6))
    });
    stage.tell("every object twice", INCOMPLETE, |s, tip| {
        let again = packs::entries(&s.repo, tip);
        sends(packs::honest_and(&s.repo, tip, &again))
    });
    stage.tell("a delta without its base", INCOMPLETE, |s, tip| sends(packs::baseless(&s.repo, tip)));
    stage.tell("deltas on each other", INCOMPLETE, |_, _| sends(packs::cyclic()));
    for (name, distance) in [
        ("a delta on itself", 0),
        ("a delta on the middle of another object", 3),
        ("a delta on the pack's header", 20),
        ("a delta on what lies before the pack", 1 << 20),
    ] {
        stage.tell(name, INCOMPLETE, |_, _| sends(packs::delta_at(distance)));
    }
    stage.tell("a delta that reads beyond its base", INCOMPLETE, |_, _| sends(packs::beyond_its_base()));
}

#[test]
fn branches_that_were_moved() {
    let mut stage = Stage::set();
    stage.tell("to the commit before", Expect::Refused("not-fast-forward"), |s, tip| {
        names(s.repo.oid(&format!("{tip}~2")).as_str())
    });
    stage.tell("to a fork that is signed", Expect::Refused("not-fast-forward"), |s, tip| {
        s.repo.git(&["checkout", "-q", "--detach", &format!("{tip}~2")]);
        let fork = s.repo.change("fork", "signed by alice, too");
        s.repo.git(&["checkout", "-q", "main"]);
        names(fork.as_str())
    });
    stage.tell("to a history of its own that is signed", Expect::Refused("not-fast-forward"), |s, _| {
        s.repo.git(&["checkout", "-q", "--orphan", "other"]);
        let other = s.repo.commit("another repository of alice's");
        s.repo.git(&["checkout", "-q", "-f", "main"]);
        names(other.as_str())
    });
    stage.tell("to a commit without a signature", Expect::Refused("unsigned"), |s, tip| {
        names(&s.repo.git(&["commit-tree", "-p", &format!("{tip}^"), "-m", "unsigned", "HEAD^{tree}"]))
    });
    stage.tell("to a tree with a name that no disk should see", Expect::Refused("bad-path"), |s, tip| {
        let file = s.repo.object("blob", b"x");
        let tree = s.repo.object("tree", &tree_entry("100644", "..", &file));
        let bad = s.repo.commit_tree(&tree);
        s.repo.git(&["update-ref", "refs/heads/main", tip.as_str()]);
        names(bad.as_str())
    });
    stage.tell("to what does not exist", Expect::Retry("refused"), |_, _| names(&"ab".repeat(20)));
    stage.tell("with another commit's pack", MISSING, |s, tip| {
        let pack = s.repo.pack_of(&[s.repo.oid(&format!("{tip}^")).as_str()]);
        both(names(&"cd".repeat(20)), sends(pack))
    });
    stage.tell("to another id with each answer", Expect::Retry("missing-object"), |s, tip| {
        let (pack, n) = (s.repo.pack_of(&[tip.as_str()]), AtomicUsize::new(0));
        let next: Script = Box::new(move |request, to| {
            (request.ask == Ask::Refs).then(|| {
                let id = format!("{:040x}", n.fetch_add(1, Ordering::Relaxed) + 1);
                whole(Ask::Refs, to, &[line(format!("{id} refs/heads/main\n")), FLUSH.to_vec()].concat());
                // Another connection for each.
                false
            })
        });
        both(next, sends(pack))
    });
    stage.tell("away", Expect::Nothing, |_, _| lists(FLUSH.to_vec()));
    stage.tell("to two commits at once", Expect::Nothing, |s, tip| {
        // The first one counts; it is the accepted one.
        let old = s.repo.oid(&format!("{tip}^"));
        let both = [old.as_str(), &"ef".repeat(20)].map(|id| line(format!("{id} refs/heads/main\n")));
        lists([both.concat(), FLUSH.to_vec()].concat())
    });
}
