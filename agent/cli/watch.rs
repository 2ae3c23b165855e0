//! `pullagent status --watch`: the status again whenever it changes. A running agent tells its changes on the control
//! socket; whoever may not open that hears of the file that everybody may read.

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::Options;
use super::exit::{Exit, Fail};
use super::output;
use super::status::{self, Args};
use crate::control::client::{self, Changes, ClientError};
use crate::host::clock;
use crate::host::notice::Notice;
use crate::report::{self, Life, Status};

/// Moves the cursor home and clears the screen below it.
const CLEAR: &str = "\u{1b}[H\u{1b}[2J";
/// How often a page on a terminal is drawn again, for its times pass.
const REDRAW: Duration = Duration::from_secs(1);
/// How often it is seen elsewhere whether the agent still lives.
const LOOK: Duration = Duration::from_secs(15);
/// The pause before an agent that is gone is called again; doubled each time.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
/// No pause is longer.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Why the watching goes no further.
enum Stop {
    /// Nobody reads what is printed.
    Unread,
    /// It can't be printed or read.
    Failed(Fail),
}

impl From<Fail> for Stop {
    fn from(fail: Fail) -> Stop {
        Stop::Failed(fail)
    }
}

/// Prints the status whenever it changes, until Ctrl-C.
pub fn run(options: &Options, args: &Args) -> Result<Exit, Fail> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("failed to start the runtime")?;
    let stopped = runtime.block_on(async {
        let mut screen = Screen::new(options, args);
        tokio::select! {
            stop = watch(&options.root, &mut screen) => stop,
            _ = tokio::signal::ctrl_c() => Stop::Unread,
        }
    });
    match stopped {
        Stop::Unread => Ok(Exit::Ok),
        Stop::Failed(fail) => Err(fail),
    }
}

/// Listens to one agent after the other.
async fn watch(root: &Path, screen: &mut Screen<'_>) -> Stop {
    let mut pause = PAUSE_FIRST;
    loop {
        let went_on = match client::listen(root).await {
            Ok(changes) => {
                pause = PAUSE_FIRST;
                screen.follow(changes).await
            }
            // Not for this user, or an agent that has no room for us: there is still the file.
            Err(ClientError::NotPermitted(_) | ClientError::Denied { .. } | ClientError::Refused { .. }) => {
                return match screen.follow_file(root).await {
                    Ok(never) => match never {},
                    Err(stop) => stop,
                };
            }
            Err(
                ClientError::Unreachable { .. }
                | ClientError::Setup(_)
                | ClientError::Talk(_)
                | ClientError::Answer(_)
                | ClientError::TooLong
                | ClientError::EventTooLong
                | ClientError::Slow,
            ) => screen.miss(root),
        };
        if let Err(stop) = went_on {
            return stop;
        }
        if screen.misses {
            let waited = screen.draw_during(tokio::time::sleep(pause)).await;
            if let Err(stop) = waited {
                return stop;
            }
            pause = (pause * 2).min(PAUSE_MAX);
        } else {
            // The stream has ended and the agent may still be there: it is called at once, and missed if it does not answer.
            screen.misses = true;
        }
    }
}

/// What is shown, and how.
struct Screen<'a> {
    options: &'a Options,
    args: &'a Args,
    /// Whether the page is drawn in place.
    redraws: bool,
    status: Option<Status>,
    /// What was printed last, where it is not drawn in place.
    shown: Option<(Status, Life)>,
    /// Whether the agent did not answer when it was called last.
    misses: bool,
    /// Whether that was told.
    told: bool,
}

impl<'a> Screen<'a> {
    fn new(options: &'a Options, args: &'a Args) -> Screen<'a> {
        let redraws = std::io::stdout().is_terminal() && !options.json && !args.oneline();
        Screen { options, args, redraws, status: None, shown: None, misses: false, told: false }
    }

    /// Shows what an agent tells until it ends or is silent.
    async fn follow(&mut self, mut changes: Changes) -> Result<(), Stop> {
        while let Ok(Some(status)) = self.draw_during(changes.next()).await? {
            self.hear(&status);
            self.show(status)?;
        }
        Ok(())
    }

    /// Says that an agent is back, or is another one.
    fn hear(&mut self, status: &Status) {
        let before = self.status.as_ref().map(|s| (s.agent.pid, s.agent.started_ticks));
        let is_new = before.is_some_and(|before| before != (status.agent.pid, status.agent.started_ticks));
        if std::mem::take(&mut self.told) {
            self.tell("pullagent is back");
        } else if is_new {
            self.tell("pullagent was restarted");
        }
        self.misses = false;
    }

    /// Shows what an agent that does not answer knew last.
    fn miss(&mut self, root: &Path) -> Result<(), Stop> {
        self.misses = true;
        self.show(report::read_status(root).map_err(Fail::from)?)?;
        if !std::mem::replace(&mut self.told, true) {
            self.tell("pullagent does not answer; waiting for it");
        }
        Ok(())
    }

    /// Shows what the file says whenever it is replaced.
    async fn follow_file(&mut self, root: &Path) -> Result<std::convert::Infallible, Stop> {
        let path = report::status_path(root);
        let cannot = |e: std::io::Error| {
            Stop::Failed(
                anyhow::Error::from(e).context(format!("failed to watch '{}'", path.display())).into(),
            )
        };
        // Watched first and read then, so that nothing gets lost between.
        let mut notice = Notice::of(&path).map_err(cannot)?;
        loop {
            let status = report::read_status(root).map_err(Fail::from)?;
            self.hear(&status);
            self.show(status)?;
            self.draw_during(notice.changed()).await?.map_err(cannot)?;
        }
    }

    fn show(&mut self, status: Status) -> Result<(), Stop> {
        self.status = Some(status);
        self.draw()
    }

    /// Waits, and draws again meanwhile: times pass, and an agent may die or hang.
    async fn draw_during<T>(&mut self, wait: impl Future<Output = T>) -> Result<T, Stop> {
        let mut wait = std::pin::pin!(wait);
        let every = if self.redraws { REDRAW } else { LOOK };
        loop {
            match tokio::time::timeout(every, &mut wait).await {
                Ok(done) => return Ok(done),
                Err(_) => self.draw()?,
            }
        }
    }

    /// On a terminal the page is drawn in place; elsewhere what is new is printed below.
    fn draw(&mut self) -> Result<(), Stop> {
        let Some(status) = &self.status else { return Ok(()) };
        let now = clock::unix_secs();
        let life = report::life(&status.agent, now);
        let seen = (lasting(status), life);
        if !self.redraws && self.shown.as_ref() == Some(&seen) {
            return Ok(());
        }
        let page = status::render(self.options, self.args, status, life, now)?;
        let is_read = if self.redraws {
            output::print_on(&format!("{CLEAR}{page}"))?
        } else {
            let gap = if self.shown.is_some() && self.is_page() { "\n" } else { "" };
            output::print_on(&format!("{gap}{page}"))?
        };
        self.shown = Some(seen);
        if is_read { Ok(()) } else { Err(Stop::Unread) }
    }

    fn is_page(&self) -> bool {
        !self.options.json && !self.args.oneline()
    }

    fn tell(&self, text: &str) {
        output::tell(self.options, text);
    }
}

/// A status without what every poll changes, which is no news.
fn lasting(status: &Status) -> Status {
    let mut lasting = Status { agent: report::Agent::default(), ..status.clone() };
    lasting.counters = report::Counters::default();
    for remote in &mut lasting.remotes {
        remote.checked_at = None;
        if let Some(trouble) = &mut remote.trouble {
            (trouble.tries, trouble.at) = (0, 0);
        }
    }
    lasting
}
