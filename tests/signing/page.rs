//! Goal: docs/signing.md is right, from no key to a push that a host accepts. Method: its commands are taken from the page
//! and run in order by a newcomer, once with a key in a file and once with a GPG key; the host is the demo's, with the
//! real agent, Nix and a forge. Security keys can't be tried without hardware: what they sign is tried in tests/trust.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use pullagent::cli::demo::people::Change;
use pullagent::cli::demo::{Setup, Tempo, World};
use pullagent::model::Oid;
use pullagent::report::Status;

const SETTLE_MAX: Duration = Duration::from_secs(60);
const PAGE: &str = include_str!("../../docs/signing.md");
/// What a newcomer answers to questions for a passphrase.
const ASKPASS: &str = "#!/bin/sh\necho\n";
const GPG_CONF: &str = "batch\npinentry-mode loopback\npassphrase-file ";

/// A person who follows the page.
struct Newcomer {
    home: PathBuf,
    clone: PathBuf,
    ca_file: PathBuf,
}

/// Returns the commands below the heading `## {heading}…`, for the host's name of the demo. Blocks for one kind of key
/// (`sh gpg`) or place (`sh server`) are returned only if `kind` asks for them.
fn commands(heading: &str, kind: &str) -> Vec<String> {
    let begin = PAGE.find(&format!("\n## {heading}")).unwrap();
    let section = &PAGE[begin + 1..];
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    let wanted = |language: &str| language == "sh" || language.strip_prefix("sh ") == Some(kind);
    let found: Vec<String> = blocks
        .filter(|(language, _)| wanted(language))
        .map(|(_, text)| text.replace("web1", "demo"))
        .collect();
    found.into_iter().map(|text| text.replace("demo.json", "web1.json")).collect()
}

impl Newcomer {
    fn new(world: &World) -> Newcomer {
        let home = world.host.root.parent().unwrap().join("home/you");
        std::fs::create_dir_all(home.join(".ssh")).unwrap();
        let newcomer = Newcomer { clone: home.join("infra"), ca_file: world.remote.ca_file.clone(), home };
        std::os::unix::fs::symlink(&world.remote.account_file, newcomer.home.join(".netrc")).unwrap();
        let askpass = newcomer.home.join("askpass");
        std::fs::write(&askpass, ASKPASS).unwrap();
        let home = newcomer.home.clone();
        let url = &world.remote.url;
        newcomer.run(&home, &format!(
            "chmod +x askpass; git config --global user.name You; git config --global user.email you@example.org
             git clone -q '{url}' infra"
        ));
        newcomer
    }

    fn shell(&self, dir: &Path, script: &str) -> Output {
        let ours = Path::new(env!("CARGO_BIN_EXE_pullagent")).parent().unwrap();
        let path = format!("{}:{}", ours.display(), std::env::var("PATH").unwrap());
        let mut sh = Command::new("sh");
        sh.args(["-euc", script]).current_dir(dir).env_clear().env("PATH", path).env("HOME", &self.home);
        sh.env("SSH_ASKPASS", self.home.join("askpass")).env("SSH_ASKPASS_REQUIRE", "force");
        sh.env("GIT_SSL_CAINFO", &self.ca_file)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0");
        // Where a user has no session, gpg-agent has its sockets at home.
        sh.env("GIT_EDITOR", "false").env("LC_ALL", "C.UTF-8").stdin(std::process::Stdio::null());
        sh.output().unwrap()
    }

    fn run(&self, dir: &Path, script: &str) -> String {
        let output = self.shell(dir, script);
        assert!(output.status.success(), "{script}\n{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Follows a section in the clone; a GPG key's socket is where the page put it.
    fn follow(&self, heading: &str, kind: &str) {
        let socket =
            "SSH_AUTH_SOCK=$(gpgconf --list-dirs agent-ssh-socket 2>/dev/null || true); export SSH_AUTH_SOCK";
        let commands = commands(heading, kind);
        assert!(!commands.is_empty(), "'{heading}' has commands");
        for block in commands {
            self.run(&self.clone, &format!("{socket}\n{block}"));
        }
    }

    fn head(&self) -> Oid {
        self.run(&self.clone, "git rev-parse HEAD").trim().parse().unwrap()
    }
}

async fn settle(world: &mut World, what: &str, wanted: impl Fn(&Status) -> bool) {
    if let Err(e) = world.agent.await_status(SETTLE_MAX, wanted).await {
        panic!("{what}: {e:#}\nlog:\n{}", std::fs::read_to_string(&world.agent.log).unwrap_or_default());
    }
}

async fn deployed(world: &mut World, what: &str, tip: &Oid) {
    let runs = |s: &Status| s.running.as_ref().and_then(|r| r.revision.as_ref()) == Some(tip);
    settle(world, what, |s| runs(s) && !s.state.is_passing()).await;
}

/// Returns a world whose host is up and follows its forge.
async fn world(name: &str) -> World {
    let dir = std::env::temp_dir().join(format!("pa-{name}-{}", std::process::id()));
    let agent = PathBuf::from(env!("CARGO_BIN_EXE_pullagent"));
    pullagent::host::command::use_binary(&agent);
    let setup = Setup { dir, keep: false, own_store: true, agent, tempo: Tempo::FAST };
    let mut world = World::build(&setup).await.unwrap();
    world.agent.start().await.unwrap();
    let first = world.first.0.clone();
    deployed(&mut world, "the first system", &first).await;
    world
}

/// Alice, whom the hosts trust, lists the newcomer's key.
async fn list(world: &mut World, key: &str) {
    let mut machine: serde_json::Value =
        serde_json::from_str(&world.alice.read("machine.json").unwrap()).unwrap();
    machine["pullagent"]["trust"]["signers"]["you"] = serde_json::json!({ "keys": [key.trim()] });
    let text = machine.to_string();
    let change =
        Change { message: "trust: list you", write: &[("machine.json", &text)], remove: &[], signed: true };
    let tip = world.alice.commit(change).await.unwrap();
    world.alice.push("main").await.unwrap();
    deployed(world, "the new key", &tip).await;
    // On a host with systemd, the switch restarts an agent whose configuration changed.
    world.agent.stop().await.unwrap();
    world.agent.start().await.unwrap();
}

fn configuration(world: &World) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(world.host.root.join("etc/pullagent/config.json")).unwrap())
        .unwrap()
}

#[tokio::test]
async fn the_page_leads_to_an_accepted_push_with_a_key_in_a_file() {
    let mut world = world("page-file").await;
    let you = Newcomer::new(&world);
    you.follow("1. A key", "file");
    let key = you.run(&you.home, "ssh-keygen -y -f ~/.ssh/git_signing");
    assert!(commands("2. Tell", "").concat().contains("ssh-keygen -y -f ~/.ssh/git_signing"));
    list(&mut world, &key).await;
    std::fs::write(you.home.join("web1.json"), configuration(&world).to_string()).unwrap();
    you.run(&you.clone, "git pull -q --ff-only");
    you.follow("3. Check", "");
    deployed(&mut world, "the first push", &you.head()).await;

    let [test, main] = commands("4. Try", "").try_into().unwrap();
    you.run(&you.clone, &test);
    let tip = you.head();
    settle(&mut world, "the test branch", |s| {
        s.test.is_some() && s.running.as_ref().and_then(|r| r.revision.as_ref()) == Some(&tip)
    })
    .await;
    you.run(&you.clone, &main);
    deployed(&mut world, "the merged trial", &you.head()).await;
    you.follow("5. See", "");
    you.follow("Forges", "");
    deployed(&mut world, "the merged feature", &you.head()).await;
    you.follow("Renovate", "");
    deployed(&mut world, "the endorsement", &you.head()).await;
    world.tear_down().await.unwrap();
}

#[tokio::test]
async fn the_page_leads_to_an_accepted_push_with_a_gpg_key() {
    let mut world = world("page-gpg").await;
    let you = Newcomer::new(&world);
    you.run(&you.home, "mkdir -m 700 .gnupg");
    let passphrase = you.home.join(".gnupg/passphrase");
    std::fs::write(&passphrase, "\n").unwrap();
    std::fs::write(you.home.join(".gnupg/gpg.conf"), format!("{GPG_CONF}{}\n", passphrase.display()))
        .unwrap();
    std::fs::write(you.home.join(".gnupg/gpg-agent.conf"), "allow-loopback-pinentry\n").unwrap();
    you.run(&you.home, "gpg --quick-generate-key 'You <you@example.org>' ed25519 sign never");
    you.follow("1. A key", "gpg");
    let key = you.run(&you.home, "gpg --export-ssh-key you@example.org");
    assert!(commands("2. Tell", "").concat().contains("gpg --export-ssh-key you@example.org"));
    // The page's way for a file came first and was run, too; the last word on the key is the GPG one's.
    assert!(you.run(&you.home, "git config user.signingKey").starts_with("key::ssh-ed25519 "));
    list(&mut world, &key).await;
    std::fs::write(you.home.join("web1.json"), configuration(&world).to_string()).unwrap();
    you.run(&you.clone, "git pull -q --ff-only");
    you.follow("3. Check", "");
    deployed(&mut world, "the first push", &you.head()).await;
    you.run(&you.home, "gpgconf --kill gpg-agent");
    world.tear_down().await.unwrap();
}

/// The server's recipe needs a bare repository and no host.
#[test]
fn the_recipe_for_a_server_refuses_what_hosts_would_refuse() {
    let desk = super::desk::Desk::new();
    desk.sh("git init -q --bare ~/server; git remote add origin ~/server; git push -q origin main");
    desk.sh("cp ~/web1.json ~/server/web1.json");
    let [recipe] = commands("On your own", "server").try_into().unwrap();
    desk.sh(&format!("cd ~/server; {recipe}"));
    desk.git(&["commit", "-q", "--no-gpg-sign", "--allow-empty", "-m", "Forgot"]);
    let ran = desk.try_git(&["push", "-q", "origin", "main"]);
    assert!(ran.code != 0 && ran.err.contains("unsigned"), "{ran:?}");
    desk.git(&["commit", "-q", "--amend", "--allow-empty", "-m", "Signed"]);
    desk.git(&["push", "-q", "origin", "main"]);
}
