//! What servers send that are broken, slow or malicious. After each, the store is what it was, and an honest server
//! gets the host on.

use std::time::Duration;

use pullagent::model::Oid;
use pullagent::repo::{FailureClass, Limits};
use pullagent::trust::Code;

use crate::bytes;
use crate::git::{Repo, with_trailer};
use crate::host::Host;
use crate::watch::Watch;

/// A host that follows a repository, and a new signed commit that it has not seen.
fn behind() -> (Repo, Host, Oid) {
    let mut repo = Repo::new();
    repo.write("flake.nix", "{ }\n".repeat(50));
    let first = repo.commit("begin");
    repo.change("hosts/web1/default.nix", "{ }\n".repeat(60));
    let mut host = Host::new(&first);
    host.follow(&repo);
    let tip = repo.change("hosts/web1/default.nix", "{ }\n".repeat(60) + "new\n");
    (repo, host, tip)
}

/// The host gets on with an honest server as if nothing had been.
fn recover(repo: &Repo, mut host: Host) {
    host.limits = Limits::default();
    host.follow(repo);
    host.fsck();
}

fn new_objects(repo: &Repo, host: &Host, tip: &Oid) -> Vec<String> {
    repo.objects(&[tip.as_str(), &format!("^{}", host.main.revision)])
}

fn pack_of(repo: &Repo, ids: &[String]) -> Vec<u8> {
    repo.pack_of(&ids.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn any_object_missing_is_noticed() {
    let (repo, host, tip) = behind();
    host.fail(&tip, &repo.pack_of(&[tip.as_str()]), FailureClass::Missing, "was not sent");
    let new = new_objects(&repo, &host, &tip);
    assert_eq!(new.len(), 5, "a commit, three trees, a file");
    for missing in &new[1..] {
        let rest: Vec<String> = new.iter().filter(|id| *id != missing).cloned().collect();
        host.fail(&tip, &pack_of(&repo, &rest), FailureClass::Missing, missing);
    }
    host.refuse(&tip, Some(&pack_of(&repo, &new[1..])), Code::MissingObject);
    recover(&repo, host);
}

#[test]
fn a_first_import_without_the_anchor_is_refused() {
    let mut repo = Repo::new();
    repo.change("a", "1");
    let tip = repo.change("a", "2");
    let elsewhere = Repo::new().change("b", "1");
    Host::new(&elsewhere).refuse(&tip, Some(&repo.pack(&tip, &[])), Code::AnchorMissing);
}

#[test]
fn objects_that_nothing_asks_for_are_refused() {
    let (mut repo, host, tip) = behind();
    let new = new_objects(&repo, &host, &tip);
    let tag = format!("object {tip}\ntype commit\ntag v1\ntagger A <a@b> 1700000000 +0000\n\nv1\n");
    let planted = [
        repo.object("blob", b"planted"),
        repo.object("tree", b""),
        repo.object("tag", tag.as_bytes()),
        repo.git(&["commit-tree", "-p", "HEAD", "-m", "unsigned", "HEAD^{tree}"]),
    ];
    for extra in planted {
        let pack = pack_of(&repo, &[new.clone(), vec![extra]].concat());
        host.fail(&tip, &pack, FailureClass::Incomplete, "was not asked for");
    }
    repo.commit("go on");
    recover(&repo, host);
}

#[test]
fn only_a_signed_commit_can_be_a_tip() {
    let (mut repo, host, tip) = behind();
    let tag = format!("object {tip}\ntype commit\ntag v1\ntagger A <a@b> 1700000000 +0000\n\nv1\n");
    for (kind, bytes) in [("blob", &b"no commit"[..]), ("tree", b""), ("tag", tag.as_bytes())] {
        let id = repo.object(kind, bytes);
        host.refuse(&id.parse().unwrap(), Some(&repo.pack_of(&[&id])), Code::NotACommit);
    }
    let unsigned: Oid =
        repo.git(&["commit-tree", "-p", "HEAD", "-m", "unsigned", "HEAD^{tree}"]).parse().unwrap();
    host.refuse(&unsigned, Some(&repo.pack(&unsigned, &[&host.main.revision])), Code::Unsigned);
    repo.git(&["checkout", "-q", "--detach", "HEAD~2"]);
    let forked = repo.commit("forked");
    host.refuse(&forked, Some(&repo.pack(&forked, &[])), Code::NotFastForward);
    repo.git(&["checkout", "-q", "main"]);
    recover(&repo, host);
}

#[test]
fn trees_that_would_be_unsafe_on_disk_are_refused() {
    let table: [(&[(&str, &str)], Code); 8] = [
        (&[("100644", "..")], Code::BadPath),
        (&[("100644", ".")], Code::BadPath),
        (&[("100644", ".git")], Code::BadPath),
        (&[("40000", ".GIT")], Code::BadPath),
        (&[("100644", "a/b")], Code::BadPath),
        (&[("100644", "twice"), ("40000", "twice")], Code::BadTree),
        (&[("100664", "a")], Code::BadMode),
        (&[("160000", "a")], Code::Submodule),
    ];
    for (entries, code) in table {
        let (mut repo, host, tip) = behind();
        let (file, dir) = (repo.object("blob", b"x"), repo.object("tree", b""));
        let entry = |(mode, name): &(&str, &str)| {
            let id = if *mode == "40000" { &dir } else { &file };
            bytes::tree_entry(mode, name, id)
        };
        let tree = repo.object("tree", &entries.iter().flat_map(entry).collect::<Vec<u8>>());
        let bad = repo.commit_tree(&tree);
        host.refuse(&bad, Some(&repo.pack(&bad, &[&host.main.revision])), code);
        repo.git(&["reset", "-q", "--hard", tip.as_str()]);
        recover(&repo, host);
    }
}

#[test]
fn a_bad_tree_below_the_root_is_refused_even_if_it_is_trusted_history() {
    let (mut repo, mut host, _) = behind();
    let file = repo.object("blob", b"x");
    let bad = repo.object("tree", &bytes::tree_entry("160000", "a", &file));
    let root = repo.object("tree", &bytes::tree_entry("40000", "dir", &bad));
    let below = repo.commit_tree(&root);
    host.refuse(&below, Some(&repo.pack(&below, &[&host.main.revision])), Code::Submodule);
    // A good tip above it makes it history; a tip that brings the tree back is still refused.
    repo.git(&["reset", "-q", "--hard"]);
    repo.git(&["rm", "-rq", "--cached", "."]);
    repo.change("flake.nix", "{ }");
    host.follow(&repo);
    let again = repo.commit_tree(&root);
    host.refuse(&again, Some(&repo.pack(&again, &[&host.main.revision])), Code::Submodule);
}

#[test]
fn a_damaged_or_cut_pack_leaves_no_trace() {
    let (repo, host, tip) = behind();
    let pack = repo.pack(&tip, &[&host.main.revision]);
    let mut bad_trailer = pack.clone();
    *bad_trailer.last_mut().unwrap() ^= 1;
    host.fail(&tip, &bad_trailer, FailureClass::Incomplete, "");
    let step = pack.len() / 40;
    let cuts = (0..pack.len()).step_by(step).chain(pack.len() - 22..pack.len());
    for cut in cuts {
        host.fail(&tip, &pack[..cut], FailureClass::Incomplete, "");
    }
    // A cut pack whose trailer was put right again is whole, but its header promises more.
    for cut in (32..pack.len()).step_by(step) {
        host.fail(&tip, &with_trailer(pack[..cut].to_vec()), FailureClass::Incomplete, "");
    }
    host.fail(&tip, b"", FailureClass::Incomplete, "header");
    host.fail(&tip, b"HTTP/1.1 200 OK\r\n\r\n", FailureClass::Incomplete, "header");
    host.fail(&tip, &bytes::pack(0, &[]), FailureClass::Incomplete, "no object");
    recover(&repo, host);
}

#[test]
fn bytes_behind_the_pack_are_not_stored() {
    let (repo, mut host, tip) = behind();
    let pack = repo.pack(&tip, &[&host.main.revision]);
    host.accept(&tip, Some(&[pack, vec![0xaa; 10_000]].concat()));
    host.fsck();
    let stored = host.files().iter().map(|(_, bytes)| bytes).max().copied();
    assert!(stored < Some(10_000), "{stored:?}");
}

#[test]
fn each_limit_holds() {
    let (repo, mut host, tip) = behind();
    let pack = repo.pack(&tip, &[&host.main.revision]);
    let size = pack.len() as u64;
    let defaults = Limits::default();
    let table = [
        (Limits { objects: 1, ..defaults }, "a pack of 5 objects exceeds 1"),
        (Limits { pack_bytes: size - 1, ..defaults }, "the size of the pack exceeds"),
        (Limits { bases_bytes: 10, ..defaults }, "the size of the pack's delta bases exceeds 10 bytes"),
        (Limits { total_bytes: 300, ..defaults }, "the size of all new objects exceeds 300 bytes"),
        (Limits { object_bytes: 60, ..defaults }, ""),
    ];
    for (limits, words) in table {
        host.limits = limits;
        host.fail(&tip, &pack, FailureClass::Limit, words);
    }
    host.limits = Limits { objects: 5, pack_bytes: size, ..defaults };
    recover(&repo, host);
}

/// How much memory an import may take at its peak, whatever the pack claims: the limit for one object is 64 MiB.
const PEAK_BYTES: u64 = 64 << 20;

/// How often an import is repeated until its child was seen.
const TRIES_MAX: usize = 50;

#[test]
fn bombs_do_not_go_off() {
    const GIB: u64 = 1 << 30;
    let (repo, host, tip) = behind();
    let blob = |bytes: u64| [bytes::entry_header(3, bytes), bytes::zeros(bytes)].concat();
    let delta_to = |bytes: u64| {
        let copies: Vec<u8> = (0..1024).flat_map(|_| bytes::COPY_64K).collect();
        let delta = [bytes::varint(1 << 16), bytes::varint(bytes), copies].concat();
        let base = blob(1 << 16);
        let distance = u32::try_from(base.len()).unwrap();
        [base, bytes::entry_header(6, delta.len() as u64), bytes::offset(distance), bytes::stored(&delta)]
            .concat()
    };
    let table = [
        ("1 GiB of zeros", bytes::pack(1, &blob(GIB)), Some(FailureClass::Limit)),
        ("4 billion objects", bytes::pack(u32::MAX, &blob(10)), Some(FailureClass::Limit)),
        (
            "a million objects that do not come",
            bytes::pack(1_000_000, &blob(10)),
            Some(FailureClass::Incomplete),
        ),
        ("a delta that copies up to 16 GiB", bytes::pack(2, &delta_to(16 * GIB)), Some(FailureClass::Limit)),
        (
            "a blob that claims 64 GiB",
            bytes::pack(1, &[bytes::entry_header(3, 64 * GIB), bytes::zeros(10)].concat()),
            Some(FailureClass::Incomplete),
        ),
        ("4 MiB of zeros, 20 times", bytes::pack(20, &blob(4 << 20).repeat(20)), None),
    ];
    for (name, pack, class) in table {
        let measure = || {
            let watch = Watch::memory(host.state());
            match class {
                Some(class) => host.fail(&tip, &pack, class, ""),
                None => host.refuse(&tip, Some(&pack), Code::MissingObject),
            }
            watch.peak_bytes()
        };
        // A child that ends at once is not always seen.
        let peak = std::iter::repeat_with(measure)
            .take(TRIES_MAX)
            .find(|peak| *peak > 0)
            .expect("a child to look at");
        println!("{name}: {} bytes on the wire, peak {} MiB", pack.len(), peak >> 20);
        assert!(peak < PEAK_BYTES, "{name}: {peak} bytes");
    }
    recover(&repo, host);
}

#[test]
fn a_stream_that_never_ends_is_given_up() {
    let (repo, mut host, tip) = behind();
    host.limits.wall_secs = 2;
    let (reader, writer) = std::io::pipe().unwrap();
    let before = std::time::Instant::now();
    let request = host.request(&tip);
    let failure =
        host.ask_file(&request, Some(std::fs::File::from(std::os::fd::OwnedFd::from(reader)))).unwrap_err();
    assert_eq!(failure.class, FailureClass::Limit, "{failure}");
    assert!(before.elapsed() < Duration::from_secs(20));
    drop(writer);
    recover(&repo, host);
}

#[test]
fn a_pack_may_come_through_a_pipe_byte_by_byte() {
    use std::io::Write as _;
    let (repo, mut host, tip) = behind();
    let pack = repo.pack(&tip, &[&host.main.revision]);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let sender = std::thread::spawn(move || pack.iter().for_each(|byte| writer.write_all(&[*byte]).unwrap()));
    let request = host.request(&tip);
    let verdict = host.ask_file(&request, Some(std::fs::File::from(std::os::fd::OwnedFd::from(reader))));
    assert!(matches!(verdict, Ok(pullagent::repo::import::Verdict::Accepted(_))), "{verdict:?}");
    sender.join().unwrap();
    host.main.revision = tip;
    host.fsck();
}
