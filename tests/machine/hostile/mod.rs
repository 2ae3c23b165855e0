//! Goal: whoever takes over the gateway gains nothing but delay. Method: on a host that runs real pullagent, a hostile
//! program takes the gateway's place, at its socket and under its user in its sandbox, and makes attempts, one after the
//! other. After each one the host runs what it ran, and the agent that ran; after all of them the real gateway comes back
//! and deploys the next commit.

mod gateway;

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use gateway::{Hostile, bytes, stalled};
use pullagent::wire::{Class, FRAME_BYTES_MAX, Notice};

use crate::common::git;
use crate::common::machine::{GATEWAY, Managed, RECONCILER, Signer, System, Via};
use crate::sandbox::{self, Attempt};

/// For so long an attempt may have an effect before the host is looked at.
const EFFECT: Duration = Duration::from_secs(1);
/// How long the hostile program floods.
const FLOOD: Duration = Duration::from_secs(3);

/// Keeps the real gateway down (systemd.unit(5)).
const DEAD: &str = "/run/systemd/system.control/pullagent-gateway.service.d";

/// The host, what it must go on running, and the agent's process.
struct Victim {
    host: Managed,
    socket: PathBuf,
    toplevel: String,
    revision: String,
    agent: String,
}

impl Victim {
    /// Returns a host that has deployed one commit after its first, so that there is something to go back to.
    fn boot() -> Option<Victim> {
        let host = Managed::boot(Via::Https)?;
        let revision = host.push(&host.system.clone().label("two").etc("greeting", "two\n"));
        host.wait_for_status("in-sync", &revision);
        // systemd would start a gateway again that is merely stopped.
        host.machine.write_file(&format!("{DEAD}/dead.conf"), "[Unit]\nConditionPathExists=/no/gateway\n");
        host.machine.check(&format!("systemctl daemon-reload; systemctl stop {GATEWAY}"));
        let toplevel = host.machine.view().running.unwrap();
        let agent = host.machine.property(RECONCILER, "MainPID");
        let socket = host.machine.outside("/run/pullagent/gateway.sock");
        Some(Victim { host, socket, toplevel, revision, agent })
    }

    /// The host runs what it ran, and so it will after a boot; the agent is the same, and speaks.
    fn is_unharmed(&self, attempt: &str) {
        let machine = &self.host.machine;
        let view = machine.view();
        let expected = Some(self.toplevel.clone());
        assert_eq!([&view.running, &view.profile, &view.boot_default], [&expected; 3], "{attempt}");
        assert_eq!(view.failed, Vec::<String>::new(), "{attempt}");
        assert_eq!(machine.property(RECONCILER, "MainPID"), self.agent, "{attempt}: the agent was restarted");
        let begun = Instant::now();
        let orders =
            "curl -sf --max-time 10 --unix-socket /run/pullagent/control.sock http://localhost/v1/status";
        assert!(machine.succeeds(orders), "{attempt}: the agent does not answer");
        println!(
            "test host: hostile gateway: {attempt}: unharmed, answers in {:.2} s",
            begun.elapsed().as_secs_f32()
        );
    }

    /// Makes a commit that the forge does not call `main`: on top of `parent`, signed or not.
    fn commit(&self, branch: &str, parent: &str, system: &System, signer: Option<&Signer>) -> String {
        self.host.repo.git(&["update-ref", &format!("refs/heads/{branch}"), parent]);
        self.host.machine.forge().commit(&self.host.repo, branch, system, signer)
    }

    /// Returns a pack with a commit, and what it needs beyond another.
    fn pack(&self, commit: &str, have: &str) -> Vec<u8> {
        let mut child = git::command(&self.host.repo.path)
            .args(["pack-objects", "--revs", "--stdout", "-q"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let asked = format!("{commit}\n^{have}\n");
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), asked.as_bytes()).unwrap();
        child.wait_with_output().unwrap().stdout
    }
}

#[test]
fn a_hostile_gateway_gains_nothing_but_delay() {
    let Some(victim) = Victim::boot() else { return };
    offers_what_nobody_may_deploy(&victim);
    goes_back(&victim);
    hands_over_rubbish(&victim);
    talks_nonsense(&victim);
    floods(&victim);
    let (_line, _pipe) = stalls(&victim);
    as_its_user(&victim);

    // The real gateway comes back, while the hostile one still holds what it has.
    let host = &victim.host;
    host.machine.check(&format!("rm -r {DEAD}; systemctl daemon-reload; systemctl start {GATEWAY}"));
    let begun = Instant::now();
    let three = host.push(&host.system.clone().label("three").etc("greeting", "three\n"));
    host.wait_for_status("in-sync", &three);
    println!("test host: hostile gateway: deployed again after {:.2} s", begun.elapsed().as_secs_f32());
    assert_eq!(host.machine.read_file("/etc/greeting").as_deref(), Some("three\n"));
    assert_eq!(host.machine.read_file("/etc/evil"), None);
}

/// A system that says that it runs.
fn evil(victim: &Victim, label: &str) -> System {
    victim.host.system.clone().label(label).etc("evil", label)
}

/// It claims that `main` or the test branch is at commits that nobody signed who may.
fn offers_what_nobody_may_deploy(victim: &Victim) {
    let mallory = victim.host.machine.forge().signer("mallory");
    for (attempt, branch, signer) in [
        ("offer an unsigned commit", "main", None),
        ("offer a stranger's commit", "main", Some(&mallory)),
        ("offer an unsigned commit to be tested", "test-web1", None),
    ] {
        let hostile = Hostile::connect(&victim.socket);
        let name = attempt.replace(' ', "-");
        let commit = victim.commit(&name, &victim.revision, &evil(victim, &name), signer);
        hostile.claim(branch, &commit);
        hostile.answer(hostile.wanted(&commit), bytes(victim.pack(&commit, &victim.revision)));
        let explain = format!("{}/bin/pullagent explain {commit}", victim.host.package);
        victim.host.machine.wait_for(&format!("{explain} | grep -Eq 'unsigned|unknown-key'"));
        victim.is_unharmed(attempt);
    }
}

/// It claims that `main` is where it was before, or nowhere.
fn goes_back(victim: &Victim) {
    let hostile = Hostile::connect(&victim.socket);
    hostile.claim("main", &victim.host.revision);
    std::thread::sleep(EFFECT);
    victim.is_unharmed("go back to an older commit");
    hostile.tell(&Notice::Seen { source: "origin".into(), refs: vec![], old: None }).unwrap();
    std::thread::sleep(EFFECT);
    victim.is_unharmed("delete the branch");
}

/// It claims that `main` is at a commit that would be deployed, and hands over something else than its pack.
fn hands_over_rubbish(victim: &Victim) {
    type Spoil = fn(Vec<u8>) -> Vec<u8>;
    let rubbish: [(&str, Spoil); 5] = [
        ("hand over noise", |_| vec![0xa5; 1 << 20]),
        ("hand over nothing", |_| vec![]),
        ("hand over half a pack", |pack| pack[..pack.len() / 2].to_vec()),
        ("hand over a changed pack", |mut pack| {
            let middle = pack.len() / 2;
            pack[middle] ^= 1;
            pack
        }),
        ("hand over a pack of four billion objects", |mut pack| {
            pack[8..12].fill(0xff);
            pack.resize(1 << 20, 0x55);
            pack
        }),
    ];
    for (attempt, spoil) in rubbish {
        let (hostile, want, pack) = asked_for_a_good_one(victim, attempt);
        hostile.answer(want, bytes(spoil(pack)));
        std::thread::sleep(EFFECT);
        victim.is_unharmed(attempt);
    }
    let (hostile, want, _) = asked_for_a_good_one(victim, "hand over another commit's pack");
    hostile.answer(want, bytes(victim.pack(&victim.revision, &victim.host.revision)));
    std::thread::sleep(EFFECT);
    victim.is_unharmed("hand over another commit's pack");
    for (attempt, file) in [
        ("hand over an endless file", File::open("/dev/zero").unwrap()),
        ("hand over a directory", File::open("/").unwrap()),
        ("hand over a file that can't be read", File::options().write(true).open("/dev/null").unwrap()),
    ] {
        let (hostile, want, _) = asked_for_a_good_one(victim, attempt);
        hostile.answer(want, file);
        std::thread::sleep(EFFECT);
        victim.is_unharmed(attempt);
    }
}

/// Claims a commit that the reconciler wants, a new one for each attempt, because it is slow to ask again for one that
/// failed. Returns the number of its request, and the true answer.
fn asked_for_a_good_one(victim: &Victim, attempt: &str) -> (Hostile, u64, Vec<u8>) {
    let name = attempt.replace([' ', '\''], "-");
    let commit = victim.commit(&name, &victim.revision, &evil(victim, &name), Some(&victim.host.alice));
    let hostile = Hostile::connect(&victim.socket);
    hostile.claim("main", &commit);
    let want = hostile.wanted(&commit);
    (hostile, want, victim.pack(&commit, &victim.revision))
}

/// It says what is no word of the wire. Whoever does is hung up on.
fn talks_nonsense(victim: &Victim) {
    let failed = |text: &str| {
        format!(r#"{{"failed":{{"source":"origin","want":null,"class":"dns","text":"{text}"}}}}"#)
    };
    let refs = vec![format!(r#"{{"name":"refs/heads/main","oid":"{}"}}"#, victim.revision); 65].join(",");
    let packets: [(&str, Vec<u8>); 8] = [
        ("say what is no JSON", b"deploy /nix/store/evil".to_vec()),
        ("say an unknown word", br#"{"deploy":{"path":"/nix/store/evil"}}"#.to_vec()),
        (
            "say a word with an argument too many",
            br#"{"seen":{"source":"origin","refs":[],"run":"id"}}"#.to_vec(),
        ),
        ("say more than fits", vec![b' '; FRAME_BYTES_MAX + 1]),
        (
            "say more refs than there may be",
            format!(r#"{{"seen":{{"source":"origin","refs":[{refs}]}}}}"#).into_bytes(),
        ),
        ("draw on the operator's screen", failed(r"\u001b[2Jall is well").into_bytes()),
        ("tell a long story", failed(&"x".repeat(1000)).into_bytes()),
        ("answer without a file", br#"{"pack":{"want":1}}"#.to_vec()),
    ];
    for (attempt, packet) in packets {
        let hostile = Hostile::connect(&victim.socket);
        hostile.say(&packet).unwrap();
        assert!(hostile.is_cut_off(), "{attempt}: the reconciler hangs up");
        victim.is_unharmed(attempt);
    }
    let hostile = Hostile::connect(&victim.socket);
    let null = File::open("/dev/null").unwrap();
    hostile.hand_over(br#"{"pack":{"want":1}}"#, &[null.as_fd(); 8]).unwrap();
    assert!(hostile.is_cut_off(), "eight files: the reconciler hangs up");
    victim.is_unharmed("hand over more files than belong there");
}

/// It says true words, but more than anybody can bear, and connects as often as it can.
fn floods(victim: &Victim) {
    let hostile = Hostile::connect(&victim.socket);
    let commits = ["1", "2", "3"].map(|digit| digit.repeat(40));
    let failed =
        Notice::Failed { source: "origin".into(), want: None, class: Class::Dns, text: "x".repeat(200) };
    let (begun, mut said) = (Instant::now(), 0);
    while begun.elapsed() < FLOOD {
        let refs = commits.iter().map(|commit| pullagent::wire::Ref {
            name: "refs/heads/main".into(),
            oid: commit.parse().unwrap(),
        });
        for notice in
            [Notice::Seen { source: "origin".into(), refs: refs.collect(), old: None }, failed.clone()]
        {
            said += u32::from(hostile.tell(&notice).is_ok());
        }
    }
    println!("test host: hostile gateway: {said} words in {FLOOD:?}");
    victim.is_unharmed("flood with words");
    let begun = Instant::now();
    while begun.elapsed() < FLOOD {
        drop(Hostile::knock(&victim.socket));
    }
    victim.is_unharmed("flood with connections");
    let memory = victim.host.machine.check(&format!("grep VmHWM /proc/{}/status", victim.agent));
    println!("test host: hostile gateway: the reconciler's peak is {memory}");
}

/// It promises and does not keep. Returns what it holds on to.
fn stalls(victim: &Victim) -> (Hostile, std::os::fd::OwnedFd) {
    let silent = Hostile::connect(&victim.socket);
    std::thread::sleep(EFFECT);
    victim.is_unharmed("say nothing");
    drop(silent);
    let (silent, _, _) = asked_for_a_good_one(victim, "leave a request without an answer");
    std::thread::sleep(EFFECT);
    victim.is_unharmed("leave a request without an answer");
    drop(silent);
    let (hostile, want, pack) = asked_for_a_good_one(victim, "begin with a pack and never end");
    let (read, held) = stalled(&pack[..pack.len() / 2]);
    hostile.answer(want, read);
    std::thread::sleep(EFFECT);
    victim.is_unharmed("begin with a pack and never end");
    (hostile, held)
}

/// What it tries as its user, in its sandbox.
const AS_ITS_USER: &[Attempt] = &[
    ("stop the agent", "systemctl stop pullagent.service"),
    ("stop it by a signal", "kill $(cat /srv/agent.pid)"),
    ("kill it", "kill -9 $(cat /srv/agent.pid)"),
    ("remove its socket", "rm -f /run/pullagent/gateway.sock && ! test -e /run/pullagent/gateway.sock"),
    ("put another socket in its place", "mv /run/pullagent/gateway.sock /run/pullagent/old"),
    (
        "give orders",
        "perl -MSocket -e 'socket(S, AF_UNIX, SOCK_STREAM, 0) && \
         connect(S, pack_sockaddr_un(\"/run/pullagent/control.sock\")) or die $!'",
    ),
    ("change the configuration", "touch /etc/pullagent/config.json"),
    ("read the journal of the agent", "cat /var/lib/pullagent/journal"),
    ("forge a decision of the guard", "mkdir -p /var/lib/pullagent/guard/x"),
    ("read the host's secrets", "cat /etc/secrets/token"),
    ("switch to the older system", "/nix/var/nix/profiles/system-1-link/bin/switch-to-configuration test"),
    ("make the older system the default", "ln -sfn system-1-link /nix/var/nix/profiles/system"),
    ("run something as root", "systemd-run --wait id"),
    ("reboot", "systemctl reboot"),
];

/// It tries what a program can that has the gateway's user and sandbox, and no socket.
fn as_its_user(victim: &Victim) {
    let machine = &victim.host.machine;
    machine.write_file("/srv/agent.pid", &victim.agent);
    // A unit like the gateway's own but for its program.
    machine.check(&format!("cp -L /etc/systemd/system/{GATEWAY} /run/systemd/system/hostile.service"));
    machine.write_file(
        "/run/systemd/system/hostile.service.d/program.conf",
        "[Service]\nType=oneshot\nExecStart=\nExecStart=/bin/sh /srv/run\nRestart=no\nWatchdogSec=0\n\
         StandardOutput=truncate:/srv/said\n",
    );
    machine.check("chmod 755 /srv; systemctl daemon-reload");
    let done = sandbox::all(machine, "the gateway", false, &[AS_ITS_USER], "systemctl start hostile.service");
    assert!(done.is_empty(), "{done:#?}");
    for (attempt, _) in AS_ITS_USER {
        println!("test host: hostile gateway: {attempt}: refused");
    }
    victim.is_unharmed("act as its user");
    machine.check("rm -r /run/systemd/system/hostile.service*; systemctl daemon-reload");
}
