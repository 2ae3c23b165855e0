//! The verdict over random histories, held against a brute force that follows the definition: every commit that
//! the tip reaches and the anchor does not must be well signed; the anchor must be reached; the tip must be a
//! deployer's. The histories hold merges, side branches from below the anchor, unrelated roots, and dates
//! without order. Every signature is real.

use std::collections::{BTreeSet, HashMap};

use proptest::prelude::*;
use pullagent::model::Oid;
use pullagent::trust::{self, AnchorFacts, Code, Policy, Refusal, Role, Rules, Signer};
use sha2::{Digest as _, Sha256};

use super::forge::{MAIN, NOW};
use super::sshsig::{Key, Sshsig, with_header};

/// Who signed a commit of a random history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Alice,
    Bob,
    Revoked,
    Stranger,
    Nobody,
}

#[derive(Debug, Clone)]
struct Node {
    /// Indices of earlier nodes.
    parents: BTreeSet<usize>,
    by: By,
    time: u64,
}

#[derive(Debug, Clone)]
struct Story {
    nodes: Vec<Node>,
    tip: usize,
    anchor: usize,
    /// The host was shown the anchor under another id, which nobody else ever saw.
    variant: bool,
}

fn story() -> impl Strategy<Value = Story> {
    let by = prop_oneof![20 => Just(By::Alice), 4 => Just(By::Bob), 1 => Just(By::Revoked),
        1 => Just(By::Stranger), 1 => Just(By::Nobody)];
    let parents = prop_oneof![8 => 1..=1_usize, 3 => 2..=3_usize];
    let node = (parents, any::<[prop::sample::Index; 3]>(), prop::bool::weighted(0.05), by, 0..6_u64);
    let nodes = prop::collection::vec(node, 1..14).prop_map(|raw| {
        let build = |(at, (count, picks, root, by, time)): (
            usize,
            (usize, [prop::sample::Index; 3], bool, By, u64),
        )| {
            // The first pick is a near one, so that chains grow long.
            let near = |pick: &prop::sample::Index| at - 1 - pick.index(at.min(3));
            let pick = |i: usize| if i == 0 { near(&picks[0]) } else { picks[i].index(at) };
            let parents = if at == 0 || root { BTreeSet::new() } else { (0..count).map(pick).collect() };
            let time = if at % 4 == 0 { NOW - 100 + time } else { NOW - 50 + at as u64 + time };
            Node { parents, by, time }
        };
        raw.into_iter().enumerate().map(build).collect::<Vec<_>>()
    });
    let places = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), prop::bool::weighted(0.2));
    (nodes, places).prop_map(|(nodes, (tip, anchor, variant))| {
        let tip = nodes.len() - 1 - tip.index(nodes.len().min(3));
        let anchor = anchor.index(nodes.len());
        // Only what is signed can be shown under a second id.
        let variant = variant && nodes[anchor].by != By::Nobody;
        Story { nodes, tip, anchor, variant }
    })
}

/// A history in memory, with SHA-256 ids.
struct World {
    objects: HashMap<Oid, Vec<u8>>,
    ids: Vec<Oid>,
    anchor: Oid,
}

fn key(by: By) -> Option<Key> {
    let seed = match by {
        By::Alice => 1,
        By::Bob => 2,
        By::Revoked => 3,
        By::Stranger => 4,
        By::Nobody => return None,
    };
    Some(Key::plain(seed))
}

fn commit(node: &Node, at: usize, ids: &[Oid], tail: &str) -> Vec<u8> {
    let parents: String = node.parents.iter().map(|p| format!("parent {}\n", ids[*p])).collect();
    let people = format!("A <a@x> {} +0000", node.time);
    let tree = "ab".repeat(32);
    let payload = format!("tree {tree}\n{parents}author {people}\ncommitter {people}\n\nCommit {at}\n");
    match key(node.by) {
        None => payload.into(),
        Some(key) => {
            let armor = Sshsig::default().sign(&key, payload.as_bytes()) + tail;
            with_header(payload.as_bytes(), "gpgsig-sha256", &armor)
        }
    }
}

fn id(raw: &[u8]) -> Oid {
    let digest = Sha256::digest([format!("commit {}\0", raw.len()).as_bytes(), raw].concat());
    digest.iter().map(|b| format!("{b:02x}")).collect::<String>().parse().unwrap()
}

fn build(story: &Story) -> World {
    let mut world =
        World { objects: HashMap::new(), ids: Vec::new(), anchor: "ab".repeat(32).parse().unwrap() };
    for (at, node) in story.nodes.iter().enumerate() {
        let raw = commit(node, at, &world.ids, "");
        world.ids.push(id(&raw));
        world.objects.insert(id(&raw), raw);
    }
    let tail = if story.variant { "\n" } else { "" };
    let raw = commit(&story.nodes[story.anchor], story.anchor, &world.ids, tail);
    world.anchor = id(&raw);
    world.objects.insert(id(&raw), raw);
    world
}

fn policy() -> Policy {
    let signer = |name: &str, by: &[By], role| Signer {
        name: name.into(),
        keys: by.iter().filter_map(|b| key(*b)).map(|k| k.public().into()).collect(),
        roles: [role].into(),
        test_hosts: None,
    };
    let signers = vec![
        signer("alice", &[By::Alice, By::Revoked], Role::Deployer),
        signer("bob", &[By::Bob], Role::Contributor),
    ];
    let revoked = key(By::Revoked).map(|k| k.public()).into_iter().collect();
    Policy::new(signers, revoked, Rules::default()).unwrap()
}

fn reach(story: &Story, from: usize) -> BTreeSet<usize> {
    let parents = story.nodes[from].parents.iter();
    parents.flat_map(|p| reach(story, *p)).chain([from]).collect()
}

/// What is wrong with one new commit by itself.
fn fault(node: &Node) -> Option<Code> {
    match node.by {
        _ if node.parents.is_empty() => Some(Code::ForeignRoot),
        By::Alice | By::Bob => None,
        By::Revoked => Some(Code::RevokedKey),
        By::Stranger => Some(Code::UnknownKey),
        By::Nobody => Some(Code::Unsigned),
    }
}

/// The definition. A verdict on a commit is the one expected if nothing below it is wrong.
fn expected(story: &Story) -> Result<usize, BTreeSet<(usize, Code)>> {
    let (below_tip, below_anchor) = (reach(story, story.tip), reach(story, story.anchor));
    let tip_only = |code| Err(BTreeSet::from([(story.tip, code)]));
    if !below_tip.contains(&story.anchor) {
        return tip_only(Code::NotFastForward);
    }
    let new: BTreeSet<usize> = below_tip.difference(&below_anchor).copied().collect();
    let wrong = |at: usize| fault(&story.nodes[at]).map(|code| (at, code));
    let first_wrong = |at: &usize| {
        let below = reach(story, *at);
        wrong(*at)
            .filter(|_| below.iter().filter(|b| *b != at && new.contains(b)).all(|b| wrong(*b).is_none()))
    };
    let faults: BTreeSet<_> = new.iter().filter_map(first_wrong).collect();
    match faults.is_empty() {
        false => Err(faults),
        true if !new.is_empty() && story.nodes[story.tip].by == By::Bob => tip_only(Code::Unauthorised),
        true => Ok(new.len()),
    }
}

fn verdict(story: &Story, world: &World) -> Result<usize, (usize, Code)> {
    let mut read = |id: &Oid| {
        let missing = || Refusal::new(Code::MissingObject, Some(id), "missing");
        world.objects.get(id).cloned().ok_or_else(missing)
    };
    let anchor = AnchorFacts::introduction(world.anchor.clone());
    let index = |id: &Oid| world.ids.iter().position(|i| i == id);
    trust::verify_main(&mut read, &world.ids[story.tip], &anchor, &policy(), &MAIN)
        .map(|accepted| accepted.commits as usize)
        .map_err(|r| (r.commit.as_ref().and_then(index).unwrap(), r.code))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_verdict_is_that_of_the_definition(story in story()) {
        let found = verdict(&story, &build(&story));
        match (expected(&story), found) {
            (Ok(expected), found) => prop_assert_eq!(found, Ok(expected)),
            (Err(faults), Err(found)) => prop_assert!(faults.contains(&found), "{:?} not in {:?}", found, faults),
            (Err(faults), Ok(commits)) => prop_assert!(false, "{commits} accepted in spite of {faults:?}"),
        }
    }
}

/// The property above is worth little if the random histories are all alike: each outcome must come up.
#[test]
fn random_histories_reach_every_verdict() {
    use proptest::strategy::ValueTree as _;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for _ in 0..4_000 {
        let story = story().new_tree(&mut runner).unwrap().current();
        let forked = reach(&story, story.tip).difference(&reach(&story, story.anchor)).any(|n| {
            *n != story.tip
                && story.nodes[*n]
                    .parents
                    .iter()
                    .any(|p| *p != story.anchor && reach(&story, story.anchor).contains(p))
        });
        let outcome = match expected(&story) {
            Ok(0) => "unmoved".to_owned(),
            Ok(_) => format!("accepted, variant {}, fork below {forked}", story.variant),
            Err(faults) => faults.first().unwrap().1.to_string(),
        };
        *seen.entry(outcome).or_default() += 1;
    }
    let wanted = [
        "unmoved",
        "accepted, variant false, fork below false",
        "accepted, variant false, fork below true",
        "accepted, variant true, fork below false",
        "accepted, variant true, fork below true",
        "not-fast-forward",
        "unsigned",
        "unknown-key",
        "revoked-key",
        "unauthorised",
        "foreign-root",
    ];
    for outcome in wanted {
        assert!(seen.get(outcome).is_some_and(|n| *n >= 5), "'{outcome}' in {seen:?}");
    }
}
