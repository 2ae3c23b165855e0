//! `pullagent demo`: the whole product in a throw-away directory, with real programs. It uses the agent as a
//! stranger does, by its command line, and believes only what it sees from the outside.

pub mod agent;
pub mod flake;
pub mod host;
mod leftovers;
mod narrator;
pub mod people;
pub mod remote;
pub mod store;
mod story;
mod tools;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anstream::ColorChoice;
use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

pub use flake::Tempo;
pub use world::{Setup, World};

use super::{Options, output};
use narrator::Narrator;
use remote::CA_FILE;
use story::Story;

/// What a shell reports for a program that Ctrl-C ended.
const EXIT_INTERRUPTED: u8 = 130;

/// Shows what pullagent does, on a host that is a throw-away directory.
///
/// Makes keys, a Git remote over HTTPS, a small flake and a host, starts the agent and pushes good and bad commits.
/// Nothing outside of the directory is touched.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Keep the directory, to look around in it
    #[arg(long)]
    keep: bool,
    /// Stay afterwards until Ctrl-C, to push to the repository and ask the agent from another terminal
    #[arg(long)]
    stay: bool,
    /// The directory to create for the demo; a new one among the temporary files unless given
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Prove health for a shorter time
    #[arg(long)]
    fast: bool,
}

/// Runs the demo; succeeds only if every step ended as promised.
///
/// # Errors
/// If the world cannot be built, or at the first step that does not end as promised.
pub fn run(options: &Options, args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("failed to start the runtime")?.block_on(until_interrupted(options, args))
}

async fn until_interrupted(options: &Options, args: &Args) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for Ctrl-C")?;
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for the end signal")?;
    // Dropping the show ends its processes and removes its directory.
    tokio::select! {
        shown = show(options, args) => shown.map(|()| ExitCode::SUCCESS),
        _ = interrupt.recv() => Ok(ExitCode::from(EXIT_INTERRUPTED)),
        _ = terminate.recv() => Ok(ExitCode::from(EXIT_INTERRUPTED)),
    }
}

async fn show(options: &Options, args: &Args) -> anyhow::Result<()> {
    let color = output::style(options).color;
    if color { ColorChoice::Always } else { ColorChoice::Never }.write_global();
    let setup = setup(args)?;
    let narrator = Narrator::new(!options.quiet);
    let begun = Instant::now();
    narrator.say(&format!("A host that follows a Git repository, in '{}'", setup.dir.display()));
    let world = World::build(&setup).await?;
    introduce(&narrator, &world, begun.elapsed());

    let mut story = Story::begin(world, narrator).await?;
    let told = story.tell().await;
    let closing_words = story.closing_words(color).await;
    if let Err(wrong) = told {
        // Whatever they can still say; what went wrong is more important than why they cannot.
        let closing_words = closing_words.unwrap_or_default();
        anstream::eprintln!("\n{closing_words}\nThe agent's log ends:\n{}\n", story.last_words());
        return Err(wrong.context("the demo did not go as promised"));
    }
    let closing_words = closing_words?;
    if args.stay {
        anstream::println!("\n{closing_words}\n{}", invitation(&setup));
        std::future::pending::<()>().await;
    }
    let narrator = story.end().await?;
    narrator.say(&format!("\n{closing_words}"));
    let (steps, secs) = (narrator.steps(), begun.elapsed().as_secs_f32());
    narrator.say(&format!("All {steps} steps ended as promised, in {secs:.0} s."));
    if args.keep {
        let dir = setup.dir.display();
        narrator.say(&format!("Everything is still in '{dir}'; the agent's log is '{dir}/agent.log'."));
    }
    Ok(())
}

/// How to go on by hand: commands for another terminal.
fn invitation(setup: &Setup) -> String {
    let (dir, agent) = (setup.dir.display(), setup.agent.display());
    format!(
        "All steps ended as promised. The host goes on following the repository until Ctrl-C. In another terminal:\n\n  \
         export HOME={dir}/home GIT_SSL_CAINFO={dir}/forge/{CA_FILE} NO_PROXY=127.0.0.1\n  \
         export PULLAGENT_ROOT={dir}/host; cd {dir}/home/alice\n  \
         git commit --allow-empty --gpg-sign --message 'try something' && git push origin HEAD:main\n  \
         {agent} status --watch"
    )
}

fn setup(args: &Args) -> anyhow::Result<Setup> {
    let unused = || {
        let name: String = std::iter::repeat_with(fastrand::alphanumeric).take(6).collect();
        std::env::temp_dir().join(format!("pullagent-demo-{name}"))
    };
    Ok(Setup {
        dir: args.dir.clone().unwrap_or_else(unused),
        keep: args.keep,
        own_store: true,
        agent: std::env::current_exe().context("failed to find this program's own file")?,
        tempo: if args.fast { Tempo::FAST } else { Tempo::SHOWN },
    })
}

fn introduce(narrator: &Narrator, world: &World, took: Duration) {
    let store = if world.store.private { "one of its own" } else { "the machine's" };
    narrator.line("store", &format!("{store}: {}", world.store.dir.display()));
    narrator.line(
        "forge",
        &format!("{}  (HTTPS, its own authority, one account for everybody)", world.remote.url),
    );
    narrator.line("host", &format!("generation 1 runs and serves http://{}/", world.host.address));
    narrator.line("trusts", "the key of alice, and nothing else");
    narrator.line("", &format!("ready after {:.1} s", took.as_secs_f32()));
}
