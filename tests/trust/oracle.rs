//! Random histories, and the verdict over them by brute force: the words of the rules, one after the other, on sets of
//! numbers. It knows nothing of walks, folds or limits, and takes as long as it takes.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use pullagent::model::Oid;
use pullagent::trust::{
    AnchorFacts, Code, Context, ListedKey, Merges, Policy, RefBinding, Role, Rules, Signer,
};
use sha2::{Digest as _, Sha256};

use super::dice::Dice;
use super::sshsig::{Key, Sshsig, with_header};

pub const HOST: &str = "web1";
/// The time around which everything happens.
const T: u64 = 1_700_000_000;
/// When carol's key counts.
const WINDOW: std::ops::Range<u64> = T + 10..T + 40;
/// The seconds on both sides of its ends.
const EDGES: [u64; 4] = [WINDOW.start - 1, WINDOW.start, WINDOW.end - 1, WINDOW.end];
/// How far ahead of the clock a tip may be dated.
const AHEAD_MAIN: u64 = 86_400;
const AHEAD_TEST: u64 = 600;

/// Who signed a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    /// A deployer.
    Alice,
    /// Alice's security key.
    AliceSk,
    /// A contributor.
    Bob,
    /// A deployer whose key counts in [`WINDOW`] only.
    Carol,
    /// A contributor who may move the test branch here.
    Dora,
    /// A deployer who may move another host's test branch, not this one's.
    Erin,
    /// Alice's key that was stolen.
    Revoked,
    Stranger,
    Nobody,
}

#[derive(Debug, Clone)]
pub struct Node {
    /// Numbers of earlier nodes, each once.
    pub parents: Vec<usize>,
    pub by: By,
    pub time: u64,
    /// What its `Deploy-To:` line names.
    pub says: Option<&'static str>,
}

#[derive(Debug, Clone)]
pub struct Story {
    pub nodes: Vec<Node>,
    pub tip: usize,
    pub anchor: usize,
    /// The host was shown the anchor under another id, which nobody else ever saw.
    pub variant: bool,
    /// The host knows no more of the anchor than its id.
    pub introduced: bool,
    pub rules: Rules,
    /// Offered for the test branch.
    pub test: bool,
    /// The test tip that was accepted before: whether it is this one, and its date.
    pub previous: Option<(bool, u64)>,
    pub now: u64,
}

impl Story {
    /// Tells a story by the bytes of `data`; the shorter and the more zeros, the simpler.
    pub fn told_by(data: &[u8]) -> Story {
        let mut dice = Dice(data);
        let rules = dice.byte();
        let rules = Rules {
            require_user_verification: false,
            ref_binding: if rules & 3 == 3 { RefBinding::Strict } else { RefBinding::Test },
            merges: if rules & 12 == 12 { Merges::Vouch } else { Merges::Every },
        };
        let test = dice.below(4) == 3;
        let now = dice.byte();
        let now = if now < 192 { T + u64::from(now % 64) } else { EDGES[usize::from(now % 4)] };
        let previous = (dice.below(4) == 3).then(|| (dice.below(4) == 3, T + dice.below(32) as u64));
        let (introduced, variant) = (dice.below(3) == 1, dice.below(5) == 4);
        let count = 1 + dice.below(14);
        let mut nodes: Vec<Node> = Vec::new();
        for at in 0..count {
            nodes.push(node(&mut dice, at, test));
        }
        let tip = count - 1 - dice.below(count.min(3));
        let anchor = dice.below(count);
        // Only what is signed can be shown under a second id.
        let variant = variant && nodes[anchor].by != By::Nobody;
        Story {
            nodes,
            tip,
            anchor,
            variant,
            introduced,
            rules,
            test,
            previous: previous.filter(|_| test),
            now,
        }
    }

    pub fn branch(&self) -> &'static str {
        if self.test { "test-web1" } else { "main" }
    }

    pub fn context(&self) -> Context<'static> {
        Context { host: HOST, branch: self.branch(), now: self.now }
    }
}

fn node(dice: &mut Dice<'_>, at: usize, test: bool) -> Node {
    let mut parents = match dice.below(16) {
        _ if at == 0 => vec![],
        0..=8 => vec![at - 1],
        9..=11 => vec![at - 1, at - 1 - dice.below(at)],
        12 => vec![at - 1 - dice.below(at), at - 1],
        13 => vec![at - 1 - dice.below(at)],
        14 => vec![at - 1 - dice.below(at), at - 1 - dice.below(at), at - 1],
        _ if dice.below(2) == 1 => vec![],
        _ => vec![at - 1],
    };
    let mut seen = BTreeSet::new();
    parents.retain(|p| seen.insert(*p));
    let by = match dice.below(32) {
        0..=11 => By::Alice,
        12..=15 => By::Bob,
        16..=21 => By::Carol,
        22..=23 => By::AliceSk,
        24..=25 => By::Dora,
        26..=27 => By::Erin,
        28 => By::Revoked,
        29 => By::Stranger,
        30 => By::Nobody,
        _ => By::Alice,
    };
    let when = dice.byte();
    let small = u64::from(when % 16);
    let time = match when {
        0..=159 => T + 2 * at as u64 + small % 8,
        160..=207 => EDGES[usize::from(when % 4)],
        208..=219 => T - 50 + small,
        220..=228 => T + AHEAD_TEST + 8 * small,
        229..=236 => EDGES[usize::from(when % 4)] + AHEAD_TEST,
        237..=246 => T + AHEAD_MAIN + 8 * small,
        247..=255 => EDGES[usize::from(when % 4)] + AHEAD_MAIN,
    };
    let usual = test.then_some("test-web1");
    let says = match dice.below(16) {
        0..=9 => usual,
        10 => Some("main"),
        11 => Some("test-web1"),
        12 => Some("main, test-web1"),
        13 => Some(""),
        14 => Some("main-2 test-web2"),
        _ => None,
    };
    Node { parents, by, time, says }
}

/// A new commit of its own: what is wrong with it whatever the rest of the history is.
fn fault(node: &Node) -> Option<Code> {
    match node.by {
        _ if node.parents.is_empty() => Some(Code::ForeignRoot),
        By::Nobody => Some(Code::Unsigned),
        By::Revoked => Some(Code::RevokedKey),
        By::Stranger => Some(Code::UnknownKey),
        By::Carol if node.time < WINDOW.start => Some(Code::KeyNotYetValid),
        By::Carol if node.time >= WINDOW.end => Some(Code::KeyExpired),
        By::Alice | By::AliceSk | By::Bob | By::Carol | By::Dora | By::Erin => None,
    }
}

/// What is wrong with a commit as the one that is deployed. Several things may be.
fn tip_faults(story: &Story) -> BTreeSet<Code> {
    let tip = &story.nodes[story.tip];
    let may = match (story.test, tip.by) {
        (false, by) => matches!(by, By::Alice | By::AliceSk | By::Carol | By::Erin),
        (true, by) => matches!(by, By::Alice | By::AliceSk | By::Carol | By::Dora),
    };
    let named: Option<Vec<&str>> = tip.says.map(|s| s.split([',', ' ']).filter(|n| !n.is_empty()).collect());
    let on_target = match named {
        Some(named) => named.contains(&story.branch()),
        None => !story.test && story.rules.ref_binding == RefBinding::Test,
    };
    // The clock, but never before what the anchor's signer said.
    let now = story.now.max(story.nodes[story.anchor].time);
    let ahead = if story.test { AHEAD_TEST } else { AHEAD_MAIN };
    let wrong = [
        (!may, Code::Unauthorised),
        (!on_target, Code::WrongTarget),
        (tip.by == By::Carol && now < WINDOW.start, Code::KeyNotYetValid),
        (tip.by == By::Carol && now >= WINDOW.end, Code::KeyExpired),
        (tip.time > story.now + ahead, Code::FutureCommit),
    ];
    let wrong: BTreeSet<Code> = wrong.iter().filter(|w| w.0).map(|w| w.1).collect();
    // What lasts is said first: what may pass is looked at again and again.
    let lasting: BTreeSet<Code> = wrong.iter().copied().filter(|code| code.is_final()).collect();
    if lasting.is_empty() { wrong } else { lasting }
}

/// A commit and everything below it.
pub fn reach(story: &Story, from: usize) -> BTreeSet<usize> {
    let mut found = BTreeSet::from([from]);
    for at in (0..=from).rev() {
        if found.contains(&at) {
            found.extend(&story.nodes[at].parents);
        }
    }
    found
}

/// The line of first parents, from the newest.
fn first_parents(story: &Story, from: usize) -> Vec<usize> {
    std::iter::successors(Some(from), |at| story.nodes[*at].parents.first().copied()).collect()
}

/// The commits that have to be verified; `None` if the tip does not descend from the anchor.
pub fn new_ones(story: &Story) -> Option<BTreeSet<usize>> {
    match story.rules.merges {
        Merges::Every => {
            let (tip, anchor) = (reach(story, story.tip), reach(story, story.anchor));
            tip.contains(&story.anchor).then(|| &tip - &anchor)
        }
        Merges::Vouch => {
            let line = first_parents(story, story.tip);
            line.contains(&story.anchor)
                .then(|| line.into_iter().take_while(|at| *at != story.anchor).collect())
        }
    }
}

/// What is expected: the number of verified commits, or what may be said against which commit, and what comes first
/// in its place.
#[derive(Debug, PartialEq, Eq)]
pub enum Expected {
    Accepted(usize),
    Refused { faults: BTreeSet<(usize, Code)>, stone: Option<usize> },
}

pub fn expected(story: &Story) -> Expected {
    let at_tip = |code| BTreeSet::from([(story.tip, code)]);
    let Some(new) = new_ones(story) else {
        let code = if story.test { Code::NotOnMain } else { Code::NotFastForward };
        return Expected::Refused { faults: at_tip(code), stone: None };
    };
    // The host has it already, under the id that it was shown.
    if new.is_empty() && story.variant {
        return Expected::Refused { faults: at_tip(Code::SameContent), stone: None };
    }
    let wrong = |at: &usize| fault(&story.nodes[*at]).map(|code| (*at, code));
    // The one that is named has nothing wrong below it.
    let first = |(at, _): &(usize, Code)| {
        (&reach(story, *at) & &new).iter().filter(|b| *b != at).all(|b| wrong(b).is_none())
    };
    let mut faults: BTreeSet<_> = new.iter().filter_map(wrong).filter(first).collect();
    if faults.is_empty() && !new.is_empty() {
        faults = tip_faults(story).into_iter().map(|code| (story.tip, code)).collect();
    }
    let date = story.nodes[story.tip].time;
    if faults.is_empty() && story.previous.is_some_and(|(same, time)| !same && date <= time) {
        faults = at_tip(Code::TestRollback);
    }
    if faults.is_empty() {
        return Expected::Accepted(new.len());
    }
    let stone = stone(story, &new);
    // Where the clock speaks against what would come first, no verdict lasts.
    if stone.is_none()
        && let Some((at, codes)) = waiting(story, &new)
    {
        faults.retain(|(_, code)| !code.is_final());
        faults.extend(codes.into_iter().map(|code| (at, code)));
    }
    Expected::Refused { stone, faults }
}

/// The nearest commit below the tip, by first parents, that time alone keeps from being accepted itself, and what it is
/// refused for.
fn waiting(story: &Story, new: &BTreeSet<usize>) -> Option<(usize, BTreeSet<Code>)> {
    let line = first_parents(story, story.tip).into_iter().skip(1).take_while(|at| new.contains(at));
    let mut alone = line.filter(|_| !story.test).filter_map(|at| {
        let story = Story { tip: at, ..story.clone() };
        let sound = new_ones(&story)?.iter().all(|at| fault(&story.nodes[*at]).is_none());
        sound.then(|| (at, tip_faults(&story)))
    });
    alone.find(|(_, codes)| !codes.is_empty() && codes.iter().all(|code| !code.is_final()))
}

/// The nearest commit below the tip, by first parents, that is new and would be accepted itself.
fn stone(story: &Story, new: &BTreeSet<usize>) -> Option<usize> {
    let line = first_parents(story, story.tip).into_iter().skip(1).take_while(|at| new.contains(at));
    let alone = |at: &usize| expected(&Story { tip: *at, ..story.clone() });
    line.filter(|_| !story.test).find(|at| matches!(alone(at), Expected::Accepted(_)))
}

/// What the report says of each new commit, if it can be had.
pub fn expected_report(story: &Story) -> Option<HashMap<usize, BTreeSet<Code>>> {
    let of = |at: usize| match fault(&story.nodes[at]) {
        Some(code) => BTreeSet::from([code]),
        None if at == story.tip => tip_faults(story),
        None => BTreeSet::new(),
    };
    let new = new_ones(story).filter(|new| !new.is_empty() || !story.variant);
    new.map(|new| new.into_iter().map(|at| (at, of(at))).collect())
}

/// A history in memory, with SHA-256 ids.
pub struct World {
    pub objects: HashMap<Oid, Vec<u8>>,
    pub ids: Vec<Oid>,
    pub anchor: AnchorFacts,
}

/// The keys, made once.
static KEYS: LazyLock<HashMap<u8, Key>> = LazyLock::new(|| {
    (0..8).map(|n| (n, if n == By::AliceSk as u8 { Key::sk(n + 1) } else { Key::plain(n + 1) })).collect()
});

fn key(by: By) -> Option<&'static Key> {
    KEYS.get(&(by as u8))
}

pub fn policy(rules: Rules) -> Policy {
    static SIGNERS: LazyLock<Vec<Signer>> = LazyLock::new(|| {
        let listed = |by: By| ListedKey::from(key(by).unwrap().public());
        let signer = |name: &str, keys: Vec<ListedKey>, role, hosts: Option<&str>| Signer {
            name: name.into(),
            keys,
            roles: [role].into(),
            test_hosts: hosts.map(|host| [host.to_owned()].into()),
        };
        let alice = [By::Alice, By::AliceSk, By::Revoked].map(listed).to_vec();
        let (valid_from, valid_until) = (Some(WINDOW.start), Some(WINDOW.end));
        let carol = ListedKey { valid_from, valid_until, ..listed(By::Carol) };
        vec![
            signer("alice", alice, Role::Deployer, None),
            signer("bob", vec![listed(By::Bob)], Role::Contributor, None),
            signer("carol", vec![carol], Role::Deployer, None),
            signer("dora", vec![listed(By::Dora)], Role::Contributor, Some(HOST)),
            signer("erin", vec![listed(By::Erin)], Role::Deployer, Some("web2")),
        ]
    });
    Policy::new(SIGNERS.clone(), vec![key(By::Revoked).unwrap().public()], rules).unwrap()
}

/// Writes commit number `at`; `tail` follows its signature.
pub fn commit(node: &Node, at: usize, ids: &[Oid], tail: &str) -> Vec<u8> {
    let parents: String = node.parents.iter().map(|p| format!("parent {}\n", ids[*p])).collect();
    let people = format!("A <a@x> {} +0000", node.time);
    let says = node.says.map(|names| format!("\nDeploy-To: {names}\n")).unwrap_or_default();
    let tree = "ab".repeat(32);
    let payload = format!("tree {tree}\n{parents}author {people}\ncommitter {people}\n\nCommit {at}\n{says}");
    match key(node.by) {
        None => payload.into(),
        Some(key) => {
            let armor = Sshsig::default().sign(key, payload.as_bytes()) + tail;
            with_header(payload.as_bytes(), "gpgsig-sha256", &armor)
        }
    }
}

/// Returns the id of a commit.
pub fn id(raw: &[u8]) -> Oid {
    let digest = Sha256::digest([format!("commit {}\0", raw.len()).as_bytes(), raw].concat());
    digest.iter().map(|b| format!("{b:02x}")).collect::<String>().parse().unwrap()
}

pub fn build(story: &Story) -> World {
    let mut objects = HashMap::new();
    let mut ids = Vec::new();
    for (at, node) in story.nodes.iter().enumerate() {
        let raw = commit(node, at, &ids, "");
        ids.push(id(&raw));
        objects.insert(id(&raw), raw);
    }
    let anchor = &story.nodes[story.anchor];
    let raw = commit(anchor, story.anchor, &ids, if story.variant { "\n" } else { "" });
    let facts = AnchorFacts::introduction(id(&raw));
    let facts = if story.introduced {
        facts
    } else {
        AnchorFacts {
            committer_time: i64::try_from(anchor.time).ok(),
            tree: "ab".repeat(32).parse().ok(),
            ..facts
        }
    };
    objects.insert(id(&raw), raw);
    World { objects, ids, anchor: facts }
}
