//! What honest servers send.

use std::io::{Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;

use pullagent::repo::FailureClass;
use pullagent::repo::import::{Against, ImportRequest, Verdict};
use pullagent::repo::store::{Reference, Store, StoreError};
use pullagent::trust::Code;

use crate::git::Repo;
use crate::host::Host;

/// A repository with a few commits, and a host that was introduced to the first.
fn small() -> (Repo, Host) {
    let mut repo = Repo::new();
    repo.write("flake.nix", "{ }\n");
    let first = repo.commit("begin");
    for n in 0..5 {
        repo.change(&format!("hosts/web{n}/default.nix"), format!("{{ n = {n}; }}\n").repeat(40));
    }
    let host = Host::new(&first);
    (repo, host)
}

#[test]
fn a_full_import_can_be_read_by_git() {
    let (repo, mut host) = small();
    host.follow(&repo);
    host.fsck();
    assert_eq!(host.git(&["log", "--format=%H", "refs/pullagent/main"]), repo.git(&["log", "--format=%H"]));
    assert_eq!(host.packs(), 1);
    for (path, _) in host.files() {
        let private = path.ancestors().take_while(|p| *p != host.state()).all(|p| {
            let mode = p.metadata().unwrap().permissions().mode();
            mode & 0o077 == 0 || p.starts_with(host.state().join("git"))
        });
        assert!(private, "{}", path.display());
    }
    let mode = host.state().join("git").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn a_thin_pack_is_completed_from_the_store() {
    let (mut repo, mut host) = small();
    host.follow(&repo);
    let before = repo.tip();
    repo.change("hosts/web3/default.nix", "{ n = 3; }\n".repeat(39) + "{ n = 4; }\n");
    let tip = repo.tip();
    let thin = repo.pack(&tip, &[&before]);
    // Without the store the delta's base is missing, so the pack really is thin.
    Host::new(&before).fail(&tip, &thin, pullagent::repo::FailureClass::Incomplete, "");
    host.accept(&tip, Some(&thin));
    host.fsck();
    assert_eq!(host.packs(), 2);
    assert_eq!(
        host.git(&["rev-list", "--objects", "refs/pullagent/main"]),
        repo.git(&["rev-list", "--objects", "HEAD"])
    );
}

#[test]
fn a_server_may_ignore_what_the_host_has() {
    let (mut repo, mut host) = small();
    host.follow(&repo);
    repo.change("a", "b");
    let tip = repo.tip();
    host.accept(&tip, Some(&repo.pack(&tip, &[])));
    host.fsck();
}

#[test]
fn the_same_pack_twice_is_stored_once() {
    let (repo, mut host) = small();
    let pack = repo.pack(&repo.tip(), &[]);
    host.accept(&repo.tip(), Some(&pack));
    host.accept(&repo.tip(), Some(&pack));
    assert_eq!(host.packs(), 1);
    host.fsck();
}

#[test]
fn a_tip_in_the_store_needs_no_pack() {
    let (mut repo, mut host) = small();
    host.follow(&repo);
    repo.git(&["checkout", "-q", "-b", "test-web1"]);
    repo.write("x", "tried");
    let test = repo.commit("Try x\n\nDeploy-To: test-web1 main\n");
    let main = host.main.clone();
    let request = ImportRequest {
        against: Against::Test { main: main.clone(), previous: None },
        branch: "test-web1".into(),
        ..host.request(&test)
    };
    let pack = repo.pack(&test, &[&main.revision]);
    let Ok(Verdict::Accepted(accepted)) = host.ask(&request, Some(&pack)) else { panic!("not accepted") };
    assert_eq!(accepted.signer.as_deref(), Some("alice"));
    let store = host.store();
    assert_eq!(store.tip(Reference::Test), Some(test.clone()));
    assert_eq!(store.tip(Reference::Main), Some(main.revision));
    assert!(store.has(&test).unwrap());
    // Now the test becomes main: nothing needs to be fetched.
    host.accept(&test, None);
    host.fsck();
}

#[test]
fn an_older_test_tip_is_refused() {
    let (mut repo, mut host) = small();
    host.follow(&repo);
    let main = host.main.clone();
    repo.write("x", "tried");
    let test = repo.commit("Try x\n\nDeploy-To: test-web1\n");
    let previous = Some((main.revision.clone(), i64::MAX));
    let request = ImportRequest {
        against: Against::Test { main: main.clone(), previous },
        branch: "test-web1".into(),
        ..host.request(&test)
    };
    let Ok(Verdict::Refused(refusal)) = host.ask(&request, Some(&repo.pack(&test, &[&main.revision]))) else {
        panic!("not refused")
    };
    assert_eq!(refusal.code, Code::TestRollback);
}

#[test]
fn sha256_repositories_work() {
    let mut repo = Repo::with_format("sha256");
    let first = repo.change("flake.nix", "{ }\n".repeat(100));
    let mut host = Host::new(&first);
    host.follow(&repo);
    repo.change("flake.nix", "{ }\n".repeat(101));
    host.follow(&repo);
    host.fsck();
    assert_eq!(host.git(&["rev-parse", "--show-object-format"]), "sha256");
    let sha1 = Repo::new().change("a", "b");
    let refused = Store::open_or_create(host.state(), &sha1);
    assert!(matches!(refused, Err(StoreError::Format { .. })), "{refused:?}");
}

#[test]
fn root_may_tidy_up_with_git() {
    let (mut repo, mut host) = small();
    host.follow(&repo);
    repo.change("a", "b");
    host.follow(&repo);
    host.git(&["gc", "-q", "--prune=now"]);
    host.git(&["pack-refs", "--all", "--prune"]);
    host.git(&["repack", "-q", "-a", "-d", "--write-midx", "--write-bitmap-index"]);
    let store = host.store();
    assert!(!store.git_dir().join("refs/pullagent/main").exists(), "git moved the reference");
    assert_eq!(store.tip(Reference::Main), Some(repo.tip()));
    assert!(store.has(&repo.tip()).unwrap());
    repo.change("a", "c");
    host.follow(&repo);
    host.fsck();
}

#[test]
fn sixty_imports_stay_readable_and_are_packed_into_one() {
    let (mut repo, mut host) = small();
    host.follow(&repo);
    for n in 0..60 {
        repo.change("hosts/web1/default.nix", format!("{{ n = {n}; }}\n").repeat(50));
        host.follow(&repo);
    }
    assert_eq!(host.packs(), 61);
    assert!(host.store().needs_repack().unwrap());
    let all = |host: &Host| host.git(&["rev-list", "--objects", "refs/pullagent/main"]);
    let before = all(&host);
    host.repack().unwrap();
    assert_eq!((host.packs(), all(&host)), (1, before));
    host.fsck();
    host.store().verify_packs().unwrap();
    repo.change("a", "after");
    host.follow(&repo);
    host.repack().unwrap();
    assert_eq!(host.packs(), 2, "there is no need to repack two packs");
    host.fsck();
}

/// What a look finds must have come with the pack: that the store has it already proves nothing.
#[test]
fn a_look_finds_what_came_and_keeps_nothing() {
    let (mut repo, mut host) = small();
    host.follow(&repo);
    let before = repo.tip();
    repo.change("hosts/web3/default.nix", "{ n = 3; }\n".repeat(39) + "{ n = 4; }\n");
    host.follow(&repo);
    let tip = repo.tip();
    assert_eq!(host.store().parents(&tip).unwrap(), std::slice::from_ref(&before));
    let thin = repo.pack(&tip, &[&before]);
    assert_eq!(host.look(&tip, file(&thin)), Ok(()));
    assert!(thin.len() < repo.pack(&tip, &[]).len() / 2, "with the parents as haves it is small");

    let fail = |pack: &[u8]| host.look(&tip, file(pack)).unwrap_err().class;
    assert_eq!(fail(&repo.pack(&before, &[])), FailureClass::Incomplete, "another commit");
    assert_eq!(fail(&thin[..thin.len() - 1]), FailureClass::Incomplete, "cut");
    let mut bent = thin.clone();
    *bent.last_mut().unwrap() ^= 1;
    assert_eq!(fail(&bent), FailureClass::Incomplete, "another checksum");
    assert_eq!(fail(b""), FailureClass::Incomplete, "nothing at all");
    host.fsck();
}

/// A gateway that never comes to an end holds up nothing for ever.
#[test]
fn a_pack_without_an_end_is_given_up() {
    let (repo, mut host) = small();
    host.follow(&repo);
    host.limits.wall_secs = 1;
    let (pipe, mut endless) = std::io::pipe().unwrap();
    endless.write_all(&repo.pack(&repo.tip(), &[])[..20]).unwrap();
    let began = std::time::Instant::now();
    let given_up = host.look(&repo.tip(), pipe).unwrap_err();
    assert_eq!(given_up.class, FailureClass::Limit, "{given_up}");
    assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
}

fn file(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}
